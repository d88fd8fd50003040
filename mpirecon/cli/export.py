"""``mpirecon export``: the particles of a finished run for RELION and cryoSPARC."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, EXISTING_FILE, FRACTION, overwrite_option, verbosity_options


class GroupFile(click.ParamType):
    """``FILE`` or ``GROUP=FILE`` → (optics group or None for all, path)."""

    name = "[GROUP=]FILE"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        group, equals, rest = value.partition("=")
        if equals and group.isdigit():
            return int(group), EXISTING_FILE.convert(rest, param, ctx)
        return None, EXISTING_FILE.convert(value, param, ctx)


@click.command("export", cls=DocumentedCommand)
@click.argument("folder", metavar="OUT", type=ANY_PATH)
@click.option("--star", type=ANY_PATH, metavar="FILE.star", help="STAR file of the kept particles, for RELION.")
@click.option("--discarded", type=ANY_PATH, metavar="FILE",
              help="File of the particles that were not kept: .star or .cs by its name.")
@click.option("--cs", type=ANY_PATH, metavar="FILE.cs",
              help="cryoSPARC file of the kept particles, where they came from one.")
@click.option("--stack", type=ANY_PATH, metavar="FILE.mrcs",
              help="Also write the images of these particles, with protein bright, and point to them; needed after "
              "simulate, and for a STAR file where protein is dark in some or all of the images.")
@click.option("--particles", type=EXISTING_FILE, help="The run's particle file, where it was moved.")
@click.option("--poses", type=click.Choice(["original", "used"]), default="original", show_default=True,
              help="With simulated errors: write the original poses and defoci, or the wrong ones that the run used, "
              "with the true ones in further columns.")
@click.option("--step", type=FRACTION, metavar="X", help="Of a path: the particles of this step, e.g. 0.8.  [default: "
              "the best step's]")
@click.option("--coordinates", type=click.Choice(["as-stored", "flipped"]), help="For particles of a .cs file: also "
              "write their coordinates on RELION's micrographs, which are oriented as in cryoSPARC, or flipped in y.  "
              "[default: no coordinates]")
@click.option("--mtf", type=GroupFile(), multiple=True, metavar="[GROUP=]FILE",
              help="Name this MTF (RELION's STAR file) in the optics table, of all groups or of one; may be repeated.")
@overwrite_option
@verbosity_options
def command(folder, quiet, verbose, **options) -> None:
    """Write the particles of the finished run in folder OUT as files for RELION and cryoSPARC.

    All columns and optics groups of the imported file come back as they were, in its order. Added are the weights as
    rlnParticleFigureOfMerit, which relion_reconstruct --fom_weighting reads, scores as mpireconScore …, and half sets
    where the file had none. Imported particles keep their image names; those of simulate need --stack.

    \b
    Examples:
      mpirecon export run1 --star kept.star --discarded discarded.star
      mpirecon export run1 --cs kept.cs
    """
    import mpirecon

    console = Console(quiet=quiet, verbose=verbose)
    report = mpirecon.export(folder, **options, verbose=not quiet)
    for path, what in report.files:
        console.say(f"{path}: {what}")
    for note in report.notes:
        console.say(f"  {note}")
    for text in report.warnings:
        console.warn(text)
