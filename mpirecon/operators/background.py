"""The background of images: a plane a + b·u + c·v and the noise about it, found outside the particle.

Microscopes, cameras and extraction leave each image a level and a ramp of its own that say nothing of the particle. The
estimate follows any plane that is added to an image, and is not moved by a few pixels however far off they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.kernels.background import LAST_CLIP, measure_background, take_background_off

#: most pixels of a quarter of the image that the first estimate is made from
_FIRST = 24

#: least distance from the axes, in halves of the box, of those pixels: slopes are differences over it
_LEVER = 0.25

#: boxes below which too few pixels lie outside to estimate noise
SMALLEST_BOX = 16

#: radius of the middle of the image, in halves of the box, whose power is compared with that outside
_MIDDLE = 0.75

#: times the typical square beyond which a pixel of the middle counts as that far: of dust, not of a particle
_FAR = 1000.0

#: every so many pixels serve to estimate what is typical
_SAMPLE = 8


@dataclass
class Levels:
    """What was found of m images.

    plane : (m, 3) float64, a, b, c of a + b·u + c·v, with u and v from −1 to 1 across the image
    sigma : (m,) float64, standard deviation of the noise about it
    """

    plane: np.ndarray
    sigma: np.ndarray

    @classmethod
    def empty(cls, m: int) -> Levels:
        return cls(np.zeros((m, 3)), np.zeros(m))

    def __len__(self) -> int:
        return len(self.sigma)

    def __getitem__(self, rows) -> Levels:
        return Levels(self.plane[rows], self.sigma[rows])

    def __setitem__(self, rows, found: Levels) -> None:
        self.plane[rows], self.sigma[rows] = found.plane, found.sigma


class Background:
    """Finds and takes off the backgrounds of images of one box.

    Outside the particle is what lies outside the circle that the box holds, a fifth of all pixels: a diameter or a mask
    that the user gives may be that of a part of the particle.
    """

    def __init__(self, box: int) -> None:
        self.box = box
        self._axis = axis = (np.arange(box) - (box - 1) / 2) / (box / 2)
        distance = np.hypot(axis[:, None], axis).ravel()
        outside = np.flatnonzero(distance > 1)
        if len(outside) < 4:  # boxes of a few pixels: their corners
            outside = np.flatnonzero(distance >= distance.max() - 1e-9)
        self._outside = outside
        self._middle = np.flatnonzero(distance <= max(_MIDDLE, 2 / box))
        row, column = np.divmod(outside, box)
        self._u, self._v = (axis[at].astype(np.float32) for at in (column, row))
        self._fields = [np.flatnonzero((row + column) % 2 == field) for field in (0, 1)]
        self._four, self._four_u, self._four_v = self._quadruples(row, column)

    def _quadruples(self, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels of one quarter with their mirror images in the others, (4, q), and where they are."""
        n, u, v = self.box, self._axis[column], self._axis[row]
        lever = min(_LEVER, u.max())
        one = np.flatnonzero((u >= lever) & (v >= lever))
        one = one[np.unique(np.linspace(0, len(one) - 1, min(_FIRST, len(one))).astype(np.int64))]
        row, column = row[one], column[one]
        mirrored = ((row, column), (row, n - 1 - column), (n - 1 - row, column), (n - 1 - row, n - 1 - column))
        return np.stack([r * n + c for r, c in mirrored]), u[one], v[one]

    def measure(self, images: np.ndarray) -> Levels:
        """Levels of (m, n, n) images; of images that are not finite they need not be either."""
        flat = np.ascontiguousarray(images, np.float32).reshape(len(images), self.box**2)
        out = np.empty((len(images), 4))
        measure_background(flat, self._outside, self._u, self._v, self._four, self._four_u, self._four_v, out)
        return Levels(out[:, :3], out[:, 3])

    def take_off(self, images: np.ndarray, levels: Levels, factor: np.ndarray | None = None) -> None:
        """Subtract the planes from (m, n, n) float32 images, in place, and multiply each by its `factor` (m,),
        if given."""
        factor = np.ones(len(images)) if factor is None else np.ascontiguousarray(factor, np.float64)
        take_background_off(images, np.ascontiguousarray(levels.plane), factor, self._axis)

    def without(self, images: np.ndarray) -> np.ndarray:
        """(m, n, n) images less their planes, float32; those that are not finite stay so, constant ones are zero."""
        images = np.array(images, np.float32)
        levels = self.measure(images)
        levels.plane[~np.isfinite(levels.plane).all(axis=1)] = 0
        self.take_off(images, levels)
        return images

    def halves(self, images: np.ndarray, levels: Levels) -> np.ndarray:
        """Variance of the noise about the planes in either half of the pixels outside,
        like the fields of a chessboard, (m, 2)."""
        residual = _above(images, levels, self._outside, self._axis)
        out = np.empty((len(images), 2))
        for which, field in enumerate(self._fields):
            some = residual[:, field]
            kept = np.abs(some) <= LAST_CLIP * levels.sigma[:, None]
            out[:, which] = np.square(np.where(kept, some, 0)).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
        return out

    def middle(self, images: np.ndarray, levels: Levels) -> np.ndarray:
        """Mean square of the middle of the images, particle and noise, (m,)."""
        squares = np.square(_above(images, levels, self._middle, self._axis))
        typical = np.median(squares[:, ::_SAMPLE], axis=1, keepdims=True)
        return np.minimum(squares, np.float32(_FAR) * typical).mean(axis=1, dtype=np.float64)


def _above(images: np.ndarray, levels: Levels, pixels: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(m, p) float32: some pixels of images less their planes."""
    row, column = np.divmod(pixels, len(axis))
    out = np.take(images.reshape(len(images), len(axis) ** 2), pixels, axis=1).astype(np.float64)
    for slope, at in zip(levels.plane.T, (np.ones(len(pixels)), axis[column], axis[row])):
        out -= slope[:, None] * at
    return out.astype(np.float32)
