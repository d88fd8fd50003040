"""``mpirecon null``: a reconstruction from noise, which must have no resolution."""

from __future__ import annotations

import click

from mpirecon.cli import reconstruct
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, pass_communicator, verbosity
from mpirecon.cli.reading import reading_of

#: options of reconstruct that say what is written rather than how it is reconstructed
_NOT_SHARED = (
    "output", "log_particles", "half_map_scores", "reference", "controls", "postprocess", "resume", "checkpoint_every",
    "checkpoint_signal", "grace", "stall_timeout", "dry_run",
)  # fmt: skip


@pass_communicator
def _run(comm, particles, output, overwrite, quiet, verbose, **options):
    reading = reading_of(options)
    import mpirecon

    found = mpirecon.null(
        particles, output, comm=comm, overwrite=overwrite, verbose=verbosity(quiet, verbose),
        **reconstruct.named(options), **reading,
    )  # fmt: skip
    return 0 if found.passed else 1


_HELP = """Replace the images of PARTICLES by noise and reconstruct: the half maps must not agree.

Each image is replaced by pure noise with the same power spectrum; poses, CTFs and half sets stay. All options of reconstruct
that change its result apply, so that the selection of a run is tested on its own set. If the half maps agree
nevertheless, the selection has created spurious resolution: the exit code is 1 if their mean FSC beyond shell 5 is
outside ±0.02, or in small boxes outside three times what chance gives there, if that is more.

\b
Example:
  mpirecon null particles.h5 -o null1 --loss sorted --keep 0.7
"""

command = DocumentedCommand(
    "null",
    params=[
        click.Argument(["particles"], type=reconstruct.EXISTING_FILE),
        click.Option(["-o", "--output"], type=ANY_PATH, required=True, metavar="FOLDER",
                     help="Folder for null.json, fsc.csv and logs."),
        *(p for p in reconstruct.command.params if isinstance(p, click.Option) and p.name not in _NOT_SHARED),
    ],
    callback=_run,
    help=_HELP,
    short_help="Reconstruct from noise.",
)
