"""The forward model of a particle set in scripts: images of a map, the adjoint, and residuals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mpirecon.api.arguments import files_among
from mpirecon.api.maps import Volume, as_volume
from mpirecon.api.particles import Particles
from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.mrc import write_stack
from mpirecon.io.replaced import MRC
from mpirecon.io.run_inputs import particle_inputs
from mpirecon.kinds import checked
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.arrays import Stack
from mpirecon.model.devices import numbers_of
from mpirecon.model.particles import ParticleSet
from mpirecon.operators import forward as operators
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.validate.fsc import shell_count, shell_sum
from mpirecon.validate.grids import check_same_grid

#: pixels of the images that are made at once
BATCH_PIXELS = 2**22


def _refuse_no_stack(path: str | os.PathLike) -> None:
    """Raise UserError where the name of a stack to be written is that of another kind of file."""
    if Path(path).suffix.lower() not in (".mrcs", ".mrc"):
        raise UserError(f"-o {path}: a stack of images (MRC) is written, so the name must end in .mrcs")


class ForwardModel:
    """A = C S P of some particles: project, shift, CTF, at their poses, as their images are stored.

    Where the stored images are CTF-premultiplied the CTF is applied twice, where they are phase-flipped its magnitude
    is, and where their contrast is black the sign is turned, so that ``forward`` and the images can be subtracted.

    Parameters
    ----------
    particles : Particles
        whose poses and CTFs are used
    rows : slice or index array, optional
        the particles that are meant; all when left out
    use_ctf : bool
        False leaves CTF, premultiplication and contrast out: plain projections, magnified as their optics groups are
    """

    @checked
    def __init__(self, particles: Particles, rows=slice(None), *, use_ctf: bool = True) -> None:
        self.particles, self.use_ctf = particles, use_ctf
        with particles.file() as file:
            self._seen, self.aberrations = file.seen, file.aberrations()
        self.about = particles.metadata(rows)
        self._operator = operators.ForwardModel(
            particles.box, particles.pixel_size, taps=6, aberrations=self.aberrations
        )

    def __len__(self) -> int:
        return len(self.about)

    def forward(self, volume) -> Stack:
        """A x, a Stack of (m, n, n) float32.

        Parameters
        ----------
        volume : Volume, path or (n, n, n) array
            the map x

        Returns
        -------
        Stack
            (m, n, n) float32

        Raises
        ------
        UserError
            when the map's box or pixel size is not the particles'.
        """
        prepared = self._prepare(volume)
        images = np.empty((len(self), self.particles.box, self.particles.box), np.float32)
        for rows in self._batches():
            images[rows] = self._images(prepared, self.about[rows])
        return Stack(images, self.particles.pixel_size)

    @checked
    def write(self, volume, path: str | os.PathLike, *, overwrite: bool = False,
              progress: Callable[[int], None] = lambda images: None) -> None:
        """Write A x as a stack (.mrcs), some images at a time.

        Parameters
        ----------
        volume : Volume, path or (n, n, n) array
            the map x
        path : path
            of the stack
        overwrite : bool
            replace an existing file, but neither the map nor one that the particles are in or were imported from
        progress : callable
            called with the number of images that were written since the last call

        Raises
        ------
        UserError
            as of `forward`; when the name ends in other than .mrcs or .mrc; when the file exists (without `overwrite`),
            is one of these, or cannot be written; and when the particle file has changed.
        """
        self.particles.refuse_replaced()
        refuse_existing(path, overwrite, [*files_among(map=volume), *particle_inputs(self.particles.path)],
                        writes=MRC)
        _refuse_no_stack(path)
        prepared = self._prepare(volume)
        with write_stack(path, self.particles.box, self.particles.pixel_size, overwrite=overwrite) as append:
            for rows in self._batches():
                images = self._images(prepared, self.about[rows])
                append(images)
                progress(len(images))
            self._seen.refuse_changed()

    def adjoint(self, images) -> Volume:
        """Aᴴ y, so that ⟨A x, y⟩ = ⟨x, Aᴴ y⟩.

        Parameters
        ----------
        images : (m, n, n) float32
            one for each particle

        Returns
        -------
        Volume
            (n, n, n) float32
        """
        images = numbers_of(images, "ForwardModel.adjoint: images").astype(np.float32)
        shape = len(self), self.particles.box, self.particles.box
        if images.shape != shape:
            raise UserError(f"ForwardModel.adjoint: expected images of shape {shape}, got {images.shape}")
        total = np.zeros((self.particles.box,) * 3, np.float32)
        for rows in self._batches():
            about, some = self.about[rows], images[rows]
            if self.use_ctf:
                some = _as_stored(some, about, self.aberrations)
            total += self._operator.adjoint(some, about.pose, about.ctf if self.use_ctf else None, about.optics_group)
        return Volume(total, self.particles.pixel_size)

    def residuals(self, volume) -> Stack:
        """The particles' images minus A x.

        Parameters
        ----------
        volume : Volume or path
            x, (n, n, n)

        Returns
        -------
        Stack
            (m, n, n) float32
        """
        model = self.forward(volume)
        for rows in self._batches():
            model.array[rows] = self.particles.images(self.about.ids[rows]) - model.array[rows]
        return model

    def residual_power(self, volume) -> np.ndarray:
        """Power of the residuals (images minus A x) by particle and Fourier shell.

        Parameters
        ----------
        volume : Volume or path
            x, (n, n, n)

        Returns
        -------
        (m, n // 2 + 1) float64
            mean over the samples of a shell; white noise of variance v per pixel has v
        """
        return self._power(volume, residual=True)

    def power(self, volume) -> np.ndarray:
        """Power of the model's images A x by particle and Fourier shell.

        Parameters
        ----------
        volume : Volume or path
            x, (n, n, n)

        Returns
        -------
        (m, n // 2 + 1) float64
            mean over the samples of a shell
        """
        return self._power(volume, residual=False)

    def _power(self, volume, residual: bool) -> np.ndarray:
        box, prepared = self.particles.box, self._prepare(volume)
        count, out = shell_count(box, 2), np.empty((len(self), box // 2 + 1))
        for rows in self._batches():
            about = self.about[rows]
            images = self._images(prepared, about)
            if residual:
                images = self.particles.images(about.ids) - images
            transforms = np.fft.rfft2(images, norm="ortho")
            out[rows] = [shell_sum(np.abs(transform) ** 2, box) / count for transform in transforms]
        return out

    def _images(self, prepared: np.ndarray, about: ParticleSet) -> np.ndarray:
        images = self._operator.images(prepared, about.pose, about.ctf if self.use_ctf else None, about.optics_group)
        return _as_stored(images, about, self.aberrations) if self.use_ctf else images

    def _prepare(self, volume) -> np.ndarray:
        volume = as_volume(volume, self.particles.pixel_size, "the map")
        check_same_grid(volume, "the map", self.particles, f"the particles of {self.particles.path}")
        return self._operator.prepare(np.asarray(volume.to_numpy(), np.float32))

    def _batches(self) -> Iterator[slice]:
        size = max(1, BATCH_PIXELS // self.particles.box**2)
        return (slice(start, start + size) for start in range(0, len(self), size))


def project(volume, particles: Particles, rows=slice(None), *, use_ctf: bool = True) -> Stack:
    """Images of a map at the poses of particles, comparable to theirs:
    ``ForwardModel(particles, rows).forward(volume)``.

    Parameters
    ----------
    volume : Volume, path or (n, n, n) array
        of the particles' box and pixel size
    particles : Particles
        whose poses and CTFs are used
    rows : slice or index array, optional
        the particles that are meant; all when left out
    use_ctf : bool
        False: plain projections

    Returns
    -------
    Stack
        (m, n, n) float32
    """
    return ForwardModel(particles, rows, use_ctf=use_ctf).forward(volume)


def _as_stored(images: np.ndarray, particles: ParticleSet, aberrations: Aberrations | None) -> np.ndarray:
    """Model images with what was done to the stored ones: another CTF where these are premultiplied, its sign where
    their phases are flipped, the other sign where they are black. It is its own transpose."""
    if particles.ctf_premultiplied:
        images = multiply_by_ctf(images, particles.ctf, particles.pixel_size, aberrations, particles.optics_group)
    if particles.ctf_phase_flipped:
        images = multiply_by_ctf(images, particles.ctf, particles.pixel_size, aberrations, particles.optics_group,
                                 sign_only=True)
    return -images if particles.contrast == "black" else images
