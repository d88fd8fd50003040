"""The CUDA backend: kernels/*.cu through CuPy.
Host arrays in and out, as the CPU backend's; what lies between stays on the GPU.

Samples of images are kept in an order of their own, tiles of neighbouring frequencies, so that the threads of a warp
read neighbouring grid points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.backend.arrays import DeviceArrays
from mpirecon.backend.bands import BANDS, Bands
from mpirecon.backend.device_normal import DeviceNormalEquations, WhileMemoryLasts
from mpirecon.backend.device_slab import Batch, DeviceImages, DeviceMemory
from mpirecon.backend.gpu import Gpu, settings_for
from mpirecon.backend.memory import Plan, memory_words, plan, solving_bytes
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.backend.store import Slab
from mpirecon.errors import UserError
from mpirecon.kernels.cuda_arguments import LARGEST_BOX, ctf_arguments, frequencies, rotation_arguments, shift_arguments
from mpirecon.kernels.fold import extended_shape
from mpirecon.kernels.gridding import MARGIN
from mpirecon.kernels.nearby import step_all, turn_all
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.particles import ParticleSet
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.coarse import coarse_box, coarse_projection
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.projection import Projection
from mpirecon.operators.symmetry import Symmetry

#: sides of the tiles in which samples are ordered, along kx and ky: 32 samples, one for each thread of a warp
_TILE = 8, 4

i4, i8, f4, f8 = np.int32, np.int64, np.float32, np.float64


class CudaBackend(Backend):
    """One box and pixel size on one GPU. Images stay on the device when they fit, also while maps are solved: the plan
    of its memory has room for both."""

    name = "cuda"
    can = frozenset({Ability.NEARBY})
    equations_on_device, equations_on_host = DeviceNormalEquations, NormalEquations

    def __init__(
        self, box: int, pixel_size: float, *, limit: float | None = None, taps: int = 4, padding: float = 2.0,
        premultiplied: bool = False, aberrations: Aberrations | None = None, device: int = 0, sharing: int = 1,
        log=None,
        level: bool = True,
    ) -> None:
        if box > LARGEST_BOX:
            raise UserError(f"--backend cuda takes boxes up to {LARGEST_BOX}, got {box}; use --backend cpu")
        self.pixel_size = pixel_size
        self.premultiplied = premultiplied
        self.plane = HalfPlane.of(box, limit, 1.0 if aberrations is None else aberrations.stretch, level)
        self.projection = Projection(box, self.plane, taps, padding)
        self.gpu = Gpu(device, sharing, settings_for(taps, self.projection.padding, BANDS))
        self._free = self.gpu.free_bytes()  # before anything is allocated, which the plan counts
        self.plan: Plan | None = None
        self._log, self.arrays = log, DeviceArrays(self.gpu, log)
        self._bands: tuple[Bands, tuple] | None = None
        self._place_samples(aberrations)

    def _place_samples(self, aberrations: Aberrations | None) -> None:
        """The half plane on the device, in the order of the kernels."""
        plane, to_device = self.plane, self.gpu.to_device
        self.order = in_tiles(plane.kx, plane.ky)
        kx, ky = plane.kx[self.order], plane.ky[self.order]
        self._samples = {"k": to_device(frequencies(kx, ky)), "samples": len(plane)}
        self._shell = to_device(plane.shell[self.order], i4)
        self._multiplicity = to_device(plane.multiplicity[self.order], f4)
        by_shell = np.argsort(plane.shell[self.order], kind="stable")
        first = np.searchsorted(plane.shell[self.order][by_shell], np.arange(plane.shells + 1))
        self._by_shell = {"shell_index": to_device(by_shell, i4), "first": to_device(first, i4)}
        self.optics = OpticsPlanes.of(aberrations, kx, ky, plane.box, self.pixel_size, self.premultiplied)
        self._planes = dict.fromkeys(("on_data", "turns", "on_ctf"))
        if self.optics is not None:
            o = self.optics
            self._planes = {"on_data": to_device(o.on_data, np.complex64), "turns": to_device(o.turns, f4),
                            "on_ctf": to_device(o.on_ctf, f4)}

    # images

    def image_memory(self, slab: Slab) -> DeviceMemory:
        self.plan = plan(self._free, self.plane.box, self.projection.padded, len(self.plane), len(slab))
        if self._log is not None:
            self._log.event("device memory", plan=self.plan.words(), resident=self.plan.resident, rows=self.plan.rows)
        return DeviceMemory(self, slab, self.plan)

    def prepare(self, images: np.ndarray, particles: ParticleSet, group: np.ndarray | None = None) -> Batch:
        gpu, b = self.gpu, len(images)
        samples = gpu.cupy.empty((b, len(self.plane)), np.complex64)
        metadata = self.metadata(particles, np.zeros(b, i8) if group is None else group)
        length = max(1, min(b, self.plan.rows if self.plan else b))
        start = 0
        while start < b:
            part = slice(start, min(start + length, b))
            try:
                to = np.arange(part.start, part.stop)
                transforms = self.transformed(gpu.to_device(images[part], f4))
                self.pick(replace(metadata[part], images=transforms, row=self.rows(to - part.start)), to, samples)
                del transforms
            except Exception as error:
                if not gpu.ran_out(error):
                    raise
                length = self.shorter(length, error)
                continue
            start = part.stop
        images_on_device = DeviceImages(gpu, samples, transforms=False, scale=1.0)
        return replace(metadata, images=images_on_device, shift=None)

    def shorter(self, length: int, error: Exception) -> int:
        """Half the batch after the device ran out of memory; raises UserError when there is nothing left to halve."""
        self.gpu.cupy.get_default_memory_pool().free_all_blocks()
        if length <= 1:
            free = memory_words(self.gpu.free_bytes())
            raise UserError(
                f"the GPU ran out of memory with a batch of one image ({free} free): use one rank a GPU, a GPU with "
                "more memory, a smaller box, or --backend cpu"
            ) from error
        return length // 2

    def metadata(self, particles: ParticleSet, group: np.ndarray) -> Batch:
        """What the kernels need of particles beside their images, which row 0 … m − 1 of some store will hold."""
        box = self.plane.box
        optics_row, magnification = np.zeros(len(particles), i8), None
        if self.optics is not None:
            optics_row = self.optics.rows(particles.optics_group)
            magnification = self.optics.magnification[optics_row]
        coefficients = ctf_coefficients(particles.ctf, box, self.pixel_size, particles.ctf_phase_flipped)
        ctf = ctf_arguments(coefficients, magnification)
        rotation = self.rotations(particles.pose.quaternion, particles.optics_group)
        row = self.rows(np.arange(len(particles)))
        return Batch(DeviceImages(self.gpu, None, False, 1.0), row, rotation, self.gpu.to_device(ctf),
                     self.shifts(particles.pose.shift), optics_row, np.asarray(group, i8))  # fmt: skip

    def shifts(self, shift: np.ndarray):
        """(b, 2) Å as the kernels take them, on the device."""
        return self.gpu.to_device(shift_arguments(shift / self.pixel_size, self.plane.box))

    def transformed(self, pixels) -> DeviceImages:
        """rfft2 of images on the device; orthonormal by its scale: white noise keeps its pixel variance."""
        return DeviceImages(self.gpu, self.gpu.cupy.fft.rfft2(pixels), transforms=True, scale=1 / self.plane.box)

    def rows(self, rows: np.ndarray):
        """Rows of images, as batches have them, on the device."""
        return self.gpu.to_device(rows, i4)

    def pick(self, batch: Batch, to: np.ndarray, samples) -> None:
        """Centred samples of a batch's images into rows `to` of samples."""
        self.gpu.launch(
            "gather_translated", None, **self._images(batch), **self._samples, particles=len(batch), to=self.rows(to),
            out=samples,
        )  # fmt: skip

    def turned(self, batch: Batch, matrix: np.ndarray) -> Batch:
        return replace(batch, rotation=batch.rotation @ matrix.T)

    def power(self, batch: Batch) -> np.ndarray:
        out = self.gpu.cupy.empty(len(batch), f8)
        self.gpu.launch(
            "image_power", len(batch), ctf=batch.ctf, **self._images(batch), **self._samples,
            multiplicity=self._multiplicity,
            premultiplied=self.premultiplied, out=out,
        )  # fmt: skip
        return out.get()

    def add_spectrum(self, batch: Batch, weight: np.ndarray, power: np.ndarray, count: np.ndarray) -> None:
        sums = self.gpu.cupy.zeros((2, self.plane.shells), f8)
        self.gpu.launch(
            "shell_power", self.plane.shells, ctf=batch.ctf, **self._images(batch), **self._samples,
            multiplicity=self._multiplicity, **self._by_shell, weight=self.gpu.to_device(weight, f8),
            particles=len(batch),
            premultiplied=self.premultiplied, power=sums[0], count=sums[1],
        )  # fmt: skip
        found = sums.get()
        power += found[0]
        count += found[1]

    # statistics

    def coarse_box(self, reach: int) -> int:
        return coarse_box(self.projection, reach)

    def reference(self, volume: np.ndarray):
        whole = len(volume) == self.plane.box
        projection = self.projection if whole else coarse_projection(self.projection, len(volume))
        half = DeviceNormalEquations(self.gpu, projection, None).spectrum_of(volume * f4(1 / self.plane.box))
        if whole:
            grid = self.gpu.cupy.empty(self.extent, np.complex64)
            self.gpu.launch("extend", None, half=half, p=self.projection.padded, **self._extent(), out=grid)
            return grid
        grid = self.gpu.cupy.zeros(self.extent, np.complex64)
        _insert(self.gpu.cupy, half, grid)
        return grid

    def statistics(self, reference, batch: Batch, bands: Bands, rotation: np.ndarray | None = None) -> np.ndarray:
        b = len(batch)
        rotation = batch.rotation if rotation is None else rotation
        if b and batch.group.max() >= len(bands.gain):  # the kernel would read beyond the gains
            raise IndexError(f"noise group {batch.group.max()} of {len(bands.gain)}")
        out = self.gpu.cupy.empty((b, BANDS, 3), f8)
        self.gpu.launch(
            "statistics", b, grid=reference, **self._extent(), rotation=self._rotation(rotation), ctf=batch.ctf,
            **self._images(batch), **self._samples, **self._in_bands(bands, batch), out=out,
        )  # fmt: skip
        return out.get()

    def nearby(
        self, reference, batch: Batch, bands: Bands, highest: np.ndarray, precision: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        b, ratio = len(batch), self.projection.ratio
        common = {"grid": reference, "ctf": batch.ctf, **self._extent(), **self._images(batch), **self._samples,
                  **self._in_bands(bands, batch)}  # fmt: skip
        found = self.gpu.cupy.empty((b, 2 * BANDS + 9), f8)
        turn, q, matrix = np.zeros((b, 3)), np.zeros((b, 4)), np.empty((b, 3, 3))
        q[:, 0] = 1
        for look, band in enumerate(highest):
            turn_all(q, np.ascontiguousarray(batch.rotation), matrix)
            self.gpu.launch(
                "look_nearby", b, **common, rotation=self._rotation(matrix),
                matrix=self.gpu.to_device((ratio * matrix).reshape(b, 9), f4), used=band + 1, out=found,
            )  # fmt: skip
            host = found.get()
            sums, slope, curvature = np.split(host, [2 * BANDS, 2 * BANDS + 3], axis=1)
            if look < len(highest) - 1:
                step_all(turn, slope.copy(), curvature.copy(), float(precision), q)
        return turn, sums.reshape(b, BANDS, 2), slope, curvature

    def _in_bands(self, bands: Bands, batch: Batch) -> dict:
        """Samples in the order of their band, where each band begins, and the gains in that order, kept for the next
        call; and whose gains each particle has."""
        if self._bands is None or self._bands[0] is not bands:
            band = bands.band[self.order]
            index = np.concatenate([np.flatnonzero(band == b) for b in range(BANDS)])
            first = np.concatenate([[0], np.cumsum([np.count_nonzero(band == b) for b in range(BANDS)])])
            gain = bands.gain[:, self.order][:, index]
            to_device = self.gpu.to_device
            self._bands = bands, {"index": to_device(index, i4), "first": to_device(first, i4),
                                  "gain": to_device(gain, f4),
                                  "count": index.size}  # fmt: skip
        return {**self._bands[1], "group": self.gpu.to_device(batch.group, i4), "mode": self._mode(bands)}

    # normal equations

    def accumulator(self, again=None):
        return self.gpu.cupy.zeros((*self.extent, 4), f4)

    def accumulate(
        self, accumulator, batch: Batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray
    ) -> None:
        if not (weight > 0).any():
            return
        self.gpu.launch(
            "accumulate", len(batch), grid=accumulator, **self._extent(), rotation=self._rotation(batch.rotation),
            **self._counted(batch, weight, contrast), contrast2=self.gpu.to_device(contrast2, f4),
        )  # fmt: skip

    def join(self, transport) -> None:
        self.reducer = transport

    def folded(self, accumulator, room=None):
        p = self.projection.padded
        out = self.gpu.cupy.empty((p, p, p // 2 + 1, 3), f4)
        self.gpu.launch("fold", None, grid=accumulator, **self._extent(), p=p, out=out)
        return out if self.sums_stay else out.get()

    @property
    def sums_stay(self) -> bool:
        """Whether folded accumulators are reduced, and therefore handed out, on the device."""
        return self.reducer is not None and self.reducer.on_device

    def symmetrise(self, folded, symmetry: Symmetry) -> None:
        if not self.sums_stay:
            symmetry.finish(folded)
        elif symmetry.sums_grid:
            host = folded.get()
            symmetry.finish(host)
            folded.set(host)

    def normal_equations(self, folded: np.ndarray):
        projection, p = self.projection, len(folded)
        if p != projection.padded:
            projection = coarse_projection(projection, p * projection.box // projection.padded)
        needed, free = solving_bytes(p), self.gpu.free_bytes()
        if needed > free:
            if self._log is not None:
                self._log.event("solve on the host", needed=needed, free=free)
            return self.equations_on_host(projection, folded)
        on_device = self.equations_on_device(self.gpu, projection, folded)
        return WhileMemoryLasts(on_device, lambda: self.equations_on_host(projection, folded), self._log)

    # arguments of the kernels, by name

    @property
    def extent(self) -> tuple[int, int, int]:
        """Shape of the extended grid, in points."""
        return extended_shape(self.projection.padded, 1)

    def _extent(self) -> dict:
        return dict(zip(("nz", "ny", "nx"), self.extent))

    def _counted(self, batch: Batch, weight: np.ndarray, contrast: np.ndarray) -> dict:
        """Images, and what each counts."""
        per_shell = np.ndim(contrast) == 2
        return {
            "ctf": batch.ctf, **self._images(batch), **self._samples, "shell": self._shell,
            "weight": self.gpu.to_device(weight, f4),
            "contrast": self.gpu.to_device(contrast, f4), "per_particle": np.shape(contrast)[1] if per_shell else 1,
            "per_shell": per_shell, "scale": self.plane.box, "premultiplied": self.premultiplied,
        }  # fmt: skip

    def _rotation(self, rotation: np.ndarray):
        return self.gpu.to_device(rotation_arguments(rotation, self.projection.ratio))

    def _images(self, batch: Batch) -> dict:
        images = batch.images
        return {
            "data": images.data, "row": batch.row, "shift": batch.shift, "stride": int(np.prod(images.data.shape[1:])),
            "data_scale": images.scale, "box": self.plane.box, **self._planes,
            "optics_row": None if self.optics is None else self.gpu.to_device(batch.optics_row, i4),
        }  # fmt: skip


def _insert(cupy, half, grid) -> None:
    """As ``fold.insert``, on the device: a coarser transform (q, q, q//2 + 1) into the middle of an extended grid of
    zeros."""
    h, middle = len(half) // 2, len(grid) // 2
    k2 = cupy.asarray(np.square(np.fft.fftfreq(len(half), 1 / len(half)), dtype=f4))
    half *= k2[:, None, None] + k2[:, None] + k2[: h + 1] < h * h
    from_zero, below = (slice(0, h), slice(middle, middle + h)), (slice(h + 1, 2 * h), slice(middle - h + 1, middle))
    for z, to_z in (from_zero, below):
        for y, to_y in (from_zero, below):
            grid[to_z, to_y, MARGIN : MARGIN + h] = half[z, y, :h]
    both = slice(middle - h + 1, middle + h)  # ± h − 1: turned round, each is its mate's place
    for kx in range(1, MARGIN + 1):
        grid[both, both, MARGIN - kx] = grid[both, both, MARGIN + kx][::-1, ::-1].conj()


def in_tiles(kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """Order of samples (s,) int64 in which tiles of 8 × 4 frequencies follow one another."""
    across, down = _TILE
    return np.lexsort((kx % across, ky % down, kx // across, ky // down))
