"""Particle sets in scripts, opened or read from other programs' tables."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import partial

from mpirecon.api.arguments import as_communicator, check_names, console_of
from mpirecon.api.particles import Particles
from mpirecon.api.scratch import Scratch
from mpirecon.errors import UserError
from mpirecon.kinds import AnyPath, checked
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.parallel.console import Console


@checked
def open(path: AnyPath) -> Particles:
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


@checked
def read_star(path: AnyPath, data_dir: AnyPath | None = None, *, output: AnyPath | None = None, comm=None,
              verbose: bool | int = False, **options) -> Particles:
    """The particles of a RELION STAR file, 1.4 to 5; without an output their images stay in their stacks.

    Collective over `comm`.

    Parameters
    ----------
    path : path
        of the STAR file
    data_dir : path, optional
        folder that the paths of the stacks are relative to
    output : path, optional
        particle file to write, as ``mpirecon import -o`` does; a temporary one, which refers to the stacks, when left
        out
    comm : communicator, optional
        ``mpirecon.world()`` or one of mpi4py; None: this process alone
    verbose : bool or int
        print what the command prints; 2: also what it prints with ``--verbose``
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
    return _read(path, comm, verbose, output=output, data_dir=data_dir, **options)


@checked
def read_cs(path: AnyPath, data_dir: AnyPath | None = None, passthrough=(), *, output: AnyPath | None = None,
            comm=None, verbose: bool | int = False, **options) -> Particles:
    """The particles of a cryoSPARC .cs file and its passthrough files; without an output their images stay in their
    stacks.

    Collective over `comm`.

    Parameters
    ----------
    path : path
        of the .cs file
    data_dir : path, optional
        as of `read_star`
    passthrough : sequence of paths
        files with the columns that the .cs file lacks
    output, comm, verbose : path, communicator, bool, optional
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
    return _read(path, comm, verbose, output=output, data_dir=data_dir, passthrough=passthrough, **options)


def _read(path, comm, verbose: bool | int, output, **options) -> Particles:
    comm = as_communicator(comm)
    console = console_of(comm, verbose) if verbose or output is not None else None
    return imported(path, comm, console, output, **options)


def imported(path, comm: Communicator, console: Console | None = None, output: str | os.PathLike | None = None,
             **options) -> Particles:
    """The particles of a STAR or .cs file, in a particle file; without `output` in a temporary one that refers to their
    stacks. What is to be said of them goes to the console. Collective."""
    from mpirecon.io.import_options import ImportOptions
    from mpirecon.io.importer import import_particles

    known = [field.name for field in fields(ImportOptions)]
    check_names("an import", options, known)
    if output is None:
        scratch, progress = Scratch(comm), None
        target, name = scratch.path / "particles.h5", path
        options = {"link": options.get("rescale") is None, **options}
    else:
        scratch, target, name = None, output, output
        progress = partial(console.progress, label="importing")
    options = ImportOptions(**options)
    if output is None and options.link and options.dtype != "auto":
        raise UserError(f"dtype={options.dtype!r}: without an output the images stay in their stacks, of the type that "
                        "they have there; give output=, the particle file to write, or leave dtype out")
    report = import_particles(path, target, options, progress, comm)
    if console is not None:
        report.print(console, name)
    return run_together(comm, lambda: Particles._of_file(target, scratch, report.notes, report.warnings))
