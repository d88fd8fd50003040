"""checkpoint.h5: what a run must know to go on after an iteration, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, write_failed

FORMAT = "mpirecon-checkpoint"
VERSION = 2
NAME = "checkpoint.h5"


def write_checkpoint(path: Path, facts: dict, arrays: dict[str, np.ndarray]) -> None:
    """Replace the checkpoint: `facts` as JSON, `arrays` as datasets. The old one stays until the new one is whole.

    Raises UserError when it cannot be written (disk full …).
    """
    with atomic_path(path, overwrite=True) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs.update(format=FORMAT, version=VERSION, facts=json.dumps(facts))
                for name, values in arrays.items():
                    file.create_dataset(name, data=values)
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
            self._file = h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            raise UserError(f"{path} cannot be read as a checkpoint ({error}); start anew with --overwrite") from error
        if self._file.attrs.get("format") != FORMAT or self._file.attrs.get("version") != VERSION:
            raise UserError(f"{path} is not a checkpoint that this mpirecon reads; start anew with --overwrite")
        self.facts: dict = json.loads(self._file.attrs["facts"])

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def array(self, name: str) -> np.ndarray:
        return self._file[name][...]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._file[name][start:stop]
