"""What a command reads must outlive what it writes: decided by the file that a name leads to, not by the name.

Symbolic links, hard links, other spellings of a path and case-insensitive file systems all lead to one file, which the
system numbers (device and inode).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mpirecon.errors import UserError


class Input(NamedTuple):
    """A file that a command reads: what it is, in words, and where."""

    what: str
    path: str | os.PathLike


def given(**files: str | os.PathLike | None) -> list[Input]:
    """Inputs of a command by what they are, ``given(mask=path)``; those that are None are left out."""
    return [Input(what.replace("_", " "), path) for what, path in files.items() if path is not None]


def number_of(path: str | os.PathLike) -> tuple[int, int] | None:
    """(device, inode) of the file that a path leads to; None where it leads to none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def inputs_among(targets: Iterable[str | os.PathLike], inputs: Iterable[Input]) -> dict[Path, Input]:
    """Those of the targets that are the same file as an input, and which."""
    existing: dict[tuple[int, int], list[Path]] = {}
    for target in targets:
        if (number := number_of(target)) is not None:
            existing.setdefault(number, []).append(Path(target))
    if not existing:  # the usual case: nothing is there, and of a thousand stacks none need be looked up
        return {}
    met: dict[Path, Input] = {}  # by what it was called first
    for read in inputs:
        for target in existing.get(number_of(read.path), []):
            met.setdefault(target, read)
    return met


def refuse_inputs(targets: Sequence[str | os.PathLike], inputs: Iterable[Input]) -> None:
    """Raise UserError where writing one of `targets` would replace a file that the command reads, by whatever name."""
    for target, read in inputs_among(targets, inputs).items():
        also = "" if os.fspath(read.path) == os.fspath(target) else f" ({read.path})"
        raise UserError(f"{target} is the {read.what}{also} that this command reads, and would replace what it is made "
                        "from; choose another name to write")


def refuse_twice(targets: Sequence[str | os.PathLike | None]) -> None:
    """Raise UserError where two of a command's outputs have one name; None are those not asked for."""
    seen: dict[Path, str | os.PathLike] = {}
    for target in (target for target in targets if target is not None):
        place = Path(target).resolve()
        if place in seen:
            raise UserError(f"{seen[place]} and {target} name the same file to write; each output needs its own")
        seen[place] = target
