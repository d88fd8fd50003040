"""Image names of a STAR file, and where their stacks are on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io import star_scan
from mpirecon.io.file_names import as_file_name
from mpirecon.io.text_column import TextColumn, text_column


def parse_image_names(names: pd.Series, path: str | os.PathLike = "") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Split ``000012@folder/stack.mrcs`` names; a name without @ is the first image of its file.

    A format that is named for RELION, as in ``stack.mrc:mrcs``, is dropped.

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
            f"{path}, line {names.index[bad]}: image name {names.iloc[bad]!r}, expected NUMBER@STACK with a number "
            f"from 1"
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
    project folder) and to the working folder (which RELION resolves them from); the last part in data_dir; the last
    part beside the STAR file.

    Parameters
    ----------
    stacks : paths as written
    lines : line of the STAR file (or row of the .cs file: `unit`) where each occurs first, for messages

    Returns
    -------
    paths : one per stack; several may be one file, under other spellings or by links
    notes : sentences, when files were found elsewhere than relative to the STAR file, or where there are two of one
        name

    Raises
    ------
    UserError
        when a stack is not found, a mapping matches nothing, or two stacks of different names would become the same
        file by their last part alone.
    """
    mapping, stacks = dict(mapping or {}), [as_file_name(stack) for stack in stacks]
    _refuse_unused(mapping, stacks)
    folder = Path(star).resolve().parent
    found, guessed, by_name, missing = [], [], set(), []
    for stack in stacks:
        if stack in mapping:
            candidates = [_Candidate(Path(mapping[stack]), guess=True)]
        elif Path(stack).name in mapping:
            candidates = [_Candidate(Path(mapping[Path(stack).name]), guess=True, last_part=True)]
        else:
            candidates = _candidates(stack, folder, data_dir)
        place = next((c for c in candidates if os.path.isfile(c.path)), None)
        found.append(None if place is None else place.path)
        if place is None:
            missing.append(len(found) - 1)
            continue
        if place.guess:
            guessed.append(len(found) - 1)
        if place.last_part:
            by_name.add(len(found) - 1)
    if missing:
        raise UserError(_missing_message(stacks, star, lines, missing, mapping, data_dir, unit))
    _refuse_collisions(stacks, found, by_name, star, lines, unit)
    notes = _twins(stacks, found, mapping)
    if guessed:
        more = f" (and {len(guessed) - 1} more alike)" if len(guessed) > 1 else ""
        notes.append(f"image paths were mapped: {stacks[guessed[0]]} is read from {found[guessed[0]]}{more}")
    return found, notes


def same_files(named: Mapping[str, Path | None]) -> dict[str, int]:
    """A number from 1 for each stack name: names of one file (by device and inode: links, other spellings) share it.

    Names whose file is not there (None) are distinguished by their text, less ``.`` and ``//``; one that is spelled as
    one that is there is that.
    """
    numbers: dict[object, int] = {}
    out: dict[str, int] = {}
    for name, path in named.items():
        if path is not None:
            found = os.stat(path)
            out[name] = numbers.setdefault((found.st_dev, found.st_ino), len(numbers) + 1)
            numbers.setdefault(plain_path(name), out[name])
    for name in named:
        if name not in out:
            out[name] = numbers.setdefault(plain_path(name), 1 + max(numbers.values(), default=0))
    return out


