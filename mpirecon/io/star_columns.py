"""Columns of RELION's particle table as numbers in the program's units, joined with those of its optics groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.reading import Reading
from mpirecon.io.text_column import to_numbers

#: option → (label it supplies, unit)
SUPPLIED = {
    "voltage": ("rlnVoltage", "kV"),
    "cs": ("rlnSphericalAberration", "mm"),
    "amplitude_contrast": ("rlnAmplitudeContrast", "fraction"),
    "pixel_size": ("rlnImagePixelSize", "Å"),
}
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")

#: label → what it is a quantity of, and RELION's unit for it (reading.UNITS)
_QUANTITIES = {
    **dict.fromkeys(ANGLES, ("angles", "degree")), "rlnDefocusU": ("defocus", "A"), "rlnDefocusV": ("defocus", "A"),
    "rlnDefocusAngle": ("defocus-angle", "degree"), "rlnPhaseShift": ("phase-shift", "degree"),
    "rlnVoltage": ("voltage", "kV"),
    "rlnAmplitudeContrast": ("amplitude-contrast", "fraction"),
}


def particle_block(path: Path, tables: dict[str, pd.DataFrame]) -> str:
    """Name of the table that lists particle images; UserError when none or several do."""
    if "particles" in tables:
        return "particles"
    named = [name for name, table in tables.items() if "rlnImageName" in table]
    if len(named) == 1:
        return named[0]
    if named:
        raise UserError(f"{path}: several tables list images ({', '.join('data_' + n for n in named)}); keep one")
    listed = ", ".join("data_" + name for name in tables) or "none"
    raise UserError(f"{path}: no table lists particle images (a column rlnImageName); the tables are: {listed}")


class StarColumns:
    """Numeric columns of the particle table, each joined with its optics group where the particles lack it.

    The join finds each particle's group and keeps the order of the particles,
    however the groups are numbered or interleaved.
    """

    def __init__(
        self, path: Path, particles: pd.DataFrame, optics: pd.DataFrame | None, supplied: dict, mixed: bool = False,
        reading: Reading = Reading(),
    ) -> None:
        self.path, self.particles, self.optics, self.supplied, self.mixed = path, particles, optics, supplied, mixed
        self.reading = reading
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.group = self._groups()
        self.optics_row = None if optics is None else self._optics_rows()

    def _groups(self) -> np.ndarray:
        if "rlnOpticsGroup" in self.particles:
            return self._integers(self.particles, "rlnOpticsGroup")
        if self.optics is not None and len(self.optics) == 1 and "rlnOpticsGroup" in self.optics:
            return np.repeat(self._integers(self.optics, "rlnOpticsGroup"), len(self.particles))
        if self.optics is not None and len(self.optics) != 1:
            raise UserError(
                f"{self.path}: the particle table has no column rlnOpticsGroup, and the optics table has "
                f"{len(self.optics)} groups; add the column"
            )
        return np.ones(len(self.particles), np.int64)

    def _optics_rows(self) -> np.ndarray:
        if "rlnOpticsGroup" not in self.optics:
            if len(self.optics) == 1:
                return np.zeros(len(self.particles), np.int64)
            raise UserError(f"{self.path}: the optics table has no column rlnOpticsGroup")
        numbers = pd.Index(self._integers(self.optics, "rlnOpticsGroup"))
        if numbers.has_duplicates:
            twice = numbers[numbers.duplicated()][0]
            raise UserError(f"{self.path}: the optics table has group {twice} twice; merge or renumber the groups")
        rows = numbers.get_indexer(self.group)
        if (rows < 0).any():
            row = int(np.flatnonzero(rows < 0)[0])
            raise UserError(
                f"{self.place(row)}: optics group {self.group[row]} is not in the optics table (groups "
                f"{', '.join(map(str, numbers))})"
            )
        return rows

    def __contains__(self, label: str) -> bool:
        return label in self.particles or (self.optics is not None and label in self.optics)

    def number(self, label: str, default: float | None = None) -> np.ndarray:
        """(m,) float64; the particle's own value, else its optics group's, else what was supplied or the default."""
        option = next((name for name, (supplies, _) in SUPPLIED.items() if supplies == label), None)
        value = self.supplied.get(option)
        if value is not None:
            if label in self:
                self.notes.append(f"--{option.replace('_', '-')} {value:g} is used instead of {label} of the table")
            return np.full(len(self.particles), float(value))
        return self.of_table(label, default)

    def of_table(self, label: str, default: float | None = None) -> np.ndarray:
        """(m,) float64, as `number`, but whatever was supplied."""
        if label in self.particles:
            return self._numbers(self.particles, label)
        if label in self:
            return self._numbers(self.optics, label)[self.optics_row]
        return np.full(len(self.particles), float(default))

    def _numbers(self, table: pd.DataFrame, label: str) -> np.ndarray:
        values = to_numbers(table[label])
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            option = next((name for name, (supplies, _) in SUPPLIED.items() if supplies == label), None)
            remedy = "" if option is None else f"; --{option.replace('_', '-')} gives one for all"
            raise UserError(
                f"{self.path}, line {table.index[row]}: {label} is {table[label].iloc[row]!r}, expected a finite "
                f"number{remedy}"
            )
        return values * self.reading.factor(*_QUANTITIES[label]) if label in _QUANTITIES else values

    def place(self, row: int) -> str:
        return f"{self.path}, line {self.particles.index[row]}"

    def _integers(self, table: pd.DataFrame, label: str) -> np.ndarray:
        values = self._numbers(table, label)
        odd = (values != np.rint(values)) | (np.abs(values) > np.iinfo(np.int32).max)
        if odd.any():
            row = int(np.flatnonzero(odd)[0])
            raise UserError(
                f"{self.path}, line {table.index[row]}: {label} is {table[label].iloc[row]!r}, expected a whole number"
            )
        return values.astype(np.int64)

    def optics_groups(self) -> np.ndarray:
        """(g,) int64, the number of each row of the optics table."""
        if "rlnOpticsGroup" in self.optics:
            return self._integers(self.optics, "rlnOpticsGroup")
        return np.ones(1, np.int64)

    def of_groups(self, label: str) -> np.ndarray:
        """(g,) float64, a column of the optics table."""
        return self._numbers(self.optics, label)

    def uniform(self, values: np.ndarray, what: str, remedy: str, tolerance: float = 0.0) -> float:
        """The one value all particles share; UserError naming the first row that differs."""
        differ = np.abs(values - values[0]) > tolerance * abs(values[0])
        if differ.any():
            row = int(np.flatnonzero(differ)[0])
            raise UserError(
                f"{self.place(row)}: {what} is {values[row]:g} (optics group {self.group[row]}), but {values[0]:g} in "
                f"line {self.particles.index[0]} (group {self.group[0]}); {remedy}"
            )
        return float(values[0])
