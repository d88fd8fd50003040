"""``mpirecon import``: a particle file from a RELION STAR or cryoSPARC .cs file and its stacks."""

from __future__ import annotations

from pathlib import Path

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.error_options import error_options
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH,
    EXISTING_FILE,
    RATE,
    overwrite_option,
    pass_communicator,
    seed_option,
    verbosity_options,
)
from mpirecon.cli.reading import READING, reading_of


class Rescale(click.ParamType):
    """``common`` or ``BOX:Å`` → (box, Å)."""

    name = "common|BOX:Å"

    def convert(self, value, param, ctx):
        if value is None or value == "common" or isinstance(value, tuple):
            return value
        try:
            box, size = value.split(":")
            box, size = int(box), float(size)
        except ValueError:
            self.fail(f"{value!r}: expected common, or a box and its pixel size in Å, e.g. 128:2.5", param, ctx)
        if not (box >= 4 and 0 < size < 1000):
            self.fail(f"{value!r}: expected at least 4 pixels of more than 0 Å, e.g. 128:2.5", param, ctx)
        return box, size


@click.command("import", cls=DocumentedCommand)
@click.argument("particles", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FILE.h5", help="Particle file to write.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "float16"]), default="auto", show_default=True,
              help="Type of the stored images; auto: float16 if all stacks are float16.")
@click.option("--rescale", type=Rescale(), metavar="common|BOX:Å", help="Rescale images to the box and pixel size of "
              "most particles, or all images to BOX pixels of Å.")
@click.option("--link", is_flag=True, help="Refer to the stacks instead of copying their images.")
@error_options("error_rate", "error_degrees", "--plant-errors")
@click.option("--error-by", "--plant-by", metavar="COLUMN", help="Rows with the same value in this column (e.g. "
              "rlnTomoParticleName) are wrong together.")
@click.option("--skip-bad", is_flag=True, help="Skip NaN and constant images; they are counted and listed.")
@click.option("--max-bad", type=RATE, metavar="X", default=0.1, show_default=True,
              help="Largest fraction of images that --skip-bad may skip.")
@seed_option
@overwrite_option
@verbosity_options
@pass_communicator
def command(comm, particles: Path, output: Path, quiet: bool, verbose: bool, **options) -> None:
    """Make a particle file from PARTICLES, a RELION STAR file (1.4 to 5) or a cryoSPARC .cs file, and its stacks.

    Stacks are searched relative to that file, to --data-dir, to the folders above that file (a project) and to the
    working folder, then by their file name in --data-dir and in the folder of that file. Under mpirun/srun each rank
    copies a part of the particles.

    \b
    Examples:
      mpirecon import run_data.star --data-dir /path/to/project -o particles.h5
      mpirecon import J42_particles.cs --passthrough J42_passthrough.cs -o particles.h5
      mpirecon import run_data.star --select rlnClassNumber=2 --new-halves -o class2.h5
      mpirecon import run_data.star --orientation-error-rate 0.3 -o with-errors.h5
    """
    reading = reading_of(options)
    from mpirecon.api.reading import imported  # what read_star and read_cs are, of any format

    imported(particles, comm, Console(comm, quiet=quiet, verbose=verbose), output, **reading, **options)


command.params += READING
