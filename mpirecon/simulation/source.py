"""The volume that a simulation starts from: a map, an atomic model or the phantom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpirecon.errors import UserError
from mpirecon.simulation.phantom import phantom

_BOX, _PIXEL_SIZE = 64, 3.0
_SMALLEST_BOX, _LARGEST_BOX = 16, 2048


class Source(NamedTuple):
    """volume : (n, n, n) float32, band-limited · pixel_size : Å · description : one line for people"""

    volume: np.ndarray
    pixel_size: float
    description: str


def load_source(map_path, model_path, box: int | None, pixel_size: float | None) -> Source:
    """The volume of a map or an atomic model, or the phantom where neither is given.
    Box and pixel size (Å) default to the map's, or 64 and 3.

    Raises
    ------
    UserError
        when a number is out of range, or the file cannot be used.
    """
    if pixel_size is not None and not 0.05 <= pixel_size <= 1000:
        raise UserError(f"--pixel-size is {pixel_size:g} Å, expected 0.05 … 1000 Å")
    if map_path:
        return _from_map(map_path, box, pixel_size)
    box, pixel_size = _checked_box(_BOX if box is None else box), _PIXEL_SIZE if pixel_size is None else pixel_size
    grid = f"box {box}, {pixel_size:g} Å/px"
    if model_path:
        from mpirecon.simulation.atoms import density_of_model

        volume = density_of_model(model_path, box, pixel_size)
        return Source(volume, pixel_size, f"atomic model {model_path}, {grid}")
    return Source(phantom(box), pixel_size, f"phantom, {grid}")


def _from_map(path, box: int | None, pixel_size: float | None) -> Source:
    from mpirecon.io.mrc import read_map
    from mpirecon.simulation.density import resample_map

    volume = read_map(path)
    box = _checked_box(volume.box if box is None else box)
    pixel_size = volume.pixel_size if pixel_size is None else pixel_size
    resampled = resample_map(np.asarray(volume), volume.pixel_size, box, pixel_size)
    text = f"map {path}, box {volume.box} → {box}, {volume.pixel_size:g} → {pixel_size:g} Å/px"
    if resampled.solvent:
        text += f", solvent level {resampled.solvent:.4g} subtracted"
    if resampled.lost > 0.01:
        text += f"; {100 * resampled.lost:.0f} % of its power lay outside the box's sphere and is cut"
    return Source(resampled.density, pixel_size, text)


def _checked_box(box: int) -> int:
    if not _SMALLEST_BOX <= box <= _LARGEST_BOX:
        raise UserError(f"--box is {box}, expected {_SMALLEST_BOX} … {_LARGEST_BOX} pixels")
    return box
