"""What tools/bench and tools/scaling share: programs run and measured, and a line about the machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

#: many ranks on few cores, as root in a container: what a trial needs and a real run does not
SMALL_MACHINE = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe", "PRTE_MCA_hwloc_default_binding_policy": "none",
}


def measure(command: list, folder: Path, threads: int = 1) -> dict:
    """Run a command: ``cpu`` and ``wall`` seconds, and the largest ``memory`` of one of its processes, bytes.

    Ends the program with the command's own words when it fails.
    """
    environment = {**os.environ, **SMALL_MACHINE, **{name: str(threads) for name in QUIET}}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's programs are compiled once
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)
    peaks: dict[int, int] = {}
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
    watch.start()
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    ended.set()
    watch.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{said}\nthe command failed")
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": wall, "memory": max(peaks.values(), default=0),
            "said": said}


def _watch(leader: int, peaks: dict[int, int], ended: threading.Event) -> None:
    """Note the most memory that each process of a session has held.
    (A parent's usage counts what it held before exec.)"""
    while not ended.wait(0.02):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError, ValueError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    peaks[int(entry.name)] = 1024 * int((entry / "status").read_text().split("VmHWM:")[1].split()[0])


def mpirecon(*arguments) -> list:
    """The command line of this environment's mpirecon."""
    return [sys.executable, "-m", "mpirecon", *arguments]


def on_ranks(ranks: int, command: list) -> list:
    """The same on several ranks."""
    if ranks == 1:
        return command
    beside = Path(sys.executable).parent / "mpirun"
    return [str(beside) if beside.exists() else "mpirun", "-n", ranks, *command]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def machine() -> str:
    """Processor, cores, memory and versions in a line."""
    import numba
    import numpy

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (f"{names[0] if names else platform.processor()}, {cores} cores, {memory:.0f} GB, Python "
            f"{platform.python_version()}, NumPy {numpy.__version__}, Numba {numba.__version__}")


def table(rows: list[dict], columns: list[str] | None = None) -> str:
    """Rows as a Markdown table; numbers to three digits, high FSCs to five."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_text(row.get(name, ""), "FSC" in name) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _text(value, correlation: bool) -> str:
    """What tells good correlations apart is how far they are from 1."""
    if isinstance(value, float):
        return f"{value:.5f}" if correlation and value >= 0.95 else f"{value:.3g}"
    return str(value)
