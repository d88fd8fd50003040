"""Whether two things are sampled alike."""

from __future__ import annotations

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
