"""Numbers of a particle table that cannot be what they seem: refused, put right or reported, each with the option that helps.

The readers refuse what one row tells (a NaN, a pixel size of 0). Here is what all rows together tell, whichever ranks hold
them: every function is collective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.reading import Reading
from mpirecon.parallel.comm import Communicator

#: signs of B factors: as RELION takes them (positive falls), as Warp and M write them (negative falls), or by what is there
BFACTOR_SIGNS = ("auto", "relion", "warp")

_MICROMETRES = 50.0  # no defocus that anybody refines is below this many Å
_NANOMETRES = 5000.0  # nearly all defoci below this many Å are unusual, and usual in nm
_PIXELS = (0.05, 200.0)  # Å
_FEW = 20  # fewer particles than this tell nothing by what they have in common
_SMALLEST = 16  # pixels a side: smaller images are nobody's particles
_FLAT = np.radians(10.0)  # views within this angle of one direction give no map
_TURN = 2 * np.pi + 0.01
_HEADER = 0.01  # relative difference between pixel sizes that is no rounding


class _Rows:
    """Counts over the rows of all ranks."""

    def __init__(self, comm: Communicator, table: ParticleTable) -> None:
        self.comm, self.table = comm, table
        self.total = comm.allreduce_scalar(len(table))

    def count(self, rows: np.ndarray) -> int:
        return int(self.comm.allreduce_scalar(int(rows.sum())))

    def all(self, rows: np.ndarray) -> bool:
        return self.count(~rows) == 0

    def range(self, values: np.ndarray) -> tuple[float, float]:
        """(lowest, highest) of finite values; (inf, −inf) where no rank has any."""
        low = self.comm.allreduce_scalar(float(values.min()) if len(values) else np.inf, "min")
        return float(low), float(self.comm.allreduce_scalar(float(values.max()) if len(values) else -np.inf, "max"))

    def first(self, rows: np.ndarray) -> str:
        """Where the first of some rows is: file and line."""
        mine = self.table.place(int(np.flatnonzero(rows)[0])) if rows.any() else None
        return next((place for place in self.comm.allgather(mine) if place is not None), "")


def settle(comm: Communicator, table: ParticleTable, reading: Reading, bfactor_sign: str, scale_defocus: bool) -> None:
    """Check a table's pixel size, poses and CTFs, and settle what its B factors and defoci mean; adds warnings and notes.

    Raises
    ------
    UserError
        where no right map could come of the numbers as they stand, naming the option that helps.
    """
    if bfactor_sign not in BFACTOR_SIGNS:
        raise UserError(f"--bfactor-sign {bfactor_sign}: expected {', '.join(BFACTOR_SIGNS)}")
    rows = _Rows(comm, table)
    _pixel_size(rows)
    _settle_calibration(rows, scale_defocus)
    if not reading.no_ctf:
        _defocus(rows, reading)
        _angles_of_ctf(rows, reading)
        _settle_bfactor(rows, bfactor_sign)
        _strengths(rows)
    _views(rows, reading)
    _same_poses(rows)


def compare_with_stacks(comm: Communicator, table: ParticleTable, stacks: Sequence[StackReader], reading: Reading, given: bool) -> None:
    """Check rows against the stacks' headers: subtomograms, shifts beyond the image, other pixel sizes.

    given : the user named the pixel size, whatever headers say
    """
    rows = _Rows(comm, table)
    _volumes(rows, stacks)
    _shifts(rows, np.array([stack.box for stack in stacks]), reading)
    if not given:
        _headers(rows, stacks)


def _column(table: ParticleTable, relion: str, cryosparc: str) -> str:
    return relion if table.unit == "line" else cryosparc


def _pixel_size(rows: _Rows) -> None:
    table = rows.table
    sizes = np.array([table.pixel_size]) if table.pixel_sizes is None else table.pixel_sizes
    low, high = rows.range(sizes)
    if low < _PIXELS[0] or high > _PIXELS[1]:
        worst = low if low < _PIXELS[0] else high
        raise UserError(f"{table.path}: the pixel size is {worst:g} Å, outside {_PIXELS[0]:g} … {_PIXELS[1]:g} Å; is it in another "
                        "unit? Give the right one in Å with --pixel-size")


def _settle_calibration(rows: _Rows, scale_defocus: bool) -> None:
    """Say what a supplied pixel size does, and scale defoci where the user asks for it."""
    table = rows.table
    low, high = rows.range(np.ones(len(table)) if table.calibration is None else table.calibration)
    changed = max(abs(low - 1), abs(high - 1)) > 1e-6
    if scale_defocus and not changed:
        raise UserError("--scale-defocus scales defoci from the table's pixel size to that of --pixel-size; they do not differ, or "
                        "one is not known")
    if not changed:
        return
    factor = f"{low:.5g}" if high - low < 1e-6 else f"{low:.5g} to {high:.5g}"
    shifts = f"the pixel is {factor} times the table's: shifts keep their length in pixels of the images"
    if scale_defocus:
        for name in ("defocus_u", "defocus_v"):
            table.ctf[name] *= table.calibration**2
        table.notes.append(f"{shifts}; defoci are multiplied by the square of that, Cs stays")
    else:
        table.notes.append(f"{shifts}; defoci and Cs stay what the table says. Where defoci were estimated with the table's pixel, give "
                           "--scale-defocus, which multiplies them by the square of that")


def _defocus(rows: _Rows, reading: Reading) -> None:
    table = rows.table
    name = _column(table, "rlnDefocusU, rlnDefocusV", "ctf/df1_A, ctf/df2_A")
    values = np.stack([table.ctf["defocus_u"], table.ctf["defocus_v"]])
    size = np.abs(values).max(axis=0)
    flat = (table.ctf["cs_mm"] == 0) & (table.ctf["amplitude_contrast"] == 1)  # a CTF of 1, written as numbers
    known = size > 0
    zero, some = rows.count(~known & ~flat), rows.count(known)
    if zero:
        table.warnings.append(f"{name}: the defocus is 0 for {zero} of {rows.total} particles (first: {rows.first(~known & ~flat)}); was "
                              "it ever estimated? Where the images have no CTF, give --no-ctf")
    if not some:
        return
    negative = rows.count((values < 0).any(axis=0))
    if negative and "-" not in reading.units.get("defocus", ""):
        table.warnings.append(
            f"{name}: the defocus is negative for {negative} of {rows.total} particles (first: {rows.first((values < 0).any(axis=0))}), "
            "and is taken as overfocus, as RELION does; where the program that wrote it means underfocus, give --unit defocus=-A"
        )
    if "defocus" in reading.units:
        return
    small, low_high = rows.count(known & (size < _MICROMETRES)), rows.range(size[known])
    between = f"{low_high[0]:.4g} to {low_high[1]:.4g}"
    if 2 * small > some:
        raise UserError(f"{table.path}: {name} are in Å, but {small} of {rows.total} particles have less than {_MICROMETRES:g} Å "
                        f"({between} in all; first: {rows.first(known & (size < _MICROMETRES))}): this looks like µm. Give --unit defocus=um, "
                        "or --unit defocus=A to take it as it stands")
    if small:
        table.warnings.append(f"{name}: the defocus is below {_MICROMETRES:g} Å for {small} of {rows.total} particles (first: "
                              f"{rows.first(known & (size < _MICROMETRES))}); was it ever estimated, and in Å?")
    plate = rows.count(np.abs(table.ctf["phase_shift"]) > np.radians(20))
    if rows.count(known & (size < _NANOMETRES)) > 0.95 * some and 2 * plate < rows.total:
        table.warnings.append(f"{name}: nearly all defoci are below {_NANOMETRES:g} Å ({between}), unusually close to focus; where they are "
                              "in nm, give --unit defocus=nm (--unit defocus=A when they are right as they are)")


def _angles_of_ctf(rows: _Rows, reading: Reading) -> None:
    """Warn of angles that look as if they were in the other unit."""
    table = rows.table
    own, other = _column(table, "degrees", "radians"), _column(table, "radian", "degree")
    for field, quantity, relion, cryosparc in (
        ("astigmatism", "defocus-angle", "rlnDefocusAngle", "ctf/df_angle_rad"),
        ("phase_shift", "phase-shift", "rlnPhaseShift", "ctf/phase_shift_rad"),
    ):
        values, name = table.ctf[field], _column(table, relion, cryosparc)
        if quantity in reading.units or rows.total < _FEW:
            continue
        if table.unit == "line":
            values = np.degrees(values)
            low, high = rows.range(values)
            spread = high - low if field == "astigmatism" else high
            set_ = rows.count(values != 0)
            suspect = max(-low, high) <= _TURN and spread > 1.0 and 2 * set_ > rows.total
            suspect = suspect and (field != "astigmatism" or _turns(rows, values))
        else:
            suspect = 2 * rows.count(np.abs(values) > _TURN) > rows.total
        if suspect:
            low, high = rows.range(values)
            table.warnings.append(f"{name} is taken in {own}, but is {low:.3g} to {high:.3g} for {rows.total} particles; where it is in "
                                  f"{other}s, give --unit {quantity}={other}")


def _turns(rows: _Rows, values: np.ndarray) -> bool:
    """Whether angles, read as radians, point all ways: a microscope's own astigmatism keeps near one direction."""
    comm = rows.comm
    mean = [comm.allreduce_scalar(float(part.sum())) / rows.total for part in (np.cos(2 * values), np.sin(2 * values))]
    return np.hypot(*mean) < 0.3


