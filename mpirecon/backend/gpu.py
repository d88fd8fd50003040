"""One GPU through CuPy: its memory, and kernels compiled for it when they are first needed."""

from __future__ import annotations

import functools
import os

import numpy as np

from mpirecon.errors import OUT_OF_GPU_MEMORY, UserError
from mpirecon.kernels.cuda_source import Settings, cuda_source
from mpirecon.kernels.tables import KERNELS
from mpirecon.parallel.gpus import load_cupy

#: blocks of kernels whose threads loop over all that there is to do: enough to fill any chip
_BLOCKS = 4096


@functools.lru_cache(maxsize=None)
def _module(cupy, index: int, code: str):
    """The kernels compiled for device `index`, which is the current one. CuPy keeps the binary on disk as well."""
    return cupy.RawModule(code=code, options=("-std=c++17",), backend="nvrtc")


def settings_for(taps: int, padding: float, bands: int) -> Settings:
    """Settings of the kernels; MPIRECON_CUDA_LANES and MPIRECON_CUDA_THREADS in the environment try others out.

    Raises UserError for values that no kernel has.
    """
    given = {name: os.environ.get(f"MPIRECON_CUDA_{name.upper()}") for name in ("lanes", "threads")}
    try:
        chosen = {name: int(value) for name, value in given.items() if value}
        return Settings(**{"taps": taps, "padding": padding, "bands": bands, "lanes": 4 if taps in (3, 4) else 2,
                           **chosen})
    except ValueError as error:
        settings = ", ".join(f"MPIRECON_CUDA_{name.upper()}={value}" for name, value in given.items() if value)
        raise UserError(f"{settings}: {error}") from error


class Gpu:
    """One device, of which `sharing` ranks each use their part.

    Raises UserError as load_cupy, and for an index that does not exist.
    """

    def __init__(self, index: int = 0, sharing: int = 1, settings: Settings = Settings()) -> None:
        self.cupy = load_cupy()
        count = self.cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise UserError(f"GPU {index} was asked for, {count} are visible")
        self.index, self.sharing, self.settings = index, sharing, settings
        self.use()

    def use(self) -> None:
        """Make it the device of this thread."""
        self.cupy.cuda.Device(self.index).use()

    def free_bytes(self) -> int:
        """Memory that this rank may still fill: its fraction of what is free, and what CuPy keeps for reuse."""
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return int(free / self.sharing) + int(self.cupy.get_default_memory_pool().free_bytes())

    def to_device(self, array: np.ndarray, dtype=None):
        """A copy on the device, C-contiguous."""
        return self.cupy.asarray(np.ascontiguousarray(array, dtype))

    def launch(self, kernel: str, blocks: int | None, /, *, threads: int | None = None, shared: int = 0,
               **arguments) -> None:
        """Start a kernel on the current stream; without `blocks`, one whose threads loop over all there is to do.

        arguments : by the names of its table (kernels/tables.py), which they are checked by
        """
        if blocks == 0:
            return
        ordered = KERNELS[kernel].arranged(arguments)
        function = _module(self.cupy, self.index, cuda_source(self.settings)).get_function(kernel)
        # CuPy takes no null pointer but an address of zero
        ordered = tuple(np.intp(0) if a is None else a for a in ordered)
        function((blocks or _BLOCKS,), (threads or self.settings.threads,), ordered, shared_mem=shared)

    def synchronize(self) -> None:
        """Wait until the current stream has done all that it was given."""
        self.cupy.cuda.get_current_stream().synchronize()

    def ran_out(self, error: Exception) -> bool:
        """Whether an error says that memory did not suffice: CuPy's pool's, cuFFT's, or what the system pins."""
        text = f"{type(error).__name__}: {error}"
        return isinstance(error, self.cupy.cuda.memory.OutOfMemoryError) or any(
            words in text for words in OUT_OF_GPU_MEMORY
        )
