"""Numbers of a particle table that cannot be what they seem:
refused, put right or reported, each with the option that helps.

The readers refuse what one row tells (a NaN, a pixel size of 0). Here is what all rows together tell, whichever ranks
hold them: every function is collective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.plausible_ctf import settle_ctf
from mpirecon.io.plausible_rows import ANGLES_TOLD, FEW, FLAT, PIXELS, SMALLEST, TURN, outside_images, unaligned
from mpirecon.io.reading import Reading
from mpirecon.io.table_rows import Rows, column_name
from mpirecon.io.text_column import to_numbers
from mpirecon.parallel.comm import Communicator

#: signs of B factors: as RELION takes them (positive falls), as Warp and M write them (negative falls),
#: or by what is there
BFACTOR_SIGNS = ("auto", "relion", "warp")

_PADDING = 512  # bytes at a stack's end that are no images
_HEADER = 0.01  # relative difference between pixel sizes that is no rounding


def settle(comm: Communicator, table: ParticleTable, reading: Reading, bfactor_sign: str, scale_defocus: bool) -> None:
    """Check a table's pixel size, poses and CTFs, and settle what its B factors and defoci mean;
    adds warnings and notes.

    Raises
    ------
    UserError
        where no right map could come of the numbers as they stand, naming the option that helps.
    """
    if bfactor_sign not in BFACTOR_SIGNS:
        raise UserError(f"--bfactor-sign {bfactor_sign}: expected {', '.join(BFACTOR_SIGNS)}")
    rows = Rows(comm, table)
    _pixel_size(rows)
    _settle_calibration(rows, scale_defocus)
    if not reading.no_ctf:
        settle_ctf(rows, reading, bfactor_sign)
    _views(rows, reading)
    _same_poses(rows)


def compare_with_stacks(comm: Communicator, table: ParticleTable, stacks: Sequence[StackReader], reading: Reading,
                        given: bool) -> None:
    """Check rows against the stacks' headers: subtomograms, shifts beyond the image, other pixel sizes.

    given : the user named the pixel size, whatever headers say
    """
    rows = Rows(comm, table)
    _volumes(rows, stacks)
    _longer(rows, stacks)
    other = None if given else _headers(rows, stacks)
    _shifts(rows, np.array([stack.box for stack in stacks]), reading, other)


def _pixel_size(rows: Rows) -> None:
    table = rows.table
    sizes = np.array([table.pixel_size]) if table.pixel_sizes is None else table.pixel_sizes
    low, high = rows.range(sizes)
    if low < PIXELS[0] or high > PIXELS[1]:
        worst = low if low < PIXELS[0] else high
        raise UserError(f"{table.path}: the pixel size is {worst:g} Å, outside {PIXELS[0]:g} … {PIXELS[1]:g} Å; is "
                        "it in another unit? Give the right one in Å with --pixel-size")


def _settle_calibration(rows: Rows, scale_defocus: bool) -> None:
    """Say what a supplied pixel size does, and scale defoci where the user asks for it."""
    table = rows.table
    low, high = rows.range(np.ones(len(table)) if table.calibration is None else table.calibration)
    changed = max(abs(low - 1), abs(high - 1)) > 1e-6
    if scale_defocus and not changed:
        raise UserError("--scale-defocus scales defoci from the table's pixel size to that of --pixel-size; they do "
                        "not differ, or one is not known")
    if not changed:
        return
    factor = f"{low:.5g}" if high - low < 1e-6 else f"{low:.5g} to {high:.5g}"
    shifts = f"the pixel is {factor} times the table's: shifts keep their length in pixels of the images"
    if scale_defocus:
        for name in ("defocus_u", "defocus_v"):
            table.ctf[name] *= table.calibration**2
        table.notes.append(f"{shifts}; defoci are multiplied by the square of that, Cs stays")
    else:
        table.notes.append(f"{shifts}; defoci and Cs stay what the table says. Where defoci were estimated with the "
                           "table's pixel, give --scale-defocus, which multiplies them by the square of that")


def _views(rows: Rows, reading: Reading) -> None:
    """Refuse one view of all particles, and Euler angles in radians; warn of views that lie close together."""
    table = rows.table
    if rows.total < FEW:
        return
    axis = table.pose.matrices()[:, 2]
    second = rows.comm.allreduce(np.ascontiguousarray(axis.T @ axis)) / rows.total
    away = 1.0 - float(np.linalg.eigvalsh(second)[-1])  # mean sin² of the angle between a view and the mean view
    name = column_name(table, "rlnAngleRot and rlnAngleTilt", "alignments3D/pose")
    if away < 1e-9:
        flat = ", as after a 2-D classification" if rows.all(np.abs(axis[:, 2]) > 1 - 1e-9) else ""
        raise UserError(f"{table.path}: by {name} all {rows.total} particles are seen from one direction{flat}; no 3-D "
                        "map can be made of one view. Give the particles of a 3-D refinement")
    if table.unit == "line" and "angles" not in reading.units and _radians(rows):
        raise UserError(
            f"{table.path}: rlnAngleRot, rlnAngleTilt and rlnAnglePsi are in degrees, but none of {rows.total} "
            f"particles has more than {np.pi:.4g}, or {2 * np.pi:.4g}: this looks like radians. Give --unit "
            "angles=radian, or --unit angles=degree to take them as they stand"
        )
    if table.unit == "line" and "angles" not in reading.units:
        _radians_in_part(rows)
    _tilt_of_other_range(rows)
    if away < np.sin(FLAT) ** 2:
        table.warnings.append(f"{name}: all {rows.total} particles are seen from nearly one direction (within "
                              f"{np.degrees(np.sqrt(away)):.2g} degrees of it, rms): no 3-D map can be made of them")


def _radians(rows: Rows) -> bool:
    """Whether Euler angles taken as degrees are all within a turn in radians: tilt at most π, rot + psi at most 4π."""
    rot, tilt, psi = rows.table.pose.euler().T
    turn = (rot + psi + 180) % 360 - 180
    return (rows.range(tilt)[1] <= np.pi + 0.01 and rows.range(np.abs(turn))[1] <= 2 * TURN
            and rows.range(tilt)[1] > 0.3)


def _radians_in_part(rows: Rows) -> None:
    """Warn where one of the Euler angles, or all of some particles, is within a turn in radians,
    and the others are not."""
    table = rows.table
    angles = table.pose.euler().T
    within = [np.abs(np.where(angle > 180, angle - 360, angle)) <= (np.pi if axis == 1 else TURN) for axis,
              angle in enumerate(angles)]
    for axis, label in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")):
        other = [rows.count(some) for number, some in enumerate(within) if number != axis]
        low, high = rows.range(angles[axis])
        if rows.all(within[axis]) and high - low > 1.0 and 2 * max(other) < rows.total:
            table.warnings.append(f"{label} is in degrees, but is {low:.3g} to {high:.3g} for all {rows.total} "
                                  "particles, where the other angles are not so small: where that column is in "
                                  "radians, write it in degrees")
    some = np.logical_and.reduce(within) & (angles[1] > ANGLES_TOLD)
    count = rows.count(some)
    if max(5, rows.total // 50) < count < rows.total:
        table.warnings.append(f"rlnAngleRot, rlnAngleTilt and rlnAnglePsi are all within a turn in radians for {count} "
                              f"of {rows.total} particles (first: {rows.first(some)}), and not for the others; where "
                              "these are in radians, import them apart (--select) with --unit angles=radian")


def _tilt_of_other_range(rows: Rows) -> None:
    """Warn where the tilts go all around and another angle does not, as where columns were exchanged."""
    table = rows.table
    block = table.tables.get(table.particle_block)
    if table.unit != "line" or block is None:
        return
    angles = {label: to_numbers(block[label]) for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
    tilt = angles.pop("rlnAngleTilt")
    around = rows.count((tilt < 0) | (tilt > 180))
    for label, angle in angles.items():
        low, high = rows.range(angle)
        if around > rows.total / 4 and 0 <= low and 90 < high <= 180:
            table.warnings.append(f"rlnAngleTilt is below 0 or above 180 degrees for {around} of {rows.total} "
                                  f"particles, and {label} is {low:.3g} to {high:.3g} for all: were the two columns "
                                  "exchanged?")


def _same_poses(rows: Rows) -> None:
    """Warn of rows that were never aligned: pose 0, or one pose that many have."""
    table = rows.table
    q = table.pose.quaternion
    none = unaligned(q)
    count = rows.count(none)
    if count > max(1, rows.total // 1000):
        name = column_name(table, "rlnAngleRot, rlnAngleTilt and rlnAnglePsi are", "alignments3D/pose is")
        shifts = rows.count(none & (table.pose.shift == 0).all(axis=1))
        table.warnings.append(f"{name} exactly 0 for {count} of {rows.total} particles, the shift too for {shifts} of "
                              f"them (first: {rows.first(none)}); were they ever aligned? Leave such rows out of the "
                              "table, or have them found and left out: reconstruct --loss posterior")
    keys = np.round(np.where(q[:, :1] < 0, -q, q)[~none], 9)
    found, counts = np.unique(keys, axis=0, return_counts=True) if len(keys) else (np.empty((0, 4)), np.empty(0, int))
    mine = tuple(found[counts.argmax()]) if len(found) else None
    for key in sorted({key for key in rows.comm.allgather(mine) if key is not None}):
        same = (np.round(np.where(q[:, :1] < 0, -q, q), 9) == np.array(key)).all(axis=1) & ~none
        if (count := rows.count(same)) > max(10, rows.total // 50):
            table.warnings.append(f"{count} of {rows.total} particles have the very same pose (first: "
                                  f"{rows.first(same)}); were they ever aligned?")


def _volumes(rows: Rows, stacks: Sequence[StackReader]) -> None:
    """Refuse rows that are each the first section of a cube of their own: subtomograms."""
    table = rows.table
    cube = np.array([len(stack) == stack.box > 1 for stack in stacks])
    if len(stacks) == rows.total and cube.all() and rows.all(table.image == 0):
        stack = stacks[table.stack[0]]
        raise UserError(f"{table.describe(0)}: {stack.path} is a volume of {stack.box} x {stack.box} x {len(stack)} "
                        f"voxels, and so is that of each of the {rows.total} rows; subtomograms are not supported, "
                        "only 2-D images")


def _longer(rows: Rows, stacks: Sequence[StackReader]) -> None:
    """Warn of stacks that hold more than their headers say: which part of that are the images?"""
    longer = [stack for stack in stacks if stack.header.beyond > _PADDING]
    if longer:
        there = longer[0].header
        rows.table.warnings.append(
            f"{longer[0].path} is {there.beyond} bytes longer than its header says ({there.shape[0]} images of "
            f"{there.shape[2]} x {there.shape[1]} pixels of {there.dtype.itemsize} bytes, after {there.offset} bytes; "
            f"{len(longer)} of {len(stacks)} stacks are): is the header that of this stack?")


def _shifts(rows: Rows, boxes: np.ndarray, reading: Reading, other: str | None) -> None:
    """Warn of particles that their shifts put outside their images; refuse when most are. other : what headers say"""
    table = rows.table
    size = table.pixel_size if table.pixel_sizes is None else table.pixel_sizes
    beyond = outside_images(table.pose.shift, boxes[table.stack] * size)
    count = rows.count(beyond)
    if not count or boxes.max() < SMALLEST:
        return
    name = column_name(table, "rlnOriginX/Y", "alignments3D/shift")
    most = rows.range(np.abs(table.pose.shift / np.reshape(size, (-1, 1))).max(axis=1))[1]
    said = (f"{name} puts {count} of {rows.total} particles outside their images (up to {most:.4g} pixels from the "
            f"centre of {int(boxes.max())}; first: {rows.first(beyond)}); is it in another unit? Give --unit shift=A "
            "or --unit shift=pixel")
    if 2 * count > rows.total and "shift" not in reading.units:
        raise UserError(f"{table.path}: {said}" + (f". Moreover, {other}" if other else ""))
    table.warnings.append(said)


def _headers(rows: Rows, stacks: Sequence[StackReader]) -> str | None:
    """Warn where stacks' headers name another pixel size; 0 and 1 Å are what programs write that do not know it.
    Returns what is warned of."""
    table = rows.table
    header = np.array([stack.header.voxel_size[0] for stack in stacks])[table.stack]
    size = np.broadcast_to(table.pixel_size if table.pixel_sizes is None else table.pixel_sizes, header.shape)
    other = (header > 0) & (np.abs(header - 1) > 1e-6) & (np.abs(header / size - 1) > _HEADER)
    if count := rows.count(other):
        row = int(np.flatnonzero(other)[0]) if other.any() else None
        mine = None if row is None else (float(header[row]), float(size[row]), str(stacks[table.stack[row]].path))
        there, here, path = next(one for one in rows.comm.allgather(mine) if one is not None)
        said = (f"the pixel size is {here:g} Å in the table, but {there:g} Å in the header of {path} ({count} of "
                f"{rows.total} particles); the table's is used: give the right one with --pixel-size")
        table.warnings.append(said)
        return said
    return None
