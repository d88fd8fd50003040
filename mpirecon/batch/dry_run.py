"""``reconstruct --dry-run``: will it fit, what will it move, how long will it take; nothing is allocated for it."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

from mpirecon.batch.calibration import calibration
from mpirecon.batch.forecast import (
    Task,
    memory_parts,
    memory_per_rank,
    reduced_bytes,
    seconds_by_phase,
)
from mpirecon.batch.units import clock, memory_words
from mpirecon.errors import UserError
from mpirecon.parallel.agree import run_first
from mpirecon.parallel.comm import Communicator

_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def dry_run(comm: Communicator, task: Task, threads: int = 1) -> list[str]:
    """What a run of `task` on the ranks of `comm` will take, line by line, on every rank, as rank 0's host was
    calibrated. Collective.

    Raises
    ------
    UserError
        on all ranks, when a host has less memory than its ranks need: what would fit.
    """
    hosts = comm.allgather((comm.hostname, available_memory()))
    return comm.bcast(run_first(comm, lambda: _forecast(task, comm.size, threads, hosts)))


def _forecast(task: Task, size: int, threads: int, hosts: list[tuple[str, int]]) -> list[str]:
    there = {host: min(free for name, free in hosts if name == host) for host, _ in hosts}
    ranks = Counter(host for host, _ in hosts)
    needed = memory_per_rank(task, size, threads)
    for host, count in ranks.items():
        if count * needed > there[host]:
            raise UserError(
                f"{host} has {memory_words(there[host])} of memory left for {count} ranks that need "
                f"{memory_words(needed)} each (box {task.box}, {task.particles} particles, {task.folds} folds). "
                f"{what_fits(task, size, ranks, there, threads)}"
            )
    return describe(task, size, threads, dict(ranks), there)


def describe(task: Task, ranks: int, threads: int, hosts: dict[str, int], there: dict[str, int]) -> list[str]:
    """The forecast in words."""
    parts = {name: amount for name, amount in memory_parts(task, ranks, threads).items() if amount}
    phases = {phase: amount for phase, amount in seconds_by_phase(task, ranks, threads=threads).items()
              if amount >= 0.005}
    total = sum(phases.values())
    fullest = max(hosts, key=lambda host: hosts[host] * sum(parts.values()) / there[host])
    return [
        f"{task.particles} particles, box {task.box}, {task.rounds} iteration{'s' * (task.rounds > 1)}, {task.groups} "
        f"groups; {ranks} rank{'s' * (ranks > 1)} of {threads} thread{'s' * (threads > 1)}",
        f"memory: {memory_words(sum(parts.values()))} per rank ("
        + ", ".join(f"{name} {memory_words(amount)}" for name, amount in parts.items())
        + f"); {fullest} has {memory_words(there[fullest])} left for {hosts[fullest]} of them",
        f"reduced between ranks: {memory_words(reduced_bytes(task, ranks))} per rank",
        f"time: about {_duration(total)} ("
        + ", ".join(f"{name} {_duration(amount)}" for name, amount in phases.items())
        + f"), {calibration().of_cores}; images in the host's file cache",
    ]


def what_fits(task: Task, ranks: int, hosts: dict[str, int], there: dict[str, int], threads: int = 1) -> str:
    """What to ask for instead: fewer ranks on each host, as many on more hosts, fewer folds; only what helps."""
    room, most = min(there.values()), max(hosts.values())

    def fits(task: Task, per_host: int, in_all: int) -> bool:
        return per_host * memory_per_rank(task, in_all, threads) <= room

    choices = []
    fewer = next((n for n in range(most - 1, 0, -1) if fits(task, n, n * len(hosts))), None)
    if fewer:
        choices.append(f"{fewer} rank{'s' * (fewer > 1)} a host (with more threads each)")
    spread = next((n for n in range(1, most) if ranks % (most - n) == 0 and fits(task, most - n, ranks)), None)
    if spread and most - spread != fewer:
        choices.append(f"{ranks} ranks on {ranks // (most - spread)} hosts")
    more = next((n for n in (2, 4, 8, 16, 32, 64, 128) if fits(task, 1, n * len(hosts) * most)), None)
    if more and most == 1:
        choices.append(f"{more * ranks} ranks, one a host")
    folds = next((f for f in range(task.folds - 1, 1, -1) if fits(Task(**vars(task) | {"folds": f}), most, ranks)),
                 None)
    if folds:
        choices.append(f"--folds {folds}")
    box = next((b for b in range(task.box - 2, 15, -2) if fits(Task(**vars(task) | {"box": b}), most, ranks)), None)
    if box:
        choices.append(f"images cropped or binned to a box of {box}")
    return f"What fits: {'; or '.join(choices)}" if choices else "Hosts with more memory are needed"


def available_memory(meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int:
    """Bytes that processes here may still take: the host's, or less where a batch system or container set a limit."""
    found = [_host_memory(meminfo), *_limits(cgroups)]
    return min(amount for amount in found if amount is not None)


def _host_memory(meminfo: Path) -> int:
    try:
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(cgroups: Path):
    """What is left of each limit that this process is under (cgroup versions 2 and 1)."""
    for folder, limit, used in _cgroup_files(cgroups):
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None and most < 2**60:
            yield max(0, most - now + _reclaimable(folder))


def _cgroup_files(cgroups: Path):
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        entries = []
    for _, controllers, name in [entry for entry in entries if len(entry) == 3] or [("0", "", "/")]:
        if controllers == "":
            root, files = cgroups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / name.strip("/")
        for place in dict.fromkeys([folder, *folder.parents]):  # a limit of any group above holds too
            if place == root or root in place.parents:
                yield place, *files


def _reclaimable(folder: Path) -> int:
    """Bytes of a group's use that are cached files, which it gives up when it needs memory."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else clock(math.ceil(seconds))
