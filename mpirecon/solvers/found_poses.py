"""Poses that were found of a rank's particles, and what a selection makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.robust.selection import Selection
from mpirecon.search.acceptance import logistic
from mpirecon.search.fine import turned
from mpirecon.search.pose_errors import Refined
from mpirecon.search.searcher import TABLE


@dataclass
class FoundPoses:
    """table : (m,) TABLE of this rank's particles, `id` −1 of those that were not searched · probability : (m,) that
    this is the pose · refined : (m,) bool, particles moved from the given pose without a search"""

    table: np.ndarray
    probability: np.ndarray
    refined: np.ndarray

    @classmethod
    def nothing(cls, m: int) -> FoundPoses:
        table = np.zeros(m, TABLE)
        table["id"] = -1
        return cls(table, np.zeros(m), np.zeros(m, bool))

    @property
    def searched(self) -> np.ndarray:
        return self.table["id"] >= 0

    def refine(self, local: np.ndarray, poses: Refined, slab, pixel_size: float) -> None:
        """Take the poses of some rows of the slab that were moved from the given ones; local : LOCAL."""
        moves = poses.moves
        likely = logistic(local["here"] + poses.gain)  # as likely no particle as one, before it was compared with a map
        for near, move, covariance, probability in zip(
            local[moves], poses.displacement[moves], poses.covariance[moves], likely[moves]
        ):
            row = near["id"] - slab.start
            out, given, variance = self.table[row : row + 1], slab.metadata.pose, np.diagonal(covariance)
            out["quaternion"], out["shift"] = turned(given.quaternion[row], move[:3]), given.shift[row]
            if len(move) > 3:
                out["shift"] += pixel_size * move[3:]
                out["shift_sigma"] = pixel_size * np.sqrt(variance[3:].mean())
            out["angle_sigma"], out["moved"] = (
                np.degrees(np.sqrt(variance[:3].mean())),
                np.degrees(np.linalg.norm(move[:3])),
            )
            for name in ("contrast", "contrast2", "score"):
                out[name] = near[name]
            self.refined[row], self.probability[row] = True, probability

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold."""
        more = {"probability": self.probability, "refined": self.refined}
        return {f"search_{name}": self.table[name].astype(np.float64) for name in TABLE.names} | {
            f"search_{n}": v for n, v in more.items()
        }

    def restore(self, rows: Callable[[str], np.ndarray]) -> None:
        """``rows(name)`` gives what `state` has by that name."""
        for name in TABLE.names:
            self.table[name] = rows(f"search_{name}")
        self.probability[:], self.refined[:] = rows("search_probability"), rows("search_refined")


def with_found(
    chosen: Selection, rows: np.ndarray, kept: np.ndarray, posterior: np.ndarray, sigma: np.ndarray, found: np.ndarray
) -> Selection:
    """A selection in which these rows count at found poses, and some of them, (k,) bool, are kept."""

    def put(values: np.ndarray, new) -> np.ndarray:
        out = values.copy()
        out[rows] = new
        return out

    attenuation = chosen.attenuation
    if attenuation is not None:
        whole = np.eye(1, attenuation.contrast.shape[1])  # a right pose leaves all of the signal
        attenuation = replace(
            attenuation,
            contrast=put(attenuation.contrast, found["contrast"][:, None] * whole),
            contrast2=put(attenuation.contrast2, found["contrast2"][:, None] * whole),
        )
    return replace(
        chosen, weight=put(chosen.weight, posterior / sigma**2), kept=put(chosen.kept, kept),
        posterior=put(chosen.posterior, posterior), contrast=put(chosen.contrast, found["contrast"]),
        contrast2=put(chosen.contrast2, found["contrast2"]), attenuation=attenuation,
        contradicts=put(chosen.contradicts, False), small=put(chosen.small, False),
    )  # fmt: skip
