"""Finding the rank that stalls: stuck in a kernel or in the file system, stopped, or on a host that is gone.

A thread of every rank watches its own rank by the steps it makes, and keeps a small pulse file in a folder that all
share; it reads the file of the next rank only, in a ring, so that whichever rank falls silent is missed by another. No
MPI is needed for that: a rank that is stuck answers none. A rank that is gone is noticed sooner, by its lifeline.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from mpirecon.parallel.lifeline import Lifeline
from mpirecon.parallel.stopping import LOST_EXIT_CODE

#: checks in the time after which a rank counts as stalled
_LOOKS = 6

#: seconds between two checks, at most
_LONGEST_LOOK = 30.0


#: what the pulse of a rank says that has waited for others too long: not a stall unless all do
_WAITS = "waits"


class Activity:
    """What a rank is doing: the number of steps it has made, in which phase it is, and whether it waits for others."""

    def __init__(self) -> None:
        self.steps = 0
        self.phase = "starting"
        self.waits = 0  # calls under way in which this rank waits for others

    def step(self, phase: str | None = None) -> None:
        """Report that work continues, and of what kind."""
        self.steps += 1
        self.phase = phase or self.phase

    @contextmanager
    def waiting(self):
        """The body waits for other ranks, as long as they take."""
        self.waits += 1
        try:
            yield
        finally:
            self.waits -= 1
            self.steps += 1


class Watchdog:
    """A context manager: while it lasts, a rank that stalls for `timeout` seconds, or is gone, ends the job with a
    message naming it. Collective.

    Parameters
    ----------
    comm : Communicator
        its ``activity`` is watched, its ``abort`` called
    folder : path or None
        where the ranks' pulse files go, seen by all ranks; removed at the end.
        Without one, until ``share``, each rank watches itself alone
    timeout : float
        seconds; 0 watches for ranks that are gone alone
    """

    def __init__(self, comm, folder: Path | None, timeout: float, advice: Callable[[], str] = str) -> None:
        """advice : what a user should do next when the job was ended."""
        self._comm, self._folder, self._timeout, self._advice = comm, None, timeout, advice
        self._first = folder
        self._hosts = comm.allgather(comm.hostname)
        self._interval = min(timeout / _LOOKS, _LONGEST_LOOK)
        self._own, self._next = _Silence(), _Silence()
        self._ended = threading.Event()
        self._beats = 0
        self._lifeline = Lifeline(comm, self._hosts, self._end)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._first is not None:
            self.share(self._first)
        self._lifeline.tie()
        if self._timeout > 0:
            self._thread.start()
        return self

    def share(self, folder: Path) -> None:
        """Watch the next rank too, by pulse files in this folder; what ends the job is written there."""
        Path(folder).mkdir(exist_ok=True)
        self._folder = Path(folder)

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._comm.barrier()  # no rank is missed that has finished
        self._ended.set()
        self._lifeline.let_go()
        if self._timeout > 0:
            self._thread.join(self._interval)
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            self._file(self._comm.rank).unlink(missing_ok=True)
            self._folder.rmdir()  # the last one can

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._interval):
            now = time.monotonic()
            # a job that was suspended as a whole has not stalled: what passed meanwhile does not count
            passed, last = min(now - last, 2 * self._interval), now
            stalled = self._look(passed)
            if stalled is not None and not self._ended.is_set():
                self._lifeline.let_go()
                self._end(stalled, f" (--stall-timeout {self._timeout:g})")

    def _end(self, why: str, option: str = "") -> None:
        """End the job, with one message from each host that has something to say; the batch script reads of it, as
        mpirun may not end where it cannot reach a host."""
        text = f"Error: {why}; the job is ended{option}{self._advice()}"
        try:
            if self._folder is not None:
                with open(self._folder / f"ended-{self._comm.hostname}", "x", encoding="utf-8") as file:
                    file.write(text)
        except FileExistsError:
            text = ""  # another rank of this host has spoken
        except OSError:
            pass
        self._comm.abort(text, LOST_EXIT_CODE)

    def _look(self, passed: float) -> str | None:
        """What is wrong with this rank or the next one, in words; None when all is well."""
        activity, rank = self._comm.activity, self._comm.rank
        waits = activity.waits > 0
        quiet = self._own.lasts((activity.steps, waits), passed) >= self._timeout
        if quiet and not waits:
            return (f"rank {rank} on host {self._comm.hostname} has stalled: no step for {self._timeout:g} s, in the "
                    f"phase '{activity.phase}'")
        if self._folder is None:
            return None
        self._beats += 1
        with contextlib.suppress(OSError):  # a file system that fails for a moment is no reason to end
            self._write(f"{self._beats} {_WAITS if quiet else activity.phase}")
        if self._comm.size == 1:
            return None
        if quiet and rank == 0 and all(_WAITS in (self._read(r) or "") for r in range(self._comm.size)):
            return (f"all ranks wait for each other since {self._timeout:g} s, in the phase '{activity.phase}' on rank "
                    "0: messages between them do not arrive")
        other = (rank + 1) % self._comm.size
        heard = self._read(other)
        if self._next.lasts(heard, passed) < self._timeout:
            return None
        phase = f"; its last phase was '{heard.partition(' ')[2]}'" if heard else ""
        return (f"rank {other} on host {self._hosts[other]} has stalled: no sign of life for {self._timeout:g} s, it "
                f"is stopped, stuck or gone{phase}")

    def _file(self, rank: int) -> Path:
        return self._folder / f"rank{rank:04d}"

    def _write(self, text: str) -> None:
        """Always the same bytes of the file: that works on a full disk too."""
        file = os.open(self._file(self._comm.rank), os.O_CREAT | os.O_WRONLY)
        try:
            os.pwrite(file, f"{text:63.63}\n".encode(), 0)
        finally:
            os.close(file)

    def _read(self, rank: int) -> str | None:
        try:
            return self._file(rank).read_text().strip()
        except OSError:
            return None


class _Silence:
    """For how long something has not changed."""

    def __init__(self) -> None:
        self._value, self._seconds = object(), 0.0

    def lasts(self, value, passed: float) -> float:
        """Take note of the value after so many more seconds; returns the seconds since it last changed."""
        self._seconds = self._seconds + passed if value == self._value else 0.0
        self._value = value
        return self._seconds
