"""tools/scaling finds the constants that made the times it is given; tools/make_star writes what import reads."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT
from test_calibration import stand_in

from mpirecon.batch.calibration import packaged
from mpirecon.io.relion import read_relion


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "tools"))
    loader = importlib.machinery.SourceFileLoader("scaling", str(CHECKOUT / "tools" / "scaling"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scaling", loader))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def test_the_fit_predicts_the_runs_that_made_it(scaling, tmp_path, capsys, monkeypatch):
    """Of a machine whose constants are not those of the package: runs are kept, fitted to, and compared with."""
    model = json.loads(json.dumps(packaged()))
    for number, phase in enumerate(model["seconds"]):
        model["seconds"][phase] = [(1 + number / 4) * value for value in model["seconds"][phase]]
    monkeypatch.setattr(scaling, "run_trials", lambda trials, folder: [stand_in(trial, model) for trial in trials])
    keep = tmp_path / "runs.json"
    monkeypatch.setattr(sys, "argv", ["scaling", "--keep", str(keep)])
    scaling.main()
    assert len(json.loads(keep.read_text())) == len(scaling.RUNS)
    monkeypatch.setattr(sys, "argv", ["scaling", "--keep", str(keep), "--fit"])
    scaling.main()
    said = capsys.readouterr().out
    assert all(float(error) <= 3 for error in re.findall(r"largest (\d+) %", said)) and said.count("largest") == 2
    assert said.count("128², sorted, 2 ranks") == 2


def test_other_runs_are_compared_with_what_is_forecast(scaling, capsys, monkeypatch):
    model = json.loads(json.dumps(packaged()))
    model["seconds"] = {phase: [2 * value for value in values] for phase, values in model["seconds"].items()}
    monkeypatch.setattr(scaling, "run_trials", lambda trials, folder: [stand_in(trial, model) for trial in trials])
    monkeypatch.setattr(sys, "argv", ["scaling", "--check"])
    scaling.main()
    said = capsys.readouterr().out
    assert len(re.findall(r"\| 0\.5 +\|", said)) == 12 and "time: median error 50 %, largest 50 %" in said
    assert not [trial for trial in scaling.CHECKS if trial in scaling.RUNS]


def test_a_made_table_is_read(cli, tmp_path):
    made = subprocess.run([sys.executable, CHECKOUT / "tools" / "make_star", "--particles", "450", "-o",
                           tmp_path / "p.star"])
    assert made.returncode == 0
    table = read_relion(tmp_path / "p.star")
    assert len(table) == 450 and len(table.stacks) == 3 and table.tables["particles"].shape == (450, 26)