def _settle_bfactor(rows: _Rows, sign: str) -> None:
    """Turn the sign of B factors that mean the falloff with exposure, as Warp and M write it (−4 times the dose)."""
    table = rows.table
    name = _column(table, "rlnCtfBfactor", "ctf/bfactor")
    values = table.ctf["bfactor"]
    low, high = rows.range(values)
    negative = rows.count(values < 0)
    if sign == "warp" or (sign == "auto" and negative and high <= 0):
        values *= -1
        if sign == "auto":
            table.warnings.append(
                f"{name} is negative for {negative} of {rows.total} particles ({low:g} to {high:g} Å²): it is taken as the falloff with "
                "exposure, exp(−|B| k²/4), that Warp and M mean by B = −4 × dose. RELION takes such a B as growth with resolution: "
                "--bfactor-sign relion does so"
            )
        return
    growth = np.exp(-low / 4 / (2 * table.pixel_size) ** 2)
    if negative and growth > 1.2:
        table.warnings.append(
            f"{name} is negative for {negative} of {rows.total} particles (down to {low:g} Å², first: {rows.first(values < 0)}): their CTF "
            f"grows with resolution, up to {growth:.3g} times at Nyquist; where negative values mean falloff, give --bfactor-sign warp"
        )


def _strengths(rows: _Rows) -> None:
    """Say what is odd about scales of the CTF and amplitude contrasts."""
    table = rows.table
    negative = table.ctf["scale"] < 0
    if count := rows.count(negative):
        name = _column(table, "rlnCtfScalefactor", "ctf/scale")
        table.warnings.append(f"{name} is negative for {count} of {rows.total} particles (first: {rows.first(negative)}): their images are "
                              "taken to show the particle with its contrast turned")
    contrast = np.abs(table.ctf["amplitude_contrast"])
    if count := rows.count(contrast < 0.005):
        name = _column(table, "rlnAmplitudeContrast", "ctf/amp_contrast")
        table.notes.append(f"{name} is {rows.range(contrast)[0]:g} for {count} of {rows.total} particles; 0.07 to 0.1 is usual: "
                           "--amplitude-contrast gives one for all")


