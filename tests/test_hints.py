"""What unknown words are answered with: the word that was meant, the command that has the option,
the option's place."""

from __future__ import annotations

import re
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CHECKOUT
from test_particle_file import write

from mpirecon.cli import COMMANDS, group
from mpirecon.errors import UserError
from mpirecon.io.mrc import write_map
from mpirecon.solvers.config import Config
from mpirecon.solvers.resume import check_identity


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "p.h5", 12, 8)


def error(*args):
    result = CliRunner().invoke(group, [str(a) for a in args], prog_name="mpirecon")
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(("typed", "meant"), [
    ("reconstrct", "reconstruct"), ("Reconstruct", "reconstruct"), ("reports", "report"),
    ("post-process", "postprocess"), ("exprot", "export"),
])  # fmt: skip
def test_unknown_commands(typed, meant):
    text = error(typed)
    assert f"No such command '{typed}'" in text and f"'{meant}'" in text.split("Did you mean ")[1]


def test_what_is_like_nothing_gets_no_guess():
    assert "Did you mean" not in error("xyzzy")
    assert CliRunner().invoke(group, ["--hepl"]).exit_code == 2


@pytest.mark.parametrize(("args", "meant"), [
    (("reconstruct", "p.h5", "-o", "x", "--loss", "tuckey"), "tukey"), (("reconstruct", "p.h5", "-o", "x", "--loss",
                                                                         "Tukey"), "tukey"),
    (("null", "p.h5", "-o", "x", "--loss", "posterier"), "posterior"), (("job", "slrum", "p.h5", "-o", "x"), "slurm"),
    (("reconstruct", "p.h5", "-o", "x", "--backend", "cude"), "cuda"), (("import", "p.h5", "-o", "x", "--dtype",
                                                                         "float-16"), "float16"),
    (("simulate", "-o", "x", "--halves", "alternating"), "alternate"), (("completion", "bsh"), "bash"),
    (("export", "x", "--poses", "orignal"), "original"),
])  # fmt: skip
def test_unknown_values(file, args, meant):
    text = error(*args)
    assert "is not one of" in text and f"'{meant}'" in text.split("Did you mean ")[1]


def test_every_choice_of_every_command_is_guessed():
    """A letter dropped from the longest choice of each option: the answer names it."""
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        for param in command.params:
            if not (isinstance(param, click.Option) and isinstance(param.type, click.Choice)):
                continue
            word = max(param.type.choices, key=len)
            needed = [w for p in command.params if isinstance(p, click.Argument) and p.required for w in [_any(p)]]
            ctx = click.Context(group, info_name="mpirecon")
            with pytest.raises(click.BadParameter) as caught:
                command.make_context(name, [*needed, param.opts[-1], word[:-1]], parent=ctx)
            assert f"'{word}'" in caught.value.message.split("Did you mean ")[-1], (name, param.opts)


def _any(argument: click.Argument) -> str:
    return argument.type.choices[0] if isinstance(argument.type, click.Choice) else __file__


@pytest.mark.parametrize(("args", "owners"), [
    (("reconstruct", "p.h5", "-o", "x", "--ranks", "4"), "job"), (("reconstruct", "p.h5", "-o", "x", "--plant-errors",
                                                                   "0.3"), "import"),
    (("import", "p.h5", "-o", "x", "--diameter", "3"), "reconstruct"), (("fsc", "a", "b", "--terminal"), "view"),
    (("logs", "x", "--symmetry=C2"), "forecast and reconstruct"), (("report", "x", "--ranks", "2"), "job"),
])  # fmt: skip
def test_options_of_other_commands_are_reported_as_theirs(file, args, owners):
    text = error(*args)
    name = next(word for word in args if word.startswith("--")).partition("=")[0]
    assert f"'{name}' is an option of" in text and f"not of {args[0]}" in text
    assert all(owner in text.split("is an option of")[1] for owner in owners.split(" and "))
    assert "null" not in text.split("is an option of")[1]  # it has all of reconstruct's
    assert ("mpirun -n N mpirecon reconstruct" in text) == (args[0] == "reconstruct" and name == "--ranks")
    assert "mpirecon report …" not in text  # which no launcher makes faster


