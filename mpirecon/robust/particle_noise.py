"""How noisy each particle is: its level, and where spectra differ in more than that, its shape.
Decided over all ranks together."""

from __future__ import annotations

import math

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.select import median
from mpirecon.robust.losses import MAD_TO_SIGMA
from mpirecon.robust.statistics import Statistics

#: robust standard deviations beyond which a particle's noise is an outlier, not scatter
_OUTSIDE = 6.0

#: variance of the log of high- over middle-frequency noise that passes as one shape of spectrum: 10 %
_SHAPE_VARIANCE = 0.01

#: noise power over the typical one below which it is not accepted: weights go with its inverse
_LEAST_NOISE = 1e-6

#: σ above which an image is set back even where nothing else is known of it
NOISY = 2.0


def particle_sigma(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """σ_i: each particle's noise relative to the typical one, (m,) float64, from its high frequencies.

    The estimate scatters by itself, the more the fewer samples it has. The logarithms are drawn towards their median by
    the fraction of their spread that this scatter explains: even noise stays even. Where images differ in the *shape*
    of their noise spectrum (dose-weighted ones do: high frequencies of both signal and noise are filtered away), one
    number does not describe their noise, and weighting by it would favour the most filtered:
    σ is 1 then, outliers apart.
    """
    log, scatter = _log_noise(comm, statistics, valid, statistics.third(2))
    spread = (MAD_TO_SIGMA * median_of(comm, np.abs(log[valid]))) ** 2
    real = max(0.0, 1 - scatter / spread) if spread > 0 else 0.0
    if not one_noise_shape(comm, statistics, valid):
        real = 0.0
    # the few far outside the bulk are what they are: shrinking is for the bulk
    outside = np.abs(log) > _OUTSIDE * math.sqrt(max(spread, scatter))
    return np.exp(np.where(outside, log, real * log) / 2)


def one_noise_shape(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> bool:
    """Whether the particles' noise spectra differ by a factor only: high against middle frequencies, within 10 %."""
    high, scatter_high = _log_noise(comm, statistics, valid, statistics.third(2))
    middle, scatter_middle = _log_noise(comm, statistics, valid, statistics.third(1))
    tilt = high - middle
    typical = median_of(comm, tilt[valid])
    spread = (MAD_TO_SIGMA * median_of(comm, np.abs(tilt[valid] - typical))) ** 2
    return bool(spread <= scatter_high + scatter_middle + _SHAPE_VARIANCE)


def _log_noise(comm: Communicator, statistics: Statistics, valid: np.ndarray, bands: slice) -> tuple[np.ndarray, float]:
    """Log of each particle's noise power over the typical one, (m,), and the variance it has by chance alone."""
    noise = statistics.noise_of(bands)
    typical = median_of(comm, noise[valid])
    if not typical > 0:
        return np.zeros(len(noise)), math.inf
    # n samples of a real image's transform are n / 2 independent complex numbers
    return np.log(np.maximum(noise, _LEAST_NOISE * typical) / typical), 2 / max(statistics.samples[bands].sum(), 1)


def noise_shapes(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray | None:
    """Logarithm of each particle's noise power in each band over the typical one's, (m, bands), drawn towards 0 by its
    own scatter; None where all have a spectrum of one shape, which σ describes."""
    if one_noise_shape(comm, statistics, valid):
        return None
    shape = np.zeros((len(valid), len(statistics.samples)))
    for band in np.flatnonzero(statistics.samples):
        log, scatter = _log_noise(comm, statistics, valid, slice(band, band + 1))
        spread = (MAD_TO_SIGMA * median_of(comm, np.abs(log[valid]))) ** 2
        shape[:, band] = log * (max(0.0, 1 - scatter / spread) if spread > 0 else 0.0)
    return shape


def noise_variance(comm: Communicator, statistics: Statistics, sigma: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Variance of each particle's noise in the units of the statistics, (m, bands): σ² times each band's typical noise.

    The spectrum that whitens images is their own power, signal included: what that adds is taken out here.
    """
    level = np.ones(len(statistics.samples))
    for band in np.flatnonzero(statistics.samples):
        typical = median_of(comm, (statistics.noise_of(slice(band, band + 1)) / sigma**2)[valid])
        level[band] = typical if typical > 0 else 1.0
    return sigma[:, None] ** 2 * level


def median_of(comm: Communicator, values: np.ndarray) -> float:
    """The median over all ranks; NaN of none."""
    return median(comm, values) if comm.allreduce_scalar(len(values)) else math.nan
