"""Kernels compiled before a run asks for them, each by one rank of each host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features

from mpirecon.backend.cpu import Batch, CpuBackend
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.kernels.cache import kept
from mpirecon.kernels.ctf import evaluate_aberrated_ctf
from mpirecon.kernels.nearby import make_nearby
from mpirecon.kernels.shells import correlate_cells, correlate_shells, scale_shells, turn_phases
from mpirecon.kernels.translate import translate_samples
from mpirecon.model.particles import ParticleSet
from mpirecon.operators.background import Background
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.fourier import SMALL_BOX
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.symmetry import Symmetry
from mpirecon.parallel.comm import Communicator, run_together

#: side of the images that the kernels are tried on
_BOX = 8


def compile_once(
    comm: Communicator,
    backend: Backend,
    particles: ParticleSet,
    nearby: bool,
    exact: bool,
    symmetry: Symmetry | None = None,
    say: Callable[[str], None] = lambda text: None,
    phase: Callable[[str], AbstractContextManager] = lambda name: nullcontext(),
    moved: bool = False,
) -> None:
    """Have the CPU's kernels in Numba's cache before every rank asks for them; collective.

    The ranks of a host where that was not done before share the work, a part each; the others of all hosts wait. Nothing is
    locked: files of the cache appear whole, by renaming, whichever of several hosts that share it is first. Where nothing says
    what the cache holds, every rank tries all kernels.

    Parameters
    ----------
    backend : whose kernels are meant; nothing is done for another than the CPU's of central slices
    particles : the rank's own
    nearby : whether poses nearby will be looked at
    exact : whether sums are whole numbers
    symmetry : of the map
    say : told that there is something to compile, before it begins
    phase : ``Timings``, for the time that it takes
    moved : whether particles' poses will be changed
    """
    if Ability.COMPILED_BY_NUMBA not in backend.can:
        return
    mark = _mark(backend, nearby, exact, symmetry, moved) if kept() else None
    missing = not (mark is not None and mark.exists())
    mates = [host for host, lacks in comm.allgather((comm.hostname, missing)) if lacks]
    if not mates:
        return

    def compile_kernels() -> None:
        if missing and len(particles):
            interpolation = backend.projection
            small = CpuBackend(
                _BOX, 1.0, taps=interpolation.taps, padding=interpolation.padding, premultiplied=backend.premultiplied,
                threads=min(backend.threads.count, 2),  # several take kernels of their own
            )  # fmt: skip
            steps = _steps(small, particles[:1], nearby, exact)
            if backend.optics is not None:
                steps.append(lambda: _try_aberrated(small))
            if symmetry is not None:
                steps.append(lambda: _try_symmetry(small, symmetry, exact))
            if moved:
                steps.append(lambda: _try_moved(small))
            if backend.plane.box > SMALL_BOX:
                steps.append(lambda: _try_coarse(small))
            for step in steps if mark is None else _part(steps, comm.local_rank, mates.count(comm.hostname)):
                comm.activity.step()
                step()

    say("compiling kernels, once; " + ("not kept" if mark is None else f"kept in {mark.parent}"))
    with phase("compile"):
        run_together(comm, compile_kernels)
    if mark is not None and missing and comm.local_rank == 0 and kept():
        with suppress(OSError):  # no room: the next run tries again
            mark.touch()


def _part(steps: list, rank: int, ranks: int) -> list:
    """A rank's part of the steps, which cost less and less: dealt out to and fro."""
    rounds = [steps[first : first + ranks] for first in range(0, len(steps), ranks)]
    dealt = (some if number % 2 == 0 else some[::-1] for number, some in enumerate(rounds))
    return [some[rank] for some in dealt if rank < len(some)]


def _mark(backend: CpuBackend, nearby: bool, exact: bool, symmetry: Symmetry | None = None, moved: bool = False) -> Path | None:
    """The file that says that kernels like these were compiled for this kind of processor; None where Numba chose the cache."""
    if not numba.config.CACHE_DIR:
        return None
    facts = (
        get_host_cpu_features(), backend.projection.taps, nearby, exact, backend.threads.count > 1, backend.optics is not None,
        symmetry is not None and symmetry.sums_grid, backend.plane.box > SMALL_BOX, moved,
    )  # fmt: skip
    return Path(numba.config.CACHE_DIR, f"compiled-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}")


