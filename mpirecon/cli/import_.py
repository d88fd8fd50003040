"""``mpirecon import``: a particle file from a RELION STAR or cryoSPARC .cs file and its stacks."""

from __future__ import annotations

from pathlib import Path

import click

from mpirecon.cli.console import Console
from mpirecon.cli.error_options import error_options, in_words, others_in_words
from mpirecon.cli.help import DocumentedCommand
from mpirecon.cli.options import (
    ANY_PATH,
    EXISTING_FILE,
    EXISTING_FOLDER,
    POSITIVE,
    RATE,
    Number,
    overwrite_option,
    pass_communicator,
    seed_option,
    verbosity_options,
)
from mpirecon.errors import UserError

_LISTED = 20  # skipped images that are named one by one without --verbose


class StackMapping(click.ParamType):
    """``OLD=NEW`` → (OLD, NEW); a stack path may itself hold =, so the last one with an existing NEW divides."""

    name = "OLD=NEW"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        cuts = [i for i, letter in enumerate(value) if letter == "=" and i > 0]
        if not cuts:
            self.fail(
                f"{value!r}: expected OLD=NEW, the stack path as the STAR file has it and the file to read",
                param, ctx,
            )
        cut = next((i for i in cuts if Path(value[i + 1 :]).is_file()), cuts[0])
        return value[:cut], value[cut + 1 :]


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


class Selection(click.ParamType):
    """``COLUMN=VALUES`` → (COLUMN, VALUES)."""

    name = "COLUMN=VALUES"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        from mpirecon.io.row_selection import parse_selection  # NumPy is slow to load, and --help needs none

        try:
            return parse_selection(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CryosparcAberrations(click.ParamType):
    """A word of cryosparc_optics.PRESETS, or terms with commas between."""

    name = "WHICH"

    def convert(self, value, param, ctx):
        from mpirecon.io.cryosparc_optics import signs_of  # NumPy is slow to load, and --help needs none

        try:
            signs_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value

    def shell_complete(self, ctx, param, incomplete):
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in ("all", "csparc2star", "none") if word.startswith(incomplete)]


class Unit(click.ParamType):
    """``defocus=um`` → (quantity, unit), see reading.parse_unit."""

    name = "QUANTITY=UNIT"

    def convert(self, value, param, ctx):
        from mpirecon.io.reading import parse_unit  # NumPy is slow to load, and --help needs none

        try:
            return value if isinstance(value, tuple) else parse_unit(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("import", cls=DocumentedCommand)
@click.argument("particles", type=EXISTING_FILE)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="FILE.h5", help="Particle file to write.")
@click.option("--data-dir", type=EXISTING_FOLDER,
              help="Folder that the stack paths start from, or that holds the stacks.")
@click.option("--stack", type=EXISTING_FILE, help="All images are in this stack, whatever path the STAR file names.")
@click.option("--map-stack", "mapping", type=StackMapping(), multiple=True,
              help="Read NEW where the STAR file names OLD (a path or its last part); may be repeated.")
@click.option("--pixel-size", type=POSITIVE, metavar="Å",
              help="Pixel size of the images, where the table lacks it or is wrong; shifts keep their length in pixels.")
@click.option("--scale-defocus", is_flag=True, help="Defoci were estimated with the table's pixel size: multiply them by the square of "
              "--pixel-size over it.")
@click.option("--voltage", type=Number(20, 2000), metavar="kV", help="Acceleration voltage, likewise.")
@click.option("--cs", type=Number(-50, 50), metavar="mm", help="Spherical aberration, likewise.")
@click.option("--amplitude-contrast", type=Number(0, 1), metavar="X", help="Amplitude contrast, likewise.")
@click.option("--unit", "units", type=Unit(), multiple=True, metavar="QUANTITY=UNIT",
              help="Unit of the table's numbers where it is not the format's own: defocus=A|nm|um (with a minus where underfocus is "
              "negative), angles=degree|radian, defocus-angle=…, phase-shift=…, shift=A|pixel, voltage=kV|V, "
              "amplitude-contrast=fraction|percent; may be repeated.")
@click.option("--no-ctf", is_flag=True, help="The images have no CTF: none is applied, and the table needs no CTF columns.")
@click.option("--ctf-premultiplied", is_flag=True, help="The images are multiplied by their CTF, whatever the table says.")
@click.option("--no-ctf-premultiplied", is_flag=True, help="They are not, whatever the table says.")
@click.option("--ctf-phase-flipped", is_flag=True, help="The images are multiplied by the sign of their CTF, whatever the table says.")
@click.option("--no-ctf-phase-flipped", is_flag=True, help="They are not, whatever the table says.")
@click.option("--bfactor-sign", type=click.Choice(["auto", "relion", "warp"]), default="auto", show_default=True,
              help="Which B factors of the table let the CTF fall with resolution: positive ones (relion), negative ones (warp, where "
              "B is −4 times the dose); auto: negative ones where none is positive.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "float16"]), default="auto", show_default=True,
              help="Type of the stored images; auto: float16 where all stacks are float16.")
@click.option("--rescale", type=Rescale(), metavar="common|BOX:Å", help="Bring images of different boxes or pixel sizes to those of most particles, or "
              "all images to BOX pixels of Å.")
@click.option("--ignore-aberrations", is_flag=True,
              help="Correct for no beam tilt, higher-order aberration or anisotropic magnification, whatever the file names.")
@click.option("--cs-aberrations", type=CryosparcAberrations(), metavar="WHICH",
              help="What of a .cs file's aberrations is corrected for: all (with the signs of cryoSPARC's code), csparc2star (beam "
              "tilt alone, as that program writes it), none, or terms such as tilt,-trefoil.  [default: all]")
