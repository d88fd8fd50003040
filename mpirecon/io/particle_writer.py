"""Writing particles.h5: one process or the ranks of a job, under a temporary name until it is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import new_temporary, refuse_existing, write_failed
from mpirecon.io.replaced import HDF5
from mpirecon.io.hdf5 import put_attributes
from mpirecon.io.linked import Links, write_links
from mpirecon.io.particle_layout import DATASETS, FORMAT, TRUTH, VERSION
from mpirecon.io.shared_hdf5 import SharedHdf5
from mpirecon.io.source_table import write_arrays, write_tables
from mpirecon.model import ParticleSet
from mpirecon.model.aberrations import Aberrations
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together, together
from mpirecon.parallel.slab import slab

if TYPE_CHECKING:  # slow to load, and most runs never look at the imported table
    import pandas as pd

_CHUNK_BYTES = 256 * 1024  # images of a chunk: large enough to stream, small enough to pick single images


class ParticleWriter:
    """Write a particle file; a context manager that leaves a complete file at `path`, or none.

    With `comm` its ranks write one file, each its own rows; everything but write_images is then collective.

    Parameters
    ----------
    m : int, particles in all
    box : int, pixels a side
    pixel_size : float, Å
    overwrite : bool, replace an existing file
    dtype : ``"float32"`` or ``"float16"``, of the images
    ctf_premultiplied, ctf_phase_flipped : bool, the images are already multiplied by their CTF, or by its sign
    contrast : ``"white"`` or ``"black"``
    source : (path, tables) as write_source takes, or None
    provenance : dict that JSON can hold, or None; how the file was made
    rows : (start, stop), this rank's rows; its slab of all when left out
    links : where this rank's images are, for a file that refers to them (no write_images then)

    Raises
    ------
    UserError
        when the file exists and overwrite is False, or writing fails (disk full); on all ranks alike.
    """

    def __init__(
        self, path: str | os.PathLike, m: int, box: int, pixel_size: float, *, overwrite: bool, dtype: str = "float32",
        ctf_premultiplied: bool = False, ctf_phase_flipped: bool = False, contrast: str = "white",
        source: tuple | None = None,
        provenance: dict | None = None, comm: Communicator | None = None, rows: tuple[int, int] | None = None,
        links: Links | None = None,
    ) -> None:
        self.comm = comm or SerialCommunicator()
        self.path = run_together(self.comm, lambda: refuse_existing(path, overwrite, writes=HDF5))
        self.overwrite, self.m, self.box, self.dtype = overwrite, m, box, np.dtype(dtype)
        self.rows = slice(*(rows or slab(m, self.comm.size, self.comm.rank)))
        if m < 1:
            raise UserError(f"{self.path}: there are no particles to write")
        with together(self.comm):
            _require_space(self.path, m * box * box * self.dtype.itemsize if links is None else 8 * m)
        self._temporary = Path(self.comm.bcast(str(new_temporary(self.path)) if self.comm.rank == 0 else None))
        self._complete = False
        self._file = None
        attributes = {
            "format": FORMAT, "version": VERSION, "provenance": json.dumps(provenance or {}, default=str),
            "pixel_size": float(pixel_size), "contrast": contrast, "ctf_premultiplied": bool(ctf_premultiplied),
            "ctf_phase_flipped": bool(ctf_phase_flipped),
        }
        try:
            self._create(attributes, links)
            if source is not None:
                self.write_source(*source)
        except BaseException:
            self._discard()
            raise

    def _create(self, attributes: dict, links: Links | None) -> None:
        with self._failures():
            self._file = SharedHdf5(self._temporary, self.comm, self.path)
            if self._file.file is not None:
                put_attributes(self._file.file, attributes)
            if links is not None:
                return write_links(self._file, links, self.rows, self.m)
            chunk = min(self.m, max(1, _CHUNK_BYTES // (self.box**2 * self.dtype.itemsize)))
            self._file.create({"images": (self.dtype, (self.m, self.box, self.box))}, chunk)

    def write_images(self, start: int, images: np.ndarray) -> None:
        """Store images (k, n, n) as rows start:start+k, any float type. Any rank, by itself."""
        if images.shape[1:] != (self.box, self.box) or start + len(images) > self.m:
            raise ValueError(f"images {images.shape} at row {start} of a file of {self.m} images of box {self.box}")
        with self._failures():
            self._file.put("images", start, images)

    def write_metadata(self, particles: ParticleSet) -> None:
        """Store everything but the pixels of this rank's particles (serially, of all)."""
        if len(particles) != self.rows.stop - self.rows.start or particles.box != self.box:
            raise ValueError(
                f"metadata of {len(particles)} particles of box {particles.box} for rows {self.rows} of box {self.box}"
            )
        columns = {
            "quaternion": particles.pose.quaternion, "shift": particles.pose.shift, "ctf": particles.ctf,
            "half": particles.half, "optics_group": particles.optics_group,
            **{name: getattr(particles, name) for name in TRUTH},
        }
        kinds = {**DATASETS, **TRUTH}
        self._store({name: np.asarray(v, kinds[name][1]) for name, v in columns.items() if v is not None})
        self._complete = True

    def write_optics(self, aberrations: Aberrations | None) -> None:
        """Store the optics groups' table, the same on all ranks, if there is anything in it."""
        if aberrations is None or aberrations.trivial:
            return
        parts = {name: getattr(aberrations, name) for name in ("group", "magnification", "odd", "even", "mtf")}
        parts = {name: values for name, values in parts.items() if values.size}
        table = np.zeros(len(aberrations.group), [(name, v.dtype, v.shape[1:]) for name, v in parts.items()])
        for name, values in parts.items():
            table[name] = values
        with together(self.comm), self._failures():
            if self._file.file is not None:
                self._file.file.create_dataset("optics", data=table)

    def write_source(
        self, path: str | os.PathLike, tables: dict[str, pd.DataFrame], arrays: dict[str, np.ndarray] | None = None,
        split: str | None = None, files: Iterable[Path] = (),
    ) -> None:
        """Store what was imported, and the path it came from:
        tables of text columns, structured arrays, all files read.

        split : name of the table of which each rank has its rows; the others are whole on every rank, and of arrays
            each has its rows
        """
        with self._failures():
            if self._file.file is not None:
                group = self._file.file.create_group("source")
                put_attributes(group, {"path": str(path)})
                if names := list(dict.fromkeys(os.fsencode(file.resolve()) for file in files)):
                    cells = np.array(names, dtype=bytes)
                    group["files"] = cells.astype(h5py.string_dtype("utf-8", cells.dtype.itemsize))
            write_tables(self._file, "source", tables, split, self.rows)
            write_arrays(self._file, "source", arrays or {}, self.rows)

    def write_extra(self, name: str, values: np.ndarray) -> None:
        """Store one more dataset with a row per particle, such as what a simulation knows; readers ignore it."""
        taken = (*DATASETS, *TRUTH, "images", "source", "optics", "link")
        if len(values) != self.rows.stop - self.rows.start or name in taken:
            raise ValueError(f"extra dataset {name!r} with {len(values)} rows in a file of {self.m} particles")
        self._store({name: np.asarray(values)})

    def _store(self, columns: dict[str, np.ndarray]) -> None:
        """Datasets with a row per particle, of which each rank has its own."""
        with self._failures():
            self._file.create({name: (values.dtype, (self.m, *values.shape[1:])) for name, values in columns.items()})
            with together(self.comm), self._failures():
                for name, values in columns.items():
                    self._file.put(name, self.rows.start, values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of HDF5 and the operating system while writing into UserError."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise write_failed(self.path, (self._file and self._file.failure) or error) from error
        if self._file.failure is not None:
            raise write_failed(self.path, self._file.failure)

    def __enter__(self) -> ParticleWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            self._discard(at_once=not issubclass(kind, Exception))
            return
        try:
            if not self._complete:
                raise ValueError("write_metadata was not called")
            with self._failures():
                self._file.close()
            with together(self.comm), self._failures():  # only now has HDF5 written all it had
                if self.comm.rank == 0:
                    refuse_existing(self.path, self.overwrite)
                    os.replace(self._temporary, self.path)
        finally:
            self._discard()

    def _discard(self, at_once: bool = False) -> None:
        """Let go of the file, and remove it unless it is complete.

        at_once : whichever rank this is: a signal ends all, and rank 0 may be waiting in MPI until it is killed
        """
        if self._file is not None:
            self._file.discard()
        if self.comm.rank == 0 or at_once:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)


def _require_space(path: Path, wanted: int) -> None:
    """Refuse at once what cannot fit, rather than after hours of copying."""
    total, _, free = shutil.disk_usage(path.parent)
    if wanted > free and total:  # /proc and its like have no room at all: what is made there says why not
        raise UserError(
            f"cannot write {path}: the disk is full; {wanted / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are "
            "free. Free some space or write elsewhere"
        )
