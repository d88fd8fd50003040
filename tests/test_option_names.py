"""Messages name what their reader has given: options on the command line, parameters in Python."""

import dataclasses
import inspect
import json
import sys
from importlib import import_module

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import COMMANDS, run
from mpirecon.errors import in_python, on_the_command_line, option_of
from mpirecon.io.export import ExportOptions
from mpirecon.io.import_options import ImportOptions
from mpirecon.parallel.console import Console
from mpirecon.model.simulated_errors import ErrorSettings
from mpirecon.simulation.settings import SimulationSettings
from mpirecon.solvers.config import Config

pytestmark = pytest.mark.in_python

#: commands that Python's functions do the work of
_COMMANDS = ("reconstruct", "simulate", "import", "export", "null", "path", "fsc", "score", "compare", "report", "view")

#: options that no parameter is of that name, or value: where particles and maps come from and go, or what is printed
_OF_COMMANDS = {
    "--output", "--quiet", "--help", "--json", "--csv", "--plot", "--map", "--model", "--phantom", "--link", "--open",
    "--dry-run", "--terminal",
}


def parameters():
    found = set()
    for kind in (Config, ImportOptions, ExportOptions, SimulationSettings, ErrorSettings):
        found |= {field.name for field in dataclasses.fields(kind)}
    for name in mr.__all__:
        function = getattr(mr, name)
        if inspect.isfunction(function):
            found |= set(inspect.signature(function).parameters)
    return found


@pytest.mark.parametrize("command", _COMMANDS)
def test_options_are_known_by_their_parameters(command):
    known = parameters()
    for option in import_module(COMMANDS[command].module).command.params:
        for name in (option.opts[0], *option.secondary_opts):
            if not name.startswith("--") or name in _OF_COMMANDS:
                continue
            found = in_python(f"pass {name} X").removeprefix("pass ").split("=")[0].split()[0]
            assert found in known, f"{command} {name} is called {found}"


@pytest.mark.parametrize(("text", "expected"), [
    ("give --keep Q, e.g. --keep 0.7, or --keep auto", "give keep=Q, e.g. keep=0.7, or keep auto"),
    ("choose another, or pass --overwrite", "choose another, or pass overwrite=True"),
    ("choose another folder for -o", "choose another folder"),
    ("run mpirecon link FILE --data-dir DIR; or pass --data-dir DIR",
     "run mpirecon link FILE --data-dir DIR; or pass data_dir=DIR"),
    ("ask for more with srun --nodes 2, --mask FILE", "ask for more with srun --nodes 2, mask=FILE"),
    ("--select COLUMN VALUE: no column --x", "select=COLUMN VALUE: no column --x"),
    ("shift--keep and a---keep", "shift--keep and a---keep"),
    ("name each with --map-stack OLD=NEW, or", "name each with mapping={'OLD': 'NEW'}, or"),
    ("give --unit phase-shift=degree or radian", "give units={'phase-shift': 'degree'} or radian"),
    ("give --unit defocus=-A. It", "give units={'defocus': '-A'}. It"),
    ("--unit shift=1.35 (--unit 'x')", "units={'shift': '1.35'} (units 'x')"),
    ("give --rescale common, or --rescale", "give rescale='common', or rescale"),
    ("continue with the same command and --resume", "continue with the same call and resume=True"),
    ("import again with --link", "import again with link=True"),
    ("mpirecon import FILE --rescale common --unit shift=A", "mpirecon import FILE --rescale common --unit shift=A"),
])
def test_options_become_parameters(text, expected):
    assert in_python(text) == expected
    assert in_python(expected) == expected  # of a message that another rank has sent
    with on_the_command_line():
        assert str(mr.UserError(text)) == text
    assert str(mr.UserError(text)) == expected


def test_parameters_have_their_options_back():
    for kind in (Config, ImportOptions, SimulationSettings):
        for field in dataclasses.fields(kind):
            found = in_python(option_of(field.name))
            assert found.lstrip("-").replace("-", "_").partition("=")[0] == field.name
    for name, option in (("use_ctf", "--no-ctf"), ("units", "--unit"), ("new_halves", "--new-halves"),
                         ("score_resolution", "--score-band"), ("ctf_premultiplied", "--ctf-premultiplied")):
        assert option_of(name) == option


