"""CTFs of a particle table that cannot be what they seem: defoci, angles, B factors and contrasts of all rows together.
"""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.reading import Reading
from mpirecon.io.plausible_rows import FEW, MICROMETRES, NANOMETRES, TURN, largest_defocus, without_ctf
from mpirecon.io.table_rows import Rows, column_name
from mpirecon.parallel.select import median

_TENFOLD = (5.0, 20.0)  # a part of the defoci that is smaller by a factor between these is in another unit
_VOLTAGES = 60.0, 500.0  # kV that images are taken at
_CS = 0.00115, 0.0045, 10.0  # mm: between the first two a number is a usual Cs in metres, beyond the third none has one
_CONTRAST, _FALLOFF, _OUTSHINES = 0.4, 1000.0, 10.0  # amplitude contrast, Å², times the median scale
_PLATE = np.radians(0.3), np.radians(20.0)  # phase shifts that are given, and that phase plates have
_ASTIGMATIC = 1.0, 2000.0  # times their mean, and Å, that U and V differ by in no microscope


def settle_ctf(rows: Rows, reading: Reading, bfactor_sign: str) -> None:
    """Check CTFs, and settle what B factors mean; adds warnings and notes. Collective."""
    _defocus(rows, reading)
    _angles_of_ctf(rows, reading)
    _settle_bfactor(rows, bfactor_sign)
    _strengths(rows)
    _microscope(rows)


def _defocus(rows: Rows, reading: Reading) -> None:
    table = rows.table
    name = column_name(table, "rlnDefocusU, rlnDefocusV", "ctf/df1_A, ctf/df2_A")
    values = np.stack([table.ctf["defocus_u"], table.ctf["defocus_v"]])
    size, flat = largest_defocus(table.ctf), without_ctf(table.ctf)
    known = size > 0
    zero, some = rows.count(~known & ~flat), rows.count(known)
    if zero:
        table.warnings.append(f"{name}: the defocus is 0 for {zero} of {rows.total} particles (first: "
                              f"{rows.first(~known & ~flat)}); was it ever estimated? Where the images have no CTF, "
                              "give --no-ctf")
    if not some:
        return
    negative = rows.count((values < 0).any(axis=0))
    if negative and "-" not in reading.units.get("defocus", ""):
        table.warnings.append(
            f"{name}: the defocus is negative for {negative} of {rows.total} particles (first: "
            f"{rows.first((values < 0).any(axis=0))}), and is taken as overfocus, as RELION does; where the program "
            "that wrote it means underfocus, give --unit defocus=-A"
        )
    if "defocus" in reading.units:
        return
    small, low_high = rows.count(known & (size < MICROMETRES)), rows.range(size[known])
    between = f"{low_high[0]:.4g} to {low_high[1]:.4g}"
    if 2 * small > some:
        raise UserError(f"{table.path}: {name} are in Å, but {small} of {rows.total} particles have less than "
                        f"{MICROMETRES:g} Å ({between} in all; first: {rows.first(known & (size < MICROMETRES))}): "
                        "this looks like µm. Give --unit defocus=um, or --unit defocus=A to take it as it stands")
    if small:
        table.warnings.append(f"{name}: the defocus is below {MICROMETRES:g} Å for {small} of {rows.total} particles "
                              f"(first: {rows.first(known & (size < MICROMETRES))}); was it ever estimated, and in Å?")
    _astigmatism(rows, name, values)
    plate = rows.count(np.abs(table.ctf["phase_shift"]) > np.radians(20))
    near = rows.count(known & (size < NANOMETRES))
    if 2 * near > some and 2 * plate < rows.total:
        most = "nearly all" if near > 0.95 * some else "most"
        table.warnings.append(f"{name}: {most} defoci are below {NANOMETRES:g} Å ({between}), unusually close to "
                              "focus; where they are in nm, give --unit defocus=nm (--unit defocus=A when they are "
                              "right as they are)")
    else:
        _two_units(rows, name, size, known)


def _astigmatism(rows: Rows, name: str, values: np.ndarray) -> None:
    """Warn of U and V that differ as no lens makes them, as where one is in another unit or was never filled in."""
    u, v = values  # the negative ones are reported already
    apart = (np.abs(u - v) > np.maximum(_ASTIGMATIC[0] * (u + v) / 2, _ASTIGMATIC[1])) & (np.minimum(u, v) >= 0)
    if count := rows.count(apart):
        ranges = " and ".join("{:.4g} to {:.4g}".format(*rows.range(some[apart])) for some in values)
        rows.table.warnings.append(
            f"{name} differ by more than their mean for {count} of {rows.total} particles ({ranges} Å; first: "
            f"{rows.first(apart)}): an astigmatism that lenses do not have. Is one of them in another unit, or not "
            "filled in? Mend that column, or leave it out of the table: without the second the defocus is the first in "
            "all directions")
    below = rows.count(u < v)
    if below:
        first, second = name.split(", ")
        rows.table.notes.append(f"{first} is below {second} for {below} of {rows.total} particles: the angle of the "
                                f"astigmatism is that of {first}, as in all others")


