"""Statistics of particles, made up for the tests of distances and selection."""

import numpy as np

from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.selection import RandomPoses
from mpirecon.robust.statistics import Statistics

COMM = SerialCommunicator()


def statistics_like(yy, yp, pp, noise=None, samples=1000.0):
    """Statistics with these means over the band, and with this residual in its upper third (default: as everywhere)."""
    yy, yp, pp = (np.broadcast_to(np.asarray(v, float), np.shape(yy)) for v in (yy, yp, pp))
    mean = np.stack([yy, yp, pp], axis=1)
    high = mean.copy()
    if noise is not None:
        high[:] = np.stack([np.asarray(noise, float), 0 * yy, 0 * yy], axis=1)
    return Statistics(np.stack([1.5 * mean - 0.5 * high] * 2 + [high], axis=1) * samples / 3, np.full(3, samples / 3))


def random_statistics(m, seed=0):
    """Statistics of particles near a map, of uneven noise: yy > 0, pp > 0, the residual is not negative."""
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=(m, 6, 10)) * rng.uniform(0.7, 1.4, (m, 1, 1)), 0.5 * rng.normal(size=(m, 6, 10))
    return Statistics(np.stack([(y**2).sum(2), (y * p).sum(2), (p**2).sum(2)], axis=2), np.full(6, 10.0))


def at_random(s, seed=1):
    """What the particles of statistics s look like at random orientations."""
    return RandomPoses(np.arange(len(s.sums)), random_statistics(len(s.sums), seed))
