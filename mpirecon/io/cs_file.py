"""A .cs file: a NumPy structured array, joined with others by uid,
and its columns as numbers in the program's units."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.reading import Reading

#: option → (column it supplies, unit)
SUPPLIED = {
    "voltage": ("ctf/accel_kv", "kV"),
    "cs": ("ctf/cs_mm", "mm"),
    "amplitude_contrast": ("ctf/amp_contrast", "fraction"),
    "pixel_size": ("blob/psize_A", "Å"),
}

#: column → what it is a quantity of, and cryoSPARC's unit for it (reading.UNITS)
_QUANTITIES = {
    "alignments3D/pose": ("angles", "radian"), "ctf/df1_A": ("defocus", "A"), "ctf/df2_A": ("defocus", "A"),
    "ctf/df_angle_rad": ("defocus-angle", "radian"), "ctf/phase_shift_rad": ("phase-shift", "radian"),
    "ctf/accel_kv": ("voltage", "kV"),
    "ctf/amp_contrast": ("amplitude-contrast", "fraction"),
}

_STREAM = b"\x94CSDAT"  # how cryosparc-tools begins its other format


def read_cs(path: str | os.PathLike) -> np.ndarray:
    """The structured array (m,) of a .cs file.

    Raises
    ------
    UserError
        naming the file when it is missing, of another format, damaged, or holds no particles.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(_STREAM))
            if start == _STREAM:
                raise UserError(f"{path} is in cryoSPARC's stream format (CSDAT); save it as NumPy, for example with "
                                "cryosparc-tools: Dataset.load(…).save(…)")
            if not start.startswith(b"\x93NUMPY"):
                raise UserError(f"{path} is not a .cs file: it is no NumPy array")
            file.seek(0)
            array = _read_array(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if array.dtype.names is None or array.ndim != 1:
        raise UserError(f"{path} is not a .cs file: a table was expected, this is {array.dtype} {array.shape}")
    if not len(array):
        raise UserError(f"{path} has no particles")
    return array


def _read_array(file: BinaryIO, path: Path) -> np.ndarray:
    """The array of a .npy file that is open at its beginning; no more is read than the file has."""
    try:  # NumPy parses the header as Python: what a changed byte may raise is any of Python's errors
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        wanted = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and wanted > (there := os.fstat(file.fileno()).st_size - file.tell()):
            raise ValueError(f"{shape} rows of {dtype.itemsize} bytes are {wanted} bytes, and {there} are there")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        objects = "Object arrays" in str(error)
        reason = "it holds Python objects" if objects else f"it is damaged or truncated ({str(error)[:120]})"
        raise UserError(f"{path} cannot be read as a .cs file: {reason}") from error


def join_passthrough(array: np.ndarray, path: Path, passthrough: str | os.PathLike) -> np.ndarray:
    """`array` with the columns that only the passthrough file has, row by row of the same uid.

    Rows keep their order and their own columns; the passthrough's other rows are left out.

    Raises
    ------
    UserError
        when either lacks a column uid, a uid occurs twice in the passthrough, or a particle is not in it.
    """
    other = read_cs(passthrough)
    for file, table in ((path, array), (passthrough, other)):
        if "uid" not in table.dtype.names:
            raise UserError(f"{file} has no column uid, by which --passthrough joins its files")
    index = pd.Index(other["uid"])
    if index.has_duplicates:
        raise UserError(f"{passthrough}: the uid {index[index.duplicated()][0]} occurs twice")
    rows = index.get_indexer(array["uid"])
    if (rows < 0).any():
        row = int(np.flatnonzero(rows < 0)[0])
        raise UserError(
            f"{passthrough} lacks {int((rows < 0).sum())} of the {len(array)} particles of {path} (first: row {row}, "
            f"uid {array['uid'][row]}); is it the passthrough of the same job?"
        )
    new = {name: other[name][rows] for name in other.dtype.names if name not in array.dtype.names}
    return with_columns(array, new)


def with_columns(array: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """A structured array with these columns replaced, or added at the end in the type they come in."""
    added = [name for name in columns if name not in array.dtype.names]
    kept = [(name, array.dtype[name]) for name in array.dtype.names]
    out = np.empty(len(array), kept + [(name, columns[name].dtype, columns[name].shape[1:]) for name in added])
    for name in out.dtype.names:
        out[name] = columns[name] if name in columns else array[name]
    return out


class CsColumns:
    """Numeric columns of the array, with what the user supplied instead."""

    def __init__(self, path: Path, array: np.ndarray, supplied: dict, reading: Reading = Reading()) -> None:
        self.path, self.array, self.reading = path, array, reading
        self.supplied = {SUPPLIED[o][0]: (o, float(v)) for o, v in supplied.items() if v is not None}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.array.dtype.names

    @property
    def numeric(self) -> list[str]:
        """Columns of one number a row."""
        types = self.array.dtype
        return [name for name in types.names if not types[name].shape and types[name].kind in "iufb"]

    def number(self, name: str, default: float = 0.0, width: tuple[int, ...] = ()) -> np.ndarray:
        """(m, *width) float64: supplied, of the file, or the default."""
        shape = (len(self.array), *width)
        if name in self.supplied:
            option, value = self.supplied[name]
            if name in self:
                self.notes.append(f"--{option.replace('_', '-')} {value:g} is used instead of {name} of the file")
            return np.full(shape, value)
        return self.of_file(name, default, width)

    def of_file(self, name: str, default: float = 0.0, width: tuple[int, ...] = ()) -> np.ndarray:
        """(m, *width) float64, as `number`, but whatever was supplied."""
        shape = (len(self.array), *width)
        if name not in self:
            return np.full(shape, default)
        values = self.array[name]
        if values.shape != shape or values.dtype.kind not in "iufb":
            raise UserError(f"{self.path}: {name} is {values.dtype} {values.shape}, expected numbers of shape {shape}")
        values = values.astype(np.float64)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            option = next((option for option, (supplies, _) in SUPPLIED.items() if supplies == name), None)
            remedy = "" if option is None else f"; --{option.replace('_', '-')} gives one for all"
            raise UserError(f"{self.place(row)}: {name} is {values[row]}, expected finite numbers "
                            f"({int(bad.sum())} such rows){remedy}")
        return values * self.reading.factor(*_QUANTITIES[name]) if name in _QUANTITIES else values

    def place(self, row: int) -> str:
        return f"{self.path}, row {row}"

    def uniform(self, name: str, remedy: str, tolerance: float = 1e-4) -> float:
        """The one positive value that all particles share, within a relative tolerance."""
        values = self.number(name)
        positive = f"expected a positive number ({int((values <= 0).sum())} such rows); --pixel-size gives one for all"
        for bad, why in ((values <= 0, positive),
                         (np.abs(values - values[0]) > tolerance * values[0], f"but {values[0]:g} in row 0; {remedy}")):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise UserError(f"{self.place(row)}: {name} is {values[row]:g}, {why}")
        return float(values[0])
