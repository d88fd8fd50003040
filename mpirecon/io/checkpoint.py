"""checkpoint.h5: what a run must know to continue after an iteration, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, write_failed
from mpirecon.io.hdf5 import attributes_of, create_hdf5, open_hdf5, read_all, reading, store_checked

FORMAT = "mpirecon-checkpoint"
VERSION = 5


def write_checkpoint(path: Path, facts: dict, arrays: dict[str, np.ndarray]) -> None:
    """Replace the checkpoint: `facts` as JSON, `arrays` as datasets. The old one stays until the new one is whole.

    Raises UserError when it cannot be written (disk full …).
    """
    with writing_checkpoint(path, facts) as store:
        for name, values in arrays.items():
            store(name, values)


@contextmanager
def writing_checkpoint(path: Path, facts: dict) -> Iterator[Callable[[str, np.ndarray], None]]:
    """As ``write_checkpoint``, dataset by dataset, none of which need be in memory with the next: yields
    ``store(name, values)``."""
    with atomic_path(path, overwrite=True) as temporary:
        try:
            with create_hdf5(temporary) as file:
                file.attrs.update(format=FORMAT, version=VERSION, facts=json.dumps(facts))
                yield lambda name, values: store_checked(file, name, values)
                file.flush()
            _flush_to_disk(temporary)  # else a host that goes down soon may keep the new name and lose what is in it
        except (OSError, RuntimeError) as error:
            raise write_failed(path, error) from error


def _flush_to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class Checkpoint:
    """An open checkpoint, a context manager: ``facts`` and ``rows(name, start, stop)`` or ``array(name)``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open_hdf5(path, "checkpoint")
            found = attributes_of(self._file, path)
            if found.get("format") != FORMAT or found.get("version") != VERSION:
                raise UserError(f"{path} is not a checkpoint that this mpirecon reads (format {found.get('format')!r}, "
                                f"version {found.get('version')}; expected {FORMAT!r}, version {VERSION})")
            with reading(path, "its facts"):
                self.facts: dict = dict(json.loads(found["facts"]))
                self._there = set(self._file)
        except UserError as error:
            raise UserError(f"{error}; start a new run with --overwrite") from error

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._there

    def array(self, name: str) -> np.ndarray:
        with self._reading(name):
            return read_all(self._file[name])

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a dataset that has one for each particle; UserError where it has fewer."""
        with self._reading(name):
            dataset = self._file[name]
            if len(dataset) < stop:
                raise ValueError(f"it has {len(dataset)} rows, {stop} were expected")
            return read_all(dataset) if (start, stop) == (0, len(dataset)) else dataset[start:stop]

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            with reading(self.path, f"/{name}"):
                yield
        except UserError as error:
            raise UserError(f"{error}; start a new run with --overwrite") from error
