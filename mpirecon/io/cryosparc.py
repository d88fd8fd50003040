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

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc_optics import DEFAULT, about, own_optics
from mpirecon.io.particle_table import ParticleTable
from mpirecon.io.reading import CTF_REMEDIES, Reading, settle_state
from mpirecon.io.relations import cs_relations
from mpirecon.io.row_selection import ALL_ROWS, RowOptions, select_cs_rows
from mpirecon.io.traps import unapplied_symmetry
from mpirecon.model.optics import check_ctf, make_ctf
from mpirecon.model.pose import Pose

#: option → (column it supplies, unit)
SUPPLIED = {
    "voltage": ("ctf/accel_kv", "kV"),
    "cs": ("ctf/cs_mm", "mm"),
    "amplitude_contrast": ("ctf/amp_contrast", "fraction"),
    "pixel_size": ("blob/psize_A", "Å"),
}
_POSE, _SHIFT, _SPLIT = "alignments3D/pose", "alignments3D/shift", "alignments3D/split"
_PIXEL = "alignments3D/psize_A"

#: column → what it is a quantity of, and cryoSPARC's unit for it (reading.UNITS)
_QUANTITIES = {
    _POSE: ("angles", "radian"), "ctf/df1_A": ("defocus", "A"), "ctf/df2_A": ("defocus", "A"),
    "ctf/df_angle_rad": ("defocus-angle", "radian"), "ctf/phase_shift_rad": ("phase-shift", "radian"), "ctf/accel_kv": ("voltage", "kV"),
    "ctf/amp_contrast": ("amplitude-contrast", "fraction"),
}

#: a refinement's pixel is within this factor of that of the images, and no rotation vector is longer than this
_LARGEST_BINNING = 50.0
_LONGEST_VECTOR = 4 * np.pi

#: what the rows are of a file without particle images: column → word
_OTHER_ROWS = {
    "movie_blob/path": "movies", "micrograph_blob/path": "micrographs", "map/path": "volumes", "volume/path": "volumes",
    "location/center_x_frac": "picks on micrographs", "class2D/idx": "2-D classes", "templates/path": "templates",
}
_SCORES = ("alignments3D/cross_cor", "alignments3D/alpha")
_STREAM = b"\x94CSDAT"  # how cryosparc-tools begins its other format


