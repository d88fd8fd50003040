"""Pieces, holes and distances of what is marked in a map, by SciPy's ndimage without what it loads beside it."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.scipy_parts import part

#: voxels are neighbours that share a face
_NEIGHBOURS = (np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= 1).astype(bool)


def labels_of(marked: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers of the connected pieces of (·, ·, ·) bool, 1 and up, 0 where nothing is marked, and how many they are."""
    engine, found = part("scipy.ndimage._ni_label"), np.empty(marked.shape, np.int32)
    try:
        return found, int(engine._label(np.ascontiguousarray(marked), _NEIGHBOURS, found))
    except (AttributeError, TypeError, ValueError):
        from scipy import ndimage  # slow to load

        return ndimage.label(marked)


def filled(marked: np.ndarray) -> np.ndarray:
    """(·, ·, ·) bool, with the holes: what is not marked, nor connected to the rim."""
    outside, count = labels_of(~marked)
    at_rim = np.zeros(count + 1, bool)
    for axis in range(3):
        for end in (0, -1):
            at_rim[np.unique(np.take(outside, end, axis))] = True
    at_rim[0] = False
    return ~at_rim[outside]


def extent(marked: np.ndarray) -> tuple[slice, ...]:
    """The smallest part of (·, ·, ·) bool that holds all that is marked, of which there is some."""
    lines = (np.flatnonzero(marked.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def distance_to(marked: np.ndarray) -> np.ndarray:
    """Voxels from each to the nearest that is marked, of which there is some, float64; (·, ·, ·) bool."""
    engine = part("scipy.ndimage._nd_image")
    try:
        nearest = np.zeros((3, *marked.shape), np.int32)
        engine.euclidean_feature_transform((~marked).astype(np.int8), None, nearest)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        from scipy import ndimage  # slow to load

        return ndimage.distance_transform_edt(~marked)
    square = np.zeros(marked.shape)
    for axis, found in enumerate(nearest):
        away = found - np.arange(marked.shape[axis]).reshape([-1 if axis == a else 1 for a in range(3)])
        square += away.astype(np.float64) ** 2
    return np.sqrt(square, out=square)
