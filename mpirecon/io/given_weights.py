"""Weights of particles that a user gives (``reconstruct --weights``):
a column of the imported table, or of a table by particle.

A table by particle is a CSV (TSV) file whose first line names its columns, or the particles.h5 of a run. Its rows are
found by ``id`` (the particle's row in the particle file, from 0), ``uid``, or ``rlnImageName``; without any of these
its rows are the particles in order.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.file_names import UNCHANGED
from mpirecon.io.inputs import Input
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import read_particle_table
from mpirecon.io.text_encoding import not_utf8, wide_encoding
from mpirecon.model.devices import numbers_of
from mpirecon.robust.returned import LARGEST_WEIGHT, SMALLEST_WEIGHT

#: what an array of a script is called where a source is named
ARRAY = "an array"

_ROW_COLUMNS = ("id", "row", "particle")


@dataclass(frozen=True)
class GivenWeights:
    """Weights of all particles of a file.

    source : where they are from, in words
    values : (m,) float64, finite and not negative, as they were given
    """

    source: str
    values: np.ndarray

    @classmethod
    def of(cls, source: str, values: np.ndarray, where: Callable[[int], str], file: ParticleFile) -> GivenWeights:
        """Checked: UserError naming the first particle whose weight is none, by where(row),
        a half set without any, and weights too far from each other for sums of them."""
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            more = f" ({len(bad)} such particles)" if len(bad) > 1 else ""
            raise UserError(f"{where(int(bad[0]))} is not a weight{more}; weights must be finite and not negative, and "
                            f"particles of weight 0 are ignored")
        halves = file.halves()
        for half in (1, 2):
            if (halves == half).any() and not values[halves == half].any():
                raise UserError(f"{source}: all {int((halves == half).sum())} particles of half set {half} have weight "
                                "0; both half maps need particles")
            _refuse_extreme(values, halves == half, half, where)
        return cls(source, values)

    @property
    def relative(self) -> np.ndarray:
        """(m,) float64, over the median of those above 0: equal weights are 1, exactly, whatever they are."""
        return self.values / np.median(self.values[self.values > 0])

    def as_dict(self) -> dict:
        """For summary.json; ``effective``: how many particles of equal weight would be as many, (Σw)²/Σw²."""
        used, relative = self.values[self.values > 0], self.relative
        return {
            "source": self.source, "smallest": float(used.min()), "median": float(np.median(used)),
            "largest": float(used.max()),
            "zero": int(len(self.values) - len(used)), "effective": float(relative.sum() ** 2 / (relative**2).sum()),
        }  # fmt: skip

    def sentence(self) -> str:
        """What the weights are, in words."""
        about = self.as_dict()
        zero = f"; {about['zero']} particles of weight 0 are ignored" if about["zero"] else ""
        if about["smallest"] == about["largest"]:
            return f"weights of {self.source} are all {about['largest']:.4g}: they change nothing{zero}"
        return (f"weights of {self.source}, from {about['smallest']:.4g} to {about['largest']:.4g}, median "
                f"{about['median']:.4g}, effective number of particles {about['effective']:.1f}{zero}")


def _refuse_extreme(values: np.ndarray, members: np.ndarray, half: int, where: Callable[[int], str]) -> None:
    """Raise UserError where the largest weight of a half set is too far from the median of all: maps are sums in single
    precision."""
    row = int(np.argmax(np.where(members, values, -1)))
    with np.errstate(over="ignore"):
        ratio = float(values[row] / np.median(values[values > 0]))
    if members.any() and not SMALLEST_WEIGHT <= ratio <= LARGEST_WEIGHT:
        raise UserError(f"{where(row)} is the largest of half set {half}, and {ratio:.3g} times the median weight of "
                        f"all particles; expected {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g} times")


def given_array(values, file: ParticleFile) -> GivenWeights:
    """Weights that a script gives, one for each particle; UserError where they are none."""
    values = numbers_of(values, "weights: they", flags=True, verb="are")
    if values.shape != (len(file),):
        raise UserError(f"weights have the shape {values.shape}, expected ({len(file)},): one for each particle of "
                        f"{file.path}")
    return GivenWeights.of(ARRAY, values, lambda row: f"weights: {values[row]:g} of particle {row}", file)


def weights_file(text: str) -> tuple[Path, str] | None:
    """``FILE:COLUMN`` → (file, column); None for the column of the imported table."""
    name, colon, column = text.rpartition(":")
    return (Path(name), column.strip()) if colon else None


def weights_inputs(text: str | None) -> list[Input]:
    """The file that ``--weights`` reads, if any."""
    named = weights_file(text) if text else None
    return [] if named is None else [Input("table of weights", named[0])]


def read_weights(file: ParticleFile, text: str) -> GivenWeights:
    """The weights that ``--weights`` names.

    Parameters
    ----------
    text : ``COLUMN`` of the table that was imported, or ``FILE:COLUMN``

    Raises
    ------
    UserError
        naming file and row, for a value that is no weight, a particle without one or with two, and columns that are not
        there.
    """
    named = weights_file(text)
    if named is None:
        return _of_source(file, text)
    path, column = named
    if not path.is_file():
        raise UserError(f"--weights {text}: no such file: {path}; expected COLUMN of the imported table, or "
                        f"FILE:COLUMN")
    is_run = path.suffix.lower() in (".h5", ".hdf5")
    table = _read_run_table(path, column, file) if is_run else _read_text_table(path, column)
    rows = _places(file, path, table)
    values = np.empty(len(file))
    values[rows] = table.values
    at = np.empty(len(file), np.int64)
    at[rows] = np.arange(len(rows))
    return GivenWeights.of(f"{path}:{column}", values, lambda row: table.where(int(at[row])), file)


def _of_source(file: ParticleFile, column: str) -> GivenWeights:
    """A column of the table that was imported, STAR or .cs."""
    import pandas as pd

    from mpirecon.io.text_column import text_column, to_numbers  # slow to load (pandas), and most runs need none

    source, _ = file.source()
    array_ = file.source_arrays().get("particles")
    if array_ is not None and column in array_.dtype.names:
        cells = array_[column]
        if cells.ndim != 1 or cells.dtype.kind not in "iufb":
            raise UserError(f"--weights {column}: {column} of {source} is {cells.dtype} {cells.shape[1:]}, expected a "
                            f"number a row")
        values = cells.astype(np.float64)
    elif array_ is not None:
        raise UserError(f"--weights {column}: {file.path} was imported from {source}, which has no column {column}; it "
                        f"has {', '.join(array_.dtype.names)}. FILE:COLUMN reads a table by particle")
    else:
        try:
            cells = file.source_column(column)
        except UserError as error:
            raise UserError(f"--weights {column}: {error}. FILE:COLUMN reads a table by particle") from error
        values = to_numbers(pd.Series(text_column(pd.Series(cells))))
    return GivenWeights.of(column, values, lambda row: f"{file.path}: {column} of {source}, {cells[row]!s}, of "
                           f"particle {row},", file)


@dataclass(frozen=True)
class _Table:
    """A column of numbers by particle: key : column that says whose, None for rows in order; keys : what it says;
    lines : where each is in the file."""

    path: Path
    column: str
    key: str | None
    keys: list[str] | np.ndarray
    values: np.ndarray
    lines: np.ndarray
    texts: dict[int, str]  # of values that are no numbers
    also: tuple[str, list[str]] | None = None  # another column that says so, and what it says

    def where(self, row: int) -> str:
        return f"{self.path}, {self.line(row)}: {self.column} {self.texts.get(row, format(self.values[row], 'g'))!s}"

    def line(self, row: int) -> str:
        return f"line {self.lines[row]}" if self.lines[row] else f"particle {self.keys[row]}"


def _read_text_table(path: Path, column: str) -> _Table:
    try:
        with open(path, "rb") as file:
            if wide_encoding((start := file.read(1024))[:4]):
                raise UserError(f"{path}: {not_utf8(start[:4])}")
            if start.startswith(b"\x93NUM"):
                raise UserError(f"--weights {path}:{column}: {path} is a .cs file; expected a table of text, or COLUMN "
                                "alone where the particles were imported from it")
            if b"\0" in start:
                raise UserError(f"--weights {path}:{column}: {path} is no table of text; expected a CSV file whose "
                                "first line names its columns, or the particles.h5 of a run")
        with open(path, newline="", encoding="utf-8-sig", errors=UNCHANGED) as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter="\t" if "\t" in first else ",", skipinitialspace=True)
            labels = [label.strip() for label in next(reader, [])]
            key, at, of_key, of_name = _columns_of(path, labels, column)
            keys, names, values, lines, texts = [], [], array("d"), array("q"), {}
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(labels):
                    raise UserError(f"{path}, line {reader.line_num}: {len(cells)} values, but {len(labels)} columns")
                value = _number(cells[at])
                if value != value:
                    texts[len(values)] = repr(cells[at].strip())
                values.append(value)
                lines.append(reader.line_num)
                if of_key is not None:
                    keys.append(cells[of_key].strip())
                if of_name is not None:
                    names.append(cells[of_name].strip())
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {getattr(error, 'strerror', None) or error}") from error
    also = None if of_name is None else (labels[of_name], names)
    return _Table(path, column, key, keys, np.array(values), np.array(lines, np.int64), texts, also)


def _columns_of(path: Path, labels: list[str], column: str) -> tuple[str | None, int, int | None, int | None]:
    """(the column that says whose a row is, place of the values, of that column, and of one of names beside numbers of
    rows)."""
    from mpirecon.io.particle_identity import IMAGE_COLUMNS, UID_COLUMNS

    if column not in labels:
        raise UserError(f"{path} has no column {column}; its first line names {', '.join(labels) or 'none'}")
    for label in labels:
        if labels.count(label) > 1 and label in (column, *_ROW_COLUMNS, *UID_COLUMNS, *IMAGE_COLUMNS):
            raise UserError(f"{path} has {labels.count(label)} columns {label}; each needs its own name")
    keys = [name for name in (*_ROW_COLUMNS, *UID_COLUMNS, *IMAGE_COLUMNS) if name in labels and name != column]
    names = [name for name in keys if name not in _ROW_COLUMNS and keys[0] in _ROW_COLUMNS]
    places = (labels.index(some[0]) if some else None for some in (keys, names))
    return keys[0] if keys else None, labels.index(column), *places


def _read_run_table(path: Path, column: str, file: ParticleFile) -> _Table:
    found = read_particle_table(path, of=file)
    if column not in found or found[column].ndim != 1 or found[column].dtype.kind not in "iufb":
        numbers = [name for name, values in found.items() if values.ndim == 1 and values.dtype.kind in "iufb"]
        raise UserError(f"{path} has no column {column}; it has {', '.join(numbers)}")
    values = found[column].astype(np.float64)
    return _Table(path, column, "id", found["id"], values, np.zeros(len(values), np.int64), {})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _places(file: ParticleFile, path: Path, table: _Table) -> np.ndarray:
    """(m,) int64, the particle of each row of a table: every one once."""
    total = len(file)
    if table.key is None:
        if len(table.values) != total:
            raise UserError(f"{path}: {len(table.values)} rows for the {total} particles of {file.path}; name the "
                            "particles in a column id, uid or rlnImageName, or give a row for each in their order")
        return np.arange(total)
    rows = _rows_of(file, path, table)
    _refuse_other_names(file, path, table, rows)
    known = rows >= 0
    count = np.bincount(rows[known], minlength=total)
    if (count > 1).any():
        twice = np.flatnonzero(rows == int((count > 1).argmax()))[:2]
        raise UserError(f"{path}, {table.line(int(twice[1]))}: {table.key} {table.keys[twice[1]]} has a weight already "
                        f"({table.line(int(twice[0]))})")
    if not known.all():
        first = int(np.flatnonzero(~known)[0])
        raise UserError(f"{path}, {table.line(first)}: {file.path} has no particle of {table.key} {table.keys[first]} "
                        f"({int((~known).sum())} such rows of {len(rows)})")
    if not count.all():
        missing = int((count == 0).argmax())
        raise UserError(f"{path} has no {table.column} for {int((count == 0).sum())} of the {total} particles of "
                        f"{file.path}, the first of them particle {missing}; give each one, 0 to leave it out")
    return rows


def _refuse_other_names(file: ParticleFile, path: Path, table: _Table, rows: np.ndarray) -> None:
    """Raise UserError where a row's number is that of a particle that is called otherwise: the table is of another
    file."""
    if table.also is None:
        return
    from mpirecon.io.particle_identity import UID_COLUMNS, all_image_names, plain_image_names, stacks_alone, uids

    label, said = table.also
    if label in UID_COLUMNS:
        called, said = [names for names in (uids(file),) if names is not None], np.array(said, object)
    else:  # folders aside: of one project seen from another one
        called, said = [stacks_alone(names) for names in all_image_names(file)], stacks_alone(plain_image_names(said))
    known = np.flatnonzero(rows >= 0)
    other = known[np.all([names[rows[known]] != said[known] for names in called], axis=0)] if called else ()
    if len(other):
        row = int(other[0])
        raise UserError(f"{path}, {table.line(row)}: {table.key} {table.keys[row]} has {label} {said[row]}, but that "
                        f"of {file.path} is {called[0][rows[row]]} ({len(other)} such rows of {len(rows)}): the table "
                        f"is of another particle file. Without its column {table.key}, its rows are found by {label}")


def _rows_of(file: ParticleFile, path: Path, table: _Table) -> np.ndarray:
    """The particle of each row of a table, -1 where there is none."""
    import pandas as pd

    from mpirecon.io.particle_identity import UID_COLUMNS, image_names, plain_image_names, uids

    if table.key in _ROW_COLUMNS:
        numbers = np.array([_number(key) for key in table.keys])
        whole = (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < len(file))
        return np.where(whole, numbers, -1).astype(np.int64)
    names = uids(file) if table.key in UID_COLUMNS else image_names(file)
    if names is None:
        raise UserError(f"{path} identifies particles by {table.key}, which {file.path} does not have; use a column "
                        "id, the particle's row from 0")
    index = pd.Index(names)
    if index.has_duplicates:
        raise UserError(f"{path} identifies particles by {table.key}, which several rows of {file.path} share; use a "
                        "column id, the particle's row from 0")
    return index.get_indexer(table.keys if table.key in UID_COLUMNS else plain_image_names(table.keys))
