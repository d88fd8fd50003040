"""Whether particles at poses that a search found show the same map as those at their given poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.validate.fsc import crossing, fsc, shell_index

#: FSC between halves of either map from which on a shell says anything
_SUPPORTED = 0.3

#: how much less the two maps may agree than their noise lets expect, unsaid, and standard deviations of chance
_LESS, _SURELY = 0.1, 3.0


@dataclass(frozen=True)
class FoundMap:
    """Two maps without a common particle.

    found, given : (shells,) FSC of the half maps of particles at found poses, and at given ones
    between : (shells,) FSC of the two whole maps
    expected : (shells,) what it would be, were the signal the same
    deficit : by how much it is less, mean over the shells that say anything
    chance : standard deviation of that; NaN where no shell does
    """

    found: np.ndarray
    given: np.ndarray
    between: np.ndarray
    expected: np.ndarray
    deficit: float
    chance: float

    @classmethod
    def of(
        cls, found: tuple[np.ndarray, np.ndarray], given: tuple[np.ndarray, np.ndarray], mask: np.ndarray
    ) -> FoundMap:
        """found, given : half maps, (n, n, n) each"""
        halves = [fsc(*maps, mask) for maps in (found, given)]
        between = fsc(found[0] + found[1], given[0] + given[1], mask)
        # signal's part of the power of each whole map
        signal = [np.clip(2 * curve / (1 + np.maximum(curve, 0)), 0, 1) for curve in halves]
        expected = np.sqrt(signal[0] * signal[1])
        supported = np.minimum.accumulate(np.minimum(*halves)[1:]) > _SUPPORTED
        shells = 1 + np.flatnonzero(supported)
        if not len(shells):
            return cls(*halves, between, expected, float("nan"), float("nan"))
        # independent samples of a shell: half of them, and as many fewer as the mask leaves of the box
        count = np.bincount(shell_index(len(mask), 3).ravel())[shells] * float(np.mean(np.square(mask)))
        variance = (
            3 * np.square(1 - np.square(expected[shells])) / np.maximum(count, 1)
        )  # of this FSC, and of the two it is held against
        return cls(
            *halves,
            between,
            expected,
            float((expected - between)[shells].mean()),
            float(np.sqrt(variance.sum()) / len(shells)),
        )

    def as_dict(self, box: int, pixel_size: float) -> dict:
        curves = {name: getattr(self, name).tolist() for name in ("found", "given", "between", "expected")}
        resolution = {
            f"resolution_{name}": crossing(getattr(self, name), 0.143, box, pixel_size) for name in ("found", "given")
        }
        known = np.isfinite(self.deficit)
        return (
            curves | resolution | {"deficit": self.deficit if known else None, "chance": self.chance if known else None}
        )

    def warnings(self) -> list[str]:
        if not self.deficit > max(_LESS, _SURELY * self.chance):
            return []
        return [
            f"the map of the particles at found poses agrees with that of the kept ones by {self.deficit:.2f} less "
            "(FSC, mean over shells) than their noise lets expect: the found ones may be of another structure, or "
            "badly posed. Compare with --poses fixed"
        ]
