"""Files that appear complete or not at all: written under a temporary name and renamed at the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.file_names import refuse_odd_target

_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
             errno.EFBIG: "the file size limit is reached"}


def refuse_existing(path: str | os.PathLike, overwrite: bool) -> Path:
    """The target as a Path; UserError when it exists (without overwrite), is a folder or has no parent folder."""
    path = Path(path)
    refuse_odd_target(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; choose another name, or pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    return path


def write_failed(path: str | os.PathLike, error: Exception) -> UserError:
    """The UserError for an operating-system or HDF5 error while writing `path`."""
    number = getattr(error, "errno", None)
    if number is None:  # h5py keeps the number in the text only
        number = next((n for n in _NO_SPACE if f"errno = {n}" in str(error)), None)
    reason = _NO_SPACE.get(number)
    if reason:
        return UserError(f"cannot write {path}: {reason}; nothing was left behind. Free some space or write elsewhere")
    return UserError(f"cannot write {path}: {error}; nothing was left behind")


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` (same file system, so that the rename is atomic), unique to this process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_path(path: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at a clean exit, delete it at any exception.

    Raises
    ------
    UserError
        when the target exists and overwrite is False, or when writing fails (disk full, no permission).
    """
    path = refuse_existing(path, overwrite)
    temporary = temporary_name(path)
    try:
        yield temporary
        refuse_existing(path, overwrite)  # someone may have written it meanwhile
        os.replace(temporary, path)
    except OSError as error:
        raise write_failed(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
