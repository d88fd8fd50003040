"""Rows of numbers moved between arrays, or within one: how sums are kept of the points in a sphere alone."""

from __future__ import annotations

from mpirecon.kernels.cache import njit


@njit(cache=True, nogil=True, error_model="numpy")
def move_rows(source, source_start, target, target_start, length):
    """target[target_start[r] …] = source[source_start[r] …], length[r] numbers, row by row in their order.

    Both may be one array, where no row is moved to where a later one is read.
    """
    for r in range(length.size):
        a, b = source_start[r], target_start[r]
        for j in range(length[r]):
            target[b + j] = source[a + j]
