"""The one kind of HDF5's metadata without a checksum, texts of attributes:
HDF5 goes through them without end where a size is 0.

A text is kept in a "global heap", and the attribute has the heap's address (HDF5 File Format Specification, III.E). A
walk through the heap as HDF5 does it, before HDF5 does, shows whether it would end.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

_HEAP = b"GCOL"
_CONTINUED = b"OCHK"
_HEAD = 16  # bytes before a heap's first object, and of an object's own head
_SMALLEST = 4096

#: bytes of an object's header in which addresses are searched
_HEADER = 8192


def check_heaps(thing: h5py.HLObject, path: Path) -> None:
    """Raise ValueError where a heap that a file's or group's attributes lead to cannot be gone through."""
    number = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(number).st_size
        todo, seen = [int(h5py.h5o.get_info(thing.id).addr)], set()
        while todo:
            at = todo.pop()
            for address in _addresses(os.pread(number, _HEADER, at), size) - seen:
                seen.add(address)
                mark = os.pread(number, 4, address)
                if mark == _CONTINUED:
                    todo.append(address)
                elif mark == _HEAP:
                    _walk(number, address, size)
    finally:
        os.close(number)


def _addresses(header: bytes, size: int) -> set[int]:
    """All numbers of 8 bytes in a header that may be places in a file of `size` bytes."""
    header = header.ljust(8, b"\0")
    starts = range(min(8, len(header) - 7))  # they need not lie at multiples of 8
    numbers = np.concatenate([np.frombuffer(header, "<u8", (len(header) - start) // 8, start) for start in starts])
    return set(numbers[(numbers >= _HEAD) & (numbers < max(size - _HEAD, 0))].tolist())


def _walk(number: int, address: int, size: int) -> None:
    """Go through the objects of a heap: number (2 bytes), references (2), reserved (4), size (8),
    and that many bytes, in eights."""
    whole = int.from_bytes(os.pread(number, 8, address + 8), "little")
    if not _SMALLEST <= whole <= size - address:
        raise ValueError("a heap of texts is larger than the file")
    heap = os.pread(number, whole, address)
    at = _HEAD
    while at + _HEAD <= whole:
        length = int.from_bytes(heap[at + 8 : at + 16], "little")
        # the last is free space, head included
        taken = _HEAD + -(-length // 8) * 8 if heap[at : at + 2] != b"\0\0" else length
        if taken < _HEAD or at + taken > whole:
            raise ValueError("a heap of texts has an object of no size, or beyond its end")
        at += taken
