"""The communicator every parallel step is given: the same interface on one process and on many."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.agree import RankFailed, run_together, together
from mpirecon.parallel.launcher import alone, find_launcher, without_mpi
from mpirecon.parallel.lines import write_line
from mpirecon.parallel.slab import slab, slabs
from mpirecon.parallel.watchdog import Activity

__all__ = ["Communicator", "RankFailed", "SerialCommunicator", "get_communicator", "run_together", "together"]

#: MPI counts are 32-bit integers: a message of 2**31 elements overflows them
MESSAGE_BYTES = 2**30

_REDUCIBLE = tuple(map(np.dtype, ("float32", "float64", "int64", "complex64", "complex128")))
_REAL = {np.dtype("complex64"): np.float32, np.dtype("complex128"): np.float64}


class Communicator(ABC):
    """Ranks that work together. Every call is collective: all ranks make it, with arrays of the same shape and dtype.

    Array calls move buffers (never pickles) in messages of at most `message_bytes`, and count what they move.
    Reductions take C-contiguous float32, float64 or int64 arrays (complex ones too, summed); the other array calls
    take any dtype of fixed size. Results are the same on every rank and in every run on the same number of ranks.

    Attributes
    ----------
    rank, size : int
    local_rank : int
        number of this rank among those on its host
    hostname : str
    activity : Activity
        what this rank is doing, for a Watchdog
    """

    rank: int
    size: int
    local_rank: int

    def __init__(self, message_bytes: int = MESSAGE_BYTES) -> None:
        self.hostname = socket.gethostname()
        self.message_bytes = int(message_bytes)
        self._bytes = self._messages = 0
        self._seconds = 0.0
        self.activity = Activity()

    @property
    def traffic(self) -> dict[str, float]:
        """What this rank's array calls moved: ``bytes_moved``, ``messages``, and ``seconds`` including waiting."""
        return {"bytes_moved": self._bytes, "messages": self._messages, "seconds": self._seconds}

    # small objects, pickled

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank is here."""

    @abstractmethod
    def bcast(self, obj, root: int = 0):
        """The root's object, on every rank."""

    @abstractmethod
    def gather(self, obj, root: int = 0) -> list | None:
        """Every rank's object in rank order on the root, None elsewhere."""

    @abstractmethod
    def allgather(self, obj) -> list:
        """Every rank's object in rank order, on every rank."""

    @abstractmethod
    def abort(self, message: str, code: int = 1) -> None:
        """Print the message, if any, and end all ranks at once; for errors that the other ranks cannot know of."""

    # a word to ranks that are at work; these calls are not collective

    def alert(self) -> None:
        """Tell the other ranks not to work on, each at its next safe point."""

    def heed(self) -> None:
        """A safe point: raise Alerted when another rank has alerted this one."""

    def settle_alerts(self, senders: list[int]) -> None:
        """Take note of the alerts of these ranks, so that they mean nothing later; all ranks give the same list."""

    # arrays

    def allreduce(self, array: np.ndarray, op: str = "sum") -> np.ndarray:
        """Reduce over ranks with ``"sum"``, ``"max"`` or ``"min"``, in place; returns `array`."""
        with self._clock():
            for part in self._parts(_reducible(array, op)):
                self._allreduce(part, op)
        return array

    def allreduce_scalar(self, value, op: str = "sum"):
        """One number reduced over ranks: int for an int or bool, float otherwise."""
        dtype = np.int64 if isinstance(value, (int, np.integer, np.bool_)) else np.float64
        return self.allreduce(np.array([value], dtype), op)[0].item()

    def reduce(self, array: np.ndarray, root: int = 0) -> np.ndarray | None:
        """Sum over ranks, in place on the root, which gets `array` back; None elsewhere (array untouched)."""
        with self._clock():
            for part in self._parts(_reducible(array, "sum")):
                self._reduce(part, root)
        return array if self.rank == root else None

    def bcast_array(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        """Copy the root's array into every rank's `array`, in place; returns it."""
        with self._clock():
            for part in self._parts(_flat(array).view(np.uint8)):
                self._bcast(part, root)
        return array

    def reduce_scatter(self, array: np.ndarray) -> np.ndarray:
        """Sum a flat (n,) array over ranks; each rank gets the elements ``slab(n, size, rank)`` of the sum.

        `array` is left as it was. Nobody holds more than the input and its own slab.
        """
        flat = _reducible(array, "sum")
        scale = flat.size // array.size if array.size else 1  # 2 where complex numbers are summed as pairs
        out = np.empty(_length(slab(array.size, self.size, self.rank)), array.dtype)
        bounds = [(scale * a, scale * b) for a, b in slabs(array.size, self.size)]
        with self._clock():
            for window, counts, mine in self._windows(flat.size, flat.itemsize, bounds):
                self._reduce_scatter(flat[window], _flat_real(out)[mine], counts)
        return out

    def hand_over(self, array: np.ndarray | None, shape: tuple[int, ...], dtype, owner: int,
                  root: int = 0) -> np.ndarray | None:
        """The owner's array of that shape and type on the root, another rank; None elsewhere. Collective."""
        total, width = int(np.prod(shape)), np.dtype(dtype).itemsize
        bounds = [(0, total * width if rank == owner else 0) for rank in range(self.size)]
        send = _flat(array if self.rank == owner else np.empty(0, dtype)).view(np.uint8)
        out = np.empty(shape, dtype) if self.rank == root else None
        receive = None if out is None else out.reshape(-1).view(np.uint8)
        with self._clock():
            for window, counts, mine in self._windows(total * width, 1, bounds):
                self._gather(send[mine], None if receive is None else receive[window], counts, root)
        return out

    def gather_slabs(self, part: np.ndarray, total: int, root: int = 0) -> np.ndarray | None:
        """The array of `total` rows of which each rank holds some, in rank order, on the root; None elsewhere."""
        return self._collect(part, total, root)

    def allgather_slabs(self, part: np.ndarray, total: int) -> np.ndarray:
        """The array of `total` rows of which each rank holds some, in rank order, on every rank."""
        return self._collect(part, total, None)

    def _collect(self, part: np.ndarray, total: int, root: int | None) -> np.ndarray | None:
        # ranks may hold different numbers of rows (shared_slab)
        edges = np.cumsum([0, *self.allgather(len(part))]).tolist()
        if edges[-1] != total:
            raise ValueError(f"the ranks hold {np.diff(edges).tolist()} rows, together not the {total} that there are")
        bounds = list(zip(edges, edges[1:]))
        out = np.empty((total, *part.shape[1:]), part.dtype) if root in (None, self.rank) else None
        width = part.dtype.itemsize * int(np.prod(part.shape[1:]))
        send = _flat(part).view(np.uint8)
        receive = None if out is None else out.reshape(-1).view(np.uint8)
        with self._clock():
            for window, counts, mine in self._windows(total * width, 1, [(a * width, b * width) for a, b in bounds]):
                self._gather(send[mine], None if receive is None else receive[window], counts, root)
        return out

    # what the two kinds of communicator fill in: one message each, of flat arrays

    @abstractmethod
    def _allreduce(self, part: np.ndarray, op: str) -> None: ...

    @abstractmethod
    def _reduce(self, part: np.ndarray, root: int) -> None: ...

    @abstractmethod
    def _bcast(self, part: np.ndarray, root: int) -> None: ...

    @abstractmethod
    def _reduce_scatter(self, send: np.ndarray, receive: np.ndarray, counts: list[int]) -> None: ...

    @abstractmethod
    def _gather(self, send: np.ndarray, receive: np.ndarray | None, counts: list[int], root: int | None) -> None: ...

    # splitting and counting

    def _parts(self, flat: np.ndarray):
        """Consecutive pieces of a flat array, each one message."""
        step = self._step(flat.itemsize)
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            self.count(part.nbytes)
            yield part

    def _windows(self, total: int, itemsize: int, bounds: list[tuple[int, int]]):
        """Consecutive windows of a flat array that ranks own in slabs, each one message.

        Yields (the window as a slice, how many of its elements each rank owns, this rank's as a slice of its slab).
        """
        step = self._step(itemsize)
        first, last = bounds[self.rank]
        for start in range(0, total, step):
            stop = min(start + step, total)
            counts = [max(0, min(b, stop) - max(a, start)) for a, b in bounds]
            mine = slice(min(max(start, first), last) - first, max(min(stop, last), first) - first)
            self.count((stop - start) * itemsize)
            yield slice(start, stop), counts, mine

    def _step(self, itemsize: int) -> int:
        return max(1, self.message_bytes // itemsize)

    def count(self, nbytes: int) -> None:
        """Count a message."""
        if self.size > 1:
            self._bytes += nbytes
            self._messages += 1

    @contextmanager
    def device_message(self, nbytes: int):
        """Count and time a message of GPU memory that a transport sends."""
        self.count(nbytes)
        with self._clock():
            yield

    @contextmanager
    def _clock(self):
        start = time.perf_counter()
        try:
            with self.activity.waiting():
                yield
        finally:
            self._seconds += time.perf_counter() - start


class SerialCommunicator(Communicator):
    """One process by itself: every collective call returns at once."""

    rank, size, local_rank = 0, 1, 0

    def barrier(self) -> None:
        pass

    def bcast(self, obj, root: int = 0):
        return obj

    def gather(self, obj, root: int = 0) -> list:
        return [obj]

    def allgather(self, obj) -> list:
        return [obj]

    def abort(self, message: str, code: int = 1) -> None:
        write_line(message, sys.stderr)
        if threading.current_thread() is not threading.main_thread():
            os._exit(code)  # sys.exit would end that thread alone
        sys.exit(code)

    def _allreduce(self, part, op) -> None:
        pass

    def _reduce(self, part, root) -> None:
        pass

    def _bcast(self, part, root) -> None:
        pass

    def _reduce_scatter(self, send, receive, counts) -> None:
        receive[:] = send

    def _gather(self, send, receive, counts, root) -> None:
        receive[:] = send


def get_communicator(message_bytes: int = MESSAGE_BYTES) -> Communicator:
    """The communicator of this process: over MPI when a launcher started it, else serial (MPI is not imported).

    ``MPIRECON_COMM=serial`` in the environment makes each process work alone whatever started it.

    Raises
    ------
    UserError
        when a launcher started several processes and MPI cannot be imported, or does not see the others: continuing
        would run the whole job once per process, each overwriting the other's files.
    """
    launcher = find_launcher()
    if launcher is None or os.environ.get("MPIRECON_COMM") == "serial":
        return SerialCommunicator(message_bytes)
    try:
        from mpirecon.parallel.mpi import MpiCommunicator  # imports mpi4py, which starts MPI

        comm = MpiCommunicator(message_bytes)
    except (ImportError, RuntimeError, OSError) as error:
        if launcher.size == 1:
            return SerialCommunicator(message_bytes)
        raise UserError(without_mpi(launcher, error)) from error
    if comm.size == 1 and (launcher.size or 1) > 1:
        raise UserError(alone(launcher, comm.library))
    return comm


def _reducible(array: np.ndarray, op: str) -> np.ndarray:
    """The array as a flat view of real numbers that MPI can reduce."""
    if op not in ("sum", "max", "min"):
        raise ValueError(f"op is {op!r}, expected 'sum', 'max' or 'min'")
    if array.dtype not in _REDUCIBLE:
        raise TypeError(f"cannot reduce dtype {array.dtype}; expected one of {', '.join(map(str, _REDUCIBLE))}")
    if op != "sum" and array.dtype.kind == "c":
        raise TypeError(f"complex numbers have no {op}")
    return _flat_real(array)


def _flat_real(array: np.ndarray) -> np.ndarray:
    flat = _flat(array)
    return flat.view(_REAL[array.dtype]) if array.dtype.kind == "c" else flat


def _flat(array: np.ndarray) -> np.ndarray:
    """A flat view, never a copy: in-place calls write through it."""
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise TypeError(f"expected a NumPy array of numbers, got {type(array).__name__}")
    if not array.flags.c_contiguous:
        raise ValueError(f"expected a C-contiguous array, got one of shape {array.shape} and strides {array.strides}")
    return array.reshape(-1)


def _length(bounds: tuple[int, int]) -> int:
    return bounds[1] - bounds[0]
