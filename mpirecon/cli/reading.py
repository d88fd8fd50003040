"""Options that decide how a table of particles is read, which every command that reads one shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpirecon.cli.options import COUNT, EXISTING_FILE, EXISTING_FOLDER, POSITIVE, Number
from mpirecon.errors import UserError

if TYPE_CHECKING:
    from mpirecon.io.particle_file import ParticleFile


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


class ShiftAxes(click.ParamType):
    """One of reading.SHIFT_AXES."""

    name = "X,Y"

    def convert(self, value, param, ctx):
        from mpirecon.io.reading import SHIFT_AXES  # NumPy is slow to load, and --help needs none

        axes = value.replace(" ", "").lower().replace("−", "-")
        if axes not in SHIFT_AXES:
            self.fail(f"{value!r}: expected one of {' '.join(SHIFT_AXES)}", param, ctx)
        return axes


#: values that say nothing
_DEFAULTS = (("bfactor_sign", "auto"), ("shift_axes", "x,y"), ("use_ctf", True))

#: a command appends these to its params, and gives their values to `reading_of`
READING = [
    click.Option(["--data-dir"], type=EXISTING_FOLDER,
                 help="Folder that the stack paths start from, or that holds the stacks."),
    click.Option(["--stack"], type=EXISTING_FILE, help="All images are in this stack, whatever path the STAR file "
                 "names."),
    click.Option(["--map-stack", "mapping"], type=StackMapping(), multiple=True,
                 help="Read NEW where the STAR file names OLD (a path or its last part); may be repeated."),
    click.Option(["--passthrough"], type=EXISTING_FILE, multiple=True, metavar="FILE.cs",
                 help="Join the columns of this file to those of the .cs file, by uid; may be repeated."),
    click.Option(["--pixel-size"], type=POSITIVE, metavar="Å",
                 help="Pixel size of the images, where the table lacks it or is wrong; shifts keep their length in "
                 "pixels."),
    click.Option(["--scale-defocus"], is_flag=True, help="Defoci were estimated with the table's pixel size: multiply "
                 "them by the square of --pixel-size over it."),
    click.Option(["--voltage"], type=Number(20, 2000), metavar="kV", help="Acceleration voltage, likewise."),
    click.Option(["--cs"], type=Number(-50, 50), metavar="mm", help="Spherical aberration, likewise."),
    click.Option(["--amplitude-contrast"], type=Number(0, 1), metavar="X", help="Amplitude contrast, likewise."),
    click.Option(["--unit", "units"], type=Unit(), multiple=True, metavar="QUANTITY=UNIT",
                 help="Unit of the table's numbers where it is not the format's own: defocus=A|nm|um (with a minus "
                 "where underfocus is negative), angles=degree|radian, defocus-angle=…, phase-shift=…, shift=A|pixel "
                 "or a number of Å (with a minus where the sign is the other), voltage=kV|V, "
                 "amplitude-contrast=fraction|percent; may be repeated."),
    click.Option(["--shift-axes"], type=ShiftAxes(), default="x,y", show_default=True, metavar="X,Y",
                 help="Which of the table's two shifts are x and y in the images: y,x where they are exchanged, x,-y "
                 "where y counts the other way, and so on."),
    click.Option(["--contrast"], type=click.Choice(["white", "black"]),
                 help="Whether protein is bright or dark.  [default: white; of a .cs file what its blob/sign says]"),
    click.Option(["--bfactor-sign"], type=click.Choice(["auto", "relion", "warp"]), default="auto", show_default=True,
                 help="Which B factors of the table let the CTF fall with resolution: positive ones (relion), negative "
                 "ones (warp, where B is −4 times the dose); auto: negative ones where none is positive."),
    click.Option(["--no-ctf", "use_ctf"], is_flag=True, flag_value=False, default=True,
                 help="The images have no CTF: none is applied, and the table needs no CTF columns."),
    click.Option(["--ctf-premultiplied"], is_flag=True, help="The images are multiplied by their CTF, whatever the "
                 "table says."),
    click.Option(["--no-ctf-premultiplied"], is_flag=True, help="They are not, whatever the table says."),
    click.Option(["--ctf-phase-flipped"], is_flag=True, help="The images are multiplied by the sign of their CTF, "
                 "whatever the table says."),
    click.Option(["--no-ctf-phase-flipped"], is_flag=True, help="They are not, whatever the table says."),
    click.Option(["--ignore-aberrations"], is_flag=True,
                 help="Correct for no beam tilt, higher-order aberration or anisotropic magnification, whatever the "
                 "file names."),
    click.Option(["--cs-aberrations"], type=CryosparcAberrations(), metavar="WHICH",
                 help="What of a .cs file's aberrations is corrected for: all (with the signs of cryoSPARC's code), "
                 "csparc2star (beam tilt alone, as that program writes it), none, or terms such as tilt,-trefoil.  "
                 "[default: all]"),
    click.Option(["--select"], type=Selection(), multiple=True, metavar="COLUMN=VALUES",
                 help="Import only rows with one of these VALUES in COLUMN (separated by commas; LOW:HIGH for a range; "
                 "@FILE for a list), or with these row numbers, from 0 (row=…). May be repeated; all conditions must "
                 "hold."),
    click.Option(["--first"], type=COUNT, metavar="N", help="Only the first N rows of those selected."),
    click.Option(["--new-halves"], is_flag=True, help="Draw new half sets with --seed and ignore those of the file; "
                 "rows that show one particle stay together."),
    click.Option(["--family"], multiple=True, metavar="COLUMN|none", help="Rows with the same value in COLUMN show one "
                 "particle, in addition to the known columns; none: only rows with the same image do. May be "
                 "repeated."),
]

#: heading in the help → options
READING_GROUPS = {
    "Where the images are": ("--data-dir", "--stack", "--map-stack", "--passthrough"),
    "What the table lacks or has wrong": ("--pixel-size", "--voltage", "--cs", "--amplitude-contrast", "--contrast",
                                          "--unit", "--shift-axes", "--scale-defocus", "--bfactor-sign",
                                          "--ignore-aberrations", "--cs-aberrations"),
    "What was done to the images": ("--no-ctf", "--ctf-premultiplied", "--no-ctf-premultiplied", "--ctf-phase-flipped",
                                    "--no-ctf-phase-flipped"),
    "Which rows, and half sets": ("--select", "--first", "--new-halves", "--family"),
}


def reading_of(values: dict) -> dict:
    """Take the values of READING out of a command's, and return them as fields of ImportOptions: those that were given.

    Raises UserError where they contradict each other.
    """
    taken = {option.name: values.pop(option.name) for option in READING if option.name in values}
    given = {name: value for name, value in taken.items() if value not in (None, ()) and (name, value) not in _DEFAULTS
             and (value is not False or name == "use_ctf")}
    for state in ("ctf_premultiplied", "ctf_phase_flipped"):
        if (said := _state(state, given.pop(state, False), given.pop(f"no_{state}", False))) is not None:
            given[state] = said
    if "use_ctf" in given and (given.get("ctf_premultiplied") or given.get("ctf_phase_flipped")):
        raise UserError("--no-ctf says that the images have no CTF, which --ctf-premultiplied and --ctf-phase-flipped "
                        "contradict; leave one out")
    if given.get("ctf_premultiplied") and given.get("ctf_phase_flipped"):
        raise UserError("--ctf-premultiplied and --ctf-phase-flipped: after multiplication by the CTF no sign is left "
                        "to flip; leave one out")
    if "scale_defocus" in given and "pixel_size" not in given:
        raise UserError("--scale-defocus scales defoci to the pixel size of --pixel-size; give that too")
    if "cs_aberrations" in given and "ignore_aberrations" in given:
        raise UserError("--cs-aberrations says what is corrected for, and --ignore-aberrations that nothing is; leave "
                        "one out")
    return given | {name: dict(given[name]) for name in ("mapping", "units") if name in given}


@contextmanager
def glance(particles: Path, reading: dict, console=None) -> Iterator[ParticleFile]:
    """A particle file to ask for sizes, or one made of a table for as long; by one rank.
    What the import says goes to the console."""
    from mpirecon.api.options import read_particles
    from mpirecon.io.particle_file import ParticleFile
    from mpirecon.parallel.comm import SerialCommunicator

    held = read_particles(particles, SerialCommunicator(), dict(reading), console)
    with ParticleFile(held.path, shown=particles) as file:
        yield file


def _state(name: str, is_so: bool, is_not: bool) -> bool | None:
    """What a pair of options says; None where neither is given."""
    if is_so and is_not:
        option = name.replace("_", "-")
        raise UserError(f"--{option} and --no-{option} contradict each other; leave one out")
    return True if is_so else False if is_not else None
