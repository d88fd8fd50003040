"""Time and memory over the number of ranks, before there are particles: what to start a reconstruction with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mpirecon.batch.forecast import Task, memory_per_rank, seconds
from mpirecon.parallel.threads import MOST_KEPT

#: most ranks that are asked about, and the gain in time below which more are not
MOST_RANKS, _WORTH = 1024, 1.1

#: core hours over those of the best row above which several nodes are no advice
_WASTE = 2.0


@dataclass(frozen=True)
class Size:
    """How many particles of which box (pixels) there will be; pixel_size in Å, where it matters;
    has_truth : whether errors were simulated; rows : of a group (--group-by), on average."""

    count: int
    box: int
    pixel_size: float | None = None
    has_truth: bool = False
    rows: float = 1.0

    def __len__(self) -> int:
        return self.count

    def group_size(self, column: str) -> float:
        """As of a ParticleFile."""
        return self.rows


@dataclass(frozen=True)
class Node:
    """A machine: cores, and bytes of memory for the ranks on it; speed of its cores relative to the reference."""

    cores: int
    memory: float
    speed: float = 1.0


@dataclass(frozen=True)
class Row:
    """One way to start it: wall seconds, bytes a rank; nodes, None where a rank is larger than one."""

    ranks: int
    threads: int
    seconds: float
    memory: float
    nodes: int | None

    @property
    def memory_in_all(self) -> float:
        return self.ranks * self.memory


def rank_table(task_of: Callable[[float], Task], node: Node, threads: int = 1, rate: float = math.inf) -> list[Row]:
    """Rows for 1, 2, 4 … ranks of `threads`, as many as gain time, and for the ranks and the threads that fill a node.

    Parameters
    ----------
    task_of : bytes that a rank may keep images in → the task
    rate : bytes a second that a rank reads
    """
    particles = task_of(0).particles
    filling = max(1, node.cores // threads)
    counts = sorted({*(2**k for k in range(11)), filling})
    rows: list[Row] = []
    for ranks in (n for n in counts if n <= min(MOST_RANKS, particles)):
        row = _row(task_of, node, ranks, threads, rate)
        if ranks > filling and rows and rows[-1].seconds < _WORTH * row.seconds:
            break
        rows.append(row)
    if node.cores > threads:
        rows.insert(1, _row(task_of, node, 1, node.cores, rate))
    return rows


def choose(rows: list[Row]) -> tuple[Row | None, Row | None]:
    """(the fastest on one node, the fastest on several that makes good use of them); None where there is none."""
    single = _fastest([row for row in rows if row.nodes == 1])
    least = min(row.seconds * row.ranks * row.threads for row in rows)
    several = _fastest(
        [row for row in rows if (row.nodes or 0) > 1 and row.seconds * row.ranks * row.threads <= _WASTE * least]
    )
    if single and several and single.seconds < _WORTH * several.seconds:
        several = None
    return single, several


def _fastest(rows: list[Row]) -> Row | None:
    """The one of fewest ranks among those that are as good as the fastest."""
    if not rows:
        return None
    best = min(row.seconds for row in rows)
    return next(
        row for row in sorted(rows, key=lambda row: (row.ranks * row.threads, -row.ranks)) if row.seconds <= 1.03 * best
    )


def _row(task_of: Callable[[float], Task], node: Node, ranks: int, threads: int, rate: float) -> Row:
    for nodes in (n for n in range(1, ranks + 1) if ranks % n == 0):
        here = ranks // nodes
        task = task_of(min(MOST_KEPT, node.memory / (4 * here)))
        needed = memory_per_rank(task, ranks, threads)
        if here * threads <= node.cores and here * needed <= node.memory:
            break
    else:
        nodes = None
    return Row(ranks, threads, seconds(task, ranks, node.speed, threads, rate), needed, nodes)
