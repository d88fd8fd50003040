"""Compressed files and images of other formats, recognised by their first bytes:
refused by name rather than as damaged."""

from __future__ import annotations

from pathlib import Path

from mpirecon.errors import UserError

_MARKS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "BigTIFF or EER", b"\x89HDF": "HDF5", b"\x89PNG": "PNG"}


def refuse_packed(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with `start` is compressed, or is known to be of another format."""
    other = next((name for mark, name in _OTHERS.items() if start.startswith(mark)), None)
    if other:
        raise UserError(f"{path} is a {other} file; images are read from MRC stacks: convert it (e2proc2d.py)")
    packed = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if packed:
        raise UserError(f"{path} is compressed with {packed}; decompress it first")