@pytest.mark.parametrize(("name", "words"), [("deterministic", "deterministic 'x': expected True or False"),
                                             ("score_resolution", "score_resolution 'x': expected 2 values")])
def test_a_setting_of_another_kind_is_named_as_it_was_given(name, words):
    with pytest.raises(mr.UserError, match=f"^{words}"):
        Config(**{name: "x"})


def test_warnings_are_messages_too(tmp_path):
    particles = mr.simulate(mr.phantom(16, 6.0), 60, snr=0.5)
    result = mr.reconstruct(particles, tmp_path / "run", loss="posterior", iterations=1, symmetry="D2")
    recorded = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any("--" in warning for warning in recorded), recorded
    assert result.warnings == [in_python(warning) for warning in recorded] != recorded
    with on_the_command_line():
        assert result.warnings == recorded


def test_who_calls_decides(tmp_path, capsys):
    with pytest.raises(mr.UserError, match=r"^snr .*-1") as refused:
        mr.simulate(particles=20, box=16, snr=-1)
    assert "--" not in str(refused.value)
    path = tmp_path / "p.h5"
    mr.simulate(mr.phantom(16, 6.0), 40, path, snr=np.inf)
    with pytest.raises(mr.UserError, match="overwrite=True"):
        mr.simulate(mr.phantom(16, 6.0), 40, path, snr=np.inf)
    for words in (["simulate", "--phantom", "--snr", "-1"], ["simulate", "--phantom"]):
        assert run([*words, "-o", str(path)]) == 1
        assert "--" + ("snr" if "-1" in words else "overwrite") in capsys.readouterr().err
    with pytest.raises(mr.UserError, match=r"keep=Q"):
        mr.reconstruct(path, loss="sorted")


def test_what_is_said_on_the_way_is_a_message_too(capsys):
    console = Console()
    console.say("pass --resume")
    console.warn("pass --keep 0.7")
    assert tuple(capsys.readouterr()) == ("pass resume=True\n", "Warning: pass keep=0.7\n")
    with on_the_command_line():
        Console().warn("pass --keep 0.7")
    assert capsys.readouterr().err == "Warning: pass --keep 0.7\n"


@pytest.mark.parametrize(("scored", "words"), [
    (0, "nothing was saved yet, the same call begins again"), (20, "continue with the same call and resume=True"),
])  # fmt: skip
@pytest.mark.parametrize("end", [KeyboardInterrupt, pytest.param(ArithmeticError, marks=pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 has no notes of errors"))])
def test_a_run_that_ends_early_says_how_a_script_continues_it(tmp_path, end, scored, words):
    particles = mr.simulate(mr.phantom(16, 6.0), 60, snr=0.5)
    rounds = []

    def ending(distances):
        rounds.append(len(distances))
        if len(rounds) > scored:
            raise end
        return np.ones(len(distances))

    with pytest.raises(end) as met:
        mr.reconstruct(particles, tmp_path / "run", loss=ending, iterations=200)
    said = " ".join([str(met.value), *getattr(met.value, "__notes__", [])])
    assert (words in said) == (scored > 0 or end is KeyboardInterrupt), said
    assert "--" not in said and "same command" not in said


def test_a_type_of_images_needs_a_file_to_write(tmp_path):
    particles = mr.simulate(mr.phantom(16, 6.0), 60, tmp_path / "p.h5", snr=0.5)
    mr.reconstruct(particles, tmp_path / "run", postprocess=False)
    mr.export(tmp_path / "run", star=tmp_path / "k.star", stack=tmp_path / "k.mrcs")
    with pytest.raises(mr.UserError, match=r"^dtype='float16': without an output the images stay .* give output="):
        mr.read_star(tmp_path / "k.star", dtype="float16")
    made = mr.read_star(tmp_path / "k.star", dtype="float16", output=tmp_path / "half.h5")
    assert len(made) == 60
