"""Kernels over a padded half grid (p, p, p//2 + 1) whose factors depend on the radius only.

A point's shell is its distance from zero frequency in *image* pixels, rounded; points beyond the last shell take the
last value. first, last : the rows ky to work on, all when left out; arrays that are written hold these alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.sphere import numbers_of


def row_room(points: int) -> np.ndarray:
    """Room for the shells of a row's points: kernels that make arrays of their own need Numba while they run."""
    return np.empty(points, np.int32)


@njit(inline="always")
def shells_of_row(kz, ky, p, ratio, last, out):
    """The shell of each of a row's first points, out : (points,) int32, which a processor finds many at a time; `last`
    of those beyond it."""
    z = kz - p if kz > p // 2 else kz
    y = ky - p if ky > p // 2 else ky
    k2, shells = float(z * z + y * y), 1 / ratio
    for kx in range(out.size):
        out[kx] = min(np.int32(np.sqrt(k2 + float(kx * kx)) * shells + 0.5), last)


def radial_sum(values, stride, component, ratio, total, first=0, last=-1) -> None:
    """Add a (p, p, (p//2 + 1)·stride) float32 array's component, of the whole grid, into total[shell] (float64).

    first, last : here the planes kz.
    """
    p, _, width = values.shape
    rows = width * np.arange(p * p).reshape(p, p), np.full((p, p), width)
    _radial_sum(values.reshape(-1), *rows, stride, component, ratio, row_room(p // 2 + 1), total, first,
                p if last < 0 else last)


def weight_sum(folded, ratio, total, first=0, last=-1) -> None:
    """As ``radial_sum``, of the weights of a folded accumulator (p, p, p//2 + 1, 3) float32, whole or packed."""
    _radial_sum(*numbers_of(folded), 3, 2, ratio, row_room(len(folded) // 2 + 1), total, first,
                len(folded) if last < 0 else last)


@lru_cache(maxsize=8)
def shell_points(p: int, ratio: float, shells: int) -> np.ndarray:
    """Points of the whole grid in each shell, (shells,) float64, read-only."""
    count, width = np.zeros(shells), p // 2 + 1
    rows = np.zeros((p, p), np.int64), np.full((p, p), width)  # all are one row of ones
    _radial_sum(np.ones(width, np.float32), *rows, 1, 0, ratio, row_room(width), count, 0, p)
    count.setflags(write=False)
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _radial_sum(values, start, length, stride, component, ratio, shell, total, first, last):
    """start, length : (p, p) int64, where each row begins among the values, and how many it has; the rest are zero."""
    p = start.shape[0]
    beyond = np.int32(total.size - 1)
    for kz in range(first, last):
        for ky in range(p):
            at, here = start[kz, ky] + component, length[kz, ky] // stride
            shells_of_row(kz, ky, p, ratio, beyond, shell[:here])
            for kx in range(here):
                friedel = 1.0 if kx == 0 or 2 * kx == p else 2.0
                total[shell[kx]] += friedel * values[at + kx * stride]


def divide_regularised(folded, ridge, ratio, out, first=0, last=-1) -> None:
    """out = numerator / (weight + ridge[shell]) of a folded (p, p, p//2 + 1, 3) float32 accumulator, whole or packed;
    0 where 0/0."""
    _divide_regularised(*numbers_of(folded), ridge, ratio, row_room(len(folded) // 2 + 1), out, first,
                        len(folded) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _divide_regularised(values, start, length, ridge, ratio, shell, out, first, last):
    p = start.shape[0]
    beyond = np.int32(ridge.size - 1)
    for kz in range(p):
        for ky in range(first, last):
            at, here = start[kz, ky], length[kz, ky] // 3
            shells_of_row(kz, ky, p, ratio, beyond, shell[:here])
            for kx in range(here):
                w = values[at + 3 * kx + 2] + ridge[shell[kx]]
                w = 1 / w if w > 0 else 0.0
                out[kz, ky - first, kx] = complex(values[at + 3 * kx] * w, values[at + 3 * kx + 1] * w)
            for kx in range(here, p // 2 + 1):
                out[kz, ky - first, kx] = 0


def precondition(spectrum, folded, ridge, ratio, first=0, last=-1) -> None:
    """spectrum /= weight + ridge[shell], in place; zero where that is not positive. folded : whole or packed"""
    _precondition(spectrum, *numbers_of(folded), ridge, ratio, row_room(len(folded) // 2 + 1), first,
                  len(folded) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _precondition(spectrum, values, start, length, ridge, ratio, shell, first, last):
    p = start.shape[0]
    beyond = np.int32(ridge.size - 1)
    for kz in range(p):
        for ky in range(first, last):
            at, here = start[kz, ky], length[kz, ky] // 3
            shells_of_row(kz, ky, p, ratio, beyond, shell)
            for kx in range(p // 2 + 1):
                w = ridge[shell[kx]] + (values[at + 3 * kx + 2] if kx < here else 0.0)
                spectrum[kz, ky - first, kx] *= np.float32(1 / w if w > 0 else 0.0)


def multiply_regularised(spectrum, transfer, ridge, ratio, first=0, last=-1) -> None:
    """spectrum *= transfer + ridge[shell], in place; transfer : (p, p, p//2 + 1) float32."""
    _multiply_regularised(spectrum, transfer, ridge, ratio, row_room(len(transfer) // 2 + 1), first,
                          len(transfer) if last < 0 else last)


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply_regularised(spectrum, transfer, ridge, ratio, shell, first, last):
    p = transfer.shape[0]
    beyond = np.int32(ridge.size - 1)
    for kz in range(p):
        for ky in range(first, last):
            shells_of_row(kz, ky, p, ratio, beyond, shell)
            for kx in range(p // 2 + 1):
                spectrum[kz, ky - first, kx] *= np.float32(transfer[kz, ky, kx] + ridge[shell[kx]])
