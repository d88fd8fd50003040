"""Selections: which particles build the next map, with which weight and contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.statistics import Statistics

#: ``--keep auto``
AUTO = "auto"


@dataclass
class Attenuation:
    """What small errors of the pose leave of each particle's signal at each frequency: a mixture of few profiles.

    profile : (components, shells) float64, the fraction h of the amplitude that is left
    contrast, contrast2 : (m, components) float64, the probability of the component times the expected s and s² of the
        particle in it, over the fraction of the signal that the particle's weight holds already.
    """

    profile: np.ndarray
    contrast: np.ndarray
    contrast2: np.ndarray

    def expected(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """E[s·h] and E[s²·h²] of some particles, (b, shells) float64 each."""
        return self._mean(self.contrast[rows], self.profile), self._mean(self.contrast2[rows], self.profile**2)

    @staticmethod
    def _mean(share: np.ndarray, profile: np.ndarray) -> np.ndarray:
        # not by a matrix product, whose last bits depend on how many particles there are
        return sum((share[:, c, None] * profile[c] for c in range(len(profile))),
                   np.zeros((len(share), profile.shape[1])))


@dataclass
class Selection:
    """What a rank decided about its particles.

    weight : (m,) float64
    kept : (m,) bool
    distance : (m,) float64, what was sorted, smaller is better · contrast,
    contrast2 : (m,) float64, expected s and s² of each image, 1 where the loss does not know
    posterior : (m,) float64, probability that the pose is correct, NaN where the loss does not know
    attenuation : Attenuation, or None where a particle's contrast is the same at all frequencies
    contradicts : (m,) bool, images that contradict the map (contradiction.py)
    small : (m,) bool, poses with small errors, not kept but counting in part
    centre_, scale_ : typical norm and its spread over all ranks, on which the loss was calibrated
    keep_ : fraction of the valid of all ranks that is kept
    mixture_ : PoseMixture or None
    n_iter_ : steps of EM that it took, 0 without.
    """

    weight: np.ndarray
    kept: np.ndarray
    distance: np.ndarray
    contrast: np.ndarray = None
    contrast2: np.ndarray = None
    posterior: np.ndarray = None
    attenuation: Attenuation | None = field(default=None, repr=False)
    contradicts: np.ndarray = None
    small: np.ndarray = None
    centre_: float = math.nan
    scale_: float = math.nan
    keep_: float = math.nan
    mixture_: PoseMixture | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        m = np.size(self.weight)  # of weights that are none, too, which are refused later
        self.contrast = np.ones(m) if self.contrast is None else self.contrast
        self.contrast2 = np.ones(m) if self.contrast2 is None else self.contrast2
        self.posterior = np.full(m, np.nan) if self.posterior is None else self.posterior
        self.contradicts = np.zeros(m, bool) if self.contradicts is None else self.contradicts
        self.small = np.zeros(m, bool) if self.small is None else self.small

    @property
    def n_iter_(self) -> int:
        return 0 if self.mixture_ is None else self.mixture_.n_iter_

    def expected_contrast(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """E[s] and E[s²] of some particles, (b,) float64 each, or (b, shells) where they depend on frequency."""
        if self.attenuation is None:
            return self.contrast[rows], self.contrast2[rows]
        return self.attenuation.expected(rows)

    def replaced(self, rows: np.ndarray, chosen: Selection) -> Selection:
        """This one, and of some rows, (m,) bool, what another has decided."""
        names = ("weight", "kept", "distance", "contrast", "contradicts")
        return replace(self, **{name: np.where(rows, getattr(chosen, name), getattr(self, name)) for name in names})

    def invert(self, rows: np.ndarray) -> None:
        """Let the images of some rows, (m,) bool, count with the other sign."""
        self.contrast = np.where(rows, -self.contrast, self.contrast)
        if self.attenuation is not None:
            self.attenuation.contrast[rows] *= -1

    @classmethod
    def of_all(cls, valid: np.ndarray, weight: np.ndarray | None = None) -> Selection:
        """All valid particles, with weight 1 or the given one."""
        weight = np.ones(len(valid)) if weight is None else weight
        return cls(np.where(valid, weight, 0.0), valid.copy(), np.zeros(len(valid)))


@dataclass
class RandomPoses:
    """Statistics (of the local `rows` only) of some particles at random orientations: the scores of wrong poses."""

    rows: np.ndarray
    statistics: Statistics


def keep_count(keep: float, m: int) -> int:
    """⌈q·m⌉, with the rounding of q·m forgiven (0.7 · 10 is 7, not 8)."""
    return max(1, math.ceil(keep * m - 1e-9 * m))
