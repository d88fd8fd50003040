"""The search: all orientations and offsets coarsely, as matrix products, then the best candidates climbed to their
peaks.

A flat search over the orientations of a low-passed map finds more than a hierarchy that begins at lower bands, for
these do not hold the information; what is missed is mostly of weak particles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mpirecon.backend.arrays import HOST, Arrays, HostWhereFull
from mpirecon.model.symmetry import PointGroup
from mpirecon.parallel.threads import Threads
from mpirecon.search.circular import TurningSlices
from mpirecon.search.fine import climb
from mpirecon.search.orientations import grid, turns, views
from mpirecon.search.peaks import pick
from mpirecon.search.slices import slice_grid

#: the coarse band holds this many periods across the particle …
_PERIODS = 11.3

#: … whose orientations are this part of its finest period over the diameter apart, and its offsets this part of it
_ANGLE, _OFFSET = 1.5, 0.33

#: offsets reach this many standard deviations, and orientations near given ones; what lies a little further is climbed
#: to
_REACH, _REACH_TURNS = 2.25, 3.0

#: candidates after the coarse search, with and without unknown offsets, and after each band of the fine one
_COARSE, _COARSE_MOVING, _FINE = 16, 64, (12, 4)

#: Gauss–Newton steps in each band, at most
_STEPS = 2, 4, 8

#: candidates are other peaks when they are this part of the grid's step apart
_WEEDED = 1.2

#: pixels beyond the particle's radius that it may reach
_EDGE = 4.0

#: digits of a magnification that the coarse search sees: the rest moves nothing by a tenth of a radian
_ALIKE = 3

#: numbers of a block of scores
_BLOCK = 2**23

#: two candidates within so many of their standard deviations are one peak
_SAME = 4.0


@dataclass(frozen=True)
class Band:
    """Samples that the search uses, those of the coarse band first.

    kx, ky : (s,) int32 · order : (s,) places of these samples in the images' half plane · coarse, middle : how many of
    them the coarse and the middle band have · reach : Fourier pixels of the coarse band · limit : below which all of
    them are in the map, Fourier pixels · stretch : the most that a magnification may lengthen them
    """

    kx: np.ndarray
    ky: np.ndarray
    order: np.ndarray
    coarse: int
    middle: int
    reach: int
    limit: int
    stretch: float

    @classmethod
    def of(cls, plane, diameter: float, finest: int, side: int | None = None, stretch: float = 1.0) -> Band:
        """diameter : of the particle, pixels · finest : highest shell that the reference supports · side : of its box,
        if not the images' · stretch : the most that a magnification lengthens a frequency"""
        radius = np.hypot(plane.kx, plane.ky)
        finest = int(min(finest, plane.box // 2 - 1, ((side or plane.box) // 2 - 1) / stretch))
        reach = int(min(round(_PERIODS * plane.box / diameter), finest))
        order = np.argsort(radius, kind="stable")
        order = order[(plane.shell[order] >= 1) & (radius[order] <= finest)]
        inside = radius[order]
        coarse, middle = (int(np.searchsorted(inside, limit, "right")) for limit in (reach, (reach + finest) / 2))
        limit = int(stretch * inside.max()) + 1
        return cls(plane.kx[order], plane.ky[order], order, coarse, middle, reach, limit, stretch)

    def checked(self, magnification: np.ndarray) -> np.ndarray:
        """These (m, 2, 2), none of which reaches beyond what slices are cut from: kernels do not check that."""
        if np.linalg.norm(magnification, 2, axis=(1, 2)).max(initial=0) > self.stretch + 1e-6:
            raise ValueError(f"a magnification lengthens frequencies by more than {self.stretch}")
        return magnification


@dataclass(frozen=True)
class Peaks:
    """The best poses of each image.

    quaternion : (m, k, 4) · offset : (m, k, 2) pixels, on top of the given shift · cross, power : (m, k) yp and pp
    there · curvature : (m, k, 5, 5) of −log likelihood at amplitude 1, by turn (radians) and offset (pixels) · distinct
    : (m, k) bool, not a copy of a better peak; the best comes first
    """

    quaternion: np.ndarray
    offset: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    curvature: np.ndarray
    distinct: np.ndarray

    def ordered(self, order: np.ndarray) -> Peaks:
        """The peaks of each image in another order, (m, k)."""
        rows = np.arange(len(order))[:, None]
        return Peaks(*(getattr(self, name)[rows, order] for name in self.__dataclass_fields__))

    @property
    def score(self) -> np.ndarray:
        """Matched filter yp / √pp of each, (m, k)."""
        return np.divide(self.cross, np.sqrt(self.power), out=np.zeros_like(self.cross), where=self.power > 0)


class PoseSearch:
    """A search of one map's orientations.

    Parameters
    ----------
    reference : (n, n, n) float32
        the map, masked, each frequency weighed by how reliable it is
    plane : HalfPlane
        the images' samples
    diameter : float
        of the particle, pixels
    finest : int
        highest shell that tells
    group : PointGroup
    offset_sigma : float
        standard deviation of unknown offsets on each axis, pixels; 0: offsets are known
    turn_sigma : float
        standard deviation of the turns from the given poses on each axis, radians; 0: all orientations are searched
    arrays : Arrays
        where the products of the coarse search are made; the host's where a GPU's memory does not suffice
    stretch : float
        the most that the magnification of an image's optics lengthens a frequency
    """

    def __init__(
        self, reference: np.ndarray, plane, diameter: float, finest: int, group: PointGroup, offset_sigma: float,
        turn_sigma: float = 0.0, arrays: Arrays = HOST, stretch: float = 1.0,
    ) -> None:
        self.box, self.group, self.offset_sigma, self.turn_sigma = plane.box, group, offset_sigma, turn_sigma
        self.band = Band.of(plane, diameter, finest, len(reference), stretch)
        self.grid = slice_grid(reference, self.band.limit, plane.box)
        period = plane.box / self.band.reach  # pixels, the finest of the coarse band
        self.step = _ANGLE * period / diameter
        self.orientations = grid(self.step, group)
        self.offsets = _disc(_OFFSET * period, _REACH * offset_sigma)
        k = self.band.kx[: self.band.coarse], self.band.ky[: self.band.coarse]
        extent = (diameter / 2 + _EDGE) / self.box
        self.slices = HostWhereFull(lambda where: TurningSlices(
            self.grid, *k, extent, views(self.step, group), turns(self.step), where, stretch), arrays)  # fmt: skip
        phases = np.outer(self.offsets[:, 0], k[0]) + np.outer(self.offsets[:, 1], k[1])
        self.ramps = np.exp(2j * np.pi / self.box * phases).astype(np.complex64)
        self.batch = int(np.clip(_BLOCK // (len(self.offsets) * 1000), 16, 256))

    def search(
        self, data: np.ndarray, on_cross: np.ndarray, on_model: np.ndarray, given: np.ndarray,
        magnification: np.ndarray | None = None, progress: Callable[[int], None] = lambda images: None,
        threads: Threads = Threads(1),
    ) -> Peaks:
        """The best poses of some images.

        Parameters
        ----------
        data : (m, s) complex64
            half-plane samples, the particle moved to the origin by the given shift
        on_cross, on_model : (m, s) float32
            what multiplies Re(conj(p) ŷ) and |p|², over the noise power: CTF and CTF², with the samples' multiplicity
        given : (m, 4)
            quaternions of the given poses, near which to search where `turn_sigma` is given
        magnification : (m, 2, 2), optional
            of each image's optics
        """
        data, on_cross, on_model = (np.ascontiguousarray(a[:, self.band.order]) for a in (data, on_cross, on_model))
        magnification = self.band.checked(np.tile(np.eye(2), (len(data), 1, 1)) if magnification is None
                                          else magnification)
        found: list[tuple] = [()] * len(data)
        for rows, nearly in self._alike(magnification):
            where, offset = self.coarse(data[rows], on_cross[rows], on_model[rows], given[rows], nearly)

            def climb_some(a: int, b: int, rows=rows, where=where, offset=offset) -> None:
                for i in range(a, b):
                    row = rows[i]
                    image = data[row], on_cross[row], on_model[row], magnification[row]
                    found[row] = self._fine(where[i], offset[i], *image)

            threads.over(len(where), climb_some)
            progress(len(where))
        return Peaks(*(np.stack(column) for column in zip(*found)))

    def _alike(self, magnification: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, at most a batch, the magnification that all of them nearly have (2, 2))."""
        # 0 is added for −0, which would be another
        kinds, of = np.unique(np.round(magnification, _ALIKE) + 0.0, axis=0, return_inverse=True)
        for number, nearly in enumerate(kinds):
            rows = np.flatnonzero(of.ravel() == number)
            for first in range(0, len(rows), self.batch):
                yield rows[first : first + self.batch], nearly

    def coarse(self, data, on_cross, on_model, given, magnification=np.eye(2)) -> tuple[np.ndarray, np.ndarray]:
        """(candidates as numbers of orientations (b, k), their offsets (b, k, 2))."""
        p = self.band.coarse
        (best, which), power = self.slices(lambda slices: (
            slices.best(data[:, :p] * on_cross[:, :p], self.ramps, magnification),
            slices.power(on_model[:, :p], magnification)))  # fmt: skip
        scores = np.divide(best, np.sqrt(power, out=power), out=np.zeros_like(best), where=power > 0)
        if self.turn_sigma:
            near = np.cos(max(_REACH_TURNS * self.turn_sigma, self.step) / 2)
            closest = np.max([np.abs(copy @ self.orientations.T) for copy in self.group.copies(given)], axis=0)
            scores[closest < near] = -np.inf
        chosen = np.empty((len(data), _COARSE_MOVING if len(self.offsets) > 1 else _COARSE), np.int64)
        pick(scores, self.orientations.astype(np.float32), np.cos(_WEEDED * self.step / 2), chosen)
        return chosen, self.offsets[np.take_along_axis(which, np.maximum(chosen, 0), axis=1)]

    def _fine(self, where, offset, data, on_cross, on_model, magnification) -> tuple:
        offset = offset[where >= 0].copy()
        q = self.orientations[where[where >= 0]].copy()
        bands = (self.band.coarse, self.band.middle, len(self.band.kx))
        precision = np.zeros(5)
        if self.offset_sigma:
            precision[3:] = 1e-3
        for number, count in enumerate(bands):
            sums, hessian = np.empty((len(q), 2)), np.empty((len(q), 5, 5))
            climb(self.grid, self.box, self.band.kx, self.band.ky, count, data, on_cross, on_model, magnification,
                  self.offset_sigma > 0, precision, q, offset, sums, hessian, _STEPS[number])  # fmt: skip
            order = np.argsort(-sums[:, 0] / np.sqrt(np.maximum(sums[:, 1], 1e-30)), kind="stable")
            if number < len(_FINE):
                order = self._weeded(order, q, 0.5 * self.step, _FINE[number])
            q, offset, sums, hessian = q[order], offset[order], sums[order], hessian[order]
        q, offset, sums, hessian = (_padded(a, _FINE[-1]) for a in (q, offset, sums, hessian))
        return q, offset, sums[:, 0], sums[:, 1], hessian, self._distinct(q, sums, hessian)

    def _weeded(self, order: np.ndarray, q: np.ndarray, angle: float, most: int) -> np.ndarray:
        """The first of `order`, without those that have climbed to where a better one is."""
        near, kept = self._apart(q) <= angle, []
        for i in order:
            if len(kept) < most and not near[i, kept].any():
                kept.append(int(i))
        return np.array(kept, np.int64)

    def _distinct(self, q: np.ndarray, sums: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        near = _SAME / np.sqrt(np.maximum(np.linalg.eigvalsh(hessian[:, :3, :3])[:, 0], 1e-12))
        copies = np.tril(self._apart(q) <= np.minimum(near, 0.3)[:, None], -1).any(axis=1)
        return (sums[:, 1] > 0) & ~copies

    def _apart(self, q: np.ndarray) -> np.ndarray:
        """Angles between the nearest copies of poses, radians, (k, k)."""
        cosine = np.max([np.abs(q @ copy.T) for copy in self.group.copies(q)], axis=0)
        return 2 * np.arccos(np.minimum(cosine, 1))


def _disc(step: float, radius: float) -> np.ndarray:
    """Offsets (x, y) on a square lattice within a disc, 0 first, (s, 2) float64."""
    if radius <= 0:
        return np.zeros((1, 2))
    reach = int(np.ceil(radius / step)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * step
    found = np.column_stack([x.ravel(), y.ravel()])
    length = np.hypot(*found.T)
    order = np.argsort(length, kind="stable")
    return found[order][length[order] <= radius + step / 2]  # to the rim, every offset is half a step from one of these


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """The first `length` rows, zeros where there are fewer."""
    out = np.zeros((length, *values.shape[1:]))
    out[: min(len(values), length)] = values[:length]
    return out
