"""A map of fewer frequencies in a box of larger voxels:
all that costs FFTs of a map costs less, and slices stay where they are.

The smaller box shows the same field of view, so that its Fourier grid is the middle of the larger one's.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.fold import extended_shape, insert
from mpirecon.operators.fourier import SMALL_BOX, padded_size, planes_of, read_spectrum
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.parallel.pages import zeros

#: shells that a box must hold beyond those that are asked for: the interpolation kernel reaches there
_BEYOND = 2

#: grid points between a sample and the farthest that its taps touch,
#: and room for these on each side of a coarse map's grid
_REACH, _AROUND = 3.5, 4

#: smallest fraction of the box: with fewer voxels there is nothing left to gain
_SMALLEST = 0.25


def coarse_box(projection: Projection, reach: int) -> int:
    """The smallest even box that holds shells 0 … reach and whose grid is padded exactly alike; the projection's own
    where none does. Small boxes stay as they are: their maps cost little."""
    box, padded = projection.box, projection.padded
    first = max(2 * (reach + _BEYOND), 2 * int(np.ceil(_SMALLEST * box / 2)))
    for n in range(first, box if box > SMALL_BOX else 0, 2):
        if padded_size(n, projection.padding) * box == padded * n:
            return n
    return box


def coarse_projection(projection: Projection, box: int) -> Projection:
    """The same projection from maps of a smaller box."""
    plane = HalfPlane.of(box, projection.plane.limit)
    return Projection(box, plane, projection.taps, projection.padding, projection.threads)


class PairGrid:
    """Two maps of one box, point by point on an extended grid no larger than their frequencies need.

    values : extended_shape(side, 4) float32
    near : (r,) int64, the samples of a slice that lie on it; where it is smaller than the projection's own grid, the
        maps hold nothing beyond those
    """

    def __init__(self, projection: Projection, box: int, magnified: bool = False) -> None:
        """box : of the maps, the projection's or a ``coarse_box`` · magnified : whether rotations lengthen frequencies,
        which may then lie anywhere on the projection's grid"""
        plane, side = projection.plane, projection.padded
        self._projection, self._box = projection, box
        self.near = np.arange(len(plane))
        if box < projection.box and not magnified:
            self.near = np.flatnonzero(np.hypot(plane.kx, plane.ky) * projection.ratio < side * box / projection.box / 2
                                       + _REACH)
            side = min(side, side * box // projection.box + 2 * _AROUND)
        self.values = zeros(extended_shape(side, 4), np.float32, projection.huge_pages)

    def put(self, which: int, volume: np.ndarray, scale: float) -> None:
        """Make `scale` times a map number `which`; the other stays. A map of a smaller box than the pair's own takes
        only the place of another such."""
        projection = self._projection
        if len(volume) > self._box:
            raise ValueError(f"a map of box {len(volume)} for a pair of box {self._box}")
        if len(volume) == projection.box:
            projection.grid(volume, self.values, which, 2, scale)
        else:
            set_middle(projection, volume, self.values, which, 2, scale)


def set_middle(projection: Projection, volume: np.ndarray, out: np.ndarray, which: int, maps: int,
               scale: float) -> None:
    """Make a map of a smaller box number `which` of an extended grid's maps,
    as ``Projection.grid`` does of one of its own box.

    What is beyond the map's frequencies stays: zero, unless a finer map was there.
    """
    small = coarse_projection(projection, len(volume))
    planes = planes_of(volume, small.padded, small.threads, np.float32(np.cbrt(scale)) / small.apodisation)
    read_spectrum(planes, lambda half, a, b: insert(half, out, which, maps, (a, b)), small.threads)
