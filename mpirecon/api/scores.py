"""Particles compared with half maps, from scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator, console_of, files_among, is_path, structured
from mpirecon.api.maps import as_volume
from mpirecon.api.options import configuration, read_particles, source_of, unnamed
from mpirecon.api.scratch import Scratch
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.replaced import NUMPY, OTHER, STAR
from mpirecon.io.formats import check_ending
from mpirecon.io.given_weights import weights_inputs
from mpirecon.io.inputs import Input, refuse_twice
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_inputs import particle_inputs
from mpirecon.kinds import AnyPath, checked
from mpirecon.parallel.comm import run_together, together


class ScoreTable(np.ndarray):
    """Scores of particles, a structured array; ``about`` has what there is to say of all of them: particles, skipped,
    resolution_0143 (Å, of the FSC of the half maps), grey_scale, median, notes, warnings."""

    about: dict | None = None


@checked
def score(half1, half2, particles, output: AnyPath | None = None, *, star: AnyPath | None = None,
          cs_table: AnyPath | None = None, weights=None, comm=None, overwrite: bool = False,
          filtered: bool = True, verbose: bool | int = False, **options) -> ScoreTable:
    """Compare particles with two half maps: each with the map of its own half set, and with that of the other.
    Collective over `comm`.

    Parameters
    ----------
    half1, half2 : Volume, path, or (n, n, n) array
        maps of half sets 1 and 2
    particles : Particles, or path of a particle file, of a RELION STAR file or of a cryoSPARC .cs file
        what is compared
    output : path, optional
        CSV table to write
    star, cs_table : path, optional
        of the imported STAR or .cs file, to be written again with the numbers
    weights : (m,) float, or str, optional
        as of `reconstruct`: particles of weight 0 count nowhere, the others count as they are
    comm : optional
        ``mpirecon.world()``, or a communicator of mpi4py; None: this process alone
    overwrite : bool
        replace existing files
    filtered : bool
        filter the maps by their FSC in the mask, as a run does before particles are compared with its half maps
    verbose : bool or int
        print what the command prints; 2: also what it prints with ``--verbose``
    **options
        of `reconstruct`: distance, mask, diameter, max_resolution, score_resolution (Å, Å), normalise, skip_bad,
        threads …; for a STAR or .cs file also how it is read, as ``read_star`` takes it

    Returns
    -------
    ScoreTable
        a row for each particle, the same on all ranks: ``id``, ``half``, ``score_own``, ``distance_own``,
        ``residual_own`` (‖y − Ax‖² per Fourier sample, whitened), ``scale_own`` (contrast of the map in the image),
        ``sigma_own`` (noise relative to the typical), and these of the ``_other`` half's map; NaN of images that were
        skipped

    Raises
    ------
    UserError
        on all ranks, where maps and particles differ in box or pixel size, or a file cannot be written.

    Notes
    -----
    A particle is in its own half's map, if that was made of these particles, and finds itself there: pure noise scores
    above 0 against it. The other half's map is free of it, and right to judge a set by; but *selecting* by it lets
    the half sets see each other, and their FSC is too good from then on. `reconstruct` scores against folds of the own
    half, which do neither.
    """
    from mpirecon.solvers.score import score_particles

    comm = as_communicator(comm)
    same_on_all(comm, half1=half1, half2=half2, output=output, star=star, cs_table=cs_table, weights=weights,
                overwrite=overwrite, filtered=filtered, **options)
    path, reading = run_together(comm, lambda: source_of(particles, options))
    scratch = Scratch(comm)
    config = configuration(particles, scratch, comm, loss="l2", weights=weights, **options)
    console = console_of(comm, verbose)
    held = read_particles(particles, comm, reading, console)
    targets = [output, star, cs_table]
    read = files_among(first_map=half1, second_map=half2, mask=config.mask, particle_table=particles)
    read += weights_inputs(config.weights)
    run_together(comm, lambda: _refuse_targets(targets, overwrite, read, held.path))
    maps = run_together(comm, lambda: [half if is_path(half) else as_volume(half, held.pixel_size, name)
                                       for half, name in ((half1, "half map 1"), (half2, "half map 2"))])
    found = score_particles(comm, *maps, held.path, config, console, filtered=filtered, star=star, cs=cs_table,
                            weights=unnamed(weights), shown=path)
    with together(comm):
        if comm.rank == 0:
            _write(found, held.path, path, output, star, cs_table, overwrite)
            found.print(console, [target for target in targets if target is not None])
    columns = {name: values for name, values in found.columns.items() if values.dtype.kind != "O"}
    table, about = comm.bcast((structured(columns), found.as_dict()) if comm.rank == 0 else None)
    table = table.view(ScoreTable)
    table.about = about
    return table


def _refuse_targets(targets: Sequence, overwrite: bool, read: list[Input], particles: Path) -> None:
    refuse_twice(targets)
    for target, kind in zip(targets, (OTHER, STAR, NUMPY)):
        if target is not None:
            refuse_existing(target, overwrite, [*read, *particle_inputs(particles)], writes=kind)
    for option, target in zip(("--star", "--cs"), targets[1:]):
        check_ending(option, target)


def _write(found, particles: Path, shown: Path, output, star, cs_table, overwrite: bool) -> None:
    from mpirecon.io.score_tables import write_cs_scores, write_csv, write_star_scores

    numbers = {name: values for name, values in found.columns.items() if values.dtype.kind == "f"}
    if output is not None:
        write_csv(output, found.columns, overwrite)
    with ParticleFile(particles, shown) as file:
        if star is not None:
            write_star_scores(star, file, numbers, overwrite)
        if cs_table is not None:
            write_cs_scores(cs_table, file, numbers, overwrite)
