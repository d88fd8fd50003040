"""Half maps of some of the particles alone, each counting alike, or by the weight that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpirecon.robust.selection import Selection
from mpirecon.solvers.groups import GroupStore, MapOf, MapSet, half_map
from mpirecon.validate.fsc import fsc

if TYPE_CHECKING:
    from mpirecon.solvers.run import Reconstruction

#: fewer particles than this in a half set make no map
FEWEST = 20


def half_maps(run: Reconstruction, rows: np.ndarray) -> tuple[GroupStore, tuple[np.ndarray, np.ndarray]]:
    """The sums and the half maps of these rows, (m,) bool, of every rank. Collective."""
    store = run.engine.accumulate(Selection.of_all(rows))
    maps = solved(run, store, [half_map(1), half_map(2)])
    return store, (maps.get(half_map(1)), maps.get(half_map(2)))


def solved(run: Reconstruction, store: GroupStore, which: list[MapOf], ssnr: np.ndarray | None = None) -> MapSet:
    """Maps of such sums. Collective."""

    def solve(made_of: MapOf, folded: np.ndarray) -> np.ndarray:
        equations = run.engine.backend.normal_equations(folded)
        return equations.direct(equations.ridge(ssnr))

    maps = MapSet(run.comm, run.file.box)
    with run.engine.timings("controls"):
        maps.solve(store, which, solve)
    return maps


def enough(run: Reconstruction, rows: np.ndarray) -> bool:
    """Whether these rows of every rank make half maps. Collective."""
    half = run.slab.metadata.half
    return bool(run.comm.allreduce(np.array([(rows & (half == h)).sum() for h in (1, 2)], np.int64)).min() >= FEWEST)


def search_curves(run: Reconstruction, kept: np.ndarray, fsc_of_all: np.ndarray) -> dict:
    """``search_fsc`` for the record of an iteration: FSC of the half maps of all, of the particles alone that are not
    kept at their given poses, at those, and of those alone that are kept at found ones, (shells,) each; None where
    these are too few. Collective.

    kept : (m,) bool, of this iteration's maps
    """
    rejected, found = run.poses.parts(kept & run.slab.valid)
    curves = {"all": fsc_of_all.round(4).tolist()}
    mine = int(rejected.sum() + found.sum())
    with run.engine.pace.showing(run.comm.allreduce_scalar(mine), "rejected and found particles", mine=mine):
        with run.poses.given():
            curves["rejected"] = _curve(run, rejected)
        curves["found"] = _curve(run, found)
    return {"search_fsc": curves}


def _curve(run: Reconstruction, rows: np.ndarray) -> list[float] | None:
    if not enough(run, rows):
        return None
    return fsc(*half_maps(run, rows)[1], run.engine.mask).round(4).tolist()
