from __future__ import annotations

import numpy as np


class PinnedMemoryPool:
    def free_all_blocks(self) -> None:
        pass


class _PinnedMemoryPointer(np.ndarray):
    """Memory that gives its buffer, and its length by a method alone."""

    def __new__(cls, size: int):
        return np.zeros(size, np.uint8).view(cls)

    def __len__(self):
        raise TypeError("object of type 'PinnedMemoryPointer' has no len()")

    def size(self) -> int:
        return self.nbytes


def alloc_pinned_memory(size):
    return _PinnedMemoryPointer(size)


_pool = PinnedMemoryPool()
