"""Whether the images of a table are where its rows say: in the middle of their boxes, and not those of other rows.

Low-resolution maps of either half of a sample, in NumPy, predict the images of the other half: at the poses of the
rows, with particles in the corners of the images, at the poses of the next rows and at those of the rows before.
"""

from __future__ import annotations

import numpy as np

from mpirecon.io.low_maps import HalfMaps
from mpirecon.io.particle_table import ParticleTable
from mpirecon.kernels import fft
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.parallel.comm import Communicator

#: what is reported of each place that is tried beside the given one, which is the first
_CORNERS, _NEXT, _PREVIOUS = range(1, 4)
_TOLD = {
    _CORNERS: "the particles look as if they sat in the corners of the images: write the stack again with its "
    "quadrants exchanged (numpy.fft.fftshift over the last two axes); no option of the import does",
    _NEXT: "the images look like those of the next rows: the numbers of the images (rlnImageName, blob/idx) are one "
    "too large, as where a row was lost or they were counted otherwise",
    _PREVIOUS: "the images look like those of the rows before: the numbers of the images (rlnImageName, blob/idx) are "
    "one too small, as where a row was added or they were counted otherwise",
}

_FIRST, _LAST = 2, 12  # shells
_FEW = 50  # images
_SURE, _TIMES = 8.0, 2.0  # standard deviations, and times as much that is predicted, by which another place is better


class PlaceSample:
    """Sampled images of all ranks. box : pixels; pixel_size : Å; flipped, multiplied : by their CTFs."""

    def __init__(self, comm: Communicator, box: int, pixel_size: float, flipped: bool, multiplied: bool) -> None:
        self.comm, self.box, self.pixel_size = comm, box, pixel_size
        self._flipped, self._multiplied = flipped, multiplied
        self._last = min(_LAST, box // 2 - 2)
        ky, kx = np.meshgrid(np.arange(-self._last, self._last + 1), np.arange(self._last + 1), indexing="ij")
        self._shell = np.rint(np.hypot(kx, ky)).astype(np.int64).ravel()
        self._used = np.flatnonzero((self._shell >= _FIRST) & (self._shell <= self._last)
                                    & ((kx > 0) | (ky > 0)).ravel())
        self._kx, self._ky, self._shell = (values.ravel()[self._used] for values in (kx, ky, self._shell))
        self._spectra: list[np.ndarray] = []
        self._places: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(1 + len(_TOLD))]

    def add(self, images: np.ndarray, table: ParticleTable, rows: np.ndarray) -> None:
        """images (m, n, n) float32 of these rows (m,) of this rank's table, finite and not constant."""
        rows_of_x = fft.rfft(images - images.mean(axis=(1, 2), keepdims=True))[:, :, : self._last + 1]
        spectra = fft.fft(rows_of_x, axis=1)[:, np.arange(-self._last, self._last + 1) % self.box]
        level = images.std(axis=(1, 2), dtype=np.float64)[:, None] * self.box
        self._spectra.append((spectra.reshape(len(images), -1)[:, self._used] / level).astype(np.complex64))
        half = (self.box - self.box // 2) * self.pixel_size
        for place in range(1 + len(_TOLD)):
            at = np.clip(rows + {_NEXT: 1, _PREVIOUS: -1}.get(place, 0), 0, len(table) - 1)
            shift = table.pose.shift[at] + (half if place == _CORNERS else 0.0)
            self._places[place].append((table.ctf[at], shift, table.pose[at].matrices()))

    def warnings(self) -> list[str]:
        """A sentence where the images are elsewhere; collective."""
        gains = [self._gains(place) for place in range(1 + len(_TOLD))]
        total = self.comm.allreduce_scalar(len(gains[0]))
        given = self.comm.allreduce_scalar(float(gains[0].sum()))
        best = None
        for place in _TOLD:
            sums = self.comm.allreduce(np.array([gains[place].sum(), *_moments(gains[place] - gains[0])]))
            spread = np.sqrt(max(sums[2] - sums[1] ** 2 / max(total, 1), 1e-30))
            if total >= _FEW and sums[1] > _SURE * spread and sums[0] > max(_TIMES * given, best[0] if best else 0.0):
                best = sums[0], sums[1] / spread, place
        if best is None:
            return []
        more = f"{best[0] / given:.3g} times as much" if given > 0 else "some"
        return [f"{_TOLD[best[2]]} (a map of one half of them made that way predicts {more} of the other half, "
                f"{best[1]:.0f} standard deviations)"]

    def _gains(self, place: int) -> np.ndarray:
        """(m,) power of this rank's images that maps of the other half predict at a place; collective."""
        if self._spectra:
            y = np.concatenate(self._spectra)
            ctf, shift, matrices = (np.concatenate(parts) for parts in zip(*self._places[place]))
        else:
            y, matrices = np.empty((0, len(self._used)), np.complex64), np.empty((0, 3, 3))
            ctf, shift = np.empty((0, len(self._used))), np.empty((0, 2))
        if len(y):
            at = shift / self.pixel_size + self.box // 2
            turns = (at[:, :1] * self._kx + at[:, 1:] * self._ky) / self.box
            y, ctf = y * np.exp(2j * np.pi * turns).astype(np.complex64), self._ctf(ctf)
        halves = HalfMaps(self.comm, self._kx, self._ky, self._shell, self._last, matrices, np.arange(len(y)) % 2)
        y = halves.turned(y)
        maps = halves.maps(y if self._multiplied else ctf * y, ctf**2)
        return halves.gains(y, halves.predicted(maps, ctf**2 if self._multiplied else ctf))

    def _ctf(self, ctf: np.ndarray) -> np.ndarray:
        c = ctf_coefficients(ctf, self.box, self.pixel_size)[:, :, None]
        x, y = self._kx, self._ky
        k2 = x * x + y * y
        turns = c[:, 0] * (x * x) + c[:, 1] * (x * y) + c[:, 2] * (y * y) + c[:, 3] * (k2 * k2) + c[:, 4]
        values = np.sin(2 * np.pi * turns) * c[:, 5] * np.exp(c[:, 6] * k2)
        return np.abs(values) if self._flipped else values


def _moments(values: np.ndarray) -> tuple[float, float]:
    return float(values.sum()), float(np.square(values).sum())
