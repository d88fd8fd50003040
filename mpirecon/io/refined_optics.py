"""The particles of a particle file as a STAR file whose optics groups have other aberrations than they were imported
with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.export_found import found_poses, put_found_poses
from mpirecon.io.export_tables import put, tables_of_all, text
from mpirecon.io.formats import check_ending
from mpirecon.io.optics_table import TILT
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.stack_contrast import contrast_warning, refuse_rescaled
from mpirecon.io.star_columns import particle_block
from mpirecon.io.star import write_star
from mpirecon.model.aberrations import Aberrations


def check_refined(path: Path, file: ParticleFile, overwrite: bool) -> list[str]:
    """Raise UserError where `write_refined` could not do its work: before hours of other work are spent on it.
    Returns warnings."""
    source, tables = file.source()
    refuse_existing(path, overwrite, (*file.inputs(), *file.origins()))
    check_ending("--star", path)
    arrays = file.source_arrays()
    if not tables and not arrays:
        raise UserError(f"{path}: the particles of {file.path} were not imported, so that no STAR file can name their "
                        f"images")
    if tables:
        _optics_of(tables, source)
    refuse_rescaled(file, path)
    remedy = ("mpirecon export OUT --star FILE.star --stack FILE.mrcs writes the run's images with protein bright, to "
              "be imported first")
    return list(filter(None, [contrast_warning(file, np.ones(len(file), bool), path, remedy)]))


def write_refined(
    path: Path, file: ParticleFile, aberrations: Aberrations, run: Mapping[str, np.ndarray], overwrite: bool
) -> int:
    """All particles as they were imported, in their order, with these aberrations in the optics table and the poses
    that the run found; returns the number of these.

    Beam tilt is among the odd coefficients, and has no columns of its own, not even of zeros: RELION would put these in
    place of the coma. Particles of a .cs file get RELION 3.1's tables.

    run : the table of particles of a run
    """
    source = file.source()[0]
    tables, particles = tables_of_all(file)
    optics = _optics_of(tables, source)
    pose, found = found_poses(run)
    if len(found):
        put_found_poses(tables[particles], file, pose, found)
    rows = aberrations.rows(np.array([int(group) for group in optics["rlnOpticsGroup"]]))
    for label in TILT:
        if label in optics:
            del optics[label]
    for label, values in (("rlnOddZernike", aberrations.odd[rows]), ("rlnEvenZernike", aberrations.even[rows])):
        if values.any() or label in optics:
            put(optics, label, ["[" + ",".join(text(row)) + "]" for row in values])
    write_star(path, tables, overwrite)
    return len(found)


def _optics_of(tables: dict[str, pd.DataFrame], source: str) -> pd.DataFrame:
    particles = particle_block(Path(source), tables)
    for name, table in tables.items():
        if name != particles and "rlnOpticsGroup" in table:
            return table
    raise UserError(f"{source} has no table of optics groups (RELION 3.1 and later), which could hold aberrations; "
                    "convert it with RELION first")
