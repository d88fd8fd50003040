"""Backprojection: numerator and weight spread together onto an extended Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import later, njit
from mpirecon.kernels.gridding import DEGREE, GROUP, MARGIN, first_tap
from mpirecon.kernels.project import frequencies, places, powers_of
from mpirecon.kernels.tiles import COUNT, FIRST, IMAGE, SIGN

locate, prefetch, spread = later("mpirecon.kernels.vectors", "locate", "prefetch", "spread")

#: below any x: no sample is turned round then
_NEVER = -1e300


def whole_slices(images: int, samples: int) -> np.ndarray:
    """The runs of everything: each image's samples in one, those of negative x turned round one by one.
    (images, 5) int32."""
    runs = np.zeros((images, 5), np.int32)
    runs[:, IMAGE], runs[:, COUNT], runs[:, SIGN] = np.arange(images), samples, 0
    return runs


@lru_cache(maxsize=None)
def make_backproject(taps: int, exact: bool = False):
    """``backproject(grid, table, rotation, ratio, kx, ky, numerator, weight, runs)`` adds slices to the grid.

    grid : (nz, ny, 3·nx) float32, (re, im, weight) interleaved along x so that one vector access updates the three,
        zero frequency at [nz//2, ny//2, 3·MARGIN], added to in place
    rotation : (m, 3, 3) float64
    ratio : padded box / box
    kx, ky : (s,) int32, kx ≥ 0
    numerator : (m, s) complex64
    weight : (m, s) float32
    runs : (n, 5) int32, which samples, as ``tiles.make_cut`` writes them; all, when left out. Runs of tiles that are
        far enough apart may be added by several threads at once.
    An `exact` one adds the nearest whole numbers to a grid of int64, the same whatever the runs and their order.
    It is the transpose of ``project`` for (re, im), and spreads the weight with the same taps.
    """
    reach, _ = first_tap(taps)
    last_power = DEGREE[taps]
    length = 3 * taps
    single, pair = GROUP, 2 * GROUP  # floats of a group's weights, and of its complex numbers

    @njit(cache=True, nogil=True, fastmath=not exact, error_model="numpy")
    def kernel(grid, powers, rotation, ratio, k, q, where, weights, numerator, weight, runs):
        place = where, weights
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        origin = (
            (grid.shape[0] // 2 - reach) * stride_z + (grid.shape[1] // 2 - reach) * stride_y + 3 * (MARGIN - reach)
        )
        # of the samples to be added, and those ahead of them to be located: the next of the run, or the next run's
        run = i = -1
        first = stop = slot = 0
        sign = np.float32(1)
        while run < runs.shape[0]:
            ahead, ahead_run, ahead_i = slot ^ GROUP, run, i
            ahead_first, ahead_stop, ahead_sign = first + GROUP, stop, sign
            if ahead_first >= stop:
                ahead_run += 1
                if ahead_run < runs.shape[0]:
                    ahead_i, ahead_first = runs[ahead_run, IMAGE], runs[ahead_run, FIRST]
                    ahead_stop = ahead_first + runs[ahead_run, COUNT]
                    ahead_sign = np.float32(-1 if runs[ahead_run, SIGN] < 0 else 1)
            if ahead_run < runs.shape[0]:
                by, least = ratio * ahead_sign, 0.0 if runs[ahead_run, SIGN] == 0 else _NEVER
                r = rotation[ahead_i]
                locate(
                    powers, k, q, ahead_first, r[0, 0] * by, r[1, 0] * by, r[0, 1] * by, r[1, 1] * by, r[0, 2] * by,
                    r[1, 2] * by,
                    stride_z, stride_y, 3, least, place, ahead, taps, last_power,
                )  # fmt: skip
                # runs that follow each other are of different images
                prefetch(numerator, ahead_i * numerator.shape[1] + 2 * ahead_first, 0, 0, pair, 1)
                prefetch(weight, ahead_i * weight.shape[1] + ahead_first, 0, 0, single, 1)
            members = min(GROUP, stop - first)
            for j in range(members):
                s = first + j
                prefetch(grid, origin + where[ahead + j], stride_z, stride_y, length, taps)
                # kept to the stored half: the conjugate sample at −k
                spread(
                    grid, origin + where[slot + j], stride_z, stride_y, weights, slot + j, numerator[i, 2 * s],
                    sign * weights[3 * taps, slot + j] * numerator[i, 2 * s + 1], weight[i, s], taps,
                )  # fmt: skip
            for j in range(members, GROUP):
                prefetch(grid, origin + where[ahead + j], stride_z, stride_y, length, taps)
            run, i, first, stop, slot, sign = ahead_run, ahead_i, ahead_first, ahead_stop, ahead, ahead_sign

    def backproject(grid, table, rotation, ratio, kx, ky, numerator, weight, runs=None):
        runs = whole_slices(len(rotation), kx.size) if runs is None else runs
        kernel(grid, powers_of(table), rotation, ratio, *frequencies(kx, ky), *places(taps), numerator.view(np.float32),
               weight, runs)

    return backproject
