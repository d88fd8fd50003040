"""Particles compared with half maps, from scripts."""

from __future__ import annotations

import os

import numpy as np

from mpirecon.api.arguments import as_communicator, structured
from mpirecon.api.maps import as_volume
from mpirecon.api.reconstruction import configuration, console_of, read_particles, unnamed
from mpirecon.api.scratch import Scratch


def score(half1, half2, particles, *, weights=None, comm=None, filtered: bool = True, verbose: bool = False,
          **options) -> np.ndarray:
    """Compare particles with two half maps: each with the map of its own half set, and with that of the other.
    Collective over `comm`.

    Parameters
    ----------
    half1, half2 : Volume, path, or (n, n, n) array
        maps of half sets 1 and 2
    particles : Particles, or path of a particle file, of a RELION STAR file or of a cryoSPARC .cs file
        what is compared
    weights : (m,) float, or str, optional
        as of `reconstruct`: particles of weight 0 count nowhere, the others count as they are
    comm : optional
        ``mpirecon.world()``, or a communicator of mpi4py; None: this process alone
    filtered : bool
        filter the maps by their FSC in the mask, as a run does before particles are compared with its half maps
    verbose : bool
        print what the command prints
    **options
        of `reconstruct`: distance, mask, diameter, max_resolution, score_resolution (Å, Å), normalise, skip_bad,
        threads …; for a STAR or .cs file also how it is read, as ``read_star`` takes it

    Returns
    -------
    structured array
        a row for each particle, the same on all ranks: ``id``, ``half``, ``score_own``, ``distance_own``,
        ``residual_own`` (‖y − Ax‖² per Fourier sample, whitened), ``scale_own`` (contrast of the map in the image),
        ``sigma_own`` (noise relative to the typical), and these of the ``_other`` half's map; NaN of images that were
        skipped

    Raises
    ------
    UserError
        on all ranks, where maps and particles differ in box or pixel size.

    Notes
    -----
    A particle is in its own half's map, if that was made of these particles, and finds itself there: pure noise scores
    above 0 against it. The other half's map is free of it, and right to judge a set by; but *selecting* by it lets
    the half sets see each other, and their FSC is too good from then on. `reconstruct` scores against folds of the own
    half, which do neither.
    """
    from mpirecon.solvers.score import score_particles

    comm = as_communicator(comm)
    particles, scratch = read_particles(particles, comm, options), Scratch(comm)
    config = configuration(particles, scratch, comm, loss="l2", weights=weights, **options)
    maps = [as_volume(given, particles.pixel_size, name) if not isinstance(given, (str, os.PathLike)) else given
            for given, name in ((half1, "half map 1"), (half2, "half map 2"))]
    found = score_particles(comm, *maps, particles.path, config, console_of(comm, verbose), filtered=filtered,
                            weights=unnamed(weights))
    columns = {name: values for name, values in found.columns.items() if values.dtype.kind != "O"}
    return comm.bcast(structured(columns) if comm.rank == 0 else None)
