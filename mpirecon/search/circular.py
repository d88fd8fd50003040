"""Images compared with slices of a map at every turn in the plane at once, by circular harmonics.

A slice p that is turned by ψ in its plane is p(k, θ − ψ), and with its harmonics c_m(k) about the origin

    Σ Re(conj(p(k, θ − ψ)) g) = Re Σ_m e^{imψ} Σ_k conj(c_m(k)) Σ_θ e^{−imθ} g(k, θ),

so that the costly sums are over rings and not over samples, and of one view rather than of each of its turns (the
rotational correlation of Crowther 1971 and Cong et al. 2003, J. Struct. Biol. 144, 51). All of it is matrix products.
The image's samples stay where they are: what is interpolated between rings is the slice. The products are made by BLAS,
or by cuBLAS on a GPU.
"""

from __future__ import annotations

import numpy as np

from mpirecon.backend.arrays import HOST, Arrays
from mpirecon.kernels.cache import njit
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.search.slices import cut

#: rings of a Fourier pixel, and harmonics beyond those that a particle of this radius has
_RINGS, _MORE_HARMONICS = 2, 4


class Circles:
    """The samples' side: which rings and harmonics there are, and what samples are in them.

    Parameters
    ----------
    kx, ky : (p,)
        samples
    radius : (rings,)
        of the rings: all within their reach of the samples
    extent : float
        radius of the particle over the box
    arrays : Arrays
        where products are made
    """

    def __init__(
        self, kx: np.ndarray, ky: np.ndarray, radius: np.ndarray, extent: float, arrays: Arrays = HOST
    ) -> None:
        self._arrays, self.radius = arrays, radius
        distance, angle = np.hypot(kx, ky), np.arctan2(ky, kx)
        order = np.argsort(distance, kind="stable")
        self._order = None if (np.diff(distance) >= 0).all() else arrays.moved(order)
        self.highest = np.ceil(2 * np.pi * self.radius * extent).astype(int) + _MORE_HARMONICS
        self.orders = int(self.highest.max()) + 1
        self.first = np.array(
            [int(np.argmax(self.highest >= m)) for m in range(self.orders)]
        )  # ring that has a harmonic
        self._parts = [self._of_ring(ring, distance[order], angle[order]) for ring in range(len(radius))]

    def _of_ring(self, ring: int, distance: np.ndarray, angle: np.ndarray) -> tuple:
        """(samples that a ring is interpolated at, what their real and imaginary parts give to harmonics (2m, ·))."""
        reach = self.radius[ring] - 2 / _RINGS, self.radius[ring] + 2 / _RINGS
        rows = slice(*np.searchsorted(distance, reach).tolist())
        weight = _cubic(np.abs(distance[rows] - self.radius[ring]) * _RINGS)
        m = np.arange(self.highest[ring] + 1)
        even, odd = m[m % 2 == 0, None], m[m % 2 == 1, None]
        # ŷ(−k) = conj ŷ(k): of even harmonics the real parts are all there is, of odd ones the imaginary parts
        weight_even = (weight * np.where(even == 0, 1, 2))[:, None]
        of_real = weight_even * np.stack([np.cos(even * angle[rows]), -np.sin(even * angle[rows])], axis=1)
        of_imag = 2 * weight * np.stack([np.sin(odd * angle[rows]), np.cos(odd * angle[rows])], axis=1)
        matrices = (part.reshape(2 * len(part), weight.size).astype(np.float32) for part in (of_real, of_imag))
        return rows, *map(self._arrays.moved, matrices)

    def harmonics(self, real, imag):
        """Of samples (p, columns) float32, by order and ring: (orders, rings, 2, columns), real and imaginary parts.
        Rings before the first that has an order are not set.

        imag : None where all samples are real, and odd harmonics therefore nothing: they are left out
        """
        columns, step = real.shape[1], 2 if imag is None else 1
        if self._order is not None:
            real, imag = (None if values is None else values[self._order] for values in (real, imag))
        size = (-(-self.orders // step), len(self.radius), 2, columns)
        out = self._arrays.module.empty(size, np.float32)
        for ring, (rows, of_real, of_imag) in enumerate(self._parts):
            for parity, matrix, values in ((0, of_real, real), (1, of_imag, imag)):
                if values is not None:
                    found = (matrix @ values[rows]).reshape(-1, 2, columns)
                    out[parity :: 2 // step, ring][: len(found)] = found
        return out


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
        radians; t is even, and the second half is half a turn further than the first
    arrays : Arrays
        where products are made
    stretch : float
        the most that magnifications of images' optics lengthen a frequency
    """

    def __init__(
        self, grid: np.ndarray, kx: np.ndarray, ky: np.ndarray, extent: float, views: np.ndarray, turns: np.ndarray,
        arrays: Arrays = HOST, stretch: float = 1.0,
    ) -> None:
        self._arrays, self._samples, self._extent = arrays, np.stack([kx, ky]).astype(np.float64), extent
        self.views, self.turns, self._angles = len(views), len(turns), turns
        distance = np.hypot(kx, ky)
        # magnifications may shorten frequencies, too: a ring more
        first, last = np.floor(distance.min() * _RINGS) - 2, np.ceil(distance.max() * stretch * _RINGS) + 1
        self._radius = np.arange(max(first, 0), last + 1) / _RINGS
        self._known: dict[bytes, Circles] = {}
        circles = self._circles(np.eye(2))
        self._first = circles.first
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
        self._slices, self._powers = ([arrays.moved(_products(part[:, m, circles.first[m] :]))
                                       for m in range(0, circles.orders, step)]
                                      for part, step in ((slices, 1), (powers, 2)))

    def _circles(self, magnification: np.ndarray) -> Circles:
        """Of images whose optics magnify by this (2, 2)."""
        key = magnification.tobytes()
        if key not in self._known:
            self._known[key] = Circles(*(magnification @ self._samples), self._radius, self._extent, self._arrays)
        return self._known[key]

    def power(self, on_model: np.ndarray, magnification: np.ndarray = np.eye(2)) -> np.ndarray:
        """Σ b |p|² of each image at each view and turn, (b, views · turns) float32; on_model : (b, p) float32 ·
        magnification : (2, 2), of the optics of all of them."""
        arrays = self._arrays
        out = arrays.module.empty((len(on_model), self.views, self.turns), np.float32)
        circles = self._circles(magnification)
        harmonics = circles.harmonics(arrays.moved(np.ascontiguousarray(on_model.T)), None)
        for first, (sums,) in self._sums(self._powers, harmonics, 2):
            views = slice(first, first + sums.shape[1])
            for turns in (slice(0, len(sums)), slice(len(sums), None)):
                out[:, views, turns] = sums.transpose(2, 1, 0)
        return arrays.on_host(out).reshape(len(on_model), -1)

    def best(
        self, weighted: np.ndarray, ramps: np.ndarray, magnification: np.ndarray = np.eye(2)
    ) -> tuple[np.ndarray, np.ndarray]:
        """The largest Σ Re(conj(p) y) over offsets of each image at each view and turn, and the number of that offset.

        weighted : (b, p) complex64, images times their weights · ramps : (s, p) complex64, each offset's ·
        magnification : as in `power` · returns (b, views · turns) float32 and int16
        """
        arrays, xp, circles = self._arrays, self._arrays.module, self._circles(magnification)
        size = (len(weighted), self.views, self.turns)
        best, which = xp.empty(size, np.float32), xp.empty(size, np.int16)
        of_offsets, of_images = (arrays.moved(np.ascontiguousarray(part.T)) for part in (ramps, weighted))
        at_once = max(1, arrays.columns // len(ramps))
        for start in range(0, len(weighted), at_once):
            rows = slice(start, start + at_once)
            moved = of_offsets[:, :, None] * of_images[:, None, rows]
            moved = moved.reshape(len(moved), -1)
            harmonics = circles.harmonics(xp.ascontiguousarray(moved.real), xp.ascontiguousarray(moved.imag))
            for first, parts in self._sums(self._slices, harmonics, 1):
                views = slice(first, first + parts[0].shape[1])
                parts = (part.reshape(*part.shape[:2], len(ramps), -1) for part in parts)
                _over_offsets(xp, *parts, best[rows, views], which[rows, views])
        return tuple(arrays.on_host(part).reshape(len(weighted), -1) for part in (best, which))

    def _sums(self, products: list, harmonics, step: int):
        """(first view, sums (turns / 2, some views, columns)) of all views, some at a time: over even orders and, where
        `step` is 1, over odd ones. What is half a turn further has the odd ones with the other sign."""
        columns, xp, moved = harmonics.shape[-1], self._arrays.module, self._arrays.moved
        of_images = [part[first:].reshape(-1, columns) for part, first in zip(harmonics, self._first[::step])]
        parities = [range(0, len(products), 3 - step), range(1, len(products), 2)][: 3 - step]
        of_turns = []
        for orders in parities:
            angle = np.outer(self._angles[: self.turns // 2], step * np.array(orders))
            both = np.stack([np.cos(angle), -np.sin(angle)], axis=2)
            of_turns.append(moved(both.reshape(len(both), -1).astype(np.float32)))
        at_once = max(1, self._arrays.block // (2 * len(products) * columns))
        for first in range(0, self.views, at_once):
            views, found = min(at_once, self.views - first), []
            for orders, matrix in zip(parities, of_turns):
                z = xp.empty((len(orders), 2, views, columns), np.float32)
                for row, m in enumerate(orders):
                    xp.matmul(products[m][:, first : first + views], of_images[m], out=z[row])
                found.append((matrix @ z.reshape(2 * len(orders), -1)).reshape(-1, views, columns))
            yield first, found


def _orders(rings: np.ndarray, orders: int) -> np.ndarray:
    """Circular harmonics (v, orders, rings) of values (v, rings, angles)."""
    return (np.fft.fft(rings, axis=2)[:, :, :orders] / rings.shape[2]).swapaxes(1, 2)


def _products(harmonics: np.ndarray) -> np.ndarray:
    """(2, v, 2 · rings) float32, of which times those of an image is their product with conj(c)."""
    real, imag = harmonics.real, harmonics.imag
    parts = np.stack([real, imag], axis=2), np.stack([-imag, real], axis=2)
    return np.stack([part.reshape(len(part), -1) for part in parts]).astype(np.float32)


def _over_offsets(xp, even, odd, best, which) -> None:
    """The largest of even + odd, and of even − odd for the other half of the turns, each (turns / 2, views, offsets,
    images), over offsets, and its offset, into (images, views, turns)."""
    if xp is np:
        largest(even, odd, best, which)
        return
    half = len(even)
    for turns, sums in ((slice(0, half), even + odd), (slice(half, None), even - odd)):
        best[:, :, turns] = sums.max(axis=2).transpose(2, 1, 0)
        which[:, :, turns] = sums.argmax(axis=2).transpose(2, 1, 0)


@njit(cache=True, nogil=True)
def largest(even, odd, best, which):
    """As `_over_offsets`, in one pass over what is in the cache."""
    half, views, offsets, images = even.shape
    top, at = np.empty((2, images), np.float32), np.empty((2, images), np.int32)
    for t in range(half):
        for v in range(views):
            e, o = even[t, v], odd[t, v]
            for i in range(images):
                top[0, i], top[1, i] = e[0, i] + o[0, i], e[0, i] - o[0, i]
                at[0, i] = at[1, i] = 0
            for s in range(1, offsets):
                for i in range(images):
                    here, there = e[s, i] + o[s, i], e[s, i] - o[s, i]
                    larger, larger_there = here > top[0, i], there > top[1, i]
                    top[0, i] = here if larger else top[0, i]
                    at[0, i] = s if larger else at[0, i]
                    top[1, i] = there if larger_there else top[1, i]
                    at[1, i] = s if larger_there else at[1, i]
            for i in range(images):
                best[i, v, t], which[i, v, t] = top[0, i], at[0, i]
                best[i, v, t + half], which[i, v, t + half] = top[1, i], at[1, i]
