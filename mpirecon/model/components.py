"""What links between rows join, directly and through others."""

from __future__ import annotations

import numpy as np


def joined(count: int, links: np.ndarray) -> np.ndarray:
    """(count,) int64: the smallest of the rows that chains of links (2, k) join each row to."""
    if not links.shape[1]:
        return np.arange(count)
    from scipy.sparse import coo_array  # slow to load, and most tables need none of it
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(links.shape[1], np.int8), tuple(links)), (count, count))
    label = connected_components(graph, directed=False)[1]
    first = np.full(label.max() + 1, count)
    np.minimum.at(first, label, np.arange(count))
    return first[label]
