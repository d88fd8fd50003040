"""Imports by the command, as the tests of several formats make them."""

from __future__ import annotations

import re

import mrcfile
import numpy as np
import pandas as pd
from click.testing import CliRunner

from mpirecon.cli.import_ import command
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star


def run(table, *args, output=None):
    """Import by the command; returns (ParticleFile, what was printed)."""
    output = output or table.parent / "out.h5"
    result = CliRunner().invoke(command, [str(table), "-o", str(output), *map(str, args)])
    if result.exception:
        raise result.exception
    return ParticleFile(output), result.output


N = 6

OPTICS = {"rlnOpticsGroup": [1], "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
          "rlnImagePixelSize": [2.5], "rlnImageSize": [N]}


def table(m=8, **columns) -> pd.DataFrame:
    """A RELION 3.1 particle table in which every number tells the row."""
    row = np.arange(m)
    values = {
        "rlnImageName": [f"{i + 1:06d}@stacks/a.mrcs" for i in row],
        "rlnAngleRot": 10.0 * row, "rlnAngleTilt": 20.0 + row, "rlnAnglePsi": -30.0 - row,
        "rlnOriginXAngst": 0.5 * row, "rlnOriginYAngst": -1.0 * row,
        "rlnDefocusU": 10000.0 + row, "rlnDefocusV": 9000.0 + row, "rlnDefocusAngle": 45.0 + row,
        "rlnOpticsGroup": np.ones(m, int), "rlnRandomSubset": 1 + row % 2,
    }
    values.update(columns)
    return pd.DataFrame({label: column for label, column in values.items() if column is not None})


def pixels(tags, dtype="f4") -> np.ndarray:
    """Images whose first pixel is their tag."""
    images = np.random.default_rng(5).integers(0, 50, (len(tags), N, N)).astype(dtype)
    images[:, 0, 0] = tags
    return images


def save_stack(path, images):
    path.parent.mkdir(exist_ok=True, parents=True)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
    return path


def make(tmp_path, particles=None, optics=OPTICS, stacks=None, name="p.star"):
    """A STAR file and its stacks; returns the STAR file."""
    particles = table() if particles is None else particles
    for stack, images in ({"stacks/a.mrcs": pixels(range(len(particles)))} if stacks is None else stacks).items():
        save_stack(tmp_path / stack, images)
    blocks = {"particles": particles} if optics is None else {"optics": pd.DataFrame(optics), "particles": particles}
    write_star(tmp_path / name, blocks, overwrite=True)
    return tmp_path / name


def refused(star, message, *args):
    """The import must fail with a UserError that matches, and leave no output."""
    before = sorted(star.parent.rglob("*"))
    output = star.parent / "refused.h5"
    result = CliRunner().invoke(command, [str(star), "-o", str(output), *map(str, args)])
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    assert re.search(message, str(result.exception)), str(result.exception)
    assert sorted(star.parent.rglob("*")) == before
    return str(result.exception)


def line_of(star, text) -> int:
    return next(i for i, line in enumerate(star.read_text().split("\n"), 1) if text in line)
