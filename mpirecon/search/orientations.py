"""Orientations that cover SO(3), or the asymmetric unit of a point group, evenly: views, and each one's turns."""

from __future__ import annotations

import numpy as np

from mpirecon.model.symmetry import PointGroup

#: a direction that no rotation of a point group leaves where it is: of each view the copy nearest to it is taken
_CHOSEN = np.array([0.1729, 0.2921, 0.9406])


def views(step: float, group: PointGroup) -> np.ndarray:
    """Unit quaternions (w, x, y, z) of views about `step` radians apart, (·, 4) float64; one copy of each for symmetry.

    The directions are a spherical Fibonacci lattice (Swinbank & Purser 2006, Q. J. R. Meteorol. Soc. 132, 1769).
    """
    count = max(1, int(np.ceil(4 * np.pi / step**2)))
    i = np.arange(count)
    z, turn = 1 - (2 * i + 1) / count, i * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    direction = np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)
    copies = np.stack([direction @ g.T @ _CHOSEN for g in group.matrices])
    x, y, z = direction[copies[0] >= copies.max(axis=0) - 1e-12].T
    w = np.sqrt((1 + z) / 2)  # the shortest turn of the direction onto the beam
    return np.stack([w, y / (2 * w), -x / (2 * w), np.zeros(len(w))], axis=1)


def turns(step: float) -> np.ndarray:
    """Angles in the image's plane at most `step` apart, radians, (·,) float64; half a turn is between two of them."""
    count = 2 * int(np.ceil(np.pi / step))
    return 2 * np.pi / count * np.arange(count)


def grid(step: float, group: PointGroup) -> np.ndarray:
    """Each of `views` at each of `turns`, (views · turns, 4) float64: the turns of one view follow each other."""
    w, x, y, z = views(step, group).T[:, :, None]
    half = turns(step) / 2
    cos, sin = np.cos(half), np.sin(half)  # the turn stands first: it is of the image
    q = [cos * w - sin * z, cos * x - sin * y, cos * y + sin * x, cos * z + sin * w]
    return np.stack(q, axis=-1).reshape(-1, 4)


def distance(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Angle in radians between rotations of unit quaternions, broadcast over the leading axes."""
    return 2 * np.arccos(np.clip(np.abs(np.sum(q * r, axis=-1)), 0, 1))
