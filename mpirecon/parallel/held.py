"""The memory that this process holds, and what it holds for nothing."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path


def memory_held() -> dict[str, int]:
    """``now`` and ``most``, bytes: the memory that the process holds, and the most that it has held.

    On Linux from /proc: the kernel counts what the starting process held into the resource usage of the started one.
    Elsewhere only the most is known.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return {name: 1024 * int(status.split(f"{label}:")[1].split()[0])
                for name, label in (("now", "VmRSS"), ("most", "VmHWM"))}
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"now": peak, "most": peak}


def give_back_unused() -> None:
    """Give the system back the memory of arrays that are gone.

    The C library of Linux keeps that of arrays up to 32 MB for others to come, in pieces between those that are still
    there: after a selection, of tens of arrays of numbers for each particle, as much again as what is in use.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
