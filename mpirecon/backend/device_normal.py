"""The normal equations on the device: cuFFT and kernels/radial.cu in place of SciPy and radial.py,
formula by formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.kernels.gridding import kernel_transform
from mpirecon.operators.equations import Equations
from mpirecon.operators.normal import SMALLEST_APODISATION, NormalEquations
from mpirecon.operators.projection import Projection

f4, f8 = np.float32, np.float64


class DeviceNormalEquations(NormalEquations):
    """As NormalEquations: takes and gives host arrays. Given a device array, a method gives a device array."""

    def __init__(self, gpu, projection: Projection, folded: np.ndarray | None) -> None:
        super().__init__(projection, folded)
        self.gpu, self.cupy = gpu, gpu.cupy
        self._axis = None
        self._folded = self._shell_weight = None

    def shell_weight(self) -> np.ndarray:
        if self._shell_weight is None:
            self._shell_weight = self._mean_weights()
        return self._shell_weight

    def _mean_weights(self) -> np.ndarray:
        shells, p = self.shells + 1, self.projection.padded
        total, count = self.cupy.empty((2, p, shells), f8)
        self.gpu.launch("radial_sum", p, values=self._on_device(), stride=3, component=2, p=p,
                        ratio=self.projection.ratio,
                        shells=shells, total=total, count=count, shared=16 * shells)  # fmt: skip
        return total.get().sum(axis=0) / np.maximum(count.get().sum(axis=0), 1)

    def direct(self, ridge: np.ndarray) -> np.ndarray:
        return self._direct(ridge).get()

    def _direct(self, ridge: np.ndarray):
        spectrum = self._empty_spectrum()
        self.gpu.launch("divide_regularised", None, folded=self._on_device(), **self._radial(ridge), out=spectrum)
        return self._deapodise(self._transform_cropped(spectrum) / f4(self.projection.padded) ** 3)

    def solve(self, ridge: np.ndarray, iterations: int = 12, tolerance: float = 1e-5, each=lambda: None):
        volume, residuals = self.conjugate_gradients(
            self._right_hand_side_on_device(), self._direct(ridge), ridge, iterations, tolerance, each
        )
        return volume.get(), residuals

    def right_hand_side(self) -> np.ndarray:
        return self._right_hand_side_on_device().get()

    def _right_hand_side_on_device(self):
        if self._right_hand_side is None:
            p = self.projection.padded
            numerator = (
                self.cupy.ascontiguousarray(self._on_device()[..., :2]).view(np.complex64).reshape(p, p, p // 2 + 1)
            )
            self._right_hand_side = self._deapodise(self._transform_cropped(numerator))
        return self._right_hand_side

    def apply(self, volume, ridge: np.ndarray):
        spectrum = self._transform_padded(self.cupy.asarray(volume))
        self.gpu.launch("multiply_regularised", None, spectrum=spectrum, transfer=self.transfer(),
                        **self._radial(ridge))
        return self._as(volume, self._transform_cropped(spectrum))

    explained = Equations.explained

    def precondition(self, volume, ridge: np.ndarray):
        spectrum = self._transform_padded(self.cupy.asarray(volume))
        self.gpu.launch("precondition", None, spectrum=spectrum, folded=self._on_device(), **self._radial(ridge))
        return self._as(volume, self._transform_cropped(spectrum) / f4(self.projection.padded) ** 6)

    def transfer(self):
        if self._transfer is None:
            p, fft = self.projection.padded, self.cupy.fft
            kernel = fft.irfftn(self._on_device()[..., 2].astype(np.complex64), s=(p, p, p))
            axis = kernel_transform(np.fft.fftfreq(p), self.projection.taps, self.projection.padding)
            axis = np.maximum(axis, SMALLEST_APODISATION)
            axis = self.gpu.to_device(axis, f4)
            for shape in ((p, 1, 1), (1, p, 1), (1, 1, p)):
                kernel /= axis.reshape(shape)
            self._transfer = self.cupy.ascontiguousarray(fft.rfftn(kernel).real)
        return self._transfer

    def spectrum_of(self, volume: np.ndarray):
        """(n, n, n) volume → its deapodised transform in the padded box, (p, p, p//2 + 1) complex64 on the device."""
        return self._transform_padded(self._deapodise(self.gpu.to_device(volume, f4)))

    @staticmethod
    def dot(a, b) -> float:
        """Inner product of two device arrays, products in float32, their sum in float64."""
        return float((a * b).sum(dtype=f8))

    # pieces

    def _on_device(self):
        if self._folded is None:
            self._folded = self.gpu.to_device(self.folded, f4)
        return self._folded

    def _as(self, given, result):
        return result.get() if isinstance(given, np.ndarray) else result

    def _radial(self, ridge: np.ndarray) -> dict:
        projection = self.projection
        return {"ridge": self.gpu.to_device(ridge, f8), "shells": len(ridge), "p": projection.padded,
                "ratio": projection.ratio}

    def _empty_spectrum(self):
        p = self.projection.padded
        return self.cupy.empty((p, p, p // 2 + 1), np.complex64)

    def _deapodise(self, volume):
        if self._axis is None:
            self._axis = self.gpu.to_device(self.projection.apodisation, f4)
        a, n = self._axis, self.projection.box
        for shape in ((n, 1, 1), (1, n, 1), (1, 1, n)):
            volume = volume / a.reshape(shape)
        return volume

    def _transform_padded(self, volume):
        p, fft = self.projection.padded, self.cupy.fft
        a = fft.rfft(self._place(volume, 2), axis=2)
        a = fft.fft(self._place(a, 1), axis=1)
        return self.cupy.ascontiguousarray(fft.fft(self._place(a, 0), axis=0).reshape(p, p, p // 2 + 1))

    def _transform_cropped(self, half):
        p, fft = self.projection.padded, self.cupy.fft
        a = fft.ifft(half, axis=0, norm="forward")
        a = fft.ifft(self._crop(a, 0), axis=1, norm="forward")
        return self._crop(fft.irfft(self._crop(a, 1), n=p, axis=2, norm="forward"), 2)

    def _place(self, array, axis: int):
        """Zero-pad one axis to p with its middle element (n // 2) moved to index 0."""
        n, p = self.projection.box, self.projection.padded
        shape = list(array.shape)
        shape[axis] = p
        out, lead = self.cupy.zeros(tuple(shape), array.dtype), (slice(None),) * axis
        out[lead + (slice(0, n - n // 2),)] = array[lead + (slice(n // 2, n),)]
        out[lead + (slice(p - n // 2, p),)] = array[lead + (slice(0, n // 2),)]
        return out

    def _crop(self, array, axis: int):
        """The transpose of ``_place``."""
        n, p, lead = self.projection.box, self.projection.padded, (slice(None),) * axis
        parts = [array[lead + (slice(p - n // 2, p),)], array[lead + (slice(0, n - n // 2),)]]
        return self.cupy.concatenate(parts, axis=axis)


class WhileMemoryLasts(Equations):
    """A device's equations, and the host's in their place from the first call on for which the device lacks memory."""

    def __init__(self, on_device: DeviceNormalEquations, on_host: Callable[[], NormalEquations], log=None) -> None:
        self._equations, self._gpu, self._on_host, self._log = on_device, on_device.gpu, on_host, log

    @property
    def shells(self) -> int:
        return self._equations.shells

    @property
    def total_weight(self) -> float:
        return self._equations.total_weight

    def shell_weight(self) -> np.ndarray:
        return self._done(lambda equations: equations.shell_weight())

    def ridge(self, ssnr: np.ndarray | None = None, floor: float = 1e-3,
              shell_weight: np.ndarray | None = None) -> np.ndarray:
        return self._done(lambda equations: equations.ridge(ssnr, floor, shell_weight))

    def direct(self, ridge: np.ndarray) -> np.ndarray:
        return self._done(lambda equations: equations.direct(ridge))

    def solve(self, ridge: np.ndarray, iterations: int = 12, tolerance: float = 1e-5, each=lambda: None):
        return self._done(lambda equations: equations.solve(ridge, iterations, tolerance, each))

    def right_hand_side(self) -> np.ndarray:
        return self._done(lambda equations: equations.right_hand_side())

    def apply(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        return self._done(lambda equations: equations.apply(volume, ridge))

    def gradient(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        return self._done(lambda equations: equations.gradient(volume, ridge))

    def precondition(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        return self._done(lambda equations: equations.precondition(volume, ridge))

    def _done(self, work: Callable[[NormalEquations], object]):
        if self._on_host is None:
            return work(self._equations)
        try:
            return work(self._equations)
        except Exception as error:
            if not self._gpu.ran_out(error):
                raise
            if self._log is not None:
                self._log.event("solve on the host", error=str(error))
        self._equations, self._on_host = self._on_host(), None
        self._gpu.cupy.get_default_memory_pool().free_all_blocks()
        return work(self._equations)
