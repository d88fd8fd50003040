"""Normal equations: (Σ w AᴴA + Λ) x = Σ w Aᴴŷ, solved anew for the weights of every outer iteration (DESIGN section 2)."""

from __future__ import annotations

import numpy as np

from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.groups import WHOLE, GroupStore, MapOf, MapSet, half_map


class NormalSolver(Solver):
    """statistics → weights → accumulate → reduce → solve.

    References are solved directly on the grid, which is as good as the filter that follows; the maps that are kept are
    refined by conjugate gradients.
    """

    def __init__(self, engine, config) -> None:
        super().__init__(engine, config)
        self._store: GroupStore | None = None

    def step(self, weigh: Weigh) -> None:
        self._store = None  # before the next is filled: two would double the memory
        self._store = self.engine.accumulate(weigh(None))
        halves = MapSet(self.engine.comm, self.engine.box)
        self.solve(halves, self._store, [half_map(1), half_map(2)], self._unfiltered)
        self.compare_halves(halves)
        self.solve(self.references, self._store, self.reference_maps, self._filtered)
        self.focus_references()

    def finish(self) -> MapSet:
        maps = MapSet(self.engine.comm, self.engine.box)
        self.solve(maps, self._store, [half_map(1), half_map(2), WHOLE], self._refined)
        return maps

    def _unfiltered(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        return equations.direct(equations.ridge())

    def _filtered(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        return equations.direct(equations.ridge(self.ssnr(made_of))) * self.engine.mask

    def _refined(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        ridge = equations.ridge(self.ssnr(WHOLE) if made_of == WHOLE else None)
        volume, residuals = equations.solve(ridge, self.config.solve_iterations, each=self.engine.safe_point)
        self.engine.log.event("solve", map=str(made_of), residuals=residuals)
        return volume
