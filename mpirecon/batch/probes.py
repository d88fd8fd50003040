"""What a rank finds where it runs, and trials that the ranks make together. Facts only; checks.py assesses them."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mpirecon import __version__
from mpirecon.errors import UserError
from mpirecon.io.shared_folder import VISIBLE
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.launcher import find_launcher

#: elements of the array that ranks sum on trial, and bytes of the file they write
_SUM_LENGTH, _FILE_BYTES = 2_000_000, 4 * 2**20

#: barriers after which clocks are read; the calmest counts
_CLOCK_ROUNDS = 7

_MPI_TRIAL = """
import mpi4py
from mpi4py import MPI
print(mpi4py.__version__, MPI.Get_library_version().strip("\\0 \\n"))
"""


def rank_facts(comm: Communicator) -> dict:
    """This rank's place, cores, threads and versions; no communication."""
    import h5py
    import numba

    return {
        "rank": comm.rank,
        "host": comm.hostname,
        "local_rank": comm.local_rank,
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count())),
        "host_cores": os.cpu_count(),
        "threads": numba.config.NUMBA_NUM_THREADS,
        "gpus": gpu_facts(),
        "numba_cache": numba_cache(),
        "versions": {
            "mpirecon": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "numba": numba.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version,
        },
        "hdf5_parallel": bool(h5py.get_config().mpi),
    }  # fmt: skip


