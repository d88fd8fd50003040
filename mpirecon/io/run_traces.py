"""Which files of an output folder earlier runs left, by what these say themselves; all others are somebody's own.

A finished run lists its files in its marker. One that has not finished has a checkpoint or logs, and keeps what it has
written in ``OUT/unfinished/``. Names alone say nothing: a mask.mrc may come from anywhere.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io import checkpoint, particle_layout
from mpirecon.io.hdf5 import attributes_of, open_hdf5
from mpirecon.io.run_kinds import CHECKPOINT, LINKED, PATH, RECONSTRUCTION, Kind
from mpirecon.io.unfinished import UNFINISHED, ended_well

#: in OUT/unfinished/: what an earlier run left in OUT, as of its marker, while that is replaced, or is missing
REPLACED = "replaced.json"

#: how every line of a rank's log begins
_LOG = b'{"event":'


def listed_in(marker: Path, kind: Kind) -> list[str] | None:
    """The files that a run says it left, in its marker; None where it does not say."""
    try:
        names = list(json.loads(marker.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in kind.files if name in names]


def left_in(folder: Path, kind: Kind) -> set[str]:
    """Names of the files that a finished run of a kind left in a folder, whole or in the midst of being replaced."""
    staging = folder / UNFINISHED
    lists = [listed_in(marker, kind) for marker in (folder / kind.marker, staging / REPLACED, staging / kind.marker)]
    names = {name for found in lists if found is not None for name in found}
    if not names and ended_well(folder / "logs" / "rank0000.jsonl"):  # it lost its marker: its names must do
        names = set(kind.files)
    if _format_of(folder / "particles.h5") == particle_layout.FORMAT:  # of an import, which no run writes
        names.discard("particles.h5")
    return names


def foreign_files(folder: Path, kind: Kind) -> list[Path]:
    """The files that a run of a kind would replace or take away, and that no run of that kind left there."""
    left, staging = left_in(folder, kind), folder / UNFINISHED
    found = [folder / name for name in kind.files if name not in (*left, CHECKPOINT)]
    begun = _has_begun(folder, kind)
    if not begun:
        found += [staging / name for name in (*kind.files, REPLACED) if name != LINKED]  # a table may just be linked
    form = _format_of(folder / CHECKPOINT)
    if form != checkpoint.FORMAT and (form is not None or not begun):  # a damaged one is beside the logs of its run
        found.append(folder / CHECKPOINT)
    if not left:
        found += [log for logs in (folder / "logs", staging / "logs") for log in sorted(logs.glob("rank*.jsonl"))
                  if not _is_log(log)]
    return [path for path in found if os.path.lexists(path) and (path.is_symlink() or path.stat().st_size)]


def kind_of_unfinished(folder: Path) -> Kind | None:
    """The kind of run whose checkpoint is in a folder; None where that does not say."""
    try:
        with checkpoint.Checkpoint(folder / CHECKPOINT) as found:
            return PATH if found.facts.get("kind") == PATH.kind else RECONSTRUCTION
    except UserError:
        return None


def _has_begun(folder: Path, kind: Kind) -> bool:
    """Whether a run began in a folder that has not finished, or not put its results in their place: beside a finished
    one it has its logs in unfinished/."""
    staging = folder / UNFINISHED
    return (_format_of(folder / CHECKPOINT) == checkpoint.FORMAT or any(staging.glob("logs*/rank*.jsonl"))
            or (not kind.finished_in(folder) and any(folder.glob("logs/rank*.jsonl")))
            or any(listed_in(staging / name, kind) is not None for name in (kind.marker, REPLACED)))


def _is_log(path: Path) -> bool:
    """Whether a file is a rank's log, one that was begun, or no file that keeps what is written (such as /dev/full)."""
    if not path.is_file():
        return True
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(len(_LOG))
        return len(head) < len(_LOG) or head == _LOG
    return False


def _format_of(path: Path) -> str | None:
    """What an HDF5 file says it is, "" where it does not; None where it cannot be read."""
    if not path.is_file():
        return None
    try:
        with open_hdf5(path, "file of a run") as file:
            return str(attributes_of(file, path).get("format", ""))
    except UserError:
        return None
