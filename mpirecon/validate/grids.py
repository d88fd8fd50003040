"""Whether two things are sampled alike."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError


def check_same_grid(a, name_a: str, b, name_b: str) -> None:
    """Raise UserError when box or pixel size (to 0.1 %) of two things with these attributes differ."""
    if a.box != b.box:
        raise UserError(
            f"{name_a} has a box of {a.box} pixels, {name_b} {b.box}; crop or pad one of them to the other's box"
        )
    if abs(a.pixel_size - b.pixel_size) > 1e-3 * max(a.pixel_size, b.pixel_size):
        raise UserError(
            f"{name_a} has pixels of {a.pixel_size:g} Å, {name_b} of {b.pixel_size:g} Å; rescale one of them, or "
            "correct the pixel size in its header if that is what is wrong"
        )


def refuse_no_numbers(array: np.ndarray, name: str) -> None:
    """Raise UserError where voxels of a map are NaN or infinite."""
    if not np.isfinite([np.min(array), np.max(array)]).all():  # NaN where there is one
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise UserError(f"{name}: {bad:,} of {array.size:,} voxels are no finite numbers (NaN or infinite)")


def refuse_blank(array: np.ndarray, name: str) -> None:
    """Raise UserError where two maps cannot be correlated because one of them holds no density."""
    refuse_no_numbers(array, name)
    if not np.ptp(array) > 0:
        raise UserError(f"{name}: the map is constant, there is nothing to correlate")
