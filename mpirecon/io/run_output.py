"""The files of a finished run (io.run_folder moves them to their place). Each is written under a temporary name.

summary.json comes last: a folder without it is not a finished run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, write_failed
from mpirecon.io.file_names import as_file_name
from mpirecon.io.hdf5 import attributes_of, create_hdf5, open_hdf5, put_attributes, read_all, reading, store_checked
from mpirecon.io.inputs import Input
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_kinds import KINDS, LINKED, NULL, PATH, RECONSTRUCTION
from mpirecon.io.run_kinds import Kind as RunKind
from mpirecon.io.run_summary import ANY, check_summary
from mpirecon.io.unfinished import state_of

FORMAT = "mpirecon-run-particles"


def write_particle_table(path: Path, columns: dict[str, np.ndarray], attributes: dict) -> None:
    """particles.h5 of a run: one dataset per column, one row per input particle. Raises UserError when it cannot."""
    with atomic_path(path, overwrite=True) as temporary:
        try:
            with create_hdf5(temporary) as file:
                put_attributes(file, {"format": FORMAT, "version": 1, **attributes})
                for name, values in columns.items():
                    store_checked(file, name, values)
                file.flush()
        except (OSError, RuntimeError) as error:
            raise write_failed(path, error) from error


def read_particle_table(path: str | os.PathLike, of: ParticleFile | None = None) -> dict[str, np.ndarray]:
    """The columns of a run's particles.h5. Raises UserError when it is not one, or not `of` the images of a file, whose
    poses may be others."""
    path = Path(path)
    with open_hdf5(path, "particle table of a run") as file:
        form = attributes_of(file, path).get("format")
        if form != FORMAT:
            raise UserError(f"{path}: not the particle table of a run (format {form!r})")
        about = attributes_of(file, path)
        if of is not None and other_particles(of, {"images": about.get("images")}) is not None:
            raise UserError(f"{path} is of a run of other particles, those of {about.get('particles')}: the images of "
                            f"{of.path} are others. A table by uid or rlnImageName finds particles in any file")
        with reading(path, "a column"):
            return {name: read_all(file[name]) for name in file}


def took_part(table: dict[str, np.ndarray]) -> np.ndarray:
    """(m,) bool of a run's particle table: whose images were not skipped, and which were given a weight above 0."""
    given_weight = table.get("given_weight")
    return ~table["skipped"] if given_weight is None else ~table["skipped"] & (given_weight > 0)


def files_read(folder: str | os.PathLike) -> Iterator[Input]:
    """The files of a run, of which a command that reads it must replace none;
    what else lies in its folder is not read."""
    folder = Path(folder)
    names = dict.fromkeys(name for kind in KINDS for name in kind.files)
    for path in (*(folder / name for name in names), *sorted(folder.glob("logs/rank*.jsonl"))):
        yield Input(f"{path.name} of the run", path)


def open_particles(folder: Path, summary: dict, given: Path | None = None) -> ParticleFile:
    """The particle file of the run: `given`, or the one that the summary names, checked against it."""
    about = summary.get("particles") or {}
    name = about.get("file")
    if given is None and not name:
        raise UserError(f"{folder}/summary.json does not name the run's particle file; give it with --particles FILE")
    name = as_file_name(str(name))
    candidates = [Path(given)] if given is not None else places_of(folder, summary, name)
    if given is None and Path(name).name == LINKED:  # the run's own, wherever its folder is now
        candidates.append(folder / LINKED)
    refused = None
    for found in filter(Path.is_file, candidates):
        try:
            file = ParticleFile(found)
            refuse_other_particles(file, about, folder)
            return file
        except UserError as error:
            refused = refused or error
    raise refused or UserError(f"the particle file of this run, {name if given is None else given}, does not exist; "
                               "was it moved? Give it with --particles FILE")


