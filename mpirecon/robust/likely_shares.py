"""Between which fractions of correct poses the truth probably lies, given each particle's log likelihood ratio."""

from __future__ import annotations

import numpy as np

from mpirecon.parallel.comm import Communicator

#: log likelihood ratio beyond which nothing is left to doubt: e⁻³⁰ is far below rounding
_SURE = 30.0

#: by how much the logarithm of the likelihood may fall within the interval (χ² of one degree, 95 %)
_LIKELY = 1.92

#: every how many of the fractions are looked at first
_APART = 16


def likely_shares(comm: Communicator, score: np.ndarray, once: np.ndarray, best: float) -> tuple[float, float]:
    """The ends of the fractions whose likelihood is within _LIKELY of the largest. Collective.

    score : (m,) log likelihood ratio of a correct pose against any other, of this rank's particles
    once : (m,) what each counts
    best : fraction that the others are near, if particles have much to say
    """
    grid = np.unique(np.concatenate([np.linspace(0.001, 0.999, 200), best + np.linspace(-0.03, 0.03, 121)]))
    grid = np.concatenate([[0.0], grid[(grid > 0) & (grid < 1)], [1.0]])
    # ln(g·exp(score) + 1 − g) but for a constant; of those that are surely correct or not, ln g or ln(1 − g)
    sure = np.abs(score) > _SURE
    more, counted = np.expm1(score[~sure]), once[~sure]
    both = [once[sure & side].sum() for side in (score > 0, score < 0)]
    likelihood = np.full(len(grid), np.nan)

    def look(rows: np.ndarray) -> None:
        shares = grid[rows]
        with np.errstate(divide="ignore", invalid="ignore"):  # none and all are shares, too
            found = sum(count * np.log(share) if count else 0 * shares for count,
                        share in zip(both, (shares, 1 - shares)))
            for start in range(0, len(more), 4096):  # the table of particles × shares stays small
                part = slice(start, start + 4096)
                found = found + counted[part] @ np.log1p(more[part, None] * shares)
        likelihood[rows] = comm.allreduce(np.ascontiguousarray(found))

    # a sum of logarithms of straight lines has one summit: the best is beside the best of a few, and what is likely
    # ends beside the likely ones of these
    look(np.arange(0, len(grid), _APART))
    look(_beside(int(np.nanargmax(likelihood)), len(grid)))
    for end in (0, -1):
        look(_beside(int(np.flatnonzero(likelihood >= np.nanmax(likelihood) - _LIKELY)[end]), len(grid)))
    inside = grid[likelihood >= np.nanmax(likelihood) - _LIKELY]
    return float(inside.min()), float(inside.max())


def _beside(row: int, count: int) -> np.ndarray:
    """Rows of `count` that are less than _APART from one."""
    return np.arange(max(row - _APART + 1, 0), min(row + _APART, count))
