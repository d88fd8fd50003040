"""Pixel and box size of the images that a STAR file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.star_columns import StarColumns
from mpirecon.io.text_column import to_numbers

if TYPE_CHECKING:
    pass


def pixel_size_of(columns: StarColumns) -> float | np.ndarray:
    """Å per pixel of the images, one for all particles; (m,) where they may differ."""
    remedy = "particles of one file need one pixel size: give --rescale common, or import them apart"
    if columns.supplied.get("pixel_size") is not None or "rlnImagePixelSize" in columns:
        return _positive(columns, columns.number("rlnImagePixelSize"), "rlnImagePixelSize", remedy)
    found = {}
    if "rlnPixelSize" in columns:
        found["rlnPixelSize"] = _positive(columns, columns.number("rlnPixelSize"), "rlnPixelSize", remedy)
    if "rlnMagnification" in columns and "rlnDetectorPixelSize" in columns:
        name = "rlnDetectorPixelSize / rlnMagnification"
        with np.errstate(divide="ignore", invalid="ignore"):
            values = columns.number("rlnDetectorPixelSize") * 1e4 / columns.number("rlnMagnification")
        found[name] = _positive(columns, values, name, remedy)
    if not found:
        raise UserError(
            f"{columns.path}: no pixel size of the images (rlnImagePixelSize, rlnPixelSize, or rlnMagnification and "
            "rlnDetectorPixelSize); give --pixel-size in Å"
        )
    values = np.stack(list(np.broadcast_arrays(*found.values())))
    if (values.max(axis=0) > 1.005 * values.min(axis=0)).any():
        said = " and ".join(f"{np.ravel(value)[0]:g} Å from {name}" for name, value in found.items())
        raise UserError(f"{columns.path}: contradicting pixel sizes, {said}; give the right one with --pixel-size")
    return next(iter(found.values()))


def calibration_of(columns: StarColumns) -> np.ndarray | None:
    """(m,) the supplied pixel size over the table's; None where nothing was supplied or the table says none."""
    given = columns.supplied.get("pixel_size")
    if given is None:
        return None
    for labels in (("rlnImagePixelSize",), ("rlnPixelSize",), ("rlnDetectorPixelSize", "rlnMagnification")):
        if all(label in columns for label in labels):
            sizes = [columns.of_table(label) for label in labels]
            with np.errstate(divide="ignore", invalid="ignore"):
                size = sizes[0] if len(sizes) == 1 else sizes[0] * 1e4 / sizes[1]
                found = given / size
            if (np.isfinite(found) & (found > 0)).all():
                return found
    return None


def _positive(columns: StarColumns, values: np.ndarray, name: str, remedy: str) -> float | np.ndarray:
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{columns.path}, line {columns.particles.index[row]}: the pixel size from {name} is "
                        f"{values[row]:g} Å, expected a positive number; give --pixel-size")
    return values if columns.mixed else columns.uniform(values, f"the pixel size ({name})", remedy, tolerance=1e-4)


def image_size_of(columns: StarColumns) -> int | None:
    if "rlnImageSize" not in columns:
        return None
    remedy = "particles of one file need one box size: give --rescale common, or import them apart"
    return int(columns.uniform(columns.number("rlnImageSize"), "rlnImageSize", remedy))


def micrograph_pixel_of(columns: StarColumns, pixel_size: float | np.ndarray) -> np.ndarray:
    """(m,) Å per pixel that coordinates are counted in; that of the images where the table does not say."""
    label = "rlnMicrographOriginalPixelSize"
    if label in columns.particles:
        size = to_numbers(columns.particles[label])
    elif columns.optics is not None and label in columns.optics:
        size = to_numbers(columns.optics[label])[columns.optics_row]
    else:
        size = np.zeros(len(columns.particles))
    return np.where(size > 0, size, pixel_size)
