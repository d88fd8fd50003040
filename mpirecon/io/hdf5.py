"""Reading HDF5 files of which the file system, the disk or a copy may have made something else:
one place for what that raises."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.file_names import as_bytes
from mpirecon.io.hdf5_heap import check_heaps

_LOCK = re.compile(r"unable to lock file, errno = (\d+)")

#: what HDF5, h5py and NumPy make of bytes that are not what they were: bad checksums, unknown types, names that are
#: gone, numbers that cannot be
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, SyntaxError, OverflowError)

#: how many times smaller than what is in it a compressed dataset can be: deflate's limit
_DENSEST = 1032

#: bytes of a dataset that are accepted without being in the file
_UNWRITTEN = 2**28


def open_hdf5(path: str | os.PathLike, what: str, remedy: str = "") -> h5py.File:
    """A file to read, without a lock where the file system has none to give.

    what : the kind of file expected; remedy : where one of that kind comes from, for messages

    Raises
    ------
    UserError
        naming the file, when it is missing, a folder, not HDF5, truncated, or open for writing in another program.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; a {what} was expected")
    try:
        try:
            return h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            if _lock_error(error) in (None, errno.EAGAIN):
                raise
            return h5py.File(path, "r", locking=False)  # nothing that mpirecon reads is written in place
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except _DAMAGE as error:
        raise UserError(_why_not_opened(path, f"{what} (it is not HDF5){remedy and '; ' + remedy}", error)) from error


def create_hdf5(path: Path) -> h5py.File:
    """A new file under a name that no other process knows, which therefore needs no lock;
    its metadata have checksums."""
    return h5py.File(path, "w", locking=False, libver=("v110", "v110"))


def put_attributes(thing: h5py.HLObject, attributes: Mapping) -> None:
    """Set attributes of a file or group. Names of files among them may have bytes that are no UTF-8:
    these are stored as they are."""
    for name, value in attributes.items():
        if isinstance(value, str):
            thing.attrs.create(name, as_bytes(value), dtype=h5py.string_dtype("utf-8"))
        else:
            thing.attrs[name] = value


def store_checked(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Store an array with checksums, so that damage is met when it is read."""
    values = np.asarray(values)
    file.create_dataset(name, data=values, fletcher32=bool(values.ndim and values.size) or None)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Around calls of h5py on an open file: whatever they meet there is damage of that file, reported by UserError.

    what : of the file is read
    """
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        reason = f"the file is damaged ({_first_line(error)}); copy or make it again"
        raise UserError(f"{path}: {what} cannot be read, {reason}") from error


def attributes_of(thing: h5py.HLObject, path: Path) -> dict:
    """All attributes of a file or group."""
    with reading(path, f"the attributes of {thing.name}"):
        check_heaps(thing, path)
        return dict(thing.attrs)


def dataset_of(group: h5py.Group, name: str, path: Path) -> h5py.Dataset | None:
    """A dataset of a group whose description can be trusted, None where there is none of that name."""
    with reading(path, f"/{name}"):
        found = group[name] if name in group else None
        if not isinstance(found, h5py.Dataset):
            return None
        if found.dtype.hasobject:
            raise ValueError("its values have no fixed size")
    return found


def read_all(dataset: h5py.Dataset) -> np.ndarray:
    """A whole dataset, inside `reading`."""
    _refuse_impossible(dataset)
    return dataset[...]


def _refuse_impossible(dataset: h5py.Dataset) -> None:
    """Raise ValueError for a dataset that claims more than its file can hold, before memory is asked for."""
    properties = dataset.id.get_create_plist()
    elsewhere = dataset.is_virtual or properties.get_external_count()
    most = dataset.file.id.get_filesize() * (_DENSEST if properties.get_nfilters() else 1)
    # one that was never written takes no room: those of any sensible size are let through
    if not elsewhere and dataset.size * dataset.dtype.itemsize > most + _UNWRITTEN:
        raise ValueError(f"it claims {dataset.size} values of {dataset.dtype}, more than the file has")


def _lock_error(error: OSError) -> int | None:
    """The errno with which locking failed, if that is what failed."""
    found = _LOCK.search(str(error))
    return int(found[1]) if found else None


def _why_not_opened(path: Path, expected: str, error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and _lock_error(error) is not None:
        return (f"cannot read {path}: another program has it open for writing; close it there, and try again. (If none "
                "has, set HDF5_USE_FILE_LOCKING=FALSE)")
    if "truncated" in text:
        return f"{path} is truncated: the file is shorter than its header says; copy or make it again"
    if "signature not found" in text:
        return f"{path} is not a {expected}"
    number = getattr(error, "errno", None)
    if number is not None and number != errno.EIO:
        return f"cannot read {path}: {os.strerror(number)}"
    return f"cannot read {path}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
