"""Numbers by particle (scores, weights …) as tables: CSV, and the imported STAR or .cs table with a column for each."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.io.cs_file import with_columns
from mpirecon.io.file_names import UNCHANGED
from mpirecon.io.export_tables import put, tables_of_all, text
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_identity import image_names, uids
from mpirecon.io.stack_contrast import contrast_warning, refuse_rescaled
from mpirecon.io.star import write_star


def identities(file: ParticleFile) -> dict[str, np.ndarray]:
    """Columns that identify the particles of a file:
    ``uid`` and ``rlnImageName``, as far as the imported table has them."""
    known = {"uid": uids(file), "rlnImageName": image_names(file)}
    return {name: values for name, values in known.items() if values is not None}


def check_tables(file: ParticleFile, star: Path | None, cs: Path | None) -> list[str]:
    """Raise UserError where `write_star_scores` or `write_cs_scores` could not do its work:
    before other work is spent on it. Returns warnings."""
    if cs is not None and "particles" not in file.source_arrays():
        raise UserError(f"{cs}: the particles of {file.path} did not come from a .cs file; write --star")
    if star is None:
        return []
    refuse_rescaled(file, star)
    try:
        tables_of_all(file)
    except UserError as error:
        raise UserError(f"{star}: {error}") from error
    remedy = ("Write --cs instead" if "particles" in file.source_arrays() else
              "mpirecon export OUT --star FILE.star --stack FILE.mrcs writes those of a run bright")
    return list(filter(None, [contrast_warning(file, np.ones(len(file), bool), star, remedy)]))


def write_csv(path: Path, columns: dict[str, np.ndarray], overwrite: bool) -> None:
    """A line for each particle; NaN is left blank."""
    cells = [[cell.replace("nan", "") for cell in text(v)] if v.dtype.kind == "f" else v.tolist() if v.dtype.kind == "O"
             else text(v)
             for v in columns.values()]
    with atomic_path(path, overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8",
                                                              errors=UNCHANGED) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells))


def label_of(name: str) -> str:
    """``score_own`` → ``mpireconScoreOwn``."""
    return "mpirecon" + "".join(word.capitalize() for word in name.split("_"))


def write_star_scores(path: Path, file: ParticleFile, columns: dict[str, np.ndarray], overwrite: bool) -> None:
    """All particles as they were imported, in their order, with these columns (m,) at the end,
    named as `label_of` has it."""
    tables, block = tables_of_all(file)
    for name, values in columns.items():
        put(tables[block], label_of(name), text(values, 9))
    write_star(path, tables, overwrite)


def write_cs_scores(path: Path, file: ParticleFile, columns: dict[str, np.ndarray], overwrite: bool) -> None:
    """The imported .cs array, bit for bit, with these columns (m,) as ``mpirecon/…``, float32."""
    array = with_columns(
        file.source_arrays()["particles"], {f"mpirecon/{name}": v.astype("f4") for name, v in columns.items()}
    )
    with atomic_path(path, overwrite) as temporary, open(temporary, "wb") as target:
        np.save(target, array)
