"""Particle sets in scripts, opened or read from other programs' tables."""

from __future__ import annotations

import os
from dataclasses import fields

from mpirecon.api.arguments import as_communicator, check_names
from mpirecon.api.particles import Particles
from mpirecon.api.scratch import Scratch
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.console import Console


def open(path: str | os.PathLike) -> Particles:
    """Open a particle file.

    Parameters
    ----------
    path : path
        of a file that ``import`` or ``simulate`` wrote

    Returns
    -------
    Particles
        whose images stay in the file

    Raises
    ------
    UserError
        naming the file when it is none.
    """
    return Particles._of_file(path)


def read_star(path: str | os.PathLike, data_dir: str | os.PathLike | None = None, *, comm=None, **options) -> Particles:
    """The particles of a RELION STAR file, 1.4 to 5; their images stay in their stacks.

    Collective over `comm`.

    Parameters
    ----------
    path : path
        of the STAR file
    data_dir : path, optional
        folder that the paths of the stacks are relative to
    comm : communicator, optional
        ``mpirecon.world()`` or one of mpi4py; None: this process alone
    **options
        fields of ``mpirecon.io.import_options.ImportOptions``, named as the options of ``mpirecon import``

    Returns
    -------
    Particles
        ``notes`` and ``warnings`` hold what the import has to say

    Raises
    ------
    UserError
        naming file, line and remedy.
    """
    return imported(path, as_communicator(comm), data_dir=data_dir, **options)


def read_cs(path: str | os.PathLike, data_dir: str | os.PathLike | None = None, passthrough=(), *, comm=None,
            **options) -> Particles:
    """The particles of a cryoSPARC .cs file and its passthrough files; their images stay in their stacks.

    Collective over `comm`.

    Parameters
    ----------
    path : path
        of the .cs file
    data_dir : path, optional
        as of `read_star`
    passthrough : sequence of paths
        files with the columns that the .cs file lacks
    comm : communicator, optional
        as of `read_star`
    **options
        as of `read_star`

    Returns
    -------
    Particles
        as of `read_star`

    Raises
    ------
    UserError
        naming file, column and remedy.
    """
    return imported(path, as_communicator(comm), data_dir=data_dir, passthrough=passthrough, **options)


def imported(path, comm: Communicator, console: Console | None = None, **options) -> Particles:
    """The particles of a STAR or .cs file, in a temporary particle file that refers to their stacks. Collective.
    What is to be said of them goes to the console."""
    from mpirecon.io.import_options import ImportOptions
    from mpirecon.io.importer import import_particles

    known = [field.name for field in fields(ImportOptions)]
    check_names("an import", options, known)
    options = {"link": options.get("rescale") is None, **options}
    scratch = Scratch(comm)
    target = scratch.path / "particles.h5"
    report = import_particles(path, target, ImportOptions(**options), comm=comm)
    if console is not None:
        report.print(console, path)
    return Particles._of_file(target, scratch, report.notes, report.warnings)
