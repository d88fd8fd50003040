"""A rank's images on their way to the GPU: kept there when they fit, else streamed through two pinned buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.backend.memory import RESIDENT_ROWS, Plan
from mpirecon.backend.store import ImageMemory, Slab
from mpirecon.model.pose import Pose


@dataclass(frozen=True)
class DeviceImages:
    """data : centred samples (rows, s), or (rows, n, n//2 + 1) as the FFT leaves them when `transforms`, complex64 on
    the device · scale : what every number is multiplied by.
    """

    gpu: object
    data: object
    transforms: bool
    scale: float


@dataclass
class Batch:
    """Images ready for the kernels.

    images : where they lie on the device
    row : (b,) int32 there, which row each particle has
    rotation : (b, 3, 3) float64
    ctf, shift : (b, 16), (b, 4) float32 on the device, as the kernels take them; the shift is what is left to be undone
        of it, None for nothing
    optics_row, group : (b,) int64, the row of the optics planes, and whose noise spectrum each image has.
    """

    images: DeviceImages
    row: object
    rotation: np.ndarray
    ctf: object
    shift: object
    optics_row: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, rows) -> Batch:
        rows = np.arange(len(self))[rows]
        on_device = self.images.gpu.to_device(rows, np.int32)
        shift = None if self.shift is None else self.shift.take(on_device, axis=0)
        return Batch(self.images, self.row.take(on_device), self.rotation[rows], self.ctf.take(on_device, axis=0),
                     shift,
                     self.optics_row[rows], self.group[rows])  # fmt: skip


class _Slot:
    """One of two buffers: pinned host memory, device memory, and the events that say when each may be used again."""

    def __init__(self, gpu, rows: int, box: int) -> None:
        cupy, shape = gpu.cupy, (rows, box, box)
        self._pinned = cupy.cuda.alloc_pinned_memory(4 * rows * box * box)
        self.host = np.frombuffer(self._pinned, np.float32, rows * box * box).reshape(shape)
        self.pixels = cupy.empty(shape, np.float32)
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.used = cupy.cuda.Event(disable_timing=True)


class DeviceMemory(ImageMemory):
    """The images of a slab on a GPU, all of them where the plan has room for them.

    Images on their way go through two pinned buffers: the reading thread fills one, and starts its copy to the device
    on a stream of its own, while kernels work on what came through the other.

    backend : CudaBackend, whose they are
    plan : of the device's memory, with which there is room for a solution as well
    """

    stays_while_solving = True

    def __init__(self, backend, slab: Slab, plan: Plan) -> None:
        self._backend, self._slab, self._gpu = backend, slab, backend.gpu
        self._about = backend.metadata(slab.metadata, slab.noise_group)
        self._rows = plan.rows
        self._slots: list[_Slot] = []
        self._turn = 0
        self._copies = self._gpu.cupy.cuda.Stream(non_blocking=True)
        self._samples = self._allocated() if plan.resident else None
        self.capacity = 0 if self._samples is None else len(slab)

    def _allocated(self):
        """Room for the whole slab; None where the forecast was wrong: images are streamed after all."""
        try:
            return self._gpu.cupy.empty((len(self._slab), len(self._backend.plane)), np.complex64)
        except Exception as error:
            if not self._gpu.ran_out(error):
                raise
            self._gpu.cupy.get_default_memory_pool().free_all_blocks()
            return None

    def pieces(self, rows: np.ndarray, kept: bool) -> Iterator[np.ndarray]:
        if not kept and len(rows):
            self._make_slots()
        length = RESIDENT_ROWS if kept else self._rows
        return (rows[first : first + length] for first in range(0, len(rows), length))

    def stage(self, images: np.ndarray) -> _Slot:
        self._gpu.use()
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        slot.used.synchronize()
        slot.host[: len(images)] = images
        with self._copies:
            slot.pixels[: len(images)].set(slot.host[: len(images)])
            slot.copied.record(self._copies)
        return slot

    def prepare(self, part: np.ndarray, staged: _Slot) -> Batch:
        stream = self._gpu.cupy.cuda.get_current_stream()
        stream.wait_event(staged.copied)
        # all of the slot: each length would have a plan, and work space, of its own
        images = self._backend.transformed(staged.pixels)
        staged.used.record(stream)
        return replace(self._about[part], images=images, row=self._backend.rows(np.arange(len(part))))

    def keep(self, part: np.ndarray, prepared: Batch, some: np.ndarray, places: np.ndarray) -> Batch:
        self._backend.pick(prepared[some], places, self._samples)
        return self.get(part, places) if len(some) == len(part) else prepared

    def get(self, part: np.ndarray, places: np.ndarray) -> Batch:
        here = DeviceImages(self._gpu, self._samples, transforms=False, scale=1.0)
        return replace(self._about[part], images=here, row=self._backend.rows(places))

    def posed(self, part: np.ndarray, prepared: Batch, pose: Pose) -> Batch:
        about, backend = self._slab.metadata[part], self._backend
        rotation = backend.rotations(pose.quaternion, about.optics_group)
        if prepared.images.transforms:  # nothing is centred yet
            return replace(prepared, rotation=rotation, shift=backend.shifts(pose.shift))
        way = pose.shift - about.pose.shift
        return replace(prepared, rotation=rotation, shift=backend.shifts(way) if way.any() else None)

    def _make_slots(self) -> None:
        """Two buffers of the planned length, or shorter ones where the device cannot hold those and a transform."""
        while not self._slots:
            try:
                slots = [_Slot(self._gpu, self._rows, self._backend.plane.box) for _ in range(2)]
                slots[0].pixels.fill(0)
                self._backend.transformed(slots[0].pixels)  # on trial: its memory, and cuFFT's, is then the pool's
                self._gpu.synchronize()  # the first copy is on a stream of its own, and would not wait for the trial
                self._slots = slots
            except Exception as error:
                if not self._gpu.ran_out(error):
                    raise
                slots = None
                self._rows = self._backend.shorter(self._rows, error)
