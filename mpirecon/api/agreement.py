"""That all ranks were given the same: a script runs on each, and may have read or drawn something else there."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.arrays import Volume
from mpirecon.model.devices import on_host
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.robust.own_code import digest_of_code
from mpirecon.solvers.meaning import own_digest

#: what ranks may be given differently: hosts have cores and memory of their own
_OF_HOSTS = ("threads", "memory")

_PLAIN = (type(None), bool, int, float, str, np.generic)
_FUNCTION, _OWN = "function", "definition of"
_CODE = (_FUNCTION, _OWN)  # what is told apart by what it does
_NOT_GIVEN = ("not given", "")


def same_on_all(comm: Communicator, **settings) -> None:
    """Raise UserError, on all ranks, naming the first setting that is not the same on all. Collective; None is as if it
    were not given."""
    _compare(comm, settings, "")


def same_where_given(comm: Communicator, decides: str, **settings) -> None:
    """`same_on_all`, of the ranks on which the setting `decides` is not None; the others take rank 0's settings."""
    takes = comm.rank > 0 and settings[decides] is None
    _compare(comm, None if takes else settings, f", or {decides}=None on the ranks that take rank 0's")


def _compare(comm: Communicator, settings: dict | None, instead: str) -> None:
    """settings : this rank's; None: any are right · instead : what else may be done"""
    if comm.size == 1:
        return
    told = run_together(comm, lambda: settings and {name: _told(name, value) for name, value in settings.items()
                                                    if name not in _OF_HOSTS and value is not None})
    ranks = comm.allgather((comm.hostname, told))
    first = ranks[0][1]
    for rank, (host, other) in enumerate(ranks):
        if other is None:
            continue
        for name in dict.fromkeys((*first, *other)):
            here, there = first.get(name, _NOT_GIVEN), other.get(name, _NOT_GIVEN)
            if here == there:
                continue
            if (own := _known_to_one(here[0], there[0])) is not None:
                knows, lacks = (0, rank) if here[0].startswith(_OWN) else (rank, 0)
                raise UserError(f"{name} {own!r} is registered on rank {knows} and not on rank {lacks} (rank {rank} is "
                                f"on host {host}); register it on all ranks")
            one, two = (words.removeprefix(f"{_OWN} ") for words in (here[0], there[0]))
            how = f"another {here[0]} on rank 0 than" if here[0] == there[0] else f"{one} on rank 0 and {two}"
            of_code = here[0] == there[0] and here[0].startswith(_CODE)
            why = ", in its code or a variable that it refers to;" if of_code else ";"
            raise UserError(f"{name} is {how} on rank {rank} (host {host}){why} all ranks must be given the same, such "
                            f"as what rank 0 has read or drawn and sent to the others{instead}")


def _known_to_one(here: str, there: str) -> str | None:
    """The name of a script's own loss, distance or solver that both ranks were given and only one has registered."""
    name = min(here, there, key=len)
    return name if {here, there} == {name, f"{_OWN} {name}"} else None


def _told(name: str, value) -> tuple[str, str]:
    """(a setting in a few words, a digest of it)."""
    if isinstance(value, str) and (digest := own_digest(name, value)) is not None:
        return f"{_OWN} {value}", digest
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, _PLAIN):
        return str(value), "text" if isinstance(value, str) else "number"
    if isinstance(value, Volume):
        return "map", digest_of_code((value.to_numpy(), value.pixel_size))
    if isinstance(value, Pose):
        return "Pose", digest_of_code((value.quaternion, value.shift))
    if callable(value):
        return _FUNCTION, digest_of_code(value)
    held = _as_tuples(value)
    return ("array", _digest(held)) if isinstance(held, np.ndarray) else (type(value).__name__, digest_of_code(held))


def _digest(array: np.ndarray) -> str:
    """A checksum of an array, without a copy of it: images may fill the memory."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return f"{array.dtype.str} {array.dtype.descr} {array.shape} {zlib.crc32(content)}"


def _as_tuples(value):
    """Numbers as an array; other lists and dictionaries, which may be changed, as what cannot be."""
    if isinstance(value, (os.PathLike, *_PLAIN)):
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, Mapping):
        return tuple((name, _as_tuples(one)) for name, one in value.items())
    try:
        numbers = on_host(value)
    except (TypeError, ValueError, UserError):  # lists of lists of different lengths; what is wrong is said later
        numbers = None
    if numbers is not None and numbers.dtype.kind in "biufcV":
        return numbers
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
