"""The normal equations (Σ w AᴴA + Λ) x = Σ w Aᴴŷ, accumulated on the padded Fourier grid.

``numerator`` holds Σ w C ŷ and ``weight`` Σ w C², both spread with the interpolation kernel. AᴴA is a convolution whose
transfer function is the weight without the kernel's blur, so one product costs two FFTs and no pass over the data
(Wajer & Pruessmann 2001; Vonesch et al. 2011 for single particles).
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.kernels.gridding import kernel_transform
from mpirecon.kernels.radial import divide_regularised, multiply_regularised, precondition, shell_points, weight_sum
from mpirecon.kernels.sphere import Packed, rows_of
from mpirecon.operators.equations import Equations
from mpirecon.operators.fourier import change_spectrum, in_pieces, planes_of, read_spectrum, volume_of, write_spectrum
from mpirecon.operators.in_place import half_of_real, real_of_half
from mpirecon.operators.projection import Projection

#: the kernel's transform is small at the far edge of the padded box; dividing by less than this amplifies aliases
SMALLEST_APODISATION = 0.02

#: a Wiener factor of 1 % is silence already; less only makes the system ill-conditioned
SMALLEST_SSNR = 0.01


class NormalEquations(Equations):
    """One set of normal equations on a folded accumulator, (p, p, p//2 + 1, 3) float32, whole or packed."""

    def __init__(self, projection: Projection, folded: np.ndarray | Packed) -> None:
        self.projection = projection
        self.folded = folded
        self._transfer: np.ndarray | None = None
        self._right_hand_side: np.ndarray | None = None

    @property
    def shells(self) -> int:
        return self.projection.plane.shells

    @property
    def total_weight(self) -> float:
        values = self.folded.values if isinstance(self.folded, Packed) else self.folded.reshape(-1)
        return float(values[2::3].sum(dtype=np.float64))

    def shell_weight(self) -> np.ndarray:
        """Mean weight of each image shell, (shells + 1,) float64; the last entry is everything beyond."""
        p, ratio, shells = self.folded.shape[0], self.projection.ratio, self.shells + 1
        sums = {}

        def add(a: int, b: int) -> None:
            sums[a] = np.zeros(shells)
            weight_sum(self.folded, ratio, sums[a], a, b)

        self.projection.threads.over(p, add)
        return sum(sums[a] for a in sorted(sums)) / np.maximum(shell_points(p, ratio, shells), 1)

    def ridge(
        self, ssnr: np.ndarray | None = None, floor: float = 1e-3, shell_weight: np.ndarray | None = None
    ) -> np.ndarray:
        """Λ per shell, (shells + 1,) float64: mean weight / SSNR (Wiener), and at least floor · mean weight.

        With no `ssnr` only the floor is used, as relion_reconstruct does to keep unvisited voxels finite. Beyond
        the last shell there are no data: Λ is then the largest mean weight, which keeps the system well conditioned.
        shell_weight : that of these equations, where it is known already
        """
        mean = self.shell_weight() if shell_weight is None else shell_weight
        ridge = floor * mean
        if ssnr is not None:
            wiener = mean[:-1] / np.maximum(ssnr[: self.shells], SMALLEST_SSNR)
            ridge[:-1] = np.maximum(ridge[:-1], wiener)
        ridge[-1] = max(mean[:-1].max(), np.finfo(np.float32).tiny)
        return np.maximum(ridge, 1e-6 * ridge[-1])

    def direct(self, ridge: np.ndarray) -> np.ndarray:
        """Gridding solution numerator / (weight + Λ), (n, n, n) float32: one FFT, exact for dense even sampling."""
        p, ratio = self.folded.shape[0], self.projection.ratio
        volume = self._from_spectrum(
            lambda spectrum, a, b: divide_regularised(self.folded, ridge, ratio, spectrum, a, b)
        )
        return self.projection.deapodise(volume, 1 / np.float32(p) ** 3)

    def solve(self, ridge: np.ndarray, iterations: int = 12, tolerance: float = 1e-5, each=lambda: None):
        """Preconditioned conjugate gradients from the direct solution; ``each()`` is called in every iteration.

        Returns
        -------
        volume : (n, n, n) float32
        residuals : list of float, ‖b − (T + Λ)x‖ / ‖b‖ before each iteration and after the last
        """
        return self.conjugate_gradients(self.right_hand_side(), self.direct(ridge), ridge, iterations, tolerance, each)

    def conjugate_gradients(self, b, x, ridge: np.ndarray, iterations: int, tolerance: float, each=lambda: None):
        """As `solve`, of right-hand side b from x, which is overwritten; wherever these arrays live."""
        dot = self.dot
        r = b - self.apply(x, ridge)
        norm_b = max(dot(b, b) ** 0.5, float(np.finfo(np.float32).tiny))
        residuals = [dot(r, r) ** 0.5 / norm_b]
        z = self.precondition(r, ridge)
        d, rz = z.copy(), dot(r, z)
        for _ in range(iterations):
            if residuals[-1] < tolerance or rz <= 0:
                break
            each()
            q = self.apply(d, ridge)
            curvature = dot(d, q)
            if curvature <= 0:  # rounding in the transfer function: no descent left to gain
                break
            step = np.float32(rz / curvature)
            x += step * d
            r -= step * q
            residuals.append(dot(r, r) ** 0.5 / norm_b)
            z = self.precondition(r, ridge)
            rz, previous = dot(r, z), rz
            d = z + np.float32(rz / previous) * d
        return x, residuals

    def right_hand_side(self) -> np.ndarray:
        """Σ w Aᴴŷ, (n, n, n) float32."""
        if self._right_hand_side is None:

            def numerator(spectrum: np.ndarray, a: int, b: int) -> None:
                rows = rows_of(self.folded, a, b)
                spectrum.real, spectrum.imag = rows[..., 0], rows[..., 1]

            self._right_hand_side = self.projection.deapodise(self._from_spectrum(numerator))
        return self._right_hand_side

    def apply(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """(Σ w AᴴA + Λ) x, (n, n, n) float32, by convolution."""
        transfer, ratio = self.transfer(), self.projection.ratio
        return self._filtered(
            volume, lambda spectrum, a, b: multiply_regularised(spectrum, transfer, ridge, ratio, a, b)
        )

    def explained(self, on_data: np.ndarray, on_map: np.ndarray, *others: NormalEquations) -> np.ndarray:
        """As Equations has it, of transforms alone: each map is transformed once, and nothing back."""
        every, p, threads = (self, *others), len(self.folded), self.projection.threads
        transfers, parts = [equations.transfer() for equations in every], {}

        def on_numerators(spectrum: np.ndarray, a: int, b: int) -> None:
            rows = [rows_of(equations.folded, a, b) for equations in every]
            floats = spectrum.view(np.float32).reshape(*spectrum.shape, 2)
            parts[0, a] = [_over_grid(floats, some[..., :2]) for some in rows]

        def on_transfers(spectrum: np.ndarray, a: int, b: int) -> None:
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            parts[1, a] = [_over_grid(power[..., None], transfer[:, a:b, :, None]) for transfer in transfers]

        read_spectrum(planes_of(on_data, p, threads, 1 / self.projection.apodisation), on_numerators, threads)
        read_spectrum(planes_of(on_map, p, threads), on_transfers, threads)
        return np.array([np.sum([parts[k] for k in sorted(parts) if k[0] == which], axis=0) for which in (0, 1)]).T

    def gradient(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """(Σ w AᴴA + Λ) x − Σ w Aᴴŷ, half the gradient of the penalised weighted loss."""
        return self.apply(volume, ridge) - self.right_hand_side()

    def precondition(self, volume: np.ndarray, ridge: np.ndarray) -> np.ndarray:
        """(weight + Λ)⁻¹ in Fourier space: close to the inverse of ``apply``, exact but for the box's edge."""
        folded, ratio = self.folded, self.projection.ratio
        volume = self._filtered(volume, lambda spectrum, a, b: precondition(spectrum, folded, ridge, ratio, a, b))
        # p³ twice: of this inverse transform, and of the unscaled one in ``apply``
        volume *= 1 / np.float32(len(folded)) ** 6
        return volume

    def transfer(self) -> np.ndarray:
        """AᴴA's transfer function on the grid: the weight without the kernel's blur, (p, p, p//2 + 1) float32."""
        if self._transfer is None:
            p, threads = self.folded.shape[0], self.projection.threads
            spectrum = np.empty((p, p, p // 2 + 1), np.complex64)

            def weights(a: int, b: int) -> None:
                spectrum[:, a:b] = rows_of(self.folded, a, b)[..., 2]

            in_pieces(p, p, weights, threads)
            kernel = real_of_half(spectrum, p, threads.count)
            axis = kernel_transform(fft.fftfreq(p), self.projection.taps, self.projection.padding)
            axis = np.maximum(axis, SMALLEST_APODISATION)
            for shape in ((p, 1, 1), (1, p, 1), (1, 1, p)):
                kernel /= axis.astype(np.float32).reshape(shape)
            self._transfer = np.ascontiguousarray(half_of_real(kernel, threads.count).real)
        return self._transfer

    def _from_spectrum(self, function) -> np.ndarray:
        """The map of a spectrum that ``function(spectrum, first, last)`` fills piece by piece, (n, n, n) float32."""
        planes = np.empty((self.projection.box, *self.folded.shape[1:3]), np.complex64)
        return volume_of(write_spectrum(planes, function, self.projection.threads), self.projection.threads)

    def _filtered(self, volume: np.ndarray, function) -> np.ndarray:
        """The map whose spectrum ``function(spectrum, first, last)`` has changed, (n, n, n) float32."""
        threads = self.projection.threads
        return volume_of(change_spectrum(planes_of(volume, len(self.folded), threads), function, threads), threads)

    @staticmethod
    def dot(a: np.ndarray, b: np.ndarray) -> float:
        """Inner product of two volumes, summed in float64."""
        return dot(a, b)


def _over_grid(a: np.ndarray, b: np.ndarray) -> float:
    """Σ a b over a grid of which rows of the half that is stored are given, (p, rows, p//2 + 1, numbers) float32: a
    sample that is not its own Friedel mate counts twice. A row is summed in float32, all in float64."""
    every, *own = (np.einsum("zyxc,zyxc->zy", *some).sum(dtype=np.float64)
                   for some in ((a, b), (a[:, :, :1], b[:, :, :1]), (a[:, :, -1:], b[:, :, -1:])))
    return float(2 * every - sum(own))


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Inner product of two volumes, summed in float64."""
    return float(np.einsum("zyx,zyx->", a, b, dtype=np.float64))
