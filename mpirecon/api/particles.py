"""Particle sets in scripts: their images, poses and columns."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np

from mpirecon.api.agreement import same_where_given
from mpirecon.api.arguments import as_communicator, structured
from mpirecon.api.particle_arrays import (
    half_sets, images_of, new_poses, pose_of, rows_of, slice_of, some_of, whole_numbers,
)  # fmt: skip
from mpirecon.api.plausible_arrays import implausible, implausible_shifts
from mpirecon.api.scratch import Scratch
from mpirecon.errors import UserError, spoken
from mpirecon.io.atomic import atomic_path, refuse_existing
from mpirecon.io.image_scale import deviations, refuse_scale
from mpirecon.io.named_path import NamedPath
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_layout import TRUTH
from mpirecon.io.replaced import HDF5
from mpirecon.io.run_inputs import particle_inputs
from mpirecon.kinds import Positive, Seed, checked
from mpirecon.model import CTF_DTYPE, ParticleSet, Pose, make_ctf
from mpirecon.model.draws import random_halves
from mpirecon.model.optics import as_ctf
from mpirecon.model.pose import angular_distance
from mpirecon.parallel.comm import SerialCommunicator, run_together, together

_BATCH_BYTES = 64 * 2**20

#: degrees from the truth beyond which a new pose counts as wrong
_WRONG = 10.0

#: datasets that record what simulated images were made with
_SIMULATED = ("junk", "true_scale", "true_sigma", "conformation", "true_micrograph", "true_noise_colour", "neighbour",
              "true_background")

#: pixels from the truth beyond which a new offset counts as wrong
_WRONG_PIXELS = 2.0


class Particles:
    """Particle images with their poses and CTFs; the images stay on disk until they are asked for.

    Made by `open`, `read_star`, `read_cs` and `simulate`, or of arrays, which are written to a temporary particle file.

    Parameters
    ----------
    images : (m, n, n) float16, float32 or whole numbers
        the particle bright (or see `contrast`); NumPy, CuPy, PyTorch …
    pose : Pose
        of m particles; ``Pose.from_euler(rot, tilt, psi, shift)`` takes RELION's angles
    ctf : (m,) CTF_DTYPE, optional
        from ``make_ctf(m, voltage_kv=300, defocus_u=…)``; None: images without a CTF
    pixel_size : float
        Å
    half : (m,) int, optional
        half set of each, 1 or 2; drawn with `seed` when left out
    optics_group : (m,) int, optional
        number of the optics group of each; 1 when left out
    ctf_premultiplied, ctf_phase_flipped : bool
        the images are already multiplied by their CTF, or by its sign
    contrast : str
        ``"white"`` (particle bright) or ``"black"``
    seed : int
        of the draw of half sets
    comm : communicator, optional
        collective: all ranks must give the same arrays, or images=None, pose=None to take rank 0's

    Raises
    ------
    UserError
        naming the array and row that are wrong, or numbers that are in another unit by their size, such as shifts that
        put most particles outside their images (of fewer, ``warnings`` holds a sentence); later, wherever the particle
        file is read, when it was replaced or written to meanwhile.
    """

    @checked
    def __init__(
        self, images, pose, ctf=None, *, pixel_size: Positive, half=None, optics_group=None,
        ctf_premultiplied: bool = False, ctf_phase_flipped: bool = False, contrast: str = "white", seed: Seed = 1,
        comm=None,
    ) -> None:
        comm = as_communicator(comm)
        same_where_given(
            comm, "images", images=images, pose=pose, ctf=ctf, pixel_size=pixel_size, half=half,
            optics_group=optics_group, ctf_premultiplied=ctf_premultiplied, ctf_phase_flipped=ctf_phase_flipped,
            contrast=contrast, seed=seed,
        )  # fmt: skip
        scratch = Scratch(comm)
        path = scratch.path / "particles.h5"
        warnings = []
        with together(comm):
            if comm.rank == 0:
                stack = images_of(images, pixel_size)
                refuse_scale("Particles", deviations(some_of(stack.array)))
                m = len(stack)
                about = ParticleSet(
                    box=stack.box, pixel_size=stack.pixel_size, pose=pose_of(pose, m),
                    ctf=_no_ctf(m) if ctf is None else as_ctf(ctf, m),
                    half=random_halves(seed, np.arange(m)) if half is None else half_sets(half, m),
                    optics_group=(np.ones(m, np.int32) if optics_group is None
                                  else whole_numbers("optics_group", optics_group, m)),
                    ctf_premultiplied=ctf_premultiplied, ctf_phase_flipped=ctf_phase_flipped, contrast=contrast,
                )
                warnings = implausible(about)
                _write(path, stack.array, about)
        warnings = comm.bcast(warnings)
        # on a host that does not share it there is no file
        run_together(comm, lambda: self._attach(path, scratch, warnings=warnings))

    @classmethod
    def _of_file(cls, path, scratch: Scratch | None = None, notes=(), warnings=()) -> Particles:
        self = cls.__new__(cls)
        self._attach(path, scratch, notes, warnings)
        return self

    def _attach(self, path, scratch: Scratch | None, notes=(), warnings=()) -> None:
        self._named, self._scratch = NamedPath(path), scratch
        self.notes, self.warnings = [spoken(note) for note in notes], [spoken(warning) for warning in warnings]
        with ParticleFile(self.path) as file:
            self._seen = file.seen
            self._length, self.box, self.pixel_size = len(file), file.box, file.pixel_size
            self.attributes = dict(file.attributes)

    @property
    def path(self) -> Path:
        """Of the particle file, as it was given; absolute where the current folder has changed since."""
        return self._named.path

    def file(self) -> ParticleFile:
        """The particle file, opened to be read. UserError where it is not the one of these Particles any more."""
        self.refuse_replaced()
        return ParticleFile(self.path)

    def refuse_replaced(self) -> None:
        """Raise UserError where the particle file was replaced, or written to, since these Particles were opened."""
        if (what := self._seen.change()) is not None:
            raise UserError(f"{self.path} has changed since it was opened: {what}; open it again, when nothing writes "
                            f"to it")

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Particles({len(self)} of box {self.box}, {self.pixel_size:g} Å/px, {self.path})"

    def images(self, rows=slice(None)) -> np.ndarray:
        """Images as they are stored.

        Parameters
        ----------
        rows : slice, (k,) int or int
            of the particles; all by default

        Returns
        -------
        (k, n, n) float32, or (n, n) for one row
        """
        with self.file() as file:
            if isinstance(rows, (int, np.integer)):
                return file.images(rows_of([rows], len(self)))[0]
            rows = slice_of(rows, len(self)) if isinstance(rows, slice) else rows
            if isinstance(rows, slice):
                return file.images(rows)
            rows = rows_of(rows, len(self))
            wanted, place = np.unique(rows, return_inverse=True)
            return file.images(wanted)[place]

    def metadata(self, rows=slice(None)) -> ParticleSet:
        """Everything but the pixels.

        Parameters
        ----------
        rows : slice or (k,) int
            of the particles; all by default

        Returns
        -------
        ParticleSet
            ``pose``, ``ctf``, ``half``, ``optics_group``, ``ids`` … of k particles
        """
        with self.file() as file:
            rows = slice_of(rows, len(self)) if isinstance(rows, slice) else rows
            if isinstance(rows, slice) and rows.step == 1:
                return file.metadata(rows.start, rows.stop)  # no other is read
            return file.metadata()[rows if isinstance(rows, slice) else rows_of(rows, len(self))]

    @property
    def table(self) -> np.ndarray:
        """A structured array with a row per particle: quaternion, shift (Å), every CTF field, half, optics_group, and,
