"""The files of a run that its report is made of."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map
from mpirecon.io.run_output import read_particle_table
from mpirecon.io.timeline import read_timelines

#: maps that are shown, first the one that is always there
MAPS = ("volume", "half1", "half2", "sharpened", "discarded")

#: maps of the local resolution, where it was found
LOCAL = ("locres", "locres_filtered")


@dataclass(frozen=True)
class RunFiles:
    """What the page is made of, read from the run's folder.

    folder : where the run is
    summary : summary.json
    curves : column of fsc.csv → (box // 2 + 1,)
    table : columns of particles.h5
    maps : name → (n, n, n), those of MAPS that are there
    detection, views : columns of their tables, None where there is none
    timelines : rank → what it did when
    local : those of LOCAL, where they and their summary are there
    """

    folder: Path
    summary: dict
    curves: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    detection: dict[str, np.ndarray] | None = None
    views: dict[str, np.ndarray] | None = None
    timelines: dict[int, dict] = field(default_factory=dict)
    local: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.name


def read_run_files(
    folder: Path, summary: dict, maps: dict[str, np.ndarray] | None = None, place: Path | None = None,
    logs: Path | None = None, table: dict[str, np.ndarray] | None = None,
) -> RunFiles:
    """Read what a report needs; UserError naming the file that is missing or wrong.

    maps : by name, of the folder's, that need not be read because they are still in memory
    table : columns of particles.h5, if they are still in memory
    place, logs : where the run's files are to be, and where its ranks' logs are, where that is not the folder (yet)
    """
    maps = maps or {}
    for needed in ("fsc.csv", "particles.h5", "volume.mrc"):
        if not (folder / needed).is_file():
            raise UserError(
                f"{folder}: {needed} is missing; a report needs the folder of a finished run, as reconstruct left it"
            )
    curves = _read_table(folder / "fsc.csv", "FSC curves")
    return RunFiles(
        (place or folder).resolve(), summary,
        {column: values for column, values in curves.items() if column not in ("shell", "resolution")},
        read_particle_table(folder / "particles.h5") if table is None else table,
        {which: maps[which] if which in maps else read_map(folder / f"{which}.mrc").array
         for which in MAPS if (folder / f"{which}.mrc").is_file()},
        *(_read_table(folder / f"{table}.csv") if (folder / f"{table}.csv").is_file() else None
          for table in ("detection", "views")),
        read_timelines(folder, logs=logs), _local(folder, summary, maps),
    )  # fmt: skip


def _local(folder: Path, summary: dict, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The maps of the local resolution; none where any of them, or what was found, is not there."""
    if not summary.get("local_resolution") or not all(
        name in maps or (folder / f"{name}.mrc").is_file() for name in LOCAL
    ):
        return {}
    return {name: maps[name] if name in maps else read_map(folder / f"{name}.mrc").array for name in LOCAL}


def _read_table(path: Path, what: str = "curves") -> dict[str, np.ndarray]:
    """Columns of a table of numbers."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    except (IndexError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a table of {what} as reconstruct writes it") from error
