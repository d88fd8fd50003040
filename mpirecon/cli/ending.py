"""How a command ends: one message, one exit code, on all ranks, without hanging."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import click

from mpirecon.cli.streams import let_go
from mpirecon.parallel.agree import RankFailed, as_user_error
from mpirecon.parallel.stopping import RESUME_EXIT_CODE, StopRequested

#: seconds a failed rank waits for the others to fail too before it ends them
PATIENCE = 5.0

INTERRUPTED = 130

#: seconds in which more signals to end change nothing: what is half-written is being removed
_REMOVING = 5.0

#: packages in which no signal raises: HDF5 is left with identifiers half made, and fails with errors of its own or
#: crashes when the process ends; the others are left with a lock held, for which another thread then waits for ever
_BRITTLE = {"h5py", "importlib", "threading", "concurrent", "queue", "logging"}

#: functions of threading that are made to be left so, and may take long
_WAITING = {"wait", "join", "_wait_for_tstate_lock"}

#: the signal to end that ended_by_signals has met
_received: list[signal.Signals] = []


class Ended(BaseException):
    """Raised in the midst of a command that a signal tells to end, as KeyboardInterrupt is."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP, of schedulers and closed terminals, end a command as Ctrl-C does, so that what it
    has half-written goes. A signal that is ignored (nohup), or that somebody else listens to, stays so."""
    last, waits = -math.inf, False

    def end(number: int) -> None:
        nonlocal last
        last = time.monotonic()
        _received.append(signal.Signals(number))
        raise KeyboardInterrupt if number == signal.SIGINT else Ended

    def receive(number: int, frame) -> None:
        nonlocal waits
        if time.monotonic() - last <= _REMOVING:
            return
        if waits or (caller := _caller_of_brittle(frame)) is None:
            end(number)
        waits = True  # once: who repeats the signal may be waiting for a file system
        caller.f_trace = lambda *_: end(number)
        sys.settrace(lambda *_: None)

    def again(lost) -> None:
        """Python drops what is raised in a callback of its own, such as of a weak reference: raise it once more."""
        nonlocal last
        if not issubclass(lost.exc_type, (Ended, KeyboardInterrupt)):
            return hook(lost)
        last = -math.inf
        number = _received[-1] if issubclass(lost.exc_type, Ended) else signal.SIGINT
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()

    _received.clear()
    hook, sys.unraisablehook = sys.unraisablehook, again
    before = {}
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
        before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    ours = {n: how for n, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)}
    for number in ours:
        signal.signal(number, receive)
    try:
        with _removed_at_once(receive) if ours else nullcontext():
            yield
    finally:
        sys.unraisablehook = hook
        for number, how in ours.items():
            signal.signal(number, how)


@contextmanager
def _removed_at_once(handler) -> Iterator[None]:
    """Meanwhile what is half-written goes as soon as a signal comes that is `handler`'s, however long the main thread
    is in the midst of something: mpirun kills its ranks a quarter of a second after the signal."""
    def watch() -> None:
        while number := os.read(reads, 1):
            if signal.getsignal(number[0]) is handler:
                from mpirecon.io.atomic import remove_begun  # here: it is slow to import

                remove_begun()
        os.close(reads)

    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)


def ignore_more_signals() -> None:
    """For a process that a signal ends and that has said so: another one would show how Python ends."""
    if _received:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _caller_of_brittle(frame):
    """The frame that comes back to our code, if `frame` is within what must not be left in its midst; else None."""
    caller = None
    if _package(frame) == "threading" and frame.f_code.co_name in _WAITING:
        return None
    while frame is not None:
        if _package(frame) in _BRITTLE:
            caller = frame.f_back
        frame = frame.f_back
    return caller


def _package(frame) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]


class Outcome(NamedTuple):
    """Exit code, what to report to the user, and whether the other ranks must be ended at once."""

    code: int
    text: str = ""
    urgent: bool = False


def let_launcher_end(rank: int) -> None:
    """After a signal to end: mpirun sends it to all its ranks, and kills them a fifth of a second later; what they
    would say then hides why. A rank that lives on speaks for itself, the first one first."""
    if _received and _received[0] != signal.SIGINT:
        time.sleep(1.0 + (rank > 0))


def outcome(function: Callable[[], int]) -> Outcome:
    """Run `function`, which returns an exit code, and say how it ended. Never raises."""
    found = _outcome(function)
    if _received:
        from mpirecon.io.atomic import remove_begun  # here: it is slow to import

        remove_begun()
    if _received and found.code not in (0, 128 + _received[0]):  # whatever a library has made of Ended
        by = "" if _received[0] == signal.SIGINT else f" by {_received[0].name}"
        return Outcome(128 + _received[0], f"Interrupted{by}.", urgent=True)
    return found


def _outcome(function: Callable[[], int]) -> Outcome:
    try:
        return Outcome(function())
    except click.exceptions.Exit as error:
        return Outcome(error.exit_code)
    except click.ClickException as error:
        return Outcome(error.exit_code, _click_text(error))
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click makes the one of the other
        return Outcome(INTERRUPTED, str(cause or "") or "Interrupted.", urgent=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return Outcome(code, error.code if isinstance(error.code, str) else "")
    except RankFailed:
        return Outcome(1)  # the rank that failed reports it
    except StopRequested as error:
        return Outcome(RESUME_EXIT_CODE, str(error))
    except BaseException as error:
        return _outcome_of(error)


def end_alone(result: Outcome) -> int:
    """Tell the user how the only process ended; returns its exit code, which is not 0 where its output was lost."""
    lost = _print(result.text)
    return result.code or int(lost)


def end_together(comm, result: Outcome | None) -> int:
    """Bring all ranks to one end, which rank 0 reports; returns the exit code of them all.

    None as result is that of a rank that had nothing to do. A rank that failed and whose companions do not come to
    their end within PATIENCE seconds (they wait for it somewhere, or work on) ends them.
    """
    if comm.size == 1:
        return end_alone(result)
    result = result or Outcome(0)
    if result.urgent:
        let_launcher_end(comm.rank)
        comm.abort(_tagged(comm.rank, comm.hostname, result.text), result.code)
    # rank 0 loses patience first, so that it is the one to report what many ranks met
    patience = None if result.code == 0 else PATIENCE + (comm.rank > 0)
    reports = comm.meet_at_end((result, comm.hostname), patience)
    if reports is None:
        comm.abort(_tagged(comm.rank, comm.hostname, result.text), result.code)
    failed = [(rank, host, other) for rank, (other, host) in enumerate(reports) if other.code]
    if comm.rank == 0 and failed:
        _print(_summary(failed, comm.size))
    comm.meet_at_end(None, PATIENCE)  # the launcher kills all ranks when the first has failed: let rank 0 speak before
    return failed[0][2].code if failed else 0


def _summary(failed: list[tuple[int, str, Outcome]], size: int) -> str:
    """One message for what the ranks met: the first one's, naming that rank unless all said the same."""
    telling = [entry for entry in failed if entry[2].text] or failed
    rank, host, first = telling[0]
    same = all(other.text == first.text for _, _, other in telling)
    # a serial command fails on rank 0 alone, and a rank number would mean nothing to the user
    if same and (len(telling) == size or len(failed) == 1 == rank + 1):
        return first.text
    return _tagged(rank, host, first.text)


