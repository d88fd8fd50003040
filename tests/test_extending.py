"""What docs/extending.md shows works as it stands."""

import ast
import inspect
import re
from pathlib import Path

import host_cuda
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.batch.forecast import Task, memory_per_rank
from mpirecon.errors import UserError
from mpirecon.io.export import ExportOptions, export_run
from mpirecon.io.formats import STAR, CryoSparc, add_format, format_of, formats
from mpirecon.io.star import read_star
from mpirecon.kernels.arguments import Kernel
from mpirecon.kernels.cuda_source import Settings, cuda_source
from mpirecon.kernels.tables import KERNELS, add_kernel
from mpirecon.robust.known_rules import add_rule, rule_names, rule_of
from mpirecon.robust.losses import LOSSES
from mpirecon.solvers.config import Config
from mpirecon.solvers.kinds import SolverKind, add_solver, solver_kind, solver_names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"


@pytest.fixture(scope="module")
def names():
    """What the page's examples define, run one after the other."""
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        exec(compile(block, "docs/extending.md", "exec"), found)
    yield found
    del KERNELS["peak"]


def test_a_rule_of_ones_own_selects(names):
    kept, wrong = names["within"].kept, names["particles"].truth["pose_error"]
    assert 0 < (~kept).sum() < 60 and wrong[~kept].mean() > 1.5 * wrong.mean()
    assert names["within"].summary["configuration"]["loss"] == "within" in rule_names()
    assert names["within"].iterations[-1]["loss"] < names["within"].iterations[-1]["loss_heldout"] + 1e-9
    with pytest.raises(UserError, match="--keep applies to"):
        Config(loss="within", keep=0.5)


def test_a_distance_of_ones_own_sorts(names):
    result = names["sorted_by_angle"]
    assert result.kept.mean() == pytest.approx(0.8, abs=0.01)
    assert np.all(result.particles["distance"] >= -1.001)
    worst = np.argsort(result.particles["distance"])[-20:]
    assert names["particles"].truth["pose_error"][worst].mean() > 0.4


def test_the_name_of_another_loss_is_refused(names):
    for name in ("l2", "huber", "sorted"):
        with pytest.raises(UserError, match="choose another"):
            add_rule(type("Other", (names["Within"],), {"name": name})())
    with pytest.raises(UserError, match="unknown loss 'least'.*l2.*posterior"):
        rule_of("least")


def test_what_is_added_again_replaces_what_was(names):
    """As a notebook's cell does that is run again, corrected or not."""
    for make in (names["Within"], type("Corrected", (names["Within"],), {})):
        rule = make()
        assert add_rule(rule) == "within" and rule_of("within") is rule
    for make in (type("Corrected", (names["Csv"],), {}), names["Csv"]):
        csv = make()
        assert add_format(csv) == ".csv" and format_of("p.csv") is csv
        assert [one.suffix for one in formats()].count(".csv") == 1
    for make in (type("Corrected", (names["Direct"],), {}), names["Direct"]):
        assert add_solver(SolverKind("direct", make)) == "direct" and solver_kind("direct").make is make


def test_rules_declare_what_runs_ask():
    declared = {name: rule_of(name) for name in ("l2", "sorted", "huber", "posterior")}
    assert [name for name, rule in declared.items() if not rule.scores] == ["l2"]
    assert [name for name, rule in declared.items() if rule.mixture or rule.searches_nearby] == ["posterior"]
    assert [name for name, rule in declared.items() if rule.length] == ["huber"]
    assert [name for name, rule in declared.items() if rule.keeps] == ["sorted", "posterior"]


def test_a_solver_of_ones_own_makes_the_maps(names):
    ours, theirs = (
        names["direct"],
        mr.reconstruct(names["particles"], loss="sorted", keep=0.8, iterations=2, solve_iterations=0),
    )
    assert ours.summary["configuration"]["solver"] == "direct" in solver_names() and len(ours.iterations) == 2
    # of which it is the direct part
    for a, b in zip((*ours.half_maps, ours.volume), (*theirs.half_maps, theirs.volume)):
        np.testing.assert_allclose(a.array, b.array, atol=1e-4 * np.abs(b.array).max())
    np.testing.assert_array_equal(ours.kept, theirs.kept)


