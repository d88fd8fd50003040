"""The noise spectrum's sums in whole numbers, the same however particles are spread over ranks and batches."""

from __future__ import annotations

import numpy as np

from mpirecon.operators.fixed_point import sum_unit
from mpirecon.parallel.comm import Communicator


class ExactSpectrum:
    """Sums of weighted power and of samples, each (groups, shells); images are of unit power and count one by one."""

    def __init__(self, shape: tuple[int, int], box: int, images: int) -> None:
        self._power, self._count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        # an image of mean power one has no more than this in a shell; a CTF of twice the amplitude is allowed for
        self._unit = sum_unit(4.0 * box**2, images)

    def add(self, backend, batch, weight: np.ndarray) -> None:
        """Add the batch's images, each with its weight (b,) float64."""
        for row, group in enumerate(batch.group):
            power, count = np.zeros(self._power.shape[1]), np.zeros(self._power.shape[1])
            backend.add_spectrum(batch[row : row + 1], weight[row : row + 1], power, count)
            self._power[group] += np.rint(power * self._unit).astype(np.int64)
            self._count[group] += np.rint(count * self._unit).astype(np.int64)

    def total(self, comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
        """The sums over all ranks, (groups, shells) float64 each; collective."""
        return comm.allreduce(self._power) / self._unit, comm.allreduce(self._count) / self._unit
