"""What particles say of a map that they did not build, band by band: what the mixture of poses is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: expected signal below which a band has no information: a square of it is lost beside 1 in double precision
_LEAST_SIGNAL = 1e-8

#: signal over noise beyond which no more certainty is possible,
#: and sums of squares over particles and products over bands stay finite
_SUREST = 1e6


@dataclass
class Evidence:
    """t and a, (m, bands) float64 each, of this rank's particles; bands without signal have a = t = 0."""

    t: np.ndarray
    a: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, variance: np.ndarray) -> Evidence:
        """From statistics' sums (m, bands, 3) and the variance of the noise in their units, (m, bands)."""
        a = np.sqrt(np.maximum(sums[:, :, 2], 0) / variance)
        a = np.where(a < _LEAST_SIGNAL, 0.0, a)
        t = np.divide(sums[:, :, 1] / variance, a, out=np.zeros_like(a), where=a > 0)
        return cls(t, a)

    def limited(self) -> Evidence:
        """The same, of particles that are surer than any can be only as much as that."""
        largest = np.maximum(np.abs(self.t), self.a).max(axis=1, initial=0)
        if not (largest > _SUREST).any():
            return self
        factor = np.where(largest > _SUREST, _SUREST / np.maximum(largest, _SUREST), 1.0)[:, None]
        return Evidence(self.t * factor, self.a * factor)

    def filtered(self, left: np.ndarray) -> Evidence:
        """The same, where the signal to expect is the fraction `left` (m, bands) of the map's."""
        return Evidence(self.t, self.a * left)


@dataclass
class SmallErrors:
    """best : Evidence at the best pose near each particle's own · log_integral : (m, scales), the logarithm of the
    likelihood of errors of each scale over that at the best pose · left : (angles, bands), what errors of some angles
    leave of the amplitude at the own pose. The kinds are the scales, then the angles."""

    best: Evidence
    log_integral: np.ndarray
    left: np.ndarray

    @property
    def kinds(self) -> int:
        return self.log_integral.shape[1] + len(self.left)
