"""The passes over the data that every solver is made of: accumulate, and statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator, together
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.groups import GroupStore, MapSet, half_map, held_out_map
from mpirecon.solvers.slab_data import ParticleSlab
from mpirecon.solvers.timing import Timings


@dataclass
class Engine:
    """What a pass needs, handed from the run to the solver: who, what, where."""

    comm: Communicator
    backend: object
    slab: ParticleSlab
    folds: int
    mask: np.ndarray
    timings: Timings
    log: object
    skip_bad: bool = False
    progress: object = None
    noise_power: np.ndarray = field(default=None)

    @property
    def box(self) -> int:
        return self.slab.file.box

    def accumulate(self, weight: np.ndarray, rows: np.ndarray | None = None) -> GroupStore:
        """Σ w C ŷ and Σ w C² of every group, reduced over the ranks; the first call also surveys the images.

        weight : (m,) of this rank's particles · rows : (m,) bool, those to visit (a mini-batch); all when left out.
        """
        backend, survey = self.backend, self.noise_power is None
        p = backend.projection.padded
        store = GroupStore(self.comm, (p, p, p // 2 + 1, 3))
        shells = backend.plane.shells
        power, count = np.zeros(shells), np.zeros(shells)
        for group in self.slab.groups:
            with together(self.comm), self.timings("accumulate"):
                visit = self.slab.rows(group)
                visit = visit if rows is None else visit[rows[visit]]
                visit = visit if survey else visit[weight[visit] > 0]
                accumulator = backend.accumulator()
                for batch_rows in self.slab.batches(visit):
                    batch = self._load(batch_rows, survey)
                    if survey:
                        good = self.slab.valid[batch_rows]
                        backend.power(batch, power, count)
                        count -= 0 if good.all() else self._count_of_bad(batch, ~good)
                    backend.accumulate(accumulator, batch, weight[batch_rows] * self.slab.valid[batch_rows])
                    self._advance(len(batch_rows))
                folded = backend.folded(accumulator)
                del accumulator
            with self.timings("reduce"):
                store.put(group, folded)
        if survey:
            self._require_good_images()
            self._set_noise_power(power, count)
        return store

    def statistics(
        self, maps: MapSet, bands: Bands, rows: np.ndarray | None = None, in_sample: bool = True
    ) -> tuple[Statistics, Statistics]:
        """Statistics of this rank's particles against the map of their half, and against one they did not build.

        The second is the map of the other folds of their own half; with a single fold, of the other half (which may be
        reported but not used to select, for it would leak). Returns (in sample, held out).
        """
        inside, outside = Statistics.empty(len(self.slab)), Statistics.empty(len(self.slab))
        for half in (1, 2):
            own = self._reference(maps, half_map(half)) if in_sample else None
            for fold in range(self.folds):
                other = half_map(3 - half) if self.folds == 1 else held_out_map((half, fold))
                held_out = self._reference(maps, other)
                visit = self.slab.rows((half, fold))
                visit = visit[self.slab.valid[visit]]
                visit = visit if rows is None else visit[rows[visit]]
                with together(self.comm), self.timings("statistics"):
                    for batch_rows in self.slab.batches(visit):
                        batch = self._load(batch_rows, False)
                        for result, reference in ((inside, own), (outside, held_out)):
                            if reference is not None:
                                sums = self.backend.statistics(reference, batch, bands)
                                result.store(batch_rows, sums, bands.samples)
                        self._advance(len(batch_rows))
        return inside, outside

    def _load(self, rows: np.ndarray, survey: bool):
        with self.timings("read"):
            images = self.slab.images(rows)
        if survey:
            self.slab.survey(rows, images, self.skip_bad)
        with self.timings("prepare"):
            return self.backend.prepare(images, self.slab.metadata[rows])

    def _reference(self, maps: MapSet, made_of):
        with self.timings("reduce"):
            volume = maps.get(made_of)
        with self.timings("solve"):
            return self.backend.reference(volume)

    def _count_of_bad(self, batch, bad: np.ndarray) -> np.ndarray:
        """What the images left out (zeroed) were counted as in the noise spectrum."""
        power, count = np.zeros(self.backend.plane.shells), np.zeros(self.backend.plane.shells)
        left_out = type(batch)(batch.data[bad], batch.ctf[bad], batch.rotation[bad])
        self.backend.power(left_out, power, count)
        return count

    def _require_good_images(self) -> None:
        good = np.array([(self.slab.valid & (self.slab.metadata.half == h)).sum() for h in (1, 2)], np.int64)
        for half, count in zip((1, 2), self.comm.allreduce(good)):
            if count == 0:
                raise UserError(f"{self.slab.file.path}: half set {half} has no good image left after skipping the bad ones")

    def _set_noise_power(self, power: np.ndarray, count: np.ndarray) -> None:
        """ν² per shell: the mean power of the data, nearly all noise; never zero."""
        self.comm.allreduce(power)
        self.comm.allreduce(count)
        spectrum = power / np.maximum(count, 1)
        positive = spectrum[spectrum > 0]
        self.noise_power = np.maximum(spectrum, 1e-12 * positive.max() if positive.size else 1.0)

    def _advance(self, particles: int) -> None:
        if self.progress is not None:
            self.progress.update(particles)
