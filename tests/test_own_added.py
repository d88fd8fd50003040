"""What a script adds, or a solver of its own returns, is checked, and named where it is none."""

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.formats import TableFormat, add_format, formats
from mpirecon.robust.known_rules import add_rule, rule_names
from mpirecon.robust.rules import Rule
from mpirecon.solvers.kinds import SolverKind, add_solver, solver_names
from mpirecon.solvers.normal import NormalSolver

pytestmark = pytest.mark.in_python


class Plain(Rule):
    """A rule without a name."""

    def decide(self, case):
        """Not called."""

    def value(self, comm, d, selection, valid, given):
        """Not called."""


def named(name):
    return type("Plain", (Plain,), {"name": name})()


class Unread(TableFormat):
    """A format of a certain ending."""

    name, suffix = "table", ".unread"

    def read(self, path, comm, options):
        """Not called."""


@pytest.mark.parametrize("add, said", [
    (lambda: add_rule(Plain), r"rule Plain: expected a rule, and this is its class; give Plain\(\)"),
    (lambda: add_rule(3), "rule 3: expected an instance of a subclass of Rule"),
    (lambda: add_rule(Plain()), "rule Plain: its name must be text that is not empty, got None"),
    (lambda: add_rule(named(5)), "rule Plain: its name must be text that is not empty, got 5"),
    (lambda: add_rule(named(None)), "rule Plain: its name must be text"),
    (lambda: add_rule(named("")), "rule Plain: its name must be text that is not empty, got ''"),
    (lambda: mr.losses.register("", np.ones_like), "loss: its name must be text that is not empty, got ''"),
    (lambda: mr.distances.Distance("", True, np.ones_like, None), "distance: its name must be text that is not empty"),
    (lambda: add_solver(3), "solver 3: expected a SolverKind"),
    (lambda: add_solver(SolverKind(None, NormalSolver)), "solver: its name must be text that is not empty, got None"),
    (lambda: add_solver(SolverKind("none", 5)), "solver none: make is 5; expected a function of an Engine and"),
    (lambda: add_format(3), "format 3: expected an instance of a subclass of TableFormat"),
    (lambda: add_format(Unread), r"format .*: expected an instance of a subclass of TableFormat"),
    (lambda: add_format(type("Odd", (Unread,), {"suffix": 5})()), "format Odd: its suffix must be text, got 5"),
    (lambda: add_format(type("Odd", (Unread,), {"name": None})()), "format Odd: its name must be text, got None"),
])  # fmt: skip
def test_what_is_no_rule_solver_or_format_is_not_added(add, said):
    before = rule_names(), solver_names(), formats()
    with pytest.raises(mr.UserError, match=f"^{said}"):
        add()
    assert (rule_names(), solver_names(), formats()) == before
    with pytest.raises(mr.UserError, match="loss squared: choose one of"):  # the names that are known can be listed
        mr.Reconstruction(mr.simulate(mr.phantom(16), 8), loss="squared")
