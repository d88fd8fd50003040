"""Paths of nested selections that go on after they were interrupted, over several ranks, and what is refused."""

import json

import h5py
import numpy as np
import pytest
from test_path import clean, few, simulate  # noqa: F401 (fixtures)

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.stopping import StopRequested
from mpirecon.solvers.walk import Walk


def test_folders_of_others_are_refused_and_paths_replaced(few, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["path", str(few), "-o", str(out), "--loss", "l2", "--steps", "0.5", "--no-null", "-q"]
    assert run(command) == 0 and run(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    before = (out / "summary.json").read_bytes()
    assert run([*command[:-2], "--max-resolution", "1",
                "--overwrite"]) == 1 and (out / "summary.json").read_bytes() == before
    assert run([*command, "--overwrite"]) == 0
    capsys.readouterr()
    assert run(["reconstruct", str(few), "-o", str(out), "--overwrite"]) == 1
    assert "holds a path, which a reconstruction does not replace" in capsys.readouterr().err
    assert run(["reconstruct", str(few), "-o", str(tmp_path / "run"), "-q"]) == 0
    assert run([*command[:3], str(tmp_path / "run"), "--overwrite"]) == 1
    assert "holds a reconstruction, which a path does not replace" in capsys.readouterr().err
    with pytest.raises(UserError, match="not a path"):
        mr.SelectionPath(tmp_path / "run")
    with pytest.raises(UserError, match="SelectionPath"):
        mr.Result(out)


# going on


@pytest.mark.parametrize("schedule", ["once", "rescore"])
def test_finished_steps_are_not_redone(few, tmp_path, monkeypatch, schedule, capsys):
    first = ["--loss", "l2"] if schedule == "once" else []
    command = ["path", str(few), "--schedule", schedule, "--steps", "0.8,0.6,0.4", "--deterministic", "-q", *first]
    assert run([*command, "-o", str(tmp_path / "whole")]) == 0
    made, ended = [], []
    step, at_random = Walk.step, Walk.at_random

    def watched(walk, number, *args):
        if len(made) in (2, 5, 9) and len(made) not in ended:  # in the selections, the random discards, and on noise
            ended.append(len(made))
            raise StopRequested("SIGTERM")
        made.append((isinstance(walk.file, ParticleFile), number, *args))
        return (at_random if args else step)(walk, number, *args)

    monkeypatch.setattr(Walk, "step", watched)
    monkeypatch.setattr(Walk, "at_random", watched)
    out = str(tmp_path / "parts")
    assert run([*command, "-o", out]) == 75
    assert "the state after step 2/11" in capsys.readouterr().err
    assert run([*command, "-o", out]) == 1
    assert "step 2 of 11 was saved" in capsys.readouterr().err
    assert run([*command, "-o", out, "--resume"]) == run([*command, "-o", out, "--resume"]) == 75
    assert run([*command, "-o", out, "--resume"]) == 0
    assert len(made) == len(set(made)) == 11
    one, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
    for name in ("steps", "random", "null", "verdict"):
        assert one[name] == parts[name]
    assert (tmp_path / "whole" / "half1.mrc").read_bytes()[1024:] == (tmp_path / "parts" / "half1.mrc").read_bytes()[
        1024:
    ]
    assert not (tmp_path / "parts" / "checkpoint.h5").exists() and not (tmp_path / "parts" / "unfinished").exists()


def test_a_path_goes_on_as_it_began_or_not_at_all(few, clean, tmp_path, monkeypatch, capsys):
    def ended(walk, *args):
        raise StopRequested("SIGTERM")

    command = ["path", str(few), "-o", str(tmp_path / "out"), "--loss", "l2", "--steps", "0.6", "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "at_random", ended)
        assert run(command) == 75
    for other, words in ((["--seed", "3"], "--seed was 1 and is 3"), (["--steps", "0.5"], "--steps was")):
        assert run([*command, *other, "--resume"]) == 1
        assert words in capsys.readouterr().err
    assert run(["path", str(clean), *command[2:], "--resume"]) == 1
    assert "other particles" in capsys.readouterr().err
    assert run(["reconstruct", str(few), "-o", str(tmp_path / "out"), "--resume"]) == 1
    assert "is the state of a path" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0


def test_ranks_walk_one_path(mpirun, few, tmp_path):
    command = ["path", str(few), "--loss", "l2", "--steps", "0.8,0.6", "--deterministic", "-q"]
    result = mpirun(3, ["-m", "mpirecon", *command, "-o", tmp_path / "three"])
    assert result.returncode == 0, result.stderr
    assert run([*command, "-o", str(tmp_path / "one")]) == 0
    one, three = (mr.SelectionPath(tmp_path / name) for name in ("one", "three"))
    assert (one.particles["kept_to"] == three.particles["kept_to"]).all()
    assert one.verdict == three.verdict and one.summary["null"] == three.summary["null"]
    np.testing.assert_array_equal(one.volume.to_numpy(), three.volume.to_numpy())


# what is refused


@pytest.mark.parametrize(("options", "words"), [
    (["--schedule", "rescore", "--loss", "sorted"], "--loss is of a first run"),
    (["--schedule", "sieve", "--group-by", "rlnX"], "--group-by is of a first run"),
    (["--high-pass", "50:3"], "--high-pass applies to --schedule sieve"),
    (["--steps", "0.9,0.01"], "half set"),
    (["--loss", "l2", "--keep", "0.5"], "counts all particles alike"),
])  # fmt: skip
def test_what_cannot_be_walked_is_refused_before_anything_is_written(few, tmp_path, options, words, capsys):
    assert run(["path", str(few), "-o", str(tmp_path / "out"), *options]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"solver": "gradient"}, {"space": "real"}, {"sort_scope": "batch"},
                                     {"random_draws": 0},
                                     {"schedule": "sieve", "high_pass": (3, 50)}, {"steps": [1.5]},
                                     {"schedule": "twice"}])
def test_scripts_get_an_error_for_what_a_path_does_not_do(few, options):
    name = next(iter({k: 0 for k in options if k != "schedule"} or options))
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}|^{name}="):
        mr.path(few, null=False, **options)
    with pytest.raises(TypeError, match="fold"):
        mr.path(few, fold=3)


