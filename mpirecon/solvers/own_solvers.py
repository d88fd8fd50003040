"""Solvers of one's own: what they are made of, return and leave is checked, and named where it is none."""

from __future__ import annotations

from collections.abc import Callable

from mpirecon.errors import UserError
from mpirecon.kinds import shown
from mpirecon.parallel.comm import together
from mpirecon.robust.selection import Selection
from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.config import Config
from mpirecon.solvers.groups import WHOLE, MapSet, half_map
from mpirecon.solvers.passes import Engine


def made_by(make: Callable[[Engine, Config], Solver], engine: Engine, config: Config) -> Solver:
    """The solver of a run; UserError where `make` makes none."""
    try:
        solver = make(engine, config)
    except TypeError as error:
        if error.__traceback__.tb_next is not None:  # of what it does, and not of how it is called
            raise
        raise UserError(f"solver {config.solver}: its make is called with an Engine and a Config: {error}") from error
    if not isinstance(solver, Solver):
        raise UserError(f"solver {config.solver}: make returned {shown(solver)}; expected a Solver "
                        "(mpirecon.solvers.base)")
    return solver


def stepped(solver: Solver, weigh: Weigh) -> Selection:
    """An outer iteration of a solver; UserError, on all ranks, where that of one's own returns no selection, or leaves
    no maps to compare particles with. Collective."""
    selection = solver.step(weigh)
    if not solver.is_own:
        return selection
    comm, engine, what = solver.engine.comm, solver.engine, f"solver {solver.config.solver}: step"
    with together(comm):
        if not isinstance(selection, Selection) or len(selection.weight) != len(engine.slab):
            got = "one of other particles" if isinstance(selection, Selection) else shown(selection)
            raise UserError(f"{what} returned {got}; expected the Selection that weigh returned")
        if solver.fsc is None:
            raise UserError(f"{what} left no FSC of the half maps; call compare_halves with their MapSet")
        _refuse_other(f"{what} left as references", solver.references)
    solver.references.check(solver.reference_maps, f"{what}, in its references,")
    return selection


def finished(solver: Solver) -> MapSet:
    """The final maps of a solver; UserError, on all ranks, where those of one's own are none. Collective."""
    maps = solver.finish()
    if not solver.is_own:
        return maps
    what, box = f"solver {solver.config.solver}: finish", solver.engine.box
    with together(solver.engine.comm):
        _refuse_other(f"{what} returned", maps)
        if maps.box != box:
            raise UserError(f"{what} returned maps of box {maps.box}; expected box {box}, that of the images")
    maps.check([half_map(1), half_map(2), WHOLE], what)
    return maps


def _refuse_other(what: str, maps) -> None:
    if not isinstance(maps, MapSet):
        raise UserError(f"{what} {shown(maps)}; expected a MapSet (mpirecon.solvers.groups)")
