"""Kernels compiled before a run asks for them, each by one rank of each host."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from llvmlite.binding import get_host_cpu_features

from mpirecon.backend.cpu import Batch, CpuBackend
from mpirecon.backend.protocol import Ability, Backend
from mpirecon.kernels.background import check_pixels
from mpirecon.kernels.cache import kept, kept_in, refuse_disabled
from mpirecon.kernels.ctf import evaluate_aberrated_ctf
from mpirecon.kernels.nearby import make_nearby
from mpirecon.kernels.shells import correlate_cells, correlate_shells, scale_shells, turn_phases
from mpirecon.kernels.sphere import Sphere
from mpirecon.kernels.translate import translate_samples
from mpirecon.model.optics import make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.model.symmetry import point_group
from mpirecon.operators.background import Background
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.fourier import SMALL_BOX
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.symmetry import Symmetry
from mpirecon.parallel.comm import Communicator, run_together

#: side of the images that the kernels are tried on
_BOX = 8

#: by which Numba takes the processor for another
_PROCESSOR = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")


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
    more: tuple[str, ...] = (),
    helpers: int = 0,
) -> None:
    """Have the CPU's kernels in Numba's cache before every rank asks for them; collective.

    The ranks of a host where that was not done before share the work, a part each; the others of all hosts wait.
    Nothing is locked: files of the cache appear whole, by renaming, whichever of several hosts that share it is first.
    Where nothing says what the cache holds, every rank tries all kernels.

    Parameters
    ----------
    backend : whose kernels are meant; nothing is done for another than the CPU's of central slices
    particles : the rank's own
    nearby : whether poses nearby will be searched
    exact : whether sums are whole numbers
    symmetry : of the map
    say : called when there is something to compile, before it begins
    phase : ``Timings``, for the time that it takes
    moved : whether particles' poses will be changed
    more : functions that compile further kernels, as "module:name", which other processes can import too
    helpers : processes that may take a part each where there is one rank: Numba compiles one kernel at a time in a
        process
    """
    if Ability.COMPILED_BY_NUMBA not in backend.can:
        return
    run_together(comm, refuse_disabled)  # also where all were compiled before: now, not in the midst of it
    mark = _mark(backend, nearby, exact, symmetry, moved, more) if kept() else None
    missing = not (mark is not None and mark.exists())
    mates = [host for host, lacks in comm.allgather((comm.hostname, missing)) if lacks]
    if not mates:
        return

    def compile_kernels() -> None:
        if not (missing and len(particles)):
            return
        interpolation = backend.projection
        wanted = Wanted(
            interpolation.taps, interpolation.padding, backend.premultiplied, min(backend.threads.count, 2), nearby,
            exact,
            backend.optics is not None, symmetry.group.name if symmetry is not None else None, moved,
            backend.plane.box > SMALL_BOX, more,
        )  # fmt: skip
        steps = wanted.steps(particles[:1])
        if mark is None:
            _work(comm, steps)
        elif comm.size > 1 or not helpers:
            _work(comm, _part(steps, comm.local_rank, mates.count(comm.hostname)))
        else:
            with helped(wanted, helpers):
                _work(comm, _part(steps, 0, 1 + helpers))
            _work(comm, steps)  # theirs are in the cache, or else are compiled now

    say("compiling kernels, once; " + ("not kept" if mark is None else f"kept in {mark.parent}"))
    with phase("compile"):
        run_together(comm, compile_kernels)
    if mark is not None and missing and comm.local_rank == 0 and kept():
        with suppress(OSError):  # no room: the next run tries again
            mark.touch()


@dataclass(frozen=True)
class Wanted:
    """Which kernels a run takes: all that decides their types. threads : several take kernels of their own"""

    taps: int
    padding: float
    premultiplied: bool
    threads: int
    nearby: bool
    exact: bool
    aberrated: bool
    symmetry: str | None
    moved: bool
    coarse: bool
    more: tuple[str, ...] = ()

    def steps(self, particle: ParticleSet) -> list[Callable[[], None]]:
        """What compiles them, part by part, on images of one particle."""
        small = CpuBackend(
            _BOX, 1.0, taps=self.taps, padding=self.padding, premultiplied=self.premultiplied, threads=self.threads,
        )  # fmt: skip
        steps = _steps(small, particle, self.nearby, self.exact)
        if self.aberrated:
            steps.append(lambda: _try_aberrated(small))
        if self.symmetry is not None:
            steps.append(lambda: _try_symmetry(small, Symmetry(point_group(self.symmetry)), self.exact))
        if self.moved:
            steps.append(lambda: _try_moved(small))
        if self.coarse:
            steps.append(lambda: _try_coarse(small))
        return [*map(_named, self.more), *steps]


def _named(name: str) -> Callable[[], None]:
    module, function = name.split(":")
    return lambda: getattr(import_module(module), function)()


def _work(comm: Communicator, steps: list[Callable[[], None]]) -> None:
    for step in steps:
        comm.activity.step()
        step()


#: what a helper runs: it finds modules where this process does
HELP = ("import sys, json; task = json.loads(sys.argv[1]); sys.path[:] = task['path']; from mpirecon.backend.warm "
         "import help_with; help_with(task)")


@contextmanager
def helped(wanted: Wanted, helpers: int) -> Iterator[None]:
    """Other processes compile all parts but the first meanwhile; they have ended when this ends. What they do not
    manage is left undone."""
    running = []
    try:
        with suppress(OSError):  # no more processes
            for part in range(1, 1 + helpers):
                task = json.dumps({"path": sys.path, "wanted": asdict(wanted), "part": part, "parts": 1 + helpers})
                nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
                running.append(subprocess.Popen([sys.executable, "-c", HELP, task], **nowhere))
        yield
        for process in running:
            process.wait()
    finally:
        for process in running:
            process.kill()
            process.wait()


def help_with(task: dict) -> None:
    """Compile a part of the kernels for another process, which finds them in the cache."""
    pose = Pose(np.array([[1.0, 0, 0, 0]]), np.zeros((1, 2)))
    ctf = make_ctf(1, voltage_kv=300.0, defocus_u=1e4, defocus_v=1e4)
    particle = ParticleSet(_BOX, 1.0, pose, ctf, np.ones(1, np.uint8), np.ones(1, np.int32))
    for step in _part(Wanted(**task["wanted"]).steps(particle), task["part"], task["parts"]):
        step()


def _part(steps: list, rank: int, ranks: int) -> list:
    """A rank's part of the steps, which cost less and less: taken to and fro."""
    rounds = [steps[first : first + ranks] for first in range(0, len(steps), ranks)]
    in_turn = (some if number % 2 == 0 else some[::-1] for number, some in enumerate(rounds))
    return [some[rank] for some in in_turn if rank < len(some)]


