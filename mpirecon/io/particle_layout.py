"""What a particle file holds: its datasets and attributes, and whether they are what they must be."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.hdf5 import attributes_of
from mpirecon.io.own_files import own_format
from mpirecon.model import CTF_DTYPE

FORMAT = "mpirecon-particles"
VERSION = 1
_UNIT = 1e-3  # by which a stored quaternion's length may differ from 1

#: dataset → (shape after the particle axis, type); images and the optional ones are checked apart
DATASETS = {
    "quaternion": ((4,), np.dtype("f8")),
    "shift": ((2,), np.dtype("f8")),
    "ctf": ((), CTF_DTYPE),
    "half": ((), np.dtype("u1")),
    "optics_group": ((), np.dtype("i4")),
}
#: likewise, of the fields that record simulated errors
TRUTH = {
    "pose_error": ((), np.dtype("bool")),
    "true_quaternion": ((4,), np.dtype("f8")),
    "true_shift": ((2,), np.dtype("f8")),
    "true_defocus": ((2,), np.dtype("f8")),
    "planted_orientation": ((), np.dtype("bool")),
    "planted_offset": ((), np.dtype("bool")),
    "planted_defocus": ((), np.dtype("bool")),
    "planted_hand": ((), np.dtype("bool")),
    "duplicate_of": ((), np.dtype("i8")),
}


def checked_pixel_size(value, path: Path) -> float:
    """The pixel size, Å. UserError where the attribute is no positive number."""
    if (
        np.ndim(value)
        or not np.issubdtype(np.asarray(value).dtype, np.number)
        or not (np.isfinite(value) and value > 0)
    ):
        raise UserError(f"{path}: the attribute pixel_size is {value}, expected a positive number of Å")
    return float(value)


def check_lengths(quaternion: np.ndarray) -> None:
    """Refuse quaternions that were unit quaternions when they were stored."""
    odd = ~(np.abs(np.linalg.norm(quaternion, axis=1) - 1) < _UNIT)
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        raise UserError(f"the quaternion of particle {row} is {quaternion[row].tolist()}, which is not of length 1")


def checked_attributes(file: h5py.File, path: Path) -> dict:
    """The attributes of a particle file. UserError where it is none, or of another version."""
    found = attributes_of(file, path)
    if found.get("format") != FORMAT:
        if ours := own_format(found.get("format")):
            raise UserError(f"{path} is not a particle file: it is {ours}")
        raise UserError(
            f"{path} is not a particle file: its attribute format is {found.get('format')!r}, expected {FORMAT!r}; "
            "make one with mpirecon import or simulate"
        )
    if found.get("version") != VERSION:
        raise UserError(
            f"{path} has version {found.get('version')}, this mpirecon reads version {VERSION}; make it again"
        )
    for name in ("pixel_size", "ctf_premultiplied", "contrast"):
        if name not in found:
            raise UserError(f"{path}: the attribute {name} is missing; this particle file is incomplete")
    return found
