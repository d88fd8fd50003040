"""The output folder as the ranks share it: rank 0 keeps it, the others know where its parts are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from mpirecon.io.given_weights import weights_inputs
from mpirecon.io.inputs import Input, given
from mpirecon.io.formats import is_table
from mpirecon.io.particle_file import ParticleFile, open_together
from mpirecon.io.reading import refuse_reading
from mpirecon.io.run_folder import RunFolder
from mpirecon.io.run_kinds import Kind
from mpirecon.io.run_log import RankLog
from mpirecon.io.shared_folder import refuse_unshared
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.solvers.config import Config


class Place:
    """A run's folder on all ranks, a context manager; everything is collective.

    path : the folder
    staging : where results are written
    logs : where the ranks' logs are
    resumes : whether there is a state to resume from
    complete : whether there is nothing left to do
    """

    def __init__(self, comm: Communicator, path: Path, kind: Kind, inputs: Iterable[Input], *, overwrite: bool,
                 resume: bool = False, all_inputs: bool = True):
        """all_inputs : as of RunFolder. Raises UserError, on all ranks, where the run must not or cannot write there.
        Nothing is touched."""
        self._comm, self.path = comm, Path(path)
        self.complete = False
        self._folder = run_first(comm, lambda: RunFolder(path, kind, inputs, overwrite=overwrite, resume=resume,
                                                         all_inputs=all_inputs))
        run_first(comm, lambda: self._folder.check())
        self._broadcast()

    def claim(self) -> Path | None:
        """Lock the folder before the run begins, for the particle file that it makes of a table;
        returns where that is to be.

        None where there is nothing left to do: `complete` is True then. Raises UserError where hosts do not share it.
        """
        target = self._comm.bcast(run_first(self._comm, lambda: self._folder.claim()))
        self.complete = target is None
        self._broadcast()
        if not self.complete:
            refuse_unshared(self._comm, self.path)
        return target

    def also_reads(self, inputs: Iterable[Input]) -> None:
        """Files that the run was found to read. Raises UserError, on all ranks, where it would write over one."""
        run_first(self._comm, lambda: self._folder.also_reads(inputs))

    def begin(self, log: RankLog) -> None:
        """Make the folder, unless all that was to be done is done already,
        and let the ranks write their logs into it. Raises UserError where hosts do not share it."""
        self.complete = not run_first(self._comm, lambda: self._folder.begin(self._comm.size))
        self._broadcast()
        if not self.complete:
            refuse_unshared(self._comm, self.path)
            run_together(self._comm, lambda: log.open(self.logs, append=self.resumes))

    def commit(self) -> None:
        """Put the results, which are complete, in the place of those of an earlier run."""
        self._comm.barrier()  # a log that is still open must not be moved
        run_first(self._comm, lambda: self._folder.commit())

    def _broadcast(self) -> None:
        folder = self._folder
        parts = None if folder is None else (folder.staging, folder.logs, folder.resumes, self.complete)
        self.staging, self.logs, self.resumes, self.complete = self._comm.bcast(parts)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_) -> None:
        if self._folder is not None:
            self._folder.close()


@contextmanager
def open_run(
    comm: Communicator, particles: Path, output: Path, kind: Kind, config: Config, console,
    reading: Mapping | None = None, *,
    overwrite: bool, resume: bool = False,
) -> Iterator[tuple[ParticleFile | None, Place]]:
    """The particles and the folder of a run; no particles where the folder's results were complete. Collective.

    particles : a particle file; or a table of RELION or cryoSPARC, of which one is made in the folder, that refers to
        its stacks
    reading : how a table is read, fields of ImportOptions

    Raises UserError, on all ranks, for what a user can mend; no folder is made then.
    """
    if run_together(comm, lambda: is_table(particles)):
        with _open_table(comm, particles, output, kind, config, console, reading, overwrite, resume) as opened:
            yield opened
        return
    refuse_reading(particles, reading or {})
    with (
        open_together(comm, particles) as file,
        Place(comm, output, kind, inputs_of(file, config), overwrite=overwrite, resume=resume) as place,
    ):  # fmt: skip
        yield file, place


@contextmanager
def _open_table(comm, particles, output, kind, config, console, reading, overwrite, resume):
    from mpirecon.io.import_options import ImportOptions  # slow to load (pandas), and particle files need none
    from mpirecon.io.table_link import link_table, tables_of

    options = ImportOptions(**{"seed": config.seed, **(reading or {})})
    inputs = [*tables_of(particles, options), *_others_of(config)]
    with Place(comm, output, kind, inputs, overwrite=overwrite, resume=resume, all_inputs=False) as place:
        target = place.claim()
        if target is None:
            yield None, place
            return
        report = link_table(comm, particles, target, options, again=resume, home=place.path,
                            progress=lambda total: console.progress(total, "linking"))
        if report is not None:
            report.print(console, particles)
        with open_together(comm, target, particles, place.path) as file:
            place.also_reads([read for read in chain(file.inputs(), file.origins()) if read.path != target])
            yield file, place


def inputs_of(file: ParticleFile, config: Config) -> Iterable[Input]:
    """What a run of these options reads."""
    yield from file.inputs()
    yield from file.origins()
    yield from _others_of(config)


def _others_of(config: Config) -> Iterable[Input]:
    """What it reads beside the particles."""
    yield from given(mask=config.mask if config.masked_by_file else None)
    yield from weights_inputs(config.weights)
