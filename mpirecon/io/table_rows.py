"""The rows of a particle table over all ranks: how many are so, from where to where numbers go, which is the first."""

from __future__ import annotations

import numpy as np

from mpirecon.io.particle_table import ParticleTable
from mpirecon.parallel.comm import Communicator


class Rows:
    """Counts over the rows of all ranks."""

    def __init__(self, comm: Communicator, table: ParticleTable) -> None:
        self.comm, self.table = comm, table
        self.total = comm.allreduce_scalar(len(table))

    def count(self, rows: np.ndarray) -> int:
        return int(self.comm.allreduce_scalar(int(rows.sum())))

    def all(self, rows: np.ndarray) -> bool:
        return self.count(~rows) == 0

    def range(self, values: np.ndarray) -> tuple[float, float]:
        """(lowest, highest) of finite values; (inf, −inf) where no rank has any."""
        low = self.comm.allreduce_scalar(float(values.min()) if len(values) else np.inf, "min")
        return float(low), float(self.comm.allreduce_scalar(float(values.max()) if len(values) else -np.inf, "max"))

    def first(self, rows: np.ndarray) -> str:
        """Where the first of some rows is: file and line."""
        mine = self.table.place(int(np.flatnonzero(rows)[0])) if rows.any() else None
        return next((place for place in self.comm.allgather(mine) if place is not None), "")


def column_name(table: ParticleTable, relion: str, cryosparc: str) -> str:
    return relion if table.unit == "line" else cryosparc
