"""The ``mpirecon`` command: a click group whose commands are imported only when they are called."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import time
from contextlib import nullcontext
from typing import NamedTuple

import click

from mpirecon import __version__
from mpirecon.cli.hints import did_you_mean
from mpirecon.cli.ending import (Ended, end_alone, end_together, ended_by_signals, ignore_more_signals,
                                 let_launcher_end, outcome)
from mpirecon.cli.streams import make_safe, shown_warnings
from mpirecon.errors import UserError, on_the_command_line
from mpirecon.parallel.launcher import find_launcher
from mpirecon.parallel.stopping import held_signals
from mpirecon.parallel.threads import keep_freed_memory


#: new objects between two searches for cycles among all: Python's own 700 cost a tenth of the time that imports take
_GARBAGE = 50_000


#: when the command line that runs was given, Unix time: imports are a part of what a run takes
began = time.time()


class Entry(NamedTuple):
    """Where a command lives, its one-line help, and whether all ranks run it (otherwise rank 0 does, alone)."""

    module: str
    help: str
    parallel: bool = False


#: kept here so that ``mpirecon --help`` imports no command
COMMANDS = {
    "simulate": Entry("mpirecon.cli.simulate", "Make a particle file from a map, an atomic model or a phantom."),
    "import": Entry("mpirecon.cli.import_", "Make a particle file from a RELION STAR or cryoSPARC file and its stacks.",
                    parallel=True),
    "reconstruct": Entry("mpirecon.cli.reconstruct", "Reconstruct a map from particles.", parallel=True),
    "null": Entry("mpirecon.cli.null", "Reconstruct from pure noise: does the selection create spurious resolution?",
                  parallel=True),
    "path": Entry("mpirecon.cli.path", "Keep 100, 90 … 10 % of the particles: how many give the best map?",
                  parallel=True),
    "fsc": Entry("mpirecon.cli.fsc", "Fourier shell correlation of two maps."),
    "mask": Entry("mpirecon.cli.mask", "Make a soft mask from a map."),
    "postprocess": Entry("mpirecon.cli.postprocess", "Sharpen the mean of two half maps, and find its resolution, "
                         "local too.",
                         parallel=True),
    "view": Entry("mpirecon.cli.view", "Show a map: a page with slices and a surface, or in the terminal."),
    "project": Entry("mpirecon.cli.project", "Reproject a map at the poses of a particle file."),
    "score": Entry("mpirecon.cli.score", "Compare particles with half maps, and write the scores as a table.",
                   parallel=True),
    "compare": Entry("mpirecon.cli.compare", "Compare two runs: FSC, kept particles, settings that differ."),
    "aberrations": Entry("mpirecon.cli.aberrations", "Measure from a run's images whether the imported aberrations are "
                         "right.",
                         parallel=True),
    "export": Entry("mpirecon.cli.export", "Write the kept and discarded particles of a run as STAR or .cs files."),
    "report": Entry("mpirecon.cli.report", "Write the report of a finished run again."),
    "logs": Entry("mpirecon.cli.logs", "Join the ranks' logs of a run: what was sorted where, and kept."),
    "forecast": Entry("mpirecon.cli.forecast", "Forecast time and memory over the number of ranks."),
    "relion": Entry("mpirecon.cli.relion", "Run as an External job of a RELION project."),
    "job": Entry("mpirecon.cli.job", "Print a batch script for a reconstruction: Slurm, PBS, LSF or SGE."),
    "completion": Entry("mpirecon.cli.completion", "Print what makes a shell complete commands and options."),
    "check": Entry("mpirecon.cli.check", "Check the installation: MPI, threads, GPUs, files.", parallel=True),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is used."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[name].module).command

    def resolve_command(self, ctx, args):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0].startswith("-"):
                raise
            raise click.UsageError(f"{error.message}{did_you_mean(args[0], COMMANDS)}", ctx) from None

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpirecon")
def group() -> None:
    """Robust cryo-EM 3-D reconstruction on MPI and GPUs."""


def main() -> None:
    """Entry point: run the command; errors become one message and the same non-zero exit code on all ranks."""
    make_safe()
    gc.set_threshold(_GARBAGE)
    keep_freed_memory()
    code = run(sys.argv[1:])
    ignore_more_signals()
    gc.freeze()  # as it ends, Python would look for cycles among the objects of 900 modules, for a tenth of a second
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command line on every rank that should, and return the exit code all ranks share."""
    global began
    began = time.time()
    held = _command_of(arguments) in ("reconstruct", "path", "relion")
    with on_the_command_line(), held_signals() if held else nullcontext(), ended_by_signals():
        try:
            return _run(arguments)
        except (Ended, KeyboardInterrupt) as error:  # before the command began, or after it had ended
            if (launcher := find_launcher()) is not None and (launcher.size or 1) > 1:
                let_launcher_end(launcher.rank or 0)
            return end_alone(outcome(functools.partial(_raise, error)))


def _run(arguments: list[str]) -> int:
    if "--deterministic" in arguments:
        for library in ("OPENBLAS", "MKL", "BLIS"):  # whose sums depend on their threads; read when NumPy is imported
            os.environ[f"{library}_NUM_THREADS"] = "1"
    launcher = find_launcher()
    with shown_warnings(first=launcher is None or not launcher.rank):
        return _run_on_ranks(arguments, launcher)


def _run_on_ranks(arguments: list[str], launcher) -> int:
    parallel = runs_on_all_ranks(arguments)
    if launcher is None or (launcher.size == 1 and not parallel):
        return end_alone(outcome(lambda: _invoke(arguments, None)))

    from mpirecon.parallel.comm import SerialCommunicator, get_communicator

    try:
        comm = get_communicator()
    except UserError as error:
        return _end_without_mpi(error, launcher.rank)
    if parallel:
        return end_together(comm, outcome(lambda: _invoke(arguments, comm)))
    if comm.rank > 0:
        return end_together(comm, None)
    os.environ["MPIRECON_COMM"] = "serial"  # whatever asks for a communicator below: the other ranks are not there
    return end_together(comm, outcome(lambda: _invoke(arguments, SerialCommunicator())))


def runs_on_all_ranks(arguments: list[str]) -> bool:
    """Whether this command line is one of a parallel command; help is for rank 0 alone to print."""
    name = _command_of(arguments)
    return name in COMMANDS and COMMANDS[name].parallel and not {"-h", "--help", "--version"} & set(arguments)


def _command_of(arguments: list[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)


def _invoke(arguments: list[str], comm) -> int:
    result = group.main(args=arguments, prog_name="mpirecon", standalone_mode=False, obj=comm)
    return result if isinstance(result, int) else 0


def _end_without_mpi(error: UserError, rank: int | None) -> int:
    """Every process meets this error but cannot talk to the others: the first speaks, the others give it time to."""
    if rank:
        time.sleep(1.0)  # a launcher kills all processes when one of them fails
        return 1
    return end_alone(outcome(lambda: _raise(error)))


def _raise(error: BaseException) -> int:
    raise error
