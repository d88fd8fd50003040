"""Images compared with a map near the poses that they have: the nearest peak of the likelihood, and how sharp it is.

How far a peak lies from the given pose by noise alone is what its curvature says, if the noise is what it is taken for.
That is measured: the samples of an image are parted like the squares of a chessboard, whose two colours have noise of
their own, and the peaks of the two lie as far from each other as noise sets them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.model.pose import Pose
from mpirecon.parallel.threads import Threads
from mpirecon.search.acceptance import Amplitudes
from mpirecon.search.fine import climb, displacement, sums_at
from mpirecon.search.pose_search import Band
from mpirecon.search.searcher import OtherSearcher, magnification_of
from mpirecon.search.slices import slice_grid

#: what is found of an image: displacement of its peak, turn (radians, in the image's frame) and offset (pixels) ·
#: here : log likelihood ratio of the given pose to no signal, and gain : what the peak has more · curvature : of −log
#: likelihood there, 0 where nothing was found · scatter : of the peaks of both halves of the samples, squared, in
#: units of what the curvature says · contrast, contrast2 as in searcher.TABLE
LOCAL = np.dtype([
    ("id", "i8"), ("quaternion", "f8", 4), ("displacement", "f8", 5), ("here", "f8"), ("gain", "f8"),
    ("curvature", "f8", (5, 5)), ("scatter", "f8"), ("score", "f8"), ("moved", "f8"), ("contrast", "f8"),
    ("contrast2", "f8"),
])  # fmt: skip

#: degrees and pixels beyond which a peak is not near the given pose
_NEAR, _NEAR_OFFSET = 25.0, 8.0

#: Gauss–Newton steps in each band, at most
_STEPS = 8


class Neighbourhood:
    """A map that images are compared with near their poses.

    Parameters are those of PoseSearch; moves : whether offsets are unknown
    """

    def __init__(
        self, reference: np.ndarray, plane, diameter: float, finest: int, moves: bool, stretch: float = 1.0
    ) -> None:
        self.box, self.moves = plane.box, moves
        self.band = band = Band.of(plane, diameter, finest, len(reference), stretch)
        self._grid = slice_grid(reference, band.limit, plane.box)
        self._colour = ((band.kx + band.ky) % 2 == 0).astype(np.float32)

    def look(
        self,
        data: np.ndarray,
        on_cross: np.ndarray,
        on_model: np.ndarray,
        given: np.ndarray,
        amplitudes: Amplitudes,
        out,
        magnification: np.ndarray = np.eye(2),
    ) -> None:
        """Fill a row of LOCAL; data, on_cross and on_model are one image's samples of the band, given : (4,),
        magnification : (2, 2)."""
        k = self.band.kx, self.band.ky
        q, shift = np.repeat(given[None], 2, axis=0), np.zeros((2, 2))
        sums, hessian = np.empty((2, 2)), np.empty((2, 5, 5))
        precision = np.array([0, 0, 0, 1e-3, 1e-3])
        image = data, on_cross, on_model, magnification, self.moves, precision
        for count in (self.band.coarse, self.band.middle):  # one start from further away …
            climb(self._grid, self.box, *k, count, *image, q[:1], shift[:1], sums[:1], hessian[:1], _STEPS)
        climb(
            self._grid, self.box, *k, len(k[0]), *image, q, shift, sums, hessian, _STEPS
        )  # … and one from the given pose
        best = int(np.argmax(sums[:, 0] / np.sqrt(np.maximum(sums[:, 1], 1e-30))))
        q, shift, (cross, power), hessian = q[best], shift[best], sums[best], hessian[best]
        turn = displacement(given, q)
        out["quaternion"], out["displacement"] = q, np.concatenate([turn, shift])
        out["moved"] = np.degrees(np.linalg.norm(turn))
        out["contrast"], out["contrast2"] = amplitudes.moments(cross, power)
        out["score"] = cross / np.sqrt(max(power, 1e-30))
        size = 5 if self.moves else 3
        far = out["moved"] > _NEAR or np.hypot(*shift) > _NEAR_OFFSET
        amplitude = max(float(amplitudes.best(cross, power)), 0.1)
        curvature = amplitude**2 * hessian
        if far or power <= 0 or cross <= 0 or np.linalg.eigvalsh(curvature[:size, :size]).min() <= 0:
            return
        here, *_ = sums_at(self._grid, self.box, *k, data, on_cross, on_model, magnification, given, np.zeros(2))
        out["here"] = amplitudes.log_ratio(here[0], here[1])
        out["gain"] = amplitudes.log_ratio(cross, power) - out["here"]
        steps, variances = [], np.zeros((size, size))
        for colour in (self._colour, 1 - self._colour):
            _, gradient, model, h = sums_at(
                self._grid, self.box, *k, data, on_cross * colour, on_model * colour, magnification, q, shift
            )
            inverse = np.linalg.pinv(amplitude**2 * h[:size, :size])
            steps.append(inverse @ (amplitude * gradient - amplitude**2 * model)[:size])
            variances += inverse
        apart = steps[0] - steps[1]
        out["scatter"] = apart @ np.linalg.solve(variances, apart)
        out["curvature"][:size, :size] = curvature[:size, :size]


@dataclass(frozen=True)
class LocalSearcher(OtherSearcher):
    """How images are compared with a map near their poses; what a Searcher is for all orientations.

    moves : whether offsets are unknown
    """

    moves: bool

    def search(self, reference: np.ndarray) -> Neighbourhood:
        volume = np.ascontiguousarray(reference, np.float32)
        return Neighbourhood(volume, self.like.plane, self.like.diameter, self.like.finest, self.moves,
                             self.like.stretch)

    def table(
        self,
        near: Neighbourhood,
        rows: np.ndarray,
        batch,
        variance: np.ndarray,
        given: Pose,
        progress,
        threads: Threads,
    ) -> np.ndarray:
        """What is found of the images of a batch, LOCAL."""
        order = near.band.order
        data, on_cross, on_model = (
            np.ascontiguousarray(a[:, order]) for a in (batch.data, *self.like.weights(batch, variance))
        )
        out = np.zeros(len(rows), LOCAL)
        out["id"], magnified = rows, near.band.checked(magnification_of(batch, given))

        def some(first: int, last: int) -> None:
            for i in range(first, last):
                near.look(data[i], on_cross[i], on_model[i], given.quaternion[i], self.like.amplitudes, out[i],
                          magnified[i])

        threads.over(len(rows), some)
        progress(len(rows))
        return out
