"""Folders that last as long as the object that keeps files in them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path

from mpirecon.parallel.comm import Communicator, together


class Scratch:
    """A temporary folder, one for all ranks of a communicator;
    removed with this object, at the latest when Python ends, by the process that made it.

    It lies in $TMPDIR (else /tmp): all ranks must be on one host, or $TMPDIR on a file system that they share.

    Attributes
    ----------
    path : Path
        made when it is first asked for, by all ranks
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    @cached_property
    def path(self) -> Path:
        made = None
        with together(self._comm):
            if self._comm.rank == 0:
                made = tempfile.mkdtemp(prefix="mpirecon-")
        path = Path(self._comm.bcast(made))
        if self._comm.rank == 0:
            self._remove = weakref.finalize(self, _remove, path, os.getpid())
        return path


def _remove(path: Path, maker: int) -> None:
    if os.getpid() == maker:  # a process that was forked ends with this object, too, and its parent still has the files
        shutil.rmtree(path, ignore_errors=True)
