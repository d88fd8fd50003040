"""Backends whose projections are made in real space: line integrals of cubic splines, and their exact adjoint.

The model image is projected, transformed and multiplied by the CTF, so residuals over all frequencies are those over
all pixels (Parseval), and are still known by band. The right-hand side Σ w Aᴴŷ is backprojected in real space; the
weights Σ w C², from which the normal equations' convolution is made, are spread in Fourier space as ever. Splines damp
what is near Nyquist (by 4 % at 0.35 and by half at 0.5 of the sampling frequency, along each axis): the two spaces
agree on what the sampling resolves, and each checks the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.backend.bands import BANDS, Bands
from mpirecon.backend.cpu import Batch, CpuBackend
from mpirecon.backend.protocol import Backend
from mpirecon.errors import UserError
from mpirecon.kernels.line_integrals import backproject_real, project_real
from mpirecon.kernels.spline import coefficients
from mpirecon.operators.fourier import transform_padded
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.shift import centred_samples, images_from_samples

#: images that are projected at a time
ROWS = 64


def refuse_optics(optics) -> None:
    """Magnification and aberrations of optics groups are known in Fourier space alone."""
    if optics is not None:
        raise UserError("--space real does not know the magnification and aberrations of optics groups; use --space "
                        "fourier")


#: fraction of a shell's mean weight added to the preconditioner, as the gradient solver does: what real space
#: backprojects also lies between the slices, where there is no weight to divide by
_DAMPING = 0.3

#: iterations of conjugate gradients, from nothing, that stand for the gridding solution
_DIRECT_ITERATIONS = 8


class Damped:
    """Normal equations whose right-hand side does not lie where the weights do: nothing is divided by weights alone."""

    def precondition(self, volume, ridge: np.ndarray):
        return super().precondition(volume, ridge + _DAMPING * self.shell_weight())

    def _from_nothing(self, b, ridge: np.ndarray):
        return self.conjugate_gradients(b, 0 * b, ridge, _DIRECT_ITERATIONS, 1e-3)[0]


class RealSpaceNormalEquations(Damped, NormalEquations):
    def direct(self, ridge: np.ndarray) -> np.ndarray:
        return self._from_nothing(self.right_hand_side(), ridge)


@dataclass
class Accumulator:
    """volume : (n, n, n) float32, what was backprojected · grid : the extended grid, of which the weights are used."""

    volume: np.ndarray
    grid: np.ndarray


class RealSpaceCpuBackend(CpuBackend):
    """As CpuBackend; arguments and results are the same, and there is nothing beyond what all backends do."""

    can = frozenset()
    # what CpuBackend has of these is of central slices
    pair, set_reference, nearby, use_units, largest = (
        Backend.pair, Backend.set_reference, Backend.nearby, Backend.use_units, Backend.largest
    )  # fmt: skip

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        refuse_optics(self.optics)
        self.reach = None  # what is backprojected in real space has a cube's frequencies

    def coarse_box(self, reach: int) -> int:
        """Line integrals need all voxels."""
        return self.plane.box

    def reference(self, volume: np.ndarray) -> np.ndarray:
        return coefficients(volume * np.float32(1 / self.plane.box), (0, 1, 2))

    def _project(self, reference: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Images without CTF and shift, (b, n, n) float32."""
        n = self.plane.box
        out = np.empty((len(rotation), n, n), np.float32)
        project_real(reference, np.ascontiguousarray(rotation, np.float64), out)
        return out

    def residuals(self, reference: np.ndarray, images: np.ndarray, batch: Batch,
                  shift_pixels: np.ndarray) -> np.ndarray:
        """‖y − A x‖² of each image over its pixels, (b,) float64, relative to the image of the band-limited data.

        images : (b, n, n) float32, y
        shift_pixels : (b, 2) float64
        """
        samples = centred_samples(self._project(reference, batch.rotation), np.zeros((len(images), 2)), self.plane)
        model = images_from_samples(samples * batch.ctf * np.float32(self.plane.box), shift_pixels, self.plane)
        seen = images_from_samples(centred_samples(images, shift_pixels, self.plane), shift_pixels, self.plane)
        return np.sum(np.square(seen - model, dtype=np.float64), axis=(1, 2))

    def statistics(
        self, reference: np.ndarray, batch: Batch, bands: Bands, rotation: np.ndarray | None = None
    ) -> np.ndarray:
        rotation = batch.rotation if rotation is None else rotation
        out = np.empty((len(rotation), BANDS, 3))
        for first in range(0, len(rotation), ROWS):
            rows = slice(first, first + ROWS)
            images = self._project(reference, rotation[rows])
            model = centred_samples(images, np.zeros((len(images), 2)), self.plane)
            out[rows] = self._sums(model, batch.data[rows], batch.ctf[rows], bands.gain[batch.group[rows]], bands)
        return out

    def _sums(self, model, data, ctf, gain, bands: Bands) -> np.ndarray:
        """The sums of ``kernels.statistics`` for projections that are there already."""
        c2 = np.square(ctf, dtype=np.float64)
        if not self.premultiplied:
            on_data, on_cross, on_model = gain, gain * ctf, gain * c2
        elif bands.whitened:
            on_data, on_cross, on_model = gain, gain, gain * c2
        else:
            on_data, on_cross, on_model = gain, gain * c2, gain * c2 * c2
        terms = (on_data * np.abs(data) ** 2, on_cross * (np.conj(model) * data).real, on_model * np.abs(model) ** 2)
        member = (bands.band[:, None] == np.arange(BANDS)).astype(np.float64)
        sums = np.stack([term.astype(np.float64) @ member for term in terms], axis=-1)
        if self.premultiplied and bands.whitened:
            squared = (gain * c2) @ member
            sums[..., 0] *= np.divide(gain.astype(np.float64) @ member, squared, out=np.zeros_like(squared),
                                      where=squared > 0)
        return sums

    def accumulator(self, again: np.ndarray | None = None) -> Accumulator:
        return Accumulator(np.zeros((self.plane.box,) * 3, np.float32), super().accumulator(again))

    def accumulate(
        self, accumulator: Accumulator, batch: Batch, weight: np.ndarray, contrast: np.ndarray, contrast2: np.ndarray
    ) -> None:
        # of the Fourier accumulator the weights alone are used: without contrast its numerator is zero
        super().accumulate(accumulator.grid, batch, weight, 0 * contrast, contrast2)
        used = np.flatnonzero(weight > 0)
        n = self.plane.box
        for first in range(0, len(used), ROWS):
            rows = used[first : first + ROWS]
            factor = weight[rows, None].astype(np.float32) * self._per_sample(contrast[rows]) * np.float32(n)
            samples = batch.data[rows] * (factor if self.premultiplied else factor * batch.ctf[rows])
            # the adjoint of a forward FFT is an unscaled inverse one
            images = images_from_samples(samples, np.zeros((len(rows), 2)), self.plane) * np.float32(n * n)
            backproject_real(accumulator.volume, np.ascontiguousarray(batch.rotation[rows]), images.astype(np.float32))

    def folded(self, accumulator: Accumulator, room=None) -> np.ndarray:
        out = super().folded(accumulator.grid)
        put_numerator(out, numerator_of(self.projection, coefficients(accumulator.volume, (0, 1, 2))))
        return out

    def normal_equations(self, folded: np.ndarray) -> NormalEquations:
        return RealSpaceNormalEquations(self.projection, folded)


def numerator_of(projection, right_hand_side: np.ndarray) -> np.ndarray:
    """The numerator on the half grid, (p, p, p//2 + 1) complex64, whose ``adjoint_volume`` is this volume."""
    p, a = projection.padded, projection.apodisation
    apodised = right_hand_side * (a[:, None, None] * a[None, :, None] * a[None, None, :])
    return transform_padded(apodised, p, projection.threads) / np.float32(p) ** 3


def put_numerator(folded: np.ndarray, numerator: np.ndarray) -> None:
    folded[..., 0], folded[..., 1] = numerator.real, numerator.imag
