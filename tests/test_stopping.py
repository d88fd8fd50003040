"""Signals, while a reconstruction runs: the ranks end together at a safe point with code 75.
(tests/test_kill_resume.py resumes.)"""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import pytest

from conftest import _SMALL_MACHINE, _clean_environment, find_mpirun
from mpirecon.cli import run

OPTIONS = ("--loss", "sorted", "--keep", "0.7", "--iterations", "4")

#: long enough in an iteration for a signal to arrive within it
COUNT, BOX = 1500, 32


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("stopping") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", COUNT, "--box", BOX, "--pixel-size", 5, "--snr", 0.3,
                 "--error-rate", 0.3, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


class Run:
    """A reconstruct in the background, alone or under mpirun."""

    def __init__(self, particles, out, *options, ranks=0):
        self.out = out
        command = [sys.executable, "-m", "mpirecon", "reconstruct", particles, "-o", out, *OPTIONS, *options]
        if ranks:
            command = [find_mpirun(), "-n", ranks, *command]
        self.process = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=_clean_environment(**_SMALL_MACHINE),
        )

    def wait_for(self, condition, seconds=100):
        start = time.monotonic()
        while not condition():
            assert self.process.poll() is None, "the run ended before it could be interrupted" + self.end()[1]
            assert time.monotonic() - start < seconds
            time.sleep(0.003)

    def checkpoint(self):
        """Iteration of the checkpoint, 0 without one."""
        try:
            with h5py.File(self.out / "checkpoint.h5") as file:
                return json.loads(file.attrs["facts"])["iteration"]
        except OSError:
            return 0

    def pid(self, rank):
        with open(self.out / "logs" / f"rank{rank:04d}.jsonl") as log:
            return json.loads(log.readline())["pid"]

    def end(self, seconds=100):
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out + err


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_ends_the_run_with_75(particles, tmp_path, name):
    run = Run(particles, tmp_path / "out")
    run.wait_for(lambda: run.checkpoint() >= 1)
    before = run.checkpoint()
    run.process.send_signal(getattr(signal, name))
    code, said = run.end()
    assert code == 75 and f"Stopped by {name}" in said and "--resume" in said and "Traceback" not in said, said
    # USR1 lets the iteration finish, TERM ends it; by chance the signal came when it just had
    assert run.checkpoint() in ((before + 1, before + 2) if name == "SIGUSR1" else (before, before + 1))
    assert not (tmp_path / "out" / "logs" / ".pulse").exists()


def test_a_signal_before_the_run_listens_is_not_lost(particles, tmp_path):
    run = Run(particles, tmp_path / "out")
    while "SigBlk" not in (status := open(f"/proc/{run.process.pid}/status").read()) or not int(
        status.split("SigBlk:")[1].split()[0], 16
    ) & (1 << (signal.SIGUSR1 - 1)):
        assert run.process.poll() is None
        time.sleep(0.001)
    run.process.send_signal(signal.SIGUSR1)
    code, said = run.end()
    assert code == 75 and "iteration 1/4" in said and run.checkpoint() == 1, said


def test_an_iteration_that_outlasts_the_grace_is_given_up(particles, tmp_path):
    run = Run(particles, tmp_path / "out", "--grace", "0.05", "--checkpoint-signal", "HUP")
    run.wait_for(lambda: run.checkpoint() == 1)
    run.process.send_signal(signal.SIGHUP)
    code, said = run.end()
    assert code == 75 and run.checkpoint() in (1, 2) and "Stopped by SIGHUP" in said, said


def test_mpirun_passes_the_warning_on_and_the_ranks_end_together(particles, mpirun, tmp_path):
    run = Run(particles, tmp_path / "out", ranks=2)
    run.wait_for(lambda: run.checkpoint() >= 1)
    run.process.send_signal(signal.SIGUSR1)
    code, said = run.end()
    assert code == 75 and said.count("Stopped by SIGUSR1") == 1 and "Traceback" not in said, said


def test_one_rank_that_is_alerted_alerts_the_others(particles, mpirun, tmp_path):
    run = Run(particles, tmp_path / "out", ranks=2)
    run.wait_for(lambda: run.checkpoint() >= 1)
    os.kill(run.pid(1), signal.SIGTERM)
    code, said = run.end()
    assert code == 75 and said.count("Stopped by SIGTERM") == 1, said


def test_a_signal_that_does_not_exist_is_refused(particles, cli, tmp_path):
    for name, words in (("USR9", "no signal"), ("KILL", "cannot be caught")):
        result = cli("reconstruct", particles, "-o", tmp_path / "out", "--checkpoint-signal", name)
        assert result.returncode == 1 and words in result.stderr
    result = cli("reconstruct", particles, "-o", tmp_path / "out", "--checkpoint-every", "never")
    assert result.returncode == 2 and "30m" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["nowhere.h5", "-o", "out"], ["{particles}", "-o", "{out}", "--dry-run"]])
def test_a_command_that_never_listens_gives_signals_back(particles, tmp_path, arguments):
    """A program that calls the command line, and what it starts, must go on hearing SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    run(["reconstruct", *(word.format(particles=particles, out=tmp_path / "out") for word in arguments)])
    after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before
