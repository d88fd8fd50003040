"""Kernels compiled by one rank of each host, before all of them would compile the same."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features

from mpirecon.backend.cpu import CpuBackend
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.kernels.cache import kept
from mpirecon.model.particles import ParticleSet
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.parallel.comm import Communicator, run_together

#: side of the images that the kernels are tried on
_BOX = 8


def compile_once(comm: Communicator, backend: Backend, particles: ParticleSet, nearby: bool, exact: bool) -> None:
    """Have the CPU's kernels in Numba's cache before every rank asks for them; collective.

    The lowest rank of each host that has not done so before compiles, and the others of all hosts wait. Nothing is locked:
    files of the cache appear whole, by renaming, whichever of several hosts that share it is first.

    backend : whose kernels are meant; nothing is done for another than the CPU's of central slices · particles : the rank's
    own · nearby : whether poses nearby will be looked at · exact : whether sums are whole numbers
    """
    if comm.size == 1 or Ability.COMPILED_BY_NUMBA not in backend.can:
        return
    mark = _mark(backend, nearby, exact)
    leads = comm.local_rank == 0 and kept() and not (mark is not None and mark.exists())
    if not any(comm.allgather(leads)):
        return

    def compile_kernels() -> None:
        if leads and len(particles):
            interpolation = backend.projection
            small = CpuBackend(
                _BOX, 1.0, taps=interpolation.taps, padding=interpolation.padding, premultiplied=backend.premultiplied,
                threads=min(backend.threads.count, 2),  # several take kernels of their own
            )  # fmt: skip
            _try_kernels(small, particles[:1], nearby, exact)
            if mark is not None and kept():
                with suppress(OSError):  # a folder that filled up: the kernels are in it, or are not kept
                    mark.touch()

    run_together(comm, compile_kernels)


def _mark(backend: CpuBackend, nearby: bool, exact: bool) -> Path | None:
    """The file that says that kernels like these were compiled for this kind of processor; None where Numba chose the cache."""
    if not numba.config.CACHE_DIR:
        return None
    facts = get_host_cpu_features(), backend.projection.taps, nearby, exact, backend.threads.count > 1
    return Path(numba.config.CACHE_DIR, f"compiled-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}")


def _try_kernels(backend: CpuBackend, particles: ParticleSet, nearby: bool, exact: bool) -> None:
    """Every step of a reconstruction, on one empty image."""
    one, volume = np.ones(1), np.zeros((_BOX,) * 3, np.float32)
    shells = backend.plane.shells
    batch = backend.prepare(np.zeros((1, _BOX, _BOX), np.float32), particles)
    backend.power(batch)
    backend.add_spectrum(batch, one, np.zeros(shells), np.zeros(shells))
    bands = backend.bands(np.ones((1, shells)), 1, shells - 1, True)
    pair = backend.pair()
    backend.set_reference(pair, 0, volume)
    backend.set_reference(pair, 1, volume[2:-2, 2:-2, 2:-2])  # of fewer frequencies
    backend.statistics(pair, batch, bands)
    if nearby:
        grid = backend.reference(volume)
        backend.statistics(grid, batch, bands)
        backend.nearby(grid, batch, bands, np.zeros(1, np.int64), 1.0)
    accumulator = backend.accumulator()
    backend.accumulate(accumulator, batch, one, one, one)
    equations = backend.normal_equations(backend.folded(accumulator))
    equations.solve(equations.ridge(), 1)
    if exact:
        backend.use_units(FixedPoint.of(1.0, 1.0, 1))
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, one, one, one)
        backend.folded(accumulator)
