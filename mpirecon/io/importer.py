"""Import of a RELION STAR or cryoSPARC .cs file and its stacks, with memory that does not grow with the stacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from mpirecon import __version__
from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.replaced import HDF5
from mpirecon.io.cryosparc import with_own_uids
from mpirecon.io.families import find_families
from mpirecon.io.fingerprint import Seen
from mpirecon.io.formats import STAR, TableFormat, format_of, formats, read_table
from mpirecon.io.half_sets import half_sets
from mpirecon.io.image_kind import look_at_images, sampled_rows
from mpirecon.io.image_levels import LevelsSurvey
from mpirecon.io.import_images import copy_images, fit_images, image_batches, sample_images
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.import_simulated import particle_set, with_copies
from mpirecon.io.import_report import ImportReport
from mpirecon.io.inputs import Input
from mpirecon.io.linked import Links
from mpirecon.io.mrc import StackReader
from mpirecon.io.optics_table import describe, mtf_curves, mtf_files, set_groups, unlikely
from mpirecon.io.particle_table import ParticleTable, agree, gather
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.io.plausible import compare_with_stacks, settle
from mpirecon.io.rescale import Rescaling
from mpirecon.io.table_stacks import open_stacks
from mpirecon.io.traps import repeated_images, several_classes, zeros
from mpirecon.model import ParticleSet
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.simulated_errors import count_kinds
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together, together


def import_particles(
    path: str | os.PathLike,
    output: str | os.PathLike,
    options: ImportOptions,
    progress: Callable[[int], AbstractContextManager] | None = None,
    comm: Communicator | None = None,
    home: Path | None = None,
) -> ImportReport:
    """Read a RELION STAR file, or a cryoSPARC file (.cs), and its stacks, and write a particle file. Collective.

    Each rank reads its slab of the rows and their images, and writes them to their place, in the order of the rows, a
    batch at a time. Halves and planted errors are drawn from (seed, row of that file), so that skipping an image
    changes no other particle, nor does the number of ranks.

    Parameters
    ----------
    progress : called with the number of images; a context manager of something with ``update(n)``
    home : folder that the output will be in, where it is not written there; linked stacks are found from there too

    Raises
    ------
    UserError
        naming file, line and remedy; no output is left behind.
    """
    comm = comm or SerialCommunicator()
    form = run_together(comm, lambda: _format(Path(path), options))
    tables = [Path(path), *options.passthrough]
    run_together(comm, lambda: _refuse_folders(tables))
    beside = [Input("table", path), *options.inputs]
    output = run_together(comm, lambda: refuse_existing(output, options.overwrite, beside))
    unchanged = run_together(comm, lambda: Seen.now(tables))
    unchanged.agree(comm)
    options = form.settled(options)
    provenance = run_together(comm, lambda: provenance_of(Path(path), options))
    table = read_table(form, Path(path), comm, options)
    agree(comm, table)
    if options.ignore_aberrations:
        _leave_out_aberrations(table)
    set_groups(comm, table)
    whole = gather(comm, table)
    stacks, files, notes = open_stacks(comm, table, whole, options)
    transfer = run_together(comm, lambda: mtf_files(table, options.data_dir))
    run_together(comm, lambda: refuse_existing(output, options.overwrite, chain(
        (Input("stack of images", stack.path) for stack in stacks), (Input("MTF", file) for file in transfer)
    ), writes=HDF5))  # fmt: skip
    settle(comm, table, options.reading, options.bfactor_sign, options.scale_defocus)
    compare_with_stacks(comm, table, stacks, options.reading, options.pixel_size is not None)
    rescaling, pixel_sizes, box = None, None, stacks[0].box
    if options.rescale is not None:
        rescaling = Rescaling(comm, table, np.array([stack.box for stack in stacks]), options.rescale)
        pixel_sizes, box = rescaling.apply(table), rescaling.box
        notes = [*notes, *rescaling.notes]
    dtype = _dtype(stacks, options)
    aberrations = _aberrations(comm, table, box, pixel_sizes, options)
    compared = _of_all_rows(comm, whole, table, files, options)
    notes = [*table.notes, *notes, *compared.notes, *describe(aberrations)]
    sample = sampled_rows(table.total or len(table), box, table.first, len(table))
    seen = look_at_images(comm, table, box, options.contrast or table.contrast,
                          image_batches(table, sample, stacks, rescaling))
    warnings = [*table.warnings, *unlikely(aberrations), *compared.warnings, *seen]
    particles = particle_set(comm, table, box, compared.half, options)
    good, skipped = np.ones(len(table), bool), []
    if options.skip_bad:  # who is left out must be known before rows have a place
        good, skipped = fit_images(comm, table, stacks, dtype, options, rescaling)
    chosen, again = with_copies(comm, table, np.flatnonzero(good), options)
    particles = particles if len(chosen) == len(table) and not again.any() else particles[chosen]
    rows, total = _place(comm, len(particles))
    if options.duplicate_rate:
        half = np.where(again, 3 - particles.half, particles.half)
        particles = replace(particles, half=half, duplicate_of=np.where(again, rows[0] + np.arange(len(again)) - 1, -1))
    levels = LevelsSurvey(np.array([files[name] for name in table.stacks]))
    with ParticleWriter(
        output, total, box, table.pixel_size, overwrite=options.overwrite, dtype=dtype,
        ctf_premultiplied=table.ctf_premultiplied, ctf_phase_flipped=table.ctf_phase_flipped,
        contrast=particles.contrast,
        provenance=provenance, comm=comm, rows=rows, links=_links(table, chosen, stacks, dtype, home) if options.link
        else None,
    ) as writer:
        with together(comm), progress(len(particles)) if progress else nullcontext() as bar:
            if options.link:
                sample_images(table, chosen, stacks, levels)
            else:
                copy_images(table, chosen, stacks, writer, rows[0],
                             lambda n: bar and bar.update(n), rescaling, levels)
        levels.refuse_scale(comm, str(table.path))
        writer.write_metadata(particles)
        writer.write_optics(aberrations)
        if compared.family is not None or options.duplicate_rate:
            family = table.numbers if compared.family is None else compared.family
            writer.write_extra("family", family[chosen])
        source, arrays = table.source(chosen)
        arrays = {name: with_own_uids(array, again) for name, array in arrays.items()}
        writer.write_source(path, source, arrays, split=table.particle_block,
                            files=[*(Path(read.path) for read in beside), *transfer, *(s.path for s in stacks)])
        with together(comm):  # nothing was written to while it was read: else some rows would have the images of others
            unchanged.refuse_changed()
            for number in np.unique(table.stack).tolist():
                stacks[number].refuse_changed()
    warnings = [*warnings, *levels.warnings(comm, table.ctf_premultiplied, sampled=options.link)]
    halves = comm.allreduce(np.array([(particles.half == half).sum() for half in (1, 2)], np.int64))
    planted = None if particles.pose_error is None else comm.allreduce_scalar(int(particles.pose_error.sum()))
    if options.link:
        notes.append(f"the images stay in their {len(stacks)} stacks, which must stay available and unchanged"
                     + ("" if options.skip_bad else "; only a sample of them was checked"))
    if options.defocus_error and (table.ctf_premultiplied or table.ctf_phase_flipped):
        notes.append("the images keep the CTF that they were multiplied by: only the defocus values in the particle "
                     "file are wrong")
    kinds = {kind: comm.allreduce_scalar(count) for kind, count in count_kinds(particles).items()}
    return _report(output, particles, dtype, total, halves, planted, kinds, skipped, notes, warnings)


def _refuse_folders(tables: Sequence[Path]) -> None:
    for path in tables:
        if path.is_dir():
            raise UserError(f"{path} is a folder; a table of particles "
                            f"({' or '.join(form.suffix for form in formats())}) was expected")


def provenance_of(path: Path, options: ImportOptions) -> dict:
    """What a particle file says of how it was imported;
    the tables by their size and time of change, which tell another apart."""
    tables = [os.stat(table) for table in (path, *options.passthrough)]
    return {"command": "import", "mpirecon": __version__, "source": str(path), "options": vars(options),
            "tables": [(found.st_size, found.st_mtime_ns) for found in tables]}


def _format(path: Path, options: ImportOptions) -> TableFormat:
    """The table's format, RELION's where its name shows none. UserError for options that are for another format."""
    found = format_of(path) or STAR
    for other in formats():
        for name in other.options:
            if getattr(options, name) and name not in found.options:
                raise UserError(f"--{name.replace('_', '-')} is for {other.name}s, and {path} is not a {other.suffix} "
                                f"file")
    return found


def _leave_out_aberrations(table: ParticleTable) -> None:
    known = table.aberrations
    unsure = [text for text in table.warnings if "--cs-aberrations" in text]
    if table.own is None and not unsure and (known is None or known.trivial):
        table.notes.append("--ignore-aberrations: the file names none")
        return
    table.own = None
    table.aberrations = None if known is None else Aberrations.none(known.group)
    table.warnings = [text for text in table.warnings if text not in unsure]
    table.notes.append("--ignore-aberrations: beam tilt, aberrations and magnification matrices of the file are "
                       "ignored")


def _dtype(stacks: list[StackReader], options: ImportOptions) -> str:
    if options.link and options.dtype != "auto":
        raise UserError(f"--dtype {options.dtype} with --link: linked images keep the type of their stacks; omit one "
                        f"of the two options")
    if options.link and options.rescale is not None:
        raise UserError("--rescale makes other images of those in the stacks, which --link leaves where they are; "
                        "leave one out")
    if options.dtype != "auto":
        return options.dtype
    if options.rescale is not None:
        return "float32"
    return "float16" if all(stack.dtype.kind == "f" and stack.dtype.itemsize == 2 for stack in stacks) else "float32"


@dataclass
class _Compared:
    """What is found by comparing all rows: half, family :
    (m,) of this rank's rows (family None: each row is its own)."""

    half: np.ndarray
    family: np.ndarray | None
    notes: list[str]
    warnings: list[str]


