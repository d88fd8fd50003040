"""cryoSPARC particle files (.cs: a NumPy structured array) as poses, CTFs, half sets and image names.

===========================  ================================================================================
quantity                     columns
===========================  ================================================================================
rotation R                   alignments3D/pose, a rotation vector w (axis · angle): R is exp([w]×) transposed
shift (Å)                    −alignments3D/shift (pixels of alignments3D/psize_A, as a refinement that bins on the
                             fly counts them) · alignments3D/psize_A
half set                     alignments3D/split + 1
optics group                 ctf/exp_group_id + 1
CTF                          ctf/df1_A, df2_A, df_angle_rad, accel_kv, cs_mm, amp_contrast, phase_shift_rad, bfactor,
                             scale
image                        blob/idx (from 0) of blob/path; blob/psize_A; blob/shape
contrast                     blob/sign: 1 protein is bright, −1 it is dark
magnification matrix         1 + ctf/anisomag
aberrations                  cryosparc_optics.py
===========================  ================================================================================

These are the conventions that csparc2star (pyem) and cryoDRGN convert by, and the shift's pixel is the one that
cryoSPARC's developers name in pyem's pull request 125.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc_optics import DEFAULT, about, own_optics
from mpirecon.io.cs_file import SUPPLIED, CsColumns, join_passthrough, read_cs
from mpirecon.io.cs_places import micrograph_numbers, picks_of
from mpirecon.io.file_names import UNCHANGED
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.reading import CTF_REMEDIES, Reading, refuse_beyond, settle_state
from mpirecon.io.relations import cs_relations
from mpirecon.io.row_selection import ALL_ROWS, RowOptions, select_cs_rows
from mpirecon.io.traps import unapplied_symmetry
from mpirecon.model.optics import check_ctf, ctf_rows
from mpirecon.model.pose import FARTHEST, Pose

_POSE, _SHIFT, _SPLIT = "alignments3D/pose", "alignments3D/shift", "alignments3D/split"
_PIXEL = "alignments3D/psize_A"

#: a refinement's pixel is within this factor of that of the images, and no rotation vector is longer than this
_LARGEST_BINNING = 50.0
_LONGEST_VECTOR = 4 * np.pi
_TURN = 2 * np.pi + 0.01

#: what the rows are of a file without particle images: column → word
_OTHER_ROWS = {
    "movie_blob/path": "movies", "micrograph_blob/path": "micrographs", "map/path": "volumes", "volume/path": "volumes",
    "location/center_x_frac": "picks on micrographs", "class2D/idx": "2-D classes", "templates/path": "templates",
}
_SCORES = ("alignments3D/cross_cor", "alignments3D/alpha")

def read_cryosparc(
    path: str | os.PathLike, passthrough: Sequence[str | os.PathLike] = (), mixed: bool = False,
    aberrations: str = DEFAULT,
    rows: RowOptions = ALL_ROWS, reading: Reading = Reading(), **supplied: float | None,
) -> ParticleTable:
    """Read a cryoSPARC particle file, joined with its passthrough files.

    Parameters
    ----------
    mixed : particles may differ in box and pixel size; the table then has pixel_sizes
    aberrations : which are corrected for and with which signs, cryosparc_optics.signs_of
    rows : which rows are read, and what of half sets and families
    reading : units and state of the images, where the user named them
    supplied : voltage (kV), cs (mm), amplitude_contrast, pixel_size (Å)
        used where the file lacks the column, and instead of the file's where it has it (noted)

    Raises
    ------
    UserError
        naming file and row when columns are missing or a value is out of range.
    """
    path = Path(path)
    array = read_cs(path)
    for file in passthrough:
        array = join_passthrough(array, path, file)
    selected = select_cs_rows(path, array, rows)
    array = array if selected is None else array[selected.rows]
    columns = CsColumns(path, array, supplied, reading)
    _require(columns)
    remedy = "particles of one file need one pixel size: give --rescale common, or import them apart"
    pixel_size = columns.uniform("blob/psize_A", remedy, tolerance=np.inf if mixed else 1e-4)
    half = np.zeros(len(array), np.uint8) if rows.new_halves else _halves(columns)
    image, stack, stacks = _images(columns)
    contrast, negate = _signs(columns)
    calibration = _calibration(columns)
    premultiplied, phase_flipped = settle_state(
        bool(reading.premultiplied), bool(reading.phase_flipped), reading, columns.notes
    )
    pose, micrograph, classes = _pose(columns), micrograph_numbers(array), _classes(array)
    found = ParticleTable(
        path=path, lines=np.arange(len(array)) if selected is None else selected.rows, unit="row",
        pixel_size=pixel_size,
        pixel_sizes=columns.number("blob/psize_A") if mixed else None, image_size=None if mixed
        else _image_size(columns),
        image_sizes=columns.number("blob/shape", width=(2,))[:, 0] if mixed and "blob/shape" in columns else None,
        pose=pose, calibration=calibration, ctf=_ctf(columns), half=half,
        rows=None if selected is None else selected.rows,
        relations=cs_relations(array, picks_of(path, array, micrograph, pixel_size), pose.shift, rows.family, path),
        optics_group=_optics_groups(columns), ctf_premultiplied=premultiplied, ctf_phase_flipped=phase_flipped,
        image=image,
        stack=stack, stacks=stacks,
        half_label=_SPLIT, arrays={"particles": array}, contrast=contrast, negate=negate,
        micrograph=micrograph, classes=None if classes is None else classes[1],
        class_select="" if classes is None else classes[0],
        scores={name: array[name].astype(np.float64) for name in _SCORES if name in columns.numeric},
        own=own_optics(columns, "none" if reading.no_ctf else aberrations),
    )
    check_ctf(found.ctf, found.describe, CTF_REMEDIES)
    found.notes = [*([] if selected is None else selected.notes), *dict.fromkeys(columns.notes)]
    found.notes += unapplied_symmetry(array.dtype.names)
    found.warnings = [*dict.fromkeys(columns.warnings), *about(columns, aberrations)]
    return found


def _require(columns: CsColumns) -> None:
    """Refuse a file without images, 3-D poses or CTF, saying what it seems to be and what helps."""
    path = columns.path
    if "blob/path" not in columns or "blob/idx" not in columns:
        rows = next((f": its rows are {word} ({name})" for name, word in _OTHER_ROWS.items() if name in columns), "")
        raise UserError(f"{path} names no images (blob/path, blob/idx){rows}; give the file that has them, or join it "
                        "with --passthrough")
    if _POSE not in columns or _SHIFT not in columns:
        raise UserError(f"{path} has no 3-D poses ({_POSE}, {_SHIFT}): {_what_else(columns.array)}; give the particles "
                        "of a refinement, or join the file that has the poses with --passthrough")
    needed = {"ctf/df1_A": None, **{SUPPLIED[option][0]: option for option in SUPPLIED}}
    if columns.reading.no_ctf:
        needed = {"blob/psize_A": "pixel_size"}
    missing = [name for name in needed if name not in columns and name not in columns.supplied]
    options = ["--" + needed[name].replace("_", "-") for name in missing if needed[name]]
    if missing:
        raise UserError(
            f"{path}: columns are missing: {', '.join(missing)}; join the file that has them with --passthrough"
            + (f", or supply them (options {', '.join(options)})" if options else "")
            + ("; --no-ctf where the images have no CTF" if "ctf/df1_A" in missing else "")
        )


def _what_else(array: np.ndarray) -> str:
    """What alignments a file without alignments3D/pose has."""
    names = array.dtype.names
    several = ("alignments_class", "alignments3D_multi")
    classes = sorted({name.split("/")[0] for name in names if name.startswith(several)})
    if classes:
        found = _classes(array)
        counts = "" if found is None else "; " + ", ".join(f"class {k}: {n}" for k, n in zip(
            *(part.tolist() for part in np.unique(found[1], return_counts=True)))) + " particles"
        return (f"its poses are those of several classes ({', '.join(classes)}{counts}); cryoSPARC also writes the "
                f"particles of each class to a separate file")
    if any(name.startswith("alignments2D/") for name in names):
        return "it has 2-D alignments only (alignments2D, of a 2-D classification)"
    return "it has no alignments"


def _images(columns: CsColumns) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(section, index into paths, paths); a leading > marks paths of an exported job."""
    number, paths = columns.number("blob/idx"), columns.array["blob/path"]
    if paths.dtype.kind not in "SU":
        raise UserError(f"{columns.path}: blob/path is {paths.dtype}, expected text")
    stack, found = pd.factorize(paths)
    stacks = [(name.decode("utf-8", UNCHANGED) if isinstance(name, bytes) else str(name)).lstrip(">") for name in found]
    bad = (number < 0) | np.array([not name for name in stacks])[stack]
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: image {number[row]:g} of {stacks[stack[row]]!r}; blob/path or "
                        "blob/idx is not set")
    return number.astype(np.int64), stack.astype(np.int64), stacks


