"""How much a body is like a ball."""

from __future__ import annotations

import numpy as np


def sphericity(direction: np.ndarray, rings: np.ndarray, radius: np.ndarray) -> float:
    """Sphericity of the body whose surface lies `radius` (m,) along ±`direction`, over that of the unit ball.

    direction : (m, 3) of the half sphere, rings of so many about the pole, from there on, each by its angle, as
    ``coverage.bin_centres`` gives them
    """
    both, faces = np.concatenate([direction, -direction]), triangles(direction, rings)
    found, unit = (_sphericity(both * r[:, None], faces) for r in (np.tile(radius, 2), np.ones(len(both))))
    return float(min(1.0, found / unit))


def triangles(direction: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Those between directions and, numbered after these, their opposites, (f, 3) int64; parameters as of `sphericity`.

    They are the convex hull's, which SciPy finds, too, but is longer to load than a small run has.
    """
    m, point = len(direction), np.concatenate([direction, -direction]).tolist()
    north = np.split(np.arange(m), np.cumsum(rings)[:-1])
    numbers = [ring.tolist() for ring in (*north, *(m + ring for ring in north[::-1]))]
    faces = [[ring[0], a, b] for ring in (numbers[0], numbers[-1]) for a, b in zip(ring[1:], ring[2:])]
    for upper, lower in zip(numbers, numbers[1:]):
        nearest = max(range(len(lower)), key=lambda i: _dot(point[lower[i]], point[upper[0]]))
        faces += _strip(point, [*upper, upper[0]], [*lower[nearest:], *lower[: nearest + 1]])
    return np.array(faces)


def _strip(point: list, upper: list, lower: list) -> list:
    """Triangles between two rings of points of the unit sphere, each closed: each edge goes on to the point whose
    triangle has the other one outside of its circle (Delaunay)."""
    found, i, j = [], 0, 0
    while i < len(upper) - 1 or j < len(lower) - 1:
        a, b = upper[i], lower[j]
        along = j == len(lower) - 1
        if not along and i < len(upper) - 1:
            a2, b2, p = upper[i + 1], lower[j + 1], point[a]
            edges = ([x - y for x, y in zip(point[other], p)] for other in (b, a2, b2))
            along = _volume(*edges) <= 0
        if along:
            found.append([a, b, upper[i + 1]])
            i += 1
        else:
            found.append([a, b, lower[j + 1]])
            j += 1
    return found


def _dot(p: list, q: list) -> float:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


def _volume(p: list, q: list, r: list) -> float:
    """Six times that of the tetrahedron of these edges, positive where r is on the side that p × q points to."""
    return _dot([p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]], r)


def _sphericity(points: np.ndarray, faces: np.ndarray) -> float:
    p, q, r = points[faces].transpose(1, 0, 2)
    volume = np.abs(np.einsum("fi,fi->f", p, np.cross(q, r))).sum() / 6
    surface = np.linalg.norm(np.cross(q - p, r - p), axis=1).sum() / 2
    return np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
