"""STAR tables, read losslessly: every value stays the text it was, every row knows its line.

Written for RELION's dialects (1.4 to 5) and what other programs make of them: CRLF, comments, quotes, header lines
with or without ``#1``, key-value blocks, blank lines. Particle tables have millions of rows: compiled loops split them
(star_scan.py), and ranks share the work (star_layout.py).

A CIF reader such as gemmi's does not do: in CIF a row need not be a line, so a truncated row takes its missing values
from the next one and shifts every column after it without a word;
letters beyond ASCII are refused, and rows have no line numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io import star_layout, star_scan
from mpirecon.io.atomic import atomic_path
from mpirecon.io.file_names import UNCHANGED
from mpirecon.io.star_layout import Layout, Section, StarText, scan
from mpirecon.io.text_column import TextColumn
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together
from mpirecon.parallel.slab import slab

_LABEL = re.compile(r"[ \t]*_(?P<label>[^ \t\n]+)(?P<rest>[^\n]*)")
# a closing quote is one that white space follows, so that 'it's' is one value
_TOKEN = re.compile(r"""#.*|"(?P<double>.*?)"(?=[ \t]|$)|'(?P<single>.*?)'(?=[ \t]|$)|(?P<bare>[^ \t]+)""")
_NEEDS_QUOTES = re.compile(r"""[ \t\r\0]|^["'#_;]|^(data_|loop_)|^$""", re.MULTILINE)


def read_star(
    path: str | os.PathLike, comm: Communicator | None = None, split: str | None = None,
    rows: tuple[int, int] | None = None
) -> dict[str, pd.DataFrame]:
    """Read all tables of a STAR file. With `comm`, its ranks do so together, each a part of the file; collective.

    Parameters
    ----------
    split : a label; of a table that has it, each rank gets only its slab of the rows, and ``table.attrs["rows"]`` is
        how many there are in all. Every other table is whole on every rank
    rows : instead of that slab, the rows from the first of these to before the second

    Returns
    -------
    dict : block name (without ``data_``) → table of text columns (labels without the leading underscore)
        The index of a table holds the 1-based line number of each row, for messages. A block of key-value pairs is a
        table of one row. Blocks without any label are left out.

    Raises
    ------
    UserError
        naming file and line when the file is not text, a row has the wrong number of fields, or a block or label
        occurs twice; on all ranks alike.
    """
    path, comm = Path(path), comm or SerialCommunicator()
    text = run_together(comm, lambda: StarText(path))
    with text:
        layout = scan(text, comm)
        return run_together(comm, lambda: read_tables(text, layout, comm, split, rows))


def read_tables(
    text: StarText, layout: Layout, comm: Communicator, split: str | None, rows: tuple[int, int] | None = None
) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = {}
    for section in layout.sections:
        if section.name is None:
            raise UserError(f"{text.path}, line {section.line - 1}: loop_ before any data_ block; this is not a STAR "
                            f"file")
        if section.loop:
            table = _read_loop(text, layout, section, comm, split, rows)
        else:
            table = _read_pairs(text.decode(section.start, section.stop), section.line, text.path)
        if not len(table.columns):
            continue
        if section.name in tables:
            raise UserError(f"{text.path}, line {section.line - 1}: a second table in block data_{section.name}; give "
                            "each table its own block")
        tables[section.name] = table
    return tables


def write_star(path: str | os.PathLike, blocks: Mapping[str, pd.DataFrame], overwrite: bool) -> None:
    """Write tables as loops of `path` (as pairs what was read so); values become str, in quotes where they must be.

    Raises
    ------
    UserError
        when the file exists and overwrite is False, a value cannot be expressed in STAR, or writing fails.
    """
    with atomic_path(path, overwrite) as temporary, open(temporary, "w", encoding="utf-8", errors=UNCHANGED,
                                                              newline="\n") as file:
        for name, table in blocks.items():
            file.write(f"\n# version 30001\n\ndata_{name}\n\n")
            if table.attrs.get("pairs") and len(table) == 1:
                file.writelines(f"_{label} {quote(str(table[label].iloc[0]))}\n" for label in table.columns)
            else:
                file.write("loop_\n" + "".join(f"_{label} #{i}\n" for i, label in enumerate(table.columns, 1)))
                columns = [_quoted_column(table[label]) for label in table.columns]
                file.writelines(" ".join(row) + "\n" for row in zip(*columns))
            file.write("\n")


def _quoted_column(values: pd.Series) -> list[str]:
    """All values as they must stand in their rows; one search shows whether any needs quotes."""
    values = [str(value) for value in values]
    together = "\n".join(values)
    if _NEEDS_QUOTES.search(together) is None and together.count("\n") == len(values) - 1:
        return values
    return [quote(value) for value in values]


def quote(value: str) -> str:
    """The value as it must stand in a STAR row: bare where that reads back the same, else in quotes."""
    if value and not re.search(r"""[ \t\n\r\0]|^["'#_;]|^(data_|loop_)""", value):
        return value
    for mark in "\"'":
        if not re.search(rf"{mark}[ \t]|[\n\r\0]", value):
            return f"{mark}{value}{mark}"
    raise UserError(f"{value!r} cannot be written to a STAR file: it has line breaks or both kinds of quotes")