def relion_image_names(path: Path, array: np.ndarray) -> list[str]:
    """``000001@folder/stack.mrcs`` of each particle.
    RELION takes a .mrc file for a map unless the name ends so: ``….mrc:mrcs``."""
    image, stack, stacks = _images(CsColumns(path, array, {}))
    stacks = [name if name.endswith(".mrcs") else f"{name}:mrcs" for name in stacks]
    return [f"{i + 1:06d}@{stacks[s]}" for i, s in zip(image.tolist(), stack.tolist())]


def _image_size(columns: CsColumns) -> int | None:
    if "blob/shape" not in columns:
        return None
    shape = columns.number("blob/shape", width=(2,))
    if (shape != shape[0, 0]).any():
        row = int(np.flatnonzero((shape != shape[0, 0]).any(axis=1))[0])
        raise UserError(
            f"{columns.path}, row {row}: blob/shape is {shape[row, 1]:g} x {shape[row, 0]:g}, but {shape[0, 0]:g} in "
            "row 0; particles of one file need one square box: give --rescale common, or import them apart"
        )
    return int(shape[0, 0])


def _calibration(columns: CsColumns) -> np.ndarray | None:
    """(m,) the supplied pixel size over the file's; None where nothing was supplied or the file says none."""
    if "blob/psize_A" not in columns.supplied or "blob/psize_A" not in columns:
        return None
    stored = columns.array["blob/psize_A"].astype(np.float64)
    return columns.number("blob/psize_A") / stored if (np.isfinite(stored) & (stored > 0)).all() else None


