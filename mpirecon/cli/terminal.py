"""What the screen takes: colours, bars, and how many columns."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from mpirecon.parallel.lines import is_terminal


def uses_colours(stream) -> bool:
    """Whether escape codes for colours may go there: a terminal that knows them, and no NO_COLOR (no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream=None) -> int | None:
    """Columns of that stream (stdout): as COLUMNS says, else the terminal's; None: as many as it takes."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return shutil.get_terminal_size().columns if is_terminal(stream or sys.stdout) else None


def fold(text: str) -> str:
    """A sentence in lines as wide as the screen; as one line where the output is no terminal."""
    columns = width()
    return text if columns is None else textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)


def chart_width() -> int:
    """Columns of a curve in `text_plot`, beside its labels: 64 where the screen has as many."""
    return max(16, min(64, (width() or 80) - 11))


def table_lines(header: Sequence[str], rows: Sequence[Sequence], columns: int | None = None) -> list[str]:
    """A table, its columns set to the right, no wider than `columns` where that can be had.

    Where it would be wider, columns of one value are shown once above the others; where that is still too wide, each
    row becomes a block of lines.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    lines = _aligned([list(header), *rows])
    if _fits(lines, columns):
        return lines
    same = [i for i in range(len(header)) if len({row[i] for row in rows}) == 1] if len(rows) > 1 else []
    common = [f"{header[i]}: {rows[0][i]}" for i in same]
    left = [i for i in range(len(header)) if i not in same]
    lines = [*common, *_aligned([[cells[i] for i in left] for cells in [header, *rows]])]
    if _fits(lines, columns):
        return lines
    wide = max(map(len, header))
    blocks = [[f"{name:<{wide}}  {cell}" for name, cell in zip(header, row, strict=True)] for row in rows]
    return [line for block in blocks for line in (*block, "")][:-1]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _fits(lines: list[str], columns: int | None) -> bool:
    return columns is None or all(len(line) <= columns for line in lines)