def _two_units(rows: Rows, name: str, size: np.ndarray, known: np.ndarray) -> None:
    """Warn of a part of the particles whose defoci are about a tenth of the others': of another unit."""
    small = known & (size < NANOMETRES)
    count, others = rows.count(small), rows.count(known & ~small)
    if min(count, others) < max(5, rows.total // 100):
        return
    mean = [np.exp(rows.comm.allreduce_scalar(float(np.log(size[some]).sum())) / n)
            for some, n in ((small, count), (known & ~small, others))]
    gap = rows.range(size[known & ~small])[0] / rows.range(size[small])[1]
    if _TENFOLD[0] < mean[1] / mean[0] < _TENFOLD[1] and gap > 1.3:
        rows.table.warnings.append(
            f"{name}: the defocus of {count} of {rows.total} particles is about {mean[0]:.4g} Å, a tenth of that of "
            f"the others (about {mean[1]:.4g} Å; first: {rows.first(small)}); where these are in nm, import them apart "
            "(--select) with --unit defocus=nm")


def _angles_of_ctf(rows: Rows, reading: Reading) -> None:
    """Warn of angles that look as if they were in the other unit."""
    table = rows.table
    own, other = column_name(table, "degrees", "radians"), column_name(table, "radian", "degree")
    for field, quantity, relion, cryosparc in (
        ("astigmatism", "defocus-angle", "rlnDefocusAngle", "ctf/df_angle_rad"),
        ("phase_shift", "phase-shift", "rlnPhaseShift", "ctf/phase_shift_rad"),
    ):
        values, name = table.ctf[field], column_name(table, relion, cryosparc)
        if quantity in reading.units or rows.total < FEW:
            continue
        if table.unit == "line":
            values = np.degrees(values)
            low, high = rows.range(values)
            spread = high - low if field == "astigmatism" else high
            set_ = rows.count(values != 0)
            suspect = max(-low, high) <= TURN and spread > 1.0 and 2 * set_ > rows.total
            suspect = suspect and (field != "astigmatism" or _turns(rows, values, rows.total))
        else:
            suspect = 2 * rows.count(np.abs(values) > TURN) > rows.total
        if table.unit == "line" and not suspect:
            (_plate_in_part if field == "phase_shift" else _astigmatism_in_part)(rows, name)
        if suspect:
            low, high = rows.range(values)
            table.warnings.append(f"{name} is taken in {own}, but is {low:.3g} to {high:.3g} for {rows.total} "
                                  f"particles; where it is in {other}s, give --unit {quantity}={other}")


def _plate_in_part(rows: Rows, name: str) -> None:
    """Warn of phase shifts of a part of the particles that are radians by their size, where the others are degrees."""
    values = np.abs(rows.table.ctf["phase_shift"])
    small, others = (values > _PLATE[0]) & (values <= np.radians(TURN)), values > np.radians(TURN)
    count = rows.count(small)
    if count > max(5, rows.total // 50) and rows.count(others) and rows.range(values[others])[0] > _PLATE[1]:
        rows.table.warnings.append(f"{name} is in degrees, and below {TURN:.3g} for {count} of {rows.total} particles "
                                   f"(first: {rows.first(small)}), where others have more than 20: where these are in "
                                   "radians, import them apart (--select) with --unit phase-shift=radian")


def _astigmatism_in_part(rows: Rows, name: str) -> None:
    """Warn of angles of a part of the particles that are radians by their size, where all point all ways."""
    values = np.degrees(rows.table.ctf["astigmatism"])
    small, others = (values != 0) & (np.abs(values) <= np.pi), np.abs(values) > np.pi
    counts = rows.count(small), rows.count(others)
    if min(counts) < max(5, rows.total // 20):  # among angles that point all ways, 1 in 29 is as small
        return
    if _turns(rows, values[small], counts[0]) and _turns(rows, np.radians(values[others]), counts[1]):
        rows.table.warnings.append(f"{name} is in degrees, and between -{np.pi:.3g} and {np.pi:.3g} for {counts[0]} of "
                                   f"{rows.total} particles (first: {rows.first(small)}), where angles that point all "
                                   "ways are so small for few: where these are in radians, import them apart "
                                   "(--select) with --unit defocus-angle=radian")


def _turns(rows: Rows, values: np.ndarray, total: int) -> bool:
    """Whether angles, `total` of all ranks read as radians, point all ways: a microscope's own astigmatism keeps near
    one direction."""
    comm = rows.comm
    mean = [comm.allreduce_scalar(float(part.sum())) / total for part in (np.cos(2 * values), np.sin(2 * values))]
    return np.hypot(*mean) < 0.3


def _settle_bfactor(rows: Rows, sign: str) -> None:
    """Turn the sign of B factors that mean the falloff with exposure, as Warp and M write it (−4 times the dose)."""
    table = rows.table
    name = column_name(table, "rlnCtfBfactor", "ctf/bfactor")
    values = table.ctf["bfactor"]
    low, high = rows.range(values)
    negative = rows.count(values < 0)
    if sign == "warp" or (sign == "auto" and negative and high <= 0):
        values *= -1
        if sign == "auto":
            table.warnings.append(
                f"{name} is negative for {negative} of {rows.total} particles ({low:g} to {high:g} Å²): it is taken as "
                "the falloff with exposure, exp(−|B| k²/4), that Warp and M mean by B = −4 × dose. RELION takes such a "
                "B as growth with resolution: --bfactor-sign relion does so"
            )
        return
    growth = np.exp(-low / 4 / (2 * table.pixel_size) ** 2)
    if negative and growth > 1.2:
        table.warnings.append(
            f"{name} is negative for {negative} of {rows.total} particles (down to {low:g} Å², first: "
            f"{rows.first(values < 0)}): their CTF grows with resolution, up to {growth:.3g} times at Nyquist; where "
            "negative values mean falloff, give --bfactor-sign warp"
        )


def _strengths(rows: Rows) -> None:
    """Say what is odd about scales of the CTF and amplitude contrasts."""
    table = rows.table
    negative = table.ctf["scale"] < 0
    if count := rows.count(negative):
        name = column_name(table, "rlnCtfScalefactor", "ctf/scale")
        table.warnings.append(f"{name} is negative for {count} of {rows.total} particles (first: "
                              f"{rows.first(negative)}): their images are taken to show the particle with its contrast "
                              "turned")
    _outshining(rows)
    contrast = np.abs(table.ctf["amplitude_contrast"])
    if count := rows.count(contrast < 0.005):
        name = column_name(table, "rlnAmplitudeContrast", "ctf/amp_contrast")
        table.notes.append(f"{name} is {rows.range(contrast)[0]:g} for {count} of {rows.total} particles; 0.07 to 0.1 "
                           "is usual: --amplitude-contrast gives one for all")


def _outshining(rows: Rows) -> None:
    """Warn of a few particles that make the map, because a weight goes with the square of their scale."""
    scale = np.abs(rows.table.ctf["scale"])
    middle = median(rows.comm, scale)
    beyond = scale > _OUTSHINES * middle
    if middle > 0 and (count := rows.count(beyond)):
        name = column_name(rows.table, "rlnCtfScalefactor", "ctf/scale")
        rows.table.warnings.append(f"{name} is up to {rows.range(scale)[1]:.4g} for {count} of {rows.total} particles "
                                   f"(first: {rows.first(beyond)}), {middle:.3g} for most: the map is made of these, "
                                   "for their weight goes with the square of it")


def _microscope(rows: Rows) -> None:
    """Warn of voltages, Cs, amplitude contrasts and B factors that are possible and that nobody has."""
    table = rows.table
    ctf = table.ctf
    flat = without_ctf(ctf)
    cs, contrast = np.abs(ctf["cs_mm"]), ctf["amplitude_contrast"]
    corrected = rows.count((cs == 0) & ~flat)
    for bad, values, names, unit, said in (
        ((ctf["voltage_kv"] < _VOLTAGES[0]) | (ctf["voltage_kv"] > _VOLTAGES[1]), ctf["voltage_kv"],
         ("rlnVoltage", "ctf/accel_kv"), " kV", "images are taken at 80 to 300: --voltage gives one for all"),
        ((cs > _CS[0]) & (cs < _CS[1]), cs, ("rlnSphericalAberration", "ctf/cs_mm"),
         " mm", "that is a usual one in metres: --cs 2.7 gives one for all"),
        (cs > _CS[2], cs, ("rlnSphericalAberration", "ctf/cs_mm"), " mm", "no lens has that: --cs gives one for all"),
        ((cs == 0) & ~flat & (0 < corrected < rows.total), cs, ("rlnSphericalAberration", "ctf/cs_mm"),
         " mm", "not so for the others: was it never filled in? --cs gives one for all"),
        ((contrast < 0) | ((contrast > _CONTRAST) & ~flat), contrast, ("rlnAmplitudeContrast", "ctf/amp_contrast"),
         "", "0.07 to 0.1 is usual: --amplitude-contrast gives one for all"),
        (ctf["bfactor"] > _FALLOFF, ctf["bfactor"], ("rlnCtfBfactor", "ctf/bfactor"),
         " Å²", "next to nothing of these images is left at high resolution; leave the column out where it is the B "
         "factor of a map"),
    ):  # fmt: skip
        if count := rows.count(bad):
            low, high = rows.range(values[bad])
            between = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
            table.warnings.append(f"{column_name(table, *names)} is {between}{unit} for {count} of {rows.total} "
                                  f"particles (first: {rows.first(bad)}); {said}")
