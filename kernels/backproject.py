"""Backprojection: numerator and weight spread together onto an extended Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import DEGREE, MARGIN


@lru_cache(maxsize=None)
def make_backproject(taps: int):
    """``backproject(grid, table, rotation, ratio, kx, ky, numerator, weight)`` adds slices to the grid.

    grid : (nz, ny, 3·nx) float32, (re, im, weight) interleaved along x so that one vector access updates the
    three, zero frequency at [nz//2, ny//2, 3·MARGIN], added to in place · rotation : (m, 3, 3) float64 · ratio :
    padded box / box · kx, ky : (s,) int32, kx ≥ 0 · numerator : (m, s) complex64 · weight : (m, s) float32.
    It is the transpose of ``project`` for (re, im), and spreads the weight with the same taps.
    """
    reach = taps // 2 - 1
    last = DEGREE[taps]

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def backproject(grid, table, rotation, ratio, kx, ky, numerator, weight):
        along_x = np.empty(3 * taps, np.float32)
        along_y = np.empty(taps, np.float32)
        along_z = np.empty(taps, np.float32)
        centre_z, centre_y = grid.shape[0] // 2 - reach, grid.shape[1] // 2 - reach
        for i in range(rotation.shape[0]):
            r = rotation[i] * ratio
            for s in range(kx.size):
                x = r[0, 0] * kx[s] + r[1, 0] * ky[s]
                y = r[0, 1] * kx[s] + r[1, 1] * ky[s]
                z = r[0, 2] * kx[s] + r[1, 2] * ky[s]
                re, im, w = numerator[i, s].real, numerator[i, s].imag, weight[i, s]
                if x < 0:  # keep to the stored half: the conjugate sample at −k
                    x, y, z, im = -x, -y, -z, -im
                floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
                ix = 3 * (int(floor_x) + MARGIN - reach)
                iy = int(floor_y) + centre_y
                iz = int(floor_z) + centre_z
                tx = np.float32(x - floor_x - 0.5)
                ty = np.float32(y - floor_y - 0.5)
                tz = np.float32(z - floor_z - 0.5)
                for j in range(taps):
                    wx = wy = wz = table[j, last]
                    for d in range(last - 1, -1, -1):
                        wx = wx * tx + table[j, d]
                        wy = wy * ty + table[j, d]
                        wz = wz * tz + table[j, d]
                    along_x[3 * j] = wx * re
                    along_x[3 * j + 1] = wx * im
                    along_x[3 * j + 2] = wx * w
                    along_y[j] = wy
                    along_z[j] = wz
                for jz in range(taps):
                    for jy in range(taps):
                        factor = along_z[jz] * along_y[jy]
                        row = grid[iz + jz, iy + jy]
                        for j in range(3 * taps):
                            row[ix + j] += factor * along_x[j]

    return backproject
