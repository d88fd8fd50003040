"""What rows of a table, or of arrays, cannot be: by which numbers a shift, a defocus or an angle is told to be in another
unit, whoever gives it."""

from __future__ import annotations

import numpy as np

PIXELS = (0.05, 200.0)  # Å that a pixel has
FEW = 20  # fewer particles than this tell nothing by what they have in common
SMALLEST = 16  # pixels a side: smaller images are no particles
FLAT = np.radians(10.0)  # views within this angle of one direction give no map
TURN = 2 * np.pi + 0.01
ANGLES_TOLD = 0.3  # radians: smaller angles may as well be degrees
MICROMETRES = 50.0  # no defocus that anybody refines is below this many Å
NANOMETRES = 5000.0  # most defoci below this many Å are unusual, and usual in nm


def outside_images(shift: np.ndarray, side: np.ndarray | float) -> np.ndarray:
    """Which particles, (m,) bool, lie outside their images by their shifts (m, 2), both in Å."""
    return (np.abs(shift) > np.reshape(side, (-1, 1)) / 2).any(axis=1)


def largest_defocus(ctf: np.ndarray) -> np.ndarray:
    """The larger of U and V by size, Å, (m,) float64; 0 where none is known."""
    return np.maximum(np.abs(ctf["defocus_u"]), np.abs(ctf["defocus_v"]))


def without_ctf(ctf: np.ndarray) -> np.ndarray:
    """Which CTFs, (m,) bool, are 1 at every frequency, written as numbers."""
    return (ctf["cs_mm"] == 0) & (ctf["amplitude_contrast"] == 1)


def unaligned(quaternion: np.ndarray) -> np.ndarray:
    """Which poses, (m,) bool, are exactly no rotation, as those of particles that were never aligned."""
    return np.abs(quaternion[:, 0]) > 1 - 1e-14
