"""``mpirecon postprocess``: corrected FSC, B-factor and sharpened map of two half maps."""

from __future__ import annotations

import click

from mpirecon.cli.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH, EXISTING_FILE, POSITIVE, Number, json_option, overwrite_option, map_seed_option, verbosity_options,
)  # fmt: skip
from mpirecon.cli.terminal import chart_width


@click.command("postprocess", cls=DocumentedCommand)
@click.argument("half1", type=EXISTING_FILE)
@click.argument("half2", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FOLDER", help="Folder for the sharpened map, with and "
              "without the mask, the mask, FSC curves and what was found.")
@click.option("--mask", type=EXISTING_FILE, metavar="FILE", help="Mask (MRC, 0 … 1, soft edge).  [default: made from the mean "
              "of the maps]")
@click.option("--bfactor", type=Number(-5000, 5000, metavar="Å²"), help="Sharpen by this (negative sharpens).  [default: fitted]")
@click.option("--lowpass", type=POSITIVE, metavar="Å", help="Where the sharpened map ends.  [default: where the corrected FSC "
              "falls below 0.143]")
@click.option("--mtf", type=EXISTING_FILE, metavar="FILE.star", help="Divide by the detector's MTF (RELION's STAR file).")
@click.option("--mtf-pixel-size", type=POSITIVE, metavar="Å", help="Pixel size of the detector that it counts in.  [default: the "
              "maps']")
@click.option("--pixel-size", type=POSITIVE, metavar="Å", help="Pixel size of the maps, where their headers are wrong.")
@json_option
@map_seed_option
@overwrite_option
@verbosity_options
def command(half1, half2, output, mask, bfactor, lowpass, mtf, mtf_pixel_size, pixel_size, as_json, seed, overwrite, quiet,
            verbose):
    """Sharpen the mean of the half maps HALF1 and HALF2 (MRC, unmasked, unfiltered), and find its resolution.

    As relion_postprocess does: the FSC in a mask, corrected for the mask by random phases; the B-factor of the Guinier plot;
    the mean of the maps weighted by the FSC, sharpened, and filtered at its resolution. reconstruct does all of this at its
    end; this is for the half maps of other programs, another mask, or a B-factor of your own.

    \b
    Examples:
      mpirecon postprocess run1/half1.mrc run1/half2.mrc -o post
      mpirecon postprocess h1.mrc h2.mrc --mask mask.mrc --bfactor -80 --mtf mtf_k3_300kV.star -o post
    """
    import json

    from mpirecon.errors import UserError
    from mpirecon.io.inputs import given
    from mpirecon.validate.fsc_table import text_plot
    from mpirecon.validate.half_maps import postprocess_files, refuse_targets, write_half_maps

    if mtf_pixel_size is not None and mtf is None:
        raise UserError("--mtf-pixel-size is the pixel size of an MTF: give that with --mtf FILE")
    console = Console(quiet=quiet or as_json, verbose=verbose)
    refuse_targets(output, overwrite, given(half_map=half1, mask=mask, MTF=mtf) + given(half_map=half2))
    made = postprocess_files(half1, half2, mask, bfactor=bfactor, lowpass=lowpass, mtf=mtf, mtf_pixel_size=mtf_pixel_size,
                             pixel_size=pixel_size, seed=seed)
    for text in made.comparison.warnings:
        console.warn(text)
    written = write_half_maps(output, made)
    if as_json:
        click.echo(json.dumps(made.as_dict()))
    console.say(text_plot(made.found.fsc.true, made.comparison.box, made.comparison.pixel_size, chart_width()))
    for line in made.lines():
        console.say(line)
    console.say(f"wrote {output}: {', '.join(path.name for path in written)}")
