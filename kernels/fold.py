"""Between a volume's real FFT and the extended half grid that gather and spread without wrapping round.

The extended grid holds MARGIN extra points on every side. ``extend`` copies periodic (and Friedel-conjugate)
values into the margins; ``fold`` is its exact transpose, plus the conjugate half that spreading left out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import MARGIN


def extended_shape(padded_box: int, components: int) -> tuple[int, int, int]:
    """Shape of an extended grid with `components` floats a point interleaved along x."""
    side = padded_box + 2 * MARGIN
    return side, side, components * (padded_box // 2 + 1 + 2 * MARGIN)


@njit(cache=True, nogil=True, error_model="numpy")
def extend(half, out):
    """half : (p, p, p//2 + 1) complex64 → out : extended_shape(p, 2) float32, zero frequency in the middle."""
    p = half.shape[0]
    columns = out.shape[2] // 2
    for z in range(out.shape[0]):
        kz = (z - out.shape[0] // 2) % p
        for y in range(out.shape[1]):
            ky = (y - out.shape[1] // 2) % p
            for x in range(columns):
                kx = x - MARGIN
                if 0 <= kx <= p // 2:
                    value = half[kz, ky, kx]
                elif kx < 0:
                    value = np.conj(half[-kz % p, -ky % p, -kx])
                else:
                    value = np.conj(half[-kz % p, -ky % p, p - kx])
                out[z, y, 2 * x] = value.real
                out[z, y, 2 * x + 1] = value.imag


@njit(cache=True, nogil=True, error_model="numpy")
def fold(grid, out):
    """grid : extended_shape(p, 3) float32 or int64 → out : (p, p, p//2 + 1, 3), overwritten.

    out holds (re, im, weight) of the sum over all samples and their Friedel mates, on the half grid.
    """
    p = out.shape[0]
    columns = grid.shape[2] // 3
    out[:] = 0
    for z in range(grid.shape[0]):
        kz = (z - grid.shape[0] // 2) % p
        for y in range(grid.shape[1]):
            ky = (y - grid.shape[1] // 2) % p
            for x in range(columns):
                kx = (x - MARGIN) % p
                re, im, w = grid[z, y, 3 * x], grid[z, y, 3 * x + 1], grid[z, y, 3 * x + 2]
                if kx <= p // 2:
                    out[kz, ky, kx, 0] += re
                    out[kz, ky, kx, 1] += im
                    out[kz, ky, kx, 2] += w
                mx, my, mz = -kx % p, -ky % p, -kz % p
                if mx <= p // 2:
                    out[mz, my, mx, 0] += re
                    out[mz, my, mx, 1] -= im
                    out[mz, my, mx, 2] += w
