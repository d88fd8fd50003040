"""What HDF5 writes a file through, so that a full disk ends in an error rather than in a crash."""

from __future__ import annotations

import io
from pathlib import Path


class Hdf5Target(io.FileIO):
    """The file that HDF5 writes to; it keeps the first error to itself and swallows all later writes.

    HDF5 cannot close a file after a write failed: it tries again, fails again, and crashes when the program ends.
    So HDF5 never learns of it; the writer looks at `failure` after each step, and deletes the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def write(self, data) -> int:
        data = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(data) and self.failure is None:
                done += super().write(data[done:])  # one call may write less than it was given
        except OSError as error:
            self.failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.failure is None else size
        except OSError as error:
            self.failure = error
            return size
