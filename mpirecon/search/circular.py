"""Images compared with slices of a map at every turn in the plane at once, by circular harmonics.

A slice p that is turned by ψ in its plane is p(k, θ − ψ), and with its harmonics c_m(k) about the origin

    Σ Re(conj(p(k, θ − ψ)) g) = Re Σ_m e^{imψ} Σ_k conj(c_m(k)) Σ_θ e^{−imθ} g(k, θ),

so that the costly sums are over rings and not over samples, and of one view rather than of each of its turns (the
rotational correlation of Crowther 1971 and Cong et al. 2003, J. Struct. Biol. 144, 51). All of it is matrix products.
The image's samples stay where they are: what is interpolated between rings is the slice.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.search.slices import cut

#: rings of a Fourier pixel, and harmonics beyond those that a particle of this radius has
_RINGS, _MORE_HARMONICS = 2, 4

#: columns of a product (images · offsets), and numbers of its result
_COLUMNS, _BLOCK = 512, 2**20


class Circles:
    """The samples' side: which rings and harmonics there are, and what samples are in them.

    Parameters
    ----------
    kx, ky : (p,)
        samples, in the order of their distance from the origin
    extent : float
        radius of the particle over the box
    """

    def __init__(self, kx: np.ndarray, ky: np.ndarray, extent: float) -> None:
        radius, angle = np.hypot(kx, ky), np.arctan2(ky, kx)
        first, last = int(np.floor(radius.min() * _RINGS)) - 1, int(np.ceil(radius.max() * _RINGS)) + 1
        self.radius = np.arange(max(first, 0), last + 1) / _RINGS
        self.highest = np.ceil(2 * np.pi * self.radius * extent).astype(int) + _MORE_HARMONICS
        self.orders = int(self.highest.max()) + 1
        self.first = np.array(
            [int(np.argmax(self.highest >= m)) for m in range(self.orders)]
        )  # ring that has a harmonic
        self._parts = [self._of_ring(ring, radius, angle) for ring in range(len(self.radius))]

    def _of_ring(self, ring: int, radius: np.ndarray, angle: np.ndarray) -> tuple[slice, np.ndarray, np.ndarray]:
        """(samples that a ring is interpolated at, what their real and imaginary parts give to harmonics (m, 2, ·))."""
        rows = slice(*np.searchsorted(radius, [self.radius[ring] - 2 / _RINGS, self.radius[ring] + 2 / _RINGS]))
        weight = _cubic(np.abs(radius[rows] - self.radius[ring]) * _RINGS)
        m = np.arange(self.highest[ring] + 1)
        even, odd = m[m % 2 == 0, None], m[m % 2 == 1, None]
        # ŷ(−k) = conj ŷ(k): of even harmonics the real parts are all there is, of odd ones the imaginary parts
        weight_even = weight * np.where(even == 0, 1, 2)
        of_real = np.stack(
            [weight_even * np.cos(even * angle[rows]), -weight_even * np.sin(even * angle[rows])], axis=1
        )
        of_imag = np.stack([2 * weight * np.sin(odd * angle[rows]), 2 * weight * np.cos(odd * angle[rows])], axis=1)
        return rows, of_real.astype(np.float32), of_imag.astype(np.float32)

    def harmonics(self, real: np.ndarray, imag: np.ndarray | None) -> list[np.ndarray]:
        """Of samples (p, columns) float32, by order: (2 · rings, columns), real parts and then imaginary ones.

        imag : None where all samples are real, and odd harmonics therefore nothing: they are left out
        """
        rings, columns = len(self.radius), real.shape[1]
        step = 2 if imag is None else 1
        out = [np.empty((2, rings - self.first[m], columns), np.float32) for m in range(0, self.orders, step)]
        for ring, (rows, of_real, of_imag) in enumerate(self._parts):
            for parity, matrix, values in ((0, of_real, real), (1, of_imag, imag)):
                if values is None:
                    continue
                found = matrix.reshape(-1, len(values[rows])) @ values[rows]
                for j, part in enumerate(found.reshape(len(matrix), 2, columns)):
                    m = 2 * j + parity
                    out[m // step][:, ring - self.first[m]] = part
        return [part.reshape(-1, columns) for part in out]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Weights of cubic interpolation (Lagrange) of a point x steps away, 0 ≤ x ≤ 2."""
    near, far = (1 - x**2) * (2 - x) / 2, (1 - x) * (2 - x) * (3 - x) / 6
    return np.where(x < 1, near, far)