def read_cs(path: str | os.PathLike) -> np.ndarray:
    """The structured array (m,) of a .cs file.

    Raises
    ------
    UserError
        naming the file when it is missing, of another format, damaged, or holds no particles.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(_STREAM))
            if start == _STREAM:
                raise UserError(f"{path} is in cryoSPARC's stream format (CSDAT); save it as NumPy, for example with "
                                "cryosparc-tools: Dataset.load(…).save(…)")
            if not start.startswith(b"\x93NUMPY"):
                raise UserError(f"{path} is not a .cs file: it is no NumPy array")
            file.seek(0)
            array = _read_array(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if array.dtype.names is None or array.ndim != 1:
        raise UserError(f"{path} is not a .cs file: a table was expected, this is {array.dtype} {array.shape}")
    if not len(array):
        raise UserError(f"{path} has no particles")
    return array


def _read_array(file: BinaryIO, path: Path) -> np.ndarray:
    """The array of a .npy file that is open at its beginning; no more is read than the file has."""
    try:  # NumPy parses the header as Python: what a changed byte may raise is any of Python's errors
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        wanted = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and wanted > (there := os.fstat(file.fileno()).st_size - file.tell()):
            raise ValueError(f"{shape} rows of {dtype.itemsize} bytes are {wanted} bytes, and {there} are there")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        objects = "Object arrays" in str(error)
        reason = "it holds Python objects" if objects else f"it is damaged or truncated ({str(error)[:120]})"
        raise UserError(f"{path} cannot be read as a .cs file: {reason}") from error


def join_passthrough(array: np.ndarray, path: Path, passthrough: str | os.PathLike) -> np.ndarray:
    """`array` with the columns that only the passthrough file has, row by row of the same uid.

    Rows keep their order and their own columns; the passthrough's other rows are left out.

    Raises
    ------
    UserError
        when either lacks a column uid, a uid occurs twice in the passthrough, or a particle is not in it.
    """
    other = read_cs(passthrough)
    for file, table in ((path, array), (passthrough, other)):
        if "uid" not in table.dtype.names:
            raise UserError(f"{file} has no column uid, by which --passthrough joins its files")
    index = pd.Index(other["uid"])
    if index.has_duplicates:
        raise UserError(f"{passthrough}: the uid {index[index.duplicated()][0]} occurs twice")
    rows = index.get_indexer(array["uid"])
    if (rows < 0).any():
        row = int(np.flatnonzero(rows < 0)[0])
        raise UserError(
            f"{passthrough} lacks {int((rows < 0).sum())} of the {len(array)} particles of {path} (first: row {row}, "
            f"uid {array['uid'][row]}); is it the passthrough of the same job?"
        )
    new = {name: other[name][rows] for name in other.dtype.names if name not in array.dtype.names}
    return with_columns(array, new)


def with_columns(array: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """A structured array with these columns replaced, or added at the end in the type they come in."""
    added = [name for name in columns if name not in array.dtype.names]
    kept = [(name, array.dtype[name]) for name in array.dtype.names]
    out = np.empty(len(array), kept + [(name, columns[name].dtype, columns[name].shape[1:]) for name in added])
    for name in out.dtype.names:
        out[name] = columns[name] if name in columns else array[name]
    return out


def read_cryosparc(
    path: str | os.PathLike, passthrough: Sequence[str | os.PathLike] = (), mixed: bool = False, aberrations: str = DEFAULT,
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
    columns = _Columns(path, array, supplied, reading)
    _require(columns)
    remedy = "particles of one file need one pixel size: give --rescale common, or import them apart"
    pixel_size = columns.uniform("blob/psize_A", remedy, tolerance=np.inf if mixed else 1e-4)
    half = np.zeros(len(array), np.uint8) if rows.new_halves else _halves(columns)
    image, stack, stacks = _images(columns)
    contrast, negate = _signs(columns)
    calibration = _calibration(columns)
    premultiplied, phase_flipped = settle_state(bool(reading.premultiplied), bool(reading.phase_flipped), reading, columns.notes)
    pose, micrograph, classes = _pose(columns), _micrographs(array), _classes(array)
    found = ParticleTable(
        path=path, lines=np.arange(len(array)) if selected is None else selected.rows, unit="row", pixel_size=pixel_size,
        pixel_sizes=columns.number("blob/psize_A") if mixed else None, image_size=None if mixed else _image_size(columns),
        image_sizes=columns.number("blob/shape", width=(2,))[:, 0] if mixed and "blob/shape" in columns else None,
        pose=pose, calibration=calibration, ctf=_ctf(columns), half=half, rows=None if selected is None else selected.rows,
        relations=cs_relations(array, _picks(path, array, micrograph, pixel_size), pose.shift, rows.family, path),
        optics_group=_optics_groups(columns), ctf_premultiplied=premultiplied, ctf_phase_flipped=phase_flipped, image=image,
        stack=stack, stacks=stacks,
        half_label=_SPLIT, arrays={"particles": array}, contrast=contrast, negate=negate,
        micrograph=micrograph, classes=None if classes is None else classes[1], class_select="" if classes is None else classes[0],
        scores={name: columns.number(name) for name in _SCORES if name in array.dtype.names},
        own=own_optics(columns, "none" if reading.no_ctf else aberrations),
    )
    check_ctf(found.ctf, found.describe, CTF_REMEDIES)
    found.notes = [*([] if selected is None else selected.notes), *dict.fromkeys(columns.notes)]
    found.notes += unapplied_symmetry(array.dtype.names)
    found.warnings = [*dict.fromkeys(columns.warnings), *about(columns, aberrations)]
    return found


class _Columns:
    """Numeric columns of the array, with what the user supplied instead."""

    def __init__(self, path: Path, array: np.ndarray, supplied: dict, reading: Reading = Reading()) -> None:
        self.path, self.array, self.reading = path, array, reading
        self.supplied = {SUPPLIED[o][0]: (o, float(v)) for o, v in supplied.items() if v is not None}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.array.dtype.names

    def number(self, name: str, default: float = 0.0, width: tuple[int, ...] = ()) -> np.ndarray:
        """(m, *width) float64: supplied, of the file, or the default."""
        shape = (len(self.array), *width)
        if name in self.supplied:
            option, value = self.supplied[name]
            if name in self:
                self.notes.append(f"--{option.replace('_', '-')} {value:g} is used instead of {name} of the file")
            return np.full(shape, value)
        return self.of_file(name, default, width)

    def of_file(self, name: str, default: float = 0.0, width: tuple[int, ...] = ()) -> np.ndarray:
        """(m, *width) float64, as `number`, but whatever was supplied."""
        shape = (len(self.array), *width)
        if name not in self:
            return np.full(shape, default)
        values = self.array[name]
        if values.shape != shape or values.dtype.kind not in "iufb":
            raise UserError(f"{self.path}: {name} is {values.dtype} {values.shape}, expected numbers of shape {shape}")
        values = values.astype(np.float64)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            option = next((option for option, (supplies, _) in SUPPLIED.items() if supplies == name), None)
            remedy = "" if option is None else f"; --{option.replace('_', '-')} gives one for all"
            raise UserError(f"{self.path}, row {row}: {name} is {values[row]}, expected finite numbers ({int(bad.sum())} such "
                            f"rows){remedy}")
        return values * self.reading.factor(*_QUANTITIES[name]) if name in _QUANTITIES else values

    def uniform(self, name: str, remedy: str, tolerance: float = 1e-4) -> float:
        """The one positive value that all particles share, within a relative tolerance."""
        values = self.number(name)
        positive = f"expected a positive number ({int((values <= 0).sum())} such rows); --pixel-size gives one for all"
        for bad, why in ((values <= 0, positive),
                         (np.abs(values - values[0]) > tolerance * values[0], f"but {values[0]:g} in row 0; {remedy}")):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise UserError(f"{self.path}, row {row}: {name} is {values[row]:g}, {why}")
        return float(values[0])


def _require(columns: _Columns) -> None:
    """Refuse a file without images, 3-D poses or CTF, saying what it seems to be and what helps."""
    path = columns.path
    if "blob/path" not in columns or "blob/idx" not in columns:
        rows = next((f": its rows are {word} ({name})" for name, word in _OTHER_ROWS.items() if name in columns), "")
        raise UserError(f"{path} names no images (blob/path, blob/idx){rows}; give the file that has them, or join it with "
                        "--passthrough")
    if _POSE not in columns or _SHIFT not in columns:
        raise UserError(f"{path} has no 3-D poses ({_POSE}, {_SHIFT}): {_what_else(columns.array)}; give the particles of a "
                        "refinement, or join the file that has the poses with --passthrough")
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
        return (f"its poses are those of several classes ({', '.join(classes)}{counts}); cryoSPARC writes the particles of each class to a "
                "file of its own")
    if any(name.startswith("alignments2D/") for name in names):
        return "it has 2-D alignments only (alignments2D, of a 2-D classification)"
    return "it has no alignments"


def _images(columns: _Columns) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(section, index into paths, paths); a leading > marks paths of an exported job."""
    number, paths = columns.number("blob/idx"), columns.array["blob/path"]
    if paths.dtype.kind not in "SU":
        raise UserError(f"{columns.path}: blob/path is {paths.dtype}, expected text")
    stack, found = pd.factorize(paths)
    try:
        stacks = [(name.decode() if isinstance(name, bytes) else str(name)).lstrip(">") for name in found]
    except UnicodeDecodeError as error:
        raise UserError(f"{columns.path}: a blob/path is not UTF-8 text ({error})") from error
    bad = (number < 0) | np.array([not name for name in stacks])[stack]
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: image {number[row]:g} of {stacks[stack[row]]!r}; blob/path or "
                        "blob/idx is not set")
    return number.astype(np.int64), stack.astype(np.int64), stacks


