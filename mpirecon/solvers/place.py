"""The output folder as the ranks share it: rank 0 keeps it, the others know where its parts are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mpirecon.io.given_weights import weights_inputs
from mpirecon.io.inputs import Input, given
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_folder import Kind, RunFolder
from mpirecon.io.run_log import RankLog
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.solvers.config import Config


class Place:
    """A run's folder on all ranks, a context manager; everything is collective.

    path : the folder · staging : where results are written · logs : where the ranks' logs are · resumes : whether there is a
    state to go on from · complete : whether there is nothing left to do
    """

    def __init__(self, comm: Communicator, path: Path, kind: Kind, inputs: Iterable[Input], *, overwrite: bool, resume: bool = False):
        """Raises UserError, on all ranks, where the run must not or cannot write there. Nothing is touched."""
        self._comm, self.path = comm, Path(path)
        self.complete = False
        self._folder = run_first(comm, lambda: RunFolder(path, kind, inputs, overwrite=overwrite, resume=resume))
        run_first(comm, lambda: self._folder.check())
        self._tell()

    def begin(self, log: RankLog) -> None:
        """Make the folder, unless all that was to be done is done already, and let the ranks write their logs into it."""
        self.complete = not run_first(self._comm, lambda: self._folder.begin(self._comm.size))
        self._tell()
        if not self.complete:
            run_together(self._comm, lambda: log.open(self.logs, append=self.resumes))

    def commit(self) -> None:
        """Put the results, which are complete, in the place of those of an earlier run."""
        self._comm.barrier()  # a log that is still open must not be moved
        run_first(self._comm, lambda: self._folder.commit())

    def _tell(self) -> None:
        folder = self._folder
        told = None if folder is None else (folder.staging, folder.logs, folder.resumes, self.complete)
        self.staging, self.logs, self.resumes, self.complete = self._comm.bcast(told)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_) -> None:
        if self._folder is not None:
            self._folder.close()


def inputs_of(file: ParticleFile, config: Config) -> Iterable[Input]:
    """What a run of these options reads."""
    yield from file.inputs()
    yield from given(mask=config.mask if config.masked_by_file else None)
    yield from weights_inputs(config.weights)
