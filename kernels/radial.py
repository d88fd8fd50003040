"""Kernels over a padded half grid (p, p, p//2 + 1) whose factors depend on the radius only.

A point's shell is its distance from zero frequency in *image* pixels, rounded; points beyond the last shell
take the last value. first, last : the rows ky to work on, all when left out; arrays that are written hold these alone.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit


@njit(inline="always")
def shell_limits(shells, ratio):
    """k² from which on each of the shells 0 … shells is left for the next, float64; the last is never left."""
    out = np.empty(shells)
    for s in range(shells):
        out[s] = ((s + 0.5) * ratio) ** 2
    out[shells - 1] = np.inf
    return out


@njit(inline="always")
def row_start(kz, ky, p, limits):
    """k² of a row's first point, and its shell; along the row both only grow, so that no root need be taken."""
    z = kz - p if kz > p // 2 else kz
    y = ky - p if ky > p // 2 else ky
    k2, s = float(z * z + y * y), 0
    while k2 >= limits[s]:
        s += 1
    return k2, s


@njit(cache=True, nogil=True, error_model="numpy")
def radial_sum(values, stride, component, ratio, total, count, first=0, last=-1):
    """Add a (p, p, (p//2 + 1)·stride) float32 array's component into total[shell], count[shell] (float64).

    first, last : here the planes kz.
    """
    p = values.shape[0]
    limits = shell_limits(total.size, ratio)
    for kz in range(first, p if last < 0 else last):
        for ky in range(p):
            k2, s = row_start(kz, ky, p, limits)
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                friedel = 1.0 if kx == 0 or 2 * kx == p else 2.0
                total[s] += friedel * values[kz, ky, kx * stride + component]
                count[s] += friedel


@njit(cache=True, nogil=True, error_model="numpy")
def divide_regularised(folded, ridge, ratio, out, first=0, last=-1):
    """out = numerator / (weight + ridge[shell]) of a folded (p, p, p//2 + 1, 3) float32 accumulator; 0 where 0/0."""
    p = folded.shape[0]
    limits = shell_limits(ridge.size, ratio)
    for kz in range(p):
        for ky in range(first, p if last < 0 else last):
            k2, s = row_start(kz, ky, p, limits)
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                w = folded[kz, ky, kx, 2] + ridge[s]
                w = 1 / w if w > 0 else 0.0
                out[kz, ky - first, kx] = complex(folded[kz, ky, kx, 0] * w, folded[kz, ky, kx, 1] * w)


@njit(cache=True, nogil=True, error_model="numpy")
def precondition(spectrum, folded, ridge, ratio, first=0, last=-1):
    """spectrum /= weight + ridge[shell], in place; zero where that is not positive."""
    p = folded.shape[0]
    limits = shell_limits(ridge.size, ratio)
    for kz in range(p):
        for ky in range(first, p if last < 0 else last):
            k2, s = row_start(kz, ky, p, limits)
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                w = folded[kz, ky, kx, 2] + ridge[s]
                spectrum[kz, ky - first, kx] *= np.float32(1 / w if w > 0 else 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def multiply_regularised(spectrum, transfer, ridge, ratio, first=0, last=-1):
    """spectrum *= transfer + ridge[shell], in place; transfer : (p, p, p//2 + 1) float32."""
    p = transfer.shape[0]
    limits = shell_limits(ridge.size, ratio)
    for kz in range(p):
        for ky in range(first, p if last < 0 else last):
            k2, s = row_start(kz, ky, p, limits)
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                spectrum[kz, ky - first, kx] *= np.float32(transfer[kz, ky, kx] + ridge[s])
