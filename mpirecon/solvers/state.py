"""What a run knows after an iteration: one object, made by each iteration, and what a checkpoint saves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.io.image_levels import LevelsFound
from mpirecon.model.pose import Pose
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.selection import RandomPoses, Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.groups import MapSet


@dataclass(frozen=True, eq=False)
class Survey:
    """What the first look at the images found.

    Attributes
    ----------
    power : (m,) float64
        of each of this rank's images, relative to its optics group's typical one
    noise_power : (groups, shells) float64
        noise spectrum of each optics group, the same on all ranks
    largest : (2,) float64
        bounds of all ranks' samples, where sums must not depend on their order
    shell_power : (shells,) float64 or None
        power of all ranks' images in each shell, Fourier samples of the whole plane summed, where first maps were made
        in the same visit and of all alike
    levels : LevelsFound or None
        backgrounds and gains that were found and taken off
    by_view : bool
        whether images are visited in the order of their views
    """

    power: np.ndarray
    noise_power: np.ndarray
    largest: np.ndarray
    shell_power: np.ndarray | None = None
    levels: LevelsFound | None = None
    by_view: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """Statistics of this rank's particles against the maps of an iteration.

    Attributes
    ----------
    inside, held_out : Statistics
        against the map of their half, and against one that they did not build
    random_poses : RandomPoses or None
        of some at random orientations
    nearby : NearbyPoses or None
        the best poses near their own, where they were searched
    at_given : Statistics or None
        as held_out, of the particles at their given poses, where some have others now
    """

    inside: Statistics
    held_out: Statistics
    random_poses: RandomPoses | None = None
    nearby: NearbyPoses | None = None
    at_given: Statistics | None = None

    def honest(self, folds: int) -> Statistics:
        """What may be selected by: whatever the poses are that build the map, the given ones are scored. With a single
        fold no map of the own half is without the particle; the other half's would leak."""
        if folds == 1:
            return self.inside
        return self.held_out if self.at_given is None else self.at_given


@dataclass(frozen=True, eq=False)
class State:
    """What is known after an iteration; arrays of particles are this rank's.

    Attributes
    ----------
    iteration : int
        1, 2 …; 0 before the first
    survey : Survey
    valid : (m,) bool
        False for bad images that were left out
    pose : Pose
        of each particle, as the next iteration takes it
    search_nearby : bool
        whether it is worthwhile to look for better poses nearby
    selection : Selection or None
        that built the maps; None before the first, and in a resumed run before its next
    maps : MapSet or None
        of which the unfiltered half maps are the ones that `fsc` compares
    fsc : (shells,) float64 or None
    scores : Scores or None
        against these maps: what the next selection is made from
    records : tuple of dict
        of all iterations: losses, which particles were kept, resolution
    """

    iteration: int
    survey: Survey
    valid: np.ndarray
    pose: Pose
    search_nearby: bool
    selection: Selection | None = None
    maps: MapSet | None = None
    fsc: np.ndarray | None = None
    scores: Scores | None = None
    records: tuple[dict, ...] = ()

    @property
    def record(self) -> dict:
        """Of this iteration."""
        return self.records[-1]


@dataclass
class Outcome:
    """What a finished run knows. Arrays over particles are this rank's slab.

    fsc : of the half maps, in the mask that particles are scored in, where it is known
    scored : (m,) bool, the particles of `statistics`
    """

    maps: MapSet
    records: list[dict]
    statistics: Statistics
    selection: Selection
    sigma: np.ndarray
    scored: np.ndarray
    fsc: np.ndarray | None = None
