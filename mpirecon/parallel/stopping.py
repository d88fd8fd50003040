"""Requests to stop: a signal becomes a request, which the ranks meet together at the next safe point."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpirecon.errors import UserError

#: exit code of a run that was stopped and can be resumed: sysexits' EX_TEMPFAIL, "try again"
RESUME_EXIT_CODE = 75

#: exit code of a run that lost a rank, or whose ranks stalled: sysexits' EX_UNAVAILABLE
LOST_EXIT_CODE = 69

#: ends the run at the next safe point. USR2 too, because mpirun answers TERM by killing its ranks, but passes USR2 on
_AT_ONCE = (signal.SIGTERM, signal.SIGUSR2)

#: what a batch system may send before the command has come so far as to listen
_HELD = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


class StopRequested(Exception):
    """Raised on all ranks at a safe point after one of them received a signal to stop; its text says by what."""


class Alerted(StopRequested):
    """Raised at a safe point of a rank that another rank has asked to end; that rank knows why."""


class StopSignals:
    """A context manager that listens to signals; ``check()`` at every safe point raises StopRequested when it is time.

    SIGTERM and SIGUSR2 stop at the next safe point. `checkpoint` (a name such as ``"USR1"``) announces an end: the
    iteration under way may take `grace` more seconds, and the state after it is saved.

    Raises
    ------
    UserError
        for a name that is no signal, or one that cannot be caught.
    """

    def __init__(self, checkpoint: str = "USR1", grace: float = 240.0) -> None:
        self._checkpoint = signal_number(checkpoint)
        self._grace = grace
        self._deadline = math.inf
        self.received: str | None = None
        self._before: dict = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in {*_AT_ONCE, self._checkpoint}:
                self._before[number] = signal.signal(number, self._receive)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise StopRequested when the time to stop has come; for safe points."""
        if time.monotonic() >= self._deadline:
            raise StopRequested(self.received)

    def _receive(self, number: int, frame) -> None:
        wait = self._grace if number == self._checkpoint else 0.0
        self._deadline = min(self._deadline, time.monotonic() + wait)
        self.received = self.received or signal.Signals(number).name


@contextmanager
def held_signals() -> Iterator[None]:
    """Signals stay pending until a StopSignals listens, or the block ends:
    starting takes seconds, and a signal would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def signal_number(name: str) -> signal.Signals:
    """``"USR1"`` or ``"SIGUSR1"`` → its number. Raises UserError."""
    try:
        number = signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise UserError(f"{name!r} is no signal of this system; expected a name such as USR1 or TERM") from None
    if number in (signal.SIGKILL, signal.SIGSTOP):
        raise UserError(f"{number.name} cannot be caught; expected a signal such as USR1 or TERM")
    return number
