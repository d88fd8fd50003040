"""Files that appear complete or not at all: written under a temporary name and renamed at the end."""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.file_names import refuse_odd_target
from mpirecon.io.inputs import Input, refuse_inputs
from mpirecon.io.packed import refuse_packed_name
from mpirecon.io.replaced import kind_of, refuse_of_run, refuse_other_kind

_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
             errno.EFBIG: "the file size limit is reached"}


#: how the names of folders begin in which files are made that belong together
_ASIDE = ".unfinished-"

#: what temporary_name gives: the target, the process, and where that runs
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)(?:-([0-9a-f]+))?\.tmp")

#: likewise of folders in which files are made that belong together
_TEMPORARY_FOLDER = re.compile(re.escape(_ASIDE) + r"(\d+)-([0-9a-f]+)-\w+")

#: files and folders of this process that are to be renamed or removed
_begun: set[Path] = set()


def hidden_name_of(name: str) -> str | None:
    """The name of the file that a temporary name stands for; None where it is no temporary name."""
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else found[1]


def refuse_existing(path: str | os.PathLike, overwrite: bool, inputs: Iterable[Input] = (), *,
                    writes: str | None = None, own: Path | None = None) -> Path:
    """The target as a Path; every command that writes a file asks this before it does anything else.

    inputs : what the command reads, none of which may be replaced
    writes : the kind of file that is to be written, of those of io.replaced; where it is left out, a file of another
        kind is refused when the new one is complete
    own : folder of the run whose own files are written again

    Raises UserError when the target is an input, a file of another kind or one of a finished run (even with
    `overwrite`), exists (without), is a folder, has the name of a compressed file, or cannot be in its parent folder.
    """
    path = _refuse_existing(path, overwrite, inputs)
    refuse_of_run(path, own)
    if writes is not None:
        refuse_other_kind(path, writes)
    return path


def _refuse_existing(path: str | os.PathLike, overwrite: bool, inputs: Iterable[Input] = ()) -> Path:
    path = Path(path)
    refuse_odd_target(path)
    refuse_packed_name(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write")
    refuse_inputs([path], inputs)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; choose another name, or pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    refuse_unwritable(path, path.parent)
    return path


def refuse_unwritable(target: Path, folder: Path) -> None:
    """Raise UserError where nothing can be made in `folder`, which would hold `target`."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {target}: the folder {folder.resolve()} is read-only, or not yours to write in; "
                        f"write elsewhere")


def write_failed(path: str | os.PathLike, error: Exception) -> UserError:
    """The UserError for an operating-system or HDF5 error while writing `path`,
    which may be the temporary name of a file."""
    path = Path(path)
    path = path.with_name(hidden_name_of(path.name) or path.name)
    if path.parent.name.startswith(_ASIDE):
        path = path.parent.parent / path.name
    number = getattr(error, "errno", None)
    if number is None:  # h5py keeps the number in the text only
        number = next((n for n in _NO_SPACE if f"errno = {n}" in str(error)), None)
    reason = _NO_SPACE.get(number)
    if reason:
        return UserError(f"cannot write {path}: {reason}; nothing was left behind. Free some space or write elsewhere")
    # the system's text alone: the error also has the name of a temporary file, which the user did not give
    text = getattr(error, "strerror", None)
    text = f"{text[0].lower()}{text[1:]}" if text and getattr(error, "filename", None) else error
    return UserError(f"cannot write {path}: {text}; nothing was left behind")


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` (same file system, so that the rename is atomic), unique to this process."""
    where = _where()
    return path.with_name(f".{path.name}.{os.getpid()}{where and '-'}{where}.tmp")


def new_temporary(path: Path) -> Path:
    """`temporary_name`, when those are removed that processes left which were killed as they wrote the same target."""
    for entry, found in _stale(path.parent, _TEMPORARY, 2):
        if found[1] == path.name:
            with suppress(OSError):
                os.unlink(entry)
    _begun.add(temporary := temporary_name(path))
    return temporary


def _stale(folder: Path, names: re.Pattern, process: int) -> Iterator[tuple[str, re.Match]]:
    """What processes of this host that are gone have left in a folder, by its name: the group `process` of it is their
    number, the next one where they ran."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = names.fullmatch(entry.name)
            if found and found[process + 1] and found[process + 1] == _where() and not _runs(int(found[process])):
                yield entry.path, found


def remove_begun() -> None:
    """Remove what this process has written of files that are not complete, as it ends: a signal that comes between a
    file's beginning and the block that would remove it leaves it there."""
    for path in list(_begun):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@functools.cache
def _where() -> str:
    """Where numbers of processes mean the same as here: this start of this host, and this container.
    "" where the system does not say."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text()
        told = (socket.gethostname(), start, os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""
    return f"{zlib.crc32(repr(told).encode()):08x}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextmanager
def atomic_path(path: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at a clean exit, delete it at any exception.

    Raises
    ------
    UserError
        when the target exists and overwrite is False or it is a file of another kind, or when writing fails (disk
        full, no permission).
    """
    path = _refuse_existing(path, overwrite)
    temporary = new_temporary(path)
    try:
        yield temporary
        _refuse_existing(path, overwrite)  # someone may have written it meanwhile
        refuse_other_kind(path, kind_of(temporary))
        os.replace(temporary, path)
    except OSError as error:
        raise write_failed(path, error) from error
    finally:
        with suppress(OSError):  # on a read-only file system not even what is not there can be removed
            temporary.unlink(missing_ok=True)
        _begun.discard(temporary)


@contextmanager
def atomic_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden folder within `folder`;
    at a clean exit the files in it take their places there, at any exception it goes.

    Files that belong together are all of one run of a command so, whatever happens to it. What a killed one has left
    goes.
    Raises UserError when writing fails.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left, _ in _stale(folder, _TEMPORARY_FOLDER, 1):
            shutil.rmtree(left, ignore_errors=True)
        prefix = f"{_ASIDE}{os.getpid()}-{_where()}-"
        _begun.add(staging := Path(tempfile.mkdtemp(prefix=prefix, dir=folder)))
    except OSError as error:
        raise write_failed(folder, error) from error
    try:
        yield staging
        for file in staging.iterdir():
            refuse_other_kind(folder / file.name, kind_of(file))
        for file in sorted(staging.iterdir()):
            os.replace(file, folder / file.name)
    except OSError as error:
        raise write_failed(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _begun.discard(staging)
