"""Between a volume's real FFT and the extended half grid that gather and spread without wrapping round.

The extended grid holds MARGIN extra points on every side. ``extend`` copies periodic (and Friedel-conjugate) values
into the margins; ``fold`` is its exact transpose, plus the conjugate half that spreading left out.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.gridding import MARGIN

#: numbers that are exchanged at a time
_PIECE = 2**14


def extended_shape(padded_box: int, components: int) -> tuple[int, int, int]:
    """Shape of an extended grid with `components` floats a point interleaved along x."""
    side = padded_box + 2 * MARGIN
    return side, side, components * (padded_box // 2 + 1 + 2 * MARGIN)


def extend(half, out, which: int = 0, maps: int = 1, rows: tuple[int, int] | None = None) -> None:
    """half : (p, p, p//2 + 1) complex64 → out : extended_shape(p, 2·maps) float32, zero frequency in the middle.

    which : the map of those interleaved in `out`
    rows : first and last row ky, which `half` then holds alone, (p, last − first, p//2 + 1); all when left out. Every
        point of `out` comes from one row.
    """
    _extend(half, out, which, maps, *(rows or (0, half.shape[1])))


@njit(cache=True, nogil=True, error_model="numpy")
def _extend(half, out, which, maps, first, last):
    p = half.shape[0]
    step = 2 * maps
    columns = out.shape[2] // step
    for kz in range(p):
        for ky in range(first, last):
            values = half[kz, ky - first]
            # every point that is this row's, going round the period
            for z in range((kz + out.shape[0] // 2) % p, out.shape[0], p):
                for y in range((ky + out.shape[1] // 2) % p, out.shape[1], p):
                    to = out[z, y]
                    for kx in range(p // 2 + 1):
                        to[(kx + MARGIN) * step + 2 * which] = values[kx].real
                        to[(kx + MARGIN) * step + 2 * which + 1] = values[kx].imag
            # and of its mates'
            for z in range((out.shape[0] // 2 - kz) % p, out.shape[0], p):
                for y in range((out.shape[1] // 2 - ky) % p, out.shape[1], p):
                    to = out[z, y]
                    for x in range(columns):
                        kx = x - MARGIN
                        if 0 <= kx <= p // 2:
                            continue
                        value = values[-kx if kx < 0 else p - kx]
                        to[x * step + 2 * which] = value.real
                        to[x * step + 2 * which + 1] = -value.imag


def insert(half, out, which: int, maps: int, rows: tuple[int, int]) -> None:
    """As ``extend`` of a coarser transform, into the middle of a grid that is zero beyond it.

    half : (q, last − first, q//2 + 1) complex64, the rows ky first … last − 1
    out : extended_shape(p, 2·maps), p > q.
    Frequencies from q/2 on are left out: those of ± q/2 stand for both signs, and a cube's corners for no shell.
    """
    _insert(half, out, which, maps, *rows)


@njit(cache=True, nogil=True, error_model="numpy")
def _insert(half, out, which, maps, first, last):
    q = half.shape[0]
    step = 2 * maps
    middle = out.shape[0] // 2
    for kz in range(q):
        z = kz if kz < q // 2 else kz - q
        if 2 * z == -q:
            continue
        for ky in range(first, last):
            y = ky if ky < q // 2 else ky - q
            if 2 * y == -q:
                continue
            values = half[kz, ky - first]
            to, mates = out[middle + z, middle + y], out[middle - z, middle - y]
            end = 0  # of what lies within the sphere
            while 4 * (z * z + y * y + end * end) < q * q:
                end += 1
            for kx in range(end):
                at = (kx + MARGIN) * step + 2 * which
                to[at] = values[kx].real
                to[at + 1] = values[kx].imag
            for kx in range(1, min(MARGIN + 1, end)):
                at = (MARGIN - kx) * step + 2 * which
                mates[at] = values[kx].real
                mates[at + 1] = -values[kx].imag


def fold(grid, out, planes: tuple[int, int] | None = None) -> None:
    """grid : extended_shape(p, 3) float32 or int64 → out : (p, p, p//2 + 1, 3), overwritten.

    out holds (re, im, weight) of the sum over all samples and their Friedel mates, on the half grid.
    planes : first and last plane of `out` to fill, all when left out.
    """
    start, length = rows_side_by_side(len(out))
    for kz in range(*(planes or (0, len(out)))):
        fold_rows(grid, kz, start, length, out[kz].reshape(-1))


def rows_side_by_side(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each row of a whole plane begins, and how many numbers it has, (p,) int64 each; for ``fold_rows``."""
    size = 3 * (p // 2 + 1)
    return size * np.arange(p), np.full(p, size)


@njit(cache=True, nogil=True, error_model="numpy")
def fold_rows(grid, kz, start, length, out):
    """Rows of plane kz of what is folded: of each the first length[ky] numbers, from start[ky] on of `out`, flat, where
    they overwrite what was there. start, length : (p,) int64"""
    p = start.size
    side, columns = grid.shape[0], grid.shape[2] // 3
    # columns whose mates are stored: those to the left of kx = 0 and it, and from p/2 on
    left, right = min(MARGIN + 1, columns), max(p // 2 + MARGIN, MARGIN + 1)
    for ky in range(p):
        to = out[start[ky] : start[ky] + length[ky]]
        points = to.size // 3
        if not points:
            continue
        for j in range(to.size):
            to[j] = 0
        # every point of the extended grid that is this row's, or its mate's, going round the period
        for z in range((kz + side // 2) % p, side, p):
            for y in range((ky + side // 2) % p, side, p):
                row = grid[z, y]
                for j in range(to.size):
                    to[j] += row[3 * MARGIN + j]
                if p // 2 > MARGIN:
                    continue
                for x in range(columns):  # of a small grid, margins too lie within the stored half
                    kx = x - MARGIN
                    if not 0 <= kx <= p // 2 and kx % p < points:
                        for c in range(3):
                            to[3 * (kx % p) + c] += row[3 * x + c]
        for z in range((side // 2 - kz) % p, side, p):
            for y in range((side // 2 - ky) % p, side, p):
                row = grid[z, y]
                for first, last in ((0, left), (right, columns)):
                    for x in range(first, last):
                        mate = (MARGIN - x) % p
                        if mate < points:
                            to[3 * mate] += row[3 * x]
                            to[3 * mate + 1] -= row[3 * x + 1]
                            to[3 * mate + 2] += row[3 * x + 2]


def fold_in_place(grid, over=lambda length, part: part(0, length)):
    """As ``fold``, into the first bytes of `grid`, which is overwritten: (p, p, p//2 + 1, 3), p even.

    New memory of that size can cost more time than the sums. over(length, part) : calls ``part(first, last)`` of pieces
    of range(length), at once if it likes
    """
    p = grid.shape[0] - 2 * MARGIN
    planes = grid.reshape(len(grid), -1)
    size = 3 * p * (p // 2 + 1)
    room = 2, p * 3 * (p // 2 + 1)
    over(p // 2 + 1, lambda first, last: _fold_pairs(grid, planes, np.empty(room, grid.dtype), first, last))
    whole = grid.reshape(-1)
    _close_up(whole, planes.shape[1], size, p)
    halves = whole[: p * size].reshape(2, -1)
    over(p // 2, lambda first, last: _swap(halves[0, first * size : last * size],
                                           halves[1, first * size : last * size]))
    return whole[: p * size].reshape(p, p, p // 2 + 1, 3)


def _fold_pairs(grid, planes, folded, first, last) -> None:
    """Fold planes ±kz, first ≤ kz < last, both before either is put where zero frequency is in the middle: nothing else
    is read there. folded : (2, 3 p (p//2 + 1)), room for two planes"""
    p = grid.shape[0] - 2 * MARGIN
    middle = grid.shape[0] // 2
    rows = rows_side_by_side(p)
    for kz in range(first, last):
        pair = _pair(kz, p)
        for number, plane in zip(pair, folded):
            fold_rows(grid, number, *rows, plane)
        for number, plane in zip(pair, folded):
            planes[middle + number - (p if 2 * number >= p else 0), : plane.size] = plane


def fold_emptying(grid, sphere, out, over) -> None:
    """As ``fold``, of the points of a sphere alone, into the numbers that are kept of it, flat; the grid is zero then.

    over : as of ``fold_in_place``
    """
    p = len(sphere.start)

    def some(first: int, last: int) -> None:
        for kz in range(first, last):
            for number in _pair(kz, p):
                fold_rows(grid, number, sphere.start[number], sphere.length[number], out)
            for z in {z for number in _pair(kz, p) for z in range((number + len(grid) // 2) % p, len(grid), p)}:
                grid[z] = 0

    over(p // 2 + 1, some)


def _pair(kz: int, p: int) -> list[int]:
    """The planes ±kz, 0 ≤ kz ≤ p/2, counted from 0 to p − 1: sums over the same planes of the grid, of which no other
    is."""
    return [kz, p - kz] if 0 < kz < p // 2 else [kz]


def _close_up(values, stride, size, p) -> None:
    """Move p planes of `size` numbers from MARGIN strides on to the beginning, one behind the other."""
    for j in range(p):
        at = (MARGIN + j) * stride
        values[j * size : (j + 1) * size] = values[at : at + size]


def _swap(a, b) -> None:
    """Exchange two arrays' numbers, a piece that stays in the cache at a time."""
    for first in range(0, a.size, _PIECE):
        piece = slice(first, first + _PIECE)
        kept = a[piece].copy()
        a[piece] = b[piece]
        b[piece] = kept