def _pose(columns: CsColumns) -> Pose:
    """Rotations are transposed: cryoSPARC's vector turns the map, R turns its coordinates."""
    vector = columns.number(_POSE, width=(3,))
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    long = int((angle > _LONGEST_VECTOR).sum())
    if 2 * long > len(vector) and "angles" not in columns.reading.units:
        raise UserError(f"{columns.path}: {long} of {len(vector)} rotation vectors ({_POSE}) are longer than two "
                        f"turns, up to {angle.max():.0f}: they are not in radians. Give --unit angles=degree")
    if (beyond := angle[:, 0] > _TURN).any():
        columns.warnings.append(f"{int(beyond.sum())} of {len(vector)} rotation vectors ({_POSE}) are longer than a "
                                f"turn (first: row {int(beyond.argmax())}): where these are in degrees, import them "
                                "apart (--select) with --unit angles=degree")
    quaternion = np.concatenate([np.cos(angle / 2), -0.5 * np.sinc(angle / (2 * np.pi)) * vector], axis=1)
    size, calibration = columns.number("blob/psize_A"), _calibration(columns)
    angstrom = np.ones(len(size)) if calibration is None else calibration
    own = angstrom if columns.reading.has_shift_unit else _shift_unit(columns)
    shift = columns.reading.shifts(columns.number(_SHIFT, width=(2,)), own, angstrom, size)
    refuse_beyond(columns, _SHIFT, np.abs(shift).max(axis=1), FARTHEST, "Å of the images")
    return Pose(quaternion, shift)


def _shift_unit(columns: CsColumns) -> np.ndarray:
    """(m,) Å of alignments3D/shift's unit; shifts keep their length in pixels of the images when a pixel size is
    supplied."""
    size, calibration = columns.number("blob/psize_A"), _calibration(columns)
    if _PIXEL not in columns:
        columns.notes.append(f"there is no {_PIXEL}: shifts are taken in pixels of blob/psize_A")
        return size
    pixel = columns.array[_PIXEL].astype(np.float64).reshape(-1)
    stored = size if calibration is None else columns.of_file("blob/psize_A")
    with np.errstate(divide="ignore", invalid="ignore"):
        bad = ~((pixel > 0) & (pixel / stored < _LARGEST_BINNING) & (stored / pixel < _LARGEST_BINNING))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{columns.path}, row {row}: {_PIXEL}, the pixel that alignments3D/shift counts in, is {pixel[row]:g} Å "
            f"where the images have {stored[row]:g} Å ({int(bad.sum())} such rows of {len(bad)}); where it was never "
            "filled in, give --unit shift=pixel (shifts in pixels of the images) or --unit shift=A"
        )
    return pixel if calibration is None else pixel * calibration