def _views(rows: _Rows, reading: Reading) -> None:
    """Refuse one view of all particles, and Euler angles in radians; warn of views that lie close together."""
    table = rows.table
    if rows.total < _FEW:
        return
    axis = table.pose.matrices()[:, 2]
    second = rows.comm.allreduce(np.ascontiguousarray(axis.T @ axis)) / rows.total
    away = 1.0 - float(np.linalg.eigvalsh(second)[-1])  # mean sin² of the angle between a view and the mean view
    name = _column(table, "rlnAngleRot and rlnAngleTilt", "alignments3D/pose")
    if away < 1e-9:
        flat = ", as after a 2-D classification" if rows.all(np.abs(axis[:, 2]) > 1 - 1e-9) else ""
        raise UserError(f"{table.path}: by {name} all {rows.total} particles are seen from one direction{flat}; no 3-D map can be made "
                        "of one view. Give the particles of a 3-D refinement")
    if table.unit == "line" and "angles" not in reading.units and _radians(rows):
        raise UserError(
            f"{table.path}: rlnAngleRot, rlnAngleTilt and rlnAnglePsi are in degrees, but none of {rows.total} particles has more than "
            f"{np.pi:.4g}, or {2 * np.pi:.4g}: this looks like radians. Give --unit angles=radian, or --unit angles=degree to take "
            "them as they stand"
        )
    if away < np.sin(_FLAT) ** 2:
        table.warnings.append(f"{name}: all {rows.total} particles are seen from nearly one direction (within {np.degrees(np.sqrt(away)):.2g} "
                              "degrees of it, rms): no 3-D map can be made of them")


