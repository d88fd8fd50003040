"""``mpirecon score``: particles compared with given half maps."""

from __future__ import annotations

import click

from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, EXISTING_FILE, pass_communicator, verbosity
from mpirecon.cli.reading import READING, reading_of

#: options of reconstruct that say how particles are compared with maps
_SHARED = (
    "max_resolution", "score_band", "diameter", "normalise", "skip_bad", "padding", "threads", "memory",
    "half_precision", "backend", "transport", "overwrite", "quiet", "verbose",
)  # fmt: skip

#: options of an import that are of no use here: half sets must be those of the maps, and --cs is a table to write
_NOT_READ = ("cs", "new_halves")


@pass_communicator
def _run(comm, map1, map2, particles, output, no_filter, as_json, quiet, verbose, **options):
    reading = reading_of(options)
    import mpirecon

    found = mpirecon.score(
        map1, map2, particles, output, comm=comm, filtered=not no_filter,
        verbose=verbosity(quiet or as_json, verbose), **reconstruct.named(options), **reading,
    )  # fmt: skip
    if as_json and comm.rank == 0:
        import json

        click.echo(json.dumps(found.about))


_HELP = """Compare PARTICLES with two half maps, each particle with the map of its half set and with that of the other.

MAP1 is of half set 1 (rlnRandomSubset 1; cryoSPARC's split 0, map_half_A), MAP2 of the other. Both are filtered by their FSC in the
mask, as reconstruct filters its half maps before particles are compared with them. Images are treated as in reconstruct: CTF,
noise spectrum of each optics group, backgrounds. The table has a line for each particle, and score, distance, residual, scale and
sigma against the own half's map (_own) and the other's (_other). PARTICLES is a particle file, a RELION STAR file or a cryoSPARC
.cs file. Starts under mpirun as well.

\b
Examples:
  mpirecon score run1/half1.mrc run1/half2.mrc particles.h5 -o scores.csv
  mpirun -n 4 mpirecon score half1.mrc half2.mrc particles.h5 -o scores.csv --star scores.star
"""

command = DocumentedCommand(
    "score",
    params=[
        click.Argument(["map1"], type=EXISTING_FILE),
        click.Argument(["map2"], type=EXISTING_FILE),
        click.Argument(["particles"], type=EXISTING_FILE),
        click.Option(["-o", "--output"], type=ANY_PATH, required=True, metavar="FILE.csv", help="Table to write."),
        click.Option(["--star"], type=ANY_PATH, metavar="FILE.star", help="Also write all imported particles with the "
                     "numbers as columns mpireconScoreOwn …"),
        click.Option(["--cs", "cs_table"], type=ANY_PATH, metavar="FILE.cs",
                     help="Also write the imported .cs file with the numbers as fields mpirecon/score_own …"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table."),
        click.Option(["--no-filter"], is_flag=True, help="Compare with the maps as they are, in the mask."),
        click.Option(["--mask"], type=EXISTING_FILE, metavar="FILE", help="Soft mask (MRC), 0 … 1, that multiplies the "
                     "maps.  [default: a sphere]"),
        click.Option(["--distance"], type=click.Choice(["raw", "whitened", "explained", "correlation"]),
                     default="explained",
                     show_default=True, help="What distance_own and distance_other are."),
        click.Option(["--weights"], metavar="COLUMN|FILE:COLUMN",
                     help="Particles of weight 0 count nowhere and have no numbers, all others count alike: a column "
                     "of the imported table (e.g. rlnParticleFigureOfMerit), or of a CSV file or a run's "
                     "particles.h5."),
        *(p for p in reconstruct.command.params if isinstance(p, click.Option) and p.name in _SHARED),
        *(p for p in READING if p.name not in _NOT_READ),
    ],
    callback=_run,
    help=_HELP,
    short_help="Compare particles with half maps.",
)
