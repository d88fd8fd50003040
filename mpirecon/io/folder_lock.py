"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from mpirecon.errors import UserError

NAME = ".lock"

#: what the name of a file begins with that lasts until all hosts have seen it
SEEN = ".seen-"

#: what a lock answers that somebody else holds; any other error means that this file system has no locks
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

#: tests of which process holds a lock last an instant, so that one must be tried for a little longer
_TRIES, _PAUSE = 5, 0.05


class FolderLock:
    """The lock of a folder; ``acquire()`` and ``release()``. Where a file system has no locks, nothing is locked."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path, self._number = folder, folder / NAME, None

    def acquire(self) -> None:
        """Take the lock, if it is not held already.
        Raises UserError, naming the process that holds it, where another process does."""
        if self._number is not None:
            return
        for attempt in range(_TRIES):
            number = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(number)
                if error.errno not in _HELD:
                    return
                if attempt == _TRIES - 1:
                    raise UserError(f"another run is writing into {self._folder} ({_who(self._path)}); wait for its "
                                    "end, or choose another folder") from error
                time.sleep(_PAUSE)
                continue
            if _same(number, self._path):
                break
            os.close(number)  # whoever held it has just removed the file
        else:
            raise UserError(f"another run is writing into {self._folder}; wait for its end, or choose another folder")
        self._number = number
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(about).encode(), 0)

    def release(self) -> None:
        """Let go of the lock and leave no file; a second call does nothing."""
        if self._number is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._number)
            self._number = None


def held_by(folder: Path) -> str | None:
    """The process that holds a folder's lock now, in words; None where none does, as far as this file system says."""
    path = folder / NAME
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError as error:
        return _who(path) if error.errno in _HELD else None
    finally:
        os.close(number)


def _who(path: Path) -> str:
    try:
        about = json.loads(path.read_text())
        return f"on host {about['host']}, process {about['pid']}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say where"


def _same(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False
