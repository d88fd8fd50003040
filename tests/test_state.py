"""A run's Problem is frozen and its State replaced: nothing sets what another object holds."""

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_log import RankLog
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.console import Console
from mpirecon.solvers.config import Config
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.problem import Problem
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.state import Scores, State, Survey

FOLDER = Path(mr.__file__).parent


def assigned(function: ast.AST):
    """Targets of a function's assignments, with blocks and loops."""
    for node in ast.walk(function):
        targets = {ast.Assign: "targets", ast.AugAssign: "target", ast.AnnAssign: "target",
                   ast.For: "target"}.get(type(node))
        if targets:
            found = getattr(node, targets)
            yield from found if isinstance(found, list) else [found]
        elif isinstance(node, ast.With):
            yield from (item.optional_vars for item in node.items if item.optional_vars is not None)


@pytest.mark.parametrize("room", ["solvers", "search", "api", "backend"])
def test_nothing_sets_an_attribute_of_what_it_was_given(room):
    """Neither of a parameter nor of what another object holds (``a.b.c = …``); a method sets its own."""
    found = []
    for path in (FOLDER / room).glob("*.py"):
        if path.name in ("path.py", "walk.py"):  # which fill a record of their own, Walked
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            given = {a.arg for a in (*function.args.posonlyargs, *function.args.args,
                                     *function.args.kwonlyargs)} - {"self"}
            for target in (t for whole in assigned(function) for t in ast.walk(whole) if isinstance(t, ast.Attribute)):
                held = isinstance(target.ctx, ast.Store) and (
                    isinstance(target.value, ast.Attribute) or getattr(target.value, "id", None) in given)  # fmt: skip
                if held:
                    found.append(f"{path.name}:{target.lineno}: {ast.unparse(target)} in {function.name}")
    assert not found, "\n".join(found)


def test_what_a_run_was_asked_and_what_it_knows_cannot_be_set():
    for kind in (Problem, State, Scores, Survey, Engine):
        made = object.__new__(kind)
        for field in fields(kind):
            with pytest.raises(FrozenInstanceError):
                setattr(made, field.name, None)


def test_every_iteration_makes_a_state_of_its_own():
    particles, comm = mr.simulate(mr.phantom(16), 60, snr=1.0, error_rate=0.2), SerialCommunicator()
    with ParticleFile(particles.path) as file, RankLog(None) as log:
        inner = Reconstruction(comm, file, Config(loss="sorted", keep=0.8, iterations=3), log,
                               Console(comm, quiet=True))
        states = list(inner.iterations())
    assert [s.iteration for s in states] == [1, 2, 3] == [len(s.records) for s in states]
    assert len({id(s.scores.held_out.sums) for s in states}) == 3 and len({id(s.selection.weight) for s in states}) == 3
    assert states[0].record == states[2].records[0] and states[0].record != states[2].record
    for state in states:
        np.testing.assert_array_equal(state.pose.quaternion, inner.slab.metadata.pose.quaternion)
