"""Where the particles of a .cs file are: their micrographs, and the places on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.file_names import UNCHANGED

#: units that fractions of an unknown micrograph are counted in, and Å of such a unit, which put no place near another
_FINE, _FAR = 1e6, 1e3


def micrographs_of(array: np.ndarray) -> tuple[list[str] | None, np.ndarray | None]:
    """(path of each particle's micrograph, its Å per pixel (m,) float64), each None where the file does not say."""
    names = array.dtype.names
    path = next((name for name in ("location/micrograph_path", "micrograph_blob/path") if name in names), None)
    size = next((name for name in ("location/micrograph_psize_A", "micrograph_blob/psize_A") if name in names), None)
    paths = None
    if path is not None and array.dtype[path].kind in "SU":
        known = {name: (name.decode("utf-8", UNCHANGED) if isinstance(name, bytes) else str(name)).lstrip(">")
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
    shape = next((name for name in ("location/micrograph_shape", "micrograph_blob/shape") if name in array.dtype.names),
                 None)
    fraction = ("location/center_x_frac", "location/center_y_frac")
    if shape is None or any(name not in array.dtype.names for name in fraction):
        raise UserError(f"{path} knows no places on micrographs (location/center_x_frac, center_y_frac, "
                        "micrograph_shape); import with the --passthrough that has them")
    size = array[shape].astype(np.float64)  # rows, columns
    x, y = (array[name].astype(np.float64) for name in fraction)
    return x * size[:, 1], y * size[:, 0], size[:, 0]


def picks_of(
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


def micrograph_numbers(array: np.ndarray) -> np.ndarray | None:
    """Number of each particle's micrograph, (m,) int64; None where the file does not say."""
    for name in ("location/micrograph_uid", "location/micrograph_path"):
        if name in array.dtype.names:
            return pd.factorize(array[name])[0].astype(np.int64)
    return None
