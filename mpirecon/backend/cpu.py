"""The CPU backend: Numba kernels on NumPy arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.backend.resident import Batch, ResidentImages, fitting
from mpirecon.backend.store import Slab
from mpirecon.kernels.nearby import make_nearby
from mpirecon.kernels.sphere import Packed
from mpirecon.kernels.statistics import (
    image_power,
    image_shells,
    make_statistics,
    shell_power,
)
from mpirecon.kernels.weigh import weigh
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.particles import ParticleSet
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.coarse import PairGrid, coarse_box, coarse_projection, set_middle
from mpirecon.operators.ctf import ctf_coefficients, evaluate
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.projection import Projection
from mpirecon.operators.shift import centred_samples
from mpirecon.parallel.threads import Threads, return_large_arrays

#: boxes above which memory is worth more than the time that new pages take
_LARGE_BOX = 256

#: bytes of images that are transformed at once: they and their transforms stay in a cache
_CACHE = 1_000_000


class CpuBackend(Backend):
    """One box and pixel size on the CPU.

    padding : how much larger than the box the Fourier grid is
    threads : of this rank
    memory : bytes that prepared images may take, kept for the next passes
    half_precision : keep them as float16
    level : whether k = 0 is among the samples (HalfPlane)
    huge_pages : whether grids lie in such (Projection)
    """

    name = "cpu"
    can = frozenset(Ability)

    def __init__(
        self, box: int, pixel_size: float, *, limit: float | None = None, taps: int = 4, premultiplied: bool = False,
        aberrations: Aberrations | None = None, padding: float = 2.0, threads: int = 1, memory: float = 0,
        half_precision: bool = False, level: bool = True, huge_pages: bool = False,
    ) -> None:
        if box > _LARGE_BOX:
            return_large_arrays()
        self.pixel_size = pixel_size
        self.premultiplied = premultiplied
        self.plane = HalfPlane.of(box, limit, 1.0 if aberrations is None else aberrations.stretch, level)
        self.optics = OpticsPlanes.of(aberrations, self.plane.kx, self.plane.ky, box, pixel_size, premultiplied)
        self.threads = Threads(threads)
        self.projection = Projection(box, self.plane, taps, padding, self.threads, huge_pages)
        self._memory, self._half_precision = memory, half_precision
        self._fixed_point: FixedPoint | None = None
        self.reach = self.projection.reach(1.0 if aberrations is None else aberrations.stretch)

    def image_memory(self, slab: Slab) -> ResidentImages:
        return ResidentImages(self, slab, self._memory, self._half_precision)

    def keeps_all(self, slab: Slab) -> bool:
        return fitting(len(slab), len(self.plane), self._memory, self._half_precision) == len(slab)

    def prepare(self, images: np.ndarray, particles: ParticleSet, group: np.ndarray | None = None) -> Batch:
        """(b, n, n) float32 images and their metadata → Batch; group : (b,) int64, all of group 0 when left out."""
        group = np.zeros(len(images), np.int64) if group is None else group
        data = np.empty((len(images), len(self.plane)), np.complex64)
        ctf = np.empty(data.shape, np.float32)
        # once for all pieces: threads take turns at whatever is not a kernel or an FFT
        shift = particles.pose.shift / self.pixel_size
        coefficients = ctf_coefficients(particles.ctf, self.plane.box, self.pixel_size, particles.ctf_phase_flipped)
        optics_rows = np.zeros(len(images),
                               np.int64) if self.optics is None else self.optics.rows(particles.optics_group)

        def some(a: int, b: int) -> None:
            for first in range(a, b, step):
                part = slice(first, min(first + step, b))
                self._samples(images[part], shift[part], coefficients[part], optics_rows[part], data[part], ctf[part])

        step = max(1, _CACHE // (4 * images[0].size)) if len(images) else 1
        self.threads.over(len(images), some)
        return Batch(data, ctf, self.rotations(particles.pose.quaternion, particles.optics_group), group)

    def _samples(self, images, shift, coefficients, optics_rows, data: np.ndarray, ctf: np.ndarray) -> None:
        """Fill `data` and `ctf` of some images."""
        # orthonormal: white noise keeps its pixel variance
        centred_samples(images, shift, self.plane, out=data, scale=1 / self.plane.box)
        if self.optics is not None:
            self.optics.correct(data, optics_rows)
        evaluate(coefficients, self.plane.kx, self.plane.ky, self.optics, optics_rows, ctf)

    def turned(self, batch: Batch, matrix: np.ndarray) -> Batch:
        return replace(batch, rotation=batch.rotation @ matrix.T)

    def power(self, batch: Batch) -> np.ndarray:
        out, m = np.empty(len(batch.data)), self.plane.multiplicity
        self.threads.over(
            len(out), lambda a, b: image_power(batch.data[a:b], batch.ctf[a:b], m, self.premultiplied, out[a:b])
        )
        return out

    def image_shells(self, batch: Batch) -> np.ndarray:
        out, plane = np.empty((len(batch.data), self.plane.shells)), self.plane
        self.threads.over(
            len(out), lambda a, b: image_shells(batch.data[a:b], plane.multiplicity, plane.shell, out[a:b])
        )
        return out

    def add_spectrum(self, batch: Batch, weight: np.ndarray, power: np.ndarray, count: np.ndarray) -> None:
        plane, sums = self.plane, {}

        def some(a: int, b: int) -> None:
            sums[a] = np.zeros((2, len(power)))
            shell_power(
                batch.data[a:b], batch.ctf[a:b], weight[a:b], plane.multiplicity, plane.shell, self.premultiplied,
                *sums[a]
            )

        self.threads.over(len(weight), some)
        for a in sorted(sums):
            power += sums[a][0]
            count += sums[a][1]

    def reference(self, volume: np.ndarray) -> np.ndarray:
        """(n, n, n) float32 map, or one of a ``coarse_box`` → the grid that ``statistics`` projects from."""
        grid, scale = self.projection.empty_grid(), 1 / self.plane.box
        if len(volume) == self.plane.box:
            return self.projection.grid(volume, grid, scale=scale)
        set_middle(self.projection, volume, grid, 0, 1, scale)
        return grid

    def pair(self, box: int | None = None) -> PairGrid:
        magnified = self.optics is not None and (self.optics.magnification != np.eye(2)).any()
        return PairGrid(self.projection, box or self.plane.box, magnified)

    def set_reference(self, pair: PairGrid, which: int, volume: np.ndarray) -> None:
        pair.put(which, volume, 1 / self.plane.box)

    def coarse_box(self, reach: int) -> int:
        return coarse_box(self.projection, reach)

    def statistics(
        self, reference: np.ndarray | PairGrid, batch: Batch, bands: Bands, rotation: np.ndarray | None = None
    ) -> np.ndarray:
        rotation = batch.rotation if rotation is None else rotation
        maps = 2 if isinstance(reference, PairGrid) else 1
        out = np.empty((len(batch.data), maps, len(bands.samples), 3))
        for group in np.unique(batch.group):
            rows = np.flatnonzero(batch.group == group)
            if len(rows) == len(batch.data):
                self._statistics(reference, batch, bands, rotation, group, out)
                break
            some = np.empty((len(rows), *out.shape[1:]))
            self._statistics(reference, batch[rows], bands, rotation[rows], group, some)
            out[rows] = some
        return np.ascontiguousarray(out.swapaxes(0, 1)) if maps == 2 else out[:, 0]

    def _statistics(self, reference, batch: Batch, bands: Bands, rotation: np.ndarray, group: int,
                    out: np.ndarray) -> None:
        """The kernel's calls for images that share a noise spectrum."""
        mode = self._mode(bands)
        p, maps = self.projection, out.shape[1]
        kernel = make_statistics(p.taps, maps)
        grid, near = (reference.values, reference.near) if maps == 2 else (reference, None)

        def some(a: int, b: int) -> None:
            kernel(
                grid, p.table, rotation[a:b], p.ratio, self.plane.kx, self.plane.ky, batch.data[a:b],
                batch.ctf[a:b], bands.gain[group], bands.band, mode, out[a:b] if maps == 2 else out[a:b, 0], near,
            )  # fmt: skip

        self.threads.over(len(batch.data), some)

    def nearby(
        self, reference: np.ndarray, batch: Batch, bands: Bands, highest: np.ndarray, precision: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        b = len(batch.data)
        out = np.empty((b, 3)), np.empty((b, len(bands.samples), 2)), np.empty((b, 3)), np.empty((b, 6))
        p = self.projection
        for group in np.unique(batch.group):
            rows = np.flatnonzero(batch.group == group)
            some = batch[rows] if len(rows) < b else batch
            found = tuple(np.empty((len(rows), *values.shape[1:])) for values in out)

            def look(first: int, last: int, some=some, found=found, gain=bands.gain[group]) -> None:
                these = slice(first, last)
                make_nearby(p.taps)(
                    reference, p.table, some.rotation[these], p.ratio, self.plane.kx, self.plane.ky, some.data[these],
                    some.ctf[these], gain, bands.band, self._mode(bands), np.asarray(highest, np.int64),
                    float(precision),
                    *(values[these] for values in found),
                )  # fmt: skip

            self.threads.over(len(rows), look)
            for values, part in zip(out, found):
                values[rows] = part
        return out

    def accumulator(self, again: np.ndarray | None = None) -> np.ndarray:
        return self.projection.accumulator(np.float32 if self._fixed_point is None else np.int64, again)

    def use_units(self, fixed_point: FixedPoint | None) -> None:
        self._fixed_point = fixed_point

    def largest(self, batch: Batch) -> np.ndarray:
        """Upper bounds of C ŷ and of C² over the batch's samples, (2,) float64; for a FixedPoint."""
        largest, ctf = float(np.abs(batch.data).max(initial=0)), float(np.abs(batch.ctf).max(initial=0))
        return np.array([largest * self.plane.box * (1 if self.premultiplied else ctf), ctf**2])

    def accumulate(
        self, accumulator: np.ndarray, batch: Batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray
    ) -> None:
        used = weight > 0
        if not used.any():
            return
        if not used.all():
            batch, weight, contrast, contrast2 = batch[used], weight[used], contrast[used], contrast2[used]
        # back from orthonormal: the solution has the volume's own density
        on_data = np.float32(self.plane.box) * _columns(weight, contrast)
        on_weight = _columns(weight, contrast2)
        column = self.plane.shell if on_data.shape[1] > 1 else np.zeros(len(self.plane), np.int32)
        numerator, samples = np.empty_like(batch.data), np.empty_like(batch.ctf)

        def some(a: int, b: int) -> None:
            weigh(batch.data[a:b], batch.ctf[a:b], on_data[a:b], on_weight[a:b], column, self.premultiplied,
                  numerator[a:b], samples[a:b])  # fmt: skip

        self.threads.over(len(numerator), some)
        if self._fixed_point is not None:
            self._fixed_point.scale(numerator, samples)
        self.projection.adjoint_add(accumulator, batch.rotation, numerator, samples)

    def _per_sample(self, values: np.ndarray) -> np.ndarray:
        """(b,) → (b, 1), (b, shells) → (b, s) float32."""
        values = values.astype(np.float32)
        # rows stay contiguous
        return values[:, None] if values.ndim == 1 else np.take(values, self.plane.shell, axis=1)

    def folded(self, accumulator: np.ndarray, room: Packed | None = None) -> np.ndarray | Packed:
        return self.projection.folded(accumulator, room)

    def normal_equations(self, folded: np.ndarray | Packed) -> NormalEquations:
        projection, p = self.projection, len(folded)
        if p != projection.padded:
            projection = coarse_projection(projection, p * projection.box // projection.padded)
        return NormalEquations(projection, folded)


def _columns(weight: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """w · s of each particle, (b, 1) float32, or of each of its shells, (b, shells)."""
    contrast = contrast if contrast.ndim == 2 else contrast[:, None]
    return (weight[:, None] * contrast).astype(np.float32)
