"""Compute kernels, one subject a file: the CPU twin (.py, Numba) beside the CUDA source (.cu) where there is one.

Kernels see plain arrays in pixel units; poses, Å and files belong to the layers above.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numba


def _cache_by_content() -> None:
    """Keep compiled kernels in a folder named by their sources, unless NUMBA_CACHE_DIR says where.

    Numba would notice a change of a kernel's own file, not of another file's function inlined into it: after an
    upgrade it could run the old one.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "mpirecon", "kernels-" + digest.hexdigest()[:16])
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return  # a read-only home: Numba finds a place of its own
    if os.access(folder, os.W_OK):
        numba.config.CACHE_DIR = folder


_cache_by_content()
