"""The solvers that a run may be given, by name, and what each asks of it.

Code asks what a kind declares and never compares names; one that is added (``add_solver``) is known to runs and
forecasts alike. A solver's own module is loaded when it is made:
forecasts and the command line read what is declared alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

from mpirecon.errors import UserError
from mpirecon.kinds import shown
from mpirecon.robust.own_code import digest_of_code
from mpirecon.robust.returned import refuse_name

if TYPE_CHECKING:
    from mpirecon.solvers.base import Solver
    from mpirecon.solvers.config import Config
    from mpirecon.solvers.passes import Engine


@dataclass(frozen=True)
class SolverKind:
    """A solver as the program knows it.

    Attributes
    ----------
    name : str
    make : callable
        (Engine, Config) → Solver
    rounds : int or None
        iterations where none are asked for; None: as many as the loss takes
    batches : bool
        ``--batch-size`` applies to it
    begins : bool
        before its first step it sums over all particles once, and keeps these sums
    passes : int
        over the particles, or what costs as much, in an iteration
    sums : bool
        its first step needs the sums over all particles alone, so that they can be made as the images are looked at
        first, where nothing is selected
    filters_halves : bool
        where nothing is selected, particles are compared with filtered half maps, and no further maps are solved
    """

    name: str
    make: Callable[[Engine, Config], Solver]
    rounds: int | None = None
    batches: bool = False
    begins: bool = False
    passes: int = 2
    sums: bool = False
    filters_halves: bool = False


def _normal(engine: Engine, config: Config) -> Solver:
    from mpirecon.solvers.normal import NormalSolver

    return NormalSolver(engine, config)


def _gradient(engine: Engine, config: Config) -> Solver:
    from mpirecon.solvers.gradient import GradientSolver

    return GradientSolver(engine, config)


_KINDS = {kind.name: kind for kind in (
    SolverKind("normal", _normal, sums=True, filters_halves=True),
    SolverKind("gradient", _gradient, rounds=10, batches=True, begins=True, passes=3),
)}  # fmt: skip


_BUILT_IN = tuple(_KINDS)

#: digests of those that scripts have added, of what they do
_OWN: dict[str, str] = {}


def add_solver(kind: SolverKind) -> str:
    """Have runs know a solver by its name; returns the name. One of one's own that had it is replaced; runs that were
    made before keep it. UserError for the name of a built-in one, or none, and for what is no kind of solver."""
    if not isinstance(kind, SolverKind):
        raise UserError(f"solver {shown(kind)}: expected a SolverKind (mpirecon.solvers.kinds), which names it")
    refuse_name("solver", kind.name)
    if not callable(kind.make):
        raise UserError(f"solver {kind.name}: make is {shown(kind.make)}; expected a function of an Engine and a "
                        "Config that returns a Solver")
    try:
        signature(kind.make).bind(None, None)
    except TypeError as error:
        raise UserError(f"solver {kind.name}: its make is called with an Engine and a Config: {error}") from error
    except ValueError:
        pass  # of some built-in types nothing is known: they are refused as they are called
    if kind.name in _BUILT_IN:
        raise UserError(f"solver {kind.name}: there is a built-in one of this name already; choose another")
    _KINDS[kind.name], _OWN[kind.name] = kind, digest_of_code(kind)
    return kind.name


def own_digest(name: str) -> str | None:
    """A digest of what a solver does that a script added; None of a built-in one."""
    return _OWN.get(name)


def solver_names() -> tuple[str, ...]:
    """Names of all solvers, those that were added last."""
    return tuple(_KINDS)


def solver_kind(name: str) -> SolverKind:
    """The solver of that name; UserError listing them all where there is none."""
    if name not in _KINDS:
        raise UserError(f"--solver {name}: choose one of {', '.join(_KINDS)}")
    return _KINDS[name]
