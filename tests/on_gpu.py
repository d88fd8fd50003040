"""Kernels that tests run on the host, run on a GPU through CuPy instead, where MPIRECON_KERNELS_ON=gpu asks for it."""

from __future__ import annotations

import functools
import os

import numpy as np

from mpirecon.kernels.cuda_source import cuda_source


def wanted() -> bool:
    return os.environ.get("MPIRECON_KERNELS_ON") == "gpu"


@functools.lru_cache(maxsize=None)
def _module(settings):
    import cupy

    return cupy.RawModule(code=cuda_source(settings), options=("-std=c++17",), backend="nvrtc")


def launch(name: str, blocks: int, threads: int, arguments: tuple, settings, shared: int) -> None:
    """As host_cuda's: arrays of the host, which hold what the kernel has written when this returns."""
    import cupy

    held = [(a, cupy.asarray(np.ascontiguousarray(a))) if isinstance(a, np.ndarray)
            else (None, np.intp(0) if a is None else a)
            for a in arguments]  # fmt: skip
    _module(settings).get_function(name)((blocks,), (threads,), tuple(there for _, there in held), shared_mem=shared)
    for here, there in held:
        if here is not None and here.flags.writeable:
            here[...] = there.get()
