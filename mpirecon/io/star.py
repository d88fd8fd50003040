"""STAR tables, read losslessly: every value stays the text it was, every row knows its line.

Written for RELION's dialects (1.4 to 5) and what other programs make of them: CRLF, comments, quotes, header lines
with or without ``#1``, key-value blocks, blank lines. Rows go through pandas' C parser, because particle tables
have millions of them; only tables with quotes are split here.
"""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.io.packed import refuse_packed

_KEYWORD = re.compile(r"[ \t]*(data_(?P<name>[^ \t\n]*)|loop_)[ \t]*(?:#[^\n]*)?(?=\n|$)")
_LABEL = re.compile(r"[ \t]*_(?P<label>[^ \t\n]+)(?P<rest>[^\n]*)")
# a closing quote is one that white space follows, so that 'it's' is one value
_TOKEN = re.compile(r"""#.*|"(?P<double>.*?)"(?=[ \t]|$)|'(?P<single>.*?)'(?=[ \t]|$)|(?P<bare>[^ \t]+)""")
_COMMENT = re.compile(r"(^|[ \t])#[^\n]*", re.MULTILINE)
_QUOTE = re.compile(r"""(?:^|[ \t])["']""", re.MULTILINE)
_NEEDS_QUOTES = re.compile(r"""[ \t\r\0]|^["'#_;]|^(data_|loop_)|^$""", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def read_star(path: str | os.PathLike) -> dict[str, pd.DataFrame]:
    """Read all tables of a STAR file.

    Returns
    -------
    dict : block name (without ``data_``) → table of text columns (labels without the leading underscore)
        The index of a table holds the 1-based line number of each row, for messages. A block of
        key-value pairs is a table of one row. Blocks without any label are left out.

    Raises
    ------
    UserError
        naming file and line when the file is not text, a row has the wrong number of fields, or a block or label
        occurs twice.
    """
    path = Path(path)
    text = _read_text(path)
    tables: dict[str, pd.DataFrame] = {}
    for name, loop, start, stop, line in _sections(text, path):
        if name is None:
            raise UserError(f"{path}, line {line}: loop_ before any data_ block; this is not a STAR file")
        table = _read_loop(text, start, stop, line, path) if loop else _read_pairs(text[start:stop], line, path)
        if not len(table.columns):
            continue
        if name in tables:
            raise UserError(f"{path}, line {line}: a second table in block data_{name}; give each table its own block")
        tables[name] = table
    return tables


def write_star(path: str | os.PathLike, blocks: Mapping[str, pd.DataFrame], overwrite: bool) -> None:
    """Write tables as loops of `path` (as pairs what was read so); values become str, in quotes where they must be.

    Raises
    ------
    UserError
        when the file exists and overwrite is False, a value cannot be expressed in STAR, or writing fails.
    """
    with atomic_path(path, overwrite) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
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
    """All values as they must stand in their rows; one search tells whether any needs quotes."""
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


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    refuse_packed(path, data[:8])
    if b"\0" in data[:65536]:
        raise UserError(f"{path} is not a STAR file: it holds binary data")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 text; convert it first, for example with iconv -f latin1 -t utf8"
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is not a STAR file: it holds binary data")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _sections(text: str, path: Path) -> Iterator[tuple[str | None, bool, int, int, int]]:
    """(block name, is a loop, start, stop, line of start) of everything between the keywords of a file."""
    keywords = list(_keywords(text))
    if not any(match["name"] is not None for match in keywords):
        raise UserError(f"{path} is not a STAR file: it has no data_ block")
    name, line, counted = None, 1, 0
    for match, following in zip(keywords, [*keywords[1:], None]):
        loop = match["name"] is None
        name = name if loop else match["name"]
        line += text.count("\n", counted, match.end())
        counted = match.end()
        yield name, loop, match.end(), len(text) if following is None else following.start(), line


def _keywords(text: str) -> Iterator[re.Match]:
    """Lines that hold data_… or loop_ alone, in order. (A search per line would take longer than all the rest.)"""
    found = []
    for word in ("data_", "loop_"):
        at = text.find(word)
        while at >= 0:
            start = text.rfind("\n", 0, at) + 1
            match = _KEYWORD.match(text, start)
            if match and match.start(1) == at:
                found.append(match)
            at = text.find(word, at + 1)
    return iter(sorted(found, key=lambda match: match.start()))


def _read_loop(text: str, start: int, stop: int, line: int, path: Path) -> pd.DataFrame:
    labels: list[str] = []
    while start < stop:
        end = text.find("\n", start, stop)
        end = stop if end < 0 else end
        row = text[start:end]
        label = _LABEL.match(row)
        if label:
            labels.append(label["label"])
        elif row.strip(" \t") and not row.lstrip(" \t").startswith("#"):
            break
        start = end + 1
        line += 1
    _check_labels(labels, line, path)
    return _read_rows(text[start:stop].rstrip(" \t\n"), labels, line, path)


def _read_rows(body: str, labels: list[str], line: int, path: Path) -> pd.DataFrame:
    """Rows of a loop whose first line is `line`; the C parser where nothing stands in its way."""
    quoted = ('"' in body or "'" in body) and _QUOTE.search(body) is not None
    if "#" in body and not quoted:
        body = _COMMENT.sub(r"\1", body).rstrip(" \t\n")
    lines = _row_lines(body, line)
    if quoted:
        return _split_rows(body, labels, line, path)
    if not body:
        return _frame([[] for _ in labels], labels, lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of long rows, which are found below
            # a column more than there are labels catches long rows; a leading line break keeps a byte-order mark
            frame = pd.read_csv(
                io.StringIO("\n" + body), sep=r"\s+", header=None, names=range(len(labels) + 1), index_col=False,
                dtype=str, engine="c", na_filter=False, quoting=csv.QUOTE_NONE, low_memory=False,
            )
    except pd.errors.ParserError:
        return _split_rows(body, labels, line, path)  # finds the row and names it
    too_long, too_short = frame[len(labels)] != "", frame[max(len(labels) - 1, 0)] == ""
    if len(frame) != len(lines) or too_long.any() or too_short.any():
        return _split_rows(body, labels, line, path)
    frame = frame.drop(columns=len(labels))
    frame.columns, frame.index = labels, lines
    return frame


def _row_lines(body: str, line: int) -> pd.Index:
    """Line number of every row that is not blank."""
    if not body:
        return pd.RangeIndex(line, line, name="line")
    if body.strip(" \t\n") and not _BLANK_LINE.search("\n" + body):
        return pd.RangeIndex(line, line + body.count("\n") + 1, name="line")
    full = [bool(row.strip(" \t")) for row in body.split("\n")]
    return pd.Index(line + np.flatnonzero(full), name="line")


def _split_rows(body: str, labels: list[str], line: int, path: Path) -> pd.DataFrame:
    """Rows split one by one, with quotes and comments; the row with the wrong number of fields is named."""
    columns: list[list[str]] = [[] for _ in labels]
    lines = []
    for number, row in enumerate(body.split("\n"), line):
        fields = split_fields(row)
        if not fields:
            continue
        if len(fields) != len(labels):
            raise UserError(
                f"{path}, line {number}: {len(fields)} fields in a table of {len(labels)} columns; the file may be "
                "truncated, or a value with blanks may lack its quotes"
            )
        lines.append(number)
        for column, field in zip(columns, fields):
            column.append(field)
    return _frame(columns, labels, pd.Index(np.array(lines, dtype=np.int64), name="line"))


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
    table = _frame(values, labels, pd.RangeIndex(first, first + bool(labels), name="line"))
    table.attrs["pairs"] = True  # so that write_star writes pairs again
    return table


def _check_labels(labels: list[str], line: int, path: Path) -> None:
    twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
    if twice is not None:
        raise UserError(f"{path}, line {line}: the table has two columns _{twice}; remove one")


def _frame(columns: list[list[str]], labels: list[str], lines: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(labels, columns)), index=lines, columns=labels, dtype=str)