def test_solvers_declare_what_runs_and_forecasts_ask(names):
    declared = {name: solver_kind(name) for name in solver_names()}
    assert [name for name, kind in declared.items() if kind.batches] == ["gradient"]
    assert (
        Config(solver="direct").rounds == 1
        and Config(solver="gradient").rounds == 10
        and Config(solver="direct", loss="huber").rounds == 5
    )
    with pytest.raises(UserError, match="--batch-size applies to --solver gradient; --solver direct"):
        Config(solver="direct", batch_size=10)
    with pytest.raises(UserError, match="--solver newton: choose one of normal, gradient"):
        Config(solver="newton")
    with pytest.raises(UserError, match="choose another"):
        add_solver(SolverKind("gradient", names["Direct"]))
    direct, normal = (memory_per_rank(Task(1000, 64, solver=name), 1) for name in ("direct", "normal"))
    assert normal <= direct < memory_per_rank(Task(1000, 64, solver="gradient"), 1)  # a solver that nobody has measured


def test_a_format_of_ones_own_is_read(names, tmp_path, monkeypatch):
    """The same particles as a STAR file and in the page's format give the same map; rows are named in errors."""
    monkeypatch.chdir(tmp_path)
    mr.reconstruct(names["particles"]).save("first")
    export_run("first", ExportOptions(star="p.star", stack="p.mrcs"))
    tables = read_star("p.star")
    labels = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize", "rlnImageSize")
    optics = {label: tables["optics"][label].iloc[0] for label in labels}
    table = tables["particles"].drop(columns="rlnOpticsGroup").assign(**optics)
    table.to_csv("p.csv", index=False)
    star, csv = (mr.reconstruct(f"p.{ending}", loss="huber", iterations=2) for ending in ("star", "csv"))
    np.testing.assert_array_equal(csv.volume.array, star.volume.array)
    np.testing.assert_array_equal(csv.kept, star.kept)
    some = mr.reconstruct("p.star", select=["rlnImageName=@p.csv"])
    assert len(some.kept) == len(star.kept)
    table.assign(rlnDefocusU="deep").to_csv("bad.csv", index=False)
    with pytest.raises(UserError, match="bad.csv, line 2: rlnDefocusU is 'deep'"):
        mr.reconstruct("bad.csv")
    with pytest.raises(UserError, match="--passthrough is for cryoSPARC files, and p.csv is not a .cs file"):
        mr.reconstruct("p.csv", passthrough=["p.star"])
    with pytest.raises(UserError, match="written as a CSV file"):
        export_run("first", ExportOptions(star="kept.csv", stack="kept.mrcs"))
    with pytest.raises(UserError, match="choose another"):
        add_format(type("Other", (names["Csv"],), {"suffix": ".cs"})())
    for suffix in ("BAD2", "tsv", ".TSV", ".star.gz", ".", "", "./tsv"):
        with pytest.raises(UserError, match=f"^format '{re.escape(suffix)}': no name of a file .* expected"):
            add_format(type("Other", (names["Csv"],), {"suffix": suffix})())
    for suffix in (".h5", ".hdf5", ".hdf", ".mrc", ".mrcs", ".map", ".npy"):
        with pytest.raises(UserError, match=f"^format {suffix}: files that end so are .*; choose another ending"):
            add_format(type("Other", (names["Csv"],), {"suffix": suffix})())


def test_no_code_compares_the_names_of_losses_solvers_or_formats():
    """What differs between them is declared: a comparison with a name is a place that a new one would have to know."""
    known = {*LOSSES, "normal", "gradient", *(one.suffix for one in (STAR, CryoSparc()))}
    found = []
    for path in Path(mr.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            compared = (
                isinstance(node, ast.Compare)
                or isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") == "endswith"
            )
            names = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)
                     and isinstance(part.value, str)} if compared else set()
            found += [f"{path.name}, line {node.lineno}: {ast.unparse(node)}"] if names & known else []
    assert not found, "\n".join(found)


def test_a_kernel_of_ones_own_is_declared_once(names):
    table, values = names["PEAK"], names["values"]
    assert list(inspect.signature(names["peak"].py_func).parameters) == [argument.name for argument in table.arguments]
    np.testing.assert_allclose(values["out"], np.abs(values["data"]).max(axis=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"peak: out has the shape \(4,\), expected \(images = 5\)"):
        table.arranged({**values, "out": np.empty(4, np.float32)})
    add_kernel(table)  # again
    with pytest.raises(ValueError, match="another kernel named statistics"):
        add_kernel(Kernel("statistics", table.arguments, table.source))


@pytest.mark.skipif(host_cuda.compiler() is None, reason="needs a C++ compiler: install g++")
def test_its_cuda_twin_does_the_same(names):
    table, values = names["PEAK"], {**names["values"], "out": np.full(5, np.nan, np.float32)}
    module = host_cuda.compile_source(cuda_source(Settings(threads=64)))
    for blocks, threads in ((1, 2), (3, 64)):
        module.launch("peak", blocks, threads, table.arranged(values))
        np.testing.assert_allclose(values["out"], names["values"]["out"], rtol=1e-6)
        values["out"][:] = np.nan
