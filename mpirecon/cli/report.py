"""``mpirecon report``: write the page about a finished run again."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, overwrite_option, verbosity_options


@click.command("report", cls=DocumentedCommand)
@click.argument("folder", metavar="OUT", type=ANY_PATH)
@click.option("-o", "--output", type=ANY_PATH, metavar="FILE.html",
              help="Write the page there.  [default: OUT/report.html, which is replaced]")
@overwrite_option
@verbosity_options
def command(folder, output, overwrite, quiet, verbose):
    """Write the report of the finished run in folder OUT: one page with everything in it, to look at or to send.

    It is made of the files that reconstruct or path left in OUT and of nothing else; they write it at their end.

    \b
    Examples:
      mpirecon report run1
      mpirecon report run1 -o run1-2026-05-04.html
    """
    import mpirecon

    console = Console(quiet=quiet, verbose=verbose)
    written = mpirecon.write_report(folder, output, overwrite=overwrite)
    console.say(f"wrote {written}")
