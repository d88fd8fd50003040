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
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.inputs import given
    from mpirecon.io.run_folder import PATH
    from mpirecon.io.run_output import files_read, read_summary
    from mpirecon.io.unfinished import state_of
    from mpirecon.report.html import write_report
    from mpirecon.report.path_page import write_path_page

    console = Console(quiet=quiet, verbose=verbose)
    summary = read_summary(folder)
    if output is not None:
        about = summary.get("particles")
        # it is not read, but it is not to be replaced by a page
        made_from = given(particle_file=str(about["file"]) if isinstance(about, dict) and about.get("file") else None)
        refuse_existing(output, overwrite, [*made_from, *(read for read in files_read(folder)
                                                          if read.path.name != "report.html")])
    if (state := state_of(folder)) is not None:
        console.warn(f"the report is of the run that finished before. {state[0].upper()}{state[1:]}")
    write = write_path_page if summary.get("kind") == PATH.kind else write_report
    written = write(folder, summary, target=output, overwrite=overwrite or output is None)
    console.say(f"wrote {written}")
