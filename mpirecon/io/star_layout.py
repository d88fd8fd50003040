"""Where the tables of a STAR file are: found by all ranks together, each searching its part of the file."""

from __future__ import annotations

import bisect
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io import star_scan
from mpirecon.io.packed import refuse_packed
from mpirecon.io.text_encoding import not_utf8, wide_encoding
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.parallel.slab import slab

#: bytes read at a time, and of which lines and rows are counted apart
BLOCK = 4 * 2**20

_KEYWORD = re.compile(r"[ \t]*(data_(?P<name>[^ \t\n]*)|loop_)[ \t]*(?:#[^\n]*)?(?=\n|$)")
_BLOCK_WORD, _LOOP_WORD = (np.frombuffer(word, np.uint8) for word in (b"data_", b"loop_"))
_MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8
_AHEAD = 4096
_BINARY = "{} is not a STAR file: it holds binary data"


class StarText:
    """The bytes of a STAR file, read by position; a context manager. Offsets count from after a byte-order mark.

    size : int, bytes
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        found = os.fstat(self._file)
        if stat.S_ISDIR(found.st_mode):
            os.close(self._file)
            raise UserError(f"{path} is a folder; a STAR file was expected")
        # a pipe, such as <(zcat x.star.gz), can only be read once
        self._whole = None if stat.S_ISREG(found.st_mode) else self._drain()
        self.size = found.st_size if self._whole is None else len(self._whole)
        self._mark = 0
        start = self.read(0, 8).tobytes()
        refuse_packed(path, start, "STAR")
        if wide_encoding(start) is not None:
            raise UserError(f"{path}: {not_utf8(start)}")
        if start.startswith(_MARK):
            self._mark = len(_MARK)
            self.size -= self._mark

    def _drain(self) -> bytes:
        with os.fdopen(os.dup(self._file), "rb") as pipe:
            return pipe.read()

    def __enter__(self) -> StarText:
        return self

    def __exit__(self, *_) -> None:
        os.close(self._file)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Bytes start … stop, (n,) uint8; fewer at the end of the file."""
        start, stop = start + self._mark, stop + self._mark
        if self._whole is not None:
            return np.frombuffer(self._whole, np.uint8)[start:stop]
        pieces = []
        try:
            while start < stop and (piece := os.pread(self._file, stop - start, start)):
                pieces.append(piece)
                start += len(piece)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)

    def line_start(self, at: int) -> int:
        """The first start of a line at or after byte `at`; the size when there is none."""
        if at <= 0:
            return 0
        at -= 1  # the line end may be just before
        while at < self.size:
            # one byte more, because a carriage return may be half of a line end
            piece = self.read(at, at + _AHEAD).tobytes()
            ends = [i for i in (piece.find(b"\n"), piece.find(b"\r")) if i >= 0]
            if ends:
                end = min(ends)
                if piece[end : end + 1] == b"\r":
                    end += self.read(at + end + 1, at + end + 2).tobytes() == b"\n"
                return at + end + 1
            at += len(piece)
        return self.size

    def decode(self, start: int, stop: int) -> str:
        """Text between two starts of lines, with line feeds for line ends."""
        text = self.read(start, stop).tobytes().decode("utf-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Section:
    """What follows a keyword. name : of its block; loop : whether loop_ is the keyword; start, stop : bytes;
    line of start."""

    name: str | None
    loop: bool
    start: int
    stop: int
    line: int


@dataclass
class Layout:
    """The sections of a file, and how many lines and rows there are before each of its blocks.

    starts : (k + 1,) bytes, starts of lines; lines, rows : (k + 1,) counts before them
    """

    text: StarText
    sections: list[Section]
    starts: np.ndarray
    lines: np.ndarray
    rows: np.ndarray

    def count(self, start: int, stop: int) -> tuple[int, int]:
        """(lines, rows) between two starts of lines."""
        (a, b), (c, d) = self._before(start), self._before(stop)
        return c - a, d - b

    def seek(self, start: int, stop: int, row: int) -> tuple[int, int]:
        """(byte, lines before it) of row number `row` after the byte start; stop when there are not so many."""
        lines, rows = self._before(start)
        block = min(bisect.bisect_right(self.rows, rows + row) - 1, len(self.starts) - 2)
        at = max(int(self.starts[block]), start) if block >= 0 else start
        passed = self._before(at)
        data = self.text.read(at, min(int(self.starts[block + 1]) if block >= 0 else stop, stop))
        found, more, _ = star_scan.find_row(data, row - (passed[1] - rows))
        return at + found, passed[0] - lines + more

    def _before(self, at: int) -> tuple[int, int]:
        """(lines, rows) before a start of a line."""
        block = max(bisect.bisect_right(self.starts, at) - 1, 0)
        lines, rows = star_scan.count_lines(self.text.read(int(self.starts[block]), at))
        return int(self.lines[block]) + lines, int(self.rows[block]) + rows


def scan(text: StarText, comm: Communicator) -> Layout:
    """Find the sections of a file. Collective.

    Raises
    ------
    UserError
        when the file is not UTF-8 text, or has no data_ block.
    """
    blocks = -(-text.size // BLOCK)
    mine = run_together(comm, lambda: [_scan_block(text, i) for i in range(*slab(blocks, comm.size, comm.rank))])
    found = [block for rank in comm.allgather(mine) for block in rank]
    starts = np.array([block.start for block in found] + [text.size], np.int64)
    lines, rows = (np.concatenate([[0], np.cumsum([getattr(b, what) for b in found])]).astype(int)
                   for what in ("lines", "rows"))
    layout = Layout(text, [], starts, lines, rows)
    keywords = sorted(keyword for block in found for keyword in block.keywords)
    return run_together(comm, lambda: _with_sections(layout, keywords, found))


@dataclass(frozen=True)
class _Block:
    """A block of lines. keywords : (byte of the line, its name or None for loop_, byte after the line); bad : first
    line that is not UTF-8, counted within the block, or None; binary : whether it has a zero byte."""

    start: int
    lines: int
    rows: int
    keywords: tuple
    bad: int | None
    binary: bool


def _scan_block(text: StarText, number: int) -> _Block:
    """Count the lines that start in a block of bytes."""
    start, stop = (text.line_start(i * BLOCK) for i in (number, number + 1))
    data = text.read(start, stop)
    lines, rows, places, binary, wide = star_scan.scan_lines(data, _BLOCK_WORD, _LOOP_WORD)
    keywords = []
    bad = None
    if wide:
        try:
            data.tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            bad = star_scan.count_lines(data[: error.start])[0]
            bad = max(bad - 1, 0) if error.start and data[error.start - 1] not in b"\r\n" else bad
    for place in places.tolist():
        end = text.line_start(start + place + 1)
        try:
            match = _KEYWORD.match(text.decode(start + place, end))
        except UnicodeDecodeError:
            continue  # reported above
        if match:
            keywords.append((start + place, match["name"], end))
    return _Block(start, lines, rows, tuple(keywords), bad, bool(binary))


def _with_sections(layout: Layout, keywords: list[tuple], blocks: list[_Block]) -> Layout:
    path = layout.text.path
    if any(block.binary for block in blocks):
        raise UserError(_BINARY.format(path))
    bad = next((number for number, block in enumerate(blocks) if block.bad is not None), None)
    if bad is not None:
        raise UserError(
            f"{path}, line {layout.lines[bad] + blocks[bad].bad + 1}: {not_utf8(b'')} (a name of a file that is not "
            "UTF-8 is changed by that: rename such a file)"
        )
    if all(name is None for _, name, _ in keywords):
        raise UserError(f"{path} is not a STAR file: it has no data_ block")
    name = None
    ends = [at for at, _, _ in keywords[1:]] + [layout.text.size]
    for (_, keyword, start), stop in zip(keywords, ends):
        name = name if keyword is None else keyword
        line = layout.count(0, start)[0] + 1
        layout.sections.append(Section(name, keyword is None, start, stop, line))
    return layout
