"""Projections made in real space, on a GPU; what real_space.py says holds here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.backend.bands import BANDS, Bands
from mpirecon.backend.cuda import CudaBackend, f4
from mpirecon.backend.device_normal import DeviceNormalEquations
from mpirecon.backend.protocol import Backend
from mpirecon.backend.real_space import (
    ROWS,
    Accumulator,
    Damped,
    RealSpaceNormalEquations,
    numerator_of,
    put_numerator,
    refuse_optics,
)
from mpirecon.kernels.cuda_arguments import real_space_rotation
from mpirecon.kernels.spline import coefficient_filter


class DeviceEquations(Damped, DeviceNormalEquations):
    def _direct(self, ridge: np.ndarray):
        return self._from_nothing(self._right_hand_side_on_device(), ridge)


class RealSpaceCudaBackend(CudaBackend):
    """As RealSpaceCpuBackend, on a GPU."""

    can = frozenset()
    nearby = Backend.nearby  # what CudaBackend has is of central slices
    equations_on_device, equations_on_host = DeviceEquations, RealSpaceNormalEquations

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        refuse_optics(self.optics)
        self._filter = self.gpu.to_device(coefficient_filter([self.plane.box] * 3))
        self._still = self.gpu.to_device(np.zeros((ROWS, 4)), f4)

    def coarse_box(self, reach: int) -> int:
        return self.plane.box

    def _coefficients(self, volume):
        n, fft = self.plane.box, self.gpu.cupy.fft
        return self.gpu.cupy.ascontiguousarray(fft.irfftn(fft.rfftn(volume) * self._filter, s=(n, n, n)))

    def reference(self, volume: np.ndarray):
        return self._coefficients(self.gpu.to_device(volume * f4(1 / self.plane.box), f4))

    def _pieces(self, b: int):
        return [np.arange(first, min(first + ROWS, b)) for first in range(0, b, ROWS)]

    def statistics(self, reference, batch, bands: Bands, rotation: np.ndarray | None = None) -> np.ndarray:
        rotation = batch.rotation if rotation is None else rotation
        n, gpu, samples = self.plane.box, self.gpu, len(self.plane)
        out = np.empty((len(batch), BANDS, 3))
        for rows in self._pieces(len(batch)):
            b, part = len(rows), batch[rows]
            images = gpu.cupy.empty((b, n, n), f4)
            turn = gpu.to_device(real_space_rotation(rotation[rows]))
            gpu.launch("project_real", None, coefficients=reference, rotation=turn, n=n, images=b, out=images)
            model, found = gpu.cupy.empty((b, samples), np.complex64), gpu.cupy.empty((b, BANDS, 3), np.float64)
            centred, own = replace(self.transformed(images), scale=1.0), np.arange(b)
            still = replace(part, images=centred, row=self.rows(own), shift=self._still[:b], optics_row=0 * own)
            self.pick(still, own, model)
            gpu.launch(
                "statistics_of", b, model=model, ctf=part.ctf, **self._images(part), **self._samples,
                **self._in_bands(bands, part), out=found,
            )  # fmt: skip
            out[rows] = found.get()
        return out

    def accumulator(self, again=None) -> Accumulator:
        return Accumulator(self.gpu.cupy.zeros((self.plane.box,) * 3, f4), super().accumulator())

    def accumulate(self, accumulator: Accumulator, batch, weight, contrast, contrast2) -> None:
        super().accumulate(accumulator.grid, batch, weight, 0 * contrast, contrast2)
        n, gpu, samples = self.plane.box, self.gpu, len(self.plane)
        for rows in self._pieces(len(batch)):
            b, part = len(rows), batch[rows]
            weighted = gpu.cupy.empty((b, samples), np.complex64)
            gpu.launch(
                "weighted_samples", None, **self._counted(part, weight[rows], contrast[rows]), particles=b,
                out=weighted,
            )  # fmt: skip
            spectra = gpu.cupy.zeros((b, n, n // 2 + 1), np.complex64)
            gpu.launch("scatter_translated", None, samples_in=weighted, shift=self._still[:b], box=n, **self._samples,
                       particles=b,
                       spectra=spectra)  # fmt: skip
            images = gpu.cupy.fft.irfft2(spectra, s=(n, n)) * f4(n * n)
            turn = gpu.to_device(real_space_rotation(batch.rotation[rows]))
            gpu.launch("backproject_real", None, coefficients=accumulator.volume, rotation=turn, n=n, images=b,
                       values=gpu.cupy.ascontiguousarray(images))  # fmt: skip

    def folded(self, accumulator: Accumulator, room=None):
        out = super().folded(accumulator.grid)
        host = out.get() if self.sums_stay else out
        put_numerator(host, numerator_of(self.projection, self._coefficients(accumulator.volume).get()))
        return self.gpu.to_device(host) if self.sums_stay else host
