"""A rank's images on their way to the GPU: kept there when they fit, else streamed through two pinned buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.backend.memory import RESIDENT_ROWS, Plan


@dataclass(frozen=True)
class DeviceImages:
    """data : centred samples (rows, s), or (rows, n, n//2 + 1) as the FFT leaves them when `transforms`, complex64 on the
    device · scale : what every number is multiplied by.
    """

    gpu: object
    data: object
    transforms: bool
    scale: float


class _Slot:
    """One of two buffers: pinned host memory, device memory, and the events that say when each may be used again."""

    def __init__(self, gpu, rows: int, box: int) -> None:
        cupy, shape = gpu.cupy, (rows, box, box)
        self._pinned = cupy.cuda.alloc_pinned_memory(4 * rows * box * box)
        self.host = np.frombuffer(self._pinned, np.float32, rows * box * box).reshape(shape)
        self.pixels = cupy.empty(shape, np.float32)
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.used = cupy.cuda.Event(disable_timing=True)


class Loader:
    """Brings a slab's images to the device, in any order, as often as asked.

    A thread reads the next images, copies them into pinned memory and starts their copy to the device on a stream of its
    own, while kernels work on the last ones.
    """

    def __init__(self, backend, slab, plan: Plan) -> None:
        self.backend, self.slab, self.plan = backend, slab, plan
        self.gpu = backend.gpu
        self._metadata = backend.metadata(slab.metadata, slab.noise_group)
        self._rows = plan.rows
        self._slots: list[_Slot] = []
        self._copies = self.gpu.cupy.cuda.Stream(non_blocking=True)
        self._samples = None
        self._here = np.zeros(len(slab), bool)
        if plan.resident:
            self._keep()

    def _keep(self) -> None:
        """Make room for the whole slab; when the forecast was wrong, images are streamed after all."""
        try:
            self._samples = self.gpu.cupy.empty((len(self.slab), len(self.backend.plane)), np.complex64)
        except Exception as error:
            if not self.gpu.ran_out(error):
                raise
            self.gpu.cupy.get_default_memory_pool().free_all_blocks()

    @property
    def resident(self) -> bool:
        return self._samples is not None

    def visit(self, rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray], timings) -> Iterator[tuple]:
        """(rows, Batch) of consecutive pieces of local rows; ``read(rows)`` gives images that are not on the device."""
        if self.resident and self._here[rows].all():
            store = DeviceImages(self.gpu, self._samples, transforms=False, scale=1.0)
            for first in range(0, len(rows), RESIDENT_ROWS):
                part = rows[first : first + RESIDENT_ROWS]
                yield part, self._posed(replace(self._metadata[part], images=store), part)
            return
        for part, slot in self._stream(rows, read, timings):
            with timings("prepare"):
                batch = self._batch(part, slot)
            yield part, batch

    def _batch(self, part: np.ndarray, slot: _Slot):
        """The batch of images that a slot holds; from now on it is in the store, if there is one."""
        images = self.backend.transformed(slot.pixels)  # all of it: each length would have a plan, and work space, of its own
        batch = self._metadata[part]
        if not self.resident:
            return self._posed(replace(batch, images=images, row=self.gpu.to_device(np.arange(len(part)), np.int32)), part)
        self.backend.pick(images, batch, part, self._samples)
        self._here[part] = True
        return self._posed(replace(batch, images=DeviceImages(self.gpu, self._samples, transforms=False, scale=1.0)), part)

    def _posed(self, batch, part: np.ndarray):
        """A batch of the given poses at those of now. What is kept was centred by the given shifts, and moves from there."""
        slab, backend = self.slab, self.backend
        pose, given = slab.pose[part], slab.metadata.pose.shift[part]
        rotation = backend.rotations(pose.quaternion, slab.metadata.optics_group[part])
        if batch.images.transforms:
            return replace(batch, rotation=rotation, shift=backend.shifts(pose.shift))
        moved = (pose.shift != given).any()
        return replace(batch, rotation=rotation, shift=backend.shifts(pose.shift - given) if moved else None)

    def _stream(self, rows: np.ndarray, read, timings) -> Iterator[tuple[np.ndarray, _Slot]]:
        if not len(rows):
            return
        self._make_slots()
        parts = [rows[first : first + self._rows] for first in range(0, len(rows), self._rows)]
        with ThreadPoolExecutor(1, "mpirecon-read") as reader:
            coming = reader.submit(self._load, parts[0], self._slots[0], read)
            for i, part in enumerate(parts):
                with timings("read"):
                    coming.result()
                slot = self._slots[i % 2]
                if i + 1 < len(parts):
                    coming = reader.submit(self._load, parts[i + 1], self._slots[(i + 1) % 2], read)
                stream = self.gpu.cupy.cuda.get_current_stream()
                stream.wait_event(slot.copied)
                yield part, slot
                slot.used.record(stream)

    def _load(self, part: np.ndarray, slot: _Slot, read) -> None:
        """In the reading thread: the part's images into the slot, on their way to the device."""
        self.gpu.use()
        slot.used.synchronize()
        images = read(part)
        slot.host[: len(part)] = images
        with self._copies:
            slot.pixels[: len(part)].set(slot.host[: len(part)])
            slot.copied.record(self._copies)

    def _make_slots(self) -> None:
        """Two buffers of the planned length, or shorter ones where the device cannot hold those and a transform."""
        while not self._slots:
            try:
                slots = [_Slot(self.gpu, self._rows, self.backend.plane.box) for _ in range(2)]
                slots[0].pixels.fill(0)
                self.backend.transformed(slots[0].pixels)  # on trial: its memory, and cuFFT's, is then the pool's
                self.gpu.synchronize()  # the first copy is on a stream of its own, and would not wait for the trial
                self._slots = slots
            except Exception as error:
                if not self.gpu.ran_out(error):
                    raise
                slots = None
                self._rows = self.backend.shorter(self._rows, error)
