"""What becomes of the given poses in a run: nothing, which is the interface of what searches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from mpirecon.robust.selection import Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.groups import MapSet


class FixedPoses:
    """Poses stay as they were given."""

    facts: dict | None = None
    searches = False

    #: (m,) bool, the particles that the maps' selection accepted at their given poses; None where it had no others
    at_given: np.ndarray | None = None

    def __init__(self, slab) -> None:
        self.slab = slab
        self.moved = np.zeros(len(slab), bool)

    def due(self, iteration: int) -> bool:
        """Whether poses are searched after this iteration."""
        return False

    def search(
        self, chosen: Selection, weight: np.ndarray, scores: Statistics, references: MapSet, fsc: np.ndarray
    ) -> None:
        """Search the poses of the particles that `chosen` does not accept at the given ones. Collective.

        weight : (m,), with which particles built the references
        scores : Statistics at the given poses
        fsc : of the half maps
        """

    def place(self, chosen: Selection, scores: Statistics) -> Selection:
        """Bring each particle to the pose that is accepted of it, by what was chosen at the given poses. Collective."""
        return chosen

    @contextmanager
    def given(self) -> Iterator[None]:
        """All particles at their given poses, for as long as it lasts."""
        yield

    def wrong(self) -> np.ndarray | None:
        """(m,) bool, whether the pose of now is wrong, or the image junk; None where the truth is not known."""
        return self.slab.metadata.pose_error

    def warnings(self, kept: np.ndarray) -> list[str]:
        """Warnings about found poses, on rank 0; collective."""
        return []

    def columns(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """What a run's particle table gets of poses, a row each."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, rows of this rank's particles."""
        return {}

    def restore(self, rows: Callable[[str], np.ndarray], facts: dict | None) -> None:
        """Restore a state: ``rows(name)`` gives what `state` has by that name."""
