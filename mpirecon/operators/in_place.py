"""FFTs of real maps in the memory of their half transforms, plane by plane: no second array as large is made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.kernels import fft

#: bytes of planes that are transformed at once
_CACHE = 4_000_000


#: planes z and rows y of a map; it is zero in all others
Inside = tuple[slice, slice]


def inside_of(mask: np.ndarray) -> Inside:
    """Where a mask (n, n, n) is other than zero."""
    rows = mask.any(axis=2)
    found = (np.flatnonzero(rows.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0) for at in found)


def transform_of(box: int, planes: Callable[[slice], np.ndarray], dtype=np.float32,
                 inside: Inside | None = None) -> np.ndarray:
    """``scipy.fft.rfftn`` of the map whose planes z are ``planes(slice)``, (n, n, n // 2 + 1), as exact as `dtype`.

    inside : where the map is other than zero, if that is known: lines of zeros are left out
    """
    return transforms_of(box, 1, lambda some: (planes(some),), dtype, inside)[0]


def transforms_of(
    box: int, maps: int, planes: Callable[[slice], tuple[np.ndarray, ...]], dtype=np.float32,
    inside: Inside | None = None,
) -> tuple[np.ndarray, ...]:
    """As ``transform_of``, of several maps, whose planes are made together."""
    halves = [np.empty((box, box, box // 2 + 1), np.result_type(dtype, np.complex64)) for _ in range(maps)]
    z, y = inside or (slice(0, box), slice(0, box))
    for half in halves:
        _clear_outside(half, z, y)
    for some in _pieces(halves[0], z):
        for half, values in zip(halves, planes(some)):
            half[some, y] = fft.rfft(np.asarray(values, dtype)[:, y], axis=2)
    return tuple(_across(fft.fft, half, None, y) for half in halves)


def real_of_half(half: np.ndarray, n: int, workers: int | None = None) -> np.ndarray:
    """``scipy.fft.irfftn`` of a half transform (…, …, n // 2 + 1), which is overwritten: (…, …, n) real, rows apart in
    its memory."""
    half = _across(fft.ifft, half, workers)
    real = half.view(half.real.dtype)[..., :n]
    for some in _pieces(half):
        real[some] = fft.irfft(half[some], n, axis=2, workers=workers)
    return real


def map_of(half: np.ndarray) -> np.ndarray:
    """As ``real_of_half``, of a map (n, n, n // 2 + 1) → (n, n, n), voxels side by side."""
    n = len(half)
    real = real_of_half(half, n)
    flat = real.base.view(real.dtype).reshape(-1)
    for z in range(n):
        flat[z * n * n : (z + 1) * n * n] = real[z].reshape(-1)
    return flat[: n**3].reshape(n, n, n)


def half_of_real(real: np.ndarray, workers: int | None = None, inside: Inside | None = None) -> np.ndarray:
    """``scipy.fft.rfftn`` of what ``real_of_half`` gave, which is overwritten, in the same memory.

    inside : of a map that is to count as zero elsewhere
    """
    n = real.shape[2]
    half = real.base.view(np.complex64).reshape(*real.shape[:2], n // 2 + 1)
    z, y = inside or (slice(0, len(real)), slice(0, real.shape[1]))
    for some in _pieces(half, z):
        half[some, y] = fft.rfft(real[some, y], axis=2, workers=workers)
    _clear_outside(half, z, y)
    return _across(fft.fft, half, workers, y)


def _clear_outside(half: np.ndarray, z: slice, y: slice) -> None:
    for part in (half[: z.start], half[z.stop :], half[z, : y.start], half[z, y.stop :]):
        part[...] = 0


def _across(transform, half: np.ndarray, workers: int | None, rows: slice = slice(None)) -> np.ndarray:
    """Along z and y; rows : y that are other than zero"""
    found = transform(half[:, rows], axis=0, overwrite_x=True, workers=workers)
    if not np.shares_memory(found, half):  # it need not be in the same memory
        half[:, rows] = found
    return transform(half, axis=1, overwrite_x=True, workers=workers)


def _pieces(half: np.ndarray, planes: slice | None = None) -> list[slice]:
    step, planes = max(1, _CACHE // half[0].nbytes), planes or slice(0, len(half))
    return [slice(at, min(at + step, planes.stop)) for at in range(planes.start, planes.stop, step)]