def _try_kernels(backend: CpuBackend, particles: ParticleSet, nearby: bool, exact: bool) -> None:
    """Every step of a reconstruction, on one empty image."""
    for step in _steps(backend, particles, nearby, exact):
        step()


def _steps(backend: CpuBackend, particles: ParticleSet, nearby: bool, exact: bool) -> list[Callable[[], None]]:
    """The same, each by itself, whatever was or was not done before; those that take longest first."""
    one, plane = np.ones(1), backend.plane
    shells = plane.shells
    batch = Batch(
        np.zeros((1, len(plane)), np.complex64),
        np.zeros((1, len(plane)), np.float32),
        np.eye(3)[None],
        np.zeros(1, np.int64),
    )
    bands = backend.bands(np.ones((1, shells)), 1, shells - 1, True)
    half = np.zeros((_BOX, _BOX, _BOX // 2 + 1), np.complex64)

    def prepare() -> None:
        image, background = np.zeros((1, _BOX, _BOX), np.float32), Background(_BOX)
        background.take_off(image, background.measure(image))
        backend.prepare(image, particles)

    def survey() -> None:
        backend.power(batch)
        backend.add_spectrum(batch, one, np.zeros(shells), np.zeros(shells))

    def extend() -> None:
        backend.set_reference(backend.pair(), 0, np.zeros((_BOX,) * 3, np.float32))

    def accumulate(fixed_point: FixedPoint | None = None) -> None:
        backend.use_units(fixed_point)
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, one, one, one)
        backend.folded(accumulator)
        backend.use_units(None)

    def solve() -> None:
        p = backend.projection.padded
        equations = backend.normal_equations(np.zeros((p, p, p // 2 + 1, 3), np.float32))
        equations.solve(equations.ridge(), 1)

    def compare() -> None:
        correlate_shells(half, half, np.zeros((3, half.shape[2])))
        scale_shells(half, np.zeros(half.shape[2] + 1, np.float32))

    def examine() -> None:
        turn_phases(half, 1, np.uint64(1))
        correlate_cells(half, half, np.ones(1), np.ones(1, np.int64), np.zeros((1, half.shape[2], 3)))

    steps = [
        prepare,
        accumulate,
        lambda: backend.statistics(backend.pair(), batch, bands),
        solve,
        examine,
        compare,
        survey,
        extend,
    ]
    if nearby:
        grid = backend.projection.empty_grid()
        found = np.empty((1, 3)), np.empty((1, len(bands.samples), 2)), np.empty((1, 3)), np.empty((1, 6))
        steps.insert(0, lambda: make_nearby(backend.projection.taps)(
            grid, backend.projection.table, batch.rotation, 1.0, plane.kx, plane.ky, batch.data, batch.ctf, bands.gain[0], bands.band, 0,
            np.zeros(1, np.int64), 1.0, *found,
        ))  # fmt: skip
        steps.insert(3, lambda: backend.statistics(grid, batch, bands))
        steps.append(lambda: Projection(_BOX, HalfPlane.of(_BOX)).forward(grid, batch.rotation))
    if exact:
        steps.insert(0, lambda: accumulate(FixedPoint.of(1.0, 1.0, 1)))
    return steps


def _try_aberrated(backend: CpuBackend) -> None:
    plane = backend.plane
    samples = np.zeros((1, len(plane)), np.float32)
    evaluate_aberrated_ctf(
        np.zeros((1, 7)), plane.kx, plane.ky, np.zeros(1, np.int64), np.eye(2)[None], samples, samples.copy()
    )


def _try_moved(backend: CpuBackend) -> None:
    plane = backend.plane
    samples = np.zeros((1, len(plane)), np.complex64)
    translate_samples(samples, np.ones((1, 2)), _BOX, plane.kx, plane.ky, samples)


def _try_symmetry(backend: CpuBackend, symmetry: Symmetry, exact: bool) -> None:
    p = backend.projection.padded
    symmetry.finish(np.zeros((p, p, p // 2 + 1, 3), np.int64 if exact else np.float32))


def _try_coarse(backend: CpuBackend) -> None:
    """A reference of fewer frequencies."""
    backend.set_reference(backend.pair(), 0, np.zeros((_BOX // 2,) * 3, np.float32))
