"""Resolutions of nested selections from all of their FSC curves together,
and which selection is reported to be the finest.

Where one curve falls below 0.143 is decided by the noise of the two shells beside that place, and steeply falling
curves of very different maps cross there within a hundredth of an Å. But the curves of a path are of one object seen by
the same microscope: a selection changes the spectral signal-to-noise ratio of its half maps by a factor, its effective
number of particles, and by a B-factor, the sharpness of what is in it (Rosenthal & Henderson 2003, J. Mol. Biol. 333,
721, eq. 9 ff.):

    ln SNR_q(s) = g(s) + a_q − b_q (s/S)²,        FSC_q = SNR_q / (1 + SNR_q)

g(s), one number a shell, is shared by all selections and by the random discards; a and b are of each. All are fitted by
weighted least squares to all curves at once. The resolution of a step is where its fitted curve, made monotone, falls
below the threshold. Noise that selections share, in g, is not in their differences; how large the differences' errors
are, is found by leaving out groups of neighbouring shells (the grouped jackknife; Efron & Tibshirani 1993, ch. 11; of
neighbours, as noise is alike there: Künsch 1989, Ann. Stat. 17, 1217).

The finest step is chosen by the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, sect.
3.4.3): the one with the most particles of those that are within one standard error of the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpirecon.validate.fsc import crossing, shell_count

#: thresholds that steps are compared at: the next where the best step's curve does not fall so far
_THRESHOLDS = (0.143, 0.5)

#: error of the model itself: no shell counts for more than this says
_MODEL_ERROR = 0.02

#: standard deviation of a and b before anything is known: where curves are noise they stay near 0
_PRIOR = 3.0

#: of ln SNR, at most, either way
_LARGEST = 8.0

#: groups of shells that are left out, one after another
_GROUPS = 24

#: steps of the fit at most, and by how much no FSC changes any more at its end
_ROUNDS, _TOLERANCE = 60, 1e-4


@dataclass(frozen=True)
class FittedResolutions:
    """Resolutions of the steps of a path and of random discards, from all of their curves.

    steps, random : Å where the fitted curve falls below 0.143, None where it never does
    errors : for each step, Å, the standard error of its difference from the finest
    best : number of the step that is reported to be the finest, None where all curves reach Nyquist
    threshold : at which that was decided
    """

    steps: list[float | None]
    random: list[float | None]
    errors: list[float | None]
    best: int | None
    threshold: float | None

    def added_to(self, steps: Sequence[dict], random: Sequence[dict]) -> tuple[list[dict], list[dict]]:
        """Records with ``resolution_fitted`` and, of steps, ``resolution_error``."""
        return (
            [{**step, "resolution_fitted": at, "resolution_error": error} for step, at,
             error in zip(steps, self.steps, self.errors)],
            [{**draw, "resolution_fitted": at} for draw, at in zip(random, self.random)],
        )


def fit_resolutions(
    steps: Sequence[dict], random: Sequence[dict], box: int, pixel_size: float, last: int, independent: float = 1.0
) -> FittedResolutions:
    """From the records of the steps, from all particles down, and of random discards; each has its curve, ``fsc``.

    last : finest shell that was reconstructed
    independent : fraction of the Fourier samples in the mask that are independent
    """
    curves = np.nan_to_num(np.array([record["fsc"] for record in (*steps, *random)], float))[:, 1 : last + 1]
    samples = np.maximum(shell_count(box)[1 : last + 1] / 2 * independent, 1.0)
    fitted = _Fit.of(curves, samples)
    count, places = len(steps), fitted.shells(_THRESHOLDS[0], box)

    def angstrom(place: float) -> float | None:
        return None if np.isinf(place) else box * pixel_size / place

    leaving_out = [
        fitted.without(curves, samples, group) for group in np.array_split(np.arange(last), min(_GROUPS, last))
    ]
    best, threshold, difference, error = None, None, np.zeros(count), np.zeros(count)
    for threshold in _THRESHOLDS:
        at = fitted.shells(threshold, box)[:count]
        if np.isinf(at).any():
            continue
        best, difference, error = _compared(at, np.array([other.shells(threshold, box)[:count]
                                                          for other in leaving_out]), last)
        break
    errors = [None if best is None or np.isinf(place) else float(error_ * box * pixel_size / place**2)
              for place, error_ in zip(places[:count], error)]
    return FittedResolutions([angstrom(p) for p in places[:count]], [angstrom(p) for p in places[count:]], errors, best,
                             threshold if best is not None else None)


def _compared(at: np.ndarray, without: np.ndarray, last: int) -> tuple[int, np.ndarray, np.ndarray]:
    """(the step with the most particles of those within a standard error of the finest; how many shells each is behind;
    its error).

    at : (steps,) shells
    without : (groups, steps), these without each group of shells
    """
    finest = int(at.argmax())
    groups = len(without)
    without = np.where(np.isinf(without), last, without)
    behind, others = at[finest] - at, without[:, [finest]] - without
    error = np.sqrt((groups - 1) / groups * np.square(others - others.mean(axis=0)).sum(axis=0))
    return int(np.flatnonzero(behind <= error)[0]), behind, error


@dataclass(frozen=True)
class _Fit:
    """g : (shells,) · p : (curves, 2), a and b of each; those of the first, all particles, are 0."""

    g: np.ndarray
    p: np.ndarray

    @classmethod
    def of(cls, curves: np.ndarray, samples: np.ndarray) -> _Fit:
        mean = np.clip(curves.mean(axis=0), 0.02, 0.995)
        return cls(np.log(mean / (1 - mean)), np.zeros((len(curves), 2)))._refined(
            curves, samples, np.ones(curves.shape[1])
        )

    def without(self, curves: np.ndarray, samples: np.ndarray, group: np.ndarray) -> _Fit:
        """Where a group of shells has no information on a and b; g is as it was."""
        weight = np.ones(curves.shape[1])
        weight[group] = 0.0
        return _Fit(self.g, self._refined(curves, samples, weight).p)

    def curves(self) -> np.ndarray:
        """(curves, shells) FSC."""
        return 1 / (1 + np.exp(-(self.g + self.p @ _terms(len(self.g)))))

    def shells(self, threshold: float, box: int) -> np.ndarray:
        """(curves,) at which shell each curve, made monotone, falls below; infinite where it never does."""
        from scipy.optimize import isotonic_regression  # slow to load

        monotone = (isotonic_regression(curve, increasing=False).x for curve in self.curves())
        found = (crossing(np.concatenate([[1.0], curve]), threshold, box, 1.0) for curve in monotone)
        return np.array([np.inf if at is None else box / at for at in found])

    def _refined(self, curves: np.ndarray, samples: np.ndarray, weight: np.ndarray) -> _Fit:
        """Gauss and Newton's steps, a little damped;
        g is eliminated from their equations, for it is of one shell each."""
        g, p, terms = self.g, self.p, _terms(curves.shape[1])
        size = 2 * (len(curves) - 1)
        model, before = _Fit(g, p).curves(), None
        for _ in range(_ROUNDS):
            if before is not None and np.abs(model - before).max() < _TOLERANCE:
                break
            slope = model * (1 - model)
            exact = weight / (np.square(1 - np.square(model)) / samples + _MODEL_ERROR**2)
            pull, stiff = exact * slope * (curves - model), exact * slope**2
            own = stiff.sum(axis=0) * 1.001 + 1e-6
            cross = stiff[1:, None, :] * terms  # (curves − 1, 2, shells)
            inner = np.einsum("qts,us->qtu", cross, terms)
            matrix = -(cross / own).reshape(size, -1) @ cross.reshape(size, -1).T
            for q, block in enumerate(inner):
                matrix[2 * q : 2 * q + 2, 2 * q : 2 * q + 2] += block
            matrix[np.diag_indices(size)] += 0.001 * inner[:, [0, 1], [0, 1]].ravel() + _PRIOR**-2
            right = (pull[1:, None,
                          :] * terms).sum(axis=2) - p[1:] / _PRIOR**2 - (cross * (pull.sum(axis=0) / own)).sum(axis=2)
            change = np.clip(np.linalg.solve(matrix, right.ravel()), -1, 1).reshape(-1, 2)
            along = np.clip((pull.sum(axis=0) - np.einsum("qts,qt->s", cross, change)) / own, -1, 1)
            g, p = np.clip(g + along, -_LARGEST, _LARGEST), np.concatenate([p[:1], p[1:] + change])
            model, before = _Fit(g, p).curves(), model
        return _Fit(g, p)


def _terms(shells: int) -> np.ndarray:
    """(2, shells): what a and b are multiplied by."""
    return np.stack([np.ones(shells), -np.square(np.arange(1, shells + 1) / shells)])
