"""``mpirecon aberrations``: are the imported aberrations those of the images?"""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH, COUNT, EXISTING_FILE, Band, json_option, overwrite_option, pass_communicator, verbosity_options,
)  # fmt: skip

_LISTED = 20  # optics groups that the table lists


@click.command("aberrations", cls=DocumentedCommand)
@click.argument("folder", metavar="OUT", type=ANY_PATH)
@click.option("--band", type=Band(), metavar="Å:Å", help="Resolutions that are compared, e.g. 30:4.  [default: 30 Å to "
              "the run's resolution]")
@click.option("--star", type=ANY_PATH, metavar="FILE.star", help="Also write all particles with the aberrations found, "
              "as RELION's CtfRefine does, and the poses of the run, to be imported again.")
@click.option("--particles", type=EXISTING_FILE, help="The run's particle file, where it was moved.")
@click.option("--threads", type=COUNT, metavar="N", help="Threads of each rank.  [default: OMP_NUM_THREADS, else the "
              "cores divided by the ranks of the host]")
@json_option
@overwrite_option
@verbosity_options
@pass_communicator
def command(comm, folder, band, star, particles, threads, as_json, overwrite, quiet, verbose):
    """Report whether the aberrations that were imported are those of the images of the finished run in OUT.

    Each particle that the run used is compared with the map of the other half set. From the mean phases of each optics
    group, beam tilt, trefoil and aberrations of the fourth order are measured, and set beside the imported ones: a
    coefficient of 1 means that these are right, -1 that their sign is wrong, 0 that there is no such thing in the
    images. cryoSPARC's files do not document their signs; this does. The exit code is 1 when a sign is wrong or
    something imported is not there. Starts under mpirun as well.

    \b
    Examples:
      mpirecon aberrations run1
      mpirun -n 4 mpirecon aberrations run1 --star refined.star
    """
    from mpirecon.parallel.threads import default_threads
    from mpirecon.solvers.phases import run_phases

    console = Console(comm, quiet=quiet or as_json, verbose=verbose)
    neighbours = comm.allgather(comm.hostname).count(comm.hostname)
    found = run_phases(comm, folder, console, particles=particles, band=band,
                       threads=threads or default_threads(neighbours),
                       star=star, overwrite=overwrite)
    if comm.rank == 0:
        if as_json:
            _print_json(found)
        _print(console, folder, found)
        if star is not None:
            console.say(f"wrote {star}: all particles, {_written(found)}")
    return int(found.contradicted)


def _print(console: Console, folder, found) -> None:
    count = sum(group.particles for group in found.groups)
    console.say(f"{folder}: {count} particles, each against the map of the other half set, {found.band[0]:.4g} to "
                f"{found.band[1]:.4g} Å")
    console.say(f"{'group':>6} {'particles':>9}  {'':24} {'imported':>18} {'found':>18} {'±':>7} {'':9} "
                f"{'coefficient':>14}")
    for group in found.groups[:_LISTED]:
        first = f"{group.group:>6} {group.particles:>9}"
        for term in group.terms:
            verdict = ("" if not term.named else "undetermined" if not term.determined
                    else f"{term.share:+.2f} ± {term.error:.2f}")
            imported = _numbers(term.imported / term.per_unit) if term.named else "none"
            measured = _numbers(term.found / term.per_unit) if term.determined else "not determined"
            console.say(f"{first:>16}  {term.term.name:24} {imported:>18} {measured:>18} {term.typical_error:>7.2g} "
                        f"{term.unit:9} {verdict:>14}".rstrip())
            first = ""
    if len(found.groups) > _LISTED:
        console.say(f"… and {len(found.groups) - _LISTED} more groups (all with --json)")
    if found.premultiplied:
        console.say("CTF-premultiplied images do not show aberrations of the fourth order")
    for text in found.sentences():
        console.say(text)
    for text in found.advice:
        console.say(f"→ {text}")


def _written(found) -> str:
    """What aberrations the particles of --star have."""
    replaced = found.informative
    if not replaced:
        return "with their aberrations as they were imported: nothing significant was found"
    if len(replaced) == len(found.groups):
        return "with what was found in their optics groups"
    return (f"with what was found in {len(replaced)} of {len(found.groups)} optics groups; in the others nothing "
            "significant was, and their aberrations are as they were imported")


def _numbers(values) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _print_json(found) -> None:
    import json

    click.echo(json.dumps(found.as_dict()))
