"""How fast each rank is, and what part of the particles it takes: on hosts of different kinds, equal parts would let the
faster ranks wait for the slowest in every pass."""

from __future__ import annotations

import time

import numpy as np

from mpirecon.backend.cpu import CpuBackend
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.backend.resident import Batch
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.parallel.comm import Communicator, run_together

#: side of the images and how many; seconds of a measurement: many turns of a system that shares a core among programs
_BOX, _IMAGES, _SECONDS = 64, 64, 0.3

#: ranks that differ by less are alike, and speeds are rounded to this: parts stay the same from run to run
_ALIKE, _STEP = 0.1, 0.05

#: hosts that are listed
_LISTED = 4


def rank_shares(comm: Communicator, backend: Backend, log, console) -> np.ndarray | None:
    """Speeds of the ranks, (ranks,) float64 of which the fastest is 1, measured on all at once; None where parts are to
    be equal: on one host, with GPUs, and where ranks differ little. Collective.

    Kernels must be compiled.
    """
    hosts = comm.allgather(comm.hostname)
    if len(set(hosts)) == 1 or not all(comm.allgather(Ability.COMPILED_BY_NUMBA in backend.can)):
        return None
    work = run_together(comm, lambda: _Work(backend.projection.taps))
    shares = shares_of(np.array(comm.allgather(_timed(comm, work))))
    if shares is not None:
        log.event("speed", speed=float(shares[comm.rank]), share=float(shares[comm.rank] / shares.sum()))
        slowest = sorted((min(shares[np.array(hosts) == host]), host) for host in set(hosts))
        listed = slowest if len(slowest) <= _LISTED else [*slowest[: _LISTED - 1], slowest[-1]]
        text = ", ".join(f"{host} {speed:.2f}" for speed, host in listed)
        console.say(f"  hosts differ in speed ({text}): each rank takes particles in proportion")
    return shares


def shares_of(seconds: np.ndarray) -> np.ndarray | None:
    """Parts of ranks that took so long for the same work; None where these are about equal."""
    speed = seconds.min() / seconds
    if speed.min() > 1 - _ALIKE:
        return None
    return np.maximum(np.round(speed / _STEP) * _STEP, _STEP)


def _timed(comm: Communicator, work: _Work) -> float:
    """Seconds for one turn of the work, all ranks beginning together: they share their hosts' memory."""
    comm.barrier()
    began, turns = time.perf_counter(), 0
    while turns == 0 or time.perf_counter() - began < _SECONDS:
        work()
        turns += 1
    return (time.perf_counter() - began) / turns


class _Work:
    """What a pass does with images: compared with a map, and added to sums."""

    def __init__(self, taps: int) -> None:
        self._backend = backend = CpuBackend(_BOX, 1.0, taps=taps)
        rng = particle_rng(0, 0, "speed of a rank")
        shape = _IMAGES, len(backend.plane)
        data = rng.standard_normal((*shape, 2)).astype(np.float32).view(np.complex64)[..., 0]
        rotation = matrix_from_quaternion(np.array([random_quaternion(rng) for _ in range(_IMAGES)]))
        self._batch = Batch(data, np.ones(shape, np.float32), rotation, np.zeros(_IMAGES, np.int64))
        self._pair, shells = backend.pair(), backend.plane.shells
        backend.set_reference(self._pair, 0, rng.standard_normal((_BOX,) * 3).astype(np.float32))
        self._bands = backend.bands(np.ones((1, shells)), 2, shells - 1, True)
        self._sums, self._weight = backend.accumulator(), np.ones(_IMAGES)
        self()  # memory is touched, and kernels are loaded, before the clock runs

    def __call__(self) -> None:
        self._backend.statistics(self._pair, self._batch, self._bands)
        self._backend.accumulate(self._sums, self._batch, *(self._weight,) * 3)
