"""Folded accumulators without their corners: samples of images lie in a sphere, half of the grid's cube.

Kept are the first points of each row along kx, those within reach of the farthest sample's taps. All others are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import njit

#: numbers of a grid point: re, im, weight
_NUMBERS = 3


@njit(cache=True, nogil=True, error_model="numpy")
def _move_rows(source, source_start, target, target_start, length):
    """target[target_start[r] …] = source[source_start[r] …], length[r] numbers, row by row in their order; both may be
    one array, where no row is moved to where a later one is read."""
    for r in range(length.size):
        a, b = source_start[r], target_start[r]
        for j in range(length[r]):
            target[b + j] = source[a + j]


@dataclass(frozen=True, eq=False)
class Sphere:
    """The points of a half grid (p, p, p//2 + 1) within a distance of zero frequency.

    start : (p, p) int64, where each row begins among the kept numbers, re, im and weight of a point together
    length : (p, p) int64, kept numbers of each row
    """

    padded: int
    start: np.ndarray
    length: np.ndarray

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, padded: int, reach: float) -> Sphere:
        """reach : grid points from zero frequency to the farthest that is kept"""
        k = np.arange(padded)
        k2 = np.minimum(k, padded - k).astype(np.float64) ** 2
        left = reach**2 - k2[:, None] - k2
        points = np.where(left < 0, 0, np.minimum(np.floor(np.sqrt(np.maximum(left, 0))), padded // 2) + 1)
        length = _NUMBERS * points.astype(np.int64)
        start = np.cumsum(length).reshape(length.shape) - length
        return cls(padded, start, length)

    @property
    def size(self) -> int:
        """Numbers that are kept."""
        return int(self.length.sum())

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole half grid."""
        p = self.padded
        return p, p, p // 2 + 1, _NUMBERS

    def pack(self, folded: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A folded accumulator, (p, p, p//2 + 1, 3) → (size,), `out` or the first numbers of its own memory."""
        flat = folded.reshape(-1)
        out = flat[: self.size] if out is None else out
        first = np.arange(self.length.size) * (_NUMBERS * folded.shape[2])
        _move_rows(flat, first, out, self.start.reshape(-1), self.length.reshape(-1))
        return out


@dataclass(frozen=True, eq=False)
class Packed:
    """A folded accumulator of which a sphere is kept; values : (sphere.size,) float32."""

    sphere: Sphere
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sphere.shape

    def __len__(self) -> int:
        return self.sphere.padded

    def rows(self, first: int, last: int) -> np.ndarray:
        """As ``rows_of``."""
        p, _, width, numbers = self.shape
        out = np.zeros((p, last - first, width, numbers), np.float32)
        start, length = (np.ascontiguousarray(part[:, first:last]).reshape(-1)
                         for part in (self.sphere.start, self.sphere.length))
        _move_rows(self.values, start, out.reshape(-1), np.arange(start.size) * (width * numbers), length)
        return out


def rows_of(folded: np.ndarray | Packed, first: int, last: int) -> np.ndarray:
    """The rows ky first … last − 1 of sums, whole or packed, (p, last − first, p//2 + 1, 3) float32."""
    return folded.rows(first, last) if isinstance(folded, Packed) else folded[:, first:last]


def numbers_of(folded: np.ndarray | Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of sums, whole or packed, one behind the other, and of each row (kz, ky) where it begins and how many
    it has: what kernels take."""
    if isinstance(folded, Packed):
        return folded.values, folded.sphere.start, folded.sphere.length
    whole = Sphere.of(len(folded), np.inf)
    return folded.reshape(-1), whole.start, whole.length


def add_middle(folded: np.ndarray | Packed, out: np.ndarray, sign: int = 1, to: np.ndarray | None = None) -> None:
    """Add the lowest frequencies of sums (p, p, p//2 + 1, 3) to those of a smaller grid, or take them from these.

    out : (q, q, q//2 + 1, 3) float32
    to : what they are added to, if it is to stay: `out` is overwritten then
    """
    to = out if to is None else to
    _add_middle(*numbers_of(folded), np.float32(sign), to.reshape(-1), out.reshape(-1), len(out))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_middle(values, start, length, sign, to, out, q):
    row, beyond = _NUMBERS * (q // 2 + 1), start.shape[0] - q
    for kz in range(q):
        z = kz if kz <= q // 2 else kz + beyond  # from zero up, and the negative ones
        for ky in range(q):
            y = ky if ky <= q // 2 else ky + beyond
            a, b = start[z, y], (kz * q + ky) * row
            here = min(length[z, y], row)
            for j in range(here):
                out[b + j] = to[b + j] + sign * values[a + j]
            for j in range(here, row):
                out[b + j] = to[b + j]