def test_options_of_reconstruct_in_a_job(file):
    text = error("job", "slurm", "p.h5", "-o", "run", "--loss", "posterior")
    assert "follow after --" in text and "-- --loss" in text
    text = error("job", "slurm", "p.h5", "-o", "run", "--", "--los", "posterior")
    assert "Usage: mpirecon reconstruct" in text and "mpirecon reconstruct --help" in text and "--loss" in text
    text = error("job", "slurm", "p.h5", "-o", "run", "--", "--loss", "tuckey")
    assert "mpirecon reconstruct --help" in text and "Did you mean 'tukey'?" in text


def test_words_beside_numbers_and_files(file):
    assert "or auto" in error("reconstruct", "p.h5", "-o", "x", "--loss", "sorted", "--keep", "atuo")
    for typed in ("atuo", "Auto"):
        text = error("reconstruct", "p.h5", "-o", "x", "--mask", typed)
        assert f"'{typed}' does not exist" in text and "Did you mean 'auto'?" in text
    assert "Did you mean" not in error("reconstruct", "p.h5", "-o", "x", "--mask", "mask.mrc")


def test_help_and_readme_agree_that_no_gpu_was_tried():
    help_text = " ".join(CliRunner().invoke(group, ["reconstruct", "--help"]).output.split())
    readme = " ".join((CHECKOUT / "README.md").read_text(encoding="utf-8").split())
    assert ("has not been run on a GPU yet" in help_text) == ("on a GPU it has not been run yet" in readme)


def test_the_job_of_gpus_says_what_its_forecast_is(file):
    def job(*args):
        result = CliRunner().invoke(group, ["job", "slurm", "p.h5", "-o", "run", *args])
        assert result.exit_code == 0, result.output
        return result.stderr

    assert "on CPUs;" in job("--gpus", "2") and "not modelled" in job("--gpus", "2")
    assert "not modelled" in job("--ranks", "2", "--", "--backend", "cuda")
    assert "CPUs" not in job("--ranks", "2") and "GPU" not in job("--ranks", "2")
    for backend, said in (("cuda", 1), ("cpu", 0)):
        result = CliRunner().invoke(group, ["reconstruct", "p.h5", "-o", "x", "--dry-run", "--backend", backend])
        assert result.exit_code == 0 and result.stderr.count("not modelled") == said, result.output


def test_resume_names_the_options_that_differ():
    before = Config().as_dict()
    now = Config(diameter=100.0, score_resolution=(60.0, 12.0), loss="huber").as_dict()
    checkpoint = SimpleNamespace(path="run/checkpoint.h5", facts={"particles": 1, "options": before, "mask": "a"})
    with pytest.raises(UserError) as caught:
        check_identity(SimpleNamespace(), {"particles": 1, "options": now, "mask": "a"}, checkpoint)
    text = str(caught.value)
    assert ("--diameter was the default and is 100.0" in text
            and "--score-band was the default and is (60.0, 12.0)" in text)
    assert "--loss was l2 and is huber" in text and "None" not in text
    options = {spelling for param in group.get_command(click.Context(group), "reconstruct").params
               for spelling in param.opts}
    assert set(re.findall(r"--[a-z-]+", text)) <= options | {"--overwrite"}


@pytest.mark.parametrize(("box", "pixel", "words"), [
    (16, 1.0, ("in its header, pixels of 1 Å", "only the pixel size in its header is wrong",
               "--force_header_angpix 3.5")),
    (20, 3.5, ("the mask has box 20", "make a mask of that size")),
])  # fmt: skip
def test_a_mask_of_another_pixel_size_may_only_say_so(tmp_path, cli, box, pixel, words):
    """A mask program that leaves 1 Å in the header:
    the box is right, and the message says what to do about the rest."""
    assert cli("simulate", "--phantom", "--particles", 8, "--box", 16, "--pixel-size", 3.5, "-o",
               tmp_path / "p.h5").returncode == 0
    write_map(tmp_path / "m.mrc", np.ones((box,) * 3, np.float32), pixel, overwrite=False)
    result = cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / "out", "--mask", tmp_path / "m.mrc")
    assert result.returncode == 1 and all(word in result.stderr for word in words), result.stderr
