"""``mpirecon fsc``: Fourier shell correlation of two maps."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import json_option, overwrite_option, map_seed_option, verbosity_options
from mpirecon.cli.terminal import chart_width


@click.command("fsc", cls=DocumentedCommand)
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option("--mask", type=click.Path(), metavar="FILE|auto", help="Mask (MRC, soft edge) that multiplies both maps "
              "for a second curve; auto makes one from the mean of the maps.")
@click.option("--phase-randomise", is_flag=True, help="Also measure what the mask adds, on maps with random phases, "
              "and take it off.")
@click.option("--cones", is_flag=True, help="Also report the resolution by direction, in cones of 20°, and the "
              "sphericity.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw the curves into this file (.png, .svg, .pdf).")
@click.option("--csv", "csv_path", type=click.Path(), metavar="FILE", help="Write the curves as a table.")
@json_option
@map_seed_option
@overwrite_option
@verbosity_options
def command(first, second, mask, phase_randomise, cones, plot, csv_path, as_json, seed, overwrite, quiet, verbose):
    """Compare the maps FIRST and SECOND shell by shell and report where the correlation falls below 0.5 and 0.143.

    The 0.143 crossing is the resolution when the maps come from two independent halves of the data; 0.5 is the one to
    read when a map is compared with a truth or a model. A mask correlates the maps by itself, the sharper the more;
    --phase-randomise measures by how much.

    \b
    Example:
      mpirecon fsc run1/half1.mrc run1/half2.mrc --mask auto --phase-randomise --plot fsc.png
    """
    import json

    import mpirecon
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.replaced import OTHER, PICTURE
    from mpirecon.io.inputs import given, refuse_twice
    from mpirecon.report.figures import check_suffix
    from mpirecon.validate.fsc_table import text_plot

    console = Console(quiet=quiet or as_json, verbose=verbose)
    if plot:
        check_suffix(plot, "--plot")
    refuse_twice([plot, csv_path])
    read = given(first_map=first, second_map=second, mask=None if mask == "auto" else mask)
    for target, kind in ((plot, PICTURE), (csv_path, OTHER)):
        if target is not None:
            refuse_existing(target, overwrite, read, writes=kind)
    found = mpirecon.fsc(first, second, mask, phase_randomise=phase_randomise, cones=cones, seed=seed)
    result = found.comparison
    for text in result.warnings:
        console.warn(text)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        console.say(text_plot(found.values, found.box, found.pixel_size, chart_width()))
        for line in result.lines():
            console.say(line)
    if csv_path:
        result.write(csv_path, overwrite=overwrite)
        console.say(f"wrote {csv_path}")
    if plot:
        found.draw(plot, overwrite=overwrite)
        console.say(f"wrote {plot}")
