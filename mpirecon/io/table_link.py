"""Tables that are reconstructed without an import of their own:
a particle file that refers to their stacks is made on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.formats import format_of
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.import_report import ImportReport
from mpirecon.io.importer import import_particles, provenance_of
from mpirecon.io.inputs import Input
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator


def tables_of(path: str | os.PathLike, options: ImportOptions) -> list[Input]:
    """The table, those that are joined to it, and lists of rows."""
    return [Input("particle table", path), *options.inputs]


def link_table(
    comm: Communicator, path: Path, target: Path, options: ImportOptions, *, again: bool = False,
    home: Path | None = None,
    progress: Callable[[int], AbstractContextManager] | None = None,
) -> ImportReport | None:
    """Make `target`, a particle file that refers to the stacks of the table `path`. Collective.

    again : take a target that is there already, if it was made of this table by these options; None is returned then
    home : the folder that the target will be moved to

    Raises UserError, on all ranks, for what a user can mend; an earlier target stays what it was then.
    """
    if options.rescale is not None or options.dtype != "auto":
        raise UserError(f"{path}: --rescale and --dtype make other images; mpirecon import makes a particle file of "
                        f"them")
    options = replace(options, link=True, overwrite=True)
    if again and comm.bcast(run_first(comm, lambda: _is_of(target, path, options))):
        return None
    return import_particles(path, target, options, progress, comm, home)


def _is_of(target: Path, path: Path, options: ImportOptions) -> bool:
    """Whether a particle file was linked to this table, as it is now, by these options,
    and its stacks are where they were."""
    if any(values.startswith("@") for _, values in options.selections):  # what a list holds is not recorded
        return False
    try:
        with ParticleFile(target) as file:
            about = json.loads(file.attributes.get("provenance") or "{}")
            file.refuse_missing()
    except (UserError, ValueError):
        return False
    return about == json.loads(json.dumps(provenance_of(path, format_of(path).settled(options)), default=str))
