"""Gradient descent: x ← x − M⁻¹ Σ w Aᴴ(A x − ŷ), preconditioned, with momentum, full batch or mini-batches.

The gradient of a batch is T_B x − b_B, with the batch's own normal equations: the data are read once for all the maps
(halves and held-out folds) that a particle contributes to. M is the weight of all particles plus Λ; `step` is relative
to the minimum of the batch's loss along the preconditioned gradient, which one more product finds.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.model.draws import particle_rng
from mpirecon.operators.normal import SMALLEST_SSNR, dot
from mpirecon.robust.selection import Selection
from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.groups import WHOLE, GroupStore, MapOf, MapSet
from mpirecon.solvers.wiener import wiener_filter

#: fraction of a shell's mean weight added to M: Fourier voxels that no slice meets have no weight of their own, but the
#: particle's finite size ties them to their neighbours, and 1/weight there would overshoot
_DAMPING = 0.3


class GradientSolver(Solver):
    """One outer iteration is one pass over all particles (an epoch), in mini-batches when asked."""

    def __init__(self, engine, config) -> None:
        super().__init__(engine, config)
        self._state = MapSet(engine.comm, engine.box)
        self._velocity: dict[MapOf, np.ndarray] = {}
        self._all: GroupStore | None = None
        self._epoch = 0

    def step(self, weigh: Weigh) -> Selection:
        if self._all is None:
            self._begin()
        batches = self._batches()
        for number, rows in enumerate(batches):
            # with several batches, shrinking steps average their noise out
            step = (
                self.config.step if len(batches) == 1 else self.config.step / (1 + self._epoch + number / len(batches))
            )
            selection = weigh(rows)
            self._descend(self.engine.accumulate(selection, rows), step)
            self._refresh()
        self._epoch += 1
        return selection

    def _begin(self) -> None:
        """M's normal equations, of all particles, and maps of zero."""
        self._all = self.engine.accumulate(Selection.of_all(self.engine.slab.valid))
        self.solve(self._state, self._all, self._maps, self._zero)

    @property
    def _maps(self) -> list[MapOf]:
        return [*self.reference_maps, WHOLE]

    def state(self) -> dict[str, np.ndarray]:
        saved = {}
        for made_of in self._maps:
            moving = MapSet(self.engine.comm, self.engine.box)
            moving.place(made_of, self._state.owner(made_of), self._velocity.get(made_of))
            saved |= {f"map {made_of}": self._state.get(made_of).copy(),
                      f"velocity {made_of}": moving.get(made_of).copy()}
        return saved

    def state_names(self) -> list[str]:
        return [f"{what} {made_of}" for made_of in self._maps for what in ("map", "velocity")]

    def restore(self, saved: dict[str, np.ndarray], iterations: int, fsc: np.ndarray) -> None:
        super().restore(saved, iterations, fsc)
        self._begin()
        for made_of in self._maps:
            if self._state.owned(made_of) is not None:
                self._state.place(made_of, self._state.owner(made_of), saved[f"map {made_of}"])
                self._velocity[made_of] = saved[f"velocity {made_of}"]
        self._epoch = iterations
        self._refresh()

    def finish(self) -> MapSet:
        return self._state

    def _batches(self) -> list[np.ndarray | None]:
        """Rows of this rank in each mini-batch of the epoch; a particle's batch depends on seed and epoch alone."""
        size, slab = self.config.batch_size, self.engine.slab
        total = slab.total
        if not size or size >= total:
            return [None]
        count = -(-total // size)
        # one permutation of all particles, drawn alike on every rank
        order = particle_rng(self.config.seed, self._epoch, "mini-batches").permutation(total)
        batch = np.empty(total, np.int64)
        batch[order] = np.arange(total) % count
        if slab.everywhere is not None:
            batch, drawn = np.full(len(slab.file), -1), batch
            batch[slab.everywhere] = drawn
        mine = batch[slab.start : slab.stop]
        return [mine == b for b in range(count)]

    def _descend(self, store: GroupStore, step: float) -> None:
        """One step of every map on its owner, with the batch's gradient scaled to all particles."""
        comm = self.engine.comm
        for first in range(0, len(self._maps), comm.size):
            mine = None
            for owner, made_of in enumerate(self._maps[first : first + comm.size]):
                batch, everything = store.collect(made_of, owner), self._all.collect(made_of, owner)
                if batch is not None:
                    mine = made_of, batch, everything
            if mine is not None:
                with self.engine.timings("solve"):
                    self._descend_one(*mine, step)

    def _descend_one(self, made_of: MapOf, batch: np.ndarray, everything: np.ndarray, step: float) -> None:
        total, part = self.equations(everything), self.equations(batch)
        ridge = total.ridge(self.ssnr(WHOLE) if made_of == WHOLE else None)
        share = part.total_weight / max(total.total_weight, 1e-300)
        if share <= 0:
            return
        x = self._state.owned(made_of)
        # the batch's data term, scaled to all; Λ belongs to the whole and is not scaled
        gradient = part.gradient(x, ridge * share) / np.float32(share)
        direction = -total.precondition(gradient, ridge + _DAMPING * total.shell_weight())
        curvature = dot(direction, part.apply(direction, ridge * share)) / share
        if curvature <= 0:
            return
        length = np.float32(-step * dot(gradient, direction) / curvature)
        previous = self._velocity.get(made_of)
        velocity = length * direction
        if previous is not None:
            velocity += np.float32(self.config.momentum) * previous
        self._velocity[made_of] = velocity
        x += velocity

    def _refresh(self) -> None:
        """Filtered references from the maps as they stand."""
        self.compare_halves(self._state)
        for made_of in self.reference_maps:
            volume = self._state.owned(made_of)
            filtered = None if volume is None else self._filtered(made_of, volume)
            self.references.place(made_of, self._state.owner(made_of), filtered)
        self.focus_references()

    def _filtered(self, made_of: MapOf, volume: np.ndarray) -> np.ndarray:
        # never to nothing, even where half maps do not agree at all: particles could not be compared with it
        return wiener_filter(fft.rfftn(volume), np.maximum(self.ssnr(made_of), SMALLEST_SSNR)) * self.engine.mask

    def _zero(self, made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        return np.zeros((self.engine.box,) * 3, np.float32)
