"""Folders that last as long as the object that keeps files in them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from mpirecon.parallel.comm import Communicator, together


class Scratch:
    """A temporary folder, one for all ranks of a communicator; removed with this object, at the latest when Python ends.

    It lies in $TMPDIR (else /tmp): all ranks must be on one host, or $TMPDIR on a file system that they share.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, comm: Communicator) -> None:
        made = None
        with together(comm):
            if comm.rank == 0:
                made = tempfile.mkdtemp(prefix="mpirecon-")
        self.path = Path(comm.bcast(made))
        if comm.rank == 0:
            self._remove = weakref.finalize(self, shutil.rmtree, self.path, True)
