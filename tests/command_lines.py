"""Command lines and programs run without a start of their own: in this process, or on ranks that are there already.

To start Python and load what a command needs takes a second of a processor, on each rank; most commands of tests, less.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import pytest

from mpirecon.cli import run
from mpirecon.cli.streams import SPELLED

_PROGRAM = Path(__file__).parent / "mpi" / "commands.py"

#: ranks that may wait at a time, each with some 200 MB: of launches on 1, 2, 3 and 4
_MOST_WAITING = 10

#: what Python hides of warnings from somebody who runs a program
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def run_here(arguments, environment: dict[str, str], cwd=None) -> subprocess.CompletedProcess:
    """Run ``mpirecon ARGUMENTS`` in this process, which is left as it was: exit code, and what it printed."""
    words = [str(word) for word in arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=SPELLED, newline="") for _ in range(2))
    with contextlib.ExitStack() as meanwhile:
        meanwhile.callback(os.chdir, os.getcwd())
        os.chdir(cwd or os.getcwd())
        meanwhile.enter_context(mock.patch.dict(os.environ, environment, clear=True))
        meanwhile.enter_context(mock.patch.object(sys, "argv", ["mpirecon", *words]))
        meanwhile.enter_context(contextlib.redirect_stdout(out))
        meanwhile.enter_context(contextlib.redirect_stderr(err))
        meanwhile.enter_context(_warnings_printed())
        code = run(words)
    out.flush()
    err.flush()
    printed = (stream.buffer.getvalue().decode(errors="surrogateescape") for stream in (out, err))
    return subprocess.CompletedProcess(words, code, *printed)


@contextlib.contextmanager
def _warnings_printed():
    """Python's own warnings on stderr, as in a process of its own: pytest would keep them for its summary."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *about: sys.stderr.write(warnings.formatwarning(*about[:4]))
        warnings.simplefilter("default")
        for category in _HIDDEN:
            warnings.simplefilter("ignore", category)
        yield


class Ranks:
    """n ranks under one mpirun, which wait for command lines: ``ranks.run([…], …)`` → CompletedProcess.

    The first word is the path of a program of Python's, or "mpirecon"."""

    def __init__(self, n: int, launcher: list, environment: dict[str, str], folder: Path):
        self.n, self._count, self._path = n, 0, folder
        pipes = [self._path / f"rank{rank}" for rank in range(n)]
        for pipe in pipes:
            os.mkfifo(pipe)
        mpirun, python = launcher
        command = [mpirun, "-n", str(n), python, str(_PROGRAM), str(self._path)]
        with open(self._path / "log", "w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._pipes = [os.open(pipe, os.O_RDWR) for pipe in pipes]  # to write alone would wait for the rank to read

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, arguments: list, timeout: float, cwd=None) -> subprocess.CompletedProcess:
        """Run a command line on all ranks, which it may end: `alive` says so afterwards."""
        words, number, log = [str(word) for word in arguments], self._count, self._path / "log"
        self._count += 1
        said = log.stat().st_size
        for pipe in self._pipes:
            os.write(pipe, (json.dumps({"arguments": words, "folder": str(cwd or os.getcwd())}) + "\n").encode())
        codes = [self._path / f"{number}-{rank}.code" for rank in range(self.n)]
        until = time.monotonic() + timeout
        while not (ended := all(code.exists() for code in codes)) and self.alive and time.monotonic() < until:
            time.sleep(0.005)
        if not ended and self.alive:
            self.close()
            out, err = self._printed(number)
            pytest.fail(f"{' '.join(words)} did not end on {self.n} ranks within {timeout:g} s (a hang?)\n{out}\n{err}")
        code = next(filter(None, (int(code.read_text()) for code in codes)), 0) if ended else self._process.returncode
        out, err = self._printed(number)
        return subprocess.CompletedProcess(words, code, out, err + log.read_bytes()[said:].decode())

    def _printed(self, number: int) -> list[str]:
        """What the ranks wrote to stdout and to stderr, rank by rank."""
        paths = [[self._path / f"{number}-{rank}.{name}" for rank in range(self.n)] for name in ("out", "err")]
        return ["".join(path.read_text(encoding="utf-8") for path in some if path.exists()) for some in paths]

    def close(self) -> None:
        """Let the ranks end, or end them."""
        while self._pipes:
            os.close(self._pipes.pop())
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # mpirun: a killed one leaves its ranks behind
            self._process.wait(timeout=20)


class WaitingRanks:
    """Ranks that are started once for each number of them, and again after a command that ended them. Those that were
    not used for longest make room for others.

    launcher : mpirun and Python
    environment : gives, while it is entered, the variables of one job
    """

    def __init__(self, launcher: list, environment):
        self._launcher, self._environment = launcher, environment
        self._started: dict[int, tuple[Ranks, contextlib.ExitStack]] = {}

    def run(self, n: int, arguments: list, timeout: float, cwd=None) -> subprocess.CompletedProcess:
        if n in self._started and not self._started[n][0].alive:
            self._end(n)
        while n not in self._started and self._started and sum(self._started) + n > _MOST_WAITING:
            self._end(next(iter(self._started)))
        if n not in self._started:
            job = contextlib.ExitStack()
            folder = Path(job.enter_context(tempfile.TemporaryDirectory(prefix="mpirecon-ranks-")))
            environment = job.enter_context(self._environment())
            self._started[n] = Ranks(n, self._launcher, environment, folder), job
        self._started[n] = self._started.pop(n)  # used last
        return self._started[n][0].run(arguments, timeout, cwd)

    def _end(self, n: int) -> None:
        ranks, job = self._started.pop(n)
        with job:
            ranks.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for n in list(self._started):
            self._end(n)
