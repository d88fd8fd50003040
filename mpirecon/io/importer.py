"""Import of a RELION STAR or cryoSPARC .cs file and its stacks, with memory that does not grow with the stacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon import __version__
from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.cryosparc import read_cryosparc
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_file import ParticleWriter
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.relion import read_relion
from mpirecon.io.stack_paths import locate_stacks
from mpirecon.io.traps import find_traps
from mpirecon.model import ParticleSet, Pose
from mpirecon.model.draws import plant_pose_errors, random_halves

_BATCH_BYTES = 32 * 1024 * 1024  # images in memory at once


@dataclass
class ImportOptions:
    """What the user may say about an import.

    data_dir : folder that the stack paths are relative to; mapping : stack path as written → file;
    stack : file that holds all images; pixel_size (Å), voltage (kV), cs (mm), amplitude_contrast : see read_relion
    dtype : ``"auto"`` (float16 where all stacks are), ``"float32"`` or ``"float16"``
    contrast : ``"white"``, ``"black"``, or None for what the file says (RELION: white; cryoSPARC: blob/sign)
    passthrough : .cs files whose columns are joined to a .cs file by uid
    plant_errors : share of particles that get a wrong pose; small_degrees : by a small turn instead of a random pose
    plant_by : column of the particle table whose rows of one value are wrong together
    seed : of half sets and planted errors; skip_bad : leave NaN and constant images out, up to the share max_bad
    """

    data_dir: str | os.PathLike | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    stack: str | os.PathLike | None = None
    pixel_size: float | None = None
    voltage: float | None = None
    cs: float | None = None
    amplitude_contrast: float | None = None
    dtype: str = "auto"
    contrast: str | None = None
    passthrough: Sequence[str | os.PathLike] = ()
    plant_errors: float | None = None
    plant_by: str | None = None
    small_degrees: float | None = None
    seed: int = 1
    skip_bad: bool = False
    max_bad: float = 0.1
    overwrite: bool = False


@dataclass
class ImportReport:
    """What was written: counts, and sentences the user should read."""

    output: Path
    particles: int
    box: int
    pixel_size: float
    dtype: str
    halves: tuple[int, int]
    ctf_premultiplied: bool
    planted: int | None
    skipped: list[str]
    notes: list[str]
    warnings: list[str]


def import_particles(
    path: str | os.PathLike,
    output: str | os.PathLike,
    options: ImportOptions,
    progress: Callable[[int], AbstractContextManager] | None = None,
) -> ImportReport:
    """Read a RELION STAR file, or a cryoSPARC file (.cs), and its stacks, and write a particle file.

    Images are copied in the order of the rows, a batch at a time. Halves and planted errors are drawn from
    (seed, row of that file), so that skipping an image changes no other particle.

    Parameters
    ----------
    progress : called with the number of images; a context manager of something with ``update(n)``

    Raises
    ------
    UserError
        naming file, line and remedy; no output is left behind.
    """
    output = refuse_existing(output, options.overwrite)
    table = _read_table(Path(path), options)
    stacks, notes = _open_stacks(table, options)
    box = _common_box(table, stacks)
    dtype = _dtype(stacks, options.dtype)
    found, warnings = find_traps(table)
    notes, warnings = [*table.notes, *notes, *found], [*table.warnings, *warnings]
    particles = _particle_set(table, box, options, notes)
    with ParticleWriter(
        output, len(table), box, table.pixel_size, overwrite=options.overwrite, dtype=dtype,
        ctf_premultiplied=table.ctf_premultiplied, contrast=particles.contrast,
        provenance={"command": "import", "mpirecon": __version__, "source": str(path), "options": vars(options)},
    ) as writer:
        with progress(len(table)) if progress else nullcontext() as bar:
            good, skipped = _copy_images(table, stacks, writer, options, lambda n: bar and bar.update(n))
        if skipped:
            writer.shrink(int(good.sum()))
            particles = particles[np.flatnonzero(good)]
        writer.write_metadata(particles)
        writer.write_source(path, *table.source(good))
    return _report(output, particles, dtype, skipped, notes, warnings)


def _read_table(path: Path, options: ImportOptions) -> ParticleTable:
    supplied = {name: getattr(options, name) for name in ("voltage", "cs", "amplitude_contrast", "pixel_size")}
    if path.suffix.lower() == ".cs":
        return read_cryosparc(path, options.passthrough, **supplied)
    if options.passthrough:
        raise UserError(f"--passthrough is for cryoSPARC files, and {path} is not a .cs file")
    return read_relion(path, **supplied)


def _open_stacks(table: ParticleTable, options: ImportOptions) -> tuple[list[StackReader], list[str]]:
    """A reader per stack of the table, with every row checked against its stack."""
    first = np.unique(table.stack, return_index=True)[1]
    lines = table.lines[first]
    mapping = dict(options.mapping)
    if options.stack is not None:
        _refuse_one_stack(table)
        mapping = {stack: options.stack for stack in table.stacks}
    if options.stack is not None and len(table.stacks) > 1:
        paths, notes = [Path(options.stack)] * len(table.stacks), [f"all images are read from {options.stack}"]
    else:
        paths, notes = locate_stacks(table.stacks, table.path, lines, data_dir=options.data_dir, mapping=mapping,
                                     unit=table.unit)
    stacks = [_open_stack(path, table, row) for path, row in zip(paths, first)]
    sections = np.array([len(stack) for stack in stacks])
    past = table.image >= sections[table.stack]
    if past.any():
        row = int(np.flatnonzero(past)[0])
        stack = stacks[table.stack[row]]
        raise UserError(
            f"{table.place(row)}: image {table.image[row] + 1} is past the end of {stack.path}, which has "
            f"{len(stack)} images ({int(past.sum())} such rows); is it the stack that belongs to this file?"
        )
    return stacks, notes


def _open_stack(path: Path, table: ParticleTable, row: int) -> StackReader:
    try:
        return StackReader(path)
    except UserError as error:
        raise UserError(f"{table.place(row)}: {error}") from error


def _refuse_one_stack(table: ParticleTable) -> None:
    """--stack with images of one number in several stacks would give them all the same pixels."""
    images = pd.DataFrame({"image": table.image, "stack": table.stack}).drop_duplicates()
    again = images.index[images["image"].duplicated()]
    if len(again):
        raise UserError(
            f"{table.describe(again[0])}: --stack cannot hold all images, this number occurs in several of the "
            f"{len(table.stacks)} stacks named; use --map-stack OLD=NEW for each, or --data-dir"
        )


def _common_box(table: ParticleTable, stacks: list[StackReader]) -> int:
    box = stacks[0].box
    for number, stack in enumerate(stacks):
        if stack.box != box:
            row = np.flatnonzero(table.stack == number)[0]
            raise UserError(
                f"{table.place(row)}: {stack.path} has images of {stack.box} pixels, {stacks[0].path} of {box}; "
                "particles of one file need one box size: extract them alike, or import them apart"
            )
    if table.image_size not in (None, box):
        label = "rlnImageSize" if table.tables else "blob/shape"
        raise UserError(
            f"{table.place(0)}: {label} is {table.image_size}, but the images "
            f"of {stacks[0].path} have {box} pixels a side; is it the stack that belongs to this file?"
        )
    return box


def _dtype(stacks: list[StackReader], wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "float16" if all(stack.dtype.kind == "f" and stack.dtype.itemsize == 2 for stack in stacks) else "float32"


def _particle_set(table: ParticleTable, box: int, options: ImportOptions, notes: list[str]) -> ParticleSet:
    rows = np.arange(len(table))
    pose, flag, truth = table.pose, None, None
    if options.plant_errors is not None:
        truth = pose.quaternion
        groups = None if options.plant_by is None else _group_numbers(table, options.plant_by)
        quaternion, flag = plant_pose_errors(
            options.seed, rows, truth, options.plant_errors, options.small_degrees, groups
        )
        pose = Pose(quaternion, pose.shift)
    return ParticleSet(
        box=box, pixel_size=table.pixel_size, pose=pose, ctf=table.ctf, half=split_halves(table, options.seed, notes),
        optics_group=table.optics_group, ctf_premultiplied=table.ctf_premultiplied,
        contrast=options.contrast or table.contrast, pose_error=flag, true_quaternion=truth,
    )


def _group_numbers(table: ParticleTable, column: str) -> np.ndarray:
    """Number of each row's value in a column of the particle table, (m,) int64; UserError when there is none."""
    particles = table.tables.get(table.particle_block) if table.tables else None
    for label in (column, f"rln{column}", f"_{column}", f"_rln{column}"):
        if particles is not None and label in particles.columns:
            return np.unique(particles[label].to_numpy(str), return_inverse=True)[1]
    known = "" if particles is None else f"; it has {', '.join(map(str, particles.columns))}"
    raise UserError(f"--plant-by {column}: {table.path} has no such column{known}")


