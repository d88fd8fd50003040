"""Distances of a particle from a map: what particles are sorted and weighted by (DESIGN section 2).

``score`` sorts: smaller is better. ``norm`` is the unsquared length that the M-estimators weigh, never negative.
Distances that need whitened statistics say so with ``whitened``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np

from mpirecon.errors import UserError
from mpirecon.robust.statistics import Statistics, matched_filter


@dataclass(frozen=True)
class Distance:
    """A named distance: its sorting score, and the norm it means (None when it is no length)."""

    name: str
    whitened: bool
    score: Callable[[Statistics, np.ndarray], np.ndarray]
    norm: Callable[[Statistics, float], np.ndarray] | None


def _root(squared: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squared, 0))


#: raw: ‖y − Ax‖², the textbook residual. It sorts particles by how noisy they are.
RAW = Distance("raw", False, lambda s, sigma: s.residual, lambda s, typical: _root(s.residual))

#: whitened: the same, each shell weighted by its noise.
WHITENED = Distance("whitened", True, lambda s, sigma: s.residual, lambda s, typical: _root(s.residual))

#: explained: residual minus what no map at all would leave; the particle's own noise power cancels. Its norm is the
#: residual that the particle would have if its image had the typical power.
EXPLAINED = Distance("explained", True, lambda s, sigma: s.pp - 2 * s.yp, lambda s, typical: _root(s.pp - 2 * s.yp + typical))

#: correlation: matched filter, minus yp / (σ_i √pp), σ_i from the particle's own residual at high frequency.
CORRELATION = Distance("correlation", True, lambda s, sigma: -matched_filter(s, sigma), None)

DISTANCES = {d.name: d for d in (RAW, WHITENED, EXPLAINED, CORRELATION)}


def get_distance(name: str) -> Distance:
    """The distance of that name; UserError listing them all when there is none."""
    if name not in DISTANCES:
        raise UserError(f"unknown distance {name!r}; choose one of {', '.join(DISTANCES)}")
    return DISTANCES[name]
