"""Scalars per particle: statistics, distances, losses and the selection they lead to."""

from mpirecon.robust.least_squares import RobustLeastSquares
from mpirecon.robust.weiszfeld import weiszfeld

__all__ = ["RobustLeastSquares", "weiszfeld"]
