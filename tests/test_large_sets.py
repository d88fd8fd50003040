"""What keeps rank 0 from growing with particles: what is let go of, numbered once, written in pieces, bounded."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import CHECKOUT, _clean_environment
from test_posterior_selection import draw, selected

from mpirecon.errors import UserError
from mpirecon.io.checkpoint import Checkpoint, write_checkpoint, writing_checkpoint
from mpirecon.io.run_log import usually_listed
from mpirecon.io.run_output import read_particle_table
from mpirecon.parallel.held import give_back_unused, memory_held
from mpirecon.report.html import write_report
from mpirecon.solvers.controls import numbered
from mpirecon.solvers.record import describe


@pytest.fixture(scope="module")
def folder(cli, tmp_path_factory):
    """A posterior run of 300 particles in 3 iterations on one rank, with its first checkpoint kept."""
    folder = tmp_path_factory.mktemp("large")
    assert cli("simulate", "--phantom", "--particles", 300, "--box", 16, "--snr", 0.5, "--error-rate", 0.2, "-o",
               folder / "p.h5").returncode == 0
    run = cli("reconstruct", folder / "p.h5", "-o", folder / "run", "--loss", "posterior", "--iterations", 3)
    assert run.returncode == 0, run.stderr
    return folder


def test_a_decided_mixture_holds_no_evidence():
    mixture = selected(draw(2000, 0.3, seed=2)).mixture_
    held = sum(values.nbytes for values in vars(mixture).values() if isinstance(values, np.ndarray))
    assert held <= 2000 * 8 * 12
    assert 0.6 < describe(mixture)["keep"] < 0.8 and len(mixture.posterior_) == 2000


@pytest.mark.parametrize("names", [
    ["b", "a", "c", "a", "b"], [b"m2", b"m10", b"m2"], [7, 3, 2**62 + 5, 3], ["only"],
])  # fmt: skip
def test_names_are_numbered_in_their_order(names):
    numbers, ordered = numbered(names)
    wanted, inverse = np.unique(np.array(names), return_inverse=True)
    assert ordered == wanted.tolist() and numbers.tolist() == inverse.tolist() and numbers.dtype == np.int32


def test_a_checkpoint_is_written_piece_by_piece_or_not_at_all(tmp_path):
    path, arrays = tmp_path / "checkpoint.h5", {"a": np.arange(5), "b": np.ones((3, 2))}
    write_checkpoint(path, {"iteration": 1}, arrays)
    with writing_checkpoint(path, {"iteration": 2}) as store:
        store("a", arrays["a"] + 1)
        with Checkpoint(path) as before:  # the old one stays until the new one is whole
            assert before.facts == {"iteration": 1}
        store("b", arrays["b"])
    with Checkpoint(path) as after:
        assert after.facts == {"iteration": 2} and (after.array("a") == arrays["a"] + 1).all() and "b" in after
    with pytest.raises(UserError, match="cannot write .*checkpoint.h5: full"):
        with writing_checkpoint(path, {"iteration": 3}) as store:
            store("a", arrays["a"])
            raise OSError("full")
    with Checkpoint(path) as after:
        assert after.facts == {"iteration": 2}
    assert os.listdir(tmp_path) == ["checkpoint.h5"]


def test_a_checkpoint_keeps_random_poses_of_a_sample_alone(mpirun, folder, tmp_path):
    """Rows of all ranks, which another number of ranks shares out anew."""
    # the checkpoint of a run that ended is gone: one that is stopped leaves it
    program = ("import os, signal, sys\nfrom mpirecon.solvers import endurance\nfrom mpirecon.cli import main\n"
               "after = endurance.Checkpoints.after\n"
               "def stop(self, state):\n    after(self, state)\n    os.kill(os.getpid(), signal.SIGUSR2)\n"
               "endurance.Checkpoints.after = stop\n"
               f"sys.argv = ['mpirecon', 'reconstruct', {str(folder / 'p.h5')!r}, '-o', {str(tmp_path / 'b')!r},\n"
               "            '--loss', 'posterior', '--iterations', '3']\nsys.exit(main())\n")
    halted = mpirun(2, ["-c", program], env={})
    assert halted.returncode == 75, halted.stdout + halted.stderr
    with h5py.File(tmp_path / "b" / "checkpoint.h5") as file:
        rows, random, held_out = file["random_rows"][...], file["random"], file["held_out"]
        assert len(held_out) == 300 and len(random) == len(rows) and (np.diff(rows) > 0).all() and rows[-1] > 150
        assert np.abs(random[...]).sum(axis=(1, 2)).all()
    resumed = mpirun(3, ["-m", "mpirecon", "reconstruct", folder / "p.h5", "-o", tmp_path / "b", "--loss", "posterior",
                         "--iterations", "3", "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    whole, again = (json.loads((path / "summary.json").read_text()) for path in (folder / "run", tmp_path / "b"))
    assert again["kept"] == pytest.approx(whole["kept"], abs=2)
    assert again["mixture"]["keep"] == pytest.approx(whole["mixture"]["keep"], abs=1e-3)


def test_large_sets_list_the_last_sort_alone():
    assert usually_listed(100_000) == "all" and usually_listed(100_001) == "last"


def test_memory_is_logged_after_each_iteration(folder):
    lines = map(json.loads, (folder / "run" / "logs" / "rank0000.jsonl").read_text().splitlines())
    held = [line["memory"] for line in lines if line["event"] == "iteration"]
    assert len(held) == 3 and all(5e7 < some["now"] <= some["most"] < 1e10 for some in held)
    assert memory_held()["most"] >= memory_held()["now"] > 5e7


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="of the C library of Linux")
def test_memory_between_arrays_that_stay_is_given_back():
    arrays = [np.ones(12_500) for _ in range(2000)]  # 200 MB in pieces that the library keeps
    staying = arrays[::20]
    del arrays
    before = memory_held()["now"]
    give_back_unused()
    assert memory_held()["now"] < before - 1e8
    assert all((some == 1).all() for some in staying)


def test_a_report_takes_the_table_that_is_in_memory(folder, tmp_path, monkeypatch):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    wanted = write_report(folder / "run", summary, target=tmp_path / "read.html").read_text()
    table = read_particle_table(folder / "run" / "particles.h5")
    monkeypatch.setattr("mpirecon.report.run_files.read_particle_table", lambda path: pytest.fail("read again"))
    assert write_report(folder / "run", summary, table=table, target=tmp_path / "held.html").read_text() == wanted


def test_the_soak_tool_runs_kills_and_resumes(mpirun, tmp_path):
    tool = CHECKOUT / "tools" / "soak"
    command = [sys.executable, tool, "-o", tmp_path / "soak", "--particles", "200", "300", "--box", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed after iteration 1 and resumed: the same maps, bit for bit" in done.stdout
    assert "memory does not grow" in done.stdout and done.stdout.count("\n| ") == 3
    svg = (tmp_path / "soak" / "memory.svg").read_text()
    assert svg.startswith("<svg xmlns=") and "iteration" in svg and os.access(tool, os.X_OK)
