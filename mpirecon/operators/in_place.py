"""FFTs of real maps in the memory of their half transforms, plane by plane: no second array as large is made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

#: bytes of planes that are transformed at once
_CACHE = 4_000_000


def transform_of(box: int, planes: Callable[[slice], np.ndarray], dtype=np.float32) -> np.ndarray:
    """``scipy.fft.rfftn`` of the map whose planes z are ``planes(slice)``, (n, n, n // 2 + 1), as exact as `dtype`."""
    return transforms_of(box, 1, lambda some: (planes(some),), dtype)[0]


def transforms_of(
    box: int, maps: int, planes: Callable[[slice], tuple[np.ndarray, ...]], dtype=np.float32
) -> tuple[np.ndarray, ...]:
    """As ``transform_of``, of several maps, whose planes are made together."""
    halves = [np.empty((box, box, box // 2 + 1), np.result_type(dtype, np.complex64)) for _ in range(maps)]
    for some in _pieces(halves[0]):
        for half, values in zip(halves, planes(some)):
            half[some] = scipy.fft.rfft(np.asarray(values, dtype), axis=2)
    return tuple(_across(scipy.fft.fft, half, None) for half in halves)


def real_of_half(half: np.ndarray, n: int, workers: int | None = None) -> np.ndarray:
    """``scipy.fft.irfftn`` of a half transform (…, …, n // 2 + 1), which is overwritten: (…, …, n) real, rows apart in
    its memory."""
    half = _across(scipy.fft.ifft, half, workers)
    real = half.view(half.real.dtype)[..., :n]
    for some in _pieces(half):
        real[some] = scipy.fft.irfft(half[some], n, axis=2, workers=workers)
    return real


def map_of(half: np.ndarray) -> np.ndarray:
    """As ``real_of_half``, of a map (n, n, n // 2 + 1) → (n, n, n), voxels side by side."""
    n = len(half)
    real = real_of_half(half, n)
    flat = real.base.view(real.dtype).reshape(-1)
    for z in range(n):
        flat[z * n * n : (z + 1) * n * n] = real[z].reshape(-1)
    return flat[: n**3].reshape(n, n, n)


def half_of_real(real: np.ndarray, workers: int | None = None) -> np.ndarray:
    """``scipy.fft.rfftn`` of what ``real_of_half`` gave, which is overwritten, in the same memory."""
    n = real.shape[2]
    half = real.base.view(np.complex64).reshape(*real.shape[:2], n // 2 + 1)
    for some in _pieces(half):
        half[some] = scipy.fft.rfft(real[some], axis=2, workers=workers)
    return _across(scipy.fft.fft, half, workers)


def _across(transform, half: np.ndarray, workers: int | None) -> np.ndarray:
    for axis in (0, 1):
        half = transform(half, axis=axis, overwrite_x=True, workers=workers)
    return half


def _pieces(half: np.ndarray):
    step = max(1, _CACHE // half[0].nbytes)
    return [slice(first, first + step) for first in range(0, len(half), step)]