def gpu_facts() -> dict:
    """``{"uuids": visible GPUs, "cupy": version or why it does not work, "visible": CUDA_VISIBLE_DEVICES, "devices":
    what CuPy says of each, "driver", "runtime": CUDA versions, "mpi":
    whether MPI takes GPU memory, in its own words}``.
    """
    uuids = []
    if shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
            listed = subprocess.run(query, capture_output=True, text=True, timeout=30)
            uuids = [line.strip() for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    facts = {"uuids": uuids, "cupy": None, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "devices": []}
    if importlib.util.find_spec("cupy"):
        facts |= _cupy_facts()
        if facts["devices"]:  # what this process sees, of all that nvidia-smi lists
            facts["uuids"] = [f"{device['uuid']}, {device['name']}" for device in facts["devices"]]
    return facts


def _cupy_facts() -> dict:
    from mpirecon.parallel.gpus import device_facts, load_cupy
    from mpirecon.parallel.cuda_support import what_mpi_says

    try:
        cupy = load_cupy()
    except UserError as error:
        return {"cupy": f"does not work: {str(error).removeprefix('--backend cuda: ')}"}
    devices = [device_facts(cupy, index) for index in range(cupy.cuda.runtime.getDeviceCount())]
    first = devices[0]
    return {"cupy": cupy.__version__, "devices": devices, "driver": first["driver"], "runtime": first["runtime"],
            "mpi": what_mpi_says()[1]}  # fmt: skip


def numba_cache() -> dict:
    """``{"folder": where compiled kernels are kept, "error": why that does not work or None}``, and ``"disabled"``: why
    none can be compiled."""
    try:
        from mpirecon.kernels.weigh import weigh

        if weigh.stats.cache_path is None:
            return {"folder": "", "error": "neither a home nor the program's own folder can be written"}
        folder = Path(weigh.stats.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial-{os.getpid()}-{os.uname().nodename}"
        trial.write_bytes(b"x")
        trial.unlink()
    except OSError as error:
        return {"folder": str(getattr(error, "filename", "") or ""), "error": str(error)}
    except UserError as error:
        return {"folder": "", "error": None, "disabled": str(error)}
    return {"folder": str(folder), "error": None}


def mpi_facts(comm: Communicator) -> dict:
    """The MPI in use, or the one that would be; in a process of its own where none runs, since MPI may end it."""
    launcher = find_launcher()
    facts = {"launcher": launcher.name if launcher else None, "library": None, "mpi4py": None, "error": None}
    if "mpi4py.MPI" in sys.modules:
        import mpi4py

        return {**facts, "library": comm.library, "mpi4py": mpi4py.__version__}
    if importlib.util.find_spec("mpi4py") is None:
        return {**facts, "error": "mpi4py is not installed"}
    try:
        trial = subprocess.run([sys.executable, "-c", _MPI_TRIAL], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return {**facts, "error": "MPI did not start within 60 s"}
    if trial.returncode:
        lines = trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"]
        return {**facts, "error": lines[-1]}
    version, _, library = trial.stdout.partition(" ")
    return {**facts, "library": library.splitlines()[0].split(", package")[0], "mpi4py": version}


def transport(comm: Communicator) -> dict:
    """The array calls of a reconstruction on numbers whose result is known: are they right, and how fast is the sum."""
    index = np.arange(_SUM_LENGTH, dtype=np.int64) % 1000
    total = (comm.size * (comm.size + 1) // 2 * index).astype(np.float64)

    def mine() -> np.ndarray:
        return ((comm.rank + 1) * index).astype(np.float64)  # whole numbers: sums are exact in any order

    comm.allreduce(mine())  # connections are made at the first message
    comm.barrier()
    data = mine()
    start = time.perf_counter()
    comm.allreduce(data)
    seconds = time.perf_counter() - start
    part = comm.reduce_scatter(mine())
    right = {
        "allreduce": bool(np.array_equal(data, total)),
        "reduce_scatter and allgather": bool(np.array_equal(comm.allgather_slabs(part, _SUM_LENGTH), total)),
        "broadcast": bool(np.array_equal(comm.bcast_array(mine(), comm.size - 1), (comm.size * index).astype(float))),
    }
    wrong = [name for name, good in right.items() if not comm.allreduce_scalar(int(good), "min")]
    return {"wrong": wrong, "bytes": data.nbytes, "seconds": comm.allreduce_scalar(seconds, "max")}


def clock_skew(comm: Communicator) -> float:
    """Seconds between the earliest and the latest clock of the ranks; the wait at a barrier is part of it."""
    best = math.inf
    for _ in range(_CLOCK_ROUNDS):
        comm.barrier()
        times = comm.allgather(time.time())
        best = min(best, max(times) - min(times))
    return best


def file_system(comm: Communicator, folder: Path) -> dict:
    """Can every rank write in `folder`, flush, rename and read back, and does it see what the others wrote?

    A folder that does not exist yet is represented by the one it would be made in. Nothing is left behind.

    Returns on every rank: ``folder`` tried, ``errors`` {rank: text}, ``unseen`` {rank: ranks whose file it did not
    see}, ``free`` bytes, ``seconds`` of the slowest write of ``bytes``.
    """
    place = comm.bcast(_existing(folder.absolute()) if comm.rank == 0 else None)
    error, seconds = _write(place, comm.rank)
    errors = {rank: text for rank, text in enumerate(comm.allgather(error)) if text}
    unseen = _unseen(place, set(range(comm.size)) - set(errors)) if error is None else []
    missing = {rank: ranks for rank, ranks in enumerate(comm.allgather(unseen)) if ranks}
    free = shutil.disk_usage(place).free if error is None else 0
    with contextlib.suppress(OSError):
        _trial(place, comm.rank).unlink()
    return {
        "folder": str(place),
        "errors": errors,
        "unseen": missing,
        "free": comm.bcast(free),
        "seconds": comm.allreduce_scalar(seconds, "max"),
        "bytes": _FILE_BYTES,
    }


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def _write(folder: Path, rank: int) -> tuple[str | None, float]:
    content = bytes(range(256)) * (_FILE_BYTES // 256)
    final = _trial(folder, rank)
    temporary = final.with_suffix(".tmp")
    try:
        start = time.perf_counter()
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
        seconds = time.perf_counter() - start
        if final.read_bytes() != content:
            return "what was read back differs from what was written", seconds
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return f"{error.strerror or error}", 0.0
    return None, seconds


def _unseen(folder: Path, ranks: set[int]) -> list[int]:
    """Ranks whose file does not show up here, although it has been written."""
    start = time.monotonic()
    missing = sorted(ranks)
    while True:
        missing = [rank for rank in missing if not _trial(folder, rank).exists()]
        if not missing or time.monotonic() - start > VISIBLE:
            return missing
        time.sleep(0.1)


def _trial(folder: Path, rank: int) -> Path:
    return folder / f".mpirecon-check-{rank:04d}.trial"