def split_halves(table: ParticleTable, seed: int, notes: list[str]) -> np.ndarray:
    """Half sets, (m,) uint8: the file's; rows without one join their family, or are drawn with it."""
    unset = table.half == 0
    if not unset.any():
        return table.half
    family, first = np.unique(table.family, return_index=True)
    of_family = np.zeros(len(family), np.uint8)
    known = np.flatnonzero(~unset)[::-1]  # the first row of a family speaks for it
    of_family[np.searchsorted(family, table.family[known])] = table.half[known]
    draw = np.flatnonzero(of_family == 0)
    of_family[draw] = random_halves(seed, first[draw])
    notes.append(
        f"half sets of {int(unset.sum())} of {len(table)} images were drawn with seed {seed} ({table.half_label} is "
        "missing or not set)"
        + (f"; images of one particle stay together ({len(family)} particles)" if len(family) < len(table) else "")
    )
    return np.where(unset, of_family[np.searchsorted(family, table.family)], table.half)


def _copy_images(
    table: ParticleTable, stacks: list[StackReader], writer: ParticleWriter, options: ImportOptions,
    update: Callable[[int], None],
) -> tuple[np.ndarray, list[str]]:
    """Copy all images to the writer in the order of the rows; returns (m,) bool written, and the skipped ones."""
    good = np.ones(len(table), bool)
    skipped: list[str] = []
    written = 0
    for start, images in _batches(table, stacks):
        count = len(images)
        faults = _faults(images, writer.dtype)
        if table.negate is not None:
            images = images.astype(np.result_type(images, np.float16), copy=False)  # unsigned pixels have no sign
            images[table.negate[start : start + count]] *= -1
        for row, reason in faults.items():
            skipped.append(f"{table.describe(start + row)} {reason}")
            good[start + row] = False
        _check_faults(skipped, len(table), options)
        images = images[good[start : start + count]] if faults else images
        writer.write_images(written, images)
        written += len(images)
        update(count)
    return good, skipped


