"""Projection: central slices gathered from an extended, deapodised Fourier grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import later, njit
from mpirecon.kernels.gridding import DEGREE, GROUP, MARGIN, first_tap

gather, locate, prefetch = later("mpirecon.kernels.vectors", "gather", "locate", "prefetch")


def frequencies(kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """kx and ky as ``locate`` takes them: (2, s + 2·GROUP) float64,
    with zeros behind for the group after the last one."""
    out = np.zeros((2, kx.size + 2 * GROUP))
    out[0, : kx.size], out[1, : kx.size] = kx, ky
    return out


def powers_of(table: np.ndarray) -> np.ndarray:
    """A kernel's table as ``locate`` takes it, (degree + 1, taps)."""
    return np.ascontiguousarray(table.T)


def places(taps: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the places of two groups of samples, as ``locate`` takes it. What a kernel fills for itself it is given,
    for machine code that makes arrays cannot be run without Numba."""
    return np.empty(2 * GROUP, np.int64), np.empty((3 * taps + 1, 2 * GROUP), np.float32)


@lru_cache(maxsize=None)
def make_project(taps: int):
    """``project(grid, table, rotation, ratio, kx, ky, out)``: slices of the grid, no CTF, no shift.

    grid : extended half grid, (nz, ny, 2·nx) float32, (re, im) interleaved along x, zero frequency at [nz//2, ny//2,
        2·MARGIN]
    rotation : (m, 3, 3) float64
    ratio : padded box / box
    kx, ky : (s,) int32, kx ≥ 0
    out : (m, s) complex64, overwritten.
    """
    reach, _ = first_tap(taps)
    last_power = DEGREE[taps]
    length = 2 * taps

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def kernel(grid, powers, rotation, ratio, k, q, where, weights, out):
        place = where, weights
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        origin = (
            (grid.shape[0] // 2 - reach) * stride_z + (grid.shape[1] // 2 - reach) * stride_y + 2 * (MARGIN - reach)
        )
        for i in range(rotation.shape[0]):
            xx, xy = rotation[i, 0, 0] * ratio, rotation[i, 1, 0] * ratio
            yx, yy = rotation[i, 0, 1] * ratio, rotation[i, 1, 1] * ratio
            zx, zy = rotation[i, 0, 2] * ratio, rotation[i, 1, 2] * ratio
            locate(powers, k, q, 0, xx, xy, yx, yy, zx, zy, stride_z, stride_y, 2, 0.0, place, 0, taps, last_power)
            for first in range(0, out.shape[1], GROUP):
                slot, ahead = first & GROUP, (first & GROUP) ^ GROUP
                locate(
                    powers, k, q, first + GROUP, xx, xy, yx, yy, zx, zy, stride_z, stride_y, 2, 0.0, place, ahead, taps,
                    last_power
                )
                for j in range(min(GROUP, out.shape[1] - first)):
                    prefetch(grid, origin + where[ahead + j], stride_z, stride_y, length, taps)
                    re, im = gather(grid, origin + where[slot + j], stride_z, stride_y, weights, slot + j, 2, taps)
                    # the other half of the grid is the complex conjugate
                    out[i, first + j] = complex(re, weights[3 * taps, slot + j] * im)

    def project(grid, table, rotation, ratio, kx, ky, out):
        kernel(grid, powers_of(table), rotation, ratio, *frequencies(kx, ky), *places(taps), out)

    return project