def _read_loop(
    text: StarText, layout: Layout, section: Section, comm: Communicator, split: str | None,
    rows: tuple[int, int] | None
) -> pd.DataFrame:
    """A loop's rows; of a table with the column `split` only this rank's slab, or `rows`."""
    labels, start, line = _read_labels(text, section)
    _check_labels(labels, line, text.path)
    if not labels:
        return pd.DataFrame()
    total = layout.count(start, section.stop)[1]
    first, last = rows or slab(total, comm.size, comm.rank) if split in labels else (0, total)
    columns, lines = _read_rows(text, layout, (start, section.stop, line), len(labels), (first, last))
    columns = {label: TextColumn(cells) for label, cells in zip(labels, columns)}
    table = pd.DataFrame(columns, index=_line_index(lines), copy=False)
    table.attrs["rows"] = total
    return table


def _read_labels(text: StarText, section: Section) -> tuple[list[str], int, int]:
    """(labels, where the rows start, its line) of a loop."""
    labels: list[str] = []
    start, line = section.start, section.line
    while start < section.stop:
        stop = min(text.line_start(start + 1), section.stop)
        row = text.decode(start, stop).rstrip("\n")
        label = _LABEL.match(row)
        if label:
            labels.append(label["label"])
        elif row.strip(" \t") and not row.lstrip(" \t").startswith("#"):
            break
        start = stop
        line += 1
    return labels, start, line


def _read_rows(
    text: StarText, layout: Layout, body: tuple[int, int, int], columns: int, rows: tuple[int, int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows first … last of the rows between the bytes start and stop, whose first line is `line`, block by block.

    Returns (per column (m,) bytes, (m,) int64 line numbers).
    """
    (start, stop, line), (first, last) = body, rows
    parts: list[list[np.ndarray]] = [[] for _ in range(columns)]
    lines = []
    at, skipped = layout.seek(start, stop, first)
    line += skipped
    wanted = last - first
    while wanted > 0 and at < stop:
        end = min(text.line_start(at + star_layout.BLOCK), stop)
        data = text.read(at, end)
        length, line_count, count = star_scan.find_row(data, wanted)
        data = data[:length]
        where, lengths = np.empty((2, columns, count), np.int32)
        numbers = np.empty(count, np.int64)
        bad, fields = star_scan.split_lines(data, where, lengths, numbers)
        if bad >= 0:
            raise UserError(
                f"{text.path}, line {line + numbers[bad]}: {fields} fields in a table of {columns} columns; the file "
                "may be truncated, or a value with blanks may lack its quotes"
            )
        for part, start_of, length_of in zip(parts, where, lengths):
            part.append(_cells(data, start_of, length_of))
        lines.append(numbers + line)
        line += line_count
        wanted -= count
        at = end
    return [_joined(part) for part in parts], np.concatenate(lines) if lines else np.zeros(0, np.int64)


def _cells(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    width = max(1, int(lengths.max(initial=1)))
    out = np.zeros((len(starts), width), np.uint8)
    star_scan.copy_values(data, starts, lengths, out)
    return out.view(f"S{width}")[:, 0]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts in one array; each is let go as soon as it is copied."""
    if not parts:
        return np.zeros(0, "S1")
    out = np.empty(sum(map(len, parts)), f"S{max(part.dtype.itemsize for part in parts)}")
    at = len(out)
    while parts:
        part = parts.pop()
        at -= len(part)
        out[at : at + len(part)] = part
    return out


def _line_index(lines: np.ndarray) -> pd.Index:
    """Line numbers as an index, which takes no memory where they follow each other."""
    if len(lines) and lines[-1] - lines[0] + 1 == len(lines):
        return pd.RangeIndex(int(lines[0]), int(lines[-1]) + 1, name="line")
    return pd.Index(lines, name="line")


def split_fields(row: str) -> list[str]:
    """The values of one line: quotes removed, a comment dropped."""
    fields = []
    for token in _TOKEN.finditer(row):
        value = next((group for group in token.groups() if group is not None), None)
        if value is not None:
            fields.append(value)
    return fields


def _read_pairs(body: str, line: int, path: Path) -> pd.DataFrame:
    """A block of ``_label value`` lines as a table of one row."""
    labels, values, first = [], [], line
    for number, row in enumerate(body.split("\n"), line):
        fields = split_fields(row)
        if not fields:
            continue
        if not row.lstrip(" \t").startswith("_") or len(fields) != 2:
            raise UserError(
                f"{path}, line {number}: expected one label and one value, or loop_, got {row.strip()[:80]!r}"
            )
        first = first if labels else number
        labels.append(fields[0][1:])
        values.append([fields[1]])
    _check_labels(labels, first, path)
    index = pd.RangeIndex(first, first + bool(labels), name="line")
    table = pd.DataFrame(dict(zip(labels, values)), index=index, columns=labels, dtype=str)
    table.attrs["pairs"] = True  # so that write_star writes pairs again
    return table


def _check_labels(labels: list[str], line: int, path: Path) -> None:
    twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
    if twice is not None:
        raise UserError(f"{path}, line {line}: the table has two columns _{twice}; remove one")
