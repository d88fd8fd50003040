"""Fourier shell correlation, and the shells it is made of.

Shell s holds the Fourier samples whose integer radius |k| rounds to s, s = 0 … n // 2, as in RELION.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.kernels.radial import radial_sum, shell_points
from mpirecon.kernels.shells import correlate_shells, scale_shells
from mpirecon.operators.in_place import inside_of, map_of, transform_of, transforms_of
from mpirecon.validate.masks import SoftMask
#: at which resolutions are reported
THRESHOLDS = (0.5, 0.143)


@lru_cache(maxsize=8)
def shell_index(box: int, ndim: int = 3) -> np.ndarray:
    """Shell of every sample of a half transform (``scipy.fft.rfftn`` order), read-only.

    Returns
    -------
    (box, …, box // 2 + 1) int16, with `ndim` axes
        Samples in the corners, beyond shell box // 2, keep their own larger number.
    """
    k2 = np.zeros((1,) * ndim)
    for axis in range(ndim):
        k = np.arange(box // 2 + 1) if axis == ndim - 1 else fft.fftfreq(box, 1.0 / box)
        k2 = k2 + k.reshape([-1 if a == axis else 1 for a in range(ndim)]) ** 2
    shells = np.rint(np.sqrt(k2)).astype(np.int16)
    shells.setflags(write=False)
    return shells


def friedel_weight(box: int) -> np.ndarray:
    """How many samples of the full transform each column of the half transform stands for, (box // 2 + 1,) float64.

    Columns kx = 0 and, in an even box, kx = box / 2 hold both members of their Friedel pairs; the others hold one.
    """
    weight = np.full(box // 2 + 1, 2.0)
    weight[0] = 1.0
    if box % 2 == 0:
        weight[-1] = 1.0
    return weight


def shell_sum(half_transform: np.ndarray, box: int) -> np.ndarray:
    """Sums per shell of a real (…, box // 2 + 1) half-transform array over the full transform,
    (box // 2 + 1,) float64."""
    if half_transform.ndim == 3:
        total = np.zeros(box // 2 + 2)  # the last is of what lies beyond
        radial_sum(half_transform, 1, 0, 1.0, total)
        return total[:-1]
    shells, weight = shell_index(box, half_transform.ndim), friedel_weight(box)
    total = np.zeros(box // 2 + 1)
    for values, shell in zip(half_transform, shells):
        total += np.bincount(shell.ravel(), (values * weight).ravel(), minlength=box + 1)[: box // 2 + 1]
    return total


@lru_cache(maxsize=8)
def shell_count(box: int, ndim: int = 3) -> np.ndarray:
    """Samples of the full transform in each shell, (box // 2 + 1,) float64, read-only."""
    if ndim == 3:
        return shell_points(box, 1.0, box // 2 + 2)[:-1]
    count = shell_sum(np.ones((box,) * (ndim - 1) + (box // 2 + 1,)), box)
    count.setflags(write=False)
    return count


def fsc(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Fourier shell correlation of two maps (Harauz & van Heel 1986).

    Parameters
    ----------
    a, b : (n, n, n) float
    mask : (n, n, n) float, optional
        multiplies both maps first. A mask correlates the maps by itself: the sharper, the more.

    Returns
    -------
    (n // 2 + 1,) float64
        0 in shells where either map has no power at all.

    Raises
    ------
    UserError
        when the arrays are not cubes of one size, or hold NaN or infinity.
    """
    return fsc_of_transforms(*masked_transforms(a, b, mask), len(a))


def masked_transforms(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray | SoftMask | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Half transforms, (n, n, n // 2 + 1) complex, of what `fsc` compares; for parameters and errors see there."""
    a, b = _checked(a, "first map"), _checked(b, "second map")
    mask = mask if mask is None or isinstance(mask, SoftMask) else _checked(mask, "mask")
    for other, name in ((b, "second map"), (mask, "mask")):
        if other is not None and other.shape != a.shape:
            raise UserError(f"FSC: the first map has shape {a.shape}, the {name} {other.shape}; they must be the same")
    if mask is None:
        return masked_transform(a), masked_transform(b)

    def planes(some: slice) -> tuple[np.ndarray, np.ndarray]:
        inside = mask[some]
        return a[some] * inside, b[some] * inside

    return transforms_of(len(a), 2, planes, np.result_type(a, b, mask[:1]))


def masked_transform(volume: np.ndarray, mask: np.ndarray | SoftMask | None = None) -> np.ndarray:
    """Half transform (n, n, n // 2 + 1) complex of a map (n, n, n), times a mask if one is given."""
    if mask is None:
        return transform_of(len(volume), lambda some: volume[some], volume.dtype)
    exact = np.result_type(volume, mask[:1])
    inside = inside_of(mask) if isinstance(mask, np.ndarray) else None  # a sphere reaches most of the box
    return transform_of(len(volume), lambda some: volume[some] * mask[some], exact, inside)


def fsc_of_transforms(fa: np.ndarray, fb: np.ndarray, box: int) -> np.ndarray:
    """FSC of two half transforms, (n, n, n // 2 + 1) complex each, in ``rfftn`` order. (n // 2 + 1,) float64."""
    sums = np.zeros((3, box // 2 + 1))
    correlate_shells(fa, fb, sums)
    norm = np.sqrt(sums[1] * sums[2])
    return np.divide(sums[0], norm, out=np.zeros_like(norm), where=norm > 0)


def filter_transform(transform: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The map, (n, n, n) float32, of a half transform with each shell times its gain; overwrites the transform.

    gain : (m,) with m ≤ n // 2 + 1; shells beyond it are silenced
    """
    n = transform.shape[0]
    full = np.zeros(n // 2 + 2, np.float32)
    full[: min(len(gain), n // 2 + 1)] = gain[: n // 2 + 1]
    scale_shells(transform, full)
    return map_of(transform).astype(np.float32, copy=False)


def lowest_frequencies(transform: np.ndarray, size: int) -> np.ndarray:
    """Those of a half transform (n, n, n // 2 + 1) that a map of `size` voxels a side holds, of the same sum and
    origin; size even, below n."""
    box = transform.shape[0]
    k = np.concatenate([np.arange(size // 2), np.arange(-(size // 2), 0)])
    out = transform[np.ix_(k, k, np.arange(size // 2 + 1))]
    if box % 2:  # its origin is half a voxel before the middle, where an even box has its own
        ramp = np.exp(-1j * np.pi / box * k).astype(out.dtype)
        out *= ramp[:, None, None]
        out *= ramp[:, None] * np.exp(-1j * np.pi / box * np.arange(size // 2 + 1)).astype(out.dtype)
    return out


def filter_shells(volume: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """As `filter_transform`, of a map (n, n, n)."""
    return filter_transform(fft.rfftn(np.asarray(volume, np.float32)), gain)


def crossing(curve: np.ndarray, threshold: float, box: int, pixel_size: float) -> float | None:
    """Resolution in Å where an FSC curve first falls below `threshold`, linear between shells.

    None when it never does. Shell 0, the maps' mean, counts as 1: a curve that is below from the first shell on
    gives a resolution longer than the box.
    """
    curve = np.array(curve, dtype=np.float64)
    if not np.isfinite(curve).all():
        curve = np.nan_to_num(curve)
    curve[0] = 1.0
    below = curve < threshold
    s = int(below.argmax())
    if not below[s]:
        return None
    at = s - 1 + (curve[s - 1] - threshold) / (curve[s - 1] - curve[s])
    return box * pixel_size / at


def _checked(array, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 3 or len(set(array.shape)) != 1:
        raise UserError(f"FSC: the {name} must be a cube (n, n, n), got shape {array.shape}")
    if array.dtype == np.float16 or array.dtype.kind != "f":
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"FSC: the {name} holds {np.count_nonzero(~np.isfinite(array))} NaN or infinite voxels")
    return array
