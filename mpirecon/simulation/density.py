"""Density on a grid: band limit, and exact resampling of a map to another box and pixel size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.validate.masks import cosine_edge, soft_sphere


def band_limit(volume: np.ndarray, edge: float = 2.0) -> np.ndarray:
    """Remove what no image can show: everything at and beyond Nyquist, (n, n, n) → float32.

    The Fourier ball ends with a raised cosine over the last `edge` shells; the corners of the cube go.
    """
    n = volume.shape[0]
    k2 = fft.fftfreq(n, 1.0 / n).astype(np.float32) ** 2
    x2 = np.arange(n // 2 + 1, dtype=np.float32) ** 2
    transform = fft.rfftn(np.asarray(volume, np.float32))
    for plane, z2 in zip(transform, k2):
        plane *= cosine_edge(np.sqrt(z2 + k2[:, None] + x2) - (n / 2 - edge), edge)
    return fft.irfftn(transform, s=volume.shape).astype(np.float32, copy=False)


class Resampled(NamedTuple):
    """density : (box, box, box) float32 · solvent : level that was subtracted · lost : fraction of the power (0 … 1) that
    lay outside the sphere that fits into the new box."""

    density: np.ndarray
    solvent: float
    lost: float


def resample_map(volume: np.ndarray, pixel_size: float, box: int, new_pixel_size: float) -> Resampled:
    """A map on another grid about the same origin (voxel n // 2 → voxel box // 2), any ratio of pixel sizes.

    The solvent level (median of the outer faces) is subtracted, so that the surroundings are 0 and a larger box
    adds no step; then trigonometric interpolation along each axis, which is exact for the frequencies both grids
    hold; then a soft sphere inside the box, outside of which a rotated density would be cut. Density values keep
    their scale: a voxel of the new map has the old map's value at that point, low-passed to the new Nyquist.

    volume : (n, n, n) float, sizes in Å. Raises UserError when nothing is left.
    """
    n = volume.shape[0]
    solvent = float(np.median(np.concatenate([np.take(volume, (0, -1), axis=axis).ravel() for axis in range(3)])))
    out = np.asarray(volume, np.float32) - np.float32(solvent)
    matrix = interpolation_matrix(n, pixel_size, box, new_pixel_size).astype(np.float32)
    for axis in range(3):
        out = np.moveaxis(np.tensordot(matrix, out, axes=(1, axis)), 0, axis)
    inside = out * support(box)
    power = float(np.vdot(out, out))
    if not np.isfinite(power):
        raise UserError("voxels of the map are no finite numbers (NaN or infinite): nothing can be simulated from it")
    if not power > 0:
        raise UserError("the map is constant: there is no density to simulate from")
    return Resampled(band_limit(inside), solvent, 1 - float(np.vdot(inside, inside)) / power)


def support(box: int) -> np.ndarray:
    """The soft sphere that fits into the box with a voxel to spare, (box, box, box) float32."""
    edge = max(2.0, 0.05 * box)
    return soft_sphere(box, (box - 1) // 2 - 1 - edge, edge)


def interpolation_matrix(n: int, pixel_size: float, new_n: int, new_pixel_size: float) -> np.ndarray:
    """Trigonometric interpolation from n to new_n points about the origins n // 2, new_n // 2; (new_n, n) float64.

    Frequencies below both Nyquist limits pass unchanged, others go; points outside the old box get 0.
    """
    length = n * pixel_size
    x = (np.arange(new_n) - new_n // 2) * new_pixel_size
    highest = int(np.ceil(length / (2 * max(pixel_size, new_pixel_size)))) - 1
    u = x[:, None] / length - (np.arange(n) - n // 2) / n
    u -= np.rint(u)  # the kernel is periodic; near 0 its quotient needs care
    small = np.abs(u) < 1e-9
    kernel = np.sin(np.pi * (2 * highest + 1) * u) / np.sin(np.pi * np.where(small, 0.5, u))
    kernel[small] = 2 * highest + 1
    kernel[np.abs(x) > length / 2 + 1e-9] = 0
    return kernel / n
