"""``mpirecon score``: particles compared with given half maps."""

from __future__ import annotations

import click

from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, EXISTING_FILE, pass_communicator
from mpirecon.cli.reading import READING, as_file, reading_of

#: options of reconstruct that say how particles are compared with maps
_SHARED = (
    "max_resolution", "score_band", "diameter", "weights", "normalise", "skip_bad", "padding", "threads", "memory",
    "half_precision", "backend", "transport", "overwrite", "quiet", "verbose",
)  # fmt: skip

#: options of an import that are of no use here: half sets must be those of the maps, and --cs is a table to write
_NOT_READ = ("cs", "new_halves")


@pass_communicator
def _run(comm, map1, map2, particles, output, star, cs_table, no_filter, as_json, overwrite, quiet, verbose, **options):
    reading, cs = reading_of(options), cs_table
    config = reconstruct.configure(**options)
    from mpirecon.parallel.console import Console
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.given_weights import weights_inputs
    from mpirecon.io.inputs import given, refuse_twice
    from mpirecon.io.particle_file import ParticleFile
    from mpirecon.io.score_tables import write_csv, write_cs_scores, write_star_scores
    from mpirecon.parallel.comm import run_together, together
    from mpirecon.solvers.score import score_particles

    console = Console(comm, quiet=quiet or as_json, verbose=verbose)

    def refuse(path) -> None:
        refuse_twice([output, star, cs])
        with ParticleFile(path) as file:
            read = [*given(first_map=map1, second_map=map2, mask=config.mask, particle_table=particles),
                    *weights_inputs(config.weights),
                    *file.inputs(), *file.origins()]
        for target in filter(None, (output, star, cs)):
            refuse_existing(target, overwrite, read)

    with as_file(comm, particles, reading, console) as path:
        run_together(comm, lambda: refuse(path))
        found = score_particles(comm, map1, map2, path, config, console, filtered=not no_filter, star=star, cs=cs,
                                shown=particles)
        with together(comm):
            if comm.rank == 0:
                numbers = {name: values for name, values in found.columns.items() if values.dtype.kind == "f"}
                write_csv(output, found.columns, overwrite)
                with ParticleFile(path, particles) as file:
                    if star is not None:
                        write_star_scores(star, file, numbers, overwrite)
                    if cs is not None:
                        write_cs_scores(cs, file, numbers, overwrite)
    if comm.rank == 0:
        _print(console, found, as_json, [path for path in (output, star, cs) if path is not None])


def _print(console, found, as_json: bool, written: list) -> None:
    import json

    numbers = found.as_dict()
    if as_json:
        click.echo(json.dumps(numbers))
    for text in found.warnings:
        console.warn(text)
    at = (
        f"falls below 0.143 at {numbers['resolution_0143']:.2f} Å"
        if numbers["resolution_0143"]
        else "stays above 0.143"
    )
    console.say(f"FSC of the two maps {at}")
    console.say(f"{'median over particles':24} {'score':>9} {'distance':>11} {'residual':>11}")
    for which, words in (("own", "own half's map"), ("other", "other half's map")):
        score, distance, residual = (numbers["median"][f"{name}_{which}"] for name in ("score", "distance", "residual"))
        console.say(f"{words:24} {_number(score):>9} {_number(distance):>11} {_number(residual):>11}")
    console.say("A particle is in its own half's map, if that was made of these particles, and finds itself there: "
                "noise scores above 0, too. The other half's map is free of it, but whoever selects by that lets the "
                "half maps see each other. reconstruct scores against folds, which do neither.")
    for text in found.notes:
        console.say(text)
    for path in written:
        console.say(f"wrote {path}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


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
        *(p for p in reconstruct.command.params if isinstance(p, click.Option) and p.name in _SHARED),
        *(p for p in READING if p.name not in _NOT_READ),
    ],
    callback=_run,
    help=_HELP,
    short_help="Compare particles with half maps.",
)
