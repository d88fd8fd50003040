"""Arrays by the pages of memory that they lie in."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

#: visits of particles from which on huge pages of their grids are worth what it takes to get them: a sample then
#: takes a quarter less time at box 128 and two fifths at 256, and the system may have to move others' memory first
_VISITS = 2000

#: bytes below which a grid stays in a cache, and from which on it has pages of its own, huge or not
_SMALL, _LARGE = 2**22, 2**26


def worth_huge_pages(visits: float) -> bool:
    """Whether grids that so many particles are added to, or compared with, should lie in huge pages."""
    return visits >= _VISITS


def zeros(shape: tuple[int, ...], dtype, huge: bool = False, filled: bool = False) -> np.ndarray:
    """An array of zeros.

    huge : in pages of megabytes, where the system has them, however NumPy's own are
    filled : all of it will be added to, by one thread. Where it is large, its pages then come at once: one by one each
        would come twice, when it is first read and when it is first written, in four times the time
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    huge = huge and size >= _SMALL and hasattr(mmap, "MADV_HUGEPAGE")
    if not huge and size < _LARGE:
        return np.zeros(shape, dtype)
    pages = private_memory(size, at_once=filled and not huge)
    if huge:
        with suppress(OSError):  # of a system built without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def alone(beginning: np.ndarray) -> np.ndarray:
    """The first numbers of an array that ``zeros`` made, which is needed no more: its other memory is given back.

    Where it has no pages of its own, a copy.
    """
    pages = beginning
    while isinstance(pages, np.ndarray):
        pages = pages.base
    pages = pages.obj if isinstance(pages, memoryview) else pages
    if not isinstance(pages, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return beginning.copy()
    first = -(-beginning.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    if first < len(pages):
        pages.madvise(mmap.MADV_DONTNEED, first)
    return beginning


def private_memory(size: int, at_once: bool = False) -> mmap.mmap:
    """So many bytes of zeros, of pages of the system's usual size, that no other process sees.

    at_once : all of them now, not each when it is first used
    """
    populate = getattr(mmap, "MAP_POPULATE", 0) if at_once else 0  # of Linux
    return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate)
