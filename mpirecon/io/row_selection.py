"""``--select COLUMN=VALUES``: which rows of a particle table are imported.

COLUMN is any column of the particle table (of a STAR file also of its optics table; ``rln`` may be left out; ``[K]``
picks a number of a column that has several a row), or ``row``: the number of the row, from 0. VALUES has commas
between:

- a value: a text as it stands in the table, or its number (1 is also 1.000), or the last part of a path
- LOW:HIGH, LOW: or :HIGH: numbers in between, both ends included (in columns of numbers)
- @FILE: the values in a file: one a line, a NumPy array (.npy), or the same column of a .star or .cs file

Several selections must all hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cs_file import read_cs
from mpirecon.io.formats import format_of
from mpirecon.io.row_values import Cells, CsValues, StarValues
from mpirecon.io.star import read_star
from mpirecon.io.text_encoding import not_utf8
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together, together
from mpirecon.parallel.slab import slab

_LISTED = 12  # values that an error names
_HYPHEN = re.compile(r"[\d.]+-[\d.]+")
_RANGE = re.compile(r"(?P<low>[^:]*):(?P<high>[^:]*)")


@dataclass(frozen=True)
class RowOptions:
    """Which rows are read: select : (column, values), first : at most so many of those; and what shows one particle:
    family, new_halves as ImportOptions."""

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
    mask, notes = _mask(comm, path, options.select, StarValues(path, particles, tables.get("optics"), first),
                        len(particles), total)
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
    mask, notes = _mask(SerialCommunicator(), path, options.select, CsValues(path, array), len(array), len(array))
    return Selected(_first(np.flatnonzero(mask), options, notes), notes)


def _first(kept: np.ndarray, options: RowOptions, notes: list[str]) -> np.ndarray:
    """Those of the selected rows that --first takes, in the order of the file."""
    if options.first is None:
        return kept
    taken = kept[: options.first]
    notes.append(f"--first {options.first}: {len(taken)} of {len(kept)} {'selected ' if options.select else ''}rows")
    return taken


def _mask(comm: Communicator, path: Path, select, values: StarValues | CsValues, count: int,
          total: int) -> tuple[np.ndarray, list[str]]:
    """((count,) bool, this rank's rows that all selections keep; what each keeps of the `total` rows). Collective."""
    mask, notes = np.ones(count, bool), []
    for column, wanted in select:
        found = _rows_with(comm, path, column, wanted, values)
        kept = comm.allreduce_scalar(int(found.sum()))
        notes.append(f"--select {column}={wanted}: {kept} of {total} rows")
        mask &= found
    kept = comm.allreduce_scalar(int(mask.sum()))
    _refuse(comm, not kept, f"{path}: no row is left by all of --select "
            f"{' --select '.join('='.join(pair) for pair in select)}")
    if len(select) > 1:
        notes.append(f"{kept} of {total} rows are kept by all of them")
    return mask, notes


def _rows_with(comm: Communicator, path: Path, column: str, wanted: str, values: StarValues | CsValues) -> np.ndarray:
    """(m,) bool, this rank's rows of one selection; collective."""
    cells = run_together(comm, lambda: values.column(column))
    items, source = run_together(comm, lambda: _items(column, wanted, cells))
    ranges = [span for item in items if source is None and (span := _span(item)) is not None]
    texts = [item for item in items if source is not None or _span(item) is None]
    mask = np.zeros(len(cells.numbers), bool)
    for low, high in ranges:
        inside = (cells.numbers >= low) & (cells.numbers <= high)
        missing = not comm.allreduce_scalar(int(inside.any()))
        _refuse(comm, missing, f"{path}: no row has {column} from {low:g} to {high:g}; "
                f"{_what_is_there(comm, cells) if missing else ''}")
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
        hint = (" (ranges are written LOW:HIGH)" if none and source is None and _HYPHEN.fullmatch(texts[absent[0]])
                else "")
        what = (f"any of the {len(texts)} values of {source}" if source is not None
                else f"the value {texts[absent[0]] if none else ''}")
        _refuse(comm, none, f"{path}: no row has {what} in {cells.name}; "
                f"{_what_is_there(comm, cells) if none else ''}{hint}")
        mask |= found
    return mask


def _items(column: str, wanted: str, cells: Cells) -> tuple[list[str], str | None]:
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
    if (table := format_of(path)) is not None:
        return table.values(path, column)
    try:
        if path.suffix.lower() == ".npy":
            return [str(value) for value in np.load(path, allow_pickle=False).ravel().tolist()]
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {not_utf8(error.object)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the values in {path}: {getattr(error, 'strerror', None) or error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")))


def values_of_star(path: Path, column: str) -> list[str]:
    """The different values of a column of a STAR file."""
    table = next((table for table in read_star(path).values() if column in table), None)
    if table is None:
        raise UserError(f"{path}: no table has the column {column}")
    return list(dict.fromkeys(table[column].tolist()))


def values_of_cs(path: Path, column: str) -> list[str]:
    """The different values of a column of a .cs file."""
    return CsValues(path, read_cs(path)).column(column).distinct()


def _span(item: str) -> tuple[float, float] | None:
    """(low, high) of LOW:HIGH, or None where it is no range."""
    match = _RANGE.fullmatch(item)
    if not match or item == ":":
        return None
    try:
        return float(match["low"] or -np.inf), float(match["high"] or np.inf)
    except ValueError:
        return None


def _what_is_there(comm: Communicator, cells: Cells) -> str:
    """The values that rows have, for an error; collective."""
    counts = pd.Series(dtype=np.int64)
    for rank in comm.allgather(cells.counts()):
        counts = counts.add(rank, fill_value=0)
    if len(counts) > _LISTED and not comm.allreduce_scalar(int(np.isnan(cells.numbers).any())):
        low, high = (
            comm.allreduce_scalar(float(edge), op)
            for edge, op in ((cells.numbers.min(initial=np.inf), "min"), (cells.numbers.max(initial=-np.inf), "max"))
        )
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
