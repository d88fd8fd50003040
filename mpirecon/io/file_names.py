"""Names of files: as tables and command lines spell them, and those under which nothing can be written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError

_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a device"),
          (stat.S_ISCHR, "a device"))

#: words that options take instead of a file
_WORDS = {"auto", "none"}


#: how a file that is written here, UTF-8 otherwise, takes the bytes of names that are not: unchanged
UNCHANGED = "surrogateescape"


def as_bytes(text: str) -> bytes:
    """A text as files hold it: UTF-8, but for the bytes of file names that are not."""
    return text.encode("utf-8", UNCHANGED)


def as_texts(cells: np.ndarray) -> np.ndarray:
    """(m,) bytes as files hold them → (m,) texts, object."""
    out = np.empty(len(cells), object)
    out[:] = [cell.decode("utf-8", UNCHANGED) for cell in cells.tolist()]
    return out


def as_file_name(text: str) -> str:
    """The name by which this system knows a file that a table names. Tables are UTF-8, whatever the locale is."""
    return os.fsdecode(as_bytes(text))


def as_argument(path: str | os.PathLike) -> str:
    """A path as a word of a command line, which takes it for no option and for no word such as "auto".

    Path drops the "./" that was given before such a name.
    """
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") or text in _WORDS else text


def refuse_odd_target(path: Path) -> None:
    """Raise UserError for a target that is there and no file or folder, or cannot be inspected.

    A file takes its place under its name when it is complete: a device or a pipe would be replaced by it.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"cannot write {path}: it links to itself; remove the link, or choose another "
                            f"name") from error
        raise UserError(f"cannot write {path}: {os.strerror(error.errno).lower()}; choose another name") from error
    kind = next((name for test, name in _KINDS if test(mode)), None)
    if kind is not None:
        raise UserError(f"cannot write {path}: it is {kind}; give the name of a file to write")
