"""Random draws that depend on (seed, particle id) alone, never on ranks, batches or order."""

from __future__ import annotations

import zlib

import numpy as np


def particle_rng(seed: int, particle: int, purpose: str) -> np.random.Generator:
    """A generator for one particle and one purpose (``"pose"``, ``"noise"`` …).

    Philox is counter based: key = (seed, particle), counter block = purpose, so streams never overlap and adding a new
    purpose leaves the others as they were.
    """
    block = zlib.crc32(purpose.encode())
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, particle], np.uint64), counter=np.array([0, 0, 0, block], np.uint64))
    )


def random_quaternion(rng: np.random.Generator) -> np.ndarray:
    """A uniformly distributed unit quaternion, (4,) float64 (a normalised Gaussian 4-vector)."""
    q = rng.standard_normal(4)
    return q / np.linalg.norm(q)


def uniform_draws(seed: int, particles: np.ndarray, purpose: str) -> np.ndarray:
    """One number in [0, 1) per particle id, (m,) float64: the first of each ``particle_rng``."""
    from mpirecon.kernels.philox import first_uniform  # Numba takes time to load, and other draws need none

    out = np.empty(len(particles))
    first_uniform(np.uint64(seed), np.asarray(particles).astype(np.uint64), np.uint64(zlib.crc32(purpose.encode())),
                  out)
    return out


def random_halves(seed: int, particles: np.ndarray) -> np.ndarray:
    """Half set (1 or 2) of each particle id, (m,) uint8: a fair coin per particle."""
    return (1 + (uniform_draws(seed, particles, "half") >= 0.5)).astype(np.uint8)


def draw_pose_errors(
    seed: int, particles: np.ndarray, quaternion: np.ndarray, rate: float, small_degrees: float | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the poses of a random fraction of particles by wrong ones.

    A number is drawn per particle; above `rate` nothing happens, below it the pose becomes a uniformly random one, or
    (with `small_degrees`) the old one turned about a random axis by a half-Gaussian angle of that standard deviation.
    With `groups` (m,) int64 the number is drawn per group: its rows are wrong together, each by a turn of its own.

    Returns
    -------
    quaternion : (m, 4) float64, the poses to use
    flag : (m,) bool, where they were replaced
    """
    out = np.array(quaternion, dtype=np.float64)
    flag = uniform_draws(seed, particles if groups is None else groups, "error-flag") < rate
    for row in np.flatnonzero(flag):
        rng = particle_rng(seed, int(particles[row]), "error-pose")
        if small_degrees is None:
            out[row] = random_quaternion(rng)
        else:
            axis = rng.standard_normal(3)
            half_angle = np.radians(abs(rng.normal(0.0, small_degrees))) / 2
            turn = np.concatenate([[np.cos(half_angle)], np.sin(half_angle) * axis / np.linalg.norm(axis)])
            out[row] = multiply_quaternions(turn, out[row])
    return out, flag


def multiply_quaternions(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product a·b of two (4,) quaternions: the rotation b followed by a."""
    w1, x1, y1, z1 = a
    w2, x2, y2, z2 = b
    return np.array(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ]
    )
