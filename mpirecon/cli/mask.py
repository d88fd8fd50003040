"""``mpirecon mask``: a soft mask from a map."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH, EXISTING_FILE, NON_NEGATIVE, POSITIVE, Number, json_option, overwrite_option, verbosity_options,
)  # fmt: skip


@click.command("mask", cls=DocumentedCommand)
@click.argument("volume", metavar="MAP", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FILE", help="Mask to write (MRC, 0 … 1).")
@click.option("--half", type=EXISTING_FILE, metavar="FILE", help="The other half map: the mask is made from their "
              "mean, for their resolution.")
@click.option("--resolution", type=POSITIVE, metavar="Å", help="Resolution of the map, which sets what follows.  "
              "[default: of the half maps, else 3 pixels]")
@click.option("--lowpass", type=POSITIVE, metavar="Å", help="Filter the map to this before it is cut.  [default: 1.5 × "
              "resolution, at least 10 Å and 3 pixels]")
@click.option("--threshold", type=Number(), help="Density of the filtered map at which it is cut.  [default: found]")
@click.option("--extend", type=NON_NEGATIVE, metavar="Å", help="Grow the mask by this.  [default: half the resolution, "
              "at least 2 pixels, at most box / 16]")
@click.option("--edge", type=NON_NEGATIVE, metavar="Å", help="Width of the soft edge.  [default: the resolution, at "
              "least 4 pixels, at most box / 8]")
@json_option
@overwrite_option
@verbosity_options
def command(volume, output, half, as_json, overwrite, quiet, verbose, **options):
    """Make a soft mask around the particle in MAP (MRC, particle bright).

    The map is low-passed, cut above the solvent's noise, reduced to its large connected pieces, extended, and given a
    soft edge. Use an unsharpened map, best the two half maps. reconstruct makes such a mask itself at its end.

    \b
    Examples:
      mpirecon mask run1/half1.mrc --half run1/half2.mrc -o mask.mrc
      mpirecon mask map.mrc --resolution 6 --extend 6 --edge 9 -o mask.mrc
    """
    import json

    import mpirecon
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.replaced import MAP
    from mpirecon.io.inputs import given

    console = Console(quiet=quiet or as_json, verbose=verbose)
    refuse_existing(output, overwrite, given(map=volume, other_half_map=half), writes=MAP)
    maps = {"volume": volume} if half is None else {"half_maps": (volume, half)}
    mask = mpirecon.automatic_mask(**maps, **options)
    for text in mask.warnings:
        console.warn(text)
    mask.write(output, overwrite=overwrite)
    console.say(f"mask: {mask.made}")
    console.say(f"wrote {output}")
    if as_json:
        click.echo(json.dumps(mask.made.as_dict()))
