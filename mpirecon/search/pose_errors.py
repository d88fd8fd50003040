"""How far given poses are off, learned from the particles themselves; and where each one's pose then is.

The peak of an image's likelihood lies at a displacement from the given pose, and noise alone sets it there with a
covariance C, which its curvature says. Errors of poses are a mixture of normal distributions about 0: of width 0, where
the given pose is exact, and of several widths, whose shares are fitted by EM to the displacements of all particles
(empirical Bayes; as adaptive shrinkage, Stephens 2017, Biostatistics 18, 275). Where noise explains the displacements,
all of them have width 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

#: widths of errors, in those of a typical image's noise
_WIDTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)

#: steps of EM, and exact poses that are taken for granted: a few particles make no width
_STEPS, _EXACT = 200, 10.0

#: log likelihood, for each parameter, by which errors must explain displacements better than noise
_SURELY = 10.0

#: median of χ² for 3 to 6 degrees of freedom
_MEDIAN = {3: 2.366, 5: 4.351, 6: 5.348}


class Refined(NamedTuple):
    """Where poses are, in the order of the displacements that they were learned from.

    moves : (m,) bool, whether the given pose is more likely wrong than exact · displacement : (m, d), then, the mean ·
    covariance : (m, d, d) · gain : (m,), of the log likelihood by errors of the pose
    """

    moves: np.ndarray
    displacement: np.ndarray
    covariance: np.ndarray
    gain: np.ndarray


@dataclass(frozen=True)
class PoseErrors:
    """Errors of given poses.

    share : of the particles, of each width · turn, offset : (k,) standard deviations on each axis, radians and pixels;
    the first is 0, exact · noise : what the variance of displacements by noise is multiplied by, over what the
    curvatures say
    """

    share: np.ndarray
    turn: np.ndarray
    offset: np.ndarray
    noise: float

    @property
    def wrong(self) -> float:
        """Share of the poses that are not exact."""
        return float(1 - self.share[0])

    @property
    def widths(self) -> tuple[float, float]:
        """Standard deviation on each axis, over all particles: radians, pixels."""
        return float(np.sqrt(self.share @ self.turn**2)), float(np.sqrt(self.share @ self.offset**2))

    @classmethod
    def fit(
        cls,
        displacement: np.ndarray,
        curvature: np.ndarray,
        gain: np.ndarray,
        scatter: np.ndarray,
        most: tuple[float, float],
    ) -> PoseErrors:
        """From particles whose peaks were found.

        Parameters
        ----------
        displacement : (m, d)
            turn (3), radians, and offset (d − 3), pixels
        curvature : (m, d, d)
            of −log likelihood
        gain : (m,)
            of log likelihood, from the given pose to the peak
        scatter : (m,)
            squares of normal numbers of d dimensions, were noise what the curvatures say
        most : radians and pixels
            beyond which no width is
        """
        m, size = displacement.shape
        noise = max(1.0, float(np.median(scatter)) / _MEDIAN[size]) if m else 1.0
        exact = cls(np.ones(1), np.zeros(1), np.zeros(1), noise)
        if m < 2:
            return exact
        width = np.sqrt(noise * np.median(np.diagonal(np.linalg.inv(curvature), axis1=1, axis2=2), axis=0))
        turns = [w for w in np.multiply(_WIDTHS, np.sqrt((width[:3] ** 2).mean())) if w <= most[0]]
        offsets = (
            [w for w in np.multiply(_WIDTHS, np.sqrt((width[3:] ** 2).mean())) if w <= most[1]] if size > 3 else [0.0]
        )
        turn, offset = (a.ravel() for a in np.meshgrid(turns, offsets, indexing="ij"))
        law = cls(np.full(len(turn), 1 / len(turn)), turn, offset, noise)
        odds = law.log_odds(displacement, curvature, gain)
        share = law.share
        for _ in range(_STEPS):
            joint = odds + np.log(np.maximum(share, 1e-300))
            weight = np.exp(joint - scipy.special.logsumexp(joint, axis=1, keepdims=True))
            new = weight.sum(axis=0)
            new[0] += _EXACT
            new /= m + _EXACT
            if np.abs(new - share).max() < 1e-5:
                break
            share = new
        better = scipy.special.logsumexp(odds + np.log(np.maximum(share, 1e-300)), axis=1).sum()
        return cls(share, turn, offset, noise) if better > _SURELY * size else exact

    def log_odds(self, displacement: np.ndarray, curvature: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Log evidence for each width of error over that for an exact pose, (m, k)."""
        covariance = self.noise * np.linalg.inv(curvature)
        size = displacement.shape[1]
        quadratic = np.einsum("mi,mij,mj->m", displacement, curvature, displacement) / 2
        gain = np.clip(np.minimum(gain, quadratic), 0, None) / self.noise
        out = np.zeros((len(displacement), len(self.turn)))
        half = np.linalg.slogdet(covariance)[1] / 2
        for k in range(len(self.turn)):
            if self.turn[k] or self.offset[k]:
                total = covariance + np.diag(self._prior(k, size))
                explained = np.linalg.solve(total, displacement[..., None])[..., 0]
                out[:, k] = gain - (displacement * explained).sum(axis=1) / 2 - np.linalg.slogdet(total)[1] / 2 + half
        return out

    def _prior(self, k: int, size: int) -> np.ndarray:
        return np.array([self.turn[k] ** 2] * 3 + [self.offset[k] ** 2] * (size - 3))

    def __call__(self, displacement: np.ndarray, curvature: np.ndarray, gain: np.ndarray) -> Refined:
        """Where the poses of these particles are; as in `fit`."""
        m, size = displacement.shape
        joint = self.log_odds(displacement, curvature, gain) + np.log(np.maximum(self.share, 1e-300))
        weight = np.exp(joint - scipy.special.logsumexp(joint, axis=1, keepdims=True))
        covariance = self.noise * np.linalg.inv(curvature)
        mean, square, variance = np.zeros((m, size)), np.zeros((m, size, size)), np.zeros((m, size, size))
        wrong = np.maximum(1 - weight[:, 0], 1e-300)
        for k in range(1, len(self.turn)):
            prior = np.diag(self._prior(k, size))
            drawn = prior @ np.linalg.inv(covariance + prior)  # of the way to the peak
            at = np.einsum("mij,mj->mi", drawn, displacement)
            part = weight[:, k] / wrong
            mean += part[:, None] * at
            square += part[:, None, None] * at[:, :, None] * at[:, None, :]
            variance += part[:, None, None] * (prior - drawn @ prior)
        spread = variance + square - mean[:, :, None] * mean[:, None, :]
        return Refined(weight[:, 0] < 0.5, mean, spread, scipy.special.logsumexp(joint, axis=1))


