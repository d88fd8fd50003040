"""Device memory, forecast before anything is allocated:
what must fit, whether the slab does too, and how long batches are."""

from __future__ import annotations

from dataclasses import dataclass

from mpirecon.errors import UserError
from mpirecon.kernels.fold import extended_shape

#: fraction of the free memory that is planned with: libraries and the allocator's rounding want some
_USABLE = 0.92

#: bytes that images on their way to the device may fill, both buffers and their transforms, when there is plenty
_STREAM_BYTES = 512 * 2**20

#: bytes of a particle beside its image: CTF, shift, row
_PARTICLE_BYTES = 96

#: rows of a batch whose images are on the device already: what is allocated a row is small
RESIDENT_ROWS = 16384


@dataclass(frozen=True)
class Plan:
    """resident : the slab's samples stay on the device · rows : images of a batch on their way there · needed : bytes
    planned with, at most · free : bytes there were.
    """

    resident: bool
    rows: int
    needed: int
    free: int

    def words(self) -> str:
        where = "the slab stays on the device" if self.resident else f"images are streamed, {self.rows} at a time"
        return f"{where}; {memory_words(self.needed)} of {memory_words(self.free)} free are planned with"


def memory_words(amount: float) -> str:
    """Bytes as people write them."""
    return f"{amount / 2**30:.3g} GB" if amount >= 2**30 else f"{max(1, round(amount / 2**20))} MB"


def half_grid_points(padded: int) -> int:
    return padded * padded * (padded // 2 + 1)


def extended_points(padded: int) -> int:
    side, _, columns = extended_shape(padded, 1)
    return side * side * columns


def comparing_bytes(padded: int) -> int:
    """Two grids that particles are compared with, one of which is just being made (its FFT works out of place)."""
    return 16 * extended_points(padded) + 24 * half_grid_points(padded)


def filling_bytes(padded: int) -> int:
    """An accumulator, and its folded form beside it."""
    return 16 * extended_points(padded) + 12 * half_grid_points(padded)


def solving_bytes(padded: int) -> int:
    """Folded accumulator, transfer function, and the spectra that FFTs out of place need."""
    return 56 * half_grid_points(padded)


def stream_bytes_per_image(box: int) -> int:
    """Two buffers of pixels, and the transform with the FFT's own copy of it."""
    return 8 * box * box + 24 * box * (box // 2 + 1)


def plan(free: int, box: int, padded: int, samples: int, particles: int) -> Plan:
    """Plan for a slab of so many particles.

    Raises
    ------
    UserError
        when not even the grids and a batch of one image fit.
    """
    usable = int(_USABLE * free)
    fixed = max(comparing_bytes(padded), filling_bytes(padded)) + _PARTICLE_BYTES * particles
    per_image = stream_bytes_per_image(box) + 256
    least = fixed + per_image
    if least > usable:
        raise UserError(
            f"the GPU has {memory_words(free)} free for this rank, box {box} needs at least "
            f"{memory_words(int(least / _USABLE))}: use one rank a GPU, a GPU with more memory, a smaller box, or "
            "--backend cpu"
        )
    slab = 8 * samples * particles
    buffers = per_image * max(1, min(particles, _STREAM_BYTES // per_image))
    # what the solve needs is not needed at the same time as the grids, but the slab is there all the time
    largest = max(fixed + buffers, solving_bytes(padded) if solving_bytes(padded) <= usable else 0)
    resident = slab + largest <= usable
    room = usable - fixed - (slab if resident else 0)
    rows = int(max(1, min(particles, _STREAM_BYTES // per_image, room // per_image)))
    return Plan(resident, rows, fixed + rows * per_image + (slab if resident else 0), free)
