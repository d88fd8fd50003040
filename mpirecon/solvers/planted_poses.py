"""What is known of planted wrong poses, and how many of them a search found."""

from __future__ import annotations

import numpy as np

from mpirecon.model.symmetry import PointGroup
from mpirecon.parallel.comm import Communicator

#: degrees from the truth within which a planted error was found, and beyond which a accepted pose is wrong
_RIGHT, _WRONG = 5.0, 10.0


class PlantedPoses:
    """The truth about the poses of a rank's particles.

    known : whether there is any
    junk, wrong : (m,) bool, images without the particle, and wrong given poses
    """

    def __init__(self, slab, group: PointGroup) -> None:
        about, self._group = slab.metadata, group
        self._true = about.true_quaternion
        self.known = about.pose_error is not None and self._true is not None
        self.wrong, self.junk = about.pose_error, np.zeros(len(slab), bool)
        if self.known and (junk := slab.file.extra("junk", slab.start, slab.stop)) is not None:
            self.junk = junk.astype(bool)

    def error(self, quaternion: np.ndarray) -> np.ndarray:
        """Degrees of poses from the true ones, (m,)."""
        return self._group.angular_distance(quaternion, self._true)

    def far(self, quaternion: np.ndarray) -> np.ndarray:
        """(m,) bool, which poses are wrong, or of junk."""
        return self.junk | (self.error(quaternion) > _WRONG)

    def counted(
        self, comm: Communicator, quaternion: np.ndarray, searched: np.ndarray, used: np.ndarray
    ) -> dict[str, int]:
        """Of all ranks, of found poses that were searched, and are used, (m,) bool each. Collective."""
        there = self.wrong & ~self.junk
        counts = {
            "planted": there, "found_within_5_degrees": there & searched & (self.error(quaternion) < _RIGHT),
            "planted_accepted": there & used, "accepted_and_wrong": used & self.far(quaternion),
            "junk_accepted": used & self.junk,
        }  # fmt: skip
        sums = comm.allreduce(np.array([flags.sum() for flags in counts.values()], np.int64))
        return dict(zip(counts, sums.tolist()))