def find_stacks(
    stacks: Sequence[str], star: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> dict[str, Path | None]:
    """The file of each path as written, where it is found without a guess by its last part alone; else None."""
    folder, found = Path(star).resolve().parent, {}
    places: dict[str, list[Path]] = {}  # there may be thousands of stacks, in few folders
    for stack in stacks:
        parent, name = os.path.split(stack)
        if parent not in places:
            candidates = _candidates(parent or ".", folder, data_dir)
            places[parent] = [c.path for c in candidates if not c.last_part and os.path.isdir(c.path)]
        found[stack] = next((place / name for place in places[parent] if os.path.isfile(place / name)), None)
    return found


def plain_path(stack: str) -> str:
    """A path as written without ``.``, ``//`` and the ``>`` of cryoSPARC's exports."""
    return os.path.normpath(stack.lstrip(">"))


class _Candidate(NamedTuple):
    """A place where a stack may be; guess : the user should be warned of it;
    last_part : its folder was not searched."""

    path: Path
    guess: bool = False
    last_part: bool = False


def _candidates(stack: str, folder: Path, data_dir) -> Iterator[_Candidate]:
    yield _Candidate(folder / stack)  # an absolute path stays what it is
    name = Path(stack).name
    if data_dir is not None:
        yield _Candidate(Path(data_dir) / stack.lstrip("/"), guess=True)
    if not os.path.isabs(stack):
        for parent in (*folder.parents, Path.cwd()):
            yield _Candidate(parent / stack)
    if data_dir is not None:
        yield _Candidate(Path(data_dir) / name, guess=True, last_part=True)
    yield _Candidate(folder / name, guess=True, last_part=True)


def _twins(stacks: Sequence[str], found: Sequence[Path], mapping: Mapping) -> list[str]:
    """A note where the working folder has another file by the path that is written: RELION would read that one.

    One stack of each folder is tried, for there may be thousands.
    """
    seen: set[str] = set()
    for stack, path in zip(stacks, found):
        parent = os.path.dirname(stack)
        if parent in seen or os.path.isabs(stack) or stack in mapping or Path(stack).name in mapping:
            continue
        seen.add(parent)
        here = Path(stack).absolute()
        if os.path.isfile(here) and not os.path.samefile(here, path):
            return [f"{stack} is read from {path}; the working folder has another file of that path, {here}, which "
                    "RELION would read: --map-stack OLD=NEW takes it"]
    return []


def _refuse_unused(mapping: Mapping, stacks: Sequence[str]) -> None:
    known = set(stacks) | {Path(stack).name for stack in stacks}
    unused = [old for old in mapping if old not in known]
    if unused:
        raise UserError(f"no image is in a stack {unused[0]!r} that could be mapped; the first stack is {stacks[0]!r}")


def _refuse_collisions(stacks: Sequence[str], found: Sequence[Path], by_name: set[int], star, lines, unit: str) -> None:
    """Two stacks that become one file by their last part alone would silently pair images with the poses of others."""
    seen: dict[str, int] = {}
    for i, path in enumerate(map(os.path.realpath, found)):
        other = seen.setdefault(path, i)
        one_name = Path(stacks[i]).name == Path(stacks[other]).name
        if one_name and {i, other} & by_name and plain_path(stacks[i]) != plain_path(stacks[other]):
            raise UserError(
                f"{star}, {unit}s {lines[other]} and {lines[i]}: the stacks {stacks[other]} and {stacks[i]} would both "
                f"be read from {path}; name each with --map-stack OLD=NEW, or give the folder that holds both paths "
                "with --data-dir"
            )


def _missing_message(stacks, star, lines, missing: list[int], mapping, data_dir, unit) -> str:
    stack = stacks[missing[0]]
    if stack in mapping or Path(stack).name in mapping:
        return f"there is no file {mapping.get(stack, mapping.get(Path(stack).name))} (mapped from {stack})"
    more = f" ({len(missing)} of {len(stacks)} stacks are missing)" if len(stacks) > 1 else ""
    where = f", --data-dir {data_dir}" if data_dir is not None else ""
    place = f"{star}, {unit} {lines[missing[0]]}: the stack {stack}"
    remedy = "give its folder with --data-dir, or the file itself with --map-stack OLD=NEW or --stack FILE"
    folder = Path(star).resolve().parent
    broken = next((said for c in _candidates(stack, folder, data_dir) if (said := _dangling(c.path)) is not None), None)
    if broken is not None:
        return f"{place} is not there: {broken}{more}; put that back, or {remedy}"
    return (
        f"{place} is not there, neither relative to the {'STAR' if unit == 'line' else '.cs'} file{where}, a folder "
        f"above it or the working folder {Path.cwd()}, nor beside it{more}; {remedy}"
    )


def _dangling(path: Path) -> str | None:
    """What is wrong with the first link on the way to a file, when what it leads to is not there."""
    for part in (*reversed(path.parents), path):
        if os.path.islink(part) and not os.path.exists(part):
            return f"{part} is a link to {os.readlink(part)}, which is not there"
    return None
