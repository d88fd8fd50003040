"""Fractions of right particles that differ between views.

Right particles see the views that the specimen prefers; wrong poses need not: they may be anywhere, or pile up in a
few views. Where right ones are rare and wrong ones are not, a particle is less likely right than the fraction over all
views says. Each view's fraction is estimated, drawn towards that of all by as much as the views differ beyond chance
(empirical Bayes; the variance between views by moments: Kleinman 1973, J. Am. Stat. Assoc. 68:46).
"""

from __future__ import annotations

import numpy as np

from mpirecon.parallel.comm import Communicator

#: standard deviations beyond which the views differ by more than chance; below, one fraction is all there is
_SURE = 4.0

#: rounds of EM of the fractions, and the least strength of what all views say about one, in particles
_ROUNDS, _LEAST = 20, 1.0


def shares_by_view(comm: Communicator, odds: np.ndarray, view: np.ndarray) -> np.ndarray | None:
    """What its view adds to each particle's logarithmic odds of being right, (m,); None where views do not differ.
    Collective.

    odds : (m,) float64, logarithms, with one fraction for all · view : (m,) int64, from 0
    """
    views = 1 + comm.allreduce_scalar(int(view.max(initial=-1)), "max")
    count = comm.allreduce(np.bincount(view, minlength=views).astype(np.float64))
    right = _right(comm, odds, view, views)
    share, seen = right.sum() / max(count.sum(), 1), count > 0
    variance, free = share * (1 - share), int(seen.sum()) - 1
    if free < 1 or not variance > 0:
        return None
    excess = ((right - share * count)[seen] ** 2 / count[seen]).sum() / variance - free
    if not excess > _SURE * np.sqrt(2 * free):
        return None
    between = excess * variance / (count.sum() - np.square(count).sum() / count.sum())
    strength = max(variance / between - 1, _LEAST)
    for _ in range(_ROUNDS):
        of_view = (right + strength * share) / (count + strength)
        more = (np.log(of_view / (1 - of_view)) - np.log(share / (1 - share)))[view]
        right = _right(comm, odds + more, view, views)
    return more


def _right(comm: Communicator, odds: np.ndarray, view: np.ndarray, views: int) -> np.ndarray:
    """(views,) expected number of right particles in each."""
    right = np.bincount(view, 1 / (1 + np.exp(-np.clip(odds, -500, 500))), views)
    return comm.allreduce(right.astype(np.float64))  # without particles they are integers
