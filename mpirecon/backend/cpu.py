"""The CPU backend: Numba kernels on NumPy arrays.

This is the seam: another backend has the same methods, takes the same host arrays in and gives the same host arrays
out; what it keeps in between (a Batch, a grid, an accumulator) is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.backend.resident import ResidentImages, fitting
from mpirecon.kernels.nearby import make_nearby
from mpirecon.kernels.statistics import (
    PLAIN,
    PREMULTIPLIED_RAW,
    PREMULTIPLIED_WHITENED,
    image_power,
    make_statistics,
    shell_power,
)
from mpirecon.kernels.weigh import weigh
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.coarse import PairGrid, coarse_box, coarse_projection, set_middle
from mpirecon.operators.ctf import ctf_coefficients, evaluate
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.projection import Projection
from mpirecon.operators.shift import centred_samples
from mpirecon.parallel.threads import Threads


#: bytes of images that are transformed at once: they and their transforms stay in a cache
_CACHE = 1_000_000


@dataclass
class Batch:
    """Images ready for the kernels: transformed, centred, with their CTF.

    data : (b, s) complex64 · ctf : (b, s) float32 · rotation : (b, 3, 3) float64 · group : (b,) int64, whose noise
    spectrum each image has.
    """

    data: np.ndarray
    ctf: np.ndarray
    rotation: np.ndarray
    group: np.ndarray

    def __getitem__(self, rows) -> Batch:
        return Batch(self.data[rows], self.ctf[rows], self.rotation[rows], self.group[rows])


class CpuBackend:
    """One box and pixel size on the CPU.

    padding : how much larger than the box the Fourier grid is · threads : of this rank · memory : bytes that prepared images
    may take, kept for the next passes · half_precision : keep them as float16
    """

    name = "cpu"
    fixed_point: FixedPoint | None = None  # where given, accumulators count whole numbers of its units
    pairs = True  # two maps may be compared with the particles at once
    reducer = None  # accumulators live where the communicator can sum them

    def __init__(
        self, box: int, pixel_size: float, *, limit: float | None = None, taps: int = 4, premultiplied: bool = False,
        aberrations: Aberrations | None = None, padding: float = 2.0, threads: int = 1, memory: float = 0,
        half_precision: bool = False,
    ) -> None:
        self.pixel_size = pixel_size
        self.premultiplied = premultiplied
        self.plane = HalfPlane.of(box, limit, 1.0 if aberrations is None else aberrations.stretch)
        self.optics = OpticsPlanes.of(aberrations, self.plane.kx, self.plane.ky, box, pixel_size, premultiplied)
        self.threads = Threads(threads)
        self.projection = Projection(box, self.plane, taps, padding, self.threads)
        self._memory, self._half_precision = memory, half_precision
        self._resident: ResidentImages | None = None
        self._slab = None

    def visit(
        self, slab, rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray], timings
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """(rows, Batch) for consecutive pieces of a slab's local rows; ``read(rows)`` gives their images.

        What is not in memory yet is read ahead while the caller works on the piece before.
        """
        if self._slab is not slab:
            self._slab = slab
            self._resident = ResidentImages(
                len(slab), len(self.plane), self._memory, self._half_precision, slab.order(), self.threads
            )
        parts = list(slab.batches(rows))
        with ThreadPoolExecutor(1) as reader:
            coming = self._read_ahead(reader, read, parts, 0)
            for number, part in enumerate(parts):
                with timings("read"):
                    images = None if coming is None else coming.result()
                coming = self._read_ahead(reader, read, parts, number + 1)
                with timings("prepare"):
                    batch = self._bring(slab, part, images)
                yield part, batch

    def keeps_all(self, slab) -> bool:
        """Whether the images of all of a slab's particles stay in memory."""
        return fitting(len(slab), len(self.plane), self._memory, self._half_precision) == len(slab)

    def forget_images(self) -> None:
        """Keep no images any more; a further visit reads them anew."""
        self._slab = self._resident = None

    def _read_ahead(self, reader, read, parts: list[np.ndarray], number: int):
        if number == len(parts) or self._resident.holds(parts[number]):
            return None
        return reader.submit(read, parts[number])

    def _bring(self, slab, part: np.ndarray, images: np.ndarray | None) -> Batch:
        """The batch of images just read, or of those in memory."""
        metadata, group = slab.metadata[part], slab.noise_group[part]
        if images is None:
            rotation = self.rotations(metadata.pose.quaternion, metadata.optics_group)
            return Batch(*self._resident.get(part), rotation, group)
        batch = self.prepare(images, metadata, group)
        self._resident.keep(part, batch.data, batch.ctf)
        return batch

    def prepare(self, images: np.ndarray, particles: ParticleSet, group: np.ndarray | None = None) -> Batch:
        """(b, n, n) float32 images and their metadata → Batch; group : (b,) int64, all of group 0 when left out."""
        group = np.zeros(len(images), np.int64) if group is None else group
        data = np.empty((len(images), len(self.plane)), np.complex64)
        ctf = np.empty(data.shape, np.float32)
        # once for all pieces: threads take turns at whatever is not a kernel or an FFT
        shift = particles.pose.shift / self.pixel_size
        coefficients = ctf_coefficients(particles.ctf, self.plane.box, self.pixel_size)
        optics_rows = np.zeros(len(images), np.int64) if self.optics is None else self.optics.rows(particles.optics_group)

        def some(a: int, b: int) -> None:
            for first in range(a, b, step):
                part = slice(first, min(first + step, b))
                self._samples(images[part], shift[part], coefficients[part], optics_rows[part], data[part], ctf[part])

        step = max(1, _CACHE // (4 * images[0].size)) if len(images) else 1
        self.threads.over(len(images), some)
        return Batch(data, ctf, self.rotations(particles.pose.quaternion, particles.optics_group), group)

    def _samples(self, images, shift, coefficients, optics_rows, data: np.ndarray, ctf: np.ndarray) -> None:
        """Fill `data` and `ctf` of some images."""
        centred_samples(images, shift, self.plane, out=data, scale=1 / self.plane.box)  # orthonormal: white noise keeps its pixel variance
        if self.optics is not None:
            self.optics.correct(data, optics_rows)
        evaluate(coefficients, self.plane.kx, self.plane.ky, self.optics, optics_rows, ctf)

    def rotations(self, quaternion: np.ndarray, optics_group: np.ndarray) -> np.ndarray:
        """What kernels take for rotation matrices, (b, 3, 3) float64: their optics groups' magnification included."""
        matrices = matrix_from_quaternion(quaternion)
        return matrices if self.optics is None else self.optics.rotations(matrices, self.optics.rows(optics_group))

    def turned(self, batch: Batch, matrix: np.ndarray) -> Batch:
        """The same images at poses R · matrixᵀ, those of a map turned by a (3, 3) rotation."""
        return replace(batch, rotation=batch.rotation @ matrix.T)

    def power(self, batch: Batch) -> np.ndarray:
        """Mean power of each image, (b,) float64, in the pixels' units."""
        out, m = np.empty(len(batch.data)), self.plane.multiplicity
        self.threads.over(len(out), lambda a, b: image_power(batch.data[a:b], batch.ctf[a:b], m, self.premultiplied, out[a:b]))
        return out

    def add_spectrum(self, batch: Batch, weight: np.ndarray, power: np.ndarray, count: np.ndarray) -> None:
        """Add the weighted batch to the noise spectrum's sums, (shells,) float64 each."""
        plane, sums = self.plane, {}

        def some(a: int, b: int) -> None:
            sums[a] = np.zeros((2, len(power)))
            shell_power(
                batch.data[a:b], batch.ctf[a:b], weight[a:b], plane.multiplicity, plane.shell, self.premultiplied, *sums[a]
            )

        self.threads.over(len(weight), some)
        for a in sorted(sums):
            power += sums[a][0]
            count += sums[a][1]

    def bands(self, noise_power: np.ndarray, lowest: int, highest: int, whitened: bool) -> Bands:
        """Bands of the shells lowest … highest, for ``statistics``."""
        return Bands.of(self.plane, noise_power, lowest, highest, whitened)

    def reference(self, volume: np.ndarray) -> np.ndarray:
        """(n, n, n) float32 map, or one of a ``coarse_box`` → the grid that ``statistics`` projects from."""
        grid, scale = self.projection.empty_grid(), 1 / self.plane.box
        if len(volume) == self.plane.box:
            return self.projection.grid(volume, grid, scale=scale)
        set_middle(self.projection, volume, grid, 0, 1, scale)
        return grid

    def pair(self, box: int | None = None) -> PairGrid:
        """Room for two maps of a box, the images' or a ``coarse_box``, that ``statistics`` compares with each particle at the
        cost of little more than one."""
        magnified = self.optics is not None and (self.optics.magnification != np.eye(2)).any()
        return PairGrid(self.projection, box or self.plane.box, magnified)

    def set_reference(self, pair: PairGrid, which: int, volume: np.ndarray) -> None:
        """Make a map number `which` (0 or 1) of a pair; the other stays."""
        pair.put(which, volume, 1 / self.plane.box)

    def coarse_box(self, reach: int) -> int:
        """The box, at most the images', in which references that hold shells 0 … reach can be made."""
        return coarse_box(self.projection, reach)

    def statistics(
        self, reference: np.ndarray | PairGrid, batch: Batch, bands: Bands, rotation: np.ndarray | None = None
    ) -> np.ndarray:
        """yy, yp, pp of each particle in each band, (b, bands, 3) float64; at other rotations (b, 3, 3) if given.

        Of a pair, (2, b, bands, 3).
        """
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

    def _statistics(self, reference, batch: Batch, bands: Bands, rotation: np.ndarray, group: int, out: np.ndarray) -> None:
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
        """The best pose near each particle's own; for shapes and meaning see ``kernels/nearby.py``.

        highest : (steps,) int64, highest band of each look · precision : of the prior about the own pose, 1/radian²

        Returns
        -------
        turn (b, 3), sums (b, bands, 2), slope (b, 3), curvature (b, 6) : float64
        """
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
                    some.ctf[these], gain, bands.band, self._mode(bands), np.asarray(highest, np.int64), float(precision),
                    *(values[these] for values in found),
                )  # fmt: skip

            self.threads.over(len(rows), look)
            for values, part in zip(out, found):
                values[rows] = part
        return out

    def _mode(self, bands: Bands) -> int:
        """How the kernels multiply data and model."""
        if not self.premultiplied:
            return PLAIN
        return PREMULTIPLIED_WHITENED if bands.whitened else PREMULTIPLIED_RAW

    def accumulator(self) -> np.ndarray:
        return self.projection.accumulator(np.float32 if self.fixed_point is None else np.int64)

    def largest(self, batch: Batch) -> np.ndarray:
        """Upper bounds of C ŷ and of C² over the batch's samples, (2,) float64; for a FixedPoint."""
        largest, ctf = float(np.abs(batch.data).max(initial=0)), float(np.abs(batch.ctf).max(initial=0))
        return np.array([largest * self.plane.box * (1 if self.premultiplied else ctf), ctf**2])

    def accumulate(
        self, accumulator: np.ndarray, batch: Batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray
    ) -> None:
        """Add Σ w s C ŷ and Σ w s² C² of the batch; particles of weight 0 are left out.

        weight : (b,) float64, w · contrast, contrast2 : the expected contrast E[s] and E[s²] of each particle, (b,) float64,
        or of each of its shells, (b, shells), where the signal of a particle is right at some frequencies only
        """
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
        if self.fixed_point is not None:
            self.fixed_point.scale(numerator, samples)
        self.projection.adjoint_add(accumulator, batch.rotation, numerator, samples)

    def _per_sample(self, values: np.ndarray) -> np.ndarray:
        """(b,) → (b, 1), (b, shells) → (b, s) float32."""
        values = values.astype(np.float32)
        return values[:, None] if values.ndim == 1 else np.take(values, self.plane.shell, axis=1)  # rows stay contiguous

    def folded(self, accumulator: np.ndarray) -> np.ndarray:
        """The accumulator on the half-complex grid, ready to be reduced, (p, p, p//2 + 1, 3) float32."""
        return self.projection.folded(accumulator)

    def normal_equations(self, folded: np.ndarray) -> NormalEquations:
        """The normal equations of a reduced accumulator, or of its middle, which is a ``coarse_box``'s."""
        projection, p = self.projection, len(folded)
        if p != projection.padded:
            projection = coarse_projection(projection, p * projection.box // projection.padded)
        return NormalEquations(projection, folded)


def _columns(weight: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """w · s of each particle, (b, 1) float32, or of each of its shells, (b, shells)."""
    contrast = contrast if contrast.ndim == 2 else contrast[:, None]
    return (weight[:, None] * contrast).astype(np.float32)
