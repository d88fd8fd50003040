"""Projection: central slices gathered from an extended, deapodised Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import DEGREE, MARGIN


@njit(inline="always", fastmath=True, error_model="numpy")
def gather(grid, table, x, y, z, scratch, taps, last):
    """One sample, (re, im), inlined into the kernels that need it.

    ``grid`` is an extended half grid, (nz, ny, 2·nx) float32 with (re, im) interleaved along x, zero frequency
    at [nz//2, ny//2, 2·MARGIN]. The caller has already turned x ≥ 0. ``scratch`` is (5, 2·taps) float32. ``taps`` and
    ``last``, the polynomials' degree, are constants where this is inlined. Not a closure: Numba's cache never finds a
    kernel again that encloses another compiled function.
    """
    reach = taps // 2 - 1
    floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
    ix = 2 * (int(floor_x) + MARGIN - reach)
    iy = int(floor_y) + grid.shape[1] // 2 - reach
    iz = int(floor_z) + grid.shape[0] // 2 - reach
    tx = np.float32(x - floor_x - 0.5)
    ty = np.float32(y - floor_y - 0.5)
    tz = np.float32(z - floor_z - 0.5)
    for j in range(taps):
        wx = wy = wz = table[j, last]
        for d in range(last - 1, -1, -1):
            wx = wx * tx + table[j, d]
            wy = wy * ty + table[j, d]
            wz = wz * tz + table[j, d]
        scratch[0, 2 * j] = wx
        scratch[0, 2 * j + 1] = wx
        scratch[1, j] = wy
        scratch[2, j] = wz
    for j in range(2 * taps):
        scratch[3, j] = np.float32(0)
    # rows of 2·taps consecutive floats: the innermost loop is what the compiler vectorises
    for jz in range(taps):
        for jy in range(taps):
            w = scratch[2, jz] * scratch[1, jy]
            row = grid[iz + jz, iy + jy]
            for j in range(2 * taps):
                scratch[3, j] += w * row[ix + j]
    re = im = np.float32(0)
    for j in range(taps):
        re += scratch[0, 2 * j] * scratch[3, 2 * j]
        im += scratch[0, 2 * j] * scratch[3, 2 * j + 1]
    return re, im


@lru_cache(maxsize=None)
def make_project(taps: int):
    """``project(grid, table, rotation, ratio, kx, ky, out)``: slices of the grid, no CTF, no shift.

    grid : extended half grid, (nz, ny, 2·nx) float32 · rotation : (m, 3, 3) float64 · ratio : padded box / box ·
    kx, ky : (s,) int32, kx ≥ 0 · out : (m, s) complex64, overwritten.
    """
    last = DEGREE[taps]

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def project(grid, table, rotation, ratio, kx, ky, out):
        scratch = np.empty((5, 2 * taps), np.float32)
        for i in range(rotation.shape[0]):
            r = rotation[i] * ratio
            for s in range(kx.size):
                x = r[0, 0] * kx[s] + r[1, 0] * ky[s]
                y = r[0, 1] * kx[s] + r[1, 1] * ky[s]
                z = r[0, 2] * kx[s] + r[1, 2] * ky[s]
                if x < 0:  # the other half of the grid is the complex conjugate
                    re, im = gather(grid, table, -x, -y, -z, scratch, taps, last)
                    out[i, s] = complex(re, -im)
                else:
                    re, im = gather(grid, table, x, y, z, scratch, taps, last)
                    out[i, s] = complex(re, im)

    return project
