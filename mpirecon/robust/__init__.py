"""Scalars per particle: statistics, distances, losses and the selection they lead to."""

from mpirecon.robust.weiszfeld import weiszfeld

__all__ = ["weiszfeld"]
