"""Images of an imported table: read in batches, examined, and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.image_levels import LevelsSurvey
from mpirecon.io.mrc import LARGEST, SMALLEST, StackReader
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.io.rescale import Rescaling
from mpirecon.operators.background import Background
from mpirecon.parallel.comm import Communicator, together

if TYPE_CHECKING:
    from mpirecon.io.import_options import ImportOptions

BATCH_BYTES = 32 * 1024 * 1024  # images in memory at once
_SAMPLE = 512  # images of a rank that are examined when none are copied
_STEPS = 200  # of float16's smallest numbers, that an image must span to be more than those


def fit_images(
    comm: Communicator, table: ParticleTable, stacks: list[StackReader], dtype: str, options: ImportOptions,
    rescaling: Rescaling | None = None,
) -> tuple[np.ndarray, list[str]]:
    """(m,) bool, this rank's images that are fit to be written, and what is wrong with all that are not. Collective."""
    good, skipped = np.ones(len(table), bool), []
    total = table.total or len(table)
    with together(comm):
        for rows, images in image_batches(table, np.arange(len(table)), stacks, rescaling):
            for row, reason in _faults(_fitted(images, dtype), dtype).items():
                skipped.append(f"{table.describe(rows[row])} {reason}")
                good[rows[row]] = False
            _refuse_too_many(skipped, total, options)
    skipped = [text for rank in comm.allgather(skipped) for text in rank]
    _refuse_too_many(skipped, total, options)
    return good, skipped


def copy_images(
    table: ParticleTable, rows: np.ndarray, stacks: list[StackReader], writer: ParticleWriter, start: int,
    update: Callable[[int], None], rescaling: Rescaling | None = None, levels: LevelsSurvey | None = None,
) -> None:
    """Copy the images of these rows to the writer's rows from `start` on, in their order."""
    for some, images in image_batches(table, rows, stacks, rescaling, levels):
        images = _fitted(images, writer.dtype)
        faults = _faults(images, writer.dtype)
        if faults:
            row, reason = next(iter(faults.items()))
            raise UserError(f"{table.describe(some[row])} {reason}; repair the stack, remove the row, or leave such "
                            "images out with --skip-bad")
        if table.negate is not None:
            images = images.astype(np.result_type(images, np.float16), copy=False)  # unsigned pixels have no sign
            images[table.negate[some]] *= -1
        writer.write_images(start, images)
        start += len(images)
        update(len(images))


def sample_images(table: ParticleTable, rows: np.ndarray, stacks: list[StackReader], levels: LevelsSurvey) -> None:
    """Look at the levels of some of the images, which stay where they are."""
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64))
    for _ in image_batches(table, rows[some], stacks, levels=levels):
        pass


def _fitted(images: np.ndarray, dtype) -> np.ndarray:
    """The images, or where this type would round them, the same without their backgrounds,
    which would cost them their digits."""
    return images if np.can_cast(images.dtype, dtype) else Background(images.shape[-1]).without(images)


def image_batches(
    table: ParticleTable, rows: np.ndarray, stacks: list[StackReader], rescaling: Rescaling | None = None,
    levels: LevelsSurvey | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(some of the rows, their images) in order, at the common size; within a batch each stack is read once.

    levels : is shown all images as they are in their stacks
    """
    box = stacks[0].box if rescaling is None else rescaling.box
    size = max(1, BATCH_BYTES // (4 * max(box, *(stack.box for stack in stacks)) ** 2))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        image, stack = table.image[some], table.stack[some]
        kind = np.zeros(len(some), np.int64) if rescaling is None else rescaling.kind[some]
        parts = [(np.flatnonzero((stack == number) & (kind == k)), number, k)
                 for number, k in np.unique(np.column_stack([stack, kind]), axis=0)]
        types = {stacks[number].dtype.newbyteorder("=") for _, number, _ in parts}
        batch = np.empty((len(image), box, box), types.pop() if len(types) == 1 and rescaling is None else np.float32)
        for members, number, k in parts:
            found = stacks[number].read(image[members])
            if levels is not None:
                levels.add(found, number, image[members])
            batch[members] = found if rescaling is None else rescaling.images(k, found)
        yield some, batch


def _faults(images: np.ndarray, dtype: str) -> dict[int, str]:
    """Row within the batch → what is wrong with its pixels."""
    low, high = images.min(axis=(1, 2)).astype(np.float64), images.max(axis=(1, 2)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        span = high - low
    reasons = {
        "has NaN or infinite pixels": ~(np.isfinite(low) & np.isfinite(high)),
        f"has pixels beyond {LARGEST:g}, which no camera counts": np.maximum(-low, high) > LARGEST,
        "is constant": low == high,
        f"has pixels that differ by less than {SMALLEST:g}, too little to calculate with": span < SMALLEST,
        f"has pixels beyond the range of {dtype} (try another --dtype)": np.maximum(-low, high) > np.finfo(dtype).max,
        f"differs from pixel to pixel by less than {dtype} can hold (try another --dtype)":
            (np.dtype(dtype) == np.float16) & (span < _STEPS * np.finfo(np.float16).smallest_subnormal),
    }
    faults: dict[int, str] = {}
    for reason, rows in reasons.items():
        for row in np.flatnonzero(rows):
            faults.setdefault(int(row), reason)
    return dict(sorted(faults.items()))


def _refuse_too_many(skipped: list[str], total: int, options: ImportOptions) -> None:
    if len(skipped) > options.max_bad * total:
        raise UserError(
            f"{len(skipped)} of {total} images are bad, more than --max-bad {options.max_bad:g} allows: so many point "
            f"to a damaged stack or a wrong one. The first: {skipped[0]}"
        )
