"""A rank's prepared images: kept in memory as far as they fit, the others read, and prepared again, at each visit.

What is kept carries no pose. It is as the poses of the file centre it, and every visit brings it to the poses of now;
so poses may change between two visits and no image is read for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar, Protocol

import numpy as np

from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose

Read = Callable[[np.ndarray], np.ndarray]


class Slab(Protocol):
    """What images are asked of: a rank's particles, by their local rows 0 … m − 1.

    metadata : as the file has them, the given poses included
    pose : those of now
    noise_group : (m,) int64, the noise spectrum of each
    """

    metadata: ParticleSet
    pose: Pose
    noise_group: np.ndarray

    def __len__(self) -> int: ...

    def order(self) -> np.ndarray:
        """All local rows as visits will ask for them, (m,) int64."""

    def batches(self, rows: np.ndarray) -> Iterable[np.ndarray]:
        """Rows in pieces whose images may be in host memory at a time."""


class ImageMemory(ABC):
    """Where prepared images of one slab lie on one device; made by ``Backend.image_memory``.

    What ``stage``, ``prepare`` and ``get`` return is the backend's own business: an ImageStore passes it on.

    Attributes
    ----------
    capacity : int
        particles whose images there is room for; their places are 0 … capacity − 1
    stays_while_solving : bool
        whether there is room for a solution beside them; otherwise ``ImageStore.make_room`` lets go of them
    """

    capacity: int
    stays_while_solving: ClassVar[bool]

    @abstractmethod
    def pieces(self, rows: np.ndarray, kept: bool) -> Iterable[np.ndarray]:
        """Local rows in pieces that are worked on at a time; kept : all of these images are here."""

    @abstractmethod
    def stage(self, images: np.ndarray):
        """Images (b, n, n) float32 on their way to the device.

        Called in the thread that reads, for one piece after another,
        and not for a third one before the first is prepared.
        """

    @abstractmethod
    def prepare(self, part: np.ndarray, staged):
        """The staged images of these local rows, transformed, as the given poses centre them."""

    @abstractmethod
    def keep(self, part: np.ndarray, prepared, some: np.ndarray, places: np.ndarray):
        """Put the images of ``part[some]`` into these places; returns the images of the part to continue with."""

    @abstractmethod
    def get(self, part: np.ndarray, places: np.ndarray):
        """The images of these local rows, which are in these places, as ``prepare`` gave them."""

    @abstractmethod
    def posed(self, part: np.ndarray, prepared, pose: Pose):
        """The batch of these images at other poses; what is kept stays as it is."""


class ImageStore:
    """The images of a slab on a backend, in any order and as often as asked for.

    Parameters
    ----------
    backend : Backend
        whose batches they are
    slab : Slab
        whose they are
    """

    def __init__(self, backend, slab: Slab) -> None:
        self.backend, self.slab = backend, slab
        self._memory: ImageMemory | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether all images will stay in host memory, where any order of visits is free."""
        return self.backend.keeps_all(self.slab)

    def visit(self, rows: np.ndarray, read: Read, timings, keep: bool = True) -> Iterator[tuple[np.ndarray, object]]:
        """Consecutive pieces of local rows, and the batch of each at the slab's poses of now.

        Parameters
        ----------
        rows : (b,) int64
            local rows
        read : callable
            gives (b, n, n) float32 images of rows that are not here;
            called in a thread, one piece ahead of the caller's work
        timings : Timings
            for the time that the caller waits, in "read" and "prepare"
        keep : bool
            whether images stay for visits to come, as far as there is room
        """
        if self._memory is None:
            self._open()
        parts = list(self._memory.pieces(rows, self._holds(rows)))
        with ThreadPoolExecutor(1, "mpirecon-read") as reader:
            coming = self._read_ahead(reader, read, parts, 0)
            for number, part in enumerate(parts):
                with timings("read"):
                    staged = None if coming is None else coming.result()
                coming = self._read_ahead(reader, read, parts, number + 1)
                with timings("prepare"):
                    batch = self._bring(part, staged, keep)
                yield part, batch

    def make_room(self) -> None:
        """Let go of images that are in the way of a solution; a further visit reads them again."""
        if self._memory is not None and not self._memory.stays_while_solving:
            self._memory = None

    def _open(self) -> None:
        self._memory = self.backend.image_memory(self.slab)
        self._place = np.full(len(self.slab), -1)
        self._used, self._planned = 0, None
        if self._memory.capacity == len(self.slab):  # neighbours in visits to come lie side by side
            self._planned = np.empty(len(self.slab), np.int64)
            self._planned[self.slab.order()] = np.arange(len(self.slab))

    def _holds(self, rows: np.ndarray) -> bool:
        return bool((self._place[rows] >= 0).all())

    def _read_ahead(
        self, reader: ThreadPoolExecutor, read: Read, parts: list[np.ndarray], number: int
    ) -> Future | None:
        if number == len(parts) or self._holds(parts[number]):
            return None
        memory = self._memory
        return reader.submit(lambda part: memory.stage(read(part)), parts[number])

    def _bring(self, part: np.ndarray, staged, keep: bool):
        """The batch of images just read, of which as many are kept as there is room for, or of those that are here."""
        memory = self._memory
        if staged is None:
            prepared = memory.get(part, self._place[part])
        else:
            prepared = memory.prepare(part, staged)
            room = memory.capacity - self._used if keep else 0
            new = np.flatnonzero(self._place[part] < 0)[:room]
            if len(new):
                free = np.arange(self._used, self._used + len(new))
                places = free if self._planned is None else self._planned[part[new]]
                prepared = memory.keep(part, prepared, new, places)
                self._place[part[new]] = places
                self._used += len(new)
        return memory.posed(part, prepared, self.slab.pose[part])