#: degrees that no standard deviation of near errors exceeds; particles and share of the found ones
#: that show it, at least; the probability that makes one of the found
_WIDEST, _FEWEST, _LEAST, _FOUND = 20.0, 30, 0.2, 0.9

#: pixels on each axis below which offsets are right
_RIGHT_OFFSET = 0.3


class NearErrors(NamedTuple):
    """Errors of given poses that are wrong, but not by anything: standard deviations on each axis (radians, pixels),
    and which share of the wrong ones are of this kind."""

    turn: float
    offset: float
    share: float

    @classmethod
    def of(
        cls, moved: np.ndarray, offsets: np.ndarray, offset_noise: np.ndarray, probability: np.ndarray
    ) -> NearErrors | None:
        """From angles between found and given poses, (m,) degrees, offsets, (m, 2) pixels, and the standard deviations
        that noise gives these; None where found poses are anywhere."""
        found = probability >= _FOUND
        angle, offsets, offset_noise = np.radians(moved[found]), offsets[found], offset_noise[found]
        if found.sum() < _FEWEST:
            return None
        share, turn = 0.5, np.radians(10.0)
        anywhere = (1 - np.cos(angle)) / np.pi
        for _ in range(_STEPS):
            near = share * np.sqrt(2 / np.pi) * angle**2 / turn**3 * np.exp(-(angle**2) / (2 * turn**2))
            weight = near / np.maximum(near + (1 - share) * anywhere, 1e-300)
            share = weight.mean()
            turn = np.clip(
                np.sqrt((weight * angle**2).sum() / np.maximum(3 * weight.sum(), 1e-9)), 1e-3, np.radians(_WIDEST)
            )
        if share < _LEAST or share * found.sum() < _FEWEST:
            return None
        variance = (weight * ((offsets**2).mean(axis=1) - offset_noise**2)).sum() / weight.sum()
        offset = np.sqrt(max(variance, 0.0))
        return cls(float(turn), float(offset) if offset > _RIGHT_OFFSET else 0.0, float(share))
