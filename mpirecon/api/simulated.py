"""Simulated particles in scripts."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np

from mpirecon.api.arguments import as_communicator, check_names
from mpirecon.api.maps import Volume, as_volume
from mpirecon.api.particles import Particles
from mpirecon.api.scratch import Scratch
from mpirecon.parallel.comm import run_together, together


def phantom(box: int = 64, pixel_size: float = 3.0) -> Volume:
    """The built-in object without symmetry, the same in every box.

    Parameters
    ----------
    box : int
        voxels a side
    pixel_size : float
        Å

    Returns
    -------
    Volume
        (box, box, box) float32, protein bright
    """
    from mpirecon.simulation.phantom import phantom as density

    return Volume(density(box), pixel_size)


def simulate(
    volume=None, particles: int = 5000, path: str | os.PathLike | None = None, *, pixel_size: float | None = None,
    second=None, overwrite: bool = False, comm=None, **settings,
) -> Particles:
    """Simulated particles of a map, with known truth. Collective over `comm`.

    Parameters
    ----------
    volume : Volume, path or (n, n, n) array
        band-limited below Nyquist; the phantom when left out
    particles : int
        number of images
    path : path, optional
        where to write the particle file; a temporary one when left out
    pixel_size : float, optional
        Å, of a map that is an array
    second : Volume, path or (n, n, n) array, optional
        the map of the second conformation that ``second_fraction`` of the particles are of;
        of the phantom its own when left out
    overwrite : bool
        replace an existing particle file
    comm : communicator, optional
        ``mpirecon.world()`` or one of mpi4py; None: this process alone
    **settings
        fields of ``mpirecon.simulation.settings.SimulationSettings``: snr, error_rate, error_degrees, junk_rate,
        noise_cv, scale_cv, seed, defocus, …, and of ``mpirecon.model.simulated_errors.ErrorSettings``: offset_error,
        defocus_error, duplicate_rate …

    Returns
    -------
    Particles
        with the truth in ``truth``

    Raises
    ------
    UserError
        naming the setting, its value and what it must be.
    """
    from mpirecon.simulation.dataset import simulate as write
    from mpirecon.simulation.settings import SimulationSettings
    from mpirecon.simulation.source import load_phantom
    from mpirecon.validate.grids import check_same_grid

    check_names("a simulation", settings, [field.name for field in fields(SimulationSettings)])
    comm = as_communicator(comm)
    density = phantom() if volume is None else as_volume(volume, pixel_size, "the map")
    if second is not None:
        second = as_volume(second, density.pixel_size, "the second map")
        check_same_grid(second, "the second map", density, "the map")
        second = np.asarray(second.to_numpy(), np.float32)
    elif volume is None and settings.get("second_fraction"):
        second = load_phantom(density.box, second=True)
    scratch = Scratch(comm) if path is None else None
    target = scratch.path / "particles.h5" if path is None else path
    with together(comm):
        if comm.rank == 0:
            write(np.asarray(density.to_numpy(), np.float32), density.pixel_size,
                  SimulationSettings(particles=particles, **settings), target, second=second, overwrite=overwrite)
    return run_together(comm, lambda: Particles._of_file(target, scratch))
