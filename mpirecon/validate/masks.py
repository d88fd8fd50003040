"""Soft masks: 1 inside, 0 outside, a raised-cosine edge between."""

from __future__ import annotations

import hashlib

import numpy as np

from mpirecon.errors import UserError


def radius_grid(box: int, ndim: int = 3) -> np.ndarray:
    """Distance of every voxel from the origin voxel box // 2, voxels, (box, …) float32 with `ndim` axes."""
    x2 = (np.arange(box, dtype=np.float32) - box // 2) ** 2
    r2 = np.float32(0)
    for axis in range(ndim):
        r2 = r2 + x2.reshape([-1 if a == axis else 1 for a in range(ndim)])
    return np.sqrt(r2)


def cosine_edge(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 where distance ≤ 0, 0 where distance ≥ edge, ½(1 + cos(π distance / edge)) between; float32."""
    if edge <= 0:
        return (distance <= 0).astype(np.float32)
    mask = (distance <= 0).astype(np.float32)
    between = (distance > 0) & (distance < edge)  # few voxels: the cosine is what takes time
    mask[between] = 0.5 + 0.5 * np.cos(np.pi / edge * distance[between])
    return mask


def soft_sphere(box: int, radius: float, edge: float = 6.0, ndim: int = 3) -> np.ndarray:
    """Sphere (or disc, ndim=2) of `radius` voxels about the origin, 0 beyond radius + edge; (box, …) float32."""
    if ndim == 3:
        return cut_to_sphere(np.ones((box,) * 3, np.float32), radius, edge)
    return cosine_edge(radius_grid(box, ndim) - np.float32(radius), edge)


class SoftMask:
    """A mask (n, n, n) float32: a given array, or a soft sphere, whose planes are made when they are asked for."""

    def __init__(self, box: int, radius: float, edge: float, given: np.ndarray | None = None) -> None:
        self.shape = (box,) * 3
        self._radius, self._edge, self._given = radius, edge, given

    @classmethod
    def of(cls, array: np.ndarray) -> SoftMask:
        return cls(len(array), 0.0, 0.0, array)

    @property
    def array(self) -> np.ndarray:
        """All of it; kept once it was asked for."""
        if self._given is None:
            self._given = soft_sphere(self.shape[0], self._radius, self._edge)
        return self._given

    def digest(self) -> str:
        """A hash of its values."""
        found = hashlib.sha256()
        for z in range(self.shape[0]):
            found.update(np.ascontiguousarray(self[z : z + 1]).tobytes())
        return found.hexdigest()

    def __getitem__(self, planes: slice) -> np.ndarray:
        """Planes z."""
        if self._given is not None:
            return self._given[planes]
        n = self.shape[0]
        x2 = (np.arange(n, dtype=np.float32) - n // 2) ** 2
        radius = np.sqrt((x2[:, None] + x2) + x2[planes, None, None])
        return cosine_edge(radius - np.float32(self._radius), self._edge)


def cut_to_sphere(volume: np.ndarray, radius: float, edge: float = 6.0) -> np.ndarray:
    """Multiply a map (n, n, n) by a soft sphere, in place, plane by plane: planes fit a cache. Returns the map."""
    x2 = (np.arange(len(volume), dtype=np.float32) - len(volume) // 2) ** 2
    plane = x2[:, None] + x2
    for z2, values in zip(x2, volume):
        values *= cosine_edge(np.sqrt(plane + z2) - np.float32(radius), edge)
    return volume


def check_mask(array: np.ndarray, name: str) -> np.ndarray:
    """The voxels of a mask. Raises UserError where they are none of 0 … 1, or all 0."""
    if not np.isfinite(array).all():
        raise UserError(f"{name}: the mask holds {np.count_nonzero(~np.isfinite(array))} NaN or infinite voxels; "
                        "expected values 0 … 1")
    low, high = array.min(), array.max()
    if low < -1e-3 or high > 1 + 1e-3 or high <= 0:
        what = ", it is zero everywhere" if low == high == 0 else ""
        raise UserError(f"{name}: mask values run from {low:g} to {high:g}{what}; expected 0 … 1")
    return array


def independent_share(mask: np.ndarray) -> float:
    """Fourier samples of a map in a mask (n, n, n) that are independent, over all:
    (mean mask²)² / mean mask⁴, 0 … 1."""
    second = fourth = 0.0
    for plane in mask:  # in float64: all of it would take four times the mask's memory
        squared = np.square(plane, dtype=np.float64)
        second += squared.sum() / mask.size
        fourth += np.square(squared).sum() / mask.size
    return float(second**2 / fourth) if fourth > 0 else 1.0


def asymmetry(mask: np.ndarray, rotations: np.ndarray) -> float:
    """Largest fraction of a mask's inside that any of the rotations about the origin takes to its outside, 0 … 1.

    mask : (box, box, box), 0 … 1
    rotations : (g, 3, 3) float64, of (x, y, z). Inside is above ¾ and outside below 0.1, so that the edge counts for
        neither; at most some 20,000 voxels are used.
    """
    from scipy.ndimage import map_coordinates  # slow to load

    inside = np.argwhere(mask > 0.75)
    inside = inside[:: max(1, len(inside) // 20_000)]
    if not len(inside):
        return 0.0
    centre = mask.shape[0] // 2
    found = (map_coordinates(mask, ((inside - centre)[:, ::-1] @ g.T)[:, ::-1].T + centre, order=1) for g in rotations)
    return float(max((copy < 0.1).mean() for copy in found))
