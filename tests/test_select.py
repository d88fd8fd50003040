"""Distributed selection: exact, ties by id, the same set on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.select import kth_smallest, median, smallest_k

COMM = SerialCommunicator()
FLOATS = st.lists(st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, 5e-324]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(FLOATS, st.integers(-1, 45), st.randoms())
def test_smallest_k_is_the_head_of_the_sorted_list(values, k, random):
    values = np.array(values, np.float64)
    ids = np.array(random.sample(range(100), len(values)), np.int64)
    marked = smallest_k(COMM, values, ids, k)
    expected = np.lexsort((ids, values + 0.0))[: max(k, 0)]
    assert set(np.flatnonzero(marked)) == set(expected)


@settings(max_examples=100, deadline=None)
@given(FLOATS.filter(len), st.data())
def test_kth_smallest(values, data):
    k = data.draw(st.integers(1, len(values)))
    assert kth_smallest(COMM, values, k) == np.sort(values)[k - 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=40))
def test_median(values):
    assert median(COMM, values) == pytest.approx(np.median(values), rel=1e-12, abs=1e-300)


def test_errors_say_what_is_wrong():
    with pytest.raises(UserError, match=r"1 of the values .*particle 8\)"):
        smallest_k(COMM, np.array([1.0, np.nan]), np.array([4, 8]), 1)
    with pytest.raises(ValueError, match="not unique"):
        smallest_k(COMM, np.zeros(3), np.array([1, 1, 2]), 1)
    with pytest.raises(ValueError, match="3-th smallest of 2"):
        kth_smallest(COMM, np.zeros(2), 3)
    with pytest.raises(UserError, match="median of no values"):
        median(COMM, np.zeros(0))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_selection_under_mpirun(mpi_program, n):
    assert f"ok {n}" in mpi_program(n, "select_program.py").stdout