@click.option("--link", is_flag=True, help="Refer to the stacks instead of copying their images.")
@click.option("--contrast", type=click.Choice(["white", "black"]),
              help="Whether protein is bright or dark.  [default: white; of a .cs file what its blob/sign says]")
@click.option("--passthrough", type=EXISTING_FILE, multiple=True, metavar="FILE.cs",
              help="Join the columns of this file to those of the .cs file, by uid; may be repeated.")
@click.option("--select", type=Selection(), multiple=True, metavar="COLUMN=VALUES",
              help="Import only the rows that have one of these VALUES (with commas between; LOW:HIGH for numbers; @FILE for a list) in "
              "COLUMN, or whose number from 0 is among them (row=…); may be repeated, and all must hold.")
@click.option("--new-halves", is_flag=True, help="Draw half sets with --seed, whatever the file says of them; rows that show one "
              "particle stay together.")
@click.option("--family", multiple=True, metavar="COLUMN|none", help="Rows of one value in COLUMN show one particle, beside the columns "
              "that are known to say so; or none: only rows of one image do. May be repeated.")
@error_options("plant_errors", "small_degrees", "--plant-errors")
@click.option("--plant-by", metavar="COLUMN", help="Rows with one value in this column (e.g. rlnTomoParticleName) are wrong "
              "together.")
@click.option("--skip-bad", is_flag=True, help="Leave out NaN and constant images; they are counted and listed.")
@click.option("--max-bad", type=RATE, metavar="X", default=0.1, show_default=True,
              help="Largest fraction of the images that --skip-bad may leave out.")
@seed_option
@overwrite_option
@verbosity_options
@pass_communicator
def command(comm, particles: Path, output: Path, mapping, units, quiet: bool, verbose: bool, **options) -> None:
    """Make a particle file from PARTICLES, a RELION STAR file (1.4 to 5) or a cryoSPARC .cs file, and its stacks.

    Stacks are looked for relative to that file, to --data-dir, to the folders above that file (a project) and to the working
    folder, then by their last name in --data-dir and beside that file. Under mpirun/srun each rank copies a part of the
    particles.

    \b
    Examples:
      mpirecon import run_data.star --data-dir /path/to/project -o particles.h5
      mpirecon import J42_particles.cs --passthrough J42_passthrough.cs -o particles.h5
      mpirecon import run_data.star --select rlnClassNumber=2 --new-halves -o class2.h5
      mpirecon import run_data.star --orientation-error-rate 0.3 -o with-errors.h5
    """
    for state in ("ctf_premultiplied", "ctf_phase_flipped"):
        options[state] = _state(state, options[state], options.pop(f"no_{state}"))
    if options["no_ctf"] and (options["ctf_premultiplied"] or options["ctf_phase_flipped"]):
        raise UserError("--no-ctf says that the images have no CTF, which --ctf-premultiplied and --ctf-phase-flipped contradict; "
                        "leave one out")
    if options["ctf_premultiplied"] and options["ctf_phase_flipped"]:
        raise UserError("--ctf-premultiplied and --ctf-phase-flipped: after multiplication by the CTF no sign is left to flip; leave "
                        "one out")
    if options["scale_defocus"] and options["pixel_size"] is None:
        raise UserError("--scale-defocus scales defoci to the pixel size of --pixel-size; give that too")
    if options["cs_aberrations"] is not None and options["ignore_aberrations"]:
        raise UserError("--cs-aberrations says what is corrected for, and --ignore-aberrations that nothing is; leave one out")

    from mpirecon.io.importer import (  # slow to load (pandas, HDF5), and --help needs none
        ImportOptions,
        import_particles,
    )

    console = Console(comm, quiet=quiet, verbose=verbose)
    chosen = ImportOptions(mapping=dict(mapping), units=dict(units), **options)
    report = import_particles(particles, output, chosen, lambda total: console.progress(total, "importing"),
                              comm)
    _print(console, report)


def _state(name: str, is_so: bool, is_not: bool) -> bool | None:
    """What a pair of options says; None where neither is given."""
    if is_so and is_not:
        option = name.replace("_", "-")
        raise UserError(f"--{option} and --no-{option} contradict each other; leave one out")
    return True if is_so else False if is_not else None


def _print(console: Console, report) -> None:
    console.say(
        f"{report.output}: {report.particles} particles of {report.box} x {report.box} pixels, "
        f"{report.pixel_size:g} Å/px, "
        f"{report.dtype}, half sets of {report.halves[0]} and {report.halves[1]}"
        f"{', CTF-premultiplied' if report.ctf_premultiplied else ', phase-flipped' if report.ctf_phase_flipped else ''}"
    )
    if report.planted is not None:
        console.say(f"  {report.planted} wrong poses were planted ({100 * report.planted / report.particles:.1f} %)"
                    f"{in_words(report.kinds, report.planted)}")
    if others := others_in_words(report.kinds):
        console.say(f"  planted errors: {others}")
    for note in report.notes:
        console.say(f"  {note}")
    for warning in report.warnings:
        console.warn(warning)
    if report.skipped:
        console.warn(f"{len(report.skipped)} bad images were left out:")
        listed = report.skipped if console.verbose else report.skipped[:_LISTED]
        for line in listed:
            console.warn(f"  {line}")
        if len(listed) < len(report.skipped):
            console.warn(f"  … and {len(report.skipped) - len(listed)} more (all with --verbose)")
