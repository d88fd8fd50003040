"""``mpirecon project``: a map seen from the poses of a particle file."""

from __future__ import annotations

import click

from mpirecon.parallel.console import Console
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import overwrite_option, verbosity_options


class RowRange(click.ParamType):
    """``A:B``, rows A to B − 1 counted from 0; either end may be left out."""

    name = "a:b"

    def convert(self, value, param, ctx):
        if isinstance(value, slice):
            return value
        first, colon, last = value.partition(":")
        try:
            ends = [int(end) if end else None for end in (first, last)]
        except ValueError:
            ends = [-1]
        if not colon or any(end is not None and end < 0 for end in ends):
            self.fail(f"{value!r} is not A:B, two row numbers counted from 0", param, ctx)
        return slice(*ends)


@click.command("project", cls=DocumentedCommand)
@click.argument("map_path", metavar="MAP", type=click.Path())
@click.argument("particles", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Stack to write (.mrcs).")
@click.option("--no-ctf", is_flag=True, help="Plain projections, protein white.")
@click.option("--rows", type=RowRange(), default=":", help="Only rows A to B − 1, counted from 0.")
@overwrite_option
@verbosity_options
def command(map_path, particles, output, no_ctf, rows, overwrite, quiet, verbose):
    """Project MAP at the poses, shifts and CTFs of the particle file PARTICLES, without noise.

    The images compare with those in the file, one to one: where these are CTF-premultiplied the CTF is applied twice,
    where they are phase-flipped its magnitude is applied, and where their contrast is black the sign is turned.

    \b
    Example:
      mpirecon project run1/volume.mrc particles.h5 --rows 0:100 -o stack.mrcs
    """
    import mpirecon
    from mpirecon.io.atomic import refuse_existing
    from mpirecon.io.inputs import given

    console = Console(quiet=quiet, verbose=verbose)
    refuse_existing(output, overwrite, given(map=map_path, particle_file=particles))  # before a large file is read
    posed = mpirecon.open(particles)
    chosen = range(*rows.indices(len(posed)))
    if not chosen:
        last = len(posed) - 1
        raise mpirecon.UserError(f"--rows chooses none of the {last + 1} particles of {particles} (rows 0 to {last})")
    model = mpirecon.ForwardModel(posed, rows, use_ctf=not no_ctf)
    with console.progress(len(chosen), "projecting") as progress:
        model.write(map_path, output, overwrite=overwrite, progress=progress.update)
    twice = ", CTF applied twice as in the premultiplied file" if model.about.ctf_premultiplied and not no_ctf else ""
    if output.lower().endswith(".mrc"):
        console.say(f"RELION takes {output} for a map, as the name does not end in .mrcs")
    console.say(f"wrote {output}: {len(chosen)} images, rows {chosen.start} to {chosen.stop - 1} of {particles}{twice}")
