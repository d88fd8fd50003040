"""Slices of a map at low frequencies, in NumPy:
a few hundred images are compared before any kernel needs to be compiled for them.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft


class LowSlices:
    """Slices of a map's transform at low frequencies: k from −last to last along y, from 0 to last along x."""

    def __init__(self, volume: np.ndarray, last: int) -> None:
        """volume : (n, n, n), of a particle in the middle, of any n above 2 last"""
        small = low_passed(volume, last)
        side = len(small)
        # the transform of linear interpolation on a grid twice as fine
        axis = np.sinc((np.arange(side) - side // 2) / (2 * side)) ** 2
        padded = np.zeros((2 * side,) * 3, np.float32)
        middle = slice(side - side // 2, side - side // 2 + side)
        padded[middle, middle, middle] = small / (axis[:, None, None] * axis[:, None] * axis)
        self._grid, self._origin = fft.fftshift(fft.fftn(fft.ifftshift(padded))), side
        self.ky, self.kx = np.meshgrid(np.arange(-last, last + 1), np.arange(last + 1), indexing="ij")

    def at(self, matrices: np.ndarray) -> np.ndarray:
        """(m, 2 last + 1, last + 1) complex64 of poses (m, 3, 3)."""
        k = matrices[:, 0, ::-1, None, None] * self.kx + matrices[:, 1, ::-1, None, None] * self.ky  # z, y, x
        at = self._origin + 2 * np.moveaxis(k, 1, 0)
        last = len(self._grid) - 1
        whole = np.clip(at, 0, last - 1).astype(np.intp)
        part = (at - whole).astype(np.float32)
        found = np.zeros(at.shape[1:], np.complex64)
        for z, y, x in np.ndindex(2, 2, 2):
            weight = 1
            for axis, end in enumerate((z, y, x)):
                weight = weight * (part[axis] if end else 1 - part[axis])
            found += weight * self._grid[whole[0] + z, whole[1] + y, whole[2] + x]
        return np.where(((at >= 0) & (at <= last)).all(axis=0), found, 0)  # in the corners, where nothing is compared


def low_passed(volume: np.ndarray, last: int) -> np.ndarray:
    """The map on the fewest pixels that hold its frequencies to `last`, of which the same slices are made."""
    n, reach = len(volume), min(last + 3, (len(volume) - 1) // 2)
    side = low_side(n, last)
    index = np.arange(-reach, reach + 1)
    low = np.zeros((side, side, side // 2 + 1), np.complex64)
    some = fft.rfft(fft.ifftshift(np.asarray(volume, np.float32)))[:, :, : reach + 1]
    some = fft.fft(some, axis=1)[:, index % n]  # axis by axis: only the low frequencies are wanted
    low[np.ix_(index % side, index % side, index[reach:])] = fft.fft(some, axis=0)[index % n]
    return fft.fftshift(fft.irfftn(low, s=(side,) * 3))


def low_side(n: int, last: int) -> int:
    """Pixels a side of `low_passed` of a map of n pixels a side."""
    return 2 * (min(last + 3, (n - 1) // 2) + 1)
