"""What a job asks a batch system for, and whether the reconstruction fits into it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpirecon.batch.calibration import calibration
from mpirecon.batch.forecast import Task, memory_per_rank, seconds, wall_time
from mpirecon.batch.units import clock, memory_words, parse_memory, parse_time
from mpirecon.errors import UserError

#: what is asked for above the forecast, which is good to 15 %
_MEMORY_MARGIN = 1.2

#: bytes above the forecast that a rank needs where it compiles kernels: the first run on a kind of node
_COMPILING = 140_000_000

#: ranks of a node when the number of its cores is not given
_USUAL_RANKS = 4

#: most seconds of warning ahead of the time limit, unless asked otherwise
_WARNING = 300


@dataclass(frozen=True)
class Wish:
    """A resource request as the user and the site put it; None where they leave the choice to mpirecon.

    ranks and gpus count those of all nodes; memory is per node; time and max_time are texts that batch systems know.
    """

    nodes: int = 1
    ranks: int | None = None
    threads: int | None = None
    gpus: int | None = None
    memory: str | None = None
    time: str | None = None
    warning: int | None = None
    cores_per_node: int | None = None
    memory_per_node: str | None = None
    gpus_per_node: int | None = None
    max_time: str | None = None
    speed: float = 1.0


@dataclass(frozen=True)
class Plan:
    """A request that fits: what goes into the script. Bytes, seconds."""

    nodes: int
    ranks: int
    threads: int
    gpus: int
    memory: int
    seconds: int
    warning: int
    memory_per_rank: int
    expected_seconds: int

    @property
    def ranks_per_node(self) -> int:
        return self.ranks // self.nodes

    def forecast(self) -> str:
        """What the job is expected to take, and what it asks for, in a line."""
        ranks = f"each of {self.ranks} ranks" if self.ranks > 1 else "one rank"
        nodes = f"each of {self.nodes} nodes" if self.nodes > 1 else "one node"
        on_cpus = " on CPUs" if self.gpus else ""
        return (
            f"forecast: {memory_words(self.memory_per_rank)} on {ranks}, about "
            f"{clock(self.expected_seconds)}{on_cpus}; asking for {memory_words(self.memory)} on {nodes}, "
            f"{clock(self.seconds)}; {calibration()}"
        )


def plan(task: Task, wish: Wish) -> Plan:
    """Fill the gaps of a wish from the forecast, and check it.

    Raises
    ------
    UserError
        when it cannot be met: what was asked, what it would take, and what would fit.
    """
    ranks = _ranks(task, wish)
    per_node = ranks // wish.nodes
    threads = wish.threads or 1
    _check_cores(wish, per_node, threads)
    needed = memory_per_rank(task, ranks, threads)
    memory = _memory(task, wish, ranks, needed)
    wall = parse_time(wish.time) if wish.time else wall_time(task, ranks, wish.speed, threads)
    _check_time(wish, wall)
    # a warning must leave the larger part of the job to work in
    warning = min(wish.warning or _WARNING, wall // 3)
    expected = math.ceil(seconds(task, ranks, wish.speed, threads))
    return Plan(wish.nodes, ranks, threads, wish.gpus or 0, memory, wall, warning, math.ceil(needed), expected)


def _ranks(task: Task, wish: Wish) -> int:
    """Ranks in all: as asked; one a GPU; else as many as nodes hold, in cores and memory."""
    ranks = wish.ranks or wish.gpus or wish.nodes * _most_ranks(task, wish)
    if ranks % wish.nodes:
        below, above = ranks // wish.nodes * wish.nodes, -(-ranks // wish.nodes) * wish.nodes
        what = "--ranks" if wish.ranks else "--gpus"
        choice = f"{below} or {above}" if below else above
        raise UserError(f"{what} {ranks} cannot be shared evenly by --nodes {wish.nodes}; ask for {choice}")
    if wish.gpus and ranks != wish.gpus:
        raise UserError(f"--ranks {ranks} with --gpus {wish.gpus}: a GPU serves one rank; ask for as many of both")
    if wish.gpus and wish.gpus_per_node and wish.gpus > wish.nodes * wish.gpus_per_node:
        nodes = math.ceil(wish.gpus / wish.gpus_per_node)
        raise UserError(
            f"--gpus {wish.gpus}: {wish.nodes} nodes of {wish.gpus_per_node} GPUs have "
            f"{wish.nodes * wish.gpus_per_node}; ask for --nodes {nodes}"
        )
    if ranks > task.particles:
        raise UserError(f"{ranks} ranks for {task.particles} particles: each rank needs one at least; ask for fewer")
    return ranks


def _most_ranks(task: Task, wish: Wish) -> int:
    """Ranks of a node when none are asked for."""
    most = (wish.cores_per_node or _USUAL_RANKS * (wish.threads or 1)) // (wish.threads or 1)
    most = max(1, min(most, task.particles // wish.nodes))
    limit = _limit(wish)
    fitting = (
        r
        for r in range(most, 0, -1)
        if limit is None or r * memory_per_rank(task, r * wish.nodes, wish.threads or 1) <= limit
    )
    return next(fitting, 1)


def _check_cores(wish: Wish, per_node: int, threads: int) -> None:
    if wish.cores_per_node and per_node * threads > wish.cores_per_node:
        fits = wish.cores_per_node // threads
        fewer = f"at most {fits} ranks a node, or " if fits else ""
        raise UserError(
            f"{per_node} ranks of {threads} threads need {per_node * threads} cores, a node has {wish.cores_per_node}; "
            f"ask for {fewer}fewer --threads, or more --nodes"
        )


def _limit(wish: Wish) -> int | None:
    """Most bytes a node's ranks may take: what is asked for, and what nodes have."""
    asked = parse_memory(wish.memory) if wish.memory else None
    there = parse_memory(wish.memory_per_node, "memory_per_node") if wish.memory_per_node else None
    if asked and there and asked > there:
        raise UserError(f"--memory {wish.memory}: the site's nodes have {wish.memory_per_node}")
    return asked or there