def relion_image_names(path: Path, array: np.ndarray) -> list[str]:
    """``000001@folder/stack.mrcs`` of each particle. RELION takes a .mrc file for a map unless told: ``….mrc:mrcs``."""
    image, stack, stacks = _images(_Columns(path, array, {}))
    stacks = [name if name.endswith(".mrcs") else f"{name}:mrcs" for name in stacks]
    return [f"{i + 1:06d}@{stacks[s]}" for i, s in zip(image.tolist(), stack.tolist())]


def micrographs_of(array: np.ndarray) -> tuple[list[str] | None, np.ndarray | None]:
    """(path of each particle's micrograph, its Å per pixel (m,) float64), each None where the file does not tell."""
    names = array.dtype.names
    path = next((name for name in ("location/micrograph_path", "micrograph_blob/path") if name in names), None)
    size = next((name for name in ("location/micrograph_psize_A", "micrograph_blob/psize_A") if name in names), None)
    paths = None
    if path is not None and array.dtype[path].kind in "SU":
        known = {name: (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).lstrip(">")
                 for name in np.unique(array[path]).tolist()}
        paths = [known[name] for name in array[path].tolist()]
    sizes = None if size is None else array[size].astype(np.float64)
    return paths, sizes if sizes is not None and (sizes > 0).all() else None


