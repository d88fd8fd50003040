"""Image names of a STAR file, and where their stacks are on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io import star_scan
from mpirecon.io.file_names import as_file_name
from mpirecon.io.text_column import TextColumn, text_column

_PARENTS = 3  # a STAR file is at most this deep in its RELION project, which its paths start from


def parse_image_names(names: pd.Series, path: str | os.PathLike = "") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Split ``000012@folder/stack.mrcs`` names; a name without @ is the first image of its file.

    A format that RELION is told, as in ``stack.mrc:mrcs``, is dropped.

    Parameters
    ----------
    names : (m,) text, indexed by line number
    path : the STAR file, for messages

    Returns
    -------
    image : (m,) int64, 0-based section
    stack : (m,) int64, index into stacks
    stacks : the different paths, in order of appearance
    """
    column = text_column(names)
    number, letters = np.empty(len(names), np.int64), np.zeros_like(column.letters)
    bad = star_scan.split_image_names(column.letters, number, letters)
    if bad >= 0:
        raise UserError(
            f"{path}, line {names.index[bad]}: image name {names.iloc[bad]!r}, expected NUMBER@STACK with a number from 1"
        )
    paths = TextColumn(letters.view(column.cells.dtype)[:, 0])
    stack, first = paths.codes()
    return number - 1, stack, list(paths[first])


def locate_stacks(
    stacks: Sequence[str],
    star: str | os.PathLike,
    lines: Sequence[int],
    *,
    data_dir: str | os.PathLike | None = None,
    mapping: Mapping[str, str | os.PathLike] | None = None,
    unit: str = "line",
) -> tuple[list[Path], list[str]]:
    """Find the file of each stack path.

    Tried in order: `mapping` (by the path as written, or its last part); the path as it is or relative to the STAR
    file's folder; relative to data_dir; relative to the folders above the STAR file (RELION writes paths from its
    project folder); the last part in data_dir; the last part beside the STAR file.

    Parameters
    ----------
    stacks : paths as written
    lines : line of the STAR file (or row of the .cs file: `unit`) where each occurs first, for messages

    Returns
    -------
    paths : one per stack
    notes : one sentence when files were found elsewhere than relative to the STAR file

    Raises
    ------
    UserError
        when a stack is not found, a mapping matches nothing, or two stacks of one name but of different folders
        would become the same file.
    """
    mapping, stacks = dict(mapping or {}), [as_file_name(stack) for stack in stacks]
    _refuse_unused(mapping, stacks)
    folder = Path(star).resolve().parent
    found, guessed, missing = [], [], []
    for stack in stacks:
        mapped = mapping.get(stack, mapping.get(Path(stack).name))
        candidates = [(Path(mapped), False)] if mapped is not None else _candidates(stack, folder, data_dir)
        path, guess = next(((p, g) for p, g in candidates if p.is_file()), (None, False))
        found.append(path)
        if path is None:
            missing.append(len(found) - 1)
        elif guess or mapped is not None:
            guessed.append(len(found) - 1)
    if missing:
        raise UserError(_missing_message(stacks, star, lines, missing, mapping, data_dir, unit))
    _refuse_collisions(stacks, found, star, lines, unit)
    notes = []
    if guessed:
        more = f" (and {len(guessed) - 1} more alike)" if len(guessed) > 1 else ""
        notes.append(f"image paths were mapped: {stacks[guessed[0]]} is read from {found[guessed[0]]}{more}")
    return found, notes


def _candidates(stack: str, folder: Path, data_dir) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is a guess that the user should hear about)."""
    yield folder / stack, False  # an absolute path stays what it is
    name = Path(stack).name
    if data_dir is not None:
        yield Path(data_dir) / stack.lstrip("/"), True
    for parent in list(folder.parents)[:_PARENTS]:
        yield parent / stack, False
    if data_dir is not None:
        yield Path(data_dir) / name, True
    yield folder / name, True


def _refuse_unused(mapping: Mapping, stacks: Sequence[str]) -> None:
    known = set(stacks) | {Path(stack).name for stack in stacks}
    unused = [old for old in mapping if old not in known]
    if unused:
        raise UserError(f"no image is in a stack {unused[0]!r} that could be mapped; the first stack is {stacks[0]!r}")


def _refuse_collisions(stacks: Sequence[str], found: Sequence[Path], star, lines, unit: str) -> None:
    """Two stacks that become one file would silently pair images with the poses of others."""
    seen: dict[Path, int] = {}
    for i, path in enumerate(found):
        path = path.resolve()
        if path in seen and os.path.normpath(stacks[i]) != os.path.normpath(stacks[seen[path]]):
            raise UserError(
                f"{star}, {unit}s {lines[seen[path]]} and {lines[i]}: the stacks {stacks[seen[path]]} and "
                f"{stacks[i]} would "
                f"both be read from {path}; name each with --map-stack OLD=NEW, or give the folder that holds "
                "both paths "
                "with --data-dir"
            )
        seen.setdefault(path, i)


def _missing_message(stacks, star, lines, missing: list[int], mapping, data_dir, unit) -> str:
    stack = stacks[missing[0]]
    if stack in mapping or Path(stack).name in mapping:
        return f"there is no file {mapping.get(stack, mapping.get(Path(stack).name))} (mapped from {stack})"
    more = f" ({len(missing)} of {len(stacks)} stacks are missing)" if len(stacks) > 1 else ""
    where = f" or --data-dir {data_dir}" if data_dir is not None else ""
    return (
        f"{star}, {unit} {lines[missing[0]]}: the stack {stack} is not there, neither relative to the "
        f"{'STAR' if unit == 'line' else '.cs'} file{where} nor beside it{more}; give its folder with --data-dir, or "
        "the file itself with --map-stack OLD=NEW or --stack FILE"
    )