def _of_all_rows(
    comm: Communicator, whole: ParticleTable | None, table: ParticleTable, files: dict[str, int], options: ImportOptions
) -> _Compared:
    """Half sets, families, and what is suspicious about them; collective, by rank 0."""
    families = find_families(comm, table, files)
    half, said = np.empty(table.total or len(table), np.uint8), None
    with together(comm):
        if comm.rank == 0:
            half[:], notes, warnings = half_sets(whole, families, options.seed, options.new_halves)
            said = notes, [*zeros(whole), *warnings], families.any
    comm.bcast_array(half)
    again = repeated_images(comm, table, whole, families, half)
    notes, warnings, related = comm.bcast(said)
    mine = slice(table.first, table.first + len(table))
    family = None
    if related:
        family = whole.numbers[families.number] if comm.rank == 0 else np.empty(len(half), np.int64)
        family = comm.bcast_array(family)[mine]
    return _Compared(half[mine], family, notes, [*warnings, *comm.bcast(again), *several_classes(comm, table)])


def _aberrations(
    comm: Communicator, table: ParticleTable, box: int, pixel_sizes: np.ndarray | None, options: ImportOptions
) -> Aberrations | None:
    """What is to be corrected for in the images as they are stored, whose groups have these Å per pixel; collective."""
    found = table.aberrations
    if found is None:
        return None
    sizes = np.full(len(found.group), table.pixel_size) if pixel_sizes is None else pixel_sizes
    mtf = mtf_curves(comm, table, box, sizes, options.data_dir)
    if mtf is None:
        return found
    return replace(found, mtf=mtf * found.mtf if found.mtf.shape[1] else mtf)  # what is there ends a rescaled image


def _place(comm: Communicator, count: int) -> tuple[tuple[int, int], int]:
    """((first row, row after the last) of this rank in the output, rows in all)."""
    counts = comm.allgather(count)
    start = sum(counts[: comm.rank])
    return (start, start + count), sum(counts)


def _links(table: ParticleTable, rows: np.ndarray, stacks: list[StackReader], dtype: str, home: Path | None) -> Links:
    negate = None if table.negate is None else table.negate[rows]
    return Links(stacks, table.stack[rows], table.image[rows], negate, np.dtype(dtype), home)


def _report(
    output: Path, particles: ParticleSet, dtype: str, total: int, halves, planted: int | None, kinds, skipped, notes,
    warnings
) -> ImportReport:
    if 0 in halves:
        warnings.append("one half set is empty; half maps and their FSC will not be possible; import with --new-halves "
                        "draws new half sets")
    return ImportReport(
        output=output, particles=total, box=particles.box, pixel_size=particles.pixel_size, dtype=dtype,
        halves=tuple(int(count) for count in halves), ctf_premultiplied=particles.ctf_premultiplied,
        ctf_phase_flipped=particles.ctf_phase_flipped, skipped=skipped, notes=notes, warnings=warnings, planted=planted,
        kinds=kinds,
    )
