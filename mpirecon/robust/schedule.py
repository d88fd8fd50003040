"""Graduated schedules: a selection that begins relaxed,
so that a poor first map does not decide which particles make the next.

Deterministic annealing in the manner of graduated non-convexity (Blake & Zisserman 1987, Visual Reconstruction): the
first iterations minimise a loss close to L2, the last one the loss itself.
"""

from __future__ import annotations

SCHEDULES = ("plain", "graduated")

#: how many times wider the scale of an M-estimator is where a schedule begins
_WIDEST = 8.0


def relaxation_at(iteration: int, rounds: int) -> float:
    """From 1 in the first of `rounds` iterations evenly down to 0 in the last; `iteration` counts from 1."""
    return (rounds - iteration) / (rounds - 1) if rounds > 1 else 0.0


def loosened(keep: float, relaxation: float) -> float:
    """The fraction to keep: all at relaxation 1, `keep` at 0."""
    return keep + relaxation * (1 - keep)


def widened(scale: float, relaxation: float) -> float:
    """The scale to weigh with: so wide at relaxation 1 that all weights are alike, `scale` itself at 0."""
    return scale * _WIDEST**relaxation
