"""One decision over all particles, made by every rank for itself: for --deterministic, and where particles are few.

A mixture is fitted by sums over particles, step by step: hundreds of messages, each of which waits for the slowest
rank, which on a busy machine takes longer than all arithmetic; and their rounding depends on how particles are spread
over ranks. So every rank gathers what is known of all of them (a few hundred bytes each), decides as a single rank
would, and keeps its part.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np

from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.select import select
from mpirecon.robust.selection import RandomPoses, Selection
from mpirecon.robust.statistics import Statistics

#: particles of all ranks up to which each rank's decision about all of them takes less time than that by messages
FEW = 20_000


def select_over_ranks(
    comm: Communicator, statistics: Statistics, ids: np.ndarray, valid: np.ndarray, *, exactly: bool, **options
) -> Selection:
    """``select``, by the faster way; ``exactly``: by the one whose bits do not depend on the number of ranks.
    Collective."""
    few = options.get("sort_scope", "global") == "global" and comm.allreduce_scalar(len(ids)) <= FEW
    return (select_jointly if exactly or few else select)(comm, statistics, ids, valid, **options)


def select_jointly(
    comm: Communicator, statistics: Statistics, ids: np.ndarray, valid: np.ndarray, *,
    random_poses: RandomPoses | None = None,
    groups: np.ndarray | None = None, nearby: NearbyPoses | None = None, views: np.ndarray | None = None, **options,
) -> Selection:
    """``select`` with the result that a single rank would have, bit for bit, whatever the number of ranks. Collective.

    Parameters and result are those of ``select``; ranks hold rows that follow each other.
    """
    lengths = comm.allgather(len(ids))
    total, first = sum(lengths), sum(lengths[: comm.rank])

    def whole(values: np.ndarray) -> np.ndarray:
        return gather_rows(comm, values, total)

    if comm.size > 1:
        statistics = Statistics(whole(statistics.sums), statistics.samples)
        groups, views = (None if some is None else whole(some) for some in (groups, views))
        random_poses = None if random_poses is None else _whole_random(random_poses, len(ids), whole)
        if nearby is not None:
            parts = (nearby.turn, nearby.sums, nearby.slope, nearby.curvature)
            nearby = NearbyPoses(*(whole(part) for part in parts), nearby.profile, nearby.band_profile)
    ids_of_all, valid_of_all = whole(ids), whole(valid)
    # each by itself, but a script's own loss may fail on one rank: the others must not wait for it
    decided = run_together(comm, lambda: select(
        SerialCommunicator(), statistics, ids_of_all, valid_of_all, random_poses=random_poses, groups=groups,
        nearby=nearby, views=views, **options,
    ))  # fmt: skip
    return _part(decided, slice(first, first + len(ids)), total)


def _whole_random(random_poses: RandomPoses, m: int, whole) -> RandomPoses:
    some = random_poses.statistics
    marked, sums = np.zeros(m, bool), np.zeros((m, *some.sums.shape[1:]))
    marked[random_poses.rows] = True
    sums[random_poses.rows] = some.sums
    rows = np.flatnonzero(whole(marked))
    return RandomPoses(rows, Statistics(whole(sums)[rows], some.samples))


def gather_rows(comm: Communicator, values: np.ndarray, total: int) -> np.ndarray:
    """The rows of all ranks, (total, …), on every rank, from each rank's slab of them. Collective."""
    if comm.size == 1:
        return values
    row = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8).view(f"V{row}")
    return comm.allgather_slabs(flat, total).view(values.dtype).reshape(total, *values.shape[1:])


def _part(whole, rows: slice, total: int):
    """A dataclass with the rows' part of every array that has a row per particle, nested ones included."""
    changed = {}
    for field in fields(whole):
        value = getattr(whole, field.name)
        if isinstance(value, np.ndarray) and len(value) == total:
            changed[field.name] = value[rows]
        elif is_dataclass(value):
            changed[field.name] = _part(value, rows, total)
    return replace(whole, **changed)
