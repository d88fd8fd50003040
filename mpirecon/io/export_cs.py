"""Particles of a run as cryoSPARC's .cs file, with the fields that the imported one had."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.cs_file import with_columns
from mpirecon.io.export import Export
from mpirecon.io.export_found import cs_found_poses
from mpirecon.io.export_simulated import cs_columns
from mpirecon.io.export_tables import cs_array
from mpirecon.io.file_names import as_bytes
from mpirecon.io.formats import TableWriter


class CsWriter(TableWriter):
    """The array is made once, for all files of an export."""

    def __init__(self, export: Export) -> None:
        super().__init__(export)
        self._cs: np.ndarray | None = None

    def check(self, path: Path) -> None:
        if not self.export.arrays:
            raise UserError(f"{path}: the particles did not come from a .cs file; export --star, which cryoSPARC "
                            "imports as a particle stack")

    def write(self, path: Path, rows: np.ndarray, target: Path) -> None:
        with open(target, "wb") as file:
            np.save(file, self._array(path.parent)[rows])

    def _array(self, folder: Path) -> np.ndarray:
        if self._cs is None:
            array, notes = cs_array(self.export.arrays["particles"], self.export.run, self.export.run["half"])
            self.export.report.notes += notes
            if self.export.writes_errors():
                array = with_columns(array, cs_columns(array, self.export.file, self.export.file.metadata()))
            self.export.say_untold(contrast=self.export.options.stack is None)
            found, rows = self.export.found()
            self._cs = cs_found_poses(array, self.export.file, found, rows) if len(rows) else array
        if self.export.options.stack is None:
            return self._cs
        path = np.array([as_bytes(os.path.relpath(self.export.options.stack, folder))] * len(self._cs))
        array = with_columns(self._cs, {"blob/sign": np.ones(len(path), "f4")})
        kept = [name for name in array.dtype.names if name != "blob/path"]  # its width changes
        moved = with_columns(array[kept], {"blob/path": path, "blob/idx": (self.export.section - 1).astype("u4")})
        return moved
