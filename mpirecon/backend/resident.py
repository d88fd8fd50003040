"""Prepared images that stay in memory, so that they are read, transformed and centred once and not in every pass."""

from __future__ import annotations

import mmap

import numpy as np

from mpirecon.parallel.threads import Threads


def fitting(particles: int, samples: int, budget: float, half_precision: bool = False) -> int:
    """How many of so many particles' images a budget of bytes holds."""
    return int(min(particles, max(budget, 0) // (3 * samples * (2 if half_precision else 4))))


class ResidentImages:
    """Half-plane samples and CTFs of a slab's particles, as many as fit; filled as they come by.

    budget : bytes · half_precision : keep them as float16, each image scaled to its largest sample · order : (particles,) local
    rows as later passes will ask for them, side by side, whatever order they come in; used where all fit · threads : that copy
    """

    def __init__(
        self, particles: int, samples: int, budget: float, half_precision: bool = False, order: np.ndarray | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._threads = threads or Threads()
        self._real = np.float16 if half_precision else np.float32
        self.capacity = fitting(particles, samples, budget, half_precision)
        self._place = np.full(particles, -1)
        self._planned = None
        if order is not None and self.capacity == particles:
            self._planned = np.empty(particles, np.int64)
            self._planned[order] = np.arange(particles)
        self._used = 0
        # pages that are never written are never held
        self._data = _small_pages((self.capacity, 2 * samples), self._real)
        self._ctf = _small_pages((self.capacity, samples), self._real)
        self._scale = np.ones(self.capacity, np.float32)

    def holds(self, rows: np.ndarray) -> bool:
        """Whether all these local rows are here."""
        return bool((self._place[rows] >= 0).all())

    def keep(self, rows: np.ndarray, data: np.ndarray, ctf: np.ndarray) -> None:
        """Keep those of `rows` there is room for; data : (b, s) complex64 · ctf : (b, s) float32."""
        new = np.flatnonzero(self._place[rows] < 0)[: self.capacity - self._used]
        if not len(new):
            return
        to = np.arange(self._used, self._used + len(new)) if self._planned is None else self._planned[rows[new]]
        # new pages and copies take about as long as the transforms before them
        self._threads.over(len(new), lambda a, b: self._copy(data, ctf, new[a:b], to[a:b]))
        self._place[rows[new]] = to
        self._used += len(new)

    def _copy(self, data: np.ndarray, ctf: np.ndarray, some: np.ndarray, to: np.ndarray) -> None:
        together = some[-1] - some[0] + 1 == len(some)
        some = slice(some[0], some[-1] + 1) if together else some
        values = data[some].view(np.float32)
        if self._real is np.float16:
            self._scale[to] = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny)
            values = values / self._scale[to, None]
        self._data[to], self._ctf[to] = values, ctf[some]

    def get(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """data and ctf of rows that are here; views where they lie side by side."""
        places = self._place[rows]
        if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
            places = slice(places[0], places[-1] + 1)
        data = self._data[places].astype(np.float32, copy=False)
        if self._real is np.float16:
            data *= self._scale[places, None]
        return data.view(np.complex64), self._ctf[places].astype(np.float32, copy=False)


def _small_pages(shape: tuple[int, int], dtype) -> np.ndarray:
    """An array of zeros, whose pages are the system's usual ones.

    NumPy asks for huge ones, which save nothing where images are read one after the other; in virtual machines whose host
    hands out memory when it is first touched, they were five times as slow to get.
    """
    count = int(np.prod(shape))
    pages = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype, count).reshape(shape)
