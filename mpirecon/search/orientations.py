"""Orientations that cover SO(3), or the asymmetric unit of a point group, evenly."""

from __future__ import annotations

import numpy as np

from mpirecon.model.symmetry import PointGroup

#: the two irrational turns of the spiral: √2, and the root of ψ⁴ = ψ + 4
_PHI, _PSI = np.sqrt(2.0), 1.533751168755204288118041


def spiral(count: int) -> np.ndarray:
    """Unit quaternions (w, x, y, z) evenly spread over SO(3), (count, 4) float64.

    Super-Fibonacci spirals (Alexa 2022, CVPR, "Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3)").
    """
    s = np.arange(count) + 0.5
    r, other = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / _PHI, 2 * np.pi * s / _PSI
    return np.stack([r * np.sin(alpha), r * np.cos(alpha), other * np.sin(beta), other * np.cos(beta)], axis=1)


def grid(step: float, group: PointGroup) -> np.ndarray:
    """Orientations about `step` radians apart, of which each pose of a symmetric particle has one copy, (·, 4) float64.

    A pose is kept when none of its copies R gᵀ is nearer to the identity: the Voronoi cell of the identity among the
    group's rotations.
    """
    # each orientation has the volume of a ball of diameter `step`, π step³/6 of the 8π² of SO(3) in rotation vectors,
    # packed as densely as a cubic grid packs them
    found = spiral(max(1, int(np.ceil(8 * np.pi**2 / step**3))))
    if len(group) == 1:
        return found
    copies = np.abs(found @ _real_part(group).T)  # |w| of each copy: the larger, the nearer to the identity
    return found[copies[:, 0] >= copies.max(axis=1) - 1e-12]


def _real_part(group: PointGroup) -> np.ndarray:
    """(order, 4), of whose product with q is the real part of q times each rotation's inverse."""
    return group.quaternions * (1, 1, 1, 1)


def distance(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Angle in radians between rotations of unit quaternions, broadcast over the leading axes."""
    return 2 * np.arccos(np.clip(np.abs(np.sum(q * r, axis=-1)), 0, 1))
