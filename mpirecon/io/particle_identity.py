"""Which particle a row is, by what its program calls it: to find it in another file, whatever row it has there."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.cryosparc import relion_image_names
from mpirecon.io.particle_file import ParticleFile

#: columns of imported tables, and of tables of numbers by particle, that hold cryoSPARC's uid
UID_COLUMNS = ("uid", "mpireconUid")

#: likewise the name of an image, ``000001@stack.mrcs``; an export with a stack of its own keeps the first name in the first of these
IMAGE_COLUMNS = ("rlnImageOriginalName", "rlnImageName", "image")


def uids(file: ParticleFile) -> np.ndarray | None:
    """cryoSPARC's uid of every particle as text, (m,) object; None where the imported table has none."""
    array = file.source_arrays().get("particles")
    if array is not None:
        return _texts(array["uid"].tolist()) if "uid" in array.dtype.names else None
    return _column(file, "mpireconUid")


def image_names(file: ParticleFile) -> np.ndarray | None:
    """``1@folder/stack.mrcs`` of every particle's image, (m,) object; None where none was imported."""
    array = file.source_arrays().get("particles")
    if array is not None:
        return plain_image_names(relion_image_names(file.path, array))
    found = (_column(file, name) for name in IMAGE_COLUMNS[:2])
    names = next((column for column in found if column is not None), None)
    return None if names is None else plain_image_names(names)


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
    """(m,) int64, how many rows before have the same name: rows of one image are told apart by their order."""
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