class TurningSlices:
    """Slices of a map at some views, at every turn.

    Parameters
    ----------
    grid : of slice_grid
    kx, ky : (p,)
        samples, in the order of their distance from the origin
    extent : float
        radius of the particle over the box
    views : (v, 4)
        quaternions
    turns : (t,)
        radians
    """

    def __init__(
        self, grid: np.ndarray, kx: np.ndarray, ky: np.ndarray, extent: float, views: np.ndarray, turns: np.ndarray
    ) -> None:
        self._circles = circles = Circles(kx, ky, extent)
        self.views, self.turns, self._angles = len(views), len(turns), turns
        rings, around = len(circles.radius), 4 * circles.orders
        angle = 2 * np.pi / around * np.arange(around)
        x, y = (np.outer(circles.radius, f(angle)).ravel() for f in (np.cos, np.sin))
        size = (len(views), circles.orders, rings)
        slices, powers = np.empty(size, np.complex64), np.empty(size, np.complex64)
        for first in range(0, len(views), 64):
            some = views[first : first + 64]
            ring = np.empty((len(some), len(x)), np.complex64)
            cut(grid, matrix_from_quaternion(some), x, y, ring)
            ring = ring.reshape(len(some), rings, around)
            slices[first : first + 64] = _orders(ring, circles.orders)
            powers[first : first + 64] = _orders(ring.real**2 + ring.imag**2, circles.orders)
        self._slices = [_products(slices[:, m, circles.first[m] :]) for m in range(circles.orders)]
        self._powers = [_products(powers[:, m, circles.first[m] :]) for m in range(0, circles.orders, 2)]

    def power(self, on_model: np.ndarray) -> np.ndarray:
        """Σ b |p|² of each image at each view and turn, (b, views · turns) float32; on_model : (b, p) float32."""
        out = np.empty((len(on_model), self.views * self.turns), np.float32)
        harmonics = self._circles.harmonics(np.ascontiguousarray(on_model.T), None)
        for first, sums in self._sums(self._powers, harmonics, 2):
            turns, views, images = sums.shape
            out.reshape(images, -1, turns)[:, first : first + views] = sums.transpose(2, 1, 0)
        return out

    def best(self, weighted: np.ndarray, ramps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest Σ Re(conj(p) y) over offsets of each image at each view and turn, and the number of that offset.

        weighted : (b, p) complex64, images times their weights · ramps : (s, p) complex64, each offset's · returns
        (b, views · turns) float32 and int16
        """
        size = (len(weighted), self.views * self.turns)
        best, which = np.empty(size, np.float32), np.empty(size, np.int16)
        at_once = max(1, _COLUMNS // len(ramps))
        for start in range(0, len(weighted), at_once):
            rows = slice(start, start + at_once)
            moved = ramps.T[:, :, None] * weighted[rows].T[:, None]
            moved = moved.reshape(len(moved), -1)
            harmonics = self._circles.harmonics(np.ascontiguousarray(moved.real), np.ascontiguousarray(moved.imag))
            for first, sums in self._sums(self._slices, harmonics, 1):
                sums = sums.reshape(*sums.shape[:2], len(ramps), -1)
                largest(sums, first * self.turns, best[rows], which[rows])
        return best, which

    def _sums(self, products: list[np.ndarray], harmonics: list[np.ndarray], step: int):
        """(first view, sums (turns, some views, columns)) of all views, some at a time."""
        columns, orders = harmonics[0].shape[1], len(products)
        angle = np.outer(self._angles, step * np.arange(orders))
        of_turns = np.stack([np.cos(angle), -np.sin(angle)], axis=2).reshape(self.turns, -1).astype(np.float32)
        at_once = max(1, _BLOCK // (2 * orders * columns))
        for first in range(0, self.views, at_once):
            views = min(at_once, self.views - first)
            z = np.empty((orders, 2, views, columns), np.float32)
            for m, (of_views, of_images) in enumerate(zip(products, harmonics)):
                np.matmul(of_views[:, first : first + views], of_images, out=z[m])
            yield first, (of_turns @ z.reshape(2 * orders, -1)).reshape(self.turns, views, columns)


def _orders(rings: np.ndarray, orders: int) -> np.ndarray:
    """Circular harmonics (v, orders, rings) of values (v, rings, angles)."""
    return (np.fft.fft(rings, axis=2)[:, :, :orders] / rings.shape[2]).swapaxes(1, 2)


def _products(harmonics: np.ndarray) -> np.ndarray:
    """(2, v, 2 · rings) float32, of which times those of an image is their product with conj(c)."""
    real, imag = harmonics.real, harmonics.imag
    return np.stack([np.concatenate([real, imag], axis=1), np.concatenate([-imag, real], axis=1)]).astype(np.float32)


@njit(cache=True, nogil=True)
def largest(sums, first, best, which):
    """sums : (turns, views, offsets, images) · first : column of the first view in best and which, (images, ·)"""
    turns, views, offsets, images = sums.shape
    top, at = np.empty(images, np.float32), np.empty(images, np.int32)
    for t in range(turns):
        for v in range(views):
            of = sums[t, v]
            for i in range(images):
                top[i], at[i] = of[0, i], 0
            for s in range(1, offsets):
                for i in range(images):
                    larger = of[s, i] > top[i]
                    top[i] = of[s, i] if larger else top[i]
                    at[i] = s if larger else at[i]
            column = first + v * turns + t
            for i in range(images):
                best[i, column], which[i, column] = top[i], at[i]
