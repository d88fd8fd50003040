"""Arrays that a script gives for particles: images, half sets, rows, new poses; each is checked before it is used."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.arrays import Stack
from mpirecon.model.devices import on_host
from mpirecon.model.pose import Pose

_SOME = 256  # images that tell of what size the numbers of all are


def images_of(given, pixel_size: float) -> Stack:
    """A stack of one image or more; whole numbers and other byte orders become float32."""
    if isinstance(given, np.ma.MaskedArray):
        raise UserError("Particles: images are a masked array, and masked pixels have no values; give them with "
                        "images.filled(…)")
    images = on_host(given)
    if images.dtype == bool:
        raise UserError("Particles: images of True and False hold no densities; if 0 and 1 are meant, give "
                        "images.astype('float32')")
    if images.dtype.kind in "iu" or (images.dtype.kind == "f" and not images.dtype.isnative):
        images = images.astype(np.float32)
    stack = Stack(images, pixel_size)
    if not len(stack):
        raise UserError("Particles: there are 0 images; at least 1 is needed")
    return stack


def some_of(images: np.ndarray) -> np.ndarray:
    """Some of the images, evenly spread, that tell of what size their numbers are."""
    return images[np.unique(np.linspace(0, len(images) - 1, min(len(images), _SOME)).astype(np.int64))]


def pose_of(given, m: int) -> Pose:
    """The poses of m images."""
    if not isinstance(given, Pose):
        raise UserError(f"Particles: pose must be a Pose, got {type(given).__name__}; make one of RELION's angles by "
                        "Pose.from_euler(rot, tilt, psi, shift), or of quaternions by Pose(quaternion, shift)")
    if len(given) != m:
        raise UserError(f"Particles: {m} images, but {len(given)} poses")
    return given


def whole_numbers(name: str, given, m: int) -> np.ndarray:
    """Whole numbers, one for each of m particles."""
    values = _array(given, f"Particles: {name}", f"{m} whole numbers")
    if values.shape != (m,) or not (values.dtype.kind in "iu" or (values.dtype.kind == "f"
                                                                  and (values == np.rint(values)).all())):
        raise UserError(f"Particles: {name} must be {m} whole numbers, one for each image, got {_about(given)}")
    if m and not (np.iinfo(np.int32).min <= values.min() and values.max() <= np.iinfo(np.int32).max):
        raise UserError(f"Particles: {name} runs from {values.min():g} to {values.max():g}; numbers so large are none "
                        "of it")
    return values.astype(np.int64)


def half_sets(given, m: int) -> np.ndarray:
    """Half sets of m particles, 1 or 2."""
    half = whole_numbers("half", given, m)
    wrong = np.flatnonzero((half != 1) & (half != 2))
    if wrong.size:
        raise UserError(f"Particles: half of particle {wrong[0]} is {half[wrong[0]]}, expected 1 or 2")
    return half


def rows_of(given, m: int) -> np.ndarray:
    """(k,) int64 rows of m particles: of a list of row numbers, or (m,) bool; negative ones count from the end."""
    expected = f"row numbers from 0 to {m - 1}, or {m} times True or False"
    rows = _array(given, "rows", expected)
    if rows.dtype == bool and rows.shape == (m,):
        return np.flatnonzero(rows)
    if rows.shape == (0,):
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UserError(f"rows: expected {expected}, got {_about(given)}")
    signed, rows = rows.dtype.kind == "i", rows.astype(np.int64)  # of int8, none is as large as m may be
    rows = np.where(signed & (rows < 0), rows + m, rows)
    if not (0 <= rows.min() and rows.max() < m):
        raise UserError(f"rows: expected {expected}; row {rows[(rows < 0) | (rows >= m)][0]} is none of them")
    return rows


def slice_of(given: slice, m: int) -> slice | np.ndarray:
    """A slice of m particles from first to last, as such; backwards, as the numbers of its rows."""
    try:
        start, stop, step = given.indices(m)
    except (TypeError, ValueError):
        raise UserError(f"rows: expected a slice of whole numbers, got {given}") from None
    return slice(start, stop, step) if step > 0 else np.arange(start, stop, step)


def new_poses(table, m: int) -> tuple[np.ndarray, Pose]:
    """Rows of m particles, each once, and their poses; `table` has id, quaternion and shift."""
    wanted = ("id", "quaternion", "shift")
    names = table.dtype.names if isinstance(table, np.ndarray) else table.keys() if isinstance(table, dict) else None
    if names is None or not set(wanted) <= set(names):
        with_names = "" if names is None else f" with {sorted(names)}"
        raise UserError(f"with_poses: expected a structured array (or a dict) with {', '.join(wanted)}, as "
                        f"search_poses returns it, got {_about(table)}{with_names}")
    rows = rows_of(table["id"], m)
    found, count = np.unique(rows, return_counts=True)
    if (count > 1).any():
        raise UserError(f"with_poses: particle {found[count > 1][0]} is in the table {count.max()} times; each may "
                        "have one pose")
    pose = Pose(table["quaternion"], table["shift"])
    if len(pose) != len(rows):
        raise UserError(f"with_poses: {len(rows)} ids, but {len(pose)} poses")
    return rows, pose


def _array(given, what: str, expected: str) -> np.ndarray:
    try:
        return np.asarray(on_host(given))
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected {expected}, got {_about(given)}") from None


def _about(given) -> str:
    """What was given, in words."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        return type(given).__name__
    if array.ndim == 0 or array.dtype.kind in "OUS":
        return repr(given) if array.ndim == 0 and array.dtype.kind in "iufbU" else type(given).__name__
    return f"an array of {array.dtype} of shape {array.shape}"
