"""Where products of matrices are made: by BLAS on NumPy's arrays, or by cuBLAS on CuPy's, with the same code."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # which most hosts have none of
    from mpirecon.backend.gpu import Gpu


class Arrays:
    """Arrays on the host.

    Attributes
    ----------
    module : module
        numpy, or cupy
    columns, block : int
        columns of a matrix and numbers of a result that are worth a product: what stays in a core's cache, or what
        fills a GPU
    """

    module: ModuleType = np
    columns, block = 512, 2**20

    def moved(self, array: np.ndarray):
        """A host array where the products are made."""
        return array

    def on_host(self, array) -> np.ndarray:
        return array

    def ran_out(self, error: Exception) -> bool:
        """Whether an error says that a device's memory did not suffice, which the host's may."""
        return False


class DeviceArrays(Arrays):
    """Arrays on a GPU."""

    columns, block = 2**13, 2**24

    def __init__(self, gpu: Gpu, log=None) -> None:
        self.module, self._gpu, self._log = gpu.cupy, gpu, log

    def moved(self, array: np.ndarray):
        return self._gpu.to_device(array)

    def on_host(self, array) -> np.ndarray:
        return array.get()

    def ran_out(self, error: Exception) -> bool:
        if not self._gpu.ran_out(error):
            return False
        if self._log is not None:
            self._log.event("matrix products on the host", free=self._gpu.free_bytes())
        return True


#: arrays of the host
HOST = Arrays()


class HostWhereFull:
    """Something made of some arrays; of the host's once a GPU's memory does not suffice.

    Parameters
    ----------
    make : callable
        makes it, of Arrays
    arrays : Arrays
        which are preferred
    """

    def __init__(self, make: Callable[[Arrays], object], arrays: Arrays) -> None:
        self._make, self._arrays, self._made = make, arrays, None

    def __call__(self, use: Callable[[object], object]):
        """What `use` returns of it."""
        try:
            if self._made is None:
                self._made = self._make(self._arrays)
            return use(self._made)
        except Exception as error:
            if not self._arrays.ran_out(error):
                raise
        self._arrays, self._made = HOST, self._make(HOST)
        return use(self._made)
