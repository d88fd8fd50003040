"""Sums over ranks of arrays that live on GPUs: by a CUDA-aware MPI, staged through pinned host memory, or by NCCL.

A transport synchronises the stream before it hands a device buffer on, splits what exceeds the length of a message, and
counts what it moves on the communicator. Results are the same on every rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel import cuda_support
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.placement import Placement
from mpirecon.parallel.slab import slab, slabs

#: most bytes of a message that goes through a pinned buffer: pinned memory is dear
_STAGE_BYTES = 128 * 2**20

#: elements that ranks sum on trial
_TRIAL_LENGTH = 1000


class Transport(ABC):
    """Sums of float32 device arrays over the ranks of a communicator; every call is collective."""

    name: str
    on_device = True  # where `reduce_scatter` wants its arrays

    def __init__(self, comm: Communicator, gpu) -> None:
        self.comm, self.gpu = comm, gpu
        self.message_bytes = comm.message_bytes

    def allreduce(self, array):
        """Sum over ranks, in place; returns `array`."""
        flat = _flat(array)
        for start, stop in self._pieces(0, flat.size, flat.dtype.itemsize):
            part = flat[start:stop]
            with self._message(part.nbytes):
                self._allreduce(part)
        return array

    def reduce_scatter(self, array) -> np.ndarray:
        """Sum a flat array over ranks; each gets the elements ``slab(n, size, rank)`` of the sum, in host memory.

        Takes an array of the host as well, which goes the way of the communicator. A device array is used up.
        """
        if isinstance(array, np.ndarray):
            return self.comm.reduce_scatter(array)
        flat, comm = _flat(array), self.comm
        first, last = slab(flat.size, comm.size, comm.rank)
        out = np.empty(last - first, flat.dtype)
        for owner, (begin, end) in enumerate(slabs(flat.size, comm.size)):
            for start, stop in self._pieces(begin, end, flat.dtype.itemsize):
                part = flat[start:stop]
                with self._message(part.nbytes):
                    summed = self._reduce(part, owner)
                if owner == comm.rank:
                    out[start - first : stop - first] = summed
        return out

    def _message(self, nbytes: int):
        """Counts and times a message on the communicator."""
        return self.comm.device_message(nbytes)

    def _pieces(self, begin: int, end: int, itemsize: int):
        step = max(1, self.message_bytes // itemsize)
        return [(start, min(start + step, end)) for start in range(begin, end, step)]

    @abstractmethod
    def _allreduce(self, part) -> None:
        """Sum one message in place."""

    @abstractmethod
    def _reduce(self, part, owner: int) -> np.ndarray | None:
        """Sum one message onto its owner: there the sum in host memory, elsewhere None."""


class StagedTransport(Transport):
    """Through a pinned buffer and the communicator's host messages: works with every MPI."""

    name = "staged"

    def __init__(self, comm: Communicator, gpu) -> None:
        super().__init__(comm, gpu)
        self.message_bytes = min(comm.message_bytes, _STAGE_BYTES)
        self._buffer, self._room = None, 0  # CuPy's pinned memory does not know its length

    def _message(self, nbytes: int):
        return nullcontext()  # the communicator counts what goes through it

    def _allreduce(self, part) -> None:
        staged = self._staged(part)
        self.comm.allreduce(staged)
        part.set(staged)
        self.gpu.synchronize()  # the buffer is filled by the next message

    def _reduce(self, part, owner: int) -> np.ndarray | None:
        return self.comm.reduce(self._staged(part), owner)

    def _staged(self, part) -> np.ndarray:
        if self._room < part.nbytes:
            self._buffer, self._room = self.gpu.cupy.cuda.alloc_pinned_memory(part.nbytes), part.nbytes
        host = np.frombuffer(self._buffer, part.dtype, part.size)
        part.get(out=host)
        self.gpu.synchronize()
        return host


class CudaAwareTransport(Transport):
    """MPI reads and writes GPU memory itself."""

    name = "cuda-aware"

    def _allreduce(self, part) -> None:
        self.gpu.synchronize()
        self.comm.allreduce_device(part)

    def _reduce(self, part, owner: int) -> np.ndarray | None:
        self.gpu.synchronize()
        self.comm.reduce_device(part, owner)
        return part.get() if owner == self.comm.rank else None


class NcclTransport(Transport):
    """NCCL between GPUs, one a rank; MPI only brings the ranks together."""

    name = "nccl"

    def __init__(self, comm: Communicator, gpu, nccl, identity) -> None:
        """identity : of ``nccl.get_unique_id()``, one rank's for all"""
        super().__init__(comm, gpu)
        self._nccl = nccl
        self._nccl_comm = nccl.NcclCommunicator(comm.size, identity, comm.rank)

    def _allreduce(self, part) -> None:
        nccl, at = self._nccl, part.data.ptr
        self._nccl_comm.allReduce(at, at, part.size, self._type(part), nccl.NCCL_SUM, self._stream())
        self.gpu.synchronize()

    def _reduce(self, part, owner: int) -> np.ndarray | None:
        nccl, at = self._nccl, part.data.ptr
        self._nccl_comm.reduce(at, at, part.size, self._type(part), nccl.NCCL_SUM, owner, self._stream())
        self.gpu.synchronize()
        return part.get() if owner == self.comm.rank else None

    def _stream(self) -> int:
        return self.gpu.cupy.cuda.get_current_stream().ptr

    def _type(self, part) -> int:
        return {"float32": self._nccl.NCCL_FLOAT32, "float64": self._nccl.NCCL_FLOAT64}[str(part.dtype)]