def _radians(rows: _Rows) -> bool:
    """Whether Euler angles taken as degrees are all within a turn in radians: tilt at most π, rot + psi at most 4π."""
    rot, tilt, psi = rows.table.pose.euler().T
    turn = (rot + psi + 180) % 360 - 180
    return rows.range(tilt)[1] <= np.pi + 0.01 and rows.range(np.abs(turn))[1] <= 2 * _TURN and rows.range(tilt)[1] > 0.3


def _same_poses(rows: _Rows) -> None:
    """Warn of rows that were never aligned: pose 0, or one pose that many have."""
    table = rows.table
    q = table.pose.quaternion
    none = np.abs(q[:, 0]) > 1 - 1e-14
    count = rows.count(none)
    if count > max(1, rows.total // 1000):
        name = _column(table, "rlnAngleRot, rlnAngleTilt and rlnAnglePsi are", "alignments3D/pose is")
        shifts = rows.count(none & (table.pose.shift == 0).all(axis=1))
        table.warnings.append(f"{name} exactly 0 for {count} of {rows.total} particles, the shift too for {shifts} of them (first: "
                              f"{rows.first(none)}); were they ever aligned? Leave such rows out of the table, or have them found and left out: "
                              "reconstruct --loss posterior")
    keys = np.round(np.where(q[:, :1] < 0, -q, q)[~none], 9)
    found, counts = np.unique(keys, axis=0, return_counts=True) if len(keys) else (np.empty((0, 4)), np.empty(0, int))
    mine = tuple(found[counts.argmax()]) if len(found) else None
    for key in sorted({key for key in rows.comm.allgather(mine) if key is not None}):
        same = (np.round(np.where(q[:, :1] < 0, -q, q), 9) == np.array(key)).all(axis=1) & ~none
        if (count := rows.count(same)) > max(10, rows.total // 50):
            table.warnings.append(f"{count} of {rows.total} particles have the very same pose (first: {rows.first(same)}); were they ever "
                                  "aligned?")


def _volumes(rows: _Rows, stacks: Sequence[StackReader]) -> None:
    """Refuse rows that are each the first section of a cube of their own: subtomograms."""
    table = rows.table
    cube = np.array([len(stack) == stack.box > 1 for stack in stacks])
    if len(stacks) == rows.total and cube.all() and rows.all(table.image == 0):
        stack = stacks[table.stack[0]]
        raise UserError(f"{table.describe(0)}: {stack.path} is a volume of {stack.box} x {stack.box} x {len(stack)} voxels, and so is "
                        f"that of each of the {rows.total} rows; subtomograms are not supported, only 2-D images")


def _shifts(rows: _Rows, boxes: np.ndarray, reading: Reading) -> None:
    """Warn of particles that their shifts put outside their images; refuse when most are."""
    table = rows.table
    size = table.pixel_size if table.pixel_sizes is None else table.pixel_sizes
    half = boxes[table.stack] * size / 2
    beyond = (np.abs(table.pose.shift) > half[:, None]).any(axis=1)
    count = rows.count(beyond)
    if not count or boxes.max() < _SMALLEST:
        return
    name = _column(table, "rlnOriginX/Y", "alignments3D/shift")
    most = rows.range(np.abs(table.pose.shift / np.reshape(size, (-1, 1))).max(axis=1))[1]
    said = (f"{name} puts {count} of {rows.total} particles outside their images (up to {most:.4g} pixels from the centre of "
            f"{int(boxes.max())}; first: {rows.first(beyond)}); is it in another unit? Give --unit shift=A or --unit shift=pixel")
    if 2 * count > rows.total and "shift" not in reading.units:
        raise UserError(f"{table.path}: {said}")
    table.warnings.append(said)


def _headers(rows: _Rows, stacks: Sequence[StackReader]) -> None:
    """Warn where stacks' headers name another pixel size; 0 and 1 Å are what programs write that do not know it."""
    table = rows.table
    header = np.array([stack.header.voxel_size[0] for stack in stacks])[table.stack]
    size = np.broadcast_to(table.pixel_size if table.pixel_sizes is None else table.pixel_sizes, header.shape)
    other = (header > 0) & (np.abs(header - 1) > 1e-6) & (np.abs(header / size - 1) > _HEADER)
    if count := rows.count(other):
        row = int(np.flatnonzero(other)[0]) if other.any() else None
        told = None if row is None else (float(header[row]), float(size[row]), str(stacks[table.stack[row]].path))
        there, here, path = next(one for one in rows.comm.allgather(told) if one is not None)
        table.warnings.append(f"the pixel size is {here:g} Å in the table, but {there:g} Å in the header of {path} ({count} of {rows.total} "
                              "particles); the table's is used: give the right one with --pixel-size")
