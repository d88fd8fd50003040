"""Poses of rejected particles: between iterations they are searched, and accepted on evidence (--poses rescue).

A particle that builds no map is compared with the map of its own half set, one that does with that of the other folds
of its half, never with the other half's: what is found is not what was put in. Each search starts from scratch: the given pose,
the found pose or neither is accepted, and who was found may be dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from mpirecon.backend.cpu import CpuBackend
from mpirecon.model.pose_state import FOUND, GIVEN, IN_VAIN, NOT_SEARCHED, REFINED
from mpirecon.robust.jointly import gather_rows
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.selection import Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.search.acceptance import Amplitudes, Acceptance, beside_given, widening
from mpirecon.search.group_acceptance import GroupAcceptance
from mpirecon.search.group_search import GroupSearcher
from mpirecon.search.local import LOCAL, LocalSearcher
from mpirecon.search.pose_errors import NearErrors, PoseErrors, Refined
from mpirecon.search.searcher import SUPPORTED, SUPPORTED_BY_GROUPS, TABLE, Searcher, finest_shell
from mpirecon.solvers.fixed_poses import FixedPoses
from mpirecon.solvers.found_poses import FoundPoses, with_found
from mpirecon.solvers.groups import MapSet
from mpirecon.solvers.planted_poses import PlantedPoses
from mpirecon.solvers.pose_round import PoseRound, asks_of
from mpirecon.solvers.search_warnings import ALIKE, NOBODY, cannot_search, warnings_of
from mpirecon.solvers.searchable import OFFSET, offset_range
from mpirecon.solvers.slab_data import uniform_hash
from mpirecon.validate.coverage import pile_up

#: standard deviations that the range of offsets holds on each side
_RANGE = 2.0

#: diameter of a particle over its box, where nobody said
_DIAMETER = 2 / 3

#: kept particles whose own pose is searched as a control, in all, and kept groups of images
_CONTROLS, _CONTROLS_OF_GROUPS = 300, 40

#: kept particles that tell the distribution of amplitudes, at most
_SAMPLE = 2000

#: probability from which a found pose is kept, and from which it counts in the map, by as much as it is probable
_KEPT, _COUNTS = 0.5, 0.1

#: either of groups, which are too few for their probabilities to be known well
_OF_GROUPS = 0.9

#: degrees from the own pose within which a control particle came back, at least
_BACK = 6.0

#: degrees that no standard deviation of small errors exceeds
_WIDEST = 15.0

#: sets the draw of the control apart from the others of the seed
_CONTROL = 0xC0117


class Rescue(FixedPoses):
    """Poses of the particles that are not accepted at the given ones are searched after the last iterations but one;
    with ``--poses refine`` those of the others are moved as well."""

    searches = True

    def __init__(self, engine, config, console, threads: int, groups: np.ndarray | None = None) -> None:
        super().__init__(engine.slab)
        self.groups = groups
        self._kept, self._counts = (_KEPT, _COUNTS) if groups is None else (_OF_GROUPS, _OF_GROUPS)
        self.engine, self.config, self.console, self.comm = engine, config, console, engine.comm
        slab, file, comm = engine.slab, engine.slab.file, engine.comm
        size = file.pixel_size
        self.offset = offset_range(file, config)
        aberrations = file.aberrations()
        self.backend = CpuBackend(
            file.box, size, limit=engine.backend.plane.limit, premultiplied=bool(file.attributes["ctf_premultiplied"]),
            aberrations=aberrations, threads=threads,
        )  # fmt: skip
        self.optics = sorted({g for some in comm.allgather(np.unique(slab.metadata.optics_group).tolist())
                              for g in some})
        self.planted = PlantedPoses(slab, engine.symmetry.group)
        self.found = FoundPoses.nothing(len(slab))
        self.used, self.refined = np.zeros((2, len(slab)), bool)

    def due(self, iteration: int) -> bool:
        return self.config.settling <= iteration < self.config.rounds

    # the search

    def search(self, chosen: Selection, weight: np.ndarray, scores: Statistics, references: MapSet,
               fsc: np.ndarray) -> None:
        comm, slab = self.comm, self.slab
        self.facts, self.found = {"searched": 0, "found": 0}, FoundPoses.nothing(len(slab))
        sigma = particle_sigma(comm, scores, slab.valid)
        kept = slab.valid & chosen.kept & (chosen.contrast > 0)
        supported = SUPPORTED if self.groups is None else SUPPORTED_BY_GROUPS
        finest = finest_shell(fsc, supported)
        cannot = cannot_search(finest, supported, comm.allreduce_scalar(int(kept.sum())))
        searcher = None if cannot else Searcher(
            self.backend.plane, slab.file.pixel_size, self.backend.premultiplied, self.engine.found.noise_power,
            self.engine.symmetry.group, self._diameter, finest, self.offset / _RANGE,
            np.radians(self.config.search_sigma or 0.0),
            self._amplitudes(scores, sigma, kept), self.engine.backend.arrays, self.backend.stretch,
        )  # fmt: skip
        if searcher is not None and self.config.refines:
            near = slab.valid & (chosen.kept | chosen.small) & (chosen.contrast >= 0)
            nobody = np.zeros(len(slab), bool)
            self._refine(asks_of(comm, slab, near, nobody, np.ones(len(slab)), sigma), searcher, references)
        asked = slab.valid & ~chosen.kept & ~self.found.refined & (chosen.contrast >= 0)
        anybody = comm.allreduce_scalar(int(asked.sum())) > 0
        reason = ALIKE if not chosen.mixture_.separable_ else cannot if anybody else NOBODY
        if reason is not None:
            self.facts["reason"] = reason
            return
        # rows of one particle are in one fold: where there are such, nobody is compared with the map of the whole half
        if self.groups is not None or slab.file.extra("family", 0, 0) is not None:
            weight = np.ones(len(slab))
        self._find(asks_of(comm, slab, asked, self._control(kept), weight, sigma, self.groups), searcher, references)
        counts, posterior = self._counting(chosen)
        self.facts |= self._outcome(counts & (posterior >= self._kept))

    def _find(self, asks: np.ndarray, searcher: Searcher, references: MapSet) -> None:
        """Search the poses of the asked anywhere; and near the given ones, where errors are of a size."""
        table, probability, facts = self._searched(asks, searcher, references)
        law = searcher.amplitudes
        self.facts |= facts | {"finest_shell": searcher.finest, "amplitude": [law.mean, law.sigma]}
        if self.config.refines and self.config.search_sigma is None:
            given = self._given_shift(table["id"])
            offsets = (table["shift"] - given) / searcher.pixel_size
            near = NearErrors.of(table["moved"], offsets, table["shift_sigma"] / searcher.pixel_size, probability)
            if near is not None:
                narrow = replace(searcher, turn_sigma=near.turn, offset_sigma=near.offset)
                again, likely, facts = self._searched(asks, narrow, references)
                better = likely > probability
                table[better], probability = again[better], np.maximum(likely, probability)
                self.facts["near"] = facts | {"angle_sigma": float(np.degrees(near.turn)), "fraction": near.share}
        self._take(table, probability)

    def _searched(
        self, asks: np.ndarray, searcher: Searcher, references: MapSet
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """(TABLE of the asked of all ranks, the probability of what was found of each, numbers for the summary).
        Collective."""
        this = self._round(searcher if self.groups is None else GroupSearcher(searcher))
        table = this.in_maps(asks, references)
        decoys = this.in_decoys(asks[~asks["control"]], references)
        # what rows of a unit have in common is in its first one
        lead = np.unique(asks["unit"], return_index=True)[1]
        one, control = np.zeros(len(asks), bool), asks["control"]
        one[lead] = True
        known, found = table[one & control], table[one & ~control]
        decoys = decoys[np.isin(decoys["id"], found["id"])]
        back = known["moved"] < np.maximum(_BACK, 3 * known["angle_sigma"])
        wider = self._widen(table, known[back])
        if self.groups is None:
            acceptance = Acceptance.of(found["odds"], decoys["odds"], np.searchsorted(found["id"], decoys["id"]),
                                       known["odds"], back)
        else:
            acceptance = GroupAcceptance.of(found["odds"], decoys["odds"], known["odds"], back)
        facts = {
            "searched": int((~control).sum()), "offset": _RANGE * searcher.offset_sigma * searcher.pixel_size,
            "decoys": len(decoys),
            "laws": acceptance.laws,
            "control": {"searched": len(known), "came_back": int(back.sum()), "widening": wider},
        }  # fmt: skip
        if self.groups is not None:
            facts["groups"] = {"searched": len(found), "accepted": int((acceptance(found["odds"]) >= self._kept).sum())}
        return table[~control], acceptance(table["odds"][~control]), facts

    def _widen(self, table: np.ndarray, back: np.ndarray) -> tuple[float, float]:
        """Make standard deviations as wide as the control's poses scatter that came back: by how much, of angles and of
        offsets. Noise in the map, of which the likelihood's curvature knows nothing, adds to it. Collective."""
        given = self._given_shift(back["id"])
        moved = np.square(back["shift"] - given).sum(axis=1) / np.maximum(np.square(back["shift_sigma"]), 1e-12)
        wider = (widening(np.square(back["moved"] / back["angle_sigma"]), 3),
                 widening(moved, 2) if self.offset else 1.0)
        table["angle_sigma"] *= wider[0]
        table["shift_sigma"] *= wider[1]
        return wider

    def _round(self, searcher, kind: np.dtype = TABLE) -> PoseRound:
        return PoseRound(self.engine, self.backend, self.optics, searcher, self.console, self.config.seed, kind,
                         kind == TABLE and self.groups is not None)

    def _given_shift(self, ids: np.ndarray) -> np.ndarray:
        """Given shifts of particles of all ranks, Å, (k, 2). Collective."""
        return gather_rows(self.comm, self.slab.metadata.pose.shift, self.slab.total)[ids]

    def _refine(self, asks: np.ndarray, searcher: Searcher, references: MapSet) -> None:
        """Move the poses of the asked, as far as errors of given poses go that these themselves show. Collective."""
        size = 5 if self.offset else 3
        table = self._round(LocalSearcher(searcher, size == 5), LOCAL).in_maps(asks, references)
        table = table[table["curvature"][:, 0, 0] > 0]
        shown = table["displacement"][:, :size], table["curvature"][:, :size, :size], table["gain"]
        errors = PoseErrors.fit(*shown, table["scatter"], (np.radians(_WIDEST), max(self.offset, OFFSET)))
        refined = errors(*shown)
        pixel, (turn, offset) = searcher.pixel_size, errors.widths
        self.facts["refinement"] = {
            "particles": len(table), "moved": int(refined.moves.sum()), "fraction": errors.wrong,
            "angle_sigma": float(np.degrees(turn)),
            "offset_sigma": offset * pixel, "noise": errors.noise,
        }  # fmt: skip
        first, last = np.searchsorted(table["id"], [self.slab.start, self.slab.stop])
        self.found.refine(table[first:last], Refined(*(a[first:last] for a in refined)), self.slab, pixel)

    def _control(self, kept: np.ndarray) -> np.ndarray:
        """Kept particles of the first folds, whose maps serve for all of them; of groups, which are few, those of all
        folds; (m,) bool. Collective."""
        slab, units, wanted = self.slab, self._units, _CONTROLS if self.groups is None else _CONTROLS_OF_GROUPS
        candidates = kept & (slab.fold == 0) if self.groups is None else kept
        total = self._count(units[candidates])
        return candidates & (uniform_hash(units, self.config.seed + _CONTROL) < wanted / max(total, 1))

    @property
    def _units(self) -> np.ndarray:
        """Number of what each row is searched with, (m,)."""
        return self.slab.ids if self.groups is None else self.groups

    def _count(self, units: np.ndarray) -> int:
        """Different ones among those of all ranks. Collective."""
        return len(np.unique(np.concatenate(self.comm.allgather(np.unique(units)))))

    @property
    def _diameter(self) -> float:
        """Of the particle, pixels."""
        file = self.slab.file
        return _DIAMETER * file.box if self.config.diameter is None else self.config.diameter / file.pixel_size

    def _amplitudes(self, scores: Statistics, sigma: np.ndarray, kept: np.ndarray) -> Amplitudes:
        """Of kept particles at their given poses, against maps that they did not build."""
        units = self._units
        total = self._count(units[kept])
        some = np.flatnonzero(kept & (uniform_hash(units, self.config.seed) < _SAMPLE / max(total, 1)))
        sums = scores.sums[some].sum(axis=1) / np.square(sigma[some])[:, None]
        sums, units = (np.concatenate(parts) for parts in zip(*self.comm.allgather((sums, units[some]))))
        unit = np.unique(units, return_inverse=True)[1]
        cross, power = (np.bincount(unit, sums[:, k]) for k in (1, 2))
        return Amplitudes.of(cross, power)

    def _take(self, table: np.ndarray, probability: np.ndarray) -> None:
        """Keep what was found of this rank's particles."""
        first, last = np.searchsorted(table["id"], [self.slab.start, self.slab.stop])
        rows = table["id"][first:last] - self.slab.start
        self.found.table[rows], self.found.probability[rows] = table[first:last], probability[first:last]

    # what becomes of it

    def place(self, chosen: Selection, scores: Statistics) -> Selection:
        given, found = self.slab.metadata.pose, self.found
        if self.facts is None:
            return chosen
        sigma, self.at_given = particle_sigma(self.comm, scores, self.slab.valid), chosen.kept
        counts, posterior = self._counting(chosen)
        self.used = counts & (posterior >= self._kept)
        self.refined = found.refined & (chosen.kept | chosen.small)
        posterior = np.where(self.refined, np.maximum(chosen.posterior, found.probability), posterior)
        self.moved = counts | self.refined
        rows = np.flatnonzero(self.moved)
        self.slab.restore(self.slab.valid, given.quaternion, given.shift)
        self.slab.move(rows, found.table["quaternion"][rows], found.table["shift"][rows])
        kept = self.used[rows] | self.refined[rows]
        return with_found(chosen, rows, kept, posterior[rows], sigma[rows], found.table[rows])

    def _counting(self, chosen: Selection) -> tuple[np.ndarray, np.ndarray]:
        """(whether the found pose counts rather than the given one or none (m,) bool, its probability (m,))."""
        found = self.found
        same = found.table["moved"] < _BACK  # the given pose, found again
        posterior = beside_given(found.probability, chosen.posterior, same)
        likely = (posterior >= self._counts) & (same | (found.probability > chosen.posterior))
        return found.searched & ~chosen.kept & ~found.refined & likely, posterior

    def parts(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows that are not kept at their given poses, or near them, and rows that are kept at found ones, (m,) bool
        each; kept : (m,) bool of the maps made last."""
        found = self.used & kept
        return self.slab.valid & (found | ~kept), found

    def _outcome(self, used: np.ndarray) -> dict:
        """How many were found, how far from the given poses, and, where errors were planted, how well. Collective."""
        comm, table = self.comm, self.found.table
        offset = np.hypot(*(table["shift"] - self.slab.metadata.pose.shift).T)
        moved = np.concatenate(comm.allgather(np.column_stack([table["moved"], offset])[used]))
        out = {"found": len(moved), "median_angle": None, "median_offset": None}
        if len(moved):
            out |= {"median_angle": float(np.median(moved[:, 0])), "median_offset": float(np.median(moved[:, 1]))}
        if self.planted.known:
            out["planted"] = self.planted.counted(comm, table["quaternion"], self.found.searched, used)
        return out

    @contextmanager
    def given(self) -> Iterator[None]:
        now, given = self.slab.pose, self.slab.metadata.pose
        self.slab.restore(self.slab.valid, given.quaternion, given.shift)
        try:
            yield
        finally:
            self.slab.restore(self.slab.valid, now.quaternion, now.shift)

    def wrong(self) -> np.ndarray | None:
        given = self.slab.metadata.pose_error
        if given is None or not self.planted.known:
            return given
        return np.where(self.moved, self.planted.far(self.slab.pose.quaternion), given)

    def warnings(self, kept: np.ndarray) -> list[str]:
        facts = self.facts or {}
        found = warnings_of(facts, self.config)
        if "control" not in facts:
            return found
        views = self.slab.pose.matrices()[:, 2]
        parts = zip(*self.comm.allgather((views[self.used], views[kept & ~self.used])))
        piled = pile_up(*(np.concatenate(part) for part in parts), self.engine.symmetry.group.matrices)
        return [*found, piled] if piled else found

    def columns(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """pose_state as GIVEN … NOT_SEARCHED; pose_sigma (degrees) and offset_sigma (Å), NaN where the pose is as
        given."""
        slab, found = self.slab, self.found
        state = np.select([self.used, self.refined, kept, found.searched], [FOUND, REFINED, GIVEN, IN_VAIN],
                          NOT_SEARCHED)

        def of_moved(name):
            return np.where(self.moved, found.table[name], np.nan)

        columns = {
            "pose_state": state.astype(np.uint8), "pose_sigma": of_moved("angle_sigma"),
            "offset_sigma": of_moved("shift_sigma"),
            "search_score": np.where(found.searched | self.refined, found.table["score"], np.nan),
        }  # fmt: skip
        if slab.metadata.true_quaternion is not None:
            columns["final_angular_error"] = self.planted.error(slab.pose.quaternion)
        if slab.metadata.true_shift is not None:
            columns["final_offset_error"] = np.hypot(*(slab.pose.shift - slab.metadata.true_shift).T)
        return columns

    def state(self) -> dict[str, np.ndarray]:
        return self.found.state()

    def restore(self, rows: Callable[[str], np.ndarray], facts: dict | None) -> None:
        self.facts = facts
        self.found.restore(rows)
        now, given = self.slab.pose, self.slab.metadata.pose
        self.moved = (now.quaternion != given.quaternion).any(axis=1) | (now.shift != given.shift).any(axis=1)
