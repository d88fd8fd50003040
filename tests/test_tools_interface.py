"""Tools, commands and tests keep to interfaces:
no private names of the package, and nothing of it is set from outside but by tests."""

import ast
import re
import runpy
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import mpirecon as mr

ROOT = Path(__file__).resolve().parent.parent
TOOLS = [path for path in (ROOT / "tools").iterdir() if path.is_file()
         and (path.suffix == ".py" or "python" in path.read_text("utf-8")[:40])]  # fmt: skip
PROGRAMS = [*sorted(TOOLS), *sorted((ROOT / "mpirecon" / "cli").glob("*.py"))]

#: but for the double of CuPy, and for what this file refuses
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py"))
         if "fake_cupy" not in path.parts and path != Path(__file__).resolve()]  # fmt: skip

#: of the standard library and of notebooks, where they are public for all that
PUBLIC = {"_asdict", "_exit", "_replace", "_repr_html_", "_obj"}

#: functions that take the name of an attribute as a string
BY_NAME = {"setattr", "delattr", "getattr", "hasattr", "patch", "object"}


def private_names(tree: ast.AST) -> list[str]:
    """Private names that are imported, or asked of another object."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mpirecon"):
            found += [f"{node.module}.{alias.name}" for alias in node.names if re.match("_[^_]", alias.name)]
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in PUBLIC:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.append(ast.unparse(node))
    return found


def private_strings(tree: ast.AST) -> list[str]:
    """Private names that are replaced or asked for by a string."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
             and ast.unparse(node.func).split(".")[-1] in BY_NAME]  # fmt: skip
    words = [word.value for call in calls for word in call.args[:2] if isinstance(word, ast.Constant)]
    return [word for word in words if re.match(r"(.*\.)?_[^_]", str(word)) and word not in PUBLIC]


def imported_names(tree: ast.AST) -> set[str]:
    """Names under which something of the package is known."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {(alias.asname or alias.name).split(".")[0] for node in nodes for alias in node.names
            if "mpirecon" in (getattr(node, "module", None) or alias.name)}  # fmt: skip


def set_from_outside(tree: ast.AST) -> list[str]:
    """Attributes of the package's own modules and classes that are set."""
    own = imported_names(tree)
    targets = [t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets]
    return [ast.unparse(t) for t in targets if isinstance(t, ast.Attribute) and ast.unparse(t).split(".")[0] in own]


def programs_within(tree: ast.AST):
    """Programs that a tool hands to other processes, as strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if "import mpirecon" in text or "from mpirecon" in text:
            try:
                yield ast.parse(text.strip())
            except SyntaxError:  # prose
                continue


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_tests_know_no_private_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for program in (tree, *programs_within(tree)):
        assert private_names(program) == [] == private_strings(program)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_programs_keep_to_interfaces(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for program in (tree, *programs_within(tree)):
        assert private_names(program) == [] == set_from_outside(program)


@pytest.mark.parametrize("text, found", [
    ("monkeypatch.setattr(slab, '_SIZE', 3)", ["_SIZE"]),
    ("mock.patch('mpirecon.solvers.run._small_errors')", ["mpirecon.solvers.run._small_errors"]),
    ("patch.setattr('mpirecon.solvers.run.small', lambda name: '_a'); getattr(run, '__doc__')", []),
])
def test_private_names_in_strings_are_found(text, found):
    assert private_strings(ast.parse(text)) == found


@pytest.mark.parametrize("text, found", [
    ("import mpirecon as mr\nmr.run._score()", (["mr.run._score"], [])),
    ("from mpirecon.solvers.run import _small_errors", (["mpirecon.solvers.run._small_errors"], [])),
    ("from mpirecon.io.particle_file import ParticleFile\nParticleFile.images = print", ([], ["ParticleFile.images"])),
    ("from mpirecon.batch import forecast\nforecast.constants = lambda: 3", ([], ["forecast.constants"])),
    ("import os\nself._own = os._exit", ([], [])),
])  # fmt: skip
def test_what_does_not_is_found(text, found):
    assert (private_names(ast.parse(text)), set_from_outside(ast.parse(text))) == found


def test_tools_of_tables_run_through_the_public_interface(tmp_path):
    """What tools/selection_table and tools/robust_table measure, on a small set."""
    made = dict(snr=0.3, error_rate=0.3, scale_cv=0.3, seed=4, path=tmp_path / "p.h5")
    particles = mr.simulate(mr.phantom(24, 5.0), 160, **made)
    selection = runpy.run_path(str(ROOT / "tools" / "selection_table"), run_name="tool")
    found = selection["Result"](particles.path, "--loss sorted --keep auto --iterations 2")
    assert found.iteration > 0 and found.volume.shape == (24,) * 3 and found.halves.shape == (13,)
    assert 0.5 < found.auc <= 1 and 0 < found.mixture["keep"] <= 1 and found.kept.shape == found.wrong.shape == (160,)
    robust = runpy.run_path(str(ROOT / "tools" / "robust_table"), run_name="tool")
    everybody = robust["with_weights"](particles.path, np.ones(160), np.ones(160))
    plain = mr.reconstruct(particles).volume.to_numpy()
    np.testing.assert_allclose(everybody, plain, rtol=0, atol=1e-6 * np.abs(everybody).max())
    # of particles of half the contrast the map is twice as strong
    faint = robust["with_weights"](particles.path, np.ones(160), np.full(160, 0.5))
    assert np.vdot(faint, everybody) / np.vdot(everybody, everybody) == pytest.approx(2, rel=0.05)


def test_the_competitor_of_hard_data_is_a_plain_correlation(tmp_path, monkeypatch):
    """What tools/hard_table compares with, on a small set: it keeps as many as are right."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    hard = runpy.run_path(str(ROOT / "tools" / "hard_table"), run_name="tool")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5, 24, 24))
    y, x = np.indices((24, 24))
    plane = rng.normal(size=(3, 5, 1, 1))
    clean = hard["without_background"](images + plane[0] + plane[1] * x + plane[2] * y)
    np.testing.assert_allclose(clean, hard["without_background"](images), atol=1e-9)
    inside = np.broadcast_to(np.hypot(x - 12, y - 12) < 8, images.shape)
    found = hard["correlations"](images, clean, inside.astype(float))
    expected = [np.corrcoef(a[i], b[i])[0, 1] for a, b, i in zip(images, clean, inside)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    options = Namespace(particles=120, box=24, pixel_size=5.0, snr=0.5, wrong=0.3, rounds=1)
    case = hard["Case"]("conformation", 1, options, tmp_path)
    assert 0 < case.rare.sum() < 40 and 15 < case.wrong.sum() < 60
    scores, kept, result = case.sorted_by_correlation(case.reconstructed("l2"), case.in_mask())
    assert kept.sum() == (~case.wrong).sum() and scores[kept].min() >= scores[~kept].max()
    assert scores[~case.wrong].mean() > scores[case.wrong].mean() and result.volume.box == 24
