"""Images and smooth volumes to another box and pixel size."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft


def resample(images: np.ndarray, inner: int, box: int, workers: int = 1) -> np.ndarray:
    """(m, n, n) → (m, box, box) float32, pixel n // 2 going to pixel box // 2: cut or padded around the centre, then
    cropped or padded in Fourier space.

    The `inner` pixels in the middle (with more than n, padded by the mean of each image's rim) become `box`, so that a
    pixel is inner / box times as large. White noise keeps its variance.
    Frequencies at or beyond either Nyquist are zero.
    """
    images = _cut(np.asarray(images, np.float32), inner)
    spectrum = fft.rfft2(np.roll(images, (-(inner // 2),) * 2, axis=(1, 2)), norm="ortho", workers=workers)
    out = np.zeros((len(images), box, box // 2 + 1), spectrum.dtype)
    reach = (min(inner, box) - 1) // 2  # the highest frequency that both have, Nyquist left out
    out[:, : reach + 1, : reach + 1] = spectrum[:, : reach + 1, : reach + 1]
    out[:, box - reach :, : reach + 1] = spectrum[:, inner - reach :, : reach + 1]
    small = fft.irfft2(out, s=(box, box), norm="ortho", workers=workers)
    return np.roll(small, (box // 2,) * 2, axis=(1, 2)).astype(np.float32, copy=False)


def linearly(field: np.ndarray, box: int) -> np.ndarray:
    """A smooth (n, n, n) float32 field on a grid of `box` voxels a side of the same field of view and origin, linear
    between its voxels and constant beyond them; itself where the grid is its own."""
    n = field.shape[0]
    if n == box:
        return field
    at = np.clip(n // 2 + (np.arange(box) - box // 2) * (n / box), 0, n - 1)
    low = np.minimum(at.astype(np.int64), n - 2)
    share = (at - low).astype(np.float32)
    planes = np.empty((n, box, box), np.float32)
    for plane, values in zip(planes, field):  # which fit a cache
        rows = _linear(values.T, low, share[:, None]).T
        plane[:] = _linear(rows, low, share[:, None])
    out = np.empty((box, box, box), np.float32)
    for plane, first, part in zip(out, low, share):
        np.multiply(planes[first], 1 - part, out=plane)
        plane += part * planes[first + 1]
    return out


def _linear(values: np.ndarray, low: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values between entry `low` of the first axis and the next, this share of the way."""
    return values[low] * (1 - share) + values[low + 1] * share


def _cut(images: np.ndarray, inner: int) -> np.ndarray:
    """The middle (m, inner, inner), padded where that is more than there is."""
    n = images.shape[-1]
    start = n // 2 - inner // 2
    if inner <= n:
        return images[:, start : start + inner, start : start + inner]
    rim = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1).mean(axis=1)
    out = np.broadcast_to(rim[:, None, None], (len(images), inner, inner)).copy()
    out[:, -start : n - start, -start : n - start] = images
    return out
