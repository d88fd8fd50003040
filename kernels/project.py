"""Projection: central slices gathered from an extended, deapodised Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import DEGREE, MARGIN, first_tap
from mpirecon.kernels.vectors import gather, prefetch

#: samples ahead whose cache lines are asked for: enough to hide the memory's latency, few enough to be there still
AHEAD = 8


@lru_cache(maxsize=None)
def make_project(taps: int):
    """``project(grid, table, rotation, ratio, kx, ky, out)``: slices of the grid, no CTF, no shift.

    grid : extended half grid, (nz, ny, 2·nx) float32, (re, im) interleaved along x, zero frequency at [nz//2, ny//2,
    2·MARGIN] · rotation : (m, 3, 3) float64 · ratio : padded box / box · kx, ky : (s,) int32, kx ≥ 0 · out : (m, s)
    complex64, overwritten.
    """
    reach, beside = first_tap(taps)
    last_power = DEGREE[taps]
    length = 2 * taps

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def project(grid, table, rotation, ratio, kx, ky, out):
        powers = table.T.copy()
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        origin = (grid.shape[0] // 2 - reach) * stride_z + (grid.shape[1] // 2 - reach) * stride_y + 2 * (MARGIN - reach)
        for i in range(rotation.shape[0]):
            xx, xy = rotation[i, 0, 0] * ratio, rotation[i, 1, 0] * ratio
            yx, yy = rotation[i, 0, 1] * ratio, rotation[i, 1, 1] * ratio
            zx, zy = rotation[i, 0, 2] * ratio, rotation[i, 1, 2] * ratio
            for s in range(kx.size):
                ahead = s + AHEAD
                if ahead < kx.size:
                    k, q = kx[ahead], ky[ahead]
                    x, y, z = xx * k + xy * q, yx * k + yy * q, zx * k + zy * q
                    if x < 0:
                        x, y, z = -x, -y, -z
                    where = int(np.floor(z + beside)) * stride_z + int(np.floor(y + beside)) * stride_y + 2 * int(np.floor(x + beside))
                    prefetch(grid, origin + where, stride_z, stride_y, length, taps, 0)
                x = xx * kx[s] + xy * ky[s]
                y = yx * kx[s] + yy * ky[s]
                z = zx * kx[s] + zy * ky[s]
                turned = x < 0
                if turned:  # the other half of the grid is the complex conjugate
                    x, y, z = -x, -y, -z
                x, y, z = x + beside, y + beside, z + beside
                floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
                where = int(floor_z) * stride_z + int(floor_y) * stride_y + 2 * int(floor_x)
                re, im = gather(
                    grid, powers, origin + where, stride_z, stride_y, np.float32(x - floor_x - 0.5),
                    np.float32(y - floor_y - 0.5), np.float32(z - floor_z - 0.5), 2, taps, last_power,
                )  # fmt: skip
                out[i, s] = complex(re, -im if turned else im)

    return project
