"""Which Fourier samples a statistics pass sums over, and how it weighs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: bands of equal width in shells that the score band is divided into; the upper third is the noise band
BANDS = 6


@dataclass
class Bands:
    """gain : (groups, s) float32, multiplicity / noise power of each optics group · band : (s,) int8, 0 … bands − 1, −1
    outside ·
    samples : (bands,) float64, full-plane samples in each.
    """

    gain: np.ndarray
    band: np.ndarray
    samples: np.ndarray
    whitened: bool

    @classmethod
    def of(cls, plane, noise_power: np.ndarray, lowest: int, highest: int, whitened: bool) -> Bands:
        """Shells lowest … highest of a half plane;
        noise_power : (groups, shells) or (shells,) ν², used when `whitened`."""
        shell = plane.shell
        inside = (shell >= lowest) & (shell <= highest)
        band = np.where(inside, (shell - lowest) * BANDS // (highest - lowest + 1), -1).astype(np.int8)
        samples = np.array([plane.multiplicity[band == b].sum() for b in range(BANDS)], np.float64)
        gain = plane.multiplicity / np.where(whitened, np.atleast_2d(noise_power)[:, shell], 1.0)
        return cls(gain.astype(np.float32), band, samples, whitened)