def coordinates_of(path: Path, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, rows of the micrograph), each (m,) float64 in the pixels of the micrograph that the .cs file names.

    Raises
    ------
    UserError
        naming the columns that are missing.
    """
    shape = next((name for name in ("location/micrograph_shape", "micrograph_blob/shape") if name in array.dtype.names), None)
    fraction = ("location/center_x_frac", "location/center_y_frac")
    if shape is None or any(name not in array.dtype.names for name in fraction):
        raise UserError(f"{path} knows no places on micrographs (location/center_x_frac, center_y_frac, micrograph_shape); import "
                        "with the --passthrough that has them")
    size = array[shape].astype(np.float64)  # rows, columns
    x, y = (array[name].astype(np.float64) for name in fraction)
    return x * size[:, 1], y * size[:, 0], size[:, 0]


def _image_size(columns: _Columns) -> int | None:
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


def _calibration(columns: _Columns) -> np.ndarray | None:
    """(m,) the supplied pixel size over the file's; None where nothing was supplied or the file says none."""
    if "blob/psize_A" not in columns.supplied or "blob/psize_A" not in columns:
        return None
    stored = columns.array["blob/psize_A"].astype(np.float64)
    return columns.number("blob/psize_A") / stored if (np.isfinite(stored) & (stored > 0)).all() else None


def _pose(columns: _Columns) -> Pose:
    """Rotations are transposed: cryoSPARC's vector turns the map, R turns its coordinates."""
    vector = columns.number(_POSE, width=(3,))
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    long = int((angle > _LONGEST_VECTOR).sum())
    if 2 * long > len(vector) and "angles" not in columns.reading.units:
        raise UserError(f"{columns.path}: {long} of {len(vector)} rotation vectors ({_POSE}) are longer than two turns, up to "
                        f"{angle.max():.0f}: they are not in radians. Give --unit angles=degree")
    quaternion = np.concatenate([np.cos(angle / 2), -0.5 * np.sinc(angle / (2 * np.pi)) * vector], axis=1)
    shift = columns.number(_SHIFT, width=(2,)) * _shift_unit(columns)[:, None]
    return Pose(quaternion, 0.0 - shift)


def _shift_unit(columns: _Columns) -> np.ndarray:
    """(m,) Å of alignments3D/shift's unit; shifts keep their length in pixels of the images when a pixel size is supplied."""
    size, calibration, unit = columns.number("blob/psize_A"), _calibration(columns), columns.reading.units.get("shift")
    if unit == "pixel":
        return size
    if unit == "A":
        return np.ones(len(size)) if calibration is None else calibration
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
            f"{columns.path}, row {row}: {_PIXEL}, the pixel that alignments3D/shift counts in, is {pixel[row]:g} Å where the images "
            f"have {stored[row]:g} Å ({int(bad.sum())} such rows of {len(bad)}); where it was never filled in, give --unit "
            "shift=pixel (shifts in pixels of the images) or --unit shift=A"
        )
    return pixel if calibration is None else pixel * calibration