where errors were simulated, what ``truth`` knows of poses. ``mpirecon.data_frame`` makes a data frame of it."""
        about = self.metadata()
        columns = {"quaternion": about.pose.quaternion, "shift": about.pose.shift}
        columns |= {name: about.ctf[name] for name in CTF_DTYPE.names}
        columns |= {"half": about.half, "optics_group": about.optics_group}
        columns |= {name: values for name, values in self.truth.items() if name in TRUTH}
        return structured(columns)

    @property
    def truth(self) -> dict[str, np.ndarray]:
        """What is known of simulated errors, by the names of the particle file's datasets (pose_error, true_quaternion,
        true_shift, true_defocus, planted_orientation …, duplicate_of) and of what was simulated (junk, true_scale,
        true_sigma, conformation …); else {}."""
        found = {}
        with self.file() as file:
            for name in (*TRUTH, *_SIMULATED):
                values = file.extra(name)
                if values is not None:
                    flags = name in ("junk", "neighbour") or TRUTH.get(name) == ((), np.dtype("bool"))
                    found[name] = values.astype(bool) if flags else values
        return found

    @checked
    def column(self, name: str) -> np.ndarray:
        """A column of the imported table.

        Parameters
        ----------
        name : str
            STAR label (``rln`` may be omitted) or field of a .cs file

        Returns
        -------
        (m,) str

        Raises
        ------
        UserError
            listing the columns, if there is no such column.
        """
        with self.file() as file:
            return file.source_column(name).astype(str)

    @checked
    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Particles:
        """Copy the particle file.

        Parameters
        ----------
        path : path
            of the copy (HDF5)
        overwrite : bool
            replace an existing file, but none that these particles are in or were imported from

        Returns
        -------
        Particles
            those of the copy

        Raises
        ------
        UserError
            if `path` exists, without `overwrite`.
        """
        refuse_existing(path, overwrite, particle_inputs(self.path), writes=HDF5)
        with self.file() as file:
            with atomic_path(path, overwrite) as temporary:
                shutil.copyfile(self.path, temporary)
                file.refuse_changed()
        return Particles._of_file(path, notes=self.notes, warnings=self.warnings)

    @checked
    def with_poses(self, table, path: str | os.PathLike | None = None, *,
                   overwrite: bool = False) -> Particles:
        """A copy in which some particles have other poses.

        Parameters
        ----------
        table : structured array
            ``id``, ``quaternion`` (4,) and ``shift`` (2,) [Å] of the particles to change,
            as ``search_poses`` returns it
        path : path, optional
            of the copy; a temporary file by default
        overwrite : bool
            replace an existing file, but none that these particles are in or were imported from

        Returns
        -------
        Particles
            those of the copy

        Raises
        ------
        UserError
            if `path` exists, without `overwrite`; where the shifts put most of these particles outside their images.

        Notes
        -----
        If the truth is known, ``pose_error`` of these particles then says whether the new pose is wrong by more than
        10° or, with simulated offset errors, by more than 2 pixels; likewise the flags of each kind of error.
        """
        ids, pose = new_poses(table, len(self))
        scratch = Scratch(SerialCommunicator()) if path is None else None
        odd = implausible_shifts("with_poses", pose, ids, self.box, self.pixel_size)
        target = scratch.path / "particles.h5" if path is None else Path(path)
        refuse_existing(target, overwrite, particle_inputs(self.path), writes=HDF5)
        self.refuse_replaced()
        with atomic_path(target, overwrite) as temporary:
            shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                order = np.argsort(ids)
                file["quaternion"][ids[order]] = pose.quaternion[order]
                file["shift"][ids[order]] = pose.shift[order]
                if "pose_error" in file and "true_quaternion" in file:
                    for name, flags in self._wrong(file, ids, pose).items():
                        file[name][ids[order]] = flags[order]
        return Particles._of_file(target, scratch, self.notes, [*self.warnings, *odd])

    def _wrong(self, file: h5py.File, ids: np.ndarray, pose: Pose) -> dict[str, np.ndarray]:
        """The flags of particles that have these poses now, by the names of the file's datasets that hold them."""
        junk = file["junk"][...][ids] if "junk" in file else np.zeros(len(ids), bool)
        turned = (angular_distance(pose.quaternion, file["true_quaternion"][...][ids]) > _WRONG) & ~junk
        moved = np.zeros_like(turned)
        if "true_shift" in file:
            off = np.linalg.norm(pose.shift - file["true_shift"][...][ids], axis=1)
            moved = (off > _WRONG_PIXELS * self.pixel_size) & ~junk
        flags = {"pose_error": turned | moved | junk, "planted_orientation": turned, "planted_offset": moved}
        if "planted_hand" in file:
            flags["planted_hand"] = file["planted_hand"][...][ids] & turned
        return {name: values for name, values in flags.items() if name in file}


def _no_ctf(m: int) -> np.ndarray:
    # an amplitude contrast of 1 and no defocus: C = 1 at every frequency, as simulate --no-ctf writes it
    return make_ctf(m, voltage_kv=300.0, amplitude_contrast=1.0)


def _write(path: Path, images: np.ndarray, about: ParticleSet) -> None:
    from mpirecon.io.particle_writer import ParticleWriter

    dtype = "float16" if images.dtype == np.float16 else "float32"
    batch = max(1, _BATCH_BYTES // images[0].nbytes)
    with ParticleWriter(
        path, len(images), about.box, about.pixel_size, overwrite=False, dtype=dtype, contrast=about.contrast,
        ctf_premultiplied=about.ctf_premultiplied, ctf_phase_flipped=about.ctf_phase_flipped,
        provenance={"command": "mpirecon.Particles"},
    ) as writer:
        writer.write_metadata(about)
        for start in range(0, len(images), batch):
            writer.write_images(start, images[start : start + batch])
