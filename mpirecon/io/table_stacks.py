"""The stacks that a particle table names: found, opened, and checked against its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.stack_paths import find_stacks, locate_stacks, plain_path, same_files
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.slab import slab


def open_stacks(
    comm: Communicator, table: ParticleTable, whole: ParticleTable | None, options
) -> tuple[list[StackReader], dict[str, int], list[str]]:
    """A reader per stack of the table, with every row checked against its stack, a number for each file that any column
    names (stack_paths.same_files), and notes. Collective.

    table : this rank's rows
    whole : all of them, on rank 0
    options : import_options.ImportOptions

    Raises
    ------
    UserError
        naming the row whose stack is not there, is no stack, or has not as many images of the same size as it should.
    """
    located, others = (
        None,
        comm.gather(sorted({name for names in table.relations.images.values() for name in names.stacks})),
    )
    with together(comm):
        if comm.rank == 0:
            paths, notes, places = _locate(whole, options)
            named = dict(zip(table.stacks, paths))
            named |= find_stacks(sorted({name for rank in others for name in rank} - set(named)), table.path,
                                 options.data_dir)
            located = paths, same_files(named), notes, places
    paths, files, notes, places = comm.bcast(located)
    mine = range(*slab(len(paths), comm.size, comm.rank))
    opened = run_together(comm, lambda: [_open_stack(paths[i], places[i]) for i in mine])
    stacks = [stack for rank in comm.allgather(opened) for stack in rank]
    if options.rescale is None:
        _check_boxes(table, stacks, places)
    sections = np.array([len(stack) for stack in stacks])
    past = table.image >= sections[table.stack]
    with together(comm):
        if past.any():
            row = int(np.flatnonzero(past)[0])
            stack = stacks[table.stack[row]]
            raise UserError(
                f"{table.place(row)}: image {table.image[row] + 1} is past the end of {stack.path}, which has "
                f"{len(stack)} images ({int(past.sum())} such rows); is it the stack that belongs to this file?"
            )
    return stacks, files, notes


def _locate(table: ParticleTable, options) -> tuple[list[Path], list[str], list[str]]:
    """(the file of each stack, notes, where each occurs first)."""
    first = np.unique(table.stack, return_index=True)[1]
    mapping = dict(options.mapping)
    if options.stack is not None:
        _refuse_one_stack(table)
        mapping = {stack: options.stack for stack in table.stacks}
    if options.stack is not None and len(table.stacks) > 1:
        paths, notes = [Path(options.stack)] * len(table.stacks), [f"all images are read from {options.stack}"]
    else:
        paths, notes = locate_stacks(table.stacks, table.path, table.lines[first], data_dir=options.data_dir,
                                     mapping=mapping, unit=table.unit)
    return paths, notes, [table.place(row) for row in first]


def _open_stack(path: Path, place: str) -> StackReader:
    try:
        return StackReader(path)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _refuse_one_stack(table: ParticleTable) -> None:
    """--stack with images of one number in several stacks would give them all the same pixels."""
    plain = pd.factorize(np.array([plain_path(stack) for stack in table.stacks], object))[0]
    images = pd.DataFrame({"image": table.image, "stack": plain[table.stack]}).drop_duplicates()
    again = images.index[images["image"].duplicated()]
    if len(again):
        raise UserError(
            f"{table.describe(again[0])}: --stack cannot hold all images, this number occurs in several of the "
            f"{len(table.stacks)} stacks named; use --map-stack OLD=NEW for each, or --data-dir"
        )


def _check_boxes(table: ParticleTable, stacks: list[StackReader], places: list[str]) -> None:
    box = stacks[0].box
    for stack, place in zip(stacks, places):
        if stack.box != box:
            raise UserError(
                f"{place}: {stack.path} has images of {stack.box} pixels, {stacks[0].path} of {box}; particles of one "
                "file need one box size: give --rescale common, or import them apart"
            )
    if table.image_size not in (None, box):
        label = "rlnImageSize" if table.tables else "blob/shape"
        raise UserError(
            f"{places[0]}: {label} is {table.image_size}, but the images of {stacks[0].path} have {box} pixels a side; "
            "is it the stack that belongs to this file?"
        )
