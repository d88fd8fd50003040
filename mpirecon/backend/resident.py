"""Prepared images in host memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mpirecon.backend.store import ImageMemory, Slab
from mpirecon.kernels.translate import translate_samples
from mpirecon.model.pose import Pose
from mpirecon.parallel.pages import private_memory
from mpirecon.parallel.threads import Threads


@dataclass
class Batch:
    """Images ready for the kernels: transformed, centred, with their CTF.

    data : (b, s) complex64
    ctf : (b, s) float32
    rotation : (b, 3, 3) float64
    group : (b,) int64, whose noise spectrum each image has.
    """

    data: np.ndarray
    ctf: np.ndarray
    rotation: np.ndarray
    group: np.ndarray

    def __getitem__(self, rows) -> Batch:
        return Batch(self.data[rows], self.ctf[rows], self.rotation[rows], self.group[rows])


def fitting(particles: int, samples: int, budget: float, half_precision: bool = False) -> int:
    """How many of so many particles' images a budget of bytes holds."""
    return int(min(particles, max(budget, 0) // (3 * samples * (2 if half_precision else 4))))


class KeptSamples:
    """Half-plane samples and CTFs of images, by the place they were put in.

    capacity : places
    samples : of an image
    half_precision : keep them as float16, each image scaled to its largest sample
    threads : that copy
    """

    def __init__(self, capacity: int, samples: int, half_precision: bool = False,
                 threads: Threads | None = None) -> None:
        self._threads = threads or Threads()
        self._real = np.float16 if half_precision else np.float32
        # pages that are never written are never held
        self._data = _small_pages((capacity, 2 * samples), self._real)
        self._ctf = _small_pages((capacity, samples), self._real)
        self._scale = np.ones(capacity, np.float32)

    def put(self, places: np.ndarray, data: np.ndarray, ctf: np.ndarray, some: np.ndarray) -> None:
        """Rows `some` of data (b, s) complex64 and ctf (b, s) float32 into these places."""
        # new pages and copies take about as long as the transforms before them
        self._threads.over(len(some), lambda a, b: self._copy(data, ctf, some[a:b], places[a:b]))

    def _copy(self, data: np.ndarray, ctf: np.ndarray, some: np.ndarray, to: np.ndarray) -> None:
        together = some[-1] - some[0] + 1 == len(some)
        some = slice(some[0], some[-1] + 1) if together else some
        values = data[some].view(np.float32)
        if self._real is np.float16:
            self._scale[to] = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny)
            values = values / self._scale[to, None]
        self._data[to], self._ctf[to] = values, ctf[some]

    def get(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """data and ctf of places; views where they lie side by side."""
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            places = slice(places[0], places[-1] + 1)
        data = self._data[places].astype(np.float32, copy=False)
        if self._real is np.float16:
            data *= self._scale[places, None]
        return data.view(np.complex64), self._ctf[places].astype(np.float32, copy=False)


class ResidentImages(ImageMemory):
    """The images of a slab, as many as a budget of bytes holds.

    backend : CpuBackend, whose they are
    half_precision : keep them as float16
    """

    stays_while_solving = False

    def __init__(self, backend, slab: Slab, budget: float, half_precision: bool = False) -> None:
        self._backend, self._slab = backend, slab
        samples = len(backend.plane)
        self.capacity = fitting(len(slab), samples, budget, half_precision)
        self._kept = KeptSamples(self.capacity, samples, half_precision, backend.threads)

    def pieces(self, rows: np.ndarray, kept: bool) -> Iterable[np.ndarray]:
        return self._slab.batches(rows)

    def stage(self, images: np.ndarray) -> np.ndarray:
        return images

    def prepare(self, part: np.ndarray, staged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = self._backend.prepare(staged, self._slab.metadata[part])
        return batch.data, batch.ctf

    def keep(self, part: np.ndarray, prepared: tuple[np.ndarray, np.ndarray], some: np.ndarray, places: np.ndarray):
        self._kept.put(places, *prepared, some)
        return prepared

    def get(self, part: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._kept.get(places)

    def posed(self, part: np.ndarray, prepared: tuple[np.ndarray, np.ndarray], pose: Pose) -> Batch:
        data, ctf = prepared
        given = self._slab.metadata[part]
        moved = self._moved(data, pose.shift - given.pose.shift)
        rotation = self._backend.rotations(pose.quaternion, given.optics_group)
        return Batch(moved, ctf, rotation, self._slab.noise_group[part])

    def _moved(self, data: np.ndarray, way: np.ndarray) -> np.ndarray:
        """Samples of particles that have moved (b, 2) Å since they were centred; those in memory stay as they are."""
        if not way.any():
            return data
        out, way, plane = np.empty_like(data), way / self._backend.pixel_size, self._backend.plane
        self._backend.threads.over(
            len(out), lambda a, b: translate_samples(
                data[a:b], way[a:b], plane.box, plane.kx, plane.ky, out[a:b], plane.rows
            )
        )
        return out


def _small_pages(shape: tuple[int, int], dtype) -> np.ndarray:
    """An array of zeros, whose pages are the system's usual ones.

    NumPy asks for huge ones, which save nothing where images are read one after the other; in virtual machines whose
    host hands out memory when it is first touched, they were five times as slow to get.
    """
    count = int(np.prod(shape))
    return np.frombuffer(private_memory(count * np.dtype(dtype).itemsize), dtype, count).reshape(shape)
