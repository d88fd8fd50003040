"""Kernels are compiled once, before a run asks for them:
announced, in a phase of its own, a part by each rank of a host."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mpirecon.backend import warm
from mpirecon.backend.cpu import CpuBackend
from mpirecon.model import make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.threads import available_cores

BOX = 12


def particles(m=1):
    pose = Pose(np.tile([1.0, 0, 0, 0], (m, 1)), np.zeros((m, 2)))
    return ParticleSet(BOX, 1.0, pose, make_ctf(m, voltage_kv=300.0, defocus_u=1e4, defocus_v=1e4), np.ones(m),
                       np.ones(m))


class OneOf(SerialCommunicator):
    """A rank of several on a host, which hears from the others what it says itself."""

    def __init__(self, local_rank, size=2):
        super().__init__()
        self.size, self.local_rank = size, local_rank

    def allgather(self, value):
        return [value] * self.size


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Steps that would compile, with an empty cache."""
    calls = []

    def steps(wanted, particle):
        return [lambda step=step: calls.append((step, wanted)) for step in range(5)]

    monkeypatch.setattr(warm, "kept_in", lambda: str(tmp_path))
    monkeypatch.setattr(warm.Wanted, "steps", steps)
    return calls


def test_kernels_are_compiled_once_for_each_kind_of_run(tried):
    said = []

    def start(taps=4, exact=False, threads=1):
        backend = CpuBackend(BOX, 1.0, taps=taps, threads=threads)
        warm.compile_once(SerialCommunicator(), backend, particles(), False, exact, say=said.append)
        return len(tried) / 5

    assert start() == start() == 1
    assert start(taps=3) == start(taps=3) == 2
    assert start(exact=True) == 3
    # which take kernels of their own
    assert start(threads=2) == start(threads=5) == 4 and tried[-1][1].threads > 1
    assert len(said) == 4 and said[0] == f"compiling kernels, once; kept in {warm.kept_in()}"


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_ranks_of_a_host_share_the_work(tried, size):
    shares = []
    for rank in reversed(range(size)):  # the first leaves the mark
        warm.compile_once(OneOf(rank, size), CpuBackend(BOX, 1.0), particles(), False, False)
        shares.append([step for step, _ in tried])
        tried.clear()
    assert sorted(sum(shares, [])) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_place_to_keep_them_every_rank_compiles_all(tried, monkeypatch):
    monkeypatch.setattr(warm, "kept_in", lambda: "")
    warm.compile_once(OneOf(1), CpuBackend(BOX, 1.0), particles(), False, False)
    assert [step for step, _ in tried] == list(range(5))


def test_a_failure_leaves_no_mark(tried, monkeypatch, tmp_path):
    def fail():
        raise OSError("disk full")

    monkeypatch.setattr(warm.Wanted, "steps", lambda *arguments: [fail])
    with pytest.raises(Exception, match="disk full"):
        warm.compile_once(OneOf(0), CpuBackend(BOX, 1.0), particles(), False, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taps, premultiplied", [(3, False), (4, True)])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_can_be_tried(taps, premultiplied, threads):
    wanted = warm.Wanted(taps, 2.0, premultiplied, threads, True, True, False, None, False, False)
    for step in wanted.steps(particles()):
        step()


#: a run that counts what is compiled in each of its phases, with the functions of Numba's own that it takes
COUNTING = """
import collections, json, sys
from numba.core import event
from mpirecon.solvers.timing import Timings

phases, counts = [], collections.Counter()

class Count(event.Listener):
    depth = 0
    def on_start(self, e):
        if self.depth == 0:
            counts[phases[-1] if phases else "start"] += 1
        self.depth += 1
    def on_end(self, e):
        self.depth -= 1

told = Timings.__call__
def watched(self, phase):
    import contextlib
    @contextlib.contextmanager
    def both():
        phases.append(phase)
        with told(self, phase):
            yield
        phases.pop()
    return both()

Timings.__call__ = watched
event.register("numba:compile", Count())
from mpirecon.cli import run
code = run(sys.argv[1:])
print(json.dumps(counts))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def ribosomes(tmp_path_factory):
    from mpirecon.cli import run

    path = tmp_path_factory.mktemp("first") / "particles.h5"
    assert run(["simulate", "--phantom", "--particles", "200", "--box", "24", "--pixel-size", "8", "--snr", "0.2", "-q",
                "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize("options, most", [(("--loss", "l2"), 22), (("--loss", "posterior"), 27)])
def test_a_first_run_compiles_little_and_all_of_it_before_the_first_image(ribosomes, tmp_path, options, most):
    """Each kernel costs a fifth of a second and more;
    one that the phase does not know would wreck estimates of time."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)

    def first(name):
        command = [sys.executable, "-c", COUNTING, "reconstruct", str(ribosomes), "-o", str(tmp_path / name), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        *said, counts = done.stdout.splitlines()
        return said, json.loads(counts), json.loads((tmp_path / name / "summary.json").read_text())

    said, counts, summary = first("one")
    assert set(counts) == {"compile"} and counts["compile"] <= most
    assert said[1].startswith("compiling kernels, once; kept in ") and str(tmp_path / "cache") in said[1]
    assert {"setup", "compile", "select", "write"} <= set(summary["timings"])
    assert 0.9 * summary["seconds"] < sum(summary["ranks"][0]["seconds"].values()) <= summary["seconds"] + 0.1
    said, counts, summary = first("again")
    assert not counts and not any("compiling" in line for line in said) and "compile" not in summary["timings"]


def test_two_ranks_compile_a_part_each(ribosomes, tmp_path, mpirun, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = mpirun(2, ["-c", COUNTING, "reconstruct", ribosomes, "-o", tmp_path / "out", "-q"], env=environment)
    assert done.returncode == 0, done.stderr
    counts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(counts) == 2 and all(set(some) == {"compile"} and some["compile"] <= 12 for some in counts)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_a_rank_with_several_cores_has_help(ribosomes, tmp_path):
    """What another process compiles is not compiled again: it is the same, of the same types."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", COUNTING, "reconstruct", str(ribosomes), "-o", str(tmp_path / "out"), "--loss",
               "posterior", "-q"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert set(counts) == {"compile"} and counts["compile"] <= 16


def test_help_that_fails_is_done_without(monkeypatch, tmp_path):
    """A process that could not be started, or died, leaves its part to the one that asked."""
    monkeypatch.setattr(warm, "kept_in", lambda: str(tmp_path))
    done = []
    monkeypatch.setattr(
        warm.Wanted, "steps", lambda *arguments: [lambda step=step: done.append(step) for step in range(5)]
    )
    for helper in ("import sys; sys.exit(1)", "import time; time.sleep(0.1)"):
        monkeypatch.setattr(warm, "HELP", helper)
        warm.compile_once(SerialCommunicator(), CpuBackend(BOX, 1.0), particles(), False, False, helpers=2)
        assert set(done) == set(range(5))
        for mark in tmp_path.iterdir():
            mark.unlink()
        done.clear()


def test_help_ends_with_what_it_was_for(monkeypatch, tmp_path):
    """An error or Ctrl-C while kernels are compiled leaves no process behind."""
    monkeypatch.setattr(warm, "HELP", "import time; time.sleep(60)")
    started, popen = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(warm.subprocess, "Popen", start)
    wanted = warm.Wanted(4, 2.0, False, 1, False, False, False, None, False, False)
    with pytest.raises(KeyboardInterrupt), warm.helped(wanted, 2):
        raise KeyboardInterrupt
    assert len(started) == 2 and all(process.returncode is not None for process in started)