def _ctf(columns: CsColumns) -> np.ndarray:
    m = len(columns.array)
    if columns.reading.no_ctf:
        columns.notes.append("--no-ctf: no CTF is applied to the map's projections")
        return ctf_rows(m, voltage_kv=columns.number("ctf/accel_kv", 300.0), amplitude_contrast=1.0)
    if "alignments3D/alpha" in columns.numeric and (np.abs(columns.array["alignments3D/alpha"] - 1) > 1e-6).any():
        columns.notes.append("alignments3D/alpha (each particle's contrast) is not 1 everywhere; it is not applied")
    u = columns.number("ctf/df1_A")
    v = columns.number("ctf/df2_A") if "ctf/df2_A" in columns else u
    if "ctf/df2_A" not in columns:
        columns.notes.append("there is no ctf/df2_A: the defocus is ctf/df1_A in all directions")
    elif "ctf/df_angle_rad" not in columns and (u != v).any():
        columns.warnings.append(f"there is no ctf/df_angle_rad: astigmatism of up to {np.abs(u - v).max():.0f} Å is "
                                "taken as if ctf/df1_A were along x")
    return ctf_rows(
        m,
        voltage_kv=columns.number("ctf/accel_kv"),
        defocus_u=u,
        defocus_v=v,
        astigmatism=columns.number("ctf/df_angle_rad"),
        cs_mm=columns.number("ctf/cs_mm"),
        amplitude_contrast=columns.number("ctf/amp_contrast"),
        phase_shift=columns.number("ctf/phase_shift_rad"),
        bfactor=columns.number("ctf/bfactor"),
        scale=columns.number("ctf/scale", 1.0),
    )


def _halves(columns: CsColumns) -> np.ndarray:
    """(m,) uint8; 0 for all where every particle is in one split, as before any refinement."""
    if _SPLIT not in columns:
        return np.zeros(len(columns.array), np.uint8)
    split = columns.number(_SPLIT)
    bad = ~np.isin(split, (0, 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: {_SPLIT} is {split[row]:g}, expected 0 or 1; --new-halves draws "
                        "half sets whatever the file says")
    if (split == split[0]).all() and len(split) > 1:
        return np.zeros(len(split), np.uint8)
    return (split + 1).astype(np.uint8)


def _optics_groups(columns: CsColumns) -> np.ndarray:
    """(m,) int32: exposure groups count from 0, RELION's optics groups from 1."""
    group = columns.number("ctf/exp_group_id")
    if group.max() >= 2**31 - 1:
        return (1 + np.unique(group, return_inverse=True)[1]).astype(np.int32)
    return (group + 1).astype(np.int32)


def _signs(columns: CsColumns) -> tuple[str, np.ndarray | None]:
    """(contrast, images to negate): a file of both signs is made white throughout."""
    sign = columns.number("blob/sign", 1.0)
    bad = ~np.isin(sign, (-1, 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: blob/sign is {sign[row]:g}, expected 1 (protein bright) or -1 "
                        f"(dark) ({int(bad.sum())} such rows of {len(bad)})")
    dark = sign < 0
    if dark.all() or not dark.any():
        return ("black" if dark.all() else "white"), None
    columns.notes.append(f"blob/sign is -1 for {int(dark.sum())} of {len(dark)} images; these are negated, so that "
                         "protein is bright in all")
    return "white", dark


def _classes(array: np.ndarray) -> tuple[str, np.ndarray] | None:
    """(--select of a class, (m,) int64 3-D class of each particle, the most probable where only that is known);
    None without."""
    names = array.dtype.names
    for name in names:
        if name.startswith("alignments") and not name.startswith("alignments2D") and name.endswith("/class"):
            if not array.dtype[name].shape and array.dtype[name].kind in "iu":
                return f"{name}={{}}", array[name].astype(np.int64)
    for name in names:
        if name.endswith("/class_posterior") and len(array.dtype[name].shape) == 1 and array.dtype[name].shape[0] > 1:
            return f"{name}[{{}}]=0.5:", array[name].argmax(axis=1).astype(np.int64)
    return None


def with_own_uids(array: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The array with a new uid for each row that is a copy of another, (m,) bool:
    by it cryosparc-tools tells particles apart.

    The new one is mixed from the row's own (splitmix64; Steele et al. 2014),
    so that it is the same on any number of ranks.
    """
    if not copies.any() or "uid" not in (array.dtype.names or ()):
        return array
    array = array.copy()
    mixed = array["uid"][copies].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    array["uid"][copies] = mixed ^ (mixed >> np.uint64(31))
    return array
