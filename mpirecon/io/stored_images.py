"""Images in a particle file itself (`/images`), read past HDF5 where they lie one after another."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.fingerprint import Fingerprint, refuse_changed
from mpirecon.io.hdf5 import reading
from mpirecon.io.shared_hdf5 import rows_in_order

_MOST = 2**30  # bytes of one read; Linux ends reads at 2 GB
_LARGE = 16 * 1024  # bytes of an image that is better read by itself than with those between it and the next
_SPAN_BYTES = 16 * 1024 * 1024  # most that one HDF5 read of scattered rows may span


class StoredImages:
    """Reads `dataset`, (m, n, n), of the open file at `location`, called `path` in messages, which is what was `seen`.

    shape : (m, n, n); dtype, chunks : of the dataset
    """

    def __init__(self, dataset: h5py.Dataset, location: Path, path: Path, seen: Fingerprint) -> None:
        self._dataset, self._path = dataset, path
        self.shape, self.dtype, self.chunks = dataset.shape, dataset.dtype, dataset.chunks
        self._image_bytes = self.shape[1] * self.shape[2] * self.dtype.itemsize
        with reading(path, "/images"):
            self.first_byte = rows_in_order(dataset)
        self._bytes = None if self.first_byte is None else open(location, "rb", buffering=0)
        if self._bytes is not None and Fingerprint.of(self._bytes.fileno()) != seen:
            refuse_changed(location, seen)

    def close(self) -> None:
        if self._bytes is not None:
            self._bytes.close()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of sorted rows, (k, n, n) float32. Rows in neighbouring chunks are read together: sparse ones cost no
        more than their chunks."""
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        straight = self._bytes is not None and out.dtype == self.dtype
        memory = memoryview(out.reshape(-1).view(np.uint8)) if straight else None
        for first, last in self.runs(rows):
            start, stop = int(rows[first]), int(rows[last - 1]) + 1
            if straight and stop - start == last - first:  # runs may be of one image, and many
                self._fill(memory[first * self._image_bytes : last * self._image_bytes], start, stop)
            else:
                out[first:last] = self.between(start, stop)[rows[first:last] - start]
        return out

    def between(self, start: int, stop: int) -> np.ndarray:
        """Images start … stop as they are stored, (k, n, n);
        past HDF5 where they lie in the file one after another."""
        if self._bytes is None:
            with reading(self._path, f"/images, rows {start} to {stop - 1}"):
                return self._dataset[start:stop]
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._fill(memoryview(out.reshape(-1).view(np.uint8)), start, stop)
        return out

    def _fill(self, left: memoryview, start: int, stop: int) -> None:
        """The bytes of images start … stop."""
        at = self.first_byte + start * self._image_bytes
        try:
            while len(left) and (done := os.preadv(self._bytes.fileno(), [left[:_MOST]], at)):
                left, at = left[done:], at + done
        except OSError as error:
            raise UserError(f"{self._path}: /images, rows {start} to {stop - 1} cannot be read: "
                            f"{error.strerror}") from error
        if len(left):
            raise UserError(f"{self._path}: /images, rows {start} to {stop - 1} cannot be read, the file ends before; "
                            "was it truncated while it was read?")

    def runs(self, rows: np.ndarray):
        """(first, last) positions in `rows` that one read serves: no gap of a whole chunk, no span too large. Past
        HDF5, no gap at all unless images are small."""
        if self._bytes is not None and self._image_bytes >= _LARGE:
            edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
            return list(itertools.pairwise(edges)) if len(rows) else []
        chunk = self.chunks[0] if self.chunks else 1
        most = max(chunk, _SPAN_BYTES // self._image_bytes)
        block = np.diff(rows // chunk, prepend=rows[:1] // chunk)
        edges = [0, *np.flatnonzero((block > 1) | (np.diff(rows // most, prepend=rows[:1] // most) > 0)), len(rows)]
        return [(int(a), int(b)) for a, b in itertools.pairwise(edges) if b > a]
