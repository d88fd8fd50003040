"""The passes over the data that every solver is made of: survey, accumulate, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.backend.store import ImageStore
from mpirecon.errors import UserError
from mpirecon.kernels.sphere import Packed, Sphere
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.model.symmetry import point_group
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.symmetry import Symmetry
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.select import median
from mpirecon.robust.nearby import SEARCH_BANDS, SEARCH_PRIOR, NearbyPoses, attenuation_profile
from mpirecon.robust.selection import RandomPoses, Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.exact_spectrum import ExactSpectrum
from mpirecon.solvers.groups import GroupStore, MapSet, half_map, held_out_map
from mpirecon.solvers.pace import Pace
from mpirecon.solvers.references import References
from mpirecon.solvers.slab_data import Group, ParticleSlab
from mpirecon.solvers.state import Survey
from mpirecon.solvers.timing import Timings
from mpirecon.validate.masks import SoftMask


@dataclass(frozen=True)
class Engine:
    """What a pass needs, handed from the run to the solver.
    `found` is there once ``survey`` has been made. keeps : whether images stay in memory for the next passes"""

    comm: Communicator
    backend: Backend
    slab: ParticleSlab
    store: ImageStore
    folds: int
    masking: SoftMask
    timings: Timings
    log: object
    pace: Pace
    skip_bad: bool = False
    symmetry: Symmetry = field(default_factory=lambda: Symmetry(point_group("C1")))
    deterministic: bool = False
    keeps: bool = True
    found: Survey | None = None

    @property
    def box(self) -> int:
        return self.slab.file.box

    @property
    def mask(self) -> np.ndarray:
        """(n, n, n) float32, what `masking` does; as large as a map, from the first use on."""
        return self.masking.array

    def survey(self, weight: np.ndarray | None = None) -> tuple[Survey, GroupStore | None]:
        """First look at the images: finds bad ones, each optics group's noise spectrum ν², and each image's power.

        Each image's spectrum counts by its own power, so that no single bright image decides what noise looks like.
        weight : (m,), if given the weights of a first map, for which nothing need be known of the images: its sums are
            made in the same visit, and returned
        """
        shape = self.slab.noise_groups, self.backend.plane.shells
        power, count, own = np.zeros(shape), np.zeros(shape), np.zeros(len(self.slab))
        exactly = ExactSpectrum(shape, self.box, self.slab.total) if self.deterministic else None
        largest, whole = np.zeros(2), np.zeros(shape[1])
        each_shell = weight is not None and self._alike(weight)
        samples = np.bincount(self.backend.plane.shell, self.backend.plane.multiplicity)
        store = None if weight is None else self._store()
        again = None
        for group in self.slab.groups:
            with together(self.comm), self.timings("survey"):
                accumulator = None if store is None else self.backend.accumulator(again)
                again = None
                for rows, batch in self._visit(np.sort(self.slab.rows(group)), first=True):
                    shells = self.backend.image_shells(batch) if each_shell else None
                    own[rows] = shells.sum(axis=1) / samples.sum() if each_shell else self.backend.power(batch)
                    good = self.slab.valid[rows]
                    each = np.divide(1, own[rows], out=np.zeros(len(rows)), where=good & (own[rows] > 0))
                    if exactly:
                        exactly.add(self.backend, batch, each)
                        largest = np.maximum(largest, self.backend.largest(batch))
                    for number in () if exactly else np.unique(batch.group):
                        some = each * (batch.group == number)
                        if each_shell:
                            power[number] += some @ shells
                            count[number] += np.count_nonzero(some) * samples
                        else:
                            self.backend.add_spectrum(batch, some, power[number], count[number])
                    whole += good.astype(float) @ shells if each_shell else 0
                    if store is not None:
                        one = np.ones(len(rows))
                        self._add(accumulator, batch, np.where(good, weight[rows], 0), one, one)
                    self.pace.advance(len(rows))
                folded = None if store is None else self._folded(accumulator)
                del accumulator
            again = None if store is None or self._put(store, group, folded) else folded
            del folded
        self._require_good_images()
        self.comm.allreduce(largest, "max")
        power, count = exactly.total(self.comm) if exactly else (self.comm.allreduce(power), self.comm.allreduce(count))
        spectrum = power / np.maximum(count, 1)
        for group in range(self.slab.noise_groups):
            member = self.slab.valid & (self.slab.noise_group == group)
            if self.comm.allreduce_scalar(int(member.sum())):  # a group without a good image is never asked for
                typical = median(self.comm, own[member])
                spectrum[group] *= typical
                own[member] /= typical if typical > 0 else 1.0
        floor = 1e-12 * max(spectrum.max(), np.finfo(np.float32).tiny)
        shell_power = self.comm.allreduce(whole) if each_shell else None
        return Survey(own, np.maximum(spectrum, floor), largest, shell_power), store

    def _alike(self, weight: np.ndarray) -> bool:
        """Whether all particles that are present have the weight 1, and each image's power is found shell by shell;
        collective."""
        able = Ability.IMAGE_SHELLS in self.backend.can and not self.backend.premultiplied
        differ = not able or (weight[self.slab.present] != 1).any()
        return self.comm.allreduce_scalar(int(differ), "max") == 0

    def accumulate(
        self, selection: Selection, rows: np.ndarray | None = None, room: GroupStore | None = None
    ) -> GroupStore:
        """Σ w s C ŷ and Σ w s² C² of every group, reduced over the ranks; each image at all poses of the symmetry. The
        w are those of the selection times those that the particles were given.

        rows : (m,) bool, those to visit (a mini-batch); all of positive weight when left out.
        room : sums that are needed no more, whose memory these take
        """
        weight = selection.weight * self.slab.given
        store = self._store(self._units(selection) if self.deterministic else None, room)
        empty = again = None
        for group in self.slab.groups:
            with together(self.comm), self.timings("accumulate"):
                visit = self.slab.rows(group)
                skipped = len(visit)
                visit = visit[weight[visit] > 0]
                visit = visit if rows is None else visit[rows[visit]]
                accumulator = self.backend.accumulator(again) if empty is None else empty
                empty = again = None
                for part, batch in self._visit(visit):
                    self._add(accumulator, batch, weight[part], *selection.expected_contrast(part))
                    self.pace.advance(len(part))
                self.pace.advance(skipped - len(visit) if rows is None else 0)
                folded = self._folded(accumulator, None if self.symmetry.sums_grid else store.room(group))
                empty = accumulator if isinstance(folded, Packed) else None
                del accumulator
            kept = self._put(store, group, folded)
            again = None if kept else folded
            del folded
        return store

    def _store(self, fixed_point: FixedPoint | None = None, room: GroupStore | None = None) -> GroupStore:
        """Room for the sums of all groups, which are made in these units from now on."""
        p = self.backend.projection.padded
        self.backend.use_units(fixed_point)
        reach = self.backend.reach
        return GroupStore(self.comm, (p, p, p // 2 + 1, 3), self.backend.reducer, fixed_point,
                          None if reach is None else Sphere.of(p, reach), room)

    def _add(self, accumulator, batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray) -> None:
        """Add a batch, each image at all poses of the symmetry."""
        with self.timings("accumulate"):
            for copy in self.symmetry.copies:
                turned = self.backend.turned(batch, copy) if len(self.symmetry.copies) > 1 else batch
                self.backend.accumulate(accumulator, turned, weight, contrast, contrast2)

    def _folded(self, accumulator, room: Packed | None = None):
        """What a group has added up, ready to be reduced; in the room, or in the accumulator's own memory, where it can
        be."""
        with self.timings("accumulate"):
            folded = self.backend.folded(accumulator, room)
            del accumulator
            self.backend.symmetrise(folded, self.symmetry)
        return folded

    def _put(self, store: GroupStore, group: Group, folded) -> bool:
        """Keep a group's sums; whether they are kept in the memory that they were given in."""
        with self.timings("reduce"):
            return store.put(group, folded)

    def _units(self, selection: Selection) -> FixedPoint:
        """Units for sums of all ranks' particles, so weighted; collective."""
        largest = np.zeros(2)
        for rows in self.slab.batches(np.arange(len(self.slab))):
            for k, contrast in enumerate(selection.expected_contrast(rows)):
                weighted = np.abs(contrast).reshape(len(rows),
                                                    -1).max(axis=1) * selection.weight[rows] * self.slab.given[rows]
                largest[k] = max(largest[k], weighted.max())
        images = self.slab.total * len(self.symmetry.group)
        return FixedPoint.of(*(self.comm.allreduce(largest, "max") * self.found.largest), images)

    def statistics(
        self, maps: MapSet, bands: Bands, rows: np.ndarray | None = None, *, in_sample: bool = True,
        random: np.ndarray | None = None, draw: int = 0, nearby: NearbyPoses | None = None,
        nearby_rows: np.ndarray | None = None,
    ) -> tuple[Statistics, Statistics, RandomPoses | None]:
        """Statistics of this rank's particles against the map of their half, and against one they did not build.

        The second is the map of the other folds of their own half; with a single fold, of the other half (which may be
        reported but not used to select, for it would leak). The third holds the particles marked in `random` (m,) bool,
        at orientations drawn for `draw`, against the map that the second (with a single fold, the first) was made with.
        `nearby`, if given, is filled with the best poses near the own ones, against that map too; those `nearby_rows`
        (m,) bool at alone, if given.
        """
        inside, outside = (Statistics.empty(len(self.slab), bands.samples) for _ in range(2))
        chosen = None if random is None else np.flatnonzero(random & self.slab.valid)
        anywhere = None if random is None else RandomPoses(chosen, Statistics.empty(len(chosen), bands.samples))
        single = self.folds == 1
        if nearby is not None:
            self._measure_attenuation(maps, nearby, bands)
        references = References(self.backend, maps, self.timings, together=nearby is None)
        for half in (1, 2):
            own = half_map(half)
            for fold in range(self.folds):
                held_out = half_map(3 - half) if single else held_out_map((half, fold))
                wanted = [own, held_out] if in_sample or single else [held_out]
                references.bring(*wanted)
                visit = self.slab.rows((half, fold))
                visit = visit[self.slab.valid[visit]]
                visit = visit if rows is None else visit[rows[visit]]
                with together(self.comm), self.timings("statistics"):
                    for part, batch in self._visit(visit):
                        *first, outside.sums[part] = references.compare(wanted, batch, bands)
                        if first:
                            inside.sums[part] = first[0]
                        if anywhere is not None and random[part].any():
                            against = own if single else held_out
                            self._at_random(anywhere, part, random[part], batch, references, against, bands, draw)
                        if nearby is not None:
                            grid = references.grid(own if single else held_out)
                            some = slice(None) if nearby_rows is None else np.flatnonzero(nearby_rows[part])
                            self._search_nearby(
                                nearby, part[some], batch if nearby_rows is None else batch[some], grid, bands
                            )
                        self.pace.advance(len(part))
        return inside, outside, anywhere

    def _at_random(self, result: RandomPoses, rows, marked, batch, references, against, bands, draw) -> None:
        some = rows[marked]
        q = np.array([random_quaternion(particle_rng(draw, int(i), "random-pose")) for i in self.slab.ids[some]])
        rotation = self.backend.rotations(q, self.slab.metadata.optics_group[some])
        (found,) = references.compare([against], batch[marked], bands, rotation)
        result.statistics.sums[np.searchsorted(result.rows, some)] = found

    def _search_nearby(self, result: NearbyPoses, rows, batch, reference, bands) -> None:
        highest = np.ceil(len(bands.samples) * np.array(SEARCH_BANDS) - 1e-9).astype(np.int64) - 1
        found = self.backend.nearby(reference, batch, bands, highest, 1 / SEARCH_PRIOR**2)
        result.turn[rows], result.sums[rows], result.slope[rows], result.curvature[rows] = found

    def _measure_attenuation(self, maps: MapSet, result: NearbyPoses, bands) -> None:
        """The mean over the half maps, which are as noisy as those that particles are compared with."""
        halves = [maps.get(half_map(half)) for half in (1, 2)]
        with self.timings("statistics"):
            profiles, powers = zip(*(attenuation_profile(v, result.profile.shape[1]) for v in halves))
            result.profile[:] = np.mean(profiles, axis=0)
            power = np.mean(powers, axis=0)
            shell = self.backend.plane.shell
            for b in range(len(bands.samples)):
                members = shell[bands.band == b]
                if len(members):
                    weight = power[members] + 1e-30  # none beyond what the references hold
                    result.band_profile[:, b] = np.average(result.profile[:, members], axis=1, weights=weight)

    def _visit(self, rows: np.ndarray, first: bool = False):
        """(rows, Batch) of consecutive pieces of local rows, from memory or from the file.

        Raises UserError at the end where the files that images were read from are not what they were.
        """
        reads = []

        def survey(part: np.ndarray, images: np.ndarray) -> None:
            self.slab.survey(part, images, self.skip_bad)

        def read(part: np.ndarray) -> np.ndarray:
            reads.append(len(part))
            return self.slab.images(part, survey if first else None)

        yield from self.store.visit(rows, read, self.timings, self.keeps)
        if reads:
            self.slab.file.refuse_changed()

    def _require_good_images(self) -> None:
        good = np.array([(self.slab.valid & (self.slab.metadata.half == h)).sum() for h in (1, 2)], np.int64)
        for half, count in zip((1, 2), self.comm.allreduce(good)):
            if count == 0:
                raise UserError(f"{self.slab.file.path}: half set {half} has no good image left after skipping the bad "
                                f"ones")
