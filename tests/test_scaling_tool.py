"""tools/scaling finds the constants that made the times it is given; tools/make_star writes what import reads."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys

import pytest
from conftest import CHECKOUT

from mpirecon.batch import forecast
from mpirecon.io.relion import read_relion


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "tools"))
    loader = importlib.machinery.SourceFileLoader("scaling", str(CHECKOUT / "tools" / "scaling"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scaling", loader))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def test_the_fit_predicts_the_runs_that_made_it(scaling):
    seconds = {phase: [1e-9 * (i + 1)] * len(amounts) for i, (phase, amounts) in
             enumerate(forecast.work(forecast.Task(10, 32), 2).items())} | {"rest": [2.0, 1e-7, 1e-5]}
    known = {"seconds": seconds}
    found = []
    for run in scaling.RUNS + scaling.LARGE:
        phases = forecast.seconds_by_phase(scaling.task_of(run), run[5], known=known)
        found.append({"run": list(run), "phases": {p: s for p, s in phases.items() if p != "rest"},
                      "wall": sum(phases.values())})
    fitted = {"seconds": scaling.fit_seconds(found)}
    for particles, box, ranks in ((10**6, 512, 64), (5000, 100, 1)):
        task = forecast.Task(particles, box)
        wanted, got = (sum(forecast.seconds_by_phase(task, ranks, known=c).values()) for c in (known, fitted))
        assert got == pytest.approx(wanted, rel=0.05)


def test_a_made_table_is_read(cli, tmp_path):
    made = subprocess.run([sys.executable, CHECKOUT / "tools" / "make_star", "--particles", "450", "-o",
                           tmp_path / "p.star"])
    assert made.returncode == 0
    table = read_relion(tmp_path / "p.star")
    assert len(table) == 450 and len(table.stacks) == 3 and table.tables["particles"].shape == (450, 26)
