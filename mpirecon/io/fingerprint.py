"""Whether a file is still the one that was opened:
what is read in several goes must not be half of one set, half of another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mpirecon.errors import UserError
from mpirecon.io.named_path import NamedPath
from mpirecon.parallel.comm import Communicator, together


class Fingerprint(NamedTuple):
    """What the system says of a file: device and inode (which file it is), bytes, and ns of the last change."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, file: str | os.PathLike | int) -> Fingerprint:
        """Of a path (or what it links to) or an open file's number. Raises OSError."""
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def change_of(path: str | os.PathLike, seen: Fingerprint) -> str | None:
    """What has become of a file since it was `seen`, in words; None where nothing has."""
    try:
        now = Fingerprint.of(path)
    except OSError as error:
        return f"it no longer exists ({error.strerror.lower()})"
    if now.size != seen.size:
        return f"it has {now.size} bytes, and had {seen.size}"
    if now[:2] != seen[:2]:
        return "another file has taken its place"
    return "it was written to" if now.changed != seen.changed else None


def refuse_changed(path: str | os.PathLike, seen: Fingerprint) -> None:
    """Raise UserError where a file is not what it was when it was `seen`."""
    what = change_of(path, seen)
    if what is not None:
        raise UserError(f"{path} has changed while it was read: {what}. What was read may be of two different sets and "
                        "is of no use; start again when the file is complete and nothing writes to it")


class Seen:
    """Files as they were when they were first read, on this rank."""

    def __init__(self, files: Mapping[str | os.PathLike, Fingerprint]) -> None:
        self._seen = [(NamedPath(path), seen) for path, seen in files.items()]

    @classmethod
    def now(cls, paths: Iterable[str | os.PathLike]) -> Seen:
        """As they are now. Raises OSError."""
        return cls({path: Fingerprint.of(path) for path in paths})

    def change(self) -> str | None:
        """What has become of the first file that has changed since, in words; None where none has."""
        return next((what for named, seen in self._seen if (what := change_of(named.path, seen)) is not None), None)

    def refuse_changed(self) -> None:
        """Raise UserError naming the first file that has changed since."""
        for named, seen in self._seen:
            refuse_changed(named.path, seen)

    def agree(self, comm: Communicator, what: str | None = None) -> None:
        """Raise UserError, on all ranks, where ranks have seen different files under one name. Collective.

        what : a digest of the contents; hosts may have copies of their own, of one content and different times
        """
        mine = comm.hostname, [(str(named.path), seen) for named, seen in self._seen], what
        ranks = comm.allgather(mine)
        with together(comm):
            for rank, (host, files, digest) in enumerate(ranks):
                first_host, first_files, first_digest = ranks[0]
                for (path, first), (_, seen) in zip(first_files, files, strict=True):
                    same = first == seen if host == first_host else first.size == seen.size
                    if not same or digest != first_digest:
                        raise UserError(f"{path} is not the same file on rank 0 (host {first_host}) and on rank {rank} "
                                        f"(host {host}): it was replaced while the ranks opened it, or the hosts' "
                                        "copies differ; start again when nothing writes to it")
