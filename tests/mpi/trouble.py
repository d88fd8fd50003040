"""The command line with two more commands that fail as they are told, to see how all ranks end.

mpirun -n 2 python trouble.py trouble --kind user --rank 1
"""

import sys

import click
import numpy as np

import mpirecon.cli
from mpirecon.cli import ending
from mpirecon.parallel.console import Console
from mpirecon.cli.options import pass_communicator, verbosity_options
from mpirecon.errors import UserError
from mpirecon.parallel.comm import get_communicator, run_together

KINDS = ("none", "user", "agreed", "missing-file", "defect", "defect-agreed", "exit")


def fail(kind: str) -> None:
    """Fail in one of the ways that commands do."""
    if kind in ("user", "agreed"):
        raise UserError("row 7 of particles.star is bad; mend it")
    if kind == "missing-file":
        open("/nowhere/particles.h5")
    if kind.startswith("defect"):
        raise KeyError("a defect")
    if kind == "exit":
        sys.exit(3)


@click.command()
@click.option("--kind", type=click.Choice(KINDS), default="none")
@click.option("--rank", "where", type=int, default=None, help="Only this rank fails; the others wait for it.")
@verbosity_options
@pass_communicator
def command(comm, kind, where, quiet, verbose):
    """Fail."""
    console = Console(comm, quiet, verbose)
    here = where in (None, comm.rank)
    if kind.endswith("agreed"):
        run_together(comm, lambda: fail(kind) if here else None)
    elif here:
        fail(kind)
    comm.allreduce(np.zeros(1000))
    console.detail("detailed")
    console.warn("careful")
    console.say(f"fine on {comm.size}")


@click.command()
@click.option("--kind", type=click.Choice(KINDS), default="none")
@pass_communicator
def alone(comm, kind):
    """Fail, on rank 0 only."""
    assert comm.size == get_communicator().size == 1
    fail(kind)
    click.echo("fine alone")


if __name__ == "__main__":
    ending.PATIENCE = 1.0
    sys.modules["trouble"] = sys.modules["__main__"]
    mpirecon.cli.COMMANDS["trouble"] = mpirecon.cli.Entry("trouble", "Fail.", parallel=True)
    sys.modules["trouble_alone"] = type(sys)("trouble_alone")
    sys.modules["trouble_alone"].command = alone
    mpirecon.cli.COMMANDS["alone"] = mpirecon.cli.Entry("trouble_alone", "Fail alone.")
    mpirecon.cli.main()
