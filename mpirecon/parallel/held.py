"""The memory that this process holds."""

from __future__ import annotations

import resource
import sys
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
