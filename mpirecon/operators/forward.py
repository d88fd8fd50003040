"""A = C S P: from a volume to particle images, and the adjoint Aᴴ = Pᴴ Sᴴ C."""

from __future__ import annotations

import numpy as np

from mpirecon.model.aberrations import Aberrations
from mpirecon.model.pose import Pose
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.ctf import ctf_samples
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.shift import centred_samples, images_from_samples

#: boxes beyond which a grid of twice the side takes gigabytes
_LARGE_BOX = 256


class ForwardModel:
    """Images of a volume at given poses, CTFs and optics groups.

    Six taps interpolate slices to about 1e-5 of the exact (non-uniform) Fourier transform; four to about 1e-3. Boxes of
    more than 256 pixels have a grid of 1.5 times their side, not twice, for 0.42 of gigabytes.
    Where there are `aberrations`, the methods need each particle's optics group, (m,).
    """

    def __init__(
        self, box: int, pixel_size: float, taps: int = 6, plane: HalfPlane | None = None,
        aberrations: Aberrations | None = None,
    ) -> None:
        self.pixel_size = float(pixel_size)
        stretch = 1.0 if aberrations is None else aberrations.stretch
        self.plane = plane or HalfPlane.of(box, stretch=stretch)
        self.optics = OpticsPlanes.of(aberrations, self.plane.kx, self.plane.ky, box, pixel_size)
        self.projection = Projection(box, self.plane, taps, 2.0 if box <= _LARGE_BOX else 1.5)

    def prepare(self, volume: np.ndarray) -> np.ndarray:
        """(n, n, n) float → what ``images`` needs of it; do it once per volume."""
        return self.projection.grid(volume)

    def samples(self, prepared: np.ndarray, pose: Pose, ctf: np.ndarray | None, optics_group=None) -> np.ndarray:
        """C P x at the half-plane samples, (m, s) complex64, particles centred."""
        slices = self.projection.forward(prepared, self._matrices(pose, optics_group))
        if ctf is not None:
            slices *= ctf_samples(ctf, self.plane, self.pixel_size, self.optics, optics_group)
            if self.optics is not None:
                self.optics.apply(slices, self.optics.rows(optics_group))
        return slices

    def images(self, prepared: np.ndarray, pose: Pose, ctf: np.ndarray | None, optics_group=None) -> np.ndarray:
        """A x as images, (m, n, n) float32: line integrals (sums over voxels), CTF, shift; `ctf` None leaves it out."""
        samples = self.samples(prepared, pose, ctf, optics_group)
        return images_from_samples(samples, pose.shift / self.pixel_size, self.plane)

    def adjoint(self, images: np.ndarray, pose: Pose, ctf: np.ndarray | None, optics_group=None) -> np.ndarray:
        """Aᴴ of images (m, n, n) → (n, n, n) float32, the transpose of ``images``.

        Images are band-limited to the half plane by ``images``; so are they here.
        """
        numerator = centred_samples(images, pose.shift / self.pixel_size, self.plane)
        if ctf is not None:
            numerator *= ctf_samples(ctf, self.plane, self.pixel_size, self.optics, optics_group)
            if self.optics is not None:
                self.optics.correct(numerator, self.optics.rows(optics_group))
        numerator /= self.plane.box**2  # the transpose of an inverse FFT is a forward FFT over n²
        accumulator = self.projection.accumulator()
        matrices = self._matrices(pose, optics_group)
        self.projection.adjoint_add(accumulator, matrices, numerator, np.zeros(numerator.shape, np.float32))
        folded = self.projection.folded(accumulator)
        return self.projection.adjoint_volume(np.ascontiguousarray(folded[..., 0] + 1j * folded[..., 1]))

    def _matrices(self, pose: Pose, optics_group) -> np.ndarray:
        matrices = pose.matrices()
        return matrices if self.optics is None else self.optics.rotations(matrices, self.optics.rows(optics_group))
