"""Kernels over a padded half grid (p, p, p//2 + 1) whose factors depend on the radius only.

A point's shell is its distance from zero frequency in *image* pixels, rounded; points beyond the last shell take the
last value. first, last : the rows ky to work on, all when left out; arrays that are written hold these alone.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.sphere import numbers_of


def shell_limits(shells: int, ratio: float) -> np.ndarray:
    """k² from which on each of the shells 0 … shells is left for the next, float64; the last is never left."""
    out = ((np.arange(shells) + 0.5) * ratio) ** 2
    out[-1] = np.inf
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


def radial_sum(values, stride, component, ratio, total, count, first=0, last=-1) -> None:
    """Add a (p, p, (p//2 + 1)·stride) float32 array's component into total[shell], count[shell] (float64).

    first, last : here the planes kz.
    """
    p, _, width = values.shape
    rows = width * np.arange(p * p).reshape(p, p), np.full((p, p), width)
    _radial_sum(values.reshape(-1), *rows, stride, component, shell_limits(total.size, ratio), total, count, first,
                p if last < 0 else last)


def weight_sum(folded, ratio, total, count, first=0, last=-1) -> None:
    """As ``radial_sum``, of the weights of a folded accumulator (p, p, p//2 + 1, 3) float32, whole or packed."""
    _radial_sum(*numbers_of(folded), 3, 2, shell_limits(total.size, ratio), total, count, first,
                len(folded) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _radial_sum(values, start, length, stride, component, limits, total, count, first, last):
    """start, length : (p, p) int64, where each row begins among the values, and how many it has; the rest are zero."""
    p = start.shape[0]
    for kz in range(first, last):
        for ky in range(p):
            k2, s = row_start(kz, ky, p, limits)
            at, here = start[kz, ky] + component, length[kz, ky] // stride
            some = number = 0.0  # of this shell, in registers until the next begins
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    total[s] += some
                    count[s] += number
                    some = number = 0.0
                    s += 1
                friedel = 1.0 if kx == 0 or 2 * kx == p else 2.0
                if kx < here:
                    some += friedel * values[at + kx * stride]
                number += friedel
            total[s] += some
            count[s] += number


def divide_regularised(folded, ridge, ratio, out, first=0, last=-1) -> None:
    """out = numerator / (weight + ridge[shell]) of a folded (p, p, p//2 + 1, 3) float32 accumulator, whole or packed;
    0 where 0/0."""
    _divide_regularised(*numbers_of(folded), ridge, shell_limits(ridge.size, ratio), out, first,
                        len(folded) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _divide_regularised(values, start, length, ridge, limits, out, first, last):
    p = start.shape[0]
    for kz in range(p):
        for ky in range(first, last):
            k2, s = row_start(kz, ky, p, limits)
            at, here = start[kz, ky], length[kz, ky] // 3
            for kx in range(here):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                w = values[at + 3 * kx + 2] + ridge[s]
                w = 1 / w if w > 0 else 0.0
                out[kz, ky - first, kx] = complex(values[at + 3 * kx] * w, values[at + 3 * kx + 1] * w)
            for kx in range(here, p // 2 + 1):
                out[kz, ky - first, kx] = 0


def precondition(spectrum, folded, ridge, ratio, first=0, last=-1) -> None:
    """spectrum /= weight + ridge[shell], in place; zero where that is not positive. folded : whole or packed"""
    _precondition(spectrum, *numbers_of(folded), ridge, shell_limits(ridge.size, ratio), first,
                  len(folded) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _precondition(spectrum, values, start, length, ridge, limits, first, last):
    p = start.shape[0]
    for kz in range(p):
        for ky in range(first, last):
            k2, s = row_start(kz, ky, p, limits)
            at, here = start[kz, ky], length[kz, ky] // 3
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                w = ridge[s] + (values[at + 3 * kx + 2] if kx < here else 0.0)
                spectrum[kz, ky - first, kx] *= np.float32(1 / w if w > 0 else 0.0)


def multiply_regularised(spectrum, transfer, ridge, ratio, first=0, last=-1) -> None:
    """spectrum *= transfer + ridge[shell], in place; transfer : (p, p, p//2 + 1) float32."""
    _multiply_regularised(spectrum, transfer, ridge, shell_limits(ridge.size, ratio), first,
                          len(transfer) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply_regularised(spectrum, transfer, ridge, limits, first, last):
    p = transfer.shape[0]
    for kz in range(p):
        for ky in range(first, last):
            k2, s = row_start(kz, ky, p, limits)
            for kx in range(p // 2 + 1):
                while k2 + kx * kx >= limits[s]:
                    s += 1
                spectrum[kz, ky - first, kx] *= np.float32(transfer[kz, ky, kx] + ridge[s])