def _ctf(columns: _Columns) -> np.ndarray:
    m = len(columns.array)
    if columns.reading.no_ctf:
        columns.notes.append("--no-ctf: no CTF is applied to the map's projections")
        return make_ctf(m, voltage_kv=columns.number("ctf/accel_kv", 300.0), amplitude_contrast=1.0)
    if "alignments3D/alpha" in columns and (np.abs(columns.number("alignments3D/alpha") - 1) > 1e-6).any():
        columns.notes.append("alignments3D/alpha (each particle's contrast) is not 1 everywhere; it is not applied")
    u = columns.number("ctf/df1_A")
    v = columns.number("ctf/df2_A") if "ctf/df2_A" in columns else u
    if "ctf/df2_A" not in columns:
        columns.notes.append("there is no ctf/df2_A: the defocus is ctf/df1_A in all directions")
    elif "ctf/df_angle_rad" not in columns and (u != v).any():
        columns.warnings.append(f"there is no ctf/df_angle_rad: astigmatism of up to {np.abs(u - v).max():.0f} Å is taken as if "
                                "ctf/df1_A were along x")
    return make_ctf(
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


def _halves(columns: _Columns) -> np.ndarray:
    """(m,) uint8; 0 for all where every particle is in one split, as before any refinement."""
    if _SPLIT not in columns:
        return np.zeros(len(columns.array), np.uint8)
    split = columns.number(_SPLIT)
    bad = ~np.isin(split, (0, 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: {_SPLIT} is {split[row]:g}, expected 0 or 1; --new-halves "
                        "draws half sets whatever the file says")
    if (split == split[0]).all() and len(split) > 1:
        return np.zeros(len(split), np.uint8)
    return (split + 1).astype(np.uint8)


def _optics_groups(columns: _Columns) -> np.ndarray:
    """(m,) int32: exposure groups count from 0, RELION's optics groups from 1."""
    group = columns.number("ctf/exp_group_id")
    if group.max() >= 2**31 - 1:
        return (1 + np.unique(group, return_inverse=True)[1]).astype(np.int32)
    return (group + 1).astype(np.int32)


def _signs(columns: _Columns) -> tuple[str, np.ndarray | None]:
    """(contrast, images to negate): a file of both signs is made white throughout."""
    sign = columns.number("blob/sign", 1.0)
    bad = ~np.isin(sign, (-1, 1))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, row {row}: blob/sign is {sign[row]:g}, expected 1 (protein bright) or -1 (dark) "
                        f"({int(bad.sum())} such rows of {len(bad)})")
    dark = sign < 0
    if dark.all() or not dark.any():
        return ("black" if dark.all() else "white"), None
    columns.notes.append(f"blob/sign is -1 for {int(dark.sum())} of {len(dark)} images; these are negated, so that "
                         "protein is bright in all")
    return "white", dark


#: units that fractions of an unknown micrograph are counted in, and Å of such a unit, which put no place near another
_FINE, _FAR = 1e6, 1e3


def _picks(
    path: Path, array: np.ndarray, micrograph: np.ndarray | None, pixel_size: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(micrograph, place (m, 2) on it in pixels, Å per pixel) of each particle; None where the file does not say."""
    if micrograph is None or "location/center_x_frac" not in array.dtype.names:
        return None
    try:
        x, y, _ = coordinates_of(path, array)
    except UserError:  # without the micrograph's size: equal places are equal, and none is near another
        x, y = (_FINE * array[f"location/center_{axis}_frac"].astype(np.float64) for axis in "xy")
        return micrograph + 1, np.stack([x, y], axis=1), np.full(len(array), _FAR)
    sizes = micrographs_of(array)[1]
    return micrograph + 1, np.stack([x, y], axis=1), np.full(len(array), pixel_size) if sizes is None else sizes


def _classes(array: np.ndarray) -> tuple[str, np.ndarray] | None:
    """(--select of a class, (m,) int64 3-D class of each particle, the most probable where only that is known); None without."""
    names = array.dtype.names
    for name in names:
        if name.startswith("alignments") and not name.startswith("alignments2D") and name.endswith("/class"):
            if not array.dtype[name].shape and array.dtype[name].kind in "iu":
                return f"{name}={{}}", array[name].astype(np.int64)
    for name in names:
        if name.endswith("/class_posterior") and len(array.dtype[name].shape) == 1 and array.dtype[name].shape[0] > 1:
            return f"{name}[{{}}]=0.5:", array[name].argmax(axis=1).astype(np.int64)
    return None


def _micrographs(array: np.ndarray) -> np.ndarray | None:
    for name in ("location/micrograph_uid", "location/micrograph_path"):
        if name in array.dtype.names:
            return pd.factorize(array[name])[0].astype(np.int64)
    return None
