"""What the names of a Config mean to its run: objects that are found once, as it is made.

Losses, distances and solvers of one's own may be replaced under their names while a run that was made before goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpirecon.model.choices import check_choice
from mpirecon.robust import distances, known_rules, losses
from mpirecon.robust.distances import Distance
from mpirecon.robust.own_code import digest_of_code
from mpirecon.robust.rules import Rule
from mpirecon.solvers import kinds
from mpirecon.solvers.kinds import SolverKind


@dataclass(frozen=True)
class Meaning:
    """What an option names, and a digest of what it does; None: it is built in."""

    thing: Rule | Distance | SolverKind
    digest: str | None


#: option → (names that are known, what a name means, a digest of it)
_KNOWN = {
    "loss": (known_rules.rule_names, known_rules.rule_of, known_rules.own_digest),
    "distance": (distances.distance_names, distances.get_distance, distances.own_digest),
    "solver": (kinds.solver_names, kinds.solver_kind, kinds.own_digest),
}


def meanings(named: Mapping[str, str], given: Mapping[str, Meaning]) -> dict[str, Meaning]:
    """Of the names of an option each: what was `given`, where it bears the name, else what the name means now.
    UserError for a name that is not known."""
    return {option: given[option] if option in given and given[option].thing.name == name else _known(option, name)
            for option, name in named.items()}


def own_digest(option: str, name: str) -> str | None:
    """A digest of what a loss, distance or solver of that name does; None of a built-in one, and of other options."""
    return _KNOWN[option][2](name) if option in _KNOWN else None


def given_loss(name: str, loss) -> Meaning:
    """What a function, or a class of losses, means that reports call by a name; UserError where it is none."""
    return Meaning(known_rules.ByNorm(name, losses.own_maker(name, loss)), digest_of_code(loss))


def given_distance(distance: Distance) -> Meaning:
    """What a distance means that is given as such; UserError where it has the name of a built-in one."""
    distances.refuse_built_in(distance)
    known = distance.name in distances.DISTANCES and distances.DISTANCES[distance.name] is distance
    return Meaning(distance, distances.own_digest(distance.name) if known else digest_of_code(distance))


def _known(option: str, name: str) -> Meaning:
    names, look_up, digest = _KNOWN[option]
    check_choice(f"--{option}", name, names())
    return Meaning(look_up(name), digest(name))
