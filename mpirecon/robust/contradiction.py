"""Images that contradict the map: their correlation with a map they did not build is significantly negative.

A wrong pose or junk leaves a correlation near zero. An image that shows the map with inverted contrast (protein dark,
in a set where it is bright) has that of a correct one with the other sign. Losses that weigh by a distance hardly see
the difference: in a noisy image all distances are nearly the same.
"""

from __future__ import annotations

import math

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.robust.statistics import Statistics

#: expected fraction of false alarms among those that contradict the map, and the probability of any where none does
FALSE_DISCOVERY_RATE = 0.01

#: fraction of the map's own contrast, inverted,
#: from which on an image that contradicts it is inverted rather than wrong
INVERTED_CONTRAST = 0.5


#: standard deviations from which on chances are looked at: they are above what any test here asks for
_UNLIKELY = -2.0


def significance(statistics: Statistics) -> np.ndarray:
    """Correlation of each image with its projection in standard deviations of chance, (m,) float64; 0 without either.

    z = Σ yp / √(Σ pp·yy/n) over the bands of n samples: the correlation coefficient times √n, but for noise that
    differs between bands. The image's own power is its noise level, so that neither brightness nor whitening matters.
    """
    samples = np.maximum(statistics.samples, 1)
    variance = (statistics.sums[:, :, 2] * statistics.sums[:, :, 0] / samples).sum(axis=1)
    cross = statistics.sums[:, :, 1].sum(axis=1)
    return np.divide(cross, np.sqrt(variance), out=np.zeros(len(cross)), where=variance > 0)


def contradicting(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """Whether each valid particle contradicts the map its statistics were made with, (m,) bool. Collective.

    One-sided tests of z, with the false discovery rate held (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289): the
    largest k such that k images have a chance of k/m times the rate or less, whatever rank holds them.
    """
    z, chance = significance(statistics), np.full(len(valid), np.inf)
    few = valid & (z < _UNLIKELY)
    chance[few] = [0.5 * math.erfc(-value / math.sqrt(2)) for value in z[few]]
    total = comm.allreduce_scalar(int(valid.sum()))
    found, before = total, total + 1
    while found < before:
        before, limit = found, FALSE_DISCOVERY_RATE * found / max(total, 1)
        found = comm.allreduce_scalar(int((chance <= limit).sum()))
    return chance <= limit


def looks_inverted(statistics: Statistics) -> np.ndarray:
    """Whether the map stands in each image inverted with half of its contrast or more, (m,) bool."""
    return statistics.contrast <= -INVERTED_CONTRAST
