"""The output folder: what was there stays whole and of use until the new results are complete,
whatever ends the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io import run_folder
from mpirecon.io.folder_lock import FolderLock, held_by
from mpirecon.io.mrc import write_map
from mpirecon.io.run_folder import RunFolder
from mpirecon.io.run_kinds import NULL, RECONSTRUCTION
from mpirecon.io.unfinished import state_of

SEVERAL = ("--loss", "sorted", "--keep", "0.7", "--iterations", "3", "--memory", "0")


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "particles.h5"
    assert run(["simulate", "--phantom", "--particles", "120", "--box", "20", "--pixel-size", "7", "--snr", "1", "-q",
                "-o", str(path)]) == 0
    return path


def reconstruct(particles, out, *options):
    return run(["reconstruct", str(particles), "-o", str(out), "-q", *map(str, options)])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def results(folder):
    """What a finished run left, without anything of a later one."""
    return {name: content for name, content in files(folder).items() if not name.startswith("unfinished/")
            and name != "checkpoint.h5"}


@pytest.mark.parametrize(("command", "options"), [
    ("reconstruct", ("--controls", "--loss", "sorted", "--keep", "0.7")), ("reconstruct", ("--no-postprocess",)),
    ("null", ()), ("path", ("--iterations", "1", "--no-null"))])
def test_a_command_lists_all_that_it_wrote(tmp_path, capsys, command, options):
    """Of particles with simulated errors, which have a table more."""
    source, out = tmp_path / "p.h5", tmp_path / "out"
    assert run(["simulate", "--phantom", "--particles", "160", "--box", "16", "--pixel-size", "8", "--snr", "1", "-q",
                "--error-rate", "0.3", "-o", str(source)]) == 0
    run([command, str(source), "-o", str(out), *options])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(f"wrote {out}"))
    listed = line.rpartition(": ")[2].split(", ")
    assert len(set(listed)) == len(listed) and listed[-1] == "logs/"
    assert {name.rstrip("/") for name in listed} == {path.name for path in out.iterdir() if path.name[0] != "."}


# a run that fails


def refuses_to_write(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mpirecon.solvers.results.write_particle_table", full)


def is_interrupted(monkeypatch):
    def interrupts(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mpirecon.solvers.main.check_selection", interrupts)


def has_a_defect(monkeypatch):
    monkeypatch.setattr("mpirecon.solvers.results.fsc", None)
    monkeypatch.setattr("mpirecon.solvers.results.write_summary", None)


@pytest.mark.parametrize(("fails", "code"), [(refuses_to_write, 1), (is_interrupted, 130), (has_a_defect, 1)])
def test_what_was_there_stays_whole_when_a_run_fails(particles, tmp_path, monkeypatch, capsys, fails, code):
    out = tmp_path / "out"
    assert reconstruct(particles, out) == 0
    (out / "notes.txt").write_text("mine")
    before = files(out)
    with monkeypatch.context() as patched:
        fails(patched)
        assert reconstruct(particles, out, "--overwrite", *SEVERAL) == code
    said = capsys.readouterr().err
    assert results(out) == before
    assert "after iteration 2/3 is in" in said.replace("\n", " ") and "--resume" in said
    assert run(["report", str(out)]) == 0
    assert "the report is of the run that finished before" in capsys.readouterr().err
    assert reconstruct(particles, out, "--resume", *SEVERAL) == 0
    assert json.loads((out / "summary.json").read_text())["configuration"]["loss"] == "sorted"
    assert set(files(out)) == set(before) and (out / "notes.txt").read_text() == "mine"
    logged = (out / "logs" / "rank0000.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "start" for line in logged) == 2


@pytest.mark.parametrize("late", [False, True])
def test_a_killed_run_leaves_what_was_there_and_goes_on(particles, tmp_path, late):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert reconstruct(particles, out) == reconstruct(particles, whole, *SEVERAL) == 0
    before = files(out)
    until = "unfinished/volume.mrc" if late else "checkpoint.h5"
    program = ("import os, signal, sys, mpirecon.cli, mpirecon.io.atomic as atomic\n"
               "replace = os.replace\n"
               "def kills(source, target):\n"
               "    replace(source, target)\n"
               f"    if str(target).endswith({until!r}): os.kill(os.getpid(), signal.SIGKILL)\n"
               "os.replace = kills\n"
               "mpirecon.cli.main()")
    words = ["reconstruct", str(particles), "-o", str(out), "--overwrite", *SEVERAL]
    assert subprocess.run([sys.executable, "-c", program, *words], capture_output=True).returncode == -signal.SIGKILL
    assert {name: content for name, content in results(out).items() if name != ".lock"} == before
    assert reconstruct(particles, out, "--resume", *SEVERAL) == 0
    for name in ("volume.mrc", "half1.mrc", "half2.mrc"):
        assert np.array_equal(mrcfile.read(out / name), mrcfile.read(whole / name))
    assert not (out / "unfinished").exists() and not (out / ".lock").exists()


def test_a_run_interrupted_at_the_keyboard(particles, tmp_path):
    program = ("import os, signal, mpirecon.cli\n"
               "replace, seen = os.replace, []\n"
               "def interrupts(source, target):\n"
               "    replace(source, target)\n"
               "    seen.extend([1] * str(target).endswith('half2.mrc'))\n"
               "    if len(seen) == 2: os.kill(os.getpid(), signal.SIGINT)\n"
               "os.replace = interrupts\n"
               # what a shell starts in the background would ignore it
               "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
               "mpirecon.cli.main()")
    words = ["reconstruct", str(particles), "-o", str(tmp_path / "out"), *SEVERAL]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert (
        f"Interrupted: the state after iteration 2/3 is in {tmp_path}/out/checkpoint.h5; continue with the same "
        "command and --resume."
        in done.stderr
    )
    assert f"the run's state is saved in {tmp_path}/out/checkpoint.h5 from now on" in done.stdout


class Killed(BaseException):
    pass


def filled(path, names, content, logs=(), **more):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text(content)
    (path / "logs").mkdir(exist_ok=True)
    for rank in logs:
        (path / "logs" / f"rank{rank:04d}.jsonl").write_text(content)
    marker = path / "summary.json"
    marker.write_text(json.dumps({"is": content, "files": [*names, "summary.json"], **more}))


NEW = {"volume.mrc": "new", "half1.mrc": "new", "fsc.csv": "new", "notes.txt": "mine", "mine/map.mrc": "mine",
       "logs/rank0000.jsonl": "new", "logs/rank0001.jsonl": "new"}


@pytest.mark.parametrize("step", range(12))
def test_results_are_put_in_their_place_however_often_that_is_broken_off(tmp_path, monkeypatch, step):
    out = tmp_path / "out"
    filled(out, ("volume.mrc", "half1.mrc", "discarded.mrc", "fsc.csv"), "old", logs=range(3))
    (out / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "map.mrc").write_text("mine")
    (out / "checkpoint.h5").write_text("state")
    filled(out / "unfinished", ("volume.mrc", "half1.mrc", "fsc.csv"), "new", logs=range(2))
    left = [step]

    def broken_off(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*arguments, **options)
        return call

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "move", broken_off(run_folder.move))
        patched.setattr(Path, "unlink", broken_off(Path.unlink))
        try:
            RunFolder(out, RECONSTRUCTION, [], overwrite=False, resume=True).commit()
        except Killed:
            assert state_of(out) is not None
            assert run(["export", str(out), "--star", str(tmp_path / "k.star")]) == 1
    with RunFolder(out, RECONSTRUCTION, [], overwrite=False, resume=True) as place:
        if place.complete:
            place.check()
            assert not place.begin(1), "nothing is left to do"
    found = {name: content.decode() for name, content in files(out).items()}
    assert json.loads(found.pop("summary.json"))["is"] == "new" and found == NEW


def test_what_an_older_version_left_is_known_by_name(tmp_path):
    filled(tmp_path, ("volume.mrc", "detection.csv"), "old")
    (tmp_path / "summary.json").write_text("{}")
    filled(tmp_path / "unfinished", ("volume.mrc",), "new")
    (tmp_path / "detection.png").write_text("mine")
    RunFolder(tmp_path, RECONSTRUCTION, [], overwrite=True).commit()
    assert set(files(tmp_path)) == {"volume.mrc", "summary.json", "detection.png"}


def test_a_link_to_another_file_system_is_followed(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("new")
    replace, first = os.replace, []

    def elsewhere(source, target):
        if not first:
            first.append(1)
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", elsewhere)
    run_folder.move(tmp_path / "a", tmp_path / "b")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "new"}


# before anything is made


@pytest.mark.parametrize(("options", "words"), [
    (("--mask", "mask.mrc"), "the mask has box"), (("--diameter", "1000"), "must fit the box"),
    (("--max-resolution", "2"), "beyond Nyquist"),
    (("--backend", "cuda"), "cuda"), (("--loss", "posterior", "--folds", "70"), "fewer than --folds"),
    (("--score-band", "9:8"), "--score-band"),
    (("--loss", "posterior", "--group-by", "rlnMicrographName"), "no column"), (("--mask", "bad.mrc"), "mask values"),
])  # fmt: skip
def test_a_corrected_command_just_runs(particles, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    write_map("mask.mrc", np.ones((24, 24, 24)), 7.0, overwrite=False)
    write_map("bad.mrc", np.full((20, 20, 20), 3), 7.0, overwrite=False)
    for command in ("reconstruct", "null"):
        if command == "null" and "--score-band" in options:
            continue
        assert run([command, str(particles), "-o", "deep/out", *options]) == 1
        assert words in capsys.readouterr().err and not os.path.exists("deep")
    assert reconstruct(particles, "deep/out") == 0


def test_a_run_that_ended_before_it_had_anything_blocks_nothing(particles, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("sys.argv", ["/usr/bin/mpirecon", "reconstruct", "p.h5"])
        patched.setattr("mpirecon.solvers.passes.Engine.survey", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert reconstruct(particles, out, *SEVERAL) == 130
    assert "nothing was saved yet, the same command begins again" in capsys.readouterr().err
    assert run(["report", str(out)]) == 1
    said = capsys.readouterr().err
    assert "before it had saved anything; the same command begins again (it was: mpirecon reconstruct p.h5" in said
    (out / ".checkpoint.h5.123.tmp").write_text("half written, by a run that was killed")
    (out / ".seen-0123456789abcdef").touch()  # killed while its ranks looked whether they see one folder
    assert reconstruct(particles, out, *SEVERAL) == 0
    assert not list(out.glob(".*"))


def test_an_unfinished_run_says_how_far_it_came_and_how_to_go_on(particles, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["mpirecon", "reconstruct", "p.h5"])
    with monkeypatch.context() as patched:
        is_interrupted(patched)
        assert reconstruct(particles, out, *SEVERAL) == 130
    said = capsys.readouterr().err
    assert (
        f"Interrupted: the state after iteration 2/3 is in {out}/checkpoint.h5; continue with the same command and "
        "--resume"
        in said
    )
    maps = [mrcfile.read(out / "unfinished" / f"half{half}.mrc") for half in (1, 2)]
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.5, "the half maps of the iteration that was saved"
    for words in (["report", out], ["export", out, "--star", tmp_path / "k.star"],
                  ["reconstruct", particles, "-o", out]):
        assert run([str(word) for word in words]) == 1
        said = capsys.readouterr().err
        assert (f"its half maps in {out}/unfinished" in said and "iteration 2 of 3 was saved" in said
                and "--resume" in said), said
    assert "start a new run with --overwrite" in said and time.strftime("%Y-%m-%d") in said
    assert reconstruct(particles, out, "--resume", *SEVERAL, "--iterations", "4") == 0  # more than before
    assert len(json.loads((out / "summary.json").read_text())["iterations"]) == 4


@pytest.mark.parametrize(("content", "words"), [
    ({"volume.mrc/x": ""}, "is a folder, and a run writes a file of that name"),
    ({"null.json": "{}"}, "holds a null run"),
    ({"mine.txt": ""}, None),
])  # fmt: skip
def test_folders_that_must_not_be_replaced(particles, tmp_path, capsys, content, words):
    for name, text in content.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True)
        (tmp_path / "out" / name).write_text(text)
    before = files(tmp_path / "out")
    assert reconstruct(particles, tmp_path / "out") == 1
    assert reconstruct(particles, tmp_path / "out", "--overwrite") == (1 if words else 0)
    assert before.items() <= files(tmp_path / "out").items() and (words or "") in capsys.readouterr().err
    assert reconstruct(particles, tmp_path / "out" / next(iter(content)) / "in-a-file") == 1


# two runs at once


def test_a_second_run_into_a_folder_is_refused(particles, tmp_path, capsys):
    with RunFolder(tmp_path / "out", RECONSTRUCTION, [], overwrite=False) as first:
        first.check()
        first.begin(1)
        assert str(os.getpid()) in held_by(tmp_path / "out")
        before = files(tmp_path / "out")
        for kind in ("reconstruct", "null"):
            for options in ([], ["--overwrite"]):
                assert run([kind, str(particles), "-o", str(tmp_path / "out"), *options]) == 1
                assert f"process {os.getpid()}" in capsys.readouterr().err
        assert run(["report", str(tmp_path / "out")]) == 1 and "is in progress" in capsys.readouterr().err
        late = RunFolder(tmp_path / "out", NULL, [], overwrite=True)  # it looked before the other began
        with pytest.raises(UserError, match="another run is writing"):
            late.begin(1)
        assert files(tmp_path / "out") == before
    assert held_by(tmp_path / "out") is None and list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "logs"]


@pytest.mark.parametrize("claims", [False, True])
def test_a_run_that_is_refused_leaves_the_folder_to_the_one_that_has_it(tmp_path, claims):
    """Also while there is nothing in it yet that would keep an empty folder."""
    first, late = (RunFolder(tmp_path / "out", RECONSTRUCTION, [], overwrite=False) for _ in range(2))
    for folder in (first, late):
        folder.check()
    with first:
        first.begin(1)
        with pytest.raises(UserError, match="another run is writing"), late:
            late.claim() if claims else late.begin(1)
        late.close()
        assert first.staging.is_dir() and held_by(tmp_path / "out") is not None
        (first.staging / "views.csv").write_text("rot")


def test_a_lock_ends_with_its_process_and_need_not_exist(tmp_path, monkeypatch):
    program = ("import os, sys, pathlib; from mpirecon.io.folder_lock import FolderLock; "
               "FolderLock(pathlib.Path(sys.argv[1])).acquire(); os._exit(9)")
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 9
    assert (tmp_path / ".lock").exists() and held_by(tmp_path) is None
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert held_by(tmp_path) is not None
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []

    def has_none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", has_none)
    FolderLock(tmp_path).acquire()
    assert held_by(tmp_path) is None


# with ranks


def test_ranks_share_it(particles, mpirun, tmp_path):
    out = tmp_path / "out"
    words = ["-m", "mpirecon", "reconstruct", particles, "-o", out]
    failed = mpirun(3, [*words, "--diameter", "1000"])
    assert failed.returncode == 1 and failed.stderr.count("Error:") == 1 and not out.exists()
    assert mpirun(3, words).returncode == 0
    before = files(out)
    again = mpirun(2, words)
    assert again.returncode == 1 and f"Error: the output folder {out} exists" in again.stderr, (
        "rank and host do not matter here"
    )
    assert sorted(path.name for path in (out / "logs").iterdir()) == [f"rank000{rank}.jsonl" for rank in range(3)]
    bad = tmp_path / "bad.h5"
    bad.write_bytes(particles.read_bytes())
    with h5py.File(bad, "r+") as file:
        file["images"][119, 0, 0] = np.nan
    failed = mpirun(2, ["-m", "mpirecon", "reconstruct", bad, "-o", out, "--overwrite"])
    assert failed.returncode == 1 and failed.stderr.count("Error:") == 1 and results(out) == before
    assert mpirun(2, [*words, "--overwrite"]).returncode == 0
    assert sorted(path.name for path in (out / "logs").iterdir()) == [f"rank000{rank}.jsonl" for rank in range(2)]
    assert set(files(out)) == set(before) - {"logs/rank0002.jsonl"}


def test_a_job_for_a_folder_that_holds_its_particles_is_refused(particles, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    os.link(particles, tmp_path / "out" / "particles.h5")
    words = ["job", "slurm", str(particles), "-o", str(tmp_path / "out")]
    assert run([*words, "--",
                "--overwrite"]) == 1 and "is the particle file that this run reads" in capsys.readouterr().err
    (tmp_path / "out" / "particles.h5").unlink()
    (tmp_path / "out" / "logs").mkdir()  # of a run that failed at once: the script begins again
    assert run(words) == 0


def test_a_null_run_is_no_unfinished_one(particles, tmp_path, capsys):
    assert run(["null", str(particles), "-o", str(tmp_path / "null"), "-q"]) == 0
    assert run(["report", str(tmp_path / "null")]) == 1
    assert "null holds a null run, so there is no summary.json" in capsys.readouterr().err
    for read in (mr.write_report, mr.Result, mr.SelectionPath):
        with pytest.raises(mr.UserError, match="null holds a null run.*mpirecon.NullTest opens it"):
            read(tmp_path / "null")
