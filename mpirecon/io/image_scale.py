"""Whether the numbers of images are of a size that maps can be calculated with."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError

#: standard deviations that a typical image may have: float32 holds the powers of images, and of their transforms
SCALES = 1e-14, 1e12


def deviations(images: np.ndarray) -> np.ndarray:
    """Standard deviations, (k,) float64, of those of (m, n, n) images that are finite and not constant."""
    found = []
    for image in images:  # one by one: a large copy of all would be made else
        pixels = np.asarray(image, np.float64)
        peak = np.abs(pixels).max()
        if np.isfinite(peak) and peak > 0 and (spread := (pixels / peak).std()) > 0:  # squares of pixels may overflow
            found.append(spread * peak)
    return np.array(found)


def refuse_scale(what: str, found: np.ndarray) -> None:
    """Raise UserError, which begins with `what`, where the median of images' deviations is outside of SCALES."""
    if not len(found):
        return
    typical = float(np.median(found))
    if not SCALES[0] <= typical <= SCALES[1]:
        raise UserError(f"{what}: the pixels of a typical image have a standard deviation of {typical:.3g}, outside "
                        f"{SCALES[0]:g} … {SCALES[1]:g}, with which no map can be calculated; multiply all images by "
                        f"one factor that makes it about 1, such as {10.0 ** -np.round(np.log10(typical)):.0e}")
