"""What solvers ask of normal equations, wherever these are solved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np


class Equations(ABC):
    """(Σ w AᴴA + Λ) x = Σ w Aᴴŷ; host arrays go in and come out.

    Volumes are (n, n, n) float32, ridges (shells + 1,) float64.
    """

    @property
    @abstractmethod
    def shells(self) -> int:
        """Shells of an image."""

    @property
    @abstractmethod
    def total_weight(self) -> float:
        """Sum of all weights on the grid."""

    @abstractmethod
    def shell_weight(self) -> np.ndarray:
        """Mean weight of each image shell, (shells + 1,) float64; the last entry is everything beyond."""

    @abstractmethod
    def ridge(
        self, ssnr: np.ndarray | None = None, floor: float = 1e-3, shell_weight: np.ndarray | None = None
    ) -> np.ndarray:
        """Λ per shell: mean weight / SSNR, and at least floor · mean weight."""

    @abstractmethod
    def direct(self, ridge: np.ndarray) -> np.ndarray:
        """Gridding solution numerator / (weight + Λ)."""

    @abstractmethod
    def solve(
        self, ridge: np.ndarray, iterations: int = 12, tolerance: float = 1e-5, each: Callable[[], None] = lambda: None
    ):
        """(x, relative residuals) of preconditioned conjugate gradients; ``each()`` is called in every iteration."""

    @abstractmethod
    def right_hand_side(self) -> np.ndarray:
        """Σ w Aᴴŷ."""

    @abstractmethod
    def apply(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """(Σ w AᴴA + Λ) x."""

    def explained(self, on_data: np.ndarray, on_map: np.ndarray, *others: Equations) -> np.ndarray:
        """Re xᴴ Σ w Aᴴŷ of one map and xᴴ Σ w AᴴA x of another, of these equations and of others on the same grid,
        (1 + others, 2) float64."""
        nothing = np.zeros(self.shells + 1)
        return np.array([[np.vdot(on_data.astype(np.float64), equations.right_hand_side()),
                          np.vdot(on_map.astype(np.float64), equations.apply(on_map, nothing))]
                         for equations in (self, *others)])  # fmt: skip

    @abstractmethod
    def gradient(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """(Σ w AᴴA + Λ) x − Σ w Aᴴŷ."""

    @abstractmethod
    def precondition(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """About (Σ w AᴴA + Λ)⁻¹ x."""
