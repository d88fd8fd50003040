"""An HDF5 file that all ranks fill at once, without parallel HDF5.

Rank 0 lays the file out. A dataset is allocated when it is created, and neither filtered nor resizable: its rows then
lie one after another in the file (HDF5 calls it contiguous, or chunks with an implicit index), and each rank writes its
rows at their place. Any HDF5 reads the result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from mpirecon.io.atomic import write_failed
from mpirecon.io.hdf5_target import Hdf5Target
from mpirecon.parallel.comm import Communicator, together

#: the oldest file format that has implicit chunk indices (HDF5 1.10, 2016)
_FORMAT = ("v110", "v110")

#: datasets of a page or more start at a page, which no two hosts then share
_PAGE = 4096

#: bytes that one write takes; Linux ends writes at 2 GB
_MOST = 2**30


class SharedHdf5:
    """A new file; `file` is the open h5py.File on rank 0, None elsewhere. Collective, like `create` and `close`.

    Raises OSError or RuntimeError (HDF5's) where writing fails; `failure` holds what HDF5 itself met.
    """

    def __init__(self, path: Path, comm: Communicator, shown: Path | None = None) -> None:
        """shown : the name for messages, where `path` is a temporary one."""
        self.path, self.comm = path, comm
        self.file = self._target = self._number = None
        self._places: dict[str, tuple[int, np.dtype, int]] = {}
        try:
            self._open(shown or path)
        except BaseException:
            self.discard()  # HDF5 would close it after Python has ended, and crash for its target is gone by then
            raise

    def _open(self, shown: Path) -> None:
        with together(self.comm):
            if self.comm.rank == 0:
                try:
                    self._target = Hdf5Target(self.path)
                except OSError as error:
                    raise write_failed(shown, error) from error
                self.file = h5py.File(
                    self._target, "w", libver=_FORMAT, alignment_threshold=_PAGE, alignment_interval=_PAGE
                )
        with together(self.comm):
            self._number = os.open(self.path, os.O_WRONLY)

    @property
    def failure(self) -> OSError | None:
        return None if self._target is None else self._target.failure

    def create(self, layouts: Mapping[str, tuple[np.dtype, tuple[int, ...]]], chunk: int | None = None) -> None:
        """Datasets of these (dtype, shape), with groups on their way; `chunk` rows a chunk, or contiguous."""
        places = {}
        with together(self.comm):
            if self.comm.rank == 0:
                places = {name: self._allocate(name, *layout, chunk) for name, layout in layouts.items()}
        for name, place in self.comm.bcast(places).items():
            dtype, shape = layouts[name]
            self._places[name] = place, np.dtype(dtype), int(np.prod(shape[1:], dtype=np.int64))

    def _allocate(self, name: str, dtype: np.dtype, shape: tuple[int, ...], chunk: int | None) -> int:
        """Create a dataset; where its first row lies in the file."""
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        if chunk is not None:
            layout.set_chunk((chunk, *shape[1:]))
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        links.set_char_encoding(h5py.h5t.CSET_UTF8)
        kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
        space = h5py.h5s.create_simple(shape)
        created = h5py.h5d.create(self.file.id, name.encode(), kind, space, layout, lcpl=links)
        if chunk is None:
            return created.get_offset() or 0
        first = created.get_chunk_info_by_coord((0,) * len(shape))
        last_chunk = (shape[0] - 1) // chunk
        last = created.get_chunk_info_by_coord((last_chunk * chunk,) + (0,) * (len(shape) - 1))
        if last.byte_offset - first.byte_offset != last_chunk * first.size:
            raise RuntimeError(f"HDF5 {h5py.version.hdf5_version} did not place the chunks of /{name} one after "
                               f"another")
        return first.byte_offset

    def put(self, name: str, start: int, rows: np.ndarray) -> None:
        """Write rows from row `start` of a dataset on, in its type. Any rank, any time."""
        place, dtype, width = self._places[name]
        data = memoryview(np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8))
        at = place + start * width * dtype.itemsize
        while len(data):
            done = os.pwrite(self._number, data[:_MOST], at)
            data, at = data[done:], at + done

    def close(self) -> None:
        """Complete the file: all ranks' rows are in it."""
        with together(self.comm):
            os.close(self._number)
            self._number = None
        with together(self.comm):
            if self.comm.rank == 0:
                self.file.close()
                self._target.close()

    def discard(self) -> None:
        """Let go of the file, whatever state it is in; any rank by itself."""
        if self._number is not None:
            os.close(self._number)
            self._number = None
        for opened in (self.file, self._target):
            if opened is not None:
                opened.close()


def rows_in_order(dataset: h5py.Dataset) -> int | None:
    """Where the first byte of a dataset is whose rows lie one after another in the file; None of any other dataset."""
    properties = dataset.id.get_create_plist()
    if properties.get_nfilters() or properties.get_external_count() or not dataset.size:
        return None
    if properties.get_layout() == h5py.h5d.CONTIGUOUS:
        return dataset.id.get_offset()
    if properties.get_layout() != h5py.h5d.CHUNKED or dataset.chunks[1:] != dataset.shape[1:]:
        return None
    implicit = (
        properties.get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY
        and dataset.maxshape == dataset.shape
        and dataset.file.id.get_create_plist().get_version()[0] >= 3  # older formats keep a tree of chunks
    )
    if not implicit:
        return None
    rows, rest = dataset.chunks[0], (0,) * (dataset.ndim - 1)
    last = (len(dataset) - 1) // rows
    first, final = (dataset.id.get_chunk_info_by_coord((row, *rest)) for row in (0, last * rows))
    return first.byte_offset if final.byte_offset - first.byte_offset == last * first.size else None