def _batches(table: ParticleTable, stacks: list[StackReader]) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, images) of successive rows; within a batch each stack is read once."""
    size = max(1, _BATCH_BYTES // (4 * stacks[0].box ** 2))
    for start in range(0, len(table), size):
        image, stack = table.image[start : start + size], table.stack[start : start + size]
        parts = [(np.flatnonzero(stack == number), stacks[number]) for number in np.unique(stack)]
        kinds = {reader.dtype.newbyteorder("=") for _, reader in parts}
        batch = np.empty((len(image), stacks[0].box, stacks[0].box), kinds.pop() if len(kinds) == 1 else np.float32)
        for rows, reader in parts:
            batch[rows] = reader.read(image[rows])
        yield start, batch


def _faults(images: np.ndarray, dtype: str) -> dict[int, str]:
    """Row within the batch → what is wrong with its pixels."""
    low, high = images.min(axis=(1, 2)).astype(np.float64), images.max(axis=(1, 2)).astype(np.float64)
    reasons = {
        "has NaN or infinite pixels": ~(np.isfinite(low) & np.isfinite(high)),
        "is constant": low == high,
        f"has pixels beyond the range of {dtype} (try another --dtype)": np.maximum(-low, high) > np.finfo(dtype).max,
    }
    faults: dict[int, str] = {}
    for reason, rows in reasons.items():
        for row in np.flatnonzero(rows):
            faults.setdefault(int(row), reason)
    return dict(sorted(faults.items()))


def _check_faults(skipped: list[str], total: int, options: ImportOptions) -> None:
    if skipped and not options.skip_bad:
        raise UserError(f"{skipped[0]}; repair the stack, remove the row, or leave such images out with --skip-bad")
    if len(skipped) > options.max_bad * total:
        raise UserError(
            f"{len(skipped)} of {total} images are bad, more than --max-bad {options.max_bad:g} allows: so many "
            "point to a "
            f"damaged stack or a wrong one. The first: {skipped[0]}"
        )


def _report(output: Path, particles: ParticleSet, dtype: str, skipped, notes, warnings) -> ImportReport:
    halves = tuple(int((particles.half == half).sum()) for half in (1, 2))
    if 0 in halves:
        warnings.append("one half set is empty; half maps and their FSC will not be possible")
    return ImportReport(
        output=output, particles=len(particles), box=particles.box, pixel_size=particles.pixel_size, dtype=dtype,
        halves=halves, ctf_premultiplied=particles.ctf_premultiplied, skipped=skipped, notes=notes, warnings=warnings,
        planted=None if particles.pose_error is None else int(particles.pose_error.sum()),
    )
