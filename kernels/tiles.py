"""Samples of slices by tiles of the Fourier grid, so that threads can add to one grid without meeting.

A tile is all points (any x) of a range of z and a range of y. Every row of a slice is cut into runs, consecutive
samples whose first taps lie in one tile, and the runs are sorted by tile.
Tiles of one colour are more than a kernel's reach apart.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.gridding import first_tap

#: columns of a run, int32: the image, its first sample, how many there are,
#: −1 where they are turned round to −k and else 1, and the tile
IMAGE, FIRST, COUNT, SIGN, TILE = range(5)


@njit(inline="always")
def _inverse(slope):
    """1 / slope, finite."""
    return 1 / slope if slope < -1e-300 or slope > 1e-300 else 1e300


@njit(inline="always")
def _turn(slope, start, first, last):
    """The first k of first + 1 … last from which on slope · k + start is below zero, or not any more;
    last + 1 if there is none."""
    below = slope * last + start < 0
    if (slope * first + start < 0) == below:
        return last + 1
    k = int(min(max(np.ceil(-start * _inverse(slope)), first + 1.0), float(last)))  # by rounding, one of its neighbours
    while k > first + 1 and (slope * (k - 1) + start < 0) == below:
        k -= 1
    while (slope * k + start < 0) != below:
        k += 1
    return k


@njit(inline="always")
def _leaves(low, high, slope, inverse, start, k, last):
    """The first of k + 1 … last + 1 at which slope · k + start is not in low ≤ … < high any more."""
    if slope >= 0:
        at = np.ceil((high - start) * inverse)
    else:
        at = np.floor((low - start) * inverse) + 1
    return int(min(max(at, k + 1.0), last + 1.0))


def rows_of(kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """Where rows of consecutive kx at one ky begin, and the end, int64."""
    begins = (ky[1:] != ky[:-1]) | (kx[1:] != kx[:-1] + 1)
    return np.concatenate([[0], 1 + np.flatnonzero(begins), [kx.size]])


@lru_cache(maxsize=None)
def make_cut(taps: int):
    """``cut(rotation, ratio, kx, ky, rows, centre, edges_z, edges_y, colours, first_image, runs, counts)`` writes the
    runs of some images.

    rotation, ratio, kx, ky : as for ``backproject``
    rows : of ``rows_of``
    centre : (2,) float64, where zero frequency's first tap lies on z and y
    edges_z, edges_y : (tiles + 1,) int64, ascending, from 0 to the grid's end, of the first taps
    colours : (tiles on z, tiles on y) int32, the number of each tile
    first_image : what the first rotation's is
    runs : (capacity, 5) int32, overwritten
    counts : (2, tiles) int64, each tile's runs and samples are added
    Returns how many runs.
    A run's samples may lie one point beside their tile, by rounding.
    """
    _, beside = first_tap(taps)

    @njit(cache=True, nogil=True, error_model="numpy")
    def kernel(rotation, ratio, kx, ky, rows, centre, edges_z, edges_y, tile_z, tile_y, colours, first_image, runs,
               counts, found):
        n = 0
        for i in range(rotation.shape[0]):
            for row in range(rows.size - 1):
                begin, q = rows[row], ky[rows[row]]
                first_k, last_k = int(kx[begin]), int(kx[rows[row + 1] - 1])
                xx, xy = rotation[i, 0, 0], rotation[i, 1, 0] * q
                turn = _turn(xx, xy, first_k, last_k)
                for side in range(2):
                    k, last = (first_k, turn - 1) if side == 0 else (turn, last_k)
                    if k > last:
                        continue
                    sign = -1 if xx * k + xy < 0 else 1
                    slope_y, slope_z = sign * ratio * rotation[i, 0, 1], sign * ratio * rotation[i, 0, 2]
                    start_y = sign * ratio * rotation[i, 1, 1] * q + beside + centre[1]
                    start_z = sign * ratio * rotation[i, 1, 2] * q + beside + centre[0]
                    inverse_y, inverse_z = _inverse(slope_y), _inverse(slope_z)
                    while k <= last:
                        z = tile_z[min(max(int(np.floor(slope_z * k + start_z)), 0), tile_z.size - 1)]
                        y = tile_y[min(max(int(np.floor(slope_y * k + start_y)), 0), tile_y.size - 1)]
                        after = min(
                            _leaves(edges_z[z], edges_z[z + 1], slope_z, inverse_z, start_z, k, last),
                            _leaves(edges_y[y], edges_y[y + 1], slope_y, inverse_y, start_y, k, last),
                        )
                        runs[n, IMAGE], runs[n, FIRST], runs[n, COUNT] = first_image + i, begin + k - first_k, after - k
                        runs[n, SIGN], runs[n, TILE] = sign, colours[z, y]
                        counts[0, colours[z, y]] += 1
                        counts[1, colours[z, y]] += after - k
                        n += 1
                        k = after
        found[0] = n

    def cut(rotation, ratio, kx, ky, rows, centre, edges_z, edges_y, colours, first_image, runs, counts):
        # the tile of each point of an axis
        tile_z, tile_y = (np.repeat(np.arange(edges.size - 1), np.diff(edges)) for edges in (edges_z, edges_y))
        found = np.zeros(1, np.int64)
        kernel(rotation, ratio, kx, ky, rows, centre, edges_z, edges_y, tile_z, tile_y, colours, first_image, runs,
               counts, found)
        return int(found[0])

    return cut


@njit(cache=True, nogil=True, error_model="numpy")
def sort_runs(runs, at, out):
    """Put runs, (n, 5) int32, where their tiles' next ones go in `out`, from row at[tile] on;
    at : (tiles,) int64, moved on."""
    for r in range(runs.shape[0]):
        tile = runs[r, TILE]
        for column in range(5):
            out[at[tile], column] = runs[r, column]
        at[tile] += 1