def choose_transport(
    comm: Communicator, gpu, placement: Placement, wanted: str = "auto"
) -> tuple[Transport | None, str]:
    """(the transport, why it was chosen); None for one rank, which has nothing to send. Collective.

    ``auto`` takes a CUDA-aware MPI where it proves itself, else NCCL where each rank has a GPU of its own, else staged.

    Raises
    ------
    UserError
        on all ranks, when what was asked for cannot be had; saying why, and what to do.
    """
    if comm.size == 1:
        return None, "one rank, nothing to send"
    reasons = []
    if wanted in ("auto", "cuda-aware"):
        refused = _refuses_device_memory(comm, gpu)
        if refused is None:
            return CudaAwareTransport(comm, gpu), "this MPI takes GPU memory, and summed it rightly on trial"
        if wanted == "cuda-aware":
            raise UserError(
                f"--transport cuda-aware: this MPI ({comm.library}) does not accept GPU memory: {refused}; load the "
                "site's CUDA-aware MPI and build mpi4py against it (pip install --no-binary mpi4py 'mpirecon[mpi]'), "
                "or use --transport staged or nccl"
            )
        reasons.append(f"MPI does not accept GPU memory ({refused})")
    if wanted in ("auto", "nccl"):
        made, refused = _try_nccl(comm, gpu, placement)
        if made is not None:
            return made, "; ".join([*reasons, "NCCL joins GPUs, one a rank"])
        if wanted == "nccl":
            raise UserError(f"--transport nccl: {refused}; use --transport staged")
        reasons.append(refused)
    return StagedTransport(comm, gpu), "; ".join([*reasons, "pinned host buffers"]) if reasons else "asked for"


def _refuses_device_memory(comm: Communicator, gpu) -> str | None:
    """Why this MPI may not be given GPU memory, agreed by all ranks; None when it may."""
    said, words = cuda_support.what_mpi_says()
    refused = words if said is False else None
    if refused is None and comm.local_rank == 0:
        well, wrong = cuda_support.trial(gpu.index)
        refused = None if well else wrong
    refused = _first(comm, refused)
    if refused is not None:
        return refused
    return _first(comm, _wrong_sum(CudaAwareTransport(comm, gpu)))


def _wrong_sum(transport: Transport) -> str | None:
    """What is wrong with a sum over the ranks on trial; None when nothing is."""
    comm, index = transport.comm, np.arange(_TRIAL_LENGTH, dtype=np.float32)
    total = transport.allreduce(transport.gpu.to_device((comm.rank + 1) * index)).get()
    right = np.array_equal(total, comm.size * (comm.size + 1) // 2 * index)
    return None if right else f"a sum over {comm.size} ranks was wrong"


def _try_nccl(comm: Communicator, gpu, placement: Placement) -> tuple[NcclTransport | None, str]:
    if not placement.one_gpu_a_rank:
        return None, "NCCL needs a separate GPU for each rank, but ranks share one"
    try:
        from cupy.cuda import nccl

        nccl.NcclCommunicator  # noqa: B018 - CuPy without NCCL has a module without it
        missing = None
    except (ImportError, AttributeError):
        nccl, missing = None, "CuPy finds no NCCL (pip install nvidia-nccl-cu12, or -cu13)"
    missing = _first(comm, missing)
    if missing is not None:
        return None, missing
    made = None
    identity, failed = comm.bcast(_guarded(nccl.get_unique_id) if comm.rank == 0 else None)
    if failed is None:
        made, failed = _guarded(lambda: NcclTransport(comm, gpu, nccl, identity))
    failed = _first(comm, failed)
    if failed is None:
        wrong, failed = _guarded(lambda: _wrong_sum(made))
        failed = _first(comm, failed or wrong)
    return (made, "") if failed is None else (None, f"NCCL does not work here ({failed})")


def _guarded(function) -> tuple[object, str | None]:
    """(what it returns, None), or (None, what a library says that fails):
    another transport is then taken, by all ranks."""
    try:
        return function(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _first(comm: Communicator, text: str | None) -> str | None:
    """What the lowest rank that says something says, on all ranks."""
    return next((said for said in comm.allgather(text) if said is not None), None)


def _flat(array):
    if not array.flags.c_contiguous:
        raise ValueError(f"expected a C-contiguous array, got one of shape {array.shape}")
    return array.reshape(-1)
