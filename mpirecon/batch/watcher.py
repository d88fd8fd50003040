"""Ends what a job has started when the job itself was killed, and leaves word of that:
``python -m mpirecon.batch.watcher FOLDER MARKER``.

It runs in a session of its own and reads lines: ``worker PID``, of a process that leads a session; ``done``. When the
lines end without ``done``, their writer is gone and could say nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

#: seconds that processes have to end by themselves; mpirun takes that long to end its ranks
_PATIENCE = 10.0


def end_session(leader: int) -> None:
    """End every process of the session that `leader` began: asked first, then killed."""
    members = _members(leader)
    for process in [leader] if leader in members else members:  # mpirun ends its ranks, unless it has gone before them
        with suppress(OSError):
            os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while (members := _members(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in members:
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    while _members(leader) and time.monotonic() < deadline + _PATIENCE:
        time.sleep(0.1)


def _members(leader: int) -> list[int]:
    """Processes of a session that still run; those that have ended and were not asked for how are none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(int(entry.parent.name))
    return found


def watch(lines, folder: Path, marker: str) -> None:
    """Read lines to their end, and do what is left to do."""
    from mpirecon.batch.external_job import mark

    worker = None
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "done":
            return
        worker = int(rest) if word == "worker" else worker
    if worker is not None:
        end_session(worker)
    mark(folder, marker)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # whatever ends the job comes to its end as the end of the lines
    watch(sys.stdin, Path(sys.argv[1]), sys.argv[2])
