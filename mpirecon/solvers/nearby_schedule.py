"""In which iterations poses near the particles' own are searched, and of which particles:
such a search costs as much as the rest of an iteration."""

from __future__ import annotations

import numpy as np

from mpirecon.solvers.slab_data import uniform_hash

#: iterations after which poses nearby are searched: those that make the last maps, and the one that reports
_SEARCHES = 3

#: fraction of the particles whose poses nearby are searched first, in the iteration before, and the least of them;
#: where fewer than this fraction of them have small errors there is no further search
_FIRST_SEARCH, FIRST_SEARCH_AT, _FEW_SMALL = 0.25, 1000, 0.005


class NearbySchedule:
    """Small errors of poses show only against a good map: the searches come in the last iterations.
    One of some of the particles comes before, and where it finds hardly any small errors, there is no other.

    first : the iteration after which some of the particles are searched; None where it would be the first, by L2's map
    """

    def __init__(self, rounds: int) -> None:
        """rounds : iterations of the run"""
        before = rounds - _SEARCHES
        self.first = before if before > 1 else None
        self._begin = self.first or max(1, rounds - _SEARCHES + 1)

    def due(self, iteration: int) -> bool:
        """Whether there is a search after this iteration, if it is worthwhile."""
        return iteration >= self._begin

    def at(self, ids: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Which of the particles of these ids, of `count` in all, are searched first, (m,) bool; those that are scored
        at random orientations are among them."""
        return uniform_hash(ids, seed + self.first) < max(_FIRST_SEARCH, FIRST_SEARCH_AT / count)

    def most(self, rounds: int, count: int) -> float:
        """Particles that are searched in so many iterations, over all `count`, where images show small errors."""
        due = sum(self.due(iteration) for iteration in range(1, rounds + 1))
        partly = self.first is not None and self.first <= rounds
        return due - partly + partly * min(1.0, max(_FIRST_SEARCH, FIRST_SEARCH_AT / count))

    @staticmethod
    def worthwhile(small: float) -> bool:
        """Whether to search further where a search found small errors in this fraction of the particles."""
        return small >= _FEW_SMALL
