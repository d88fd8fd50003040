"""Particles of a run as RELION's STAR file: the imported one with columns added, or a new one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc import relion_image_names
from mpirecon.io.cs_places import coordinates_of, micrographs_of
from mpirecon.io.export import Export
from mpirecon.io.export_found import put_found_poses
from mpirecon.io.export_simulated import put_truth, put_used, without_errors
from mpirecon.io.export_tables import (add_found, add_halves, new_tables, put, put_coordinates, put_images,
                                       put_micrographs, put_mtfs)
from mpirecon.io.formats import TableWriter
from mpirecon.io.stack_contrast import refuse_rescaled
from mpirecon.io.star import write_star
from mpirecon.io.star_columns import particle_block


class StarWriter(TableWriter):
    """Tables are made once, for all files of an export."""

    def __init__(self, export: Export) -> None:
        super().__init__(export)
        self._star: tuple[dict[str, pd.DataFrame], str] | None = None

    def check(self, path: Path) -> None:
        export = self.export
        refuse_rescaled(export.file, path)
        if export.options.coordinates and export.tables:
            raise UserError(f"--coordinates is for particles of a .cs file; {export.source} is a STAR file, whose own "
                            f"coordinates are written")

    def write(self, path: Path, rows: np.ndarray, target: Path) -> None:
        tables, block = self._tables(path.parent)
        write_star(target, {**tables, block: tables[block][rows]}, overwrite=True)

    def _tables(self, folder: Path) -> tuple[dict[str, pd.DataFrame], str]:
        if self._star is None:
            self._star = self._imported_star() if self.export.tables else self._new_star()
            if self.export.options.mtf:
                self.export.report.notes += put_mtfs(self._optics(), self.export.options.mtf)
        tables, block = dict(self._star[0]), self._star[1]
        if self.export.options.stack is not None:
            tables[block] = tables[block].copy()
            stack = os.path.relpath(self.export.options.stack, folder)
            put_images(tables[block], [f"{section:06d}@{stack}" for section in self.export.section])
        return tables, block

    def _optics(self) -> pd.DataFrame:
        found = next((table for table in self._star[0].values() if "rlnOpticsGroup" in table
                      and "rlnImageName" not in table), None)
        if found is None:
            raise UserError(f"--mtf: {self.export.source} has no table of optics groups (RELION 3.1 and later), which "
                            f"name MTFs")
        return found

    def _imported_star(self) -> tuple[dict[str, pd.DataFrame], str]:
        """The source's tables: text as it was, in its order, with the run's columns at the end."""
        block = particle_block(Path(self.export.source), self.export.tables)
        table, notes = self.export.tables[block], self.export.report.notes
        if len(table) != len(self.export.file):
            raise UserError(f"{self.export.file.path} is damaged: /source has {len(table)} particles, it has "
                            f"{len(self.export.file)}")
        notes += add_halves(table, self.export.run["half"])
        if self.export.writes_errors():  # else the text is the source's
            particles = self.export.file.metadata()
            put_used(table, self.export.file, particles)
            put_truth(table, particles)
        self._put_found(table)
        notes += add_found(table, self.export.run)
        self.export.say_untold()
        return self.export.tables, block

    def _new_star(self) -> tuple[dict[str, pd.DataFrame], str]:
        """Tables in RELION 3.1's form, of a .cs file or a simulation."""
        particles = self.export.file.metadata()
        perturbed = self.export.writes_errors()
        array = self.export.arrays.get("particles")
        names = None if array is None else relion_image_names(self.export.file.path, array)
        written = particles if perturbed else without_errors(particles)
        tables = new_tables(written, written.pose, names, self.export.file.aberrations())
        if perturbed:
            put_truth(tables["particles"], particles)
        if array is not None and "uid" in array.dtype.names:
            put(tables["particles"], "mpireconUid", [str(uid) for uid in array["uid"].tolist()])
        if array is not None and "sym_expand/src_uid" in array.dtype.names:
            put(tables["particles"], "mpireconSourceUid", [str(uid) for uid in array["sym_expand/src_uid"].tolist()])
        if array is not None:
            put_micrographs(tables, *micrographs_of(array))
        self._put_found(tables["particles"])
        self._put_coordinates(tables["particles"], array)
        self.export.report.notes += add_found(tables["particles"], self.export.run)
        return tables, "particles"

    def _put_coordinates(self, table: pd.DataFrame, array: np.ndarray | None) -> None:
        chosen = self.export.options.coordinates
        if chosen is not None:
            if array is None:
                raise UserError("--coordinates: simulated particles are on no micrographs")
            put_coordinates(table, *coordinates_of(self.export.file.path, array), chosen == "flipped")
        elif array is not None and "location/center_x_frac" in array.dtype.names:
            self.export.report.notes.append("coordinates on micrographs are not written: --coordinates as-stored or "
                                            "flipped writes them, which of the two depends on RELION's micrographs")

    def _put_found(self, table: pd.DataFrame) -> None:
        found, rows = self.export.found()
        if len(rows):
            put_found_poses(table, self.export.file, found, rows)
