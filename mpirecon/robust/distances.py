"""Distances of a particle from a map: what particles are sorted and weighted by.

``score`` sorts: smaller is better. ``norm`` is the unsquared length that the M-estimators weigh, never negative.
Distances that need whitened statistics say so with ``whitened``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

from mpirecon.errors import UserError
from mpirecon.robust.own_code import digest_of_code
from mpirecon.robust.returned import checked_numbers, read_only, refuse_bad, refuse_name
from mpirecon.robust.statistics import Statistics, matched_filter


#: image power, over the typical, above which an image is scored by its excess: it may be anything
_OUTLYING_POWER = 25.0


@dataclass(frozen=True)
class Distance:
    """A named distance: its sorting score, and the norm it means (None when it is no length).

    score(statistics, sigma, typical), norm(statistics, typical), with the typical image power (the median yy).
    """

    name: str
    whitened: bool
    score: Callable[[Statistics, np.ndarray, float], np.ndarray]
    norm: Callable[[Statistics, float], np.ndarray] | None

    def __post_init__(self) -> None:
        refuse_name("distance", self.name)
        if not callable(self.score) or not (self.norm is None or callable(self.norm)):
            raise UserError(f"distance {self.name}: score must be a function (statistics, sigma, typical), and norm a "
                            "function (statistics, typical) or None")


def scores_by(distance: Distance, statistics: Statistics, sigma: np.ndarray, typical: float,
              valid: np.ndarray | None = None) -> np.ndarray:
    """The sorting scores of m particles, (m,) float64; UserError where a distance of one's own returns something else,
    or no number for those that are `valid`, (m,) bool."""
    what = f"distance {distance.name}: score"
    given = statistics, sigma
    if distance not in _BUILT_IN:
        given = replace(statistics, sums=read_only(statistics.sums)), read_only(sigma)
    score = checked_numbers(what, distance.score(*given, typical), statistics.yy.shape)
    if valid is not None and distance not in _BUILT_IN:
        refuse_bad(what, score, np.isnan(score) & valid, "scores must be numbers, by which particles can be sorted")
    return score


def norms_by(distance: Distance, statistics: Statistics, typical: float, valid: np.ndarray) -> np.ndarray:
    """The norms of m particles, likewise."""
    what = f"distance {distance.name}: norm"
    given = statistics
    if distance not in _BUILT_IN:
        given = replace(statistics, sums=read_only(statistics.sums))
    norm = checked_numbers(what, distance.norm(given, typical), statistics.yy.shape)
    if distance not in _BUILT_IN:
        refuse_bad(what, norm, ~(np.isfinite(norm) & (norm >= 0)) & valid, "norms must be finite and not negative")
    return norm


def _root(squared: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squared, 0))


def _explained(s: Statistics, typical: float) -> np.ndarray:
    """pp − 2yp; for an image of outlying power, what its residual has above the typical power.

    An image ten thousand times too bright has a yp as much too large: by chance it would look the best of all.
    """
    return np.where(s.yy > _OUTLYING_POWER * typical, s.residual - typical, s.pp - 2 * s.yp)


#: raw: ‖y − Ax‖², the textbook residual. It sorts particles by how noisy they are.
RAW = Distance("raw", False, lambda s, sigma, typical: s.residual, lambda s, typical: _root(s.residual))

#: whitened: the same, each shell weighted by its noise.
WHITENED = Distance("whitened", True, lambda s, sigma, typical: s.residual, lambda s, typical: _root(s.residual))

#: explained: residual minus what no map at all would leave; the particle's own noise power cancels. Its norm is the
#: residual that the particle would have if its image had the typical power.
EXPLAINED = Distance(
    "explained", True, lambda s, sigma, typical: _explained(s, typical), lambda s,
    typical: _root(_explained(s, typical) + typical)
)

#: correlation: matched filter, minus yp / (σ_i √pp), σ_i from the particle's own residual at high frequency.
CORRELATION = Distance("correlation", True, lambda s, sigma, typical: -matched_filter(s, sigma), None)

_BUILT_IN = (RAW, WHITENED, EXPLAINED, CORRELATION)
DISTANCES = {d.name: d for d in _BUILT_IN}

#: digests of those that scripts have added, of what they do
_OWN: dict[str, str] = {}


def register(distance: Distance) -> str:
    """Add a distance of one's own, by whose name ``reconstruct`` then knows it; returns the name. One of one's own that
    had it is replaced; runs that were made before keep it.

    Raises UserError for the name of a built-in one that is another.
    """
    refuse_built_in(distance)
    if distance not in _BUILT_IN:
        DISTANCES[distance.name], _OWN[distance.name] = distance, digest_of_code(distance)
    return distance.name


def refuse_built_in(distance: Distance) -> None:
    """Raise UserError where a distance has the name of a built-in one and is another."""
    if any(one.name == distance.name for one in _BUILT_IN) and distance not in _BUILT_IN:
        raise UserError(f"distance {distance.name}: there is a built-in one of this name already; choose another")


def distance_names() -> tuple[str, ...]:
    """Names of all distances, those that were added last."""
    return tuple(DISTANCES)


def own_digest(name: str) -> str | None:
    """A digest of what a distance does that a script added; None of a built-in one."""
    return _OWN.get(name)


def get_distance(name: str) -> Distance:
    """The distance of that name; UserError listing them all when there is none."""
    if name not in DISTANCES:
        raise UserError(f"unknown distance {name!r}; choose one of {', '.join(DISTANCES)}")
    return DISTANCES[name]
