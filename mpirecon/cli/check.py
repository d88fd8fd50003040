"""``mpirecon check``: what works here, on these ranks."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager

import click

from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, COUNT, json_option, pass_communicator
from mpirecon.cli.terminal import uses_colours

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("check", cls=DocumentedCommand)
@click.option("-o", "--output", type=ANY_PATH, metavar="FOLDER", help="Also try to write in this folder, from every "
              "rank.")
@click.option(
    "--timeout",
    type=COUNT,
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="End with an error when the ranks do not get through in this time.",
)
@json_option
@pass_communicator
def command(comm, output, timeout, as_json):
    """Check MPI, ranks, threads, HDF5, GPUs, messages between ranks, clocks and the output folder.

    Start it as reconstruct will be started: under the same launcher, in a job of the same kind. Prints a line for each
    subject, ok, warn or fail; exits with 1 when anything failed.

    \b
    Example:
      mpirun -n 4 mpirecon check -o run1
    """
    from mpirecon.batch.checks import FAIL, check

    with time_limit(comm, timeout):
        lines, ranks = check(comm, output)
    failed = any(line.status == FAIL for line in lines)
    if comm.rank == 0:
        if as_json:
            _print_json(lines, ranks, failed)
        else:
            _print(lines)
    if failed:
        raise click.exceptions.Exit(1)


def _print(lines) -> None:
    colours = uses_colours(sys.stdout)
    for line in lines:
        status = click.style(f"{line.status:5}", fg=_COLOURS[line.status])
        click.echo(f"{status} {line.subject:13} {line.text}", color=colours)
        if line.todo:
            click.echo(f"{'':20}→ {line.todo}")


def _print_json(lines, ranks, failed: bool) -> None:
    import json

    click.echo(json.dumps({"ok": not failed, "checks": [line._asdict() for line in lines], "ranks": ranks}))


@contextmanager
def time_limit(comm, seconds: float):
    """End all ranks when the body takes longer: a message that never arrives must not hold a job for hours."""
    text = (
        f"Error: rank {comm.rank} on host {comm.hostname}: the check did not get through within {seconds:g} s; "
        "messages between the ranks do not arrive"
    )
    timer = threading.Timer(seconds, lambda: comm.abort(text, 1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
