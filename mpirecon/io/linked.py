"""Particle files that refer to the original stacks instead of holding the images (`/link`; the layout is in
docs/files.md)."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.hdf5 import attributes_of, read_all, reading
from mpirecon.io.mrc import MODES, MrcHeader, StackReader
from mpirecon.io.shared_hdf5 import SharedHdf5
from mpirecon.parallel.comm import together
from mpirecon.parallel.slab import slab

#: most pieces that a virtual /images is put together from; HDF5 takes about a millisecond to make each
MOST_PIECES = 2_000

#: stacks that a process keeps open
MOST_OPEN = 64

#: particles whose places are kept in memory
_WINDOW = 65536


@dataclass
class Links:
    """Where the images of a rank's particles are.

    stacks : all stacks of the file; stack, section : (m,) int64, of each particle; negate : (m,) bool, images whose
        sign must be turned, or None; dtype : of the images as they are read, float16 where all stacks are, else
        float32; home : folder that the file will be in, where it is written elsewhere: what is moved with it is found
        from there
    """

    stacks: Sequence[StackReader]
    stack: np.ndarray
    section: np.ndarray
    negate: np.ndarray | None
    dtype: np.dtype
    home: Path | None = None


def write_links(file: SharedHdf5, links: Links, rows: slice, total: int) -> None:
    """Store `/link`, and `/images` as a virtual dataset where few enough pieces make it up. Collective."""
    comm, box = file.comm, links.stacks[0].box
    with together(comm):
        mine = [_describe(stack.path, links.home or file.path.parent)
                for stack in links.stacks[slice(*slab(len(links.stacks), comm.size, comm.rank))]]
    described = [row for rank in comm.allgather(mine) for row in rank]
    with together(comm):
        if file.file is not None:
            group = file.file.create_group("link")
            group.attrs.update(box=box, dtype=np.dtype(links.dtype).name)
            _write_stacks(group, links.stacks, described)
    columns = {"link/stack": links.stack.astype(np.uint32), "link/section": links.section.astype(np.uint32)}
    if links.negate is not None:
        columns["link/negate"] = links.negate
    file.create({name: (values.dtype, (total,)) for name, values in columns.items()})
    with together(comm):
        for name, values in columns.items():
            file.put(name, rows.start, values)
    pieces = comm.gather(_pieces(links, rows.start))
    with together(comm):
        if file.file is not None and links.negate is None and sum(map(len, pieces)) <= MOST_PIECES:
            _write_virtual(file.file, links, [piece for rank in pieces for piece in rank], total)


def _describe(path: Path, folder: Path) -> tuple[str, str, int, int]:
    """(absolute path, path from the particle file's folder, bytes, ns of the last change)."""
    absolute = path.resolve()
    found = absolute.stat()
    return str(absolute), os.path.relpath(absolute, folder.resolve()), found.st_size, found.st_mtime_ns


def _write_stacks(group: h5py.Group, stacks: Sequence[StackReader], described: list[tuple]) -> None:
    absolute, relative, size, changed = zip(*described)
    for name, paths in (("path", absolute), ("relative", relative)):
        cells = np.array([os.fsencode(path) for path in paths], dtype=bytes)
        group.create_dataset(name, data=cells.astype(h5py.string_dtype("utf-8", cells.dtype.itemsize)))
    group["size"], group["changed"] = np.array(size, np.int64), np.array(changed, np.int64)
    group["offset"] = np.array([stack.header.offset for stack in stacks], np.int64)
    group["sections"] = np.array([len(stack) for stack in stacks], np.int64)
    group["type"] = np.array([stack.dtype.str.encode() for stack in stacks], "S4")


def _pieces(links: Links, start: int) -> list[tuple[int, int, int, int]]:
    """(row, stack, first section, count) of runs of successive sections of one stack."""
    if not len(links.stack):
        return []
    breaks = np.flatnonzero((np.diff(links.stack) != 0) | (np.diff(links.section) != 1)) + 1
    edges = np.concatenate([[0], breaks[: MOST_PIECES + 1], [len(links.stack)]])
    return [(start + a, int(links.stack[a]), int(links.section[a]), b - a) for a,
            b in zip(edges.tolist(), edges[1:].tolist())]


def _write_virtual(file: h5py.File, links: Links, pieces: list[tuple], total: int) -> None:
    """`/images` for other programs: HDF5 finds the pixels in the stacks itself. A stack that is gone reads as NaN."""
    box = links.stacks[0].box
    layout = h5py.VirtualLayout((total, box, box), links.dtype)
    sources = {}
    for row, stack, section, count in pieces:
        if stack not in sources:
            reader, name = links.stacks[stack], f"link/data/{stack:07d}"
            shape = (len(reader), box, box)
            place = (os.fsencode(reader.path.resolve()), reader.header.offset, reader.header.nbytes)
            file.create_dataset(name, shape, reader.dtype, external=[place])
            sources[stack] = h5py.VirtualSource(".", name, shape)
        layout[row : row + count] = sources[stack][section : section + count]
    file.create_virtual_dataset("images", layout, fillvalue=np.nan)


class LinkedImages:
    """Reads images through `/link`. A stack that is missing or is not what it was is refused when it is first met.

    shape : (m, n, n); dtype : of the images as they are read
    """

    def __init__(self, group: h5py.Group, path: Path) -> None:
        self.path = path
        try:
            with reading(path, "/link"):
                self._stack, self._section, self._negate = (group.get(name) for name in ("stack", "section", "negate"))
                about = attributes_of(group, path)
                box = int(about["box"])
                self.shape = (len(self._stack), box, box)
                self.dtype = np.dtype(about["dtype"])
                columns = ("path", "relative", "size", "changed", "offset", "sections", "type")
                self._stacks = {name: read_all(group[name]) for name in columns}
                self._check()
        except (UserError, AttributeError) as error:
            raise UserError(f"{path}: /link is damaged or incomplete ({error}); import again with --link") from error
        self._window = 0, [np.zeros(0, np.int64)]
        self._readers: OrderedDict[int, StackReader] = OrderedDict()
        self._used: set[int] = set()  # stacks read since the last look at whether they are what they were

    def paths(self) -> Iterator[Path]:
        """Where each stack is, or was at the import."""
        return (self._place(number)[0] for number in range(len(self._stacks["path"])))

    def refuse_missing(self) -> None:
        """Raise UserError where any stack is not there, or not what it was at the import."""
        for number in range(len(self._stacks["path"])):
            self._checked(number)

    def refuse_changed(self) -> None:
        """Raise UserError where a stack that was read since the last call is not what it was at the import."""
        for number in sorted(self._used):
            self._checked(number)
        self._used.clear()

    def _check(self) -> None:
        """Raise ValueError where columns cannot be those of one file."""
        if self._section is None:
            raise ValueError("there is no /link/section")
        lengths = {name: len(column) for name, column in self._stacks.items()}
        rows = [column.shape for column in (self._stack, self._section, self._negate) if column is not None]
        if len(set(lengths.values())) > 1 or set(rows) != {self.shape[:1]} or self.shape[1] < 1:
            raise ValueError(f"columns of {lengths} stacks and {rows} images")
        if any(np.dtype(kind.decode()).str[1:] not in MODES.values() for kind in set(self._stacks["type"].tolist())):
            raise ValueError(f"stacks of types {self._stacks['type']}")
        if (self._stacks["offset"] < 0).any() or (self._stacks["sections"] < 0).any():
            raise ValueError("stacks that begin before their file does")

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of sorted rows, (k, n, n) in this object's dtype."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not len(rows):
            return out
        stack, section, negate = self._places(rows)
        breaks = np.flatnonzero((np.diff(stack) != 0) | (np.diff(section) != 1)) + 1
        edges = [0, *breaks.tolist(), len(rows)]
        for first, last in itertools.pairwise(edges):
            self._reader(int(stack[first])).read_run(int(section[first]), out[first:last])
        if negate is not None:
            out[negate] *= -1
        return out

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(stack, section, negate) of sorted rows, from a window of the columns that is kept for the next rows."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        start, columns = self._window
        if not (start <= first and last <= start + len(columns[0])):
            span = slice(first, max(last, first + _WINDOW))
            with reading(self.path, f"/link, rows {span.start} to {span.stop - 1}"):
                columns = [None if c is None else c[span] for c in (self._stack, self._section, self._negate)]
                columns = [c if c is None or c.dtype == bool else c.astype(np.int64) for c in columns]
                if (columns[0] < 0).any() or (columns[0] >= len(self._stacks["path"])).any():
                    raise ValueError(f"images in a stack beyond the {len(self._stacks['path'])} that are named")
            self._window = start, columns = first, columns
        return tuple(None if column is None else column[rows - start] for column in columns)

    def _reader(self, number: int) -> StackReader:
        if number not in self._readers:
            self._readers[number] = self._open(number)
            if len(self._readers) > MOST_OPEN:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(number)
        self._used.add(number)
        return self._readers[number]

    def _place(self, number: int) -> tuple[Path, Path, Path]:
        """(where a stack is, where it was at the import, where it is if all was moved)."""
        recorded = Path(os.fsdecode(self._stacks["path"][number]))
        moved = Path(os.path.normpath(self.path.resolve().parent / os.fsdecode(self._stacks["relative"][number])))
        return next((p for p in (recorded, moved) if p.is_file()), recorded), recorded, moved

    def _checked(self, number: int) -> Path:
        """Where a stack is, after its size and time of change are found to be those of the import."""
        path, recorded, moved = self._place(number)
        size, changed = self._stacks["size"][number], self._stacks["changed"][number]
        if not path.is_file():
            where = "" if moved == recorded else f" (nor {moved})"
            raise UserError(f"{self.path} refers to the stack {recorded}, which does not exist{where}; put it back, or "
                            "import again")
        found = path.stat()
        if found.st_size != size or found.st_mtime_ns != changed:
            what = f"it has {found.st_size} bytes, and had {size}" if found.st_size != size else "it was written again"
            raise UserError(f"{self.path} refers to the stack {path}, which has changed since the import: {what}; "
                            f"import again")
        return path

    def _open(self, number: int) -> StackReader:
        path = self._checked(number)
        row = {name: column[number] for name, column in self._stacks.items()}
        shape = (int(row["sections"]), *self.shape[1:])
        header = MrcHeader(shape, np.dtype(row["type"].decode()), int(row["offset"]), (0.0, 0.0, 0.0), (1, 2, 3))
        return StackReader(path, header, keep_open=True)

    def between(self, start: int, stop: int) -> np.ndarray:
        """Images start … stop, as they are in their stacks."""
        return self.read(np.arange(start, stop))

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
