"""What a finished run leaves in its folder (DESIGN section 5). Each file is written under a temporary name.

summary.json comes last: a folder without it is not a finished run.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, write_failed
from mpirecon.io.checkpoint import NAME as CHECKPOINT
from mpirecon.io.file_names import as_file_name
from mpirecon.io.hdf5 import attributes_of, create_hdf5, open_hdf5, read_all, reading, store_checked
from mpirecon.io.particle_file import ParticleFile

FORMAT = "mpirecon-run-particles"

#: what an earlier run may have left, and --overwrite removes; nothing else in the folder is touched
_OWN_FILES = (
    "summary.json", "volume.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "fsc.csv", "fsc.png", "slices.png",
    "particles.h5", "report.html", CHECKPOINT, "detection.csv", "discarded.mrc", "null.json", "sharpened.mrc", "views.csv", "fsc.svg",
)  # fmt: skip


def prepare_folder(folder: str | os.PathLike, overwrite: bool, resume: bool = False) -> Path:
    """Make the output folder, or clear an earlier run out of it, or with `resume` leave one that was interrupted.

    Raises UserError when it exists and holds anything, without `overwrite`, cannot be made, or has nothing to resume.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} exists and is not a folder; choose another name for -o")
    if resume and (path / "summary.json").exists():
        raise UserError(f"the run in {path} is finished; there is nothing to resume")
    if resume and (path / CHECKPOINT).exists():
        return path
    # a run that was interrupted before its first checkpoint left its logs at most: begin it again
    begun = resume and path.is_dir() and {entry.name for entry in path.iterdir()} <= {"logs"}
    if path.is_dir() and any(path.iterdir()) and not begun:
        if not overwrite:
            raise UserError(f"the output folder {path} exists and is not empty; choose another, or pass --overwrite")
        for name in _OWN_FILES:
            (path / name).unlink(missing_ok=True)
        for log in (path / "logs").glob("rank*.jsonl"):
            log.unlink()
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(path, error) from error
    return path


def write_particle_table(path: Path, columns: dict[str, np.ndarray], attributes: dict) -> None:
    """particles.h5 of a run: one dataset per column, one row per input particle. Raises UserError when it cannot."""
    with atomic_path(path, overwrite=True) as temporary:
        try:
            with create_hdf5(temporary) as file:
                file.attrs.update({"format": FORMAT, "version": 1, **attributes})
                for name, values in columns.items():
                    store_checked(file, name, values)
                file.flush()
        except (OSError, RuntimeError) as error:
            raise write_failed(path, error) from error


def read_particle_table(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The columns of a run's particles.h5. Raises UserError when it is not one."""
    path = Path(path)
    with open_hdf5(path, "particle table of a run") as file:
        form = attributes_of(file, path).get("format")
        if form != FORMAT:
            raise UserError(f"{path}: not the particle table of a run (format {form!r})")
        with reading(path, "a column"):
            return {name: read_all(file[name]) for name in file}


def open_particles(folder: Path, summary: dict, given: Path | None = None) -> ParticleFile:
    """The particle file of the run: `given`, or the one that the summary names, checked against it."""
    about = summary.get("particles") or {}
    name = about.get("file")
    if given is None and not name:
        raise UserError(f"{folder}/summary.json does not name the run's particle file; give it with --particles FILE")
    name = as_file_name(str(name))
    candidates = [Path(given)] if given is not None else [Path(name), folder.parent / name, folder / name]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise UserError(f"the particle file of this run, {candidates[0]}, is not there; was it moved? Give it with "
                        "--particles FILE")
    file = ParticleFile(found)
    for what, has in (("count", len(file)), ("box", file.box), ("pixel_size", file.pixel_size)):
        if about.get(what) not in (None, has):
            file.close()
            raise UserError(f"{found} is not the particle file of the run in {folder}: its {what} is {has}, the run's "
                            f"{about[what]}; give the right one with --particles FILE")
    return file


def write_summary(path: Path, summary: dict) -> None:
    """summary.json; numbers that JSON cannot hold (NaN, infinity) become null."""
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(_plain(summary), indent=2, allow_nan=False) + "\n")


def read_summary(folder: str | os.PathLike) -> dict:
    """summary.json of a finished run. Raises UserError when the folder holds none."""
    path = Path(folder) / "summary.json"
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: {'a file, not a' if Path(folder).exists() else 'no such'} folder; name the one that reconstruct -o wrote")
    if not path.is_file():
        raise UserError(f"{folder}: no summary.json, so this is not the folder of a finished run")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path}: not the summary of a run")
    return summary


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
