"""Backprojection: numerator and weight spread together onto an extended Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import DEGREE, MARGIN, first_tap
from mpirecon.kernels.project import frequencies, places
from mpirecon.kernels.vectors import GROUP, locate, prefetch, spread

#: grid points beside a slab where samples are still looked at, for rounding and for slopes of nearly nothing
_BESIDE = 1e-6

#: a slab that holds the whole grid
EVERYTHING = 0, 0, 2**40


@njit(inline="always")
def _inverse(slope):
    """1 / slope, finite."""
    return 1 / slope if slope < -1e-300 or slope > 1e-300 else 1e300


@njit(inline="always")
def _inside(lowest, highest, inverse, start, first, last):
    """The k of first … last where lowest ≤ k / inverse + start < highest may hold, and few others."""
    a, b = (lowest - _BESIDE - start) * inverse, (highest + _BESIDE - start) * inverse
    if a > b:
        a, b = b, a
    return int(min(max(a - 0.01, first), last + 1.0)), int(min(max(b + 1.01, first - 1.0), last))


@njit(inline="always")
def _turn(inverse, start, first, last):
    """The first k of first … last + 1 at which k / inverse + start has the sign that it has at `last`, or one beside it."""
    return int(min(max(np.ceil(-start * inverse), first), last + 1.0))


@njit(cache=True, nogil=True)
def _rows(kx, ky):
    """Where rows of consecutive kx at one ky begin, and the end."""
    out = [0]
    for s in range(1, kx.size):
        if ky[s] != ky[s - 1] or kx[s] != kx[s - 1] + 1:
            out.append(s)
    out.append(kx.size)
    return np.array(out)


@lru_cache(maxsize=None)
def make_backproject(taps: int, exact: bool = False):
    """``backproject(grid, table, rotation, ratio, kx, ky, numerator, weight, slab)`` adds slices to the grid.

    grid : (nz, ny, 3·nx) float32, (re, im, weight) interleaved along x so that one vector access updates the
    three, zero frequency at [nz//2, ny//2, 3·MARGIN], added to in place · rotation : (m, 3, 3) float64 · ratio :
    padded box / box · kx, ky : (s,) int32, kx ≥ 0 · numerator : (m, s) complex64 · weight : (m, s) float32 ·
    slab : (axis, first, last), only samples whose first tap lies at first ≤ z < last (axis 0) or y (axis 1): threads that
    have slabs of their own, at least taps − 1 apart, share a grid without locks.
    An `exact` one adds the nearest whole numbers to a grid of int64, the same whatever the slabs and their order.
    It is the transpose of ``project`` for (re, im), and spreads the weight with the same taps.
    """
    reach, beside = first_tap(taps)
    last_power = DEGREE[taps]
    length = 3 * taps

    @njit(cache=True, nogil=True, fastmath=not exact, error_model="numpy")
    def kernel(grid, table, rotation, ratio, kx, ky, rows, numerator, weight, axis, lowest, highest):
        powers = table.T.copy()
        k, q = frequencies(kx, ky)
        place = where, weights = places(taps)
        along_z, along_y = (1, 0) if axis == 0 else (0, 1)
        centre_z, centre_y = grid.shape[0] // 2 - reach, grid.shape[1] // 2 - reach
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        origin = centre_z * stride_z + centre_y * stride_y + 3 * (MARGIN - reach)
        whole = lowest <= 0 and highest >= grid.shape[0] + grid.shape[1]
        centre = centre_z if axis == 0 else centre_y
        for i in range(rotation.shape[0]):
            xx, xy = rotation[i, 0, 0] * ratio, rotation[i, 1, 0] * ratio
            yx, yy = rotation[i, 0, 1] * ratio, rotation[i, 1, 1] * ratio
            zx, zy = rotation[i, 0, 2] * ratio, rotation[i, 1, 2] * ratio
            ux, uy = (zx, zy) if axis == 0 else (yx, yy)
            inverse_x, inverse_u = _inverse(xx), _inverse(ux)
            for row in range(rows.size - 1):
                begin, end = rows[row], rows[row + 1]
                # left of the turn x has one sign, from it on the other, and a negative x turns the sample round; one more k
                # on either side, as x may vanish at the turn
                first_k, last_k = int(kx[begin]), int(kx[end - 1])
                turn = first_k if whole else _turn(inverse_x, xy * ky[begin], first_k, last_k)
                for side in range(2):
                    start, stop = begin, end
                    turned = False
                    if whole:
                        if side == 0:
                            continue
                    else:
                        a, b = (first_k, min(turn, last_k)) if side == 0 else (max(turn - 1, first_k), last_k)
                        turned = (xx < 0) == (side == 1)
                        way = -1.0 if turned else 1.0
                        start_u = way * uy * ky[begin] + beside
                        a, b = _inside(lowest - centre, highest - centre, way * inverse_u, start_u, a, b)
                        start, stop = begin + a - first_k, begin + b + 1 - first_k
                    if start >= stop:
                        continue
                    locate(
                        powers, k, q, start, xx, xy, yx, yy, zx, zy, stride_z, stride_y, 3, along_z, along_y, place, 0, taps, last_power
                    )
                    for first in range(start, stop, GROUP):
                        slot = (first - start) & GROUP
                        ahead = slot ^ GROUP
                        # where these end, the next row's begin about where they did
                        after = min(first + GROUP if first + GROUP < stop else rows[row + 1] + start - begin, kx.size)
                        locate(
                            powers, k, q, after, xx, xy, yx, yy, zx, zy, stride_z, stride_y, 3, along_z, along_y, place, ahead, taps,
                            last_power,
                        )  # fmt: skip
                        for j in range(min(GROUP, stop - first)):
                            prefetch(grid, origin + where[0, ahead + j], stride_z, stride_y, length, taps, 1)
                            sign = weights[3 * taps, slot + j]
                            if not whole:
                                if (sign < 0) != turned:
                                    continue
                                u = where[1, slot + j] + centre
                                if u < lowest or u >= highest:
                                    continue
                            s = first + j
                            # kept to the stored half: the conjugate sample at −k
                            spread(
                                grid, origin + where[0, slot + j], stride_z, stride_y, weights, slot + j, numerator[i, s].real,
                                sign * numerator[i, s].imag, weight[i, s], taps,
                            )  # fmt: skip

    def backproject(grid, table, rotation, ratio, kx, ky, numerator, weight, slab=EVERYTHING):
        rows = np.array([0, kx.size]) if slab == EVERYTHING else _rows(kx, ky)
        kernel(grid, table, rotation, ratio, kx, ky, rows, numerator, weight, *slab)

    return backproject