def _outcome_of(error: BaseException) -> Outcome:
    expected = as_user_error(error)
    if expected is None:
        text = traceback_text(error) + "This is a defect of mpirecon: please report it with the lines above."
        return Outcome(1, text, urgent=True)
    shown = traceback_text(error) if os.environ.get("MPIRECON_TRACEBACK") else ""
    return Outcome(1, f"{shown}Error: {expected}")


def traceback_text(error: BaseException) -> str:
    """The traceback as Python prints it."""
    return "".join(traceback.format_exception(error))


def _click_text(error: click.ClickException) -> str:
    stream = io.StringIO()
    error.show(file=stream)
    return stream.getvalue().rstrip("\n")


def _tagged(rank: int, host: str, text: str) -> str:
    """The text with its rank: after "Error:" in a message, before each line of a traceback."""
    if text.startswith("Error: "):
        return f"Error: rank {rank} on host {host}: {text.removeprefix('Error: ')}"
    return "\n".join(f"[rank {rank} {host}] {line}" for line in text.splitlines())


def _print(text: str) -> bool:
    """Print to stderr after all that is already under way to stdout; whether some of that could not be written."""
    lost = _write(sys.stdout, "")
    if lost:
        text = text or f"Error: the output could not be written: {lost}"
    _write(sys.stderr, text and text + "\n")
    return bool(lost)


def _write(stream, text: str) -> str:
    """Write and flush; why that failed, if it did."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        let_go(stream)
        return str(as_user_error(error) or error)
    return ""
