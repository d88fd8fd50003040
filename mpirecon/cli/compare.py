"""``mpirecon compare``: two runs beside each other."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import ANY_PATH, EXISTING_FILE, json_option, overwrite_option, verbosity_options


@click.command("compare", cls=DocumentedCommand)
@click.argument("run1", type=ANY_PATH)
@click.argument("run2", type=ANY_PATH)
@click.option("-o", "--output", type=ANY_PATH, metavar="FILE.html", help="Write a page with all of it.")
@click.option("--particles1", type=EXISTING_FILE, help="The particle file of RUN1, where it was moved.")
@click.option("--particles2", type=EXISTING_FILE, help="The particle file of RUN2, where it was moved.")
@json_option
@overwrite_option
@verbosity_options
def command(run1, run2, output, particles1, particles2, as_json, overwrite, quiet, verbose):
    """Compare the finished runs in the folders RUN1 and RUN2.

    Reports the resolution of both, how far their maps agree, which particles were kept by both, by one or by neither,
    and the settings that differ. Particles of different files are matched by cryoSPARC's uid or by the name of the
    image, not by their row.

    \b
    Example:
      mpirecon compare run1 run2 -o compare.html
    """
    import json

    import mpirecon
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.replaced import PAGE
    from mpirecon.io.run_inputs import run_inputs

    console = Console(quiet=quiet or as_json, verbose=verbose)
    if output is not None:
        refuse_existing(output, overwrite, [*run_inputs(run1, particles1), *run_inputs(run2, particles2)], writes=PAGE)
    compared = mpirecon.compare(run1, run2, particles1=particles1, particles2=particles2)
    if as_json:
        click.echo(json.dumps(compared.as_dict()))
    for text in compared.notes:
        console.warn(text)
    for text in str(compared).splitlines():
        console.say(text)
    if compared.settings:
        console.say(f"Settings that differ ({' | '.join(compared.names)}):")
        wide = max(len(name) for name, _, _ in compared.settings)
        for name, first, second in compared.settings:
            console.say(f"  {name:{wide}}  {first} | {second}")
    if output is not None:
        console.say(f"wrote {compared.write(output, overwrite=overwrite)}")
