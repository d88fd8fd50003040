"""Normal equations: (Σ w AᴴA + Λ) x = Σ w Aᴴŷ, solved again for the weights of every outer iteration."""

from __future__ import annotations

import numpy as np

from mpirecon.operators.fourier import SMALL_BOX, TINY_BOX
from mpirecon.operators.normal import NormalEquations
from mpirecon.parallel.held import give_back_unused
from mpirecon.robust.selection import Selection
from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.groups import WHOLE, GroupStore, MapOf, MapSet, half_map

#: mean of 1 − FSC of the half maps beyond which the direct solution will do: what it leaves unsolved is 1e-3 to 1e-2 of
#: a shell's signal, which ten times as much noise hides
_NOISY = 0.1

#: steps of conjugate gradients where they are left to the program: few clean images, and small boxes by noise
_STEPS, _STEPS_SMALL, _STEPS_BY_NOISE = 4, 8, 2

#: fraction of the images' power that the maps leave beyond which they are mostly noise: half maps of few clean images
#: disagree too, and gain most from more steps
_MOSTLY_NOISE = 0.5


class NormalSolver(Solver):
    """statistics → weights → accumulate → reduce → solve.

    References are solved directly on the grid, which is as good as the filter that follows, or are filtered half maps
    where nothing is selected by them; the maps that are kept are refined by conjugate gradients.
    """

    def __init__(self, engine, config) -> None:
        super().__init__(engine, config)
        self._store: GroupStore | None = None
        self._begun = False  # the store holds the sums of the step to come
        self._halves: MapSet | None = None
        # of this iteration's maps that this rank has solved once
        self._mean_weights: dict[tuple[MapOf, int], np.ndarray] = {}

    def begin(self, store: GroupStore) -> None:
        """Take the sums of the first step, which were made as the images were looked at."""
        self._store, self._begun = store, True

    def step(self, weigh: Weigh) -> Selection:
        selection = weigh(None)
        if not self._begun:
            self._store = self.engine.accumulate(selection, room=self._store)  # two stores would double the memory
        self._begun = False
        self._mean_weights.clear()
        self._halves = MapSet(self.engine.comm, self.engine.box)
        self.solve(self._halves, self._store, [half_map(1), half_map(2)], self._unfiltered)
        transforms = self.compare_halves(self._halves)
        side = self.coarsen_references()
        # it selects nothing: the reported distance of its particles is that from a filtered half map
        if not self.config.rule.scores:
            self.filter_halves(transforms)
            return selection
        del transforms
        self.solve(self.references, self._store, self.reference_maps, self._filtered, side=side)
        self._store.forget_low()
        self.focus_references()
        give_back_unused()  # most is held while particles are compared: not what the maps were made with besides
        return selection

    def finish(self, whole: bool = True) -> MapSet:
        """whole : also the map of all particles"""
        maps, which = MapSet(self.engine.comm, self.engine.box), [half_map(1), half_map(2)]
        if not self._steps(half_map(1)):
            maps, which = self._halves, []  # the halves are there already
        if which := [*which, WHOLE] if whole else which:
            self.solve(maps, self._store, which, self._refined, last=True)
        self.forget()
        return maps

    def sums_of(self, half: int, root: int) -> np.ndarray | None:
        side = self.engine.backend.projection.padded * self.references.box // self.engine.box
        return self._store.collect(half_map(half), root, side=side)

    def forget(self) -> None:
        """Let go of the sums of an iteration, which no further map is to be made of."""
        self._store = None

    def final_steps(self) -> dict[str, int]:
        if self.fsc is None:
            return {}
        return {"half maps": self._steps(half_map(1)), "map of all": self._steps(WHOLE)}

    def _steps(self, made_of: MapOf) -> int:
        """Steps of conjugate gradients on a final map:
        as asked, else more where there is less noise to hide their gain."""
        if self.config.solve_iterations is not None:
            return self.config.solve_iterations
        small = self.engine.box <= SMALL_BOX
        disagreement = float(np.mean(1 - self.fsc[1 : self.engine.backend.plane.shells]))
        if disagreement > _NOISY and self._unexplained > _MOSTLY_NOISE:
            # it gains where views are uneven, whatever the noise, and decides which resolution is reported
            if made_of != WHOLE:
                return _STEPS_SMALL if self.engine.box <= TINY_BOX else 0
            return _STEPS_BY_NOISE if small else 0
        if small:
            return _STEPS_SMALL
        return _STEPS if made_of == WHOLE else 0  # a half map has too few views to gain where the box is large

    def _unfiltered(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        return equations.direct(self._ridge(made_of, equations))

    def _filtered(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        volume = equations.direct(self._ridge(made_of, equations, self.ssnr(made_of)))
        volume *= self.reference_mask
        return volume

    def _ridge(self, made_of: MapOf, equations: NormalEquations, ssnr: np.ndarray | None = None) -> np.ndarray:
        key = made_of, equations.shells
        if key not in self._mean_weights:
            self._mean_weights[key] = equations.shell_weight()
        return equations.ridge(ssnr, shell_weight=self._mean_weights[key])

    def _refined(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = self.equations(folded)
        ridge = self._ridge(made_of, equations, self.ssnr(WHOLE) if made_of == WHOLE else None)
        steps = self._steps(made_of)
        if not steps:
            return equations.direct(ridge)
        volume, residuals = equations.solve(ridge, steps, each=self.engine.pace.safe_point)
        self.engine.log.event("solve", map=str(made_of), residuals=residuals)
        return volume
