"""Comparison of particles with maps: which particles, at which poses, and when also at poses nearby."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mpirecon.backend.bands import BANDS
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.fixed_poses import FixedPoses
from mpirecon.solvers.groups import MapSet
from mpirecon.solvers.nearby_schedule import NearbySchedule
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.problem import Problem
from mpirecon.solvers.slab_data import uniform_hash
from mpirecon.solvers.state import Scores

#: fraction of the particles that are scored at random orientations as well, to measure the scores of incorrect poses,
#: and the least and most of them
_RANDOM_SHARE, RANDOM_POSES = 0.125, (500, 5000)

#: sets the draw of particles that are compared with the maps apart from the others of the seed
_COMPARED = 0x5C0


class Scoring:
    """How the particles of a run are compared with its maps.

    nearby_schedule : in which iterations poses nearby are compared as well
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.slab, self.config, self.comm = problem, problem.slab, problem.config, problem.comm
        self.nearby_schedule = NearbySchedule(problem.config.settling)

    @cached_property
    def sample(self) -> np.ndarray | None:
        """(m,) bool, the particles that are compared with the maps; None: all of them."""
        wanted = self.config.compared(self.slab.total, self.problem.file.has_truth)
        if wanted == self.slab.total:
            return None
        return uniform_hash(self.slab.ids, self.config.seed + _COMPARED) < wanted / self.slab.total

    @cached_property
    def sample_size(self) -> np.ndarray:
        """How many these are, of all ranks and of this one. The first use is collective."""
        if self.sample is None:
            return np.array([self.slab.total, self.slab.here])
        mine = int(self.scored.sum())
        return np.array([self.comm.allreduce_scalar(mine), mine])

    def visits(self, passes: int, moved: int) -> tuple[int, int]:
        """Particles that so many passes visit, the last of which compares, of all ranks and of this one, of which so
        many have `moved` and are compared at their given poses as well. Collective."""
        total, mine = self.sample_size
        return ((passes - 1) * self.slab.total + total + self.comm.allreduce_scalar(moved),
                (passes - 1) * self.slab.here + mine + moved)

    @property
    def scored(self) -> np.ndarray:
        """(m,) bool, the particles whose statistics are known."""
        return self.slab.valid if self.sample is None else self.slab.valid & self.sample

    @property
    def nearby_first(self) -> np.ndarray:
        """(m,) bool, the particles that the first comparison at poses nearby is made for."""
        return self.nearby_schedule.at(self.slab.ids, self.slab.total, self.config.seed)

    def score(
        self, engine: Engine, references: MapSet, poses: FixedPoses, iteration: int, search_nearby: bool,
        rows: np.ndarray | None = None,
    ) -> Scores:
        """Compare particles with the maps as they stand. Collective.

        Rows that are right or wrong together (tilt images) are turned each in its own way and show too little of it:
        poses near theirs are not searched, for what is found near wrong poses would outweigh the rest of a group.

        search_nearby : whether poses nearby are compared, where they are due
        rows : (m,) bool, particles; None: all
        """
        random, seed = None, self.config.seed + iteration
        if self.config.mixes:
            # about this many particles of the whole set show the scores of wrong poses
            m = self.slab.total
            share = min(1.0, np.clip(_RANDOM_SHARE * m, *RANDOM_POSES) / m)
            random = uniform_hash(self.slab.ids, seed) < share
        due = search_nearby and self.nearby_schedule.due(iteration)
        nearby = NearbyPoses.empty(len(self.slab), BANDS, engine.backend.plane.shells) if due else None
        bands = self.problem.bands(engine.found.noise_power)
        inside, outside, random_poses = engine.statistics(
            references, bands, rows, random=random, draw=seed, nearby=nearby,
            nearby_rows=self.nearby_first if iteration == self.nearby_schedule.first else None,
        )  # fmt: skip

        def at_given_poses() -> Statistics | None:
            """What the selection goes by, where other poses build the map now."""
            moved = poses.moved
            if not self.comm.allreduce_scalar(int(moved.any()), "max"):
                return None
            with poses.given():
                _, given, _ = engine.statistics(references, bands, moved, in_sample=False, nearby=nearby)
            return Statistics(np.where(moved[:, None, None], given.sums, outside.sums), outside.samples)

        return Scores(inside, outside, random_poses, nearby, at_given_poses())
