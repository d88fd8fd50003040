"""``--select COLUMN=VALUES``: which rows of a particle table are imported.

COLUMN is any column of the particle table (of a STAR file also of its optics table; ``rln`` may be left out; ``[K]`` picks a
number of a column that has several a row), or ``row``: the number of the row, from 0. VALUES has commas between:

- a value: a text as it stands in the table, or its number (1 is also 1.000), or the last part of a path
- LOW:HIGH, LOW: or :HIGH: numbers in between, both ends included (in columns of numbers)
- @FILE: the values in a file: one a line, a NumPy array (.npy), or the same column of a .star or .cs file

Several selections must all hold.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.star import read_star
from mpirecon.io.text_column import TextColumn, text_column, to_numbers
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together, together
from mpirecon.parallel.slab import slab

_EXACT = 2.0**53  # float64 tells all whole numbers below apart
_LISTED = 12  # values that an error names
_MOST = 1000  # values of a rank that are counted for it
_HYPHEN = re.compile(r"[\d.]+-[\d.]+")
_RANGE = re.compile(r"(?P<low>[^:]*):(?P<high>[^:]*)")


@dataclass(frozen=True)
class RowOptions:
    """Which rows are read: select : (column, values), first : at most so many of those; and what shows one particle: family,
    new_halves as ImportOptions."""

    select: tuple[tuple[str, str], ...] = ()
    family: tuple[str, ...] = ()
    new_halves: bool = False
    first: int | None = None

    @property
    def all(self) -> bool:
        """Whether every row is read."""
        return not self.select and self.first is None


ALL_ROWS = RowOptions()


@dataclass
class Selected:
    """rows : (k,) int64, the numbers in the file of the rows that a rank has; notes : how many were kept."""

    rows: np.ndarray
    notes: list[str]


def parse_selection(text: str) -> tuple[str, str]:
    """``COLUMN=VALUES`` → (COLUMN, VALUES); ValueError saying what was expected."""
    column, _, values = text.partition("=")
    if not (column.strip() and values.strip()):
        raise ValueError(f"{text!r}: expected COLUMN=VALUES, e.g. rlnClassNumber=1,3 or rlnMicrographName=@list.txt")
    return column.strip(), values.strip()


def select_star_rows(
    comm: Communicator, path: Path, tables: dict[str, pd.DataFrame], block: str, options: RowOptions
) -> tuple[dict[str, pd.DataFrame], Selected]:
    """The tables with this rank's slab of the rows that are selected from the table `block`; collective.

    tables : of read_star, with this rank's slab of `block`. Rows move between ranks by reading the file again.

    Raises
    ------
    UserError
        for a column that is not there, and a value that no row has, listing what is there.
    """
    particles = tables[block]
    total = particles.attrs.get("rows", len(particles))
    first = slab(total, comm.size, comm.rank)[0]
    mask, notes = _mask(comm, path, options.select, _StarValues(path, particles, tables.get("optics"), first), len(particles), total)
    kept = np.flatnonzero(np.concatenate([np.unpackbits(bits, count=count).astype(bool)
                                          for bits, count in comm.allgather((np.packbits(mask), len(mask)))]))
    kept = _first(kept, options, notes)
    mine = kept[slice(*slab(len(kept), comm.size, comm.rank))]
    window = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
    if comm.size > 1:
        particles = read_star(path, comm, "rlnImageName", window)[block]
    particles = particles[np.isin(np.arange(*window), mine)] if comm.size > 1 else particles.iloc[mine]
    particles.attrs["rows"] = len(kept)
    return {**tables, block: particles}, Selected(mine, notes)


def select_cs_rows(path: Path, array: np.ndarray, options: RowOptions) -> Selected | None:
    """The rows that are selected from the array of a .cs file, all of it; None where all are."""
    if options.all:
        return None
    mask, notes = _mask(SerialCommunicator(), path, options.select, _CsValues(path, array), len(array), len(array))
    return Selected(_first(np.flatnonzero(mask), options, notes), notes)


def _first(kept: np.ndarray, options: RowOptions, notes: list[str]) -> np.ndarray:
    """Those of the selected rows that --first takes, in the order of the file."""
    if options.first is None:
        return kept
    taken = kept[: options.first]
    notes.append(f"--first {options.first}: {len(taken)} of {len(kept)} {'selected ' if options.select else ''}rows")
    return taken


def _mask(comm: Communicator, path: Path, select, values: _StarValues | _CsValues, count: int, total: int) -> tuple[np.ndarray, list[str]]:
    """((count,) bool, this rank's rows that all selections keep; what each keeps of the `total` rows). Collective."""
    mask, notes = np.ones(count, bool), []
    for column, wanted in select:
        found = _rows_with(comm, path, column, wanted, values)
        kept = comm.allreduce_scalar(int(found.sum()))
        notes.append(f"--select {column}={wanted}: {kept} of {total} rows")
        mask &= found
    kept = comm.allreduce_scalar(int(mask.sum()))
    _refuse(comm, not kept, f"{path}: no row is left by all of --select {' --select '.join('='.join(pair) for pair in select)}")
    if len(select) > 1:
        notes.append(f"{kept} of {total} rows are kept by all of them")
    return mask, notes


def _rows_with(comm: Communicator, path: Path, column: str, wanted: str, values: _StarValues | _CsValues) -> np.ndarray:
    """(m,) bool, this rank's rows of one selection; collective."""
    cells = run_together(comm, lambda: values.column(column))
    items, source = run_together(comm, lambda: _items(column, wanted, cells))
    ranges = [span for item in items if source is None and (span := _span(item)) is not None]
    texts = [item for item in items if source is not None or _span(item) is None]
    mask = np.zeros(len(cells.numbers), bool)
    for low, high in ranges:
        inside = (cells.numbers >= low) & (cells.numbers <= high)
        missing = not comm.allreduce_scalar(int(inside.any()))
        _refuse(comm, missing, f"{path}: no row has {column} from {low:g} to {high:g}; {_what_is_there(comm, cells) if missing else ''}")
        mask |= inside
    if texts:
        found, hit = cells.equal(texts)
        comm.allreduce(hit, "max")
        absent = np.flatnonzero(hit == 0)
        if len(absent) and any("/" not in texts[i] for i in absent):  # the last parts of paths
            again, hit_again = cells.ending([texts[i] for i in absent])
            hit[absent] = comm.allreduce(hit_again, "max")
            found |= again
        absent = np.flatnonzero(hit == 0)
        none = len(absent) == len(texts) if source is not None else len(absent) > 0
        hint = " (ranges are written LOW:HIGH)" if none and source is None and _HYPHEN.fullmatch(texts[absent[0]]) else ""
        what = f"any of the {len(texts)} values of {source}" if source is not None else f"the value {texts[absent[0]] if none else ''}"
        _refuse(comm, none, f"{path}: no row has {what} in {cells.name}; {_what_is_there(comm, cells) if none else ''}{hint}")
        mask |= found
    return mask


def _items(column: str, wanted: str, cells: _Cells) -> tuple[list[str], str | None]:
    """(the values asked for, the file that they are from or None)."""
    if not wanted.startswith("@"):
        items = [item.strip() for item in wanted.split(",") if item.strip()]
        if not items:
            raise UserError(f"--select {column}=: no value is given")
        return items, None
    path = Path(wanted[1:])
    items = _values_in(path, cells.name)
    if not items:
        raise UserError(f"--select {column}=@{path}: the file has no values")
    return items, str(path)


def _values_in(path: Path, column: str) -> list[str]:
    """The values that a file lists."""
    if path.suffix.lower() == ".cs":
        from mpirecon.io.cryosparc import read_cs

        return _CsValues(path, read_cs(path)).column(column).distinct()
    if path.suffix.lower() == ".star":
        tables = read_star(path)
        table = next((t for t in tables.values() if column in t), None)
        if table is None:
            raise UserError(f"{path}: no table has the column {column}")
        return list(dict.fromkeys(table[column].tolist()))
    try:
        if path.suffix.lower() == ".npy":
            return [str(value) for value in np.load(path, allow_pickle=False).ravel().tolist()]
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the values in {path}: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")))


def _span(item: str) -> tuple[float, float] | None:
    """(low, high) of LOW:HIGH, or None where it is no range."""
    match = _RANGE.fullmatch(item)
    if not match or item == ":":
        return None
    try:
        return float(match["low"] or -np.inf), float(match["high"] or np.inf)
    except ValueError:
        return None


def _what_is_there(comm: Communicator, cells: _Cells) -> str:
    """The values that rows have, for an error; collective."""
    counts = pd.Series(dtype=np.int64)
    for rank in comm.allgather(cells.counts()):
        counts = counts.add(rank, fill_value=0)
    if len(counts) > _LISTED and not comm.allreduce_scalar(int(np.isnan(cells.numbers).any())):
        low, high = (comm.allreduce_scalar(float(edge), op) for edge, op in ((cells.numbers.min(initial=np.inf), "min"),
                                                                            (cells.numbers.max(initial=-np.inf), "max")))
        return f"its values run from {low:g} to {high:g}"
    counts = counts.sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{value} ({int(rows)} rows)" for value, rows in counts.iloc[:_LISTED].items())
    return f"there are {listed}" + (f" and {len(counts) - _LISTED} or more others" if len(counts) > _LISTED else "")


def _refuse(comm: Communicator, wrong: bool, message: str) -> None:
    """End all ranks with one message; `wrong` is the same on all."""
    if wrong:
        with together(comm):
            if comm.rank == 0:
                raise UserError(message)


class _Cells:
    """A column: name : str · numbers : (m,) float64, NaN where a value is none."""

    name: str
    numbers: np.ndarray

    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """((m,) bool, rows that have one of the values; (k,) int64, 1 for the values that some row has)."""
        raise NotImplementedError

    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `equal`, of the last parts of paths."""
        raise NotImplementedError

    def distinct(self) -> list[str]:
        raise NotImplementedError

    def counts(self) -> pd.Series:
        """Rows of the commonest values."""
        raise NotImplementedError


class _TextCells(_Cells):
    def __init__(self, name: str, column: TextColumn) -> None:
        self.name, self._column = name, column
        self.numbers = to_numbers(pd.Series(column))

    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        mine, hashes = self._column.hashes(), TextColumn._from_sequence(wanted).hashes()
        numbers = np.array([_number(text) for text in wanted])
        numbers[~(np.abs(numbers) < _EXACT)] = np.nan
        found = np.isin(mine, hashes) | np.isin(self.numbers, numbers[np.isfinite(numbers)])
        return found, (np.isin(hashes, mine[found]) | np.isin(numbers, self.numbers[found])).astype(np.int64)

    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        codes, first = self._column.codes()
        last = np.array([os.path.basename(name.lstrip(">")) for name in self._column[first]], object)
        found = np.isin(last, np.array(wanted, object))
        return found[codes], np.isin(np.array(wanted, object), last[found]).astype(np.int64)

    def distinct(self) -> list[str]:
        return list(self._column[self._column.codes()[1]])

    def counts(self) -> pd.Series:
        codes, first = self._column.codes()
        rows = pd.Series(np.bincount(codes, minlength=len(first)), index=list(self._column[first]))
        return rows.nlargest(_MOST)


class _NumberCells(_Cells):
    """Numbers of a .cs file; whole ones are compared as such, for uids have 64 bits."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values = name, values
        self.numbers = values.astype(np.float64)

    def equal(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        whole = self._values.dtype.kind in "iu"
        parsed = [_whole(text) if whole else _number(text) for text in wanted]
        if whole:
            limits = np.iinfo(self._values.dtype)
            parsed = [None if value is None or not limits.min <= value <= limits.max else value for value in parsed]
        there = [value for value in parsed if value is not None]
        known = np.array(there, self._values.dtype if whole else np.float64)
        compared = self._values if whole else self.numbers.astype(np.float32).astype(np.float64)
        known = known if whole else known.astype(np.float32).astype(np.float64)  # as they are stored
        found = np.isin(compared, known)
        hit = np.zeros(len(wanted), np.int64)
        hit[[i for i, value in enumerate(parsed) if value is not None]] = np.isin(known, compared[found])
        return found, hit

    def ending(self, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(self._values), bool), np.zeros(len(wanted), np.int64)

    def distinct(self) -> list[str]:
        return [str(value) for value in np.unique(self._values).tolist()]

    def counts(self) -> pd.Series:
        values, rows = np.unique(self._values, return_counts=True)
        return pd.Series(rows, index=[f"{value:g}" if values.dtype.kind == "f" else str(value) for value in values.tolist()]).nlargest(_MOST)


class _StarValues:
    """Columns of a STAR file's particle table and, by their optics group, of its optics table."""

    def __init__(self, path: Path, particles: pd.DataFrame, optics: pd.DataFrame | None, first: int) -> None:
        self.path, self.particles, self.optics, self.first = path, particles, optics, first

    def column(self, name: str) -> _Cells:
        """Raises UserError where there is no such column."""
        if name == "row":
            return _NumberCells(name, self.first + np.arange(len(self.particles)))
        for label in (name, f"rln{name}", name.lstrip("_")):
            if label in self.particles:
                return _TextCells(label, text_column(self.particles[label]))
            if self.optics is not None and label in self.optics and "rlnOpticsGroup" in self.particles:
                return _TextCells(label, self._of_groups(label))
        known = [*self.particles.columns, *([] if self.optics is None else self.optics.columns)]
        raise _unknown(name, self.path, list(dict.fromkeys(map(str, known))))

    def _of_groups(self, label: str) -> TextColumn:
        group = text_column(self.particles["rlnOpticsGroup"])
        rows = pd.Index(self.optics["rlnOpticsGroup"].tolist()).get_indexer(list(group[group.codes()[1]]))
        of_code = np.array([self.optics[label].iloc[row] if row >= 0 else "" for row in rows], object)
        return TextColumn._from_sequence(of_code[group.codes()[0]].tolist())


class _CsValues:
    """Columns of a .cs file."""

    def __init__(self, path: Path, array: np.ndarray) -> None:
        self.path, self.array = path, array

    def column(self, name: str) -> _Cells:
        """Raises UserError where there is no such column, or it has several numbers a row."""
        if name == "row":
            return _NumberCells(name, np.arange(len(self.array)))
        label, _, index = name.removesuffix("]").partition("[") if name.endswith("]") else (name, "", "")
        names = self.array.dtype.names
        ends = [known for known in names if known.split("/")[-1] == label]
        label = label if label in names else ends[0] if len(ends) == 1 else None
        if label is None:
            raise _unknown(name, self.path, list(names))
        values = self.array[label]
        if index:
            if values.ndim != 2 or not index.isdigit() or int(index) >= values.shape[1]:
                raise UserError(f"--select {name}: {label} of {self.path} has {values.shape[1] if values.ndim == 2 else 1} numbers a row")
            values = values[:, int(index)]
        if values.ndim > 1:
            raise UserError(f"--select {name}: {label} of {self.path} has {values.shape[1]} numbers a row; pick one with {label}[0]")
        if values.dtype.kind in "SU":
            return _TextCells(name, TextColumn(np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values.astype(bytes)))
        if values.dtype.kind not in "iufb":
            raise UserError(f"--select {name}: {label} of {self.path} is neither numbers nor text, it is {values.dtype}")
        return _NumberCells(name, values.astype(np.uint8) if values.dtype.kind == "b" else values)


def _unknown(name: str, path: Path, known: list[str]) -> UserError:
    close = difflib.get_close_matches(name, [*known, *(label.removeprefix("rln") for label in known)], 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UserError(f"--select {name}: {path} has no such column{hint}; it has {', '.join(known)}, and row, the row's number from 0")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        number = _number(text)
        return int(number) if np.isfinite(number) and number == int(number) and abs(number) < _EXACT else None
