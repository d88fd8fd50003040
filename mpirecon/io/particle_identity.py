"""Which particle a row is, by what its program calls it: to find it in another file, whatever row it has there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc import relion_image_names
from mpirecon.io.particle_file import ParticleFile

#: columns of imported tables, and of tables of numbers by particle, that hold cryoSPARC's uid
UID_COLUMNS = ("uid", "mpireconUid")

#: likewise the name of an image, ``000001@stack.mrcs``;
#: an export with a stack of its own keeps the first name in the first of these
IMAGE_COLUMNS = ("rlnImageOriginalName", "rlnImageName", "image")


def uids(file: ParticleFile) -> np.ndarray | None:
    """cryoSPARC's uid of every particle as text, (m,) object; None where the imported table has none."""
    array = file.source_arrays().get("particles")
    if array is not None:
        return _texts(array["uid"].tolist()) if "uid" in array.dtype.names else None
    return _column(file, "mpireconUid")


def image_names(file: ParticleFile) -> np.ndarray | None:
    """``1@folder/stack.mrcs`` of every particle's image, (m,) object; None where none was imported."""
    return next(all_image_names(file), None)


def all_image_names(file: ParticleFile) -> Iterator[np.ndarray]:
    """As `image_names`, by each name that images have, the lasting one first."""
    array = file.source_arrays().get("particles")
    if array is not None:
        yield plain_image_names(relion_image_names(file.path, array))
        return
    for name in IMAGE_COLUMNS[:2]:
        if (names := _column(file, name)) is not None:
            yield plain_image_names(names)


def plain_image_names(names: Iterable[str]) -> np.ndarray:
    """Image names without what spells one image differently: leading zeros, ``./``, and ``:mrcs``; (m,) object."""
    known: dict[str, str] = {}

    def plain(name: str) -> str:
        number, _, stack = str(name).partition("@")
        if stack not in known:
            known[stack] = os.path.normpath(stack.lstrip(">").removesuffix(":mrcs"))
        return f"{number.lstrip('0') or '0'}@{known[stack]}"

    return _texts(plain(name) for name in names)


def occurrences(names: np.ndarray) -> np.ndarray:
    """(m,) int64, how many rows before have the same name: rows of one image are distinguished by their order."""
    return pd.Series(names).groupby(names).cumcount().to_numpy(np.int64)


def _column(file: ParticleFile, name: str) -> np.ndarray | None:
    try:
        return file.source_column(name)
    except UserError:
        return None


def _texts(values: Iterable) -> np.ndarray:
    listed = [str(value) for value in values]
    out = np.empty(len(listed), object)
    out[:] = listed
    return out


@dataclass(frozen=True)
class Matched:
    """Particles that two files have in common.

    first, second : (k,) int64, their rows in either, in the order of the first
    by : how they were identified, in words
    """

    first: np.ndarray
    second: np.ndarray
    by: str


def match_particles(first: ParticleFile, second: ParticleFile) -> Matched | None:
    """Find the particles of one file in another: by cryoSPARC's uid, by the image, or by their row where the files hold
    the same images in the same order. None where neither identifies them."""
    if os.path.samefile(first.path, second.path):
        return same_rows(len(first), "row: both runs are of one particle file")
    for names_of, by in ((uids, "uid"), (image_names, "image name")):
        names = names_of(first), names_of(second)
        if names[0] is not None and names[1] is not None:
            matched = _matched(*names, by)
            if by == "image name" and not len(matched.first):  # of one project seen from another folder
                matched = _matched(*(_without_folders(some) for some in names), "image name, folders aside")
            return matched
    return (
        same_rows(len(first), "row: the files hold the same images in the same order")
        if _same_images(first, second)
        else None
    )


def same_rows(count: int, by: str) -> Matched:
    """Every particle is that of the same row."""
    return Matched(np.arange(count), np.arange(count), by)


def _matched(first: np.ndarray, second: np.ndarray, by: str) -> Matched:
    keys = [pd.MultiIndex.from_arrays([names, occurrences(names)]) for names in (first, second)]
    rows = keys[1].get_indexer(keys[0])
    return Matched(np.flatnonzero(rows >= 0), rows[rows >= 0].astype(np.int64), by)


def stacks_alone(names: np.ndarray) -> np.ndarray:
    """Image names by the stack's own name, without its folder."""
    return _texts(f"{number}@{os.path.basename(stack)}" for number, _, stack in (name.partition("@") for name in names))


def _without_folders(names: np.ndarray) -> np.ndarray:
    """The same, where that still distinguishes the stacks; else as they are."""
    bare = stacks_alone(names)
    return bare if len(set(bare)) == len(set(names)) else names


def _same_images(first: ParticleFile, second: ParticleFile) -> bool:
    """Whether CTFs are the same row by row, and so are a few images; poses and half sets may be others."""
    if (len(first), first.box) != (len(second), second.box):
        return False
    if not np.array_equal(first.metadata().ctf, second.metadata().ctf):
        return False
    rows = np.unique(np.linspace(0, len(first) - 1, 8).astype(np.int64))
    return np.array_equal(first.images(rows), second.images(rows), equal_nan=True)
