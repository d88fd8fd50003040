"""What makes real images hard beside wrong poses:
coloured noise, neighbours, backgrounds, a second conformation, preferred views.

Each is a function of (seed, particle id) and its own settings, so that it changes nothing else of the set.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.model.draws import particle_rng, random_quaternion, uniform_draws
from mpirecon.model.pose import quaternion_from_euler
from mpirecon.simulation.settings import SimulationSettings

#: fraction of Nyquist below which coloured noise rises
_BEND = 0.2

#: distance of a neighbour's centre from the image's, fractions of the box
_NEAR, _FAR = 0.40, 0.60


def preferred_views(settings: SimulationSettings, ids: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """(m, 4) orientations of which a fraction looks along the map's z axis within an angle, evenly over that cap."""
    out = quaternion.copy()
    if not settings.preferred_views:
        return out
    rows = np.flatnonzero(uniform_draws(settings.seed, ids, "preferred-view") < settings.preferred_views)
    draws = np.array([particle_rng(settings.seed, int(ids[row]), "preferred-view-pose").random(3)
                      for row in rows]).reshape(-1, 3)
    lowest = np.cos(np.radians(settings.preferred_angle))
    tilt = np.degrees(np.arccos(lowest + (1 - lowest) * draws[:, 0]))
    out[rows] = quaternion_from_euler(360 * draws[:, 1], tilt, 360 * draws[:, 2])
    return out


def conformations(settings: SimulationSettings, ids: np.ndarray) -> np.ndarray:
    """(m,) uint8: which of the two maps, 1 or 2, each image shows."""
    if not settings.second_fraction:
        return np.ones(len(ids), np.uint8)
    return (1 + (uniform_draws(settings.seed, ids, "conformation") < settings.second_fraction)).astype(np.uint8)


def micrographs(settings: SimulationSettings, ids: np.ndarray) -> np.ndarray:
    """(m,) int32: the micrograph of each particle, from 0; they are assigned in turn."""
    return (np.asarray(ids) % settings.micrographs).astype(np.int32)


def noise_exponents(settings: SimulationSettings) -> np.ndarray:
    """(micrographs,) exponents of the noise's colour, uniform between 0 and `noise_colour`."""
    return settings.noise_colour * uniform_draws(settings.seed, np.arange(settings.micrographs), "noise-colour")


def colour(box: int, exponent: float) -> np.ndarray:
    """(box, box // 2 + 1) factors of noise's Fourier samples: (1 + bend / k)^exponent, k in fractions of Nyquist, of
    mean square 1 over the whole transform."""
    ky, kx = np.meshgrid(fft.fftfreq(box, 1.0 / box), np.arange(box // 2 + 1), indexing="ij")
    k = np.maximum(np.hypot(ky, kx), 1.0) / (box / 2)
    factors = (1 + _BEND / k) ** exponent
    twice = np.full(box // 2 + 1, 2.0)  # a real image's other half
    twice[0] = 1.0
    if box % 2 == 0:
        twice[-1] = 1.0
    return (factors / np.sqrt((factors**2 * twice).sum() / box**2)).astype(np.float32)


def backgrounds(settings: SimulationSettings, ids: np.ndarray) -> np.ndarray:
    """(m, 3): level, and slopes along x and y over half the box, in standard deviations of the noise."""
    return settings.background * np.array(
        [particle_rng(settings.seed, int(particle), "background").standard_normal(3) for particle in ids]
    ).reshape(-1, 3)


def plane(box: int, level: float, along_x: float, along_y: float) -> np.ndarray:
    """(box, box) float32 background."""
    x = (np.arange(box) - box // 2) / (box / 2)
    return (level + along_x * x[None, :] + along_y * x[:, None]).astype(np.float32)


def neighbours(settings: SimulationSettings, ids: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Particles that have a neighbour that reaches into the box:
    flags (m,), its orientation (m, 4) and its centre (m, 2), (x, y) in whole pixels."""
    there = uniform_draws(settings.seed, ids, "neighbour") < settings.neighbour_rate
    quaternion, centre = np.tile([1.0, 0, 0, 0], (len(ids), 1)), np.zeros((len(ids), 2), np.int64)
    for row in np.flatnonzero(there):
        rng = particle_rng(settings.seed, int(ids[row]), "neighbour-pose")
        quaternion[row] = random_quaternion(rng)
        distance, angle = box * rng.uniform(_NEAR, _FAR), rng.uniform(0, 2 * np.pi)
        centre[row] = np.rint([distance * np.cos(angle), distance * np.sin(angle)])
    return there, quaternion, centre


def moved(image: np.ndarray, x: int, y: int) -> np.ndarray:
    """The image moved by whole pixels; what leaves it is lost, nothing comes in."""
    n = len(image)
    out = np.zeros_like(image)
    if abs(x) < n and abs(y) < n:
        out[max(y, 0) : n + min(y, 0), max(x, 0) : n + min(x, 0)] = image[
            max(-y, 0) : n - max(y, 0), max(-x, 0) : n - max(x, 0)
        ]
    return out
