"""Losses as weight functions of the norm d ≥ 0 (unsquared): IRLS minimises Σρ(d) by w = ρ′(d)/d.

Each has ``rho``, ``weight`` and ``influence`` ψ = ρ′ = d·w: how hard a particle at distance d pulls. For all of them w
does not grow with d, so ρ is concave in d², and no step of IRLS raises Σρ.

Residual norms of noisy images gather around a value far from zero, for noise is most of them, so textbook losses, made
for residuals around zero, would set the whole bulk back. Here what counts is the *excess* over the bulk's centre, e =
max(d − centre, 0): the redescending losses (cauchy, geman-mcclure, welsch, tukey) weigh by w = W(e / c) with the
textbook's W(u), which is 1 at 0, and ρ′ = d·W(e / c). The nearer half keeps its full weight. c is the textbook's tuning
constant, 95 % efficient at the Gaussian, times the scale; as the near side is never set back, no less is kept here.

Holland & Welsch 1977, Commun. Stat. A6:813 (tuning constants, cauchy, welsch) · Huber 1964, Ann. Math. Stat. 35:73 ·
Weiszfeld 1937 for l1 · Geman & McClure 1987, Bull. ISI 52(4):5 · Beaton & Tukey 1974, Technometrics 16:147 · Rousseeuw
1984 for least trimmed squares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

#: Gaussian consistency of the median absolute deviation
MAD_TO_SIGMA = 1.4826

#: 95 % efficiency at the Gaussian
HUBER_TUNING = 1.345
CAUCHY_TUNING = 2.385
GEMAN_MCCLURE_TUNING = 3.787
WELSCH_TUNING = 2.985
TUKEY_TUNING = 4.685


class Loss(ABC):
    """A loss of norms; all methods take and return (m,) float64."""

    name: str

    @abstractmethod
    def rho(self, d: np.ndarray) -> np.ndarray:
        """What is summed and minimised, ρ(0) = 0."""

    @abstractmethod
    def weight(self, d: np.ndarray) -> np.ndarray:
        """w = ρ′(d)/d."""

    def influence(self, d: np.ndarray) -> np.ndarray:
        """ψ = ρ′(d)."""
        return d * self.weight(d)


@dataclass(frozen=True)
class L2(Loss):
    """ρ = d²/2, w = 1, ψ = d: all count the same."""

    name: str = "l2"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return d**2 / 2

    def weight(self, d: np.ndarray) -> np.ndarray:
        return np.ones_like(d)


@dataclass(frozen=True)
class L1(Loss):
    """ρ = d, w = 1/max(d, ε), ψ = 1: the average becomes the (geometric) median."""

    epsilon: float = 1e-6
    name: str = "l1"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return np.asarray(d, np.float64)

    def weight(self, d: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(d, self.epsilon)


@dataclass(frozen=True)
class Huber(Loss):
    """ρ = d²/2 up to δ, δ(d − δ/2) beyond; w = min(1, δ/d), ψ = min(d, δ): L2 for the many, L1 for the far."""

    delta: float
    name: str = "huber"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return np.where(d <= self.delta, d**2 / 2, self.delta * (d - self.delta / 2))

    def weight(self, d: np.ndarray) -> np.ndarray:
        return np.minimum(1, self.delta / np.maximum(d, np.finfo(float).tiny))


@dataclass(frozen=True)
class Redescending(Loss):
    """L2 up to the centre; beyond, w = W(u) with u = (d − centre)/c, and ψ = d·W(u) returns to zero for the far.

    ρ = d²/2 up to the centre, beyond centre²/2 + centre·c·∫₀ᵘW + c²·∫₀ᵘvW dv.
    """

    centre: float
    c: float

    def rho(self, d: np.ndarray) -> np.ndarray:
        u = self._excess(d)
        beyond = self.centre * self.c * self._area(u) + self.c**2 * self._moment(u)
        return np.minimum(d, self.centre) ** 2 / 2 + beyond

    def weight(self, d: np.ndarray) -> np.ndarray:
        return self._relative(self._excess(d))

    def _excess(self, d: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(d - self.centre, 0) / self.c, 1e50)  # whose fourth power is finite

    @staticmethod
    @abstractmethod
    def _relative(u: np.ndarray) -> np.ndarray:
        """W(u), 1 at 0."""

    @staticmethod
    @abstractmethod
    def _area(u: np.ndarray) -> np.ndarray:
        """∫₀ᵘ W(v) dv."""

    @staticmethod
    @abstractmethod
    def _moment(u: np.ndarray) -> np.ndarray:
        """∫₀ᵘ v W(v) dv: the textbook's ρ."""


@dataclass(frozen=True)
class Cauchy(Redescending):
    """W = 1/(1 + u²): the far count less and less, but never nothing; ρ grows as a logarithm."""

    name: str = "cauchy"

    _relative = staticmethod(lambda u: 1 / (1 + u**2))
    _area = staticmethod(np.arctan)
    _moment = staticmethod(lambda u: np.log1p(u**2) / 2)


@dataclass(frozen=True)
class GemanMcClure(Redescending):
    """W = 1/(1 + u²)²: ρ has a bound, which the far approach as 1/u²."""

    name: str = "geman-mcclure"

    _relative = staticmethod(lambda u: 1 / (1 + u**2) ** 2)
    _area = staticmethod(lambda u: (u / (1 + u**2) + np.arctan(u)) / 2)
    _moment = staticmethod(lambda u: u**2 / (1 + u**2) / 2)


@dataclass(frozen=True)
class Welsch(Redescending):
    """W = exp(−u²): ρ has a bound, which the far approach exponentially."""

    name: str = "welsch"

    _relative = staticmethod(lambda u: np.exp(-(u**2)))
    _moment = staticmethod(lambda u: -np.expm1(-(u**2)) / 2)

    @staticmethod
    def _area(u):
        from scipy.special import erf  # slow to load

        return np.sqrt(np.pi) / 2 * erf(u)


@dataclass(frozen=True)
class Tukey(Redescending):
    """W = (1 − u²)² up to u = 1, then 0: the far are left out (the biweight)."""

    name: str = "tukey"

    @staticmethod
    def _relative(u: np.ndarray) -> np.ndarray:
        return np.maximum(1 - u**2, 0) ** 2

    @staticmethod
    def _area(u: np.ndarray) -> np.ndarray:
        u = np.minimum(u, 1)
        return u - 2 * u**3 / 3 + u**5 / 5

    @staticmethod
    def _moment(u: np.ndarray) -> np.ndarray:
        return (1 - np.maximum(1 - u**2, 0) ** 3) / 6


REDESCENDING = {
    "cauchy": (Cauchy, CAUCHY_TUNING),
    "geman-mcclure": (GemanMcClure, GEMAN_MCCLURE_TUNING),
    "welsch": (Welsch, WELSCH_TUNING),
    "tukey": (Tukey, TUKEY_TUNING),
}
