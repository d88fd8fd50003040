"""Whether this MPI takes GPU memory: what it says of itself, then a trial in a process that may crash,
then one for real.

An MPI that does not, given a device pointer, reads it as host memory and is killed; so none is given one unasked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from mpirecon.parallel.launcher import without_launcher

#: seconds in which the trial process must be through
_PATIENCE = 120

#: set to 1 where no process can be tried beside the ranks (a GPU for one process alone, an MPI that needs its launcher)
TRUST = "MPIRECON_TRUST_CUDA_AWARE"

#: sends a device array to itself and sums one over its only rank; anything wrong ends it with a non-zero code
TRIAL = """
import sys
import cupy
cupy.cuda.Device(int(sys.argv[1])).use()
from mpi4py import MPI
source, target = cupy.asarray(range(1, 1001), "float32"), cupy.zeros(1000, "float32")
cupy.cuda.get_current_stream().synchronize()
MPI.COMM_SELF.Sendrecv(source, 0, 1, target, 0, 1)
MPI.COMM_SELF.Allreduce(MPI.IN_PLACE, target, MPI.SUM)
assert float(target.sum()) == 500500, "wrong sum"
print("CUDA-aware")
"""


def what_mpi_says() -> tuple[bool | None, str]:
    """(True, False or None when it does not say, the words for it), of the MPI library that is loaded;
    MPI is not called.

    Sources: Open MPI's MPIX_Query_cuda_support, MPICH's MPIX_GPU_query_support, and for MPIs that take GPU memory only
    when asked to, the variable that makes them do so.
    """
    library = loaded_library()
    ask = getattr(library, "MPIX_Query_cuda_support", None)
    if ask is not None:
        return bool(ask()), "MPIX_Query_cuda_support says " + ("yes" if ask() else "no")
    ask = getattr(library, "MPIX_GPU_query_support", None)
    if ask is not None:
        answer = ctypes.c_int(0)
        said = ask(0, ctypes.byref(answer)) == 0 and bool(answer.value)
        return said, "MPIX_GPU_query_support says " + ("yes" if said else "no")
    for variable in ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA", "MVP_USE_CUDA", "I_MPI_OFFLOAD"):
        if variable in os.environ:
            return os.environ[variable] not in ("", "0"), f"{variable}={os.environ[variable]}"
    return None, "it does not say"


def loaded_library():
    """The MPI library of this process, or an object without symbols."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "/libmpi" in line}
    except OSError:
        paths = set()
    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(library, "MPI_Init"):
            return library
    return object()


def trial(device: int) -> tuple[bool, str]:
    """Give device memory to MPI in a process of its own: (whether all went well, what went wrong). TRUST skips it."""
    if os.environ.get(TRUST) == "1":
        return True, ""
    try:
        result = subprocess.run([sys.executable, "-c", TRIAL, str(device)], capture_output=True, text=True,
                                timeout=_PATIENCE, env=without_launcher(), stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"a trial did not end within {_PATIENCE} s"
    if result.returncode == 0 and "CUDA-aware" in result.stdout:
        return True, ""
    if result.returncode < 0:
        return False, f"a trial was killed by {signal.Signals(-result.returncode).name}"
    lines = [line for line in result.stderr.splitlines() if line.strip()] or [f"exit code {result.returncode}"]
    return False, f"a trial failed: {lines[-1].strip()}"