def places_of(folder: Path, summary: Mapping, name: str) -> list[Path]:
    """Where a file can be that a run names: from the folder that it was started in, moved together with the run, or
    from here."""
    starts = [Path(str(start)) for start in (summary.get("folder"),) if start]
    starts += [folder.resolve().parent, folder.parent, Path()]
    return list(dict.fromkeys(start / name for start in starts))


def refuse_other_particles(file: ParticleFile, about: Mapping, folder: str | os.PathLike) -> None:
    """Raise UserError, and close the file, where it is not that of a run, of which its summary says this `about` the
    particles; runs of before their rows and images were known say nothing of these."""
    try:
        for what, has in (("count", len(file)), ("box", file.box), ("pixel_size", file.pixel_size)):
            if about.get(what) not in (None, has):
                raise UserError(f"{file.path} is not the particle file of the run in {folder}: its {what} is {has}, "
                                f"the run's {about[what]}; give the right one with --particles FILE")
        what = other_particles(file, about)
        if what is not None:
            raise UserError(f"{file.path} is not the particle file of the run in {folder}, or was written anew since: "
                            f"its {what} are others. Give the right one with --particles FILE, or run mpirecon "
                            "reconstruct again")
    except UserError:
        file.close()
        raise


def other_particles(file: ParticleFile, about: Mapping) -> str | None:
    """What of a particle file is not what was written down of it, ``ParticleFile.identity``; None where all is."""
    for name, what in (("rows", "half sets, poses or CTFs"), ("images", "images")):
        with suppress(UserError):  # stacks that are gone: tables are read without them
            if about.get(name) and file.identity([name])[name] != about[name]:
                return what
    return None


def write_summary(path: Path, summary: dict, earlier: Iterable[str] = ()) -> None:
    """summary.json, the last file of a run: with ``files``, the names of all that are there, and of those that the run
    left `earlier`; numbers that JSON cannot hold (NaN …) become null."""
    files = sorted({entry.name for entry in path.parent.iterdir() if entry.is_file() and not entry.name.startswith(".")}
                   | {path.name, *earlier})
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(_plain({**summary, "files": files}), indent=2, allow_nan=False) + "\n")


def read_summary(folder: str | os.PathLike, marker: str = "summary.json", needs: Sequence[str] = ANY,
                 kind: RunKind | None = None) -> dict:
    """summary.json of a finished run, or what else a kind of run ends with.

    needs : fields that there must be, as those of ``run_summary``
    kind : RECONSTRUCTION or PATH, where only such a run will do

    Raises UserError when the folder holds none, and naming the field that is missing or is not what it must be.
    """
    path = Path(folder) / marker
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: {'a file, not a' if Path(folder).exists() else 'no such'} folder; name the one "
                        f"that reconstruct -o wrote")
    if not path.is_file():
        if (state := state_of(Path(folder))) is not None:
            raise UserError(state)
        other = next((other for other in KINDS if other.finished_in(Path(folder))), None)
        if other is not None:
            how = {NULL.name: "NullTest", PATH.name: "SelectionPath"}.get(other.name, "Result")
            raise UserError(f"{folder} holds a {other.name}, so there is no {marker} (in scripts, mpirecon.{how} opens "
                            f"it)")
        raise UserError(f"{folder}: no {marker}, so this is not the folder of a finished run")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path}: not the summary of a run")
    if kind is not None:
        refuse_other_kind(folder, summary, kind)
    if marker == RECONSTRUCTION.marker:
        check_summary(path, summary, needs)
    return summary


def refuse_other_kind(folder: str | os.PathLike, summary: Mapping, kind: RunKind) -> None:
    """Raise UserError where a folder holds a path instead of a reconstruction, or the reverse."""
    if (summary.get("kind") == PATH.kind) == (kind == PATH):
        return
    if kind == PATH:
        raise UserError(f"{folder} holds a reconstruction, not a path (in scripts, mpirecon.Result opens it)")
    raise UserError(f"{folder} holds a path of selections, not a reconstruction (in scripts, mpirecon.SelectionPath "
                    f"opens it)")


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
