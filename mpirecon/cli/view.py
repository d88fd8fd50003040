"""``mpirecon view``: a quick look at a map."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, EXISTING_FILE, Number, Whole, overwrite_option, verbosity_options
from mpirecon.cli.terminal import uses_colours


@click.command("view", cls=DocumentedCommand)
@click.argument("volume", metavar="MAP", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, metavar="FILE.html", help="Page to write.  [default: MAP with the "
              "ending .html]")
@click.option("--terminal", is_flag=True, help="Draw slices and projections in the terminal, and write nothing.")
@click.option("--level", type=Number(), help="Density of the surface first shown.  [default: well above the solvent]")
@click.option("--size", type=Whole(16, 256), default=96, show_default=True, metavar="N",
              help="Voxels of a side in the page at most; a larger map is coarsened. A page of 96 has 1.2 MB.")
@click.option("--open", "open_it", is_flag=True, help="Open the page in the web browser.")
@overwrite_option
@verbosity_options
def command(volume, output, terminal, level, size, open_it, overwrite, quiet, verbose):
    """Look at MAP (MRC) without other software.

    Writes one page that needs no network: slices to slide through, a surface to turn (WebGL), projections. With
    --terminal, slices and projections are drawn in characters instead, e.g. over ssh.

    \b
    Examples:
      mpirecon view run1/volume.mrc --open
      mpirecon view run1/half1.mrc --terminal
    """
    import sys

    import mpirecon
    from mpirecon.report.viewer import terminal_view

    console = Console(quiet=quiet, verbose=verbose)
    if terminal:
        if output or open_it:
            raise mpirecon.UserError("--terminal writes no page; leave out --output and --open")
        read = mpirecon.read_map(volume)
        click.echo(terminal_view(read.to_numpy(), read.pixel_size, colour=uses_colours(sys.stdout)))
        return
    target = mpirecon.view(volume, output, size=size, level=level, overwrite=overwrite)
    console.say(f"wrote {target}")
    if open_it:
        import webbrowser

        if not webbrowser.open(target.resolve().as_uri()):
            console.warn(f"no web browser could be opened; open {target} yourself")
