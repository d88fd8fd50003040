"""Which contiguous rows of m a rank owns."""

from __future__ import annotations

import numpy as np


def slab(m: int, size: int, rank: int) -> tuple[int, int]:
    """(start, stop) of the rows that `rank` of `size` owns: contiguous, in rank order, lengths equal within one row.

    The first m mod size ranks hold one row more; with more ranks than rows the last slabs are empty.
    """
    if m < 0 or size < 1 or not 0 <= rank < size:
        raise ValueError(f"slab: expected m >= 0 and 0 <= rank < size, got m={m}, size={size}, rank={rank}")
    base, extra = divmod(m, size)
    start = rank * base + min(rank, extra)
    return start, start + base + (rank < extra)


def slabs(m: int, size: int) -> list[tuple[int, int]]:
    """The (start, stop) of every rank, in rank order."""
    return [slab(m, size, rank) for rank in range(size)]


def shared_slab(m: int, size: int, rank: int, shares: np.ndarray | None) -> tuple[int, int]:
    """As ``slab``, of lengths in proportion to `shares` (size,) where there are such."""
    if shares is None:
        return slab(m, size, rank)
    edges = np.round(m * np.concatenate([[0.0], np.cumsum(shares)]) / np.sum(shares)).astype(int)
    return int(edges[rank]), int(edges[rank + 1])
