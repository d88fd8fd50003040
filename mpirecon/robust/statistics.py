"""The three numbers per particle that every distance is made of (DESIGN section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Statistics:
    """Sums over a frequency band, per Fourier sample of the band, for m particles against one map.

    yy = Σ|ŷ|²/ν² · yp = Re Σ conj(p)ŷ/ν² · pp = Σ|p|²/ν² with p = A_i x, each (m,) float64 ·
    noise : (m,) float64, the residual yy − 2yp + pp of a band of high frequencies, where there is little signal.
    ν² is the noise spectrum, or 1 (the pixels' own units) for the raw distance. All are divided by the number of
    samples: a whitened residual of 1 is what noise alone leaves.
    """

    yy: np.ndarray
    yp: np.ndarray
    pp: np.ndarray
    noise: np.ndarray

    @classmethod
    def empty(cls, m: int) -> Statistics:
        return cls(*(np.zeros(m) for _ in range(4)))

    def store(self, rows, bands: np.ndarray, samples: tuple[float, float]) -> None:
        """Put a kernel's (b, 2, 3) sums, of `samples` in the score and the noise band, into `rows`."""
        total = bands.sum(axis=1)  # the score band contains the noise band
        self.yy[rows], self.yp[rows], self.pp[rows] = (total / samples[0]).T
        self.noise[rows] = (bands[:, 1, 0] - 2 * bands[:, 1, 1] + bands[:, 1, 2]) / samples[1]

    @property
    def residual(self) -> np.ndarray:
        """‖ŷ − p‖² over the band per sample, (m,) float64."""
        return self.yy - 2 * self.yp + self.pp

    @property
    def contrast(self) -> np.ndarray:
        """Least-squares scale of the map in each image, yp / pp; 0 where there is no projection."""
        return np.divide(self.yp, self.pp, out=np.zeros_like(self.yp), where=self.pp > 0)


def matched_filter(statistics: Statistics, sigma: np.ndarray) -> np.ndarray:
    """yp / (σ √pp), the particle's signal over its noise, (m,) float64; 0 where there is no projection."""
    denominator = sigma * np.sqrt(np.maximum(statistics.pp, 0))
    return np.divide(statistics.yp, denominator, out=np.zeros_like(denominator), where=denominator > 0)
