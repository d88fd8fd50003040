"""Reconstructions in scripts: the whole run at once, or iteration by iteration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator, console_of
from mpirecon.api.maps import FSC, Volume
from mpirecon.api.options import configuration, read_particles, refuse_unmade_mask, source_of, unnamed
from mpirecon.api.result import Result
from mpirecon.api.scratch import Scratch
from mpirecon.batch.units import parse_time
from mpirecon.errors import UserError
from mpirecon.io.named_path import NamedPath
from mpirecon.io.particle_file import open_together
from mpirecon.io.run_folder import RunFolder
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.run_log import RankLog
from mpirecon.io.run_output import read_summary
from mpirecon.kinds import AnyPath, Count, NonNegative, checked
from mpirecon.model.pose import Pose
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator, get_communicator, run_together
from mpirecon.solvers import run as runs
from mpirecon.solvers.controls import check_selection
from mpirecon.solvers.endurance import Endurance
from mpirecon.solvers.groups import half_map
from mpirecon.solvers.main import about_run
from mpirecon.solvers.place import inputs_of
from mpirecon.solvers.results import write_results
from mpirecon.solvers.state import State as RunState


def world() -> Communicator:
    """All ranks that mpirun or srun started; this process alone without a launcher.

    Returns
    -------
    Communicator
        to be passed as ``comm``
    """
    return get_communicator()


@checked
def reconstruct(
    particles, output: AnyPath | None = None, *, loss="l2", comm=None, weights=None, start_weights=None,
    overwrite: bool = False, resume: bool = False, controls: bool = False, postprocess: bool = True,
    log_particles: str | None = "none",
    checkpoint_every: Count | str = 1, checkpoint_signal: str = "USR1", grace: NonNegative = 240.0,
    stall_timeout: NonNegative = 1800.0, half_map_scores: bool = False, reference: AnyPath | None = None,
    began: float | None = None,
    verbose: bool | int = False, **options,
) -> Result:
    """Reconstruct a map. Collective over `comm`.

    Parameters
    ----------
    particles : Particles, or path of a particle file, of a RELION STAR file or of a cryoSPARC .cs file
        images of a STAR or .cs file stay in their stacks, which ``linked.h5`` in the run's folder refers to
    output : path, optional
        folder of the run, as ``mpirecon reconstruct -o`` writes it;
        a temporary one, gone with the Result, when left out
    loss : str, callable, or class of losses
        ``"l2"``, ``"sorted"``, ``"l1"``, ``"huber"``, ``"cauchy"``, ``"geman-mcclure"``, ``"welsch"``, ``"tukey"``,
        ``"posterior"``; or a function of the distances, (m,) → (m,) weights: see ``mpirecon.losses.register``
    comm : optional
        ``mpirecon.world()``, or a communicator of mpi4py; None: this process alone
    weights : (m,) float, or str, optional
        of the particles, finite and not negative, multiplied with those of the loss in every iteration; 0: as if the
        particle were not there. A str names a column of the imported table, or ``"FILE:COLUMN"``, as ``--weights`` does
    start_weights : (m,) float, optional
        what the first map is made with, and no other; L2 with one iteration keeps them
    overwrite, resume, controls, postprocess : bool
        as the options of the command
    log_particles : str or None
        ``"none"``, ``"last"`` or ``"all"`` iterations, as the option of the command; None: its default
    checkpoint_every : int or str
        iterations, or a time such as ``"30m"``, between checkpoints
    checkpoint_signal, grace, stall_timeout : str, float, float
        as the options of the command; seconds
    half_map_scores : bool
        as the option of the command
    reference : path, optional
        a map to compare the result with, as the option of the command
    began : float, optional
        when the program began, Unix time, of which the phase "setup" is counted; now when left out
    verbose : bool or int
        print what the command prints; 2: also what it prints with ``--verbose``
    **options
        fields of ``mpirecon.solvers.config.Config``, named as the options of the command: keep, distance, solver,
        iterations, folds, diameter, symmetry, max_resolution, group_by, backend, threads, seed (1 when left out) …
        ``mask`` may also be a Volume or an array; for a STAR or .cs file also how it is read, as ``read_star`` takes
        it: select, first, new_halves, data_dir, pixel_size, units …

    Returns
    -------
    Result
        of the finished run, the same on all ranks

    Raises
    ------
    UserError
        on all ranks, for what the caller can mend.
    TypeError
        for an option that does not exist.
    """
    from mpirecon.solvers.main import reconstruct as whole_run

    comm = as_communicator(comm)
    same_on_all(comm, output=output, loss=loss, weights=weights, start_weights=start_weights, overwrite=overwrite,
                resume=resume, controls=controls, postprocess=postprocess, log_particles=log_particles,
                checkpoint_every=checkpoint_every, half_map_scores=half_map_scores, reference=reference, **options)
    path, reading = run_together(comm, lambda: source_of(particles, options))
    scratch = Scratch(comm)
    config = configuration(particles, scratch, comm, loss=loss, weights=weights, **options)
    refuse_unmade_mask(config, postprocess)
    endurance = run_together(comm, lambda: _endurance(checkpoint_every, signal=checkpoint_signal, grace=grace,
                                                      stall_timeout=stall_timeout, kept=output is not None))
    folder = scratch.path / "run" if output is None else Path(output)
    whole_run(
        comm, path, folder, config, console_of(comm, verbose), overwrite=overwrite, log_particles=log_particles,
        controls=controls, resume=resume, postprocess=postprocess, endurance=endurance, start_weights=start_weights,
        weights=unnamed(weights), began=began, reading=reading,
        half_map_scores=half_map_scores, reference=None if reference is None else Path(reference),
    )  # fmt: skip
    summary = comm.bcast(run_first(comm, lambda: read_summary(folder)))
    return Result(folder, _scratch=scratch if output is None else None, _summary=summary)


@dataclass(frozen=True)
class State:
    """What a run knows after an iteration. Arrays of particles are those of this rank, and read-only copies: writing to
    them would change nothing of the run.

    Attributes
    ----------
    iteration : int
        1, 2 …
    record : dict
        losses, kept fraction and resolution, as summary.json keeps them
    half_maps : (Volume, Volume)
        unfiltered, the same on all ranks
    fsc : FSC
        of the half maps, in the mask that particles are scored in
    ids : (m,) int64
        rows of this rank's particles in the particle file
    pose : Pose
        that these maps were made with
    weights : (m,) float64
        likewise
    kept : (m,) bool
    residual, explained : (m,) float64
        ‖y − Ax‖² and ‖Ax‖² − 2⟨Ax, y⟩ of each particle per Fourier sample, against the map that it was held out of
    """

    iteration: int
    record: dict
    half_maps: tuple[Volume, Volume]
    fsc: FSC
    ids: np.ndarray
    pose: Pose
    weights: np.ndarray
    kept: np.ndarray
    residual: np.ndarray
    explained: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.ids, self.pose.quaternion, self.pose.shift, self.weights, self.kept, self.residual,
                      self.explained):
            array.setflags(write=False)


class Reconstruction:
    """A reconstruction iteration by iteration: ``for state in run: …``, then ``run.result()``. Collective over `comm`.

    A run that is stepped through keeps no checkpoints and cannot be resumed.

    Parameters
    ----------
    particles : Particles or path
        as for `reconstruct`
    output : path, optional
        folder of the run; a temporary one by default
    loss : str, callable or losses.Loss
        as for `reconstruct`
    comm : communicator, optional
        of mpi4py, or ``mpirecon.world()``; one process by default
    weights : (m,) float or str, optional
        multiplied with the weights of the loss in every iteration
    start_weights : (m,) float, optional
        weights of the first map alone
    overwrite : bool
        replace the files of an earlier run in `output`
    verbose : bool
        print what the command line prints
    **options
        as for `reconstruct`
    """

    @checked
    def __init__(
        self, particles, output: AnyPath | None = None, *, loss="l2", comm=None, weights=None,
        start_weights=None, overwrite: bool = False, verbose: bool | int = False, **options,
    ) -> None:
        self._start, self._comm = time.time(), as_communicator(comm)
        same_on_all(self._comm, output=output, loss=loss, weights=weights, start_weights=start_weights, **options)
        self.particles = read_particles(particles, self._comm, options)
        self._scratch = Scratch(self._comm)
        self._output, self._overwrite = None if output is None else NamedPath(output), overwrite
        self.config = configuration(self.particles, self._scratch, self._comm, loss=loss, weights=weights, **options)
        self._file = open_together(self._comm, self.particles.path.absolute(), self.particles.path)
        if output is not None:  # what it refuses is known before anything is computed
            read = inputs_of(self._file, self.config)
            run_first(self._comm, lambda: RunFolder(output, RECONSTRUCTION, read, overwrite=overwrite).check())
        self._folder = folder = self._scratch.path / "run"
        self._log = run_together(self._comm, lambda: RankLog.for_rank(folder / "logs", self._comm))
        self._run = runs.Reconstruction(
            self._comm, self._file, self.config, self._log, console_of(self._comm, verbose), start_weights,
            weights=unnamed(weights),
        )
        self._iterations = self._run.iterations()
        self._result: Result | None = None
        self._ended = ""

    def __iter__(self) -> Iterator[State]:
        for state in self._remaining():
            yield self._state(state)

    def _remaining(self) -> Iterator[RunState]:
        """The iterations that are left; UserError for a run that was closed or has failed."""
        while self._result is None:
            if self._ended:
                raise UserError(f"this run {self._ended}; make a new mpirecon.Reconstruction")
            try:
                state = next(self._iterations)
            except StopIteration:
                return
            except BaseException:
                self._ended = "has failed in an iteration and cannot continue"
                raise
            yield state

    @checked
    def result(self, *, postprocess: bool = True) -> Result:
        """The finished run, after the remaining iterations. Collective.

        Parameters
        ----------
        postprocess : bool
            also compute mask, corrected FSC, FSC in cones, B-factor and sharpened map

        Returns
        -------
        Result
        """
        if self._result is None:
            for _ in self._remaining():
                pass
            outcome = self._run.finish()
            found = check_selection(self._run, outcome, self._folder, costly=False)
            write_results(self._run, outcome, self._folder, about_run(self._start) | found, postprocessed=postprocess)
            self.close()
            self._comm.barrier()
            self._result = run_together(self._comm, lambda: Result(self._folder, _scratch=self._scratch))
        if self._output is not None:  # where this fails, another call finds all that was computed
            run_first(self._comm, lambda: self._result.save(self._output.path, overwrite=self._overwrite))
            self._result = run_together(self._comm, lambda: Result(self._output.path))
            self._output = None
        return self._result

    def close(self) -> None:
        """Let go of files and memory; called by `result`. A closed run cannot continue."""
        self._ended = self._ended or "was closed"
        self._log.close()
        self._file.close()

    def _state(self, state: RunState) -> State:
        size, held, chosen = self.particles.pixel_size, state.scores.held_out, state.selection
        halves = tuple(Volume(np.array(state.maps.get(half_map(half))), size) for half in (1, 2))
        return State(
            state.iteration, dict(state.record), halves, FSC(np.array(state.fsc), self.particles.box, size),
            self._run.slab.ids.copy(), Pose(state.pose.quaternion, state.pose.shift),
            chosen.weight * self._run.slab.given, chosen.kept.copy(), held.residual.copy(), held.pp - 2 * held.yp,
        )


def _endurance(every: int | str, **options) -> Endurance:
    """How a run lives on, from the options of a script or a command."""
    if isinstance(every, str):
        return Endurance(every_seconds=float(parse_time(every, "--checkpoint-every")), **options)
    return Endurance(every, **options)
