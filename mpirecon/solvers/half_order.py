"""Whether half maps were given in the order of the half sets, by what their particles show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: standard deviations of chance by which most particles of either half set must fit the other's map better: maps in
#: the right order came to 0.3 at most (20 particles to 200, losses that reject half of them), and maps of which one is
#: better than the other, or that particles are not in, do not have it in both half sets
_SURE = 3.0


def order_warning(columns: Mapping[str, np.ndarray]) -> str | None:
    """A warning where particles find their own noise in the map of the other half set, not in that of their own.

    columns : half, score_own and score_other, (m,) each; NaN of particles that were not compared
    """
    better = columns["score_other"] - columns["score_own"]
    shares = []
    for half in (1, 2):
        some = better[(columns["half"] == half) & np.isfinite(better)]
        share = float((some > 0).mean()) if len(some) else 0.0
        if (share - 0.5) * 2 * np.sqrt(len(some)) < _SURE:
            return None
        shares.append(f"{100 * share:.0f} %")
    return (f"{' and '.join(shares)} of the particles of the half sets 1 and 2 fit the other half's map better than "
            "their own half's, which holds their own noise: the maps seem to be exchanged, and score_other to hold "
            "what a particle finds of itself. Give the map of half set 1 first")
