"""The three numbers per particle and band that every distance is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Statistics:
    """yy = Σ|ŷ|²/ν², yp = Re Σ conj(p)ŷ/ν² and pp = Σ|p|²/ν² with p = A_i x, for m particles against one map.

    sums : (m, bands, 3) float64, the three in each band of frequencies
    samples : (bands,) float64, Fourier samples in each. ν² is the noise spectrum, or 1 (the pixels' own units) for the
        raw distance. The properties are over the whole band and per sample: a whitened residual of 1 is what noise
        alone leaves.
    """

    sums: np.ndarray
    samples: np.ndarray

    @classmethod
    def empty(cls, m: int, samples: np.ndarray) -> Statistics:
        return cls(np.zeros((m, len(samples), 3)), samples)

    @property
    def yy(self) -> np.ndarray:
        return self._mean(0)

    @property
    def yp(self) -> np.ndarray:
        return self._mean(1)

    @property
    def pp(self) -> np.ndarray:
        return self._mean(2)

    def _mean(self, which: int) -> np.ndarray:
        return self.sums[:, :, which].sum(axis=1) / self.samples.sum()

    @property
    def residual(self) -> np.ndarray:
        """‖ŷ − p‖² over the band per sample, (m,) float64."""
        return self.yy - 2 * self.yp + self.pp

    @property
    def noise(self) -> np.ndarray:
        """The noise of the upper third of the bands, where there is little signal, per sample, (m,) float64."""
        return self.noise_of(self.third(2))

    def noise_of(self, bands: slice) -> np.ndarray:
        """Noise power of some bands per sample, (m,) float64: yy − pp, the power that is not the signal's.

        Of a wrong pose the residual holds the signal twice, the image's and the map's; this holds as much as of a right
        one. Where noise is little beside the signal, the difference is uncertain,
        and a quarter of the residual the least.
        """
        total = self.sums[:, bands].sum(axis=1)
        return np.maximum(total[:, 0] - total[:, 2], self._residual(total) / 4) / max(self.samples[bands].sum(), 1)

    @staticmethod
    def _residual(total: np.ndarray) -> np.ndarray:
        return total[:, 0] - 2 * total[:, 1] + total[:, 2]

    def third(self, which: int) -> slice:
        """The lower (0), middle (1) or upper (2) third of the bands that hold samples."""
        filled = np.flatnonzero(self.samples)
        edges = [int(filled[k * len(filled) // 3]) for k in range(3)] + [int(filled[-1]) + 1]
        return slice(edges[which], edges[which + 1])

    def inverted(self, rows: np.ndarray) -> Statistics:
        """These, were the images of some rows, (m,) bool, of the other sign."""
        sums = self.sums.copy()
        sums[rows, :, 1] *= -1
        return Statistics(sums, self.samples)

    def of_nothing(self) -> Statistics:
        """These, were the map one of zeros."""
        return Statistics(self.sums * np.array([1.0, 0.0, 0.0]), self.samples)

    @property
    def contrast(self) -> np.ndarray:
        """Least-squares scale of the map in each image, yp / pp; 0 where there is no projection."""
        return np.divide(self.yp, self.pp, out=np.zeros(len(self.sums)), where=self.pp > 0)


def matched_filter(statistics: Statistics, sigma: np.ndarray) -> np.ndarray:
    """yp / (σ √pp) over the whole band: the particle's signal in standard deviations of its noise, (m,) float64.

    A standard normal number for a whitened image of noise alone; 0 where there is no projection.
    """
    denominator = sigma * np.sqrt(np.maximum(statistics.pp, 0))
    ratio = np.divide(statistics.yp, denominator, out=np.zeros_like(denominator), where=denominator > 0)
    return ratio * np.sqrt(statistics.samples.sum())
