"""When the poses near the particles' own are looked at, and at whose:
a look costs as much as the rest of an iteration."""

from __future__ import annotations

import numpy as np

from mpirecon.solvers.slab_data import uniform_hash

#: iterations after which poses nearby are looked at: those that make the last maps, and the one that reports
_LOOKS = 3

#: share of the particles whose poses nearby are looked at first, in the iteration before, and the least of them; where
#: fewer than this share of them are slightly wrong there is no further look
_FIRST_LOOK, _FIRST_LOOK_AT, _FEW_SLIGHT = 0.25, 1000, 0.005


class Looks:
    """It takes a good map to judge small errors: looks come in the last iterations. One at some of the particles comes
    before, and where it finds hardly any slight errors, there is no other.

    first : the iteration after which some of the particles are looked at; None where it would be the first, by L2's map
    """

    def __init__(self, rounds: int) -> None:
        """rounds : iterations of the run"""
        before = rounds - _LOOKS
        self.first = before if before > 1 else None
        self._begin = self.first or max(1, rounds - _LOOKS + 1)

    def due(self, iteration: int) -> bool:
        """Whether there is a look after this iteration, if it is worthwhile."""
        return iteration >= self._begin

    def at(self, ids: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Which of the particles of these ids, of `count` in all, are looked at first, (m,) bool; those that are scored
        at random orientations are among them."""
        return uniform_hash(ids, seed + self.first) < max(_FIRST_LOOK, _FIRST_LOOK_AT / count)

    @staticmethod
    def worthwhile(slight: float) -> bool:
        """Whether to look on where a look found this share of the particles slightly wrong."""
        return slight >= _FEW_SLIGHT