def _mark(backend: CpuBackend, nearby: bool, exact: bool, symmetry: Symmetry | None = None,
          moved: bool = False, more: tuple[str, ...] = ()) -> Path | None:
    """The file that says that kernels like these were compiled for this kind of processor;
    None where Numba chose the cache."""
    if not kept_in():
        return None
    facts = (
        get_host_cpu_features().flatten(), [os.environ.get(name) for name in _PROCESSOR],
        backend.projection.taps, nearby, exact, backend.threads.count > 1, backend.optics is not None,
        symmetry is not None and symmetry.sums_grid, backend.plane.box > SMALL_BOX, moved, more,
    )  # fmt: skip
    return Path(kept_in(), f"compiled-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}")


def _steps(backend: CpuBackend, particles: ParticleSet, nearby: bool, exact: bool) -> list[Callable[[], None]]:
    """Every step of a reconstruction, on one empty image, each by itself, whatever was or was not done before; those
    that take longest first."""
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
        check_pixels(image.reshape(1, -1), np.empty(1), np.empty(1, bool))
        background.take_off(image, background.measure(image))
        backend.prepare(image, particles)

    def survey() -> None:
        backend.power(batch)
        backend.add_spectrum(batch, one, np.zeros(shells), np.zeros(shells))
        if Ability.IMAGE_SHELLS in backend.can:
            backend.image_shells(batch)

    def extend() -> None:
        backend.set_reference(backend.pair(), 0, np.zeros((_BOX,) * 3, np.float32))

    def accumulate(fixed_point: FixedPoint | None = None) -> None:
        backend.use_units(fixed_point)
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, one, one, one)
        folded = backend.folded(accumulator)
        if backend.reach is not None:
            Sphere.of(len(folded), backend.reach).pack(folded)
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
        steps.insert(1, lambda: make_nearby(backend.projection.taps)(
            grid, backend.projection.table, batch.rotation, 1.0, plane.kx, plane.ky, batch.data, batch.ctf,
            bands.gain[0], bands.band, 0,
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
