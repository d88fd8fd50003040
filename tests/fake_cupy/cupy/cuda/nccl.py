"""NCCL's sums, made by MPI on the pretended device's memory, which is the host's."""

from __future__ import annotations

import ctypes

import numpy as np

NCCL_SUM = 0
NCCL_FLOAT32, NCCL_FLOAT64, NCCL_INT64 = 7, 8, 4
_TYPES = {NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64, NCCL_INT64: np.int64}

available = True


def get_unique_id() -> tuple:
    return (1, 2, 3)


def _at(pointer: int, count: int, datatype: int) -> np.ndarray:
    dtype = np.dtype(_TYPES[datatype])
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(pointer), dtype)


class NcclCommunicator:
    def __init__(self, ndev, commId, rank) -> None:
        from mpi4py import MPI

        assert tuple(commId) == (1, 2, 3) and ndev == MPI.COMM_WORLD.size and rank == MPI.COMM_WORLD.rank
        self._mpi = MPI.COMM_WORLD.Dup()

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream) -> None:
        self._mpi.Allreduce(_at(sendbuf, count, datatype).copy(), _at(recvbuf, count, datatype))

    def reduce(self, sendbuf, recvbuf, count, datatype, op, root, stream) -> None:
        self._mpi.Reduce(_at(sendbuf, count, datatype).copy(), _at(recvbuf, count, datatype), root=root)

    def destroy(self) -> None:
        pass
