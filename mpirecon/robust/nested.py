"""Nested selections: the best-scored 90, 80 … % of the particles, and as many drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.draws import uniform_draws

#: fewer particles than this in a half set make no map
FEWEST = 20

#: particles that CryoSieve keeps of those before, and how often it does so
_SIEVED, _SIEVINGS = 0.8, 10

SCHEDULES = {
    "once": "by the scores of one first run",
    "rescore": "scored again at each step",
    "sieve": "scored again at each step, above a moving high-pass as in CryoSieve",
}


def default_fractions(schedule: str) -> tuple[float, ...]:
    """1, 0.9 … 0.1; of a sieve 1, 0.8, 0.64 … 0.107."""
    if schedule == "sieve":
        return tuple(_SIEVED**k for k in range(_SIEVINGS + 1))
    return tuple(k / 10 for k in range(10, 0, -1))


def checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Fractions from 1 down, each once; UserError where one is not in (0, 1] or none is below 1."""
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong:
        raise UserError(f"--steps {wrong[0]:g}: expected fractions above 0 and at most 1, e.g. 1,0.9,0.8")
    found = tuple(sorted({1.0, *map(float, fractions)}, reverse=True))
    if len(found) < 2:
        raise UserError("--steps 1: all particles are the first step; give at least one fraction below 1, e.g. --steps "
                        "0.9,0.8")
    return found


def high_pass_of(number: int, steps: int, ends: tuple[float, float]) -> float:
    """Å above which step 0, 1 … of so many scores its particles: linear in 1/Å between the ends, as CryoSieve's."""
    first, last = (1 / end for end in ends)
    return 1 / (first + (last - first) * number / max(steps - 1, 1))


@dataclass(frozen=True)
class Members:
    """The particles of a set that selections are made of, all of them (on one rank).

    half : (m,) 1 or 2
    valid : (m,) bool
    unit : (m,) int64, rows of one number are kept or left out together
    """

    half: np.ndarray
    valid: np.ndarray
    unit: np.ndarray

    def enough(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """Those of the fractions, from 1 down, that leave each half set enough to make a map;
        the first below 1 must."""
        few = min(len(self._units(half)) for half in (1, 2))
        there = tuple(fraction for fraction in fractions if fraction == 1 or _count(fraction, few) >= FEWEST)
        if len(there) == 1:
            self.refuse_few(fractions[1])
        return there

    def refuse_few(self, fraction: float) -> None:
        """UserError where a half set would be left with too few to make a map."""
        for half in (1, 2):
            there = len(self._units(half))
            if (left := _count(fraction, there)) < FEWEST:
                raise UserError(f"--steps {fraction:.3g}: of the {there} particles of half set {half}, {left} would be "
                                f"left, and a half map needs {FEWEST}; give larger fractions, or more particles")

    def _units(self, half: int) -> np.ndarray:
        return np.unique(self.unit[self.valid & (self.half == half)])

    def best(self, distance: np.ndarray, fraction: float, within: np.ndarray) -> np.ndarray:
        """(m,) bool: of each half set the `fraction` of all its particles that has the smallest distances.

        Half sets are cut each by itself: what is kept of one must not depend on the other.

        Parameters
        ----------
        distance : (m,) float64
            of units of several rows, their mean counts
        within : (m,) bool
            those that may be kept
        """
        rows = np.bincount(self.unit)
        mean = (np.bincount(self.unit, np.where(self.valid, distance, 0.0)) / np.maximum(rows, 1))[self.unit]
        return self._smallest(mean, fraction, within)

    def at_random(self, fraction: float, seed: int, draw: int) -> np.ndarray:
        """(m,) bool: as many of each half set, drawn at random; another draw for each fraction and number."""
        lot = uniform_draws(seed, self.unit, f"random discard {draw}, {fraction:.6g} left")
        return self._smallest(lot, fraction, self.valid)

    def _smallest(self, values: np.ndarray, fraction: float, within: np.ndarray) -> np.ndarray:
        kept = np.zeros(len(self.half), bool)
        for half in (1, 2):
            rows = within & self.valid & (self.half == half)
            units, first = np.unique(self.unit[rows], return_index=True)
            value = values[np.flatnonzero(rows)[first]]
            chosen = units[np.lexsort((units, value))[: _count(fraction, len(self._units(half)))]]
            kept |= self.valid & (self.half == half) & np.isin(self.unit, chosen)
        return kept


def _count(fraction: float, of: int) -> int:
    return min(of, round(fraction * of))
