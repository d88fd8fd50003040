"""``mpirecon path``: maps of nested selections, beside random discards of the same sizes."""

from __future__ import annotations

import copy

import click

from mpirecon import cli
from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, COUNT, Band, pass_communicator, verbosity
from mpirecon.cli.reading import reading_of
from mpirecon.errors import UserError

#: options of reconstruct that are of no use here, or mean something else
_NOT_SHARED = (
    "output", "loss", "log_particles", "half_map_scores", "reference", "controls", "particle_scores", "postprocess",
    "checkpoint_every",
    "dry_run", "solver", "batch_size", "step", "momentum", "sort_scope", "space", "schedule", "poses", "search_offset",
    "search_sigma",
)  # fmt: skip


class Fractions(click.ParamType):
    """``1,0.9,0.8`` → (1.0, 0.9, 0.8)."""

    name = "x,x…"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        from mpirecon.robust.nested import checked_fractions

        try:
            return checked_fractions([float(part) for part in str(value).split(",")])
        except ValueError:
            self.fail(f"{value!r}: expected fractions with commas between, e.g. 1,0.9,0.8", param, ctx)
        except UserError as error:
            self.fail(str(error).removeprefix("--steps "), param, ctx)


@pass_communicator
def _run(comm, particles, output, overwrite, quiet, verbose, **options):
    reading = reading_of(options)
    import mpirecon

    mpirecon.path(
        particles, output, comm=comm, overwrite=overwrite, began=cli.began, verbose=verbosity(quiet, verbose),
        **reconstruct.named(options), **reading,
    )  # fmt: skip


_HELP = """Keep 100, 90 … 10 % of PARTICLES, the best-scored first, and see where leaving particles out pays.

Each selection is reconstructed with both half maps, beside as many particles drawn at random; resolution, FSC to the map of all,
B-factor and anisotropy are drawn over the number of particles. Particles are scored against maps that they did not build, and
the same path is walked on pure noise. Options of reconstruct apply to the first run, which scores the particles, and to all maps.
PARTICLES is a particle file, a RELION STAR file or a cryoSPARC .cs file.

\b
Examples:
  mpirecon path particles.h5 -o path1
  mpirecon path run_data.star -o path3 --mask auto
  mpirecon path particles.h5 -o path2 --schedule sieve --high-pass 50:8
"""


def _shared() -> list[click.Option]:
    found = [p for p in reconstruct.command.params if isinstance(p, click.Option) and p.name not in _NOT_SHARED]
    for place, option in enumerate(found):
        if option.name == "resume":
            found[place] = copy.copy(option)
            found[place].help = ("Continue after the last step that an interrupted path finished; begin if there is "
                                 "none.")
    return found


command = DocumentedCommand(
    "path",
    params=[
        click.Argument(["particles"], type=reconstruct.EXISTING_FILE),
        click.Option(["-o", "--output"], type=ANY_PATH, required=True, metavar="FOLDER",
                     help="Folder for the table, the best step's maps and the page."),
        click.Option(["--schedule"], type=click.Choice(["once", "rescore", "sieve"]), default="once", show_default=True,
                     help="Particles are scored by one first run, or again at each step by the maps of those that are "
                     "left; sieve: again, above a high-pass that moves from step to step, as CryoSieve does."),
        click.Option(["--steps"], type=Fractions(), help="Fractions that are kept, e.g. 1,0.9,0.8.  [default: 1, 0.9 … "
                     "0.1; sieve: 1, 0.8, 0.64 … 0.107, as far as 20 particles are left to a half map]"),
        click.Option(["--random-draws"], type=COUNT, default=1, show_default=True, metavar="N",
                     help="Random discards of each size; more give a better estimate of chance."),
        click.Option(["--high-pass"], type=Band(), metavar="Å:Å", help="First and last high-pass of a sieve.  "
                     "[default: 50:3]"),
        click.Option(["--no-null", "null"], is_flag=True, default=True, flag_value=False,
                     help="Do not walk the same path on pure noise."),
        click.Option(["--loss"], type=click.Choice(reconstruct.LOSSES), default=None,
                     help="Loss of the first run; l2: all particles alike.  [default: posterior]"),
        *_shared(),
    ],
    callback=_run,
    help=_HELP,
    short_help="Where does leaving particles out pay?",
)
