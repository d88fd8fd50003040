"""Meeting an error together: what fails on one rank ends the step on all of them, with one message."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from mpirecon.errors import OUT_OF_GPU_MEMORY, UserError
from mpirecon.parallel.stopping import Alerted, StopRequested

if TYPE_CHECKING:
    from mpirecon.parallel.comm import Communicator

T = TypeVar("T")

_LOOP = "Symlink loop from "
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RankFailed(UserError):
    """Another rank met an unexpected exception; that rank prints its traceback, this one ends quietly."""


@contextmanager
def together(comm: Communicator) -> Iterator[None]:
    """Run the body on every rank, then agree: either all ranks continue, or all raise.

    The body must not call `comm`: a rank that fails there would leave the others waiting inside that call. It may call
    ``comm.heed()`` (a safe point), so that ranks end soon after one has failed, and not when they are through.

    Raises
    ------
    UserError
        on every rank, when any rank's body raised one (or an OSError or MemoryError, which are the user's to mend
        too): the message of the lowest such rank, naming that rank and its host unless all said the same.
    RankFailed
        on the other ranks, when a rank met an unexpected exception (which is raised again on that rank).
    StopRequested
        on every rank, when nothing failed and any rank's body raised one.
    """
    try:
        yield
        failure = None
    except Exception as error:
        failure = error
    _agree(comm, failure)


def run_together(comm: Communicator, function: Callable[[], T]) -> T:
    """``function()`` on every rank inside `together`: its result, or the same error on all ranks."""
    with together(comm):
        result = function()
    return result


def run_first(comm: Communicator, function: Callable[[], T]) -> T | None:
    """``function()`` on rank 0 alone, for all: its result there, None elsewhere; or its UserError on all ranks, which
    is about the job and not about rank 0 or its host."""
    result, refused = None, None
    with together(comm):
        if comm.rank == 0:
            try:
                result = function()
            except UserError as error:
                refused = str(error)
    if (refused := comm.bcast(refused)) is not None:
        raise UserError(refused)
    return result


#: how a body ended, in the order in which one end outranks another
_WELL, _STOPPED, _FAILED = range(3)


def _agree(comm: Communicator, failure: Exception | None) -> None:
    """Raise the errors `together` describes; one small allreduce when nothing failed."""
    mine = _WELL if failure is None else _STOPPED if isinstance(failure, StopRequested) else _FAILED
    first = mine > _WELL and not isinstance(failure, Alerted)
    if first:
        comm.alert()
    worst = comm.allreduce_scalar(mine, "max")
    if worst == _WELL:
        return
    expected = as_user_error(failure) if mine == _FAILED else None
    unexpected = mine == _FAILED and expected is None
    reports = comm.allgather((first, str(expected) if expected else None, unexpected, comm.hostname, str(failure)))
    comm.settle_alerts([rank for rank, report in enumerate(reports) if report[0]])
    if unexpected:
        raise failure
    defects = [rank for rank, (_, _, defect, _, _) in enumerate(reports) if defect]
    if defects:
        rank = defects[0]
        raise RankFailed(f"rank {rank} on host {reports[rank][3]} met an unexpected error; see its traceback")
    if worst == _STOPPED:
        raise StopRequested(next(reason for first, _, _, _, reason in reports if first)) from failure
    rank, message, host = next((r, text, host) for r, (_, text, _, host, _) in enumerate(reports) if text is not None)
    if any(text != message for _, text, _, _, _ in reports):
        message = f"rank {rank} on host {host}: {message}"
    raise UserError(message) from failure


def as_user_error(error: BaseException) -> UserError | None:
    """The UserError that `error` is or amounts to; None for a defect of mpirecon, which deserves its traceback.

    Missing files, refused permissions, full disks and exhausted memory are the environment's, not mpirecon's.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, MemoryError):
        detail = f" ({error})" if str(error) else ""
        return UserError(f"out of memory{detail}; use fewer ranks on each node, more memory, or a smaller box")
    if isinstance(error, OSError):
        return _from_os_error(error)
    if isinstance(error, RuntimeError) and str(error).startswith(_LOOP):  # pathlib's, before Python 3.13
        return UserError(f"{str(error).removeprefix(_LOOP)}: it links to itself; remove the link, or choose another "
                         f"name")
    if any(words in str(error) for words in OUT_OF_GPU_MEMORY):
        return UserError(f"the GPU ran out of memory ({error}); use one rank a GPU, a GPU with more memory, a smaller "
                         f"box, or --backend cpu")
    return None


def _from_os_error(error: OSError) -> UserError | None:
    where = f"{error.filename}: " if error.filename else ""
    # HDF5 reports the system's errno only inside its text
    if error.errno in _FULL or any(f"errno = {code}," in str(error) for code in _FULL):
        return UserError(f"{where}no space left on the disk or in the quota; free some, or write elsewhere")
    if error.errno is None or error.strerror is None:
        return None
    if error.errno == errno.ENOENT and not where:  # of os.getcwd() alone
        return UserError("the folder in which the command was started is there no more; change to one that is")
    return UserError(f"{where}{error.strerror[0].lower()}{error.strerror[1:]}")
