"""Half maps that are given rather than made: what a solver is to the passes, with nothing to solve."""

from __future__ import annotations

import numpy as np

from mpirecon.robust.selection import Selection
from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.config import Config
from mpirecon.solvers.groups import MapSet, half_map
from mpirecon.solvers.passes import Engine


class GivenMaps(Solver):
    """References are the two maps in the mask, filtered by their FSC as those of an L2 run are, or as they are.

    halves : the maps, (n, n, n) float32 each, on rank 0; ignored elsewhere
    filtered : by their FSC
    """

    def __init__(self, engine: Engine, config: Config, halves: tuple[np.ndarray, np.ndarray] | None,
                 filtered: bool) -> None:
        super().__init__(engine, config)
        self._filtered = filtered
        self._maps = MapSet(engine.comm, engine.box)
        for half in (1, 2):
            self._maps.place(half_map(half), 0, None if engine.comm.rank else halves[half - 1])

    def step(self, weigh: Weigh) -> Selection:
        """There is nothing to weigh: the maps are compared with each other, and made ready."""
        if self._filtered:
            self.refer_to(self._maps)
            return weigh(None)
        self.compare_halves(self._maps)
        for half in (1, 2):
            volume = self._maps.owned(half_map(half))
            self.references.place(half_map(half), 0, None if volume is None else volume * self.engine.mask)
        return weigh(None)

    def finish(self) -> MapSet:
        """The half maps as they were given; there is no map of all."""
        return self._maps