@pytest.mark.parametrize("schedule", ["once", "rescore", "sieve"])
def test_a_search_of_poses_is_refused_before_the_first_run(few, schedule):
    with pytest.raises(UserError, match="--poses rescue: the steps of a path are made at the given poses"):
        mr.path(few, schedule=schedule, poses="rescue")


@pytest.mark.parametrize("steps", ["2", "0", "x", "1"])
def test_steps_are_fractions(few, tmp_path, steps, capsys):
    assert run(["path", str(few), "-o", str(tmp_path / "out"), "--steps", steps]) == 2
    assert "--steps" in capsys.readouterr().err


def test_small_sets_are_walked_as_far_as_they_reach(tmp_path, capsys):
    path = simulate(tmp_path, 0, count=100, box=24)
    half = min(np.bincount(ParticleFile(path).halves())[1:])
    assert run(["path", str(path), "-o", str(tmp_path / "out"), "--loss", "l2", "--no-null"]) == 0
    assert "smaller ones would leave fewer than 20 particles" in capsys.readouterr().out
    found = mr.SelectionPath(tmp_path / "out")
    assert found.fractions == [k / 10 for k in range(10, 0, -1) if round(k / 10 * half) >= 20]


def test_bad_images_are_in_no_selection(tmp_path):
    path = simulate(tmp_path, 0, count=200, box=24)
    with h5py.File(path, "r+") as file:
        file["images"][7, 3, 4] = np.nan
    found = mr.path(path, steps=(0.5,), loss="l2", null=False, skip_bad=True)
    assert not found.kept(1.0)[7] and found.kept(1.0).sum() == 199 and found.summary["steps"][0]["particles"] == 199
