"""Simulated particles in scripts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields
from typing import Annotated

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator, check_names, console_of, files_among, is_path
from mpirecon.api.maps import Volume, as_volume, refuse_other_size
from mpirecon.api.particles import Particles
from mpirecon.api.scratch import Scratch
from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, refuse_existing
from mpirecon.io.replaced import HDF5, MRC
from mpirecon.io.inputs import refuse_twice
from mpirecon.io.mrc import write_map
from mpirecon.kinds import AnyPath, Positive, Range, checked
from mpirecon.parallel.comm import run_together, together
from mpirecon.validate.grids import check_same_grid


@checked
def phantom(box: Annotated[int, Range(4, 2048)] = 64, pixel_size: Positive = 3.0, *, second: bool = False) -> Volume:
    """The built-in object without symmetry, the same in every box.

    Parameters
    ----------
    box : int
        voxels a side
    pixel_size : float
        Å
    second : bool
        its second conformation

    Returns
    -------
    Volume
        (box, box, box) float32, protein bright
    """
    from mpirecon.simulation.phantom import phantom as density

    return Volume(density(box, second), pixel_size)


@checked
def simulate(
    volume=None, particles: int = 5000, path: AnyPath | None = None, *, model: AnyPath | None = None,
    box: int | None = None, pixel_size: Positive | None = None, second=None, truth_map: AnyPath | None = None,
    overwrite: bool = False, comm=None, verbose: bool | int = False,
    command: str = "mpirecon.simulate", **settings,
) -> Particles:
    """Simulated particles of a map, with known truth. Collective over `comm`.

    Parameters
    ----------
    volume : Volume, path or (n, n, n) array
        band-limited below Nyquist, which the map of a path is made; the phantom when left out
    particles : int
        number of images
    path : path, optional
        where to write the particle file; a temporary one when left out
    model : path, optional
        atomic model (mmCIF or PDB) in place of a map
    box : int, optional
        voxels a side, of a path, a model or the phantom
    pixel_size : float, optional
        Å, of these, or of a map that is an array
    second : Volume, path or (n, n, n) array, optional
        the map, or atomic model, of the second conformation that ``second_fraction`` of the particles are of;
        of the phantom its own when left out
    truth_map : path, optional
        where to write the map that the images are made from
    overwrite : bool
        replace existing files
    comm : communicator, optional
        ``mpirecon.world()`` or one of mpi4py; None: this process alone
    verbose : bool or int
        print what the command prints
    command : str
        what the particle file says that it was made by
    **settings
        fields of ``mpirecon.simulation.settings.SimulationSettings``: snr, error_rate, error_degrees, junk_rate,
        noise_cv, scale_cv, seed, defocus (low, high; Å), phase_shift (radians), use_ctf …, and of ``mpirecon.model.simulated_errors.ErrorSettings``: offset_error,
        defocus_error, duplicate_rate …

    Returns
    -------
    Particles
        with the truth in ``truth``

    Raises
    ------
    UserError
        naming the setting, its value and what it must be; where a file exists (without `overwrite`) or cannot be used.
    """
    from mpirecon.simulation.dataset import simulate as write
    from mpirecon.simulation.settings import SimulationSettings

    comm = as_communicator(comm)
    same_on_all(comm, path=path, particles=particles, **settings)
    check_names("a simulation", settings, [field.name for field in fields(SimulationSettings)])
    console = console_of(comm, verbose)
    settings = SimulationSettings(particles=particles, **settings)
    scratch = Scratch(comm) if path is None else None
    target = scratch.path / "particles.h5" if path is None else path
    with together(comm):
        if comm.rank == 0:
            refuse_twice([target, truth_map])
            read = files_among(map=volume, model=model, second_map=second)
            for file, kind in ((target, HDF5), (truth_map, MRC)):
                if file is not None:
                    refuse_existing(file, overwrite, read, writes=kind)
            source = _source(volume, model, box, pixel_size)
            console.say(source.description)
            other = _second(second, settings.second_fraction, volume is None and model is None, source)
            truth = nullcontext() if truth_map is None else atomic_path(truth_map, overwrite)
            with truth as temporary, console.progress(particles, "simulating") as progress:
                if temporary is not None:  # it appears with the particles, or not at all
                    write_map(temporary, source.volume, source.pixel_size, overwrite=True)
                made = write(source.volume, source.pixel_size, settings, target, second=other, overwrite=overwrite,
                             progress=progress.update,
                             provenance={"command": command, "source": source.description})
            if truth_map is not None:
                console.say(f"wrote {truth_map}: the volume the images were made from")
            console.say(f"wrote {target}: {made}")
    return run_together(comm, lambda: Particles._of_file(target, scratch))


def _source(volume, model, box: int | None, pixel_size: float | None):
    from mpirecon.simulation.source import Source, load_source

    if volume is not None and model is not None:
        raise UserError("simulate: give a map or an atomic model, not both")
    if volume is None or is_path(volume):
        return load_source(volume, model, box, pixel_size)
    if box is not None:
        raise UserError(f"simulate: box={box} applies to files and the phantom; a map that is given has its own")
    density = as_volume(volume, pixel_size, "the map")
    refuse_other_size(pixel_size, density, "the map")
    return Source(np.asarray(density.to_numpy(), np.float32), density.pixel_size,
                  f"map, box {density.box}, {density.pixel_size:g} Å/px")


def _second(second, fraction: float, of_phantom: bool, source) -> np.ndarray | None:
    """The map of the second conformation on the grid of the first, (n, n, n) float32; None where none is asked for."""
    from mpirecon.simulation.source import load_source

    if not fraction:
        if second is not None:
            raise UserError("--second-map: no particle is of it; give their fraction with --second-fraction")
        return None
    first = Volume(source.volume, source.pixel_size)
    if second is None and not of_phantom:
        raise UserError("--second-fraction: give the second conformation with --second-map FILE")
    if second is None:
        second = phantom(first.box, first.pixel_size, second=True)
    elif is_path(second):
        model = str(second).lower().endswith((".cif", ".pdb", ".ent", ".cif.gz", ".pdb.gz"))
        second = load_source(*((None, second) if model else (second, None)), first.box, first.pixel_size).volume
    second = as_volume(second, first.pixel_size, "the second map")
    check_same_grid(second, "the second map", first, "the map")
    return np.asarray(second.to_numpy(), np.float32)
