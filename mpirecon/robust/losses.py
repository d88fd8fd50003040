"""Losses as weight functions of the norm d ≥ 0 (unsquared): IRLS minimises Σρ(d) by w = ρ′(d)/d.

Huber 1964, Ann. Math. Stat. 35:73 · Weiszfeld 1937 for l1 · Rousseeuw 1984 for least trimmed squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError

#: Gaussian consistency of the median absolute deviation
MAD_TO_SIGMA = 1.4826

#: 95 % efficiency at the Gaussian
HUBER_TUNING = 1.345


@dataclass(frozen=True)
class L2:
    """ρ = d²/2, w = 1: everybody counts the same."""

    name: str = "l2"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return d**2 / 2

    def weight(self, d: np.ndarray) -> np.ndarray:
        return np.ones_like(d)


@dataclass(frozen=True)
class L1:
    """ρ = d, w = 1/max(d, ε): the average becomes the (geometric) median."""

    epsilon: float = 1e-6
    name: str = "l1"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return np.asarray(d, np.float64)

    def weight(self, d: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(d, self.epsilon)


@dataclass(frozen=True)
class Huber:
    """ρ = d²/2 up to δ, δ(d − δ/2) beyond; w = min(1, δ/d): L2 for the many, L1 for the far."""

    delta: float
    name: str = "huber"

    def rho(self, d: np.ndarray) -> np.ndarray:
        return np.where(d <= self.delta, d**2 / 2, self.delta * (d - self.delta / 2))

    def weight(self, d: np.ndarray) -> np.ndarray:
        return np.minimum(1, self.delta / np.maximum(d, np.finfo(float).tiny))


#: losses of ``reconstruct``; ``sorted`` and ``posterior`` have no weight function of d alone, see selection.py
LOSSES = ("l2", "sorted", "l1", "huber", "posterior")


def make_loss(name: str, centre: float, scale: float) -> L2 | L1 | Huber:
    """The loss of that name for norms around `centre` with spread `scale` (1.4826 · MAD).

    Residual norms of noisy images gather around a value far from zero, so Huber's δ is centre + 1.345 · scale: what
    lies within the bulk keeps its weight. `l2` and `sorted` share L2's ρ.
    """
    if name in ("l2", "sorted"):
        return L2()
    if name == "l1":
        return L1(epsilon=max(1e-6 * centre, 1e-300))
    if name == "huber":
        return Huber(delta=centre + HUBER_TUNING * scale)
    raise UserError(f"unknown loss {name!r}; choose one of {', '.join(LOSSES)}")
