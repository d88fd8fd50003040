"""What no command replaces, whatever --overwrite says: files of another kind than it writes, and those of a finished
run."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.run_kinds import KINDS

#: kinds of files that show in their first bytes, in words
HDF5, MRC, NUMPY = "an HDF5 file (particles, or a part of a run)", "a map or stack (MRC)", "an array (.cs, .npy)"
JSON, STAR, PAGE, PICTURE = "a JSON file", "a STAR file", "a page (HTML)", "a picture"
#: of MRC files, where one does not replace the other: what a map is written as
MAP, STACK = "a map (MRC)", "a stack of images (MRC)"
#: what is written that is none of these
OTHER = "another file"

_STARTS = {b"\x89HDF\r\n\x1a\n": HDF5, b"\x93NUMPY": NUMPY, b"\x89PNG": PICTURE, b"%PDF": PICTURE, b"<svg": PICTURE,
           b"<?xml": PICTURE, b"{": JSON, b"[": JSON, b"<!doctype html": PAGE, b"data_": STAR}
_MAP = slice(208, 212)  # where an MRC file says that it is one
_SPACE_GROUP = slice(88, 92)  # 0 for images


def kind_of(path: str | os.PathLike) -> str:
    """The kind of a file by its first bytes; OTHER where these show none, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return OTHER
    if start[_MAP] == b"MAP ":
        return MRC
    lines = (line for line in start.splitlines() if line.strip() and not line.startswith(b"#"))  # STAR has comments
    text = next(lines, b"").lstrip().lower()
    return next((kind for mark, kind in _STARTS.items() if start.startswith(mark) or text.startswith(mark)), OTHER)


def refuse_other_kind(path: Path, writes: str) -> None:
    """Raise UserError where a file of another kind would be replaced; writes : the kind that is to be written."""
    there = kind_of(path) if path.is_file() else OTHER
    if there == MRC and writes == MAP:
        there = STACK if _is_stack(path) else MAP
    if there not in (OTHER, writes):
        instead = "" if writes == OTHER else f" by {writes}"
        raise UserError(f"{path} is {there}, which is not replaced{instead}, even with --overwrite; choose another "
                        f"name, or remove it first")


def _is_stack(path: Path) -> bool:
    """Whether an MRC file holds images: by its name, or as it is no cube and says that it is no volume."""
    with open(path, "rb") as file:
        start = file.read(92)
    return path.suffix.lower() == ".mrcs" or not (start[:4] == start[4:8] == start[8:12] or any(start[_SPACE_GROUP]))


def refuse_of_run(path: Path, own: Path | None = None) -> None:
    """Raise UserError for a file of a finished run, other than in the folder `own`."""
    if not path.exists() or (own is not None and os.path.samefile(path.parent, own)):
        return
    run = next((kind for kind in KINDS if path.name in kind.files and kind.finished_in(path.parent)), None)
    if run is not None:
        raise UserError(f"{path} belongs to the finished {run.name} in {path.parent}, and is not replaced, even "
                        f"with --overwrite; choose another name, or another folder")
