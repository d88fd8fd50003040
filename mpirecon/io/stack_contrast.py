"""What was said of images at their import, and a table that names the original stacks cannot say.

cryoSPARC's files have a sign for each image (blob/sign), a STAR file has none: whoever reads it takes protein for
bright.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpirecon.errors import UserError, option_of
from mpirecon.io.cs_file import read_cs
from mpirecon.io.formats import format_of, is_table
from mpirecon.io.origin_columns import import_options_of
from mpirecon.io.particle_file import ParticleFile

SIGN = "blob/sign"

#: options of import that change what the columns of a table mean, and how they are where they were not given
_READ_WITH = {"pixel_size": None, "voltage": None, "cs": None, "amplitude_contrast": None, "units": {},
              "shift_axes": "x,y", "use_ctf": True, "ctf_premultiplied": None, "ctf_phase_flipped": None,
              "bfactor_sign": "auto", "scale_defocus": False, "ignore_aberrations": False}


def dark_in_stacks(file: ParticleFile) -> np.ndarray:
    """(m,) bool: of which particles protein is dark in the stacks that were imported."""
    black, told = file.attributes["contrast"] == "black", import_options_of(file).get("contrast")
    array = file.source_arrays().get("particles")
    dark = np.full(len(file), black)
    if array is None or SIGN not in (array.dtype.names or ()):
        return dark
    sign = array[SIGN].reshape(len(file)) < 0
    if told is None:  # also where all images of one sign were skipped: the others were negated nevertheless
        return sign
    return sign ^ black if sign.any() and not sign.all() else dark


def contrast_warning(file: ParticleFile, rows: np.ndarray, path: Path, remedy: str) -> str | None:
    """What to say of a STAR file `path` of these rows that names the original stacks; None where all is well.

    remedy : what writes the images with protein bright, in words

    Raises UserError where protein is dark in some of the images and bright in others: they would cancel each other.
    """
    dark = dark_in_stacks(file)[rows]
    _refuse_mixed(dark, path, file.source()[0], remedy)
    if not dark.any():
        return None
    return (f"{path}: protein is dark in the images that it names, which a STAR file cannot say: RELION would make an "
            f"inverted map of them. {remedy}; mpirecon import reads this table with --contrast "
            f"black")


def refuse_mixed_signs(particles: Path, target: Path, remedy: str) -> None:
    """Raise UserError where no STAR file of all these particles, a .cs file or a particle file, can name their images:
    before hours of other work are spent on them; target : the STAR file."""
    if format_of(particles) is not None and format_of(particles).has_sign:
        array = read_cs(particles)
        if SIGN in array.dtype.names:
            _refuse_mixed(array[SIGN].reshape(len(array)) < 0, target, particles, remedy)
    elif not is_table(particles):
        with ParticleFile(particles) as file:
            contrast_warning(file, np.arange(len(file)), target, remedy)


def _refuse_mixed(dark: np.ndarray, path: Path, source: str | Path, remedy: str) -> None:
    if dark.any() and not dark.all():
        raise UserError(f"{path}: protein is dark in the images of {int(dark.sum())} of these {len(dark)} particles "
                        f"and bright in the others ({SIGN} of {source}), which a STAR file cannot say: in RELION's map "
                        f"they would cancel each other. {remedy}")


def refuse_rescaled(file: ParticleFile, path: Path) -> None:
    """Raise UserError for a new STAR file that would give the stacks the pixel size to which their images were brought
    at the import. (A STAR file that was imported is written as it was.)"""
    if rescaled(file) and not file.source()[1]:
        raise UserError(f"{path}: the images of {file.path} were rescaled at import (--rescale), and a STAR file would "
                        f"name the original ones, which have other pixel sizes; write --cs instead, or import without "
                        f"--rescale")


def rescaled(file: ParticleFile) -> bool:
    """Whether the images in the file are not those that its source names."""
    return import_options_of(file).get("rescale") is not None


def untold(file: ParticleFile, contrast: bool = False) -> str | None:
    """Options that the particles were imported with and that their table, written as it was, does not say; None
    without.

    contrast : also --contrast, of a table that names a sign of its own
    """
    told = import_options_of(file)
    words = [option_of(name) for name, usual in _READ_WITH.items() if told.get(name, usual) != usual]
    if contrast and told.get("contrast") is not None:
        words.append("--contrast")
    if not words:
        return None
    return (f"columns are as in {Path(file.source()[0]).name}, without what was said at its import "
            f"({', '.join(words)}): say it to other programs too, and import the new table in the same way")
