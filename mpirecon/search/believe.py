"""How far to believe what a search found: the evidence of its peaks against an image of noise alone.

Each peak's evidence is the likelihood ratio to no signal, integrated over poses (Laplace's method) and over the amplitude,
whose distribution is that of well-posed particles against the other half set's map. The peaks of an image are added up.
The probability that one of them is the pose follows with the fraction of images that have one, found by EM.

The null is white noise in the whitened images: what else is in real images (neighbours, carbon, a background of low frequency)
fits a map better than that, and probabilities are then too high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.search.pose_search import Peaks

#: steps of EM
_STEPS = 200


@dataclass(frozen=True)
class Amplitudes:
    """Distribution of yp / pp of well-posed particles: normal, by mean and standard deviation."""

    mean: float
    sigma: float

    @classmethod
    def of(cls, cross: np.ndarray, power: np.ndarray) -> Amplitudes:
        """Of yp and pp, (m,) each, at poses that are right; what noise adds to the spread is taken out."""
        used = power > 0
        cross, power = cross[used], power[used]
        mean = float(cross.sum() / power.sum())
        scatter = power * (cross / power - mean) ** 2 - 1  # 1 is the noise's part
        spread = float(scatter.mean() / power.mean())
        return cls(mean, float(np.sqrt(np.clip(spread, 0.05**2, 0.5**2))))

    def log_ratio(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """log ∫ N(a) exp(a·yp − a²·pp/2) da."""
        precision = power + 1 / self.sigma**2
        pull = cross + self.mean / self.sigma**2
        return pull**2 / (2 * precision) - self.mean**2 / (2 * self.sigma**2) - np.log(self.sigma**2 * precision) / 2

    def best(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """The most probable amplitude."""
        return (cross + self.mean / self.sigma**2) / (power + 1 / self.sigma**2)


def log_evidence(peaks: Peaks, amplitudes: Amplitudes, offset_sigma: float, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """(log evidence of each image, share that its best peak has in it), (m,) each.

    Parameters
    ----------
    offset_sigma : float
        pixels, of the prior of offsets on each axis; 0: they are known
    copies : int
        order of the point group
    """
    size = 5 if offset_sigma else 3
    curvature = amplitudes.best(peaks.cross, peaks.power)[..., None, None] ** 2 * peaks.curvature[..., :size, :size]
    prior = -np.log(8 * np.pi**2 / copies)
    if offset_sigma:
        curvature = curvature + np.diag([0, 0, 0, *(1 / offset_sigma**2,) * 2])
        prior = prior - np.log(2 * np.pi * offset_sigma**2) - (peaks.offset**2).sum(axis=-1) / (2 * offset_sigma**2)
    sign, log_volume = np.linalg.slogdet(curvature)
    log = amplitudes.log_ratio(peaks.cross, peaks.power) + prior + size / 2 * np.log(2 * np.pi) - log_volume / 2
    log = np.where(peaks.distinct & (sign > 0) & (peaks.cross > 0), log, -np.inf)
    total = np.logaddexp.reduce(log, axis=1)
    share = np.exp(log[:, 0] - np.where(np.isfinite(total), total, 0))
    return total, np.where(np.isfinite(total), share, 0.0)


def probabilities(evidence: np.ndarray) -> tuple[np.ndarray, float]:
    """(probability of each image to have a pose among its peaks (m,), the fraction that has one) by EM."""
    fraction, odds = 0.5, np.exp(np.clip(evidence, -700, 700))
    p = np.zeros(len(evidence))
    for _ in range(_STEPS):
        p = fraction * odds / (fraction * odds + 1 - fraction)
        new = float(np.clip(p.mean(), 1e-6, 1 - 1e-6)) if len(p) else 0.0
        if abs(new - fraction) < 1e-7:
            break
        fraction = new
    return p, fraction


def widths(peaks: Peaks, amplitudes: Amplitudes, moving: bool) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of the best peak's turn, radians (mean of the three axes), and offset, pixels (of the two); (m,) each."""
    size = 5 if moving else 3
    amplitude = amplitudes.best(peaks.cross[:, 0], peaks.power[:, 0])
    precision = amplitude[:, None, None] ** 2 * peaks.curvature[:, 0, :size, :size] + 1e-9 * np.eye(size)
    variance = np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2)
    turn = np.sqrt(np.maximum(variance[:, :3], 0).mean(axis=1))
    return turn, np.sqrt(np.maximum(variance[:, 3:], 0).mean(axis=1)) if moving else np.zeros(len(turn))
