"""P: central slices of a volume's transform, and its adjoint (DESIGN section 1: image k is V̂(Rᵀ(kx, ky, 0)))."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.backproject import make_backproject
from mpirecon.kernels.fold import extend, extended_shape, fold
from mpirecon.kernels.gridding import kernel_table, kernel_transform
from mpirecon.kernels.project import make_project
from mpirecon.operators.fourier import padded_size, transform_cropped, transform_padded
from mpirecon.operators.half_plane import HalfPlane


class Projection:
    """Slices of (box,)³ volumes on a 2× padded grid, interpolated with a Kaiser-Bessel kernel of `taps` points.

    ``grid(volume)`` is done once a volume, ``forward(grid, rotation)`` once a batch. ``accumulator()``,
    ``adjoint_add(...)`` and ``adjoint_volume(...)`` are the transpose, in the same two steps.
    """

    def __init__(
        self, box: int, plane: HalfPlane | None = None, taps: int = 4, workers: int = 1, padding: float = 2.0
    ) -> None:
        self.box = box
        self.plane = plane or HalfPlane.of(box)
        self.taps = taps
        self.workers = workers
        self.padded = padded_size(box, padding)
        self.ratio = self.padded / box
        self.padding = padding
        self.table = kernel_table(taps, padding)
        axis = kernel_transform((np.arange(box) - box // 2) / self.padded, taps, padding)
        self.apodisation = axis.astype(np.float32)

    def deapodise(self, volume: np.ndarray) -> np.ndarray:
        """Divide a (n, n, n) volume by the interpolation kernel's transform; symmetric, its own adjoint."""
        a = self.apodisation
        return volume / (a[:, None, None] * a[None, :, None] * a[None, None, :])

    def grid(self, volume: np.ndarray) -> np.ndarray:
        """(n, n, n) volume → the extended Fourier grid that ``forward`` reads, float32."""
        out = np.empty(extended_shape(self.padded, 2), np.float32)
        extend(transform_padded(self.deapodise(volume), self.padded, self.workers), out)
        return out

    def forward(self, grid: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Slices (m, s) complex64 at rotations (m, 3, 3)."""
        out = np.empty((len(rotation), len(self.plane)), np.complex64)
        make_project(self.taps)(
            grid, self.table, np.asarray(rotation, np.float64), self.ratio, self.plane.kx, self.plane.ky, out
        )
        return out

    def accumulator(self, dtype=np.float32) -> np.ndarray:
        """An empty extended grid of (re, im, weight); int64 for samples in units of a FixedPoint."""
        return np.zeros(extended_shape(self.padded, 3), dtype)

    def adjoint_add(self, accumulator, rotation, numerator, weight) -> None:
        """Spread samples (m, s) complex64 and weights (m, s) float32 onto the accumulator.

        The sample k = 0 is its own Friedel mate; folding would count it twice, so it is halved meanwhile.
        """
        zero = np.flatnonzero(self.plane.multiplicity == 1)
        numerator[:, zero] *= 0.5
        weight[:, zero] *= 0.5
        make_backproject(self.taps, accumulator.dtype == np.int64)(
            accumulator,
            self.table,
            np.asarray(rotation, np.float64),
            self.ratio,
            self.plane.kx,
            self.plane.ky,
            numerator,
            weight,
        )
        numerator[:, zero] *= 2
        weight[:, zero] *= 2

    def folded(self, accumulator: np.ndarray) -> np.ndarray:
        """The accumulator on the half grid with Friedel mates added, (p, p, p//2 + 1, 3) float32."""
        p = self.padded
        out = np.empty((p, p, p // 2 + 1, 3), accumulator.dtype)
        fold(accumulator, out)
        return out

    def adjoint_volume(self, numerator: np.ndarray) -> np.ndarray:
        """Pᴴ's second half: (p, p, p//2 + 1) complex64 on the grid → (n, n, n) float32."""
        return self.deapodise(transform_cropped(numerator, self.box, self.workers))
