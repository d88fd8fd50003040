"""What a rank takes of its host: threads (kernels and FFTs release the interpreter, so plain ones share its arrays),
memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

#: variables by which users and batch systems set the threads of several numerical libraries
_ASKED = "OMP_NUM_THREADS"


class Threads:
    """`count` threads that work on pieces of one task; with one, everything happens in the caller's thread."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def run(self, tasks: list[Callable[[], None]]) -> None:
        """Run all tasks and return when every one has ended; the first error is raised."""
        if self.count == 1 or len(tasks) == 1:
            for task in tasks:
                task()
            return
        self._pool = self._pool or ThreadPoolExecutor(self.count)
        futures = [self._pool.submit(task) for task in tasks]
        wait(futures)
        for future in futures:
            future.result()

    def over(self, length: int, function: Callable[[int, int], None], smallest: int = 1) -> None:
        """``function(first, last)`` for consecutive pieces of range(length), one a thread, none below `smallest`."""
        pieces = max(1, min(self.count, length // max(smallest, 1)))
        bounds = [length * k // pieces for k in range(pieces + 1)]
        self.run([lambda a=a, b=b: function(a, b) for a, b in zip(bounds[:-1], bounds[1:])])


def default_threads(ranks_on_host: int) -> int:
    """Threads of a rank where none are given: OMP_NUM_THREADS, else its share of the cores this process may use."""
    asked = os.environ.get(_ASKED, "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, available_cores() // max(ranks_on_host, 1))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: glibc's names for what ``mallopt`` sets: blocks that are memory of the system's own, which it takes back when they
#: are freed: none; freed memory that is kept, as much as a number of 32 bits says; and heaps
_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = (-4, 0), (-1, 2**31 - 1), (-8, 1)

#: for large boxes: that many of such blocks, from the largest size on that glibc can be told
_MANY_MMAPS, _MMAP_THRESHOLD = (-4, 65536), (-3, 2**25)

#: whether NumPy asks for huge pages; read when NumPy is loaded
_HUGE_PAGES = "NUMPY_MADVISE_HUGEPAGE"


def keep_freed_memory() -> None:
    """Let this process use the memory again that arrays had, rather than give it back and ask for new.

    New pages are zeroed by the system one by one: that can take longer than what is computed in them. Huge pages take
    five times as long where the system must first move others' out of the way, as it must once its memory holds files.
    Without glibc, and of what was loaded before, nothing changes.
    """
    os.environ.setdefault(_HUGE_PAGES, "0")
    _tell_glibc(_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX)


def return_large_arrays() -> None:
    """Let the system have the memory of arrays of 32 MB and more when they are freed: of the few that a large box has,
    none fits where another was, and holes between them would be as large as what is used."""
    _tell_glibc(_MANY_MMAPS, _MMAP_THRESHOLD)


def _tell_glibc(*settings: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for setting in settings:
            mallopt(*setting)


#: most that prepared images take of a rank's memory where no limit is given
MOST_KEPT = 2**30


def default_memory(ranks_on_host: int) -> int:
    """Bytes of images that a rank keeps between passes where no limit is given:
    1 GB, or a quarter of its fraction of what is free."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return MOST_KEPT // 4
    return min(MOST_KEPT, free // (4 * max(ranks_on_host, 1)))
