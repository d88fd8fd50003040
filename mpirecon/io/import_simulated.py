"""Errors that an import simulates in the particles of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.source_table import field_texts, names_within
from mpirecon.io.text_column import text_column
from mpirecon.model import ParticleSet
from mpirecon.model.simulated_errors import copied, simulate_errors
from mpirecon.parallel.comm import Communicator

if TYPE_CHECKING:
    from mpirecon.io.import_options import ImportOptions


def particle_set(comm: Communicator, table: ParticleTable, box: int, half: np.ndarray,
                 options: ImportOptions) -> ParticleSet:
    """Everything but the pixels of this rank's rows, with the errors that are simulated in them. Collective."""
    pose, ctf, truth = table.pose, table.ctf, {}
    if options.simulates_errors:
        groups = None if options.error_by is None else _group_numbers(comm, table, options.error_by)
        planted = simulate_errors(options, options.seed, table.numbers, pose, ctf, groups)
        pose, ctf, truth = planted.pose, planted.ctf, planted.truth
    return ParticleSet(
        box=box, pixel_size=table.pixel_size, pose=pose, ctf=ctf, half=half,
        optics_group=table.optics_group, ctf_premultiplied=table.ctf_premultiplied,
        ctf_phase_flipped=table.ctf_phase_flipped,
        contrast=options.contrast or table.contrast, **truth,
    )


def with_copies(comm: Communicator, table: ParticleTable, rows: np.ndarray,
                options: ImportOptions) -> tuple[np.ndarray, np.ndarray]:
    """These rows of the table with those of which a duplicate is simulated twice, one behind the other;
    and which are the second."""
    groups = (
        None
        if options.error_by is None or not options.duplicate_rate
        else _group_numbers(comm, table, options.error_by)
    )
    times = 1 + copied(options, options.seed, table.numbers, groups)[rows]
    chosen = np.repeat(rows, times)
    again = np.zeros(len(chosen), bool)
    again[np.cumsum(times)[times == 2] - 1] = True
    return chosen, again


def _group_numbers(comm: Communicator, table: ParticleTable, column: str) -> np.ndarray:
    """Number of each row's value in a column of the particle table, (m,) int64; UserError when there is none."""
    particles, array = table.tables.get(table.particle_block) if table.tables else None, table.arrays.get("particles")
    known = [] if particles is None else [str(label) for label in particles.columns]
    spelled = (column, f"rln{column}", column.lstrip("_"), f"_{column}", f"_rln{column}")
    label = next((label for label in spelled if label in known), None)
    if label is not None:
        names, within = text_column(particles[label]), names_within(label)
        if within in known:
            pairs = np.char.add(np.char.add(names.cells, b"@"), text_column(particles[within]).cells)
            found, codes = np.unique(pairs, return_inverse=True)
            return _numbered(comm, [name.decode(errors="surrogateescape") for name in found.tolist()])[codes]
        codes, first = names.codes()
        return _numbered(comm, list(names[first]))[codes]
    if array is not None and column in array.dtype.names:
        names, codes = np.unique(field_texts(array[column], column, table.path), return_inverse=True)
        return _numbered(comm, names.tolist())[codes]
    known = known if array is None else array.dtype.names
    raise UserError(f"--error-by {column}: {table.path} has no such column"
                    + (f"; it has {', '.join(known)}" if known else ""))


def _numbered(comm: Communicator, mine: list[str]) -> np.ndarray:
    """The number of each of this rank's names among those of all, (names,) int64. Collective."""
    number = {name: i for i, name in enumerate(sorted({n for rank in comm.allgather(mine) for n in rank}))}
    return np.array([number[name] for name in mine], np.int64)
