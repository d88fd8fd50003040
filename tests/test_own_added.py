"""What a script adds, or a solver of its own returns, is checked, and named where it is none."""

import re
import subprocess
import sys

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.formats import TableFormat, add_format, formats
from mpirecon.robust.known_rules import add_rule, rule_names
from mpirecon.robust.rules import Rule
from mpirecon.solvers.groups import WHOLE, MapSet, half_map
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


# what solvers return


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(16, 5.0), 100, snr=0.5, error_rate=0.2, seed=3)


class Idle(NormalSolver):
    """Returns nothing, and makes nothing."""

    def step(self, weigh):
        """Nothing."""

    def finish(self):
        """Nothing."""


class Unsolved(Idle):
    """Decides, and makes nothing."""

    def step(self, weigh):
        return weigh(None)


class Unfinished(NormalSolver):
    """Ends with nothing."""

    def finish(self):
        """Nothing."""


class Empty(NormalSolver):
    """Ends without a map."""

    def finish(self):
        return MapSet(self.engine.comm, self.engine.box)


class Coarse(NormalSolver):
    """Ends with maps of another box."""

    def finish(self):
        return MapSet(self.engine.comm, 8)


def compares(volume):
    """A solver whose half maps are such volumes."""

    class Compares(Idle):
        def step(self, weigh):
            maps, selection = MapSet(self.engine.comm, self.engine.box), weigh(None)
            maps.place(half_map(1), 0, volume)
            maps.place(half_map(2), 0, volume)
            self.compare_halves(maps)
            return selection

    return Compares


class Unreferred(NormalSolver):
    """Leaves nothing to compare particles with."""

    def step(self, weigh):
        selection = super().step(weigh)
        self.references = MapSet(self.engine.comm, self.engine.box)
        return selection


def ends_with(whole):
    """A solver whose map of all is such a volume."""

    class Ends(NormalSolver):
        def finish(self):
            maps = super().finish()
            maps.place(WHOLE, 0, whole)
            return maps

    return Ends


NAN = np.full((16, 16, 16), np.nan)


@pytest.mark.parametrize("make, said", [
    (Idle, "step returned None; expected the Selection that weigh returned"),
    (Unsolved, "step left no FSC of the half maps; call compare_halves"),
    (Unreferred, "step, in its references, made no map of half 1; expected maps of half 1, half 2, half 1 without"),
    (compares(np.ones((3, 3, 3))), r"for its half maps, made a map of half 1 of shape \(3, 3, 3\); expected \(16, 16"),
    (compares(NAN), "for its half maps, made a map of half 1 that holds 4096 NaN or infinite voxels"),
    (Unfinished, "finish returned None; expected a MapSet"),
    (Empty, "finish made no map of half 1; expected maps of half 1, half 2, all"),
    (Coarse, "finish returned maps of box 8; expected box 16"),
    (ends_with(NAN), "finish made a map of all that holds 4096 NaN"),
    (ends_with(np.ones((3, 3, 3))), r"finish made a map of all of shape \(3, 3, 3\)"),
    (lambda engine, config: None, "make returned None; expected a Solver"),
    (dict, "its make is called with an Engine and a Config: "),
    (lambda engine: None, "its make is called with an Engine and a Config: "),
])  # fmt: skip
def test_what_a_solver_returns_is_checked(particles, make, said):
    with pytest.raises(mr.UserError, match=f"^solver ns[:,].*{said}"):
        add_solver(SolverKind("ns", make))
        mr.reconstruct(particles, solver="ns", loss="sorted", keep=0.8, iterations=1, folds=2)


def test_an_error_of_a_solver_itself_is_its_own(particles):
    def make(engine, config):
        raise TypeError("of the script")

    add_solver(SolverKind("ns", make))
    with pytest.raises(TypeError, match="of the script"):
        mr.reconstruct(particles, solver="ns", iterations=1)


@pytest.mark.parametrize("table", ["None", "pd.DataFrame({'rlnVoltage': [300]})"])
def test_what_a_format_reads_is_checked(tmp_path, table):
    """In a process of its own: formats that were added stay."""
    script = f"""
import pandas as pd
import mpirecon as mr
from mpirecon.io.formats import TableFormat, add_format

class Odd(TableFormat):
    name, suffix = "table", ".unread"

    def read(self, path, comm, options):
        return {table}

add_format(Odd())
try:
    mr.reconstruct("p.unread")
except mr.UserError as error:
    print(error)
"""
    (tmp_path / "p.unread").write_text("a")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match("p.unread: read of the format table returned .*; expected a ParticleTable", done.stdout)
