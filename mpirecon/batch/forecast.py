"""How much memory and time a reconstruction will take, before it runs.

Memory follows from the solver's arrays and is good to 15 %; a test compares it with what finished runs report.
Time depends on the machine: the constants were measured on one core of a cloud server, and a site may scale them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpirecon.operators.fourier import padded_size

#: bytes: Python with its libraries, and a batch of 64 MB of images; an MPI library on top
_PROGRAM, _MPI = 262e6, 25e6

#: folded accumulators alive at the worst moment of a solve: the gathered one, its transfer function, two spectra in
#: transit and the FFTs' work space; gradient descent keeps the sums of all particles beside those of the step
_SOLVE = {"normal": 4.5, "gradient": 7.0}

#: bytes per particle: metadata and statistics on its own rank, the gathered table on rank 0
_PARTICLE_LOCAL, _PARTICLE_TABLE = 400, 150

#: seconds: a pixel of an image accumulated and compared once; a float of a padded FFT, times log₂ of their number
_PIXEL, _FFT = 4e-7, 3.2e-10

#: padded FFTs that a group's folding, a reference and a refined map (with 8 iterations) cost about
_FOLD, _DIRECT, _REFINE = 4, 2.5, 35

_READ = 100e6  # bytes per second and rank, from a shared file system

#: what a forecast is multiplied by before it becomes a request, and what starting a job takes, seconds
_MARGIN, _START_UP = 2.0, 300.0


@dataclass(frozen=True)
class Task:
    """What is to be reconstructed: `particles` images of `box` pixels a side, by `rounds` outer iterations."""

    particles: int
    box: int
    folds: int = 4
    rounds: int = 5
    solver: str = "normal"

    @property
    def groups(self) -> int:
        return 2 * self.folds

    @property
    def references(self) -> int:
        """Maps that particles are compared with: of each half, and without each fold."""
        return 2 + (self.groups if self.folds > 1 else 0)


def folded_bytes(box: int) -> int:
    """One accumulator on the folded grid, (p, p, p // 2 + 1, 3) float32 with p = 2 · box or a little more."""
    p = padded_size(box)
    return 12 * p * p * (p // 2 + 1)


def extended_bytes(box: int) -> int:
    """One accumulator while it is filled, with the margin that the interpolation kernel needs."""
    p = padded_size(box)
    return 12 * (p + 8) ** 2 * (p // 2 + 9)


def memory_per_rank(task: Task, ranks: int) -> float:
    """Most bytes one of `ranks` ranks will hold at a time."""
    folded, extended = folded_bytes(task.box), extended_bytes(task.box)
    stores = 2 if task.solver == "gradient" else 1
    kept = stores * task.groups * folded / ranks + 4 * task.box**3 * (2 + math.ceil((task.references + 3) / ranks))
    solving = _SOLVE[task.solver] * folded
    filling = extended + (2 if ranks > 1 else 1) * folded  # reducing sends the folded one from a buffer
    comparing = 2 * extended * 2 / 3 + 8 / 12 * folded  # two grids of complex numbers, one just transformed
    particles = task.particles * (_PARTICLE_LOCAL / ranks + _PARTICLE_TABLE)
    return _PROGRAM + (_MPI if ranks > 1 else 0) + kept + max(solving, filling, comparing) + particles


def seconds(task: Task, ranks: int, speed: float = 1.0) -> float:
    """Wall seconds expected on cores `speed` times as fast as the reference, one core a rank, without any margin."""
    p = padded_size(task.box)
    fft = _FFT * p**3 * math.log2(p**3)
    images = math.ceil(task.particles / ranks)
    per_round = images * task.box**2 * (_PIXEL + 4 / _READ * speed) + _FOLD * task.groups * fft
    per_round += _DIRECT * fft * (math.ceil(2 / ranks) + math.ceil(task.references / ranks))
    if task.solver == "gradient":
        per_round += 2 * _REFINE / 8 * fft * math.ceil((task.references + 1) / ranks)
    return (task.rounds * per_round + _REFINE * fft * math.ceil(3 / ranks)) / speed


def wall_time(task: Task, ranks: int, speed: float = 1.0) -> int:
    """Seconds to ask a batch system for: the expected time with a margin, in steps of ten minutes."""
    wanted = _MARGIN * seconds(task, ranks, speed) + _START_UP
    return 600 * math.ceil(wanted / 600)
