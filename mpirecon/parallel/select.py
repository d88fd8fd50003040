"""Exact order statistics of values spread over ranks, without bringing them together.

A float64 is mapped to the int64 that sorts like it; a threshold is then found by narrowing an integer interval: each
round counts, on all ranks, the values up to 256 pivots. Eight rounds pin down any float64, whatever the data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator

_PIVOTS = 256
_INT64 = np.iinfo(np.int64)


def smallest_k(comm: Communicator, values: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Mark the k smallest values over all ranks.

    Ties are broken by the smaller id, so the marked set does not depend on how particles are spread over ranks.

    Parameters
    ----------
    values : (m_local,) floats, infinities allowed
    ids : (m_local,) integers, unique over all ranks
    k : int, the same on all ranks; at least the number of values marks all of them

    Returns
    -------
    (m_local,) bool

    Raises
    ------
    UserError
        on all ranks, for a NaN (the smallest such id is named).
    """
    values, ids = np.asarray(values, np.float64), np.asarray(ids, np.int64)
    if values.shape != ids.shape or values.ndim != 1:
        raise ValueError(f"expected flat values and ids of one length, got shapes {values.shape} and {ids.shape}")
    _refuse_nan(comm, values, ids)
    total = comm.allreduce_scalar(len(values))
    if k <= 0 or k >= total:
        return np.full(len(values), k > 0)
    keys = _to_key(values)
    threshold = _kth_key(comm, keys, k)
    below = keys < threshold
    tied = np.flatnonzero(keys == threshold)
    missing = k - comm.allreduce_scalar(int(np.count_nonzero(below)))
    below[tied] = ids[tied] <= _kth_key(comm, ids[tied], missing)
    marked = comm.allreduce_scalar(int(np.count_nonzero(below)))
    if marked != k:
        raise ValueError(f"ids are not unique over ranks: {marked} values marked where {k} were asked for")
    return below


def kth_smallest(comm: Communicator, values: np.ndarray, k: int) -> float:
    """The k-th smallest value over all ranks, k = 1 … m. Raises UserError for a NaN, ValueError for a k outside."""
    values = np.asarray(values, np.float64)
    _refuse_nan(comm, values)
    total = comm.allreduce_scalar(len(values))
    if not 1 <= k <= total:
        raise ValueError(f"the {k}-th smallest of {total} values does not exist")
    return _from_key(_kth_key(comm, _to_key(values), k))


def median(comm: Communicator, values: np.ndarray) -> float:
    """The exact median over all ranks; the mean of the middle two for an even number. UserError when there are none."""
    total = comm.allreduce_scalar(len(values))
    if total == 0:
        raise UserError("the median of no values was asked for: no particle is left")
    low = kth_smallest(comm, values, (total + 1) // 2)
    if total % 2:
        return low
    high = kth_smallest(comm, values, total // 2 + 1)
    return low if low == high else low + (high - low) / 2


def _kth_key(comm: Communicator, keys: np.ndarray, k: int) -> int:
    """The k-th smallest int64 over all ranks, 1 <= k <= m."""
    if comm.size == 1:
        return int(np.partition(keys, k - 1)[k - 1])
    keys = np.sort(keys)

    def count(pivots: np.ndarray) -> np.ndarray:
        return comm.allreduce(np.searchsorted(keys, pivots, side="right").astype(np.int64))

    return _narrow(comm, keys, count, k)


def _narrow(comm: Communicator, keys: np.ndarray, reached: Callable, target: float) -> int:
    """The smallest int64 p with reached(p) >= target, for a `reached` that grows with p (same on all ranks)."""
    ends = comm.allreduce(np.array([-keys.max(initial=_INT64.min + 1), keys.min(initial=_INT64.max)], np.int64), "min")
    low, high = int(ends[1]), -int(ends[0])  # the answer is in [low, high]; Python integers cannot overflow
    while low < high:
        pivots = sorted({low + (high - 1 - low) * j // (_PIVOTS - 1) for j in range(_PIVOTS)})
        enough = np.flatnonzero(reached(np.array(pivots, np.int64)) >= target)
        first = int(enough[0]) if enough.size else len(pivots)
        if first < len(pivots):
            high = pivots[first]
        if first > 0:
            low = pivots[first - 1] + 1
    return low


def _to_key(values: np.ndarray) -> np.ndarray:
    """int64 that sort like the float64 they come from (-0.0 and 0.0 are one value)."""
    bits = (values + 0.0).view(np.int64)
    return np.where(bits >= 0, bits, bits ^ _INT64.max)


def _from_key(key: int) -> float:
    bits = np.array([key if key >= 0 else key ^ _INT64.max], np.int64)
    return float(bits.view(np.float64)[0])


def _refuse_nan(comm: Communicator, values: np.ndarray, ids: np.ndarray | None = None) -> None:
    bad = np.isnan(values)
    count = comm.allreduce_scalar(int(np.count_nonzero(bad)))
    if not count:
        return
    where = ""
    if ids is not None:
        where = f" (first: particle {comm.allreduce_scalar(int(ids[bad].min(initial=_INT64.max)), 'min')})"
    raise UserError(
        f"{count} of the values to select from are not numbers{where}; check those particles' images and CTFs"
    )