def _memory(task: Task, wish: Wish, ranks: int, needed: float) -> int:
    """Bytes to ask for on a node."""
    per_node = ranks // wish.nodes
    limit = _limit(wish)
    if limit is not None and per_node * needed > limit:
        raise UserError(
            f"{per_node} ranks on a node need {memory_words(per_node * needed)} for box {task.box} "
            f"({memory_words(needed)} each), there are {memory_words(limit)}. {_what_fits(task, wish, ranks, limit)}"
        )
    if wish.memory:
        return limit
    wanted = _asked(per_node, needed)
    return min(wanted, limit or wanted)


def _asked(per_node: int, needed: float) -> int:
    """What is asked for where ranks need so many bytes each, in whole GB."""
    return 2**30 * math.ceil(per_node * max(_MEMORY_MARGIN * needed, needed + _COMPILING) / 2**30)


def _what_fits(task: Task, wish: Wish, ranks: int, limit: int) -> str:
    """What to ask for instead: fewer ranks on as many nodes, as many ranks on more nodes, or more memory."""
    choices = []

    def fits(per_node: int, nodes: int) -> bool:
        return per_node * memory_per_rank(task, per_node * nodes, wish.threads or 1) <= limit

    fewer = next((r for r in range(ranks // wish.nodes, 0, -1) if fits(r, wish.nodes)), None)
    if fewer and not wish.gpus:
        choices.append(f"--ranks {fewer * wish.nodes}")
    more = next((n for n in range(wish.nodes + 1, ranks + 1) if ranks % n == 0 and fits(ranks // n, n)), None)
    if more:
        choices.append(f"--nodes {more}")
    memory = _asked(ranks // wish.nodes, memory_per_rank(task, ranks, wish.threads or 1))
    there = parse_memory(wish.memory_per_node, "memory_per_node") if wish.memory_per_node else None
    if there is None or memory <= there:
        choices.append(f"--memory {memory // 2**30}G")
    return f"What fits: {' or '.join(choices)}" if choices else "Nodes with more memory are needed, or a smaller box"


def _check_time(wish: Wish, wall: int) -> None:
    most = parse_time(wish.max_time, "max_time") if wish.max_time else None
    if most and wall > most:
        how = f"--time {wish.time}" if wish.time else f"the forecast of {clock(wall)}"
        raise UserError(
            f"{how} is above the site's limit of {wish.max_time}; ask for more --ranks, or for --time {wish.max_time} "
            "if the forecast is too careful for these nodes"
        )
