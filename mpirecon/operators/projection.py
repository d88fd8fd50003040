"""P: central slices of a volume's transform, and its adjoint (image k is V̂(Rᵀ(kx, ky, 0)))."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpirecon.kernels.backproject import make_backproject, whole_slices
from mpirecon.kernels.fold import extend, extended_shape, fold_emptying, fold_in_place
from mpirecon.kernels.gridding import kernel_table, kernel_transform
from mpirecon.kernels.project import make_project
from mpirecon.kernels.sphere import Packed
from mpirecon.operators.fourier import padded_size, planes_of, read_spectrum, transform_cropped
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.tiles import Slices, Tiles
from mpirecon.parallel.pages import zeros
from mpirecon.parallel.threads import Threads


class Projection:
    """Slices of (box,)³ volumes on a `padding` times padded grid,
    interpolated with a Kaiser-Bessel kernel of `taps` points.

    ``grid(volume)`` is done once a volume, ``forward(grid, rotation)`` once a batch. ``accumulator()``,
    ``adjoint_add(...)`` and ``adjoint_volume(...)`` are the transpose, in the same two steps.
    """

    def __init__(
        self, box: int, plane: HalfPlane | None = None, taps: int = 4, padding: float = 2.0,
        threads: Threads | None = None, huge_pages: bool = False,
    ) -> None:
        """huge_pages : whether its grids lie in such, which many samples are worth"""
        self.box, self.huge_pages = box, huge_pages
        self.plane = plane or HalfPlane.of(box)
        self.taps = taps
        self.threads = threads or Threads()
        self.workers = self.threads.count
        self.padded = padded_size(box, padding)
        self.ratio = self.padded / box
        self.padding = padding
        self.table = kernel_table(taps, padding)
        axis = kernel_transform((np.arange(box) - box // 2) / self.padded, taps, padding)
        self.apodisation = axis.astype(np.float32)

    def reach(self, stretch: float = 1.0) -> float:
        """Grid points from zero frequency beyond which no tap of a sample lies, where rotations lengthen frequencies
        by up to `stretch`; half a point for rounding."""
        farthest = float(np.hypot(self.plane.kx, self.plane.ky).max())
        return farthest * stretch * self.ratio + np.sqrt(3) * self.taps / 2 + 0.5

    def deapodise(self, volume: np.ndarray, scale: np.float32 = np.float32(1)) -> np.ndarray:
        """Multiply a (n, n, n) volume by `scale` and divide it by the interpolation kernel's transform, in place;
        symmetric, its own adjoint."""
        a = 1 / self.apodisation
        plane = a[:, None] * a
        for z, values in enumerate(volume):
            if scale != 1:
                values *= scale
            values *= plane * a[z]
        return volume

    def grid(
        self, volume: np.ndarray, out: np.ndarray | None = None, which: int = 0, maps: int = 1, scale: float = 1.0
    ) -> np.ndarray:
        """(n, n, n) volume → the extended Fourier grid that ``forward`` reads, float32, of `scale` times the volume.

        With maps = 2 the grid holds two volumes, point by point;
        this one becomes its number `which` and the other is kept.
        """
        out = self.empty_grid(maps) if out is None else out
        planes = planes_of(volume, self.padded, self.threads, np.float32(np.cbrt(scale)) / self.apodisation)
        read_spectrum(planes, lambda half, a, b: extend(half, out, which, maps, (a, b)), self.threads)
        return out

    def empty_grid(self, maps: int = 1) -> np.ndarray:
        """A grid for one volume or two, of zeros."""
        return zeros(extended_shape(self.padded, 2 * maps), np.float32, self.huge_pages)

    def forward(self, grid: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Slices (m, s) complex64 at rotations (m, 3, 3)."""
        out = np.empty((len(rotation), len(self.plane)), np.complex64)
        rotation = np.asarray(rotation, np.float64)
        project, p = make_project(self.taps), self.plane
        self.threads.over(
            len(rotation), lambda a, b: project(grid, self.table, rotation[a:b], self.ratio, p.kx, p.ky, out[a:b])
        )
        return out

    def accumulator(self, dtype=np.float32, again: np.ndarray | None = None) -> np.ndarray:
        """An empty extended grid of (re, im, weight); int64 for samples in units of a FixedPoint.

        again : another one, or what ``folded`` made of it, needed no more, whose memory is used again
        """
        shape = extended_shape(self.padded, 3)
        whole = again if again is None or again.base is None else again.base
        if whole is not None and whole.size == np.prod(shape) and whole.dtype == dtype:
            grid = whole.reshape(shape)
            self.threads.over(len(grid), lambda first, last: grid[first:last].fill(0))
            return grid
        return zeros(shape, dtype, self.huge_pages, filled=self.threads.count == 1)

    def adjoint_add(self, accumulator, rotation, numerator, weight) -> None:
        """Spread samples (m, s) complex64 and weights (m, s) float32 onto the accumulator.

        The sample k = 0 is its own Friedel mate; folding would count it twice, so it is halved meanwhile.
        """
        zero = np.flatnonzero(self.plane.multiplicity == 1)
        numerator[:, zero] *= 0.5
        weight[:, zero] *= 0.5
        rotation = np.asarray(rotation, np.float64)
        spread, p = make_backproject(self.taps, accumulator.dtype == np.int64), self.plane
        for apart in self.shares(rotation, accumulator.shape):
            self.threads.run([
                lambda runs=runs: spread(
                    accumulator, self.table, rotation, self.ratio, p.kx, p.ky, numerator, weight, runs
                )
                for runs in apart
            ])  # fmt: skip
        numerator[:, zero] *= 2
        weight[:, zero] *= 2

    def shares(self, rotation: np.ndarray, shape: tuple[int, ...]) -> Iterator[list[np.ndarray]]:
        """Runs of samples for each thread, list by list:
        threads with runs of one list never write to the same points."""
        if self.threads.count == 1:
            return iter([[whole_slices(len(rotation), len(self.plane))]])
        slices = Slices(rotation, self.ratio, self.plane, shape, self.taps)
        return Tiles.of(slices, self.threads.count).shares(slices, self.threads)

    def folded(self, accumulator: np.ndarray, room: Packed | None = None) -> np.ndarray | Packed:
        """The accumulator on the half grid with Friedel mates added, (p, p, p//2 + 1, 3): in the accumulator's own
        memory, which is overwritten, or in the room for what is not zero of it, and the accumulator is empty again."""
        if room is not None:
            fold_emptying(accumulator, room.sphere, room.values, self.threads.over)
            return room
        return fold_in_place(accumulator, self.threads.over)

    def adjoint_volume(self, numerator: np.ndarray) -> np.ndarray:
        """Pᴴ's second half: (p, p, p//2 + 1) complex64 on the grid → (n, n, n) float32."""
        return self.deapodise(transform_cropped(numerator, self.box, self.threads))
