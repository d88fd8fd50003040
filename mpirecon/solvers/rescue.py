"""Rejected particles found again: between iterations their poses are searched, and believed on evidence (--poses rescue).

A particle that builds no map is compared with the map of its own half set, one that does with that of the other folds of its half,
never with the other half's: what is found is not what was put in. Each search begins anew: the given pose, the found pose or
neither is believed, and who was found may be dropped again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.model.pose_state import FOUND, GIVEN, IN_VAIN, NOT_SEARCHED
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.selection import Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.search.believe import FEWEST, Amplitudes, Belief
from mpirecon.search.searcher import FEWEST_SHELLS, SUPPORTED, TABLE, Searcher, finest_shell
from mpirecon.solvers.groups import MapSet
from mpirecon.solvers.pose_round import PoseRound, asks_of
from mpirecon.solvers.slab_data import uniform_hash
from mpirecon.validate.coverage import pile_up

#: half the range of unknown offsets where nobody said it, pixels
_OFFSET = 5.0

#: standard deviations that the range of offsets holds on each side
_RANGE = 2.0

#: largest part of the box that offsets are searched in, on each side
_LARGEST = 0.25

#: diameter of a particle over its box, where nobody said
_DIAMETER = 2 / 3

#: kept particles whose own pose is searched as a control, in all
_CONTROLS = 300

#: kept particles that tell the distribution of amplitudes, at most
_SAMPLE = 2000

#: degrees from the own pose within which a control particle came back, at least
_BACK = 6.0

#: degrees from the truth within which a planted error was found, and beyond which a believed pose is wrong
_RIGHT, _WRONG = 5.0, 10.0

#: why nothing is searched, where that is no reason to worry, or has a warning of its own
_ALIKE = "correct and wrong particles could not be told apart, and all are kept at their given poses"
_NOBODY = "every particle is believed at its given pose"

#: sets the draw of the control apart from the others of the seed
_CONTROL = 0xC0117


class FixedPoses:
    """Poses stay as they were given."""

    facts: dict | None = None
    searches = False

    def __init__(self, slab) -> None:
        self.slab = slab
        self.moved = np.zeros(len(slab), bool)

    def due(self, iteration: int) -> bool:
        """Whether poses are searched after this iteration."""
        return False

    def search(self, chosen: Selection, weight: np.ndarray, scores: Statistics, references: MapSet, fsc: np.ndarray) -> None:
        """Search the poses of the particles that `chosen` does not believe at the given ones. Collective.

        weight : (m,), with which particles built the references · scores : Statistics at the given poses · fsc : of the half maps
        """

    def place(self, chosen: Selection, scores: Statistics) -> Selection:
        """Bring each particle to the pose that is believed of it, by what was chosen at the given poses. Collective."""
        return chosen

    @contextmanager
    def given(self) -> Iterator[None]:
        """All particles at their given poses, for as long as it lasts."""
        yield

    def wrong(self) -> np.ndarray | None:
        """(m,) bool, whether the pose of now is wrong, or the image junk; None where the truth is not known."""
        return self.slab.metadata.pose_error

    def warnings(self, kept: np.ndarray) -> list[str]:
        """What to be wary of in found poses, on rank 0; collective."""
        return []

    def columns(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """What a run's particle table gets of poses, a row each."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, rows of this rank's particles."""
        return {}

    def restore(self, rows: Callable[[str], np.ndarray], facts: dict | None) -> None:
        """Go on from a state: ``rows(name)`` gives what `state` has by that name."""


@dataclass
class _Found:
    """table : (m,) TABLE of this rank's particles, `id` −1 of those that were not searched · probability : (m,) that this is the
    pose."""

    table: np.ndarray
    probability: np.ndarray

    @classmethod
    def nothing(cls, m: int) -> _Found:
        table = np.zeros(m, TABLE)
        table["id"] = -1
        return cls(table, np.zeros(m))

    @property
    def searched(self) -> np.ndarray:
        return self.table["id"] >= 0


class Rescue(FixedPoses):
    """Poses of the particles that are not believed at the given ones are searched after the last iterations but one."""

    searches = True

    def __init__(self, engine, config, console, threads: int) -> None:
        super().__init__(engine.slab)
        self.engine, self.config, self.console, self.comm = engine, config, console, engine.comm
        slab, file, comm = engine.slab, engine.slab.file, engine.comm
        size = file.pixel_size
        self.offset = _offset(file, config)
        aberrations = file.aberrations()
        self.backend = CpuBackend(
            file.box, size, limit=engine.backend.plane.limit, premultiplied=bool(file.attributes["ctf_premultiplied"]),
            aberrations=aberrations, threads=threads,
        )  # fmt: skip
        self.optics = sorted({g for some in comm.allgather(np.unique(slab.metadata.optics_group).tolist()) for g in some})
        self.found = _Found.nothing(len(slab))
        self.used = np.zeros(len(slab), bool)

    def due(self, iteration: int) -> bool:
        return self.config.settling <= iteration < self.config.rounds

    # the search

    def search(self, chosen: Selection, weight: np.ndarray, scores: Statistics, references: MapSet, fsc: np.ndarray) -> None:
        comm, slab = self.comm, self.slab
        self.facts, self.found = {"searched": 0, "found": 0}, _Found.nothing(len(slab))
        sigma = particle_sigma(comm, scores, slab.valid)
        kept = slab.valid & chosen.kept & (chosen.contrast > 0)
        asked = slab.valid & ~chosen.kept & (chosen.contrast >= 0)
        counts = comm.allreduce(np.array([asked.sum(), kept.sum()], np.int64))
        finest = finest_shell(fsc)
        if (reason := self._cannot(chosen, finest, *counts)) is not None:
            self.facts["reason"] = reason
            return
        control = self._control(kept)
        law = self._amplitudes(scores, sigma, kept)
        searcher = Searcher(
            self.backend.plane, slab.file.pixel_size, self.backend.premultiplied, self.engine.found.noise_power, self.engine.symmetry.group,
            self._diameter, finest, self.offset / _RANGE, np.radians(self.config.search_sigma or 0.0), law,
        )  # fmt: skip
        # rows of one particle are in one fold: where there are such, nobody is compared with the map of the whole half
        weight = weight if slab.file.extra("family", 0, 0) is None else np.ones(len(slab))
        asks = asks_of(comm, slab, asked, control, weight, sigma)
        this = PoseRound(self.engine, self.backend, self.optics, searcher, self.console, self.config.seed)
        table = this.in_maps(asks, references)
        decoys = this.in_decoys(asks[~asks["control"]], references)
        of_control = asks["control"][np.searchsorted(asks["id"], table["id"])]
        known, table = table[of_control], table[~of_control]
        back = known["moved"] < np.maximum(_BACK, 3 * known["angle_sigma"])
        belief = Belief.of(table["odds"], decoys["odds"], np.searchsorted(table["id"], decoys["id"]), known["odds"], back)
        self._take(table, belief(table["odds"]))
        self.facts |= self._outcome(self._believed(chosen)[0]) | {
            "searched": len(table), "offset": self.offset * slab.file.pixel_size, "finest_shell": finest,
            "amplitude": [law.mean, law.sigma], "decoys": len(decoys), "laws": belief.laws,
            "control": {"searched": len(known), "came_back": int(back.sum())},
        }  # fmt: skip

    def _control(self, kept: np.ndarray) -> np.ndarray:
        """Kept particles of the first folds, whose maps serve for all of them; (m,) bool. Collective."""
        slab = self.slab
        candidates = kept & (slab.fold == 0)
        total = self.comm.allreduce_scalar(int(candidates.sum()))
        return candidates & (uniform_hash(slab.ids, self.config.seed + _CONTROL) < _CONTROLS / max(total, 1))

    def _cannot(self, chosen: Selection, finest: int, asked: int, kept: int) -> str | None:
        """Why there is no search; None where there is one."""
        if not chosen.mixture_.separable_:
            return _ALIKE
        if not asked:
            return _NOBODY
        if kept < FEWEST:
            return f"{kept} particles are believed at their given poses; {FEWEST} are needed to know what a right pose looks like"
        if finest < FEWEST_SHELLS:
            return (f"the half maps agree (FSC above {SUPPORTED}) in {finest} shells; {FEWEST_SHELLS} are needed: what fits such maps "
                    "best says nothing of poses")
        return None

    @property
    def _diameter(self) -> float:
        """Of the particle, pixels."""
        file = self.slab.file
        return _DIAMETER * file.box if self.config.diameter is None else self.config.diameter / file.pixel_size

    def _amplitudes(self, scores: Statistics, sigma: np.ndarray, kept: np.ndarray) -> Amplitudes:
        """Of kept particles at their given poses, against maps that they did not build."""
        some = np.flatnonzero(kept)
        total = self.comm.allreduce_scalar(len(some))
        some = some[uniform_hash(self.slab.ids[some], self.config.seed) < _SAMPLE / total]
        sums = scores.sums[some].sum(axis=1) / np.square(sigma[some])[:, None]
        sums = np.concatenate(self.comm.allgather(sums))
        return Amplitudes.of(sums[:, 1], sums[:, 2])

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
        sigma = particle_sigma(self.comm, scores, self.slab.valid)
        self.used, posterior = self._believed(chosen)
        rows = np.flatnonzero(self.used)
        self.slab.restore(self.slab.valid, given.quaternion, given.shift)
        self.slab.move(rows, found.table["quaternion"][rows], found.table["shift"][rows])
        self.moved = self.used
        return _with_found(chosen, rows, posterior[rows], sigma[rows], found.table[rows])

    def _believed(self, chosen: Selection) -> tuple[np.ndarray, np.ndarray]:
        """(whether the found pose is believed rather than the given one or none (m,) bool, its probability (m,))."""
        found = self.found
        same = found.table["moved"] < _BACK  # the given pose, found again
        posterior = (1 - chosen.posterior) * found.probability + np.where(same, chosen.posterior, 0.0)
        return found.searched & ~chosen.kept & (posterior >= 0.5), posterior

    def _outcome(self, used: np.ndarray) -> dict:
        """How many were found, how far from the given poses, and, where errors were planted, how well. Collective."""
        comm, table = self.comm, self.found.table
        moved = np.concatenate(comm.allgather(np.column_stack([table["moved"], self._offset_moved])[used]))
        out = {"found": len(moved), "median_angle": None, "median_offset": None}
        if len(moved):
            out |= {"median_angle": float(np.median(moved[:, 0])), "median_offset": float(np.median(moved[:, 1]))}
        if (truth := self._truth()) is not None:
            junk, wrong = truth
            error = self._error_of(table["quaternion"])
            searched = self.found.searched
            sums = [(wrong & ~junk).sum(), (wrong & ~junk & searched & (error < _RIGHT)).sum(), (wrong & ~junk & used).sum(),
                    (used & (junk | (error > _WRONG))).sum(), (used & junk).sum()]
            sums = comm.allreduce(np.array(sums, np.int64)).tolist()
            names = "planted", "found_within_5_degrees", "planted_believed", "believed_and_wrong", "junk_believed"
            out["planted"] = dict(zip(names, sums))
        return out

    @property
    def _offset_moved(self) -> np.ndarray:
        return np.hypot(*(self.found.table["shift"] - self.slab.metadata.pose.shift).T)

    def _error_of(self, quaternion: np.ndarray) -> np.ndarray:
        """Degrees of poses from the true ones, (m,)."""
        return self.engine.symmetry.group.angular_distance(quaternion, self.slab.metadata.true_quaternion)

    def _truth(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(junk, whether the given pose is wrong), (m,) bool each; None where that is not known."""
        about = self.slab.metadata
        if about.pose_error is None or about.true_quaternion is None:
            return None
        junk = self.slab.file.extra("junk", self.slab.start, self.slab.stop)
        return np.zeros(len(self.slab), bool) if junk is None else junk.astype(bool), about.pose_error

    @contextmanager
    def given(self) -> Iterator[None]:
        now, given = self.slab.pose, self.slab.metadata.pose
        self.slab.restore(self.slab.valid, given.quaternion, given.shift)
        try:
            yield
        finally:
            self.slab.restore(self.slab.valid, now.quaternion, now.shift)

    def wrong(self) -> np.ndarray | None:
        given, truth = self.slab.metadata.pose_error, self._truth()
        if given is None or truth is None:
            return given
        return np.where(self.used, truth[0] | (self._error_of(self.slab.pose.quaternion) > _WRONG), given)

    def warnings(self, kept: np.ndarray) -> list[str]:
        facts = self.facts or {}
        if reason := facts.get("reason"):
            return [] if reason in (_ALIKE, _NOBODY) else [f"--poses {self.config.poses} searched nothing: {reason}"]
        if not facts:
            return []
        told, control = [], facts["control"]
        if 2 * control["came_back"] < control["searched"]:
            told.append(f"of {control['searched']} kept particles that were searched blindly, {control['came_back']} came back to their own "
                        "pose: most of what this search finds is chance, and few found poses are believed. Better maps, a tighter --diameter "
                        "or a smaller --search-offset may help")
        views = self.slab.pose.matrices()[:, 2]
        parts = zip(*self.comm.allgather((views[self.used], views[kept & ~self.used])))
        piled = pile_up(*(np.concatenate(part) for part in parts), self.engine.symmetry.group.matrices)
        return [*told, piled] if piled else told

    def columns(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """pose_state as GIVEN … NOT_SEARCHED; pose_sigma (degrees) and offset_sigma (Å) are NaN where the pose is the given one."""
        slab, found = self.slab, self.found
        state = np.select([self.used, kept, found.searched], [FOUND, GIVEN, IN_VAIN], NOT_SEARCHED)

        def of_found(name):
            return np.where(self.used, found.table[name], np.nan)

        columns = {
            "pose_state": state.astype(np.uint8),
            "pose_sigma": of_found("angle_sigma"), "offset_sigma": of_found("shift_sigma"),
            "search_score": np.where(found.searched, found.table["score"], np.nan),
        }  # fmt: skip
        if slab.metadata.true_quaternion is not None:
            columns["final_angular_error"] = self._error_of(slab.pose.quaternion)
        if slab.metadata.true_shift is not None:
            columns["final_offset_error"] = np.hypot(*(slab.pose.shift - slab.metadata.true_shift).T)
        return columns

    def state(self) -> dict[str, np.ndarray]:
        table = self.found.table
        return {f"search_{name}": table[name].astype(np.float64) for name in TABLE.names} | {
            "search_probability": self.found.probability,
        }

    def restore(self, rows: Callable[[str], np.ndarray], facts: dict | None) -> None:
        self.facts = facts
        for name in TABLE.names:
            self.found.table[name] = rows(f"search_{name}")
        self.found.probability[:] = rows("search_probability")
        now, given = self.slab.pose, self.slab.metadata.pose
        self.moved = (now.quaternion != given.quaternion).any(axis=1) | (now.shift != given.shift).any(axis=1)


def _offset(file, config) -> float:
    """How far particles may be off, pixels."""
    return _OFFSET if config.search_offset is None else config.search_offset / file.pixel_size


def check_search(slab, config) -> None:
    """Refuse what a search cannot do with these particles."""
    file, count, offset, aberrations = slab.file, slab.total, _offset(slab.file, config), slab.file.aberrations()
    if offset > _LARGEST * file.box:
        raise UserError(f"--search-offset {offset * file.pixel_size:.4g} Å is beyond a quarter of the box, "
                        f"{_LARGEST * file.box * file.pixel_size:.4g} Å for {file.path}: a particle that far off has left its image")
    if count < 4 * FEWEST:
        raise UserError(f"{file.path}: --poses rescue measures what chance finds on particles of the set, and {count} are too few for "
                        f"that; at least {4 * FEWEST} are needed")
    if aberrations is not None and (aberrations.magnification != np.eye(2)).any():
        raise UserError(f"{file.path}: optics groups have a magnification matrix, which the pose search does not know; use --poses fixed")


def _with_found(chosen: Selection, rows: np.ndarray, posterior: np.ndarray, sigma: np.ndarray, found: np.ndarray) -> Selection:
    """A selection in which these rows count at found poses."""

    def put(values: np.ndarray, new) -> np.ndarray:
        out = values.copy()
        out[rows] = new
        return out

    attenuation = chosen.attenuation
    if attenuation is not None:
        whole = np.eye(1, attenuation.contrast.shape[1])  # a right pose leaves all of the signal
        attenuation = replace(attenuation, contrast=put(attenuation.contrast, found["contrast"][:, None] * whole),
                              contrast2=put(attenuation.contrast2, found["contrast2"][:, None] * whole))
    return replace(
        chosen, weight=put(chosen.weight, posterior / sigma**2), kept=put(chosen.kept, True), posterior=put(chosen.posterior, posterior),
        contrast=put(chosen.contrast, found["contrast"]), contrast2=put(chosen.contrast2, found["contrast2"]), attenuation=attenuation,
        contradicts=put(chosen.contradicts, False), slight=put(chosen.slight, False),
    )  # fmt: skip
