"""Distributed selection against NumPy's sort, with uneven and empty ranks."""

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.select import kth_smallest, median, smallest_k

comm = get_communicator()


def spread(array, cuts):
    return array[cuts[comm.rank] : cuts[comm.rank + 1]]


def check(values, rng):
    m = len(values)
    ids = rng.permutation(10 * m + 10)[:m].astype(np.int64)
    cuts = np.concatenate([[0], np.sort(rng.integers(0, m + 1, comm.size - 1)), [m]])  # uneven, often empty
    mine = spread(values, cuts)
    order = np.lexsort((ids, values))
    for k in {0, 1, m // 3, m - 1, m, m + 5} - {-1}:
        marked = np.concatenate(comm.allgather(spread(ids, cuts)[smallest_k(comm, mine, spread(ids, cuts), k)]))
        assert set(marked.tolist()) == set(ids[order[:k]].tolist()), (m, k)
        if 1 <= k <= m:
            assert kth_smallest(comm, mine, k) == values[order[k - 1]]
    if m:
        with np.errstate(invalid="ignore"):
            assert np.array_equal(median(comm, mine), np.median(values), equal_nan=True) or abs(
                median(comm, mine) - np.median(values)
            ) <= 1e-12 * np.abs(values[np.isfinite(values)]).max(initial=0)


rng = np.random.default_rng(3)  # the same on every rank
for m in (0, 1, 2, 3, 50, 1000):
    check(rng.normal(size=m) * 10.0 ** rng.integers(-300, 300, m), rng)
    check(rng.integers(-2, 3, m).astype(float), rng)  # many ties
    check(np.where(rng.random(m) < 0.2, np.inf, rng.normal(size=m)), rng)
    check(np.full(m, -0.0) * rng.choice([1, -1], m), rng)

bad = np.array([1.0, np.nan if comm.rank == comm.size - 1 else 0.0])
try:
    smallest_k(comm, bad, np.array([2, 3]) + 10 * comm.rank, 1)
    raise AssertionError("a NaN was accepted")
except UserError as error:
    assert f"particle {10 * (comm.size - 1) + 3})" in str(error), error
if comm.rank == 0:
    print("ok", comm.size)
