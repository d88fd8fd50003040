"""Images of a map at the poses of a particle file, comparable to the images in that file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.io.mrc import write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.arrays import Volume
from mpirecon.model.particles import ParticleSet
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.validate.grids import check_same_grid

BATCH_PIXELS = 2**22


def reproject(
    volume: Volume,
    particles: ParticleFile,
    path,
    *,
    rows: range | None = None,
    use_ctf: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Write an .mrcs stack of A x for the given rows (all when None), one batch in memory at a time.

    The images stand in the place of those in the file: where these are CTF-premultiplied the CTF is applied twice, C·(C
    S P x), where their phases are flipped the CTF's sign is taken off, and where their contrast is black the sign is
    turned. Without `use_ctf` they are plain projections, S P x, protein white.

    Raises
    ------
    UserError
        when map and particles differ in box or pixel size (by more than 0.1 %), or the stack cannot be written.
    """
    check_same_grid(volume, "the map", particles, f"the particles of {particles.path}")
    rows = range(len(particles)) if rows is None else rows
    aberrations = particles.aberrations()
    forward = ForwardModel(particles.box, particles.pixel_size, taps=6, aberrations=aberrations)
    prepared = forward.prepare(np.asarray(volume, np.float32))
    batch = max(1, BATCH_PIXELS // particles.box**2)
    with write_stack(path, particles.box, particles.pixel_size, overwrite=overwrite) as append:
        for start in range(rows.start, rows.stop, batch):
            chunk = particles.metadata(start, min(start + batch, rows.stop))
            images = model_images(forward, prepared, chunk, aberrations, use_ctf)
            append(images)
            progress(len(images))
        particles.refuse_changed()


def model_images(
    forward: ForwardModel, prepared: np.ndarray, particles: ParticleSet, aberrations: Aberrations | None,
    use_ctf: bool = True
) -> np.ndarray:
    """A x of some particles as their images are stored, (m, n, n) float32: see `reproject`."""
    images = forward.images(prepared, particles.pose, particles.ctf if use_ctf else None, particles.optics_group)
    return as_stored(images, particles, aberrations) if use_ctf else images


def as_stored(images: np.ndarray, particles: ParticleSet, aberrations: Aberrations | None) -> np.ndarray:
    """Model images with what was done to the stored ones: another CTF where these are premultiplied, its sign where
    their phases are flipped, the other sign where they are black. It is its own transpose."""
    if particles.ctf_premultiplied:
        images = multiply_by_ctf(images, particles.ctf, particles.pixel_size, aberrations, particles.optics_group)
    if particles.ctf_phase_flipped:
        images = multiply_by_ctf(images, particles.ctf, particles.pixel_size, aberrations, particles.optics_group,
                                 sign_only=True)
    return -images if particles.contrast == "black" else images
