"""particles.h5: the images and metadata of a particle set (the layout is in docs/files.md).

Any number of processes may read slabs of one file independently; ``ParticleWriter`` writes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.hdf5 import attributes_of, dataset_of, open_hdf5, read_all, reading
from mpirecon.io.fingerprint import Fingerprint, Seen, change_of, refuse_changed
from mpirecon.io.file_names import as_file_name
from mpirecon.io.inputs import Input
from mpirecon.io.linked import LinkedImages
from mpirecon.io.particle_layout import DATASETS, TRUTH, check_lengths, checked_attributes, checked_pixel_size
from mpirecon.io.source_table import names_within, read_arrays, read_tables, texts_of
from mpirecon.io.stored_images import StoredImages
from mpirecon.model import ParticleSet, Pose
from mpirecon.model.aberrations import Aberrations
from mpirecon.parallel.comm import Communicator, run_together

if TYPE_CHECKING:  # slow to load, and most runs never look at the imported table
    import pandas as pd

#: particles, at least, whose images, and whose rows, distinguish files of one name or of one run
_COMPARED, _COMPARED_ROWS = 8, 1000


class ParticleFile:
    """Read access to a particle file; a context manager. Opening reads no particle.

    Parameters
    ----------
    path : path
    shown : path, optional
        what messages call it: the table, where the file was made of one on the way
    home : path, optional
        the folder that it will be moved to

    Attributes
    ----------
    path : Path, for messages
    location : Path, of the file that is read
    lasting : Path, where it is to be found later
    box : int, pixels a side
    pixel_size : float, Å
    attributes : dict, the attributes of the file

    Raises
    ------
    UserError
        naming the file, when it is missing, not HDF5, truncated, of another format or version, or a dataset is
        missing or has the wrong shape or type.
    """

    def __init__(self, path: str | os.PathLike, shown: Path | None = None, home: Path | None = None) -> None:
        self.location = Path(path)
        self.path = self.location if shown is None else Path(shown)
        self.lasting = self.location if home is None else home / self.location.name
        self._file = open_hdf5(self.location, "particle file", "make one with mpirecon import or simulate")
        try:
            self._seen = Fingerprint.of(self._file.id.get_vfd_handle())
            self._validate()
            if not self.linked:
                self.stored = StoredImages(self.stored, self.location, self.path, self._seen)
        except BaseException:
            self._file.close()
            raise

    def _validate(self) -> None:
        self.attributes = checked_attributes(self._file, self.path)
        self.pixel_size = checked_pixel_size(self.attributes["pixel_size"], self.path)
        with reading(self.path, "its table of contents"):
            linked = "link" in self._file and isinstance(self._file["link"], h5py.Group)
            self._there = set(self._file)
        self.stored = LinkedImages(self._file["link"], self.location) if linked else self._dataset("images")
        shape, dtype = self.stored.shape, self.stored.dtype
        if len(shape) != 3 or shape[1] != shape[2] or dtype not in (np.float16, np.float32):
            raise UserError(f"{self.path}: /images is {dtype} {shape}, expected float32 or float16 (particles, n, n)")
        self.box = int(shape[2])
        present = {name: spec for name, spec in TRUTH.items() if name in self._there}
        for name, (tail, wanted) in {**DATASETS, **present}.items():
            found = self._dataset(name)
            if found.shape != (shape[0], *tail) or found.dtype != wanted:
                raise UserError(
                    f"{self.path}: /{name} is {found.dtype} {found.shape}, expected {wanted} {(shape[0], *tail)}"
                )

    def _dataset(self, name: str) -> h5py.Dataset:
        found = dataset_of(self._file, name, self.path)
        if found is None:
            raise UserError(f"{self.path}: the dataset /{name} is missing; this particle file is incomplete")
        return found

    def __enter__(self) -> ParticleFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def linked(self) -> bool:
        """Whether the images are in the stacks that were imported, and not in this file."""
        return isinstance(self.stored, LinkedImages)

    def close(self) -> None:
        self.stored.close()
        self._file.close()

    def __len__(self) -> int:
        return int(self.stored.shape[0])

    def inputs(self) -> Iterator[Input]:
        """The files that reading this one reads: itself, and the stacks that it refers to."""
        yield Input("particle file", self.location)
        if self.linked:
            yield from (Input(f"stack of images that {self.path} refers to", path) for path in self.stored.paths())

    def origins(self) -> Iterator[Input]:
        """The files that this one was imported from, as far as it says:
        its table, those joined to it, and its stacks."""
        if "source" not in self._there:
            return
        with reading(self.path, "/source"):
            group = self._file["source"]
            table = str(attributes_of(group, self.path)["path"])
            files = read_all(group["files"]) if "files" in group else ()
        yield Input("table that these particles were imported from", as_file_name(table))
        for path in files:
            yield Input("file that these particles were imported from", os.fsdecode(path))

    def refuse_missing(self) -> None:
        """Raise UserError where a stack that this file refers to is not there, or not what it was at the import."""
        if self.linked:
            self.stored.refuse_missing()

    def refuse_changed(self) -> None:
        """Raise UserError where this file, or a stack read since the last such look,
        is not what it was when it was opened."""
        refuse_changed(self.location, self._seen)
        if self.linked:
            self.stored.refuse_changed()

    @property
    def seen(self) -> Seen:
        """This file as it was when it was opened."""
        return Seen({self.location: self._seen})

    def change(self) -> str | None:
        """What has become of the file since it was opened, in words; None where nothing has."""
        return change_of(self.location, self._seen)

    def state(self) -> str:
        """A digest of which file this is, and of its stacks, and of when anything of them changed last;
        of no content."""
        found = [path.stat() for path in (self.location, *(self.stored.paths() if self.linked else ()))
                 if path.is_file()]
        seen = [(file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in found]
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def summary_digest(self) -> str:
        """A digest of attributes, half sets, and a few particles: whether two files can be the same set."""
        found = hashlib.sha256(repr(sorted((name, str(value)) for name, value in self.attributes.items())).encode())
        found.update(self.halves().tobytes())
        found.update("".join(self.identity().values()).encode())
        return found.hexdigest()

    def identity(self, names: Iterable[str] = ("rows", "images")) -> dict[str, str]:
        """Digests by which a run knows its particles again: ``rows``, of the half sets, poses and CTFs of some of them,
        and ``images``, of a few."""
        some, few = (slice(0, len(self), max(1, len(self) // count)) for count in (_COMPARED_ROWS, _COMPARED))
        parts = {"rows": lambda: [self._read(name, some) for name in ("half", "quaternion", "shift", "ctf")],
                 "images": lambda: [self.images(few)]}
        return {name: hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts[name]()))
                .hexdigest()[:16] for name in names}

    @property
    def has_truth(self) -> bool:
        """Whether it is known which poses are wrong (they were simulated)."""
        return "pose_error" in self._there

    @property
    def has_duplicates(self) -> bool:
        """Whether copies of particles were put into the other half set."""
        return "duplicate_of" in self._there

    @property
    def phase_flipped(self) -> bool:
        """Whether the images were multiplied by the sign of their CTF; files of before this was known say nothing:
        no."""
        return bool(self.attributes.get("ctf_phase_flipped", False))

    def halves(self) -> np.ndarray:
        """(m,) uint8, the half set (1 or 2) of every particle."""
        return self._read("half", slice(None))

    def metadata(self, start: int = 0, stop: int | None = None) -> ParticleSet:
        """The particles of rows start:stop without their pixels; their ids are file rows."""
        rows = slice(*slice(start, stop).indices(len(self)))
        truth = {name: self._read(name, rows) if name in self._there else None for name in TRUTH}
        quaternion = self._read("quaternion", rows)
        try:
            check_lengths(quaternion)
            if truth["true_quaternion"] is not None:
                Pose(truth["true_quaternion"], np.zeros((len(quaternion), 2)))  # finite, and rotations
            if truth["true_shift"] is not None:
                Pose(quaternion, truth["true_shift"])
            return ParticleSet(
                box=self.box,
                pixel_size=self.pixel_size,
                pose=Pose(quaternion, self._read("shift", rows)),
                ctf=self._read("ctf", rows),
                half=self._read("half", rows),
                optics_group=self._read("optics_group", rows),
                ctf_premultiplied=bool(self.attributes["ctf_premultiplied"]),
                ctf_phase_flipped=self.phase_flipped,
                contrast=self.attributes["contrast"],
                ids=np.arange(rows.start, max(rows.start, rows.stop), dtype=np.int64),
                **truth,
            )
        except UserError as error:
            raise UserError(
                f"{self.path}, in rows {rows.start} to {rows.stop - 1} (counted from the first): {error}"
            ) from error

    def aberrations(self) -> Aberrations | None:
        """What the optics groups do beyond defocus and Cs (/optics); None where the file says nothing of it."""
        if "optics" not in self._there:
            return None
        table = self._dataset("optics")
        fields = table.dtype.names or ()
        if "group" not in fields or "magnification" not in fields:
            raise UserError(f"{self.path}: /optics is {table.dtype}, expected fields group and magnification")
        table = self._read("optics", slice(None))
        none = np.zeros((len(table), 0))
        try:
            found = Aberrations(
                table["group"], table["magnification"],
                *(table[name] if name in fields else none for name in ("odd", "even", "mtf")),
            )
            found.rows(self._read("optics_group", slice(None)))
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        except (TypeError, ValueError) as error:  # fields of other types or shapes
            raise UserError(f"{self.path}: /optics is {table.dtype}, which is no table of aberrations "
                            f"({error})") from error
        return found

    def images(self, rows) -> np.ndarray:
        """Images of a slice or a sorted integer array of rows, (k, n, n) float32.

        Rows that lie in neighbouring chunks are read together, so that sparse rows cost no more than their chunks.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self.stored.between(start, max(start, stop)).astype(np.float32, copy=False)
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows[0] < 0 or rows[-1] >= len(self) or (np.diff(rows) < 0).any()):
            raise ValueError(f"rows must be sorted and within 0 to {len(self) - 1}")
        return self.stored.read(rows).astype(np.float32, copy=False)

    def _read(self, name: str, rows: slice) -> np.ndarray:
        where = "" if rows == slice(None) else f", rows {rows.start} to {rows.stop - 1}"
        with reading(self.path, f"/{name}{where}"):
            return self._file[name][rows]

    def extra(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray | None:
        """Rows start:stop of a dataset that not every particle file has, such as a simulation's truth;
        None without it."""
        found = dataset_of(self._file, name, self.path)
        if found is None or found.shape[:1] != (len(self),):
            return None
        return self._read(name, slice(*slice(start, stop).indices(len(self))))

    def source(self) -> tuple[str, dict[str, pd.DataFrame]]:
        """(path of the imported file, its tables of text columns); ("", {}) when nothing was imported."""
        if "source" not in self._there:
            return "", {}
        with reading(self.path, "/source"):
            group = self._file["source"]
            return str(attributes_of(group, self.path)["path"]), read_tables(group)

    def source_column(self, name: str) -> np.ndarray:
        """A column of the imported particle table, one text per particle, (m,) object: a STAR label, of which the
        prefix rln may be left out, or a field of a .cs file.

        Raises UserError when nothing was imported, or no table with a row per particle has that column.
        """
        if "source" not in self._there:
            raise UserError(f"{self.path}: there is no column {name}; it was not made from a table (mpirecon import)")
        with reading(self.path, "/source"):
            return texts_of(self._file["source"], name, len(self), self.path)

    def group_names(self, name: str) -> np.ndarray:
        """What rows belong together by a column of the imported table, (m,) str: its values, each with the micrograph
        or tomogram where their numbers begin again in each. Raises UserError as `source_column`."""
        names, within = self.source_column(name).astype(str), names_within(name)
        if within is not None:
            with suppress(UserError):
                names = np.char.add(np.char.add(names, "@"), self.source_column(within).astype(str))
        return names

    def group_size(self, name: str) -> float:
        """Rows of such a group, on average."""
        return len(self) / len(set(self.group_names(name).tolist()))

    def source_arrays(self) -> dict[str, np.ndarray]:
        """The structured arrays of an imported .cs file; {} when none was imported."""
        if "source" not in self._there:
            return {}
        with reading(self.path, "/source"):
            return read_arrays(self._file["source"])


def open_together(
    comm: Communicator, path: str | os.PathLike, shown: Path | None = None, home: Path | None = None
) -> ParticleFile:
    """The particle file on every rank, found to be the same on all; shown, home : as of ParticleFile. Collective.
    Raises UserError."""
    file = run_together(comm, lambda: ParticleFile(path, shown, home))
    try:
        agree_on(comm, file)
    except BaseException:
        file.close()
        raise
    return file


def agree_on(comm: Communicator, file: ParticleFile) -> None:
    """Raise UserError, on all ranks, where they have opened different files under one name. Collective."""
    if comm.size > 1:
        file.seen.agree(comm, run_together(comm, file.summary_digest))
