"""Compressed files and files of other formats, recognised by their first bytes:
refused by name rather than as damaged."""

from __future__ import annotations

import os
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.own_files import own_file

_MARKS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_HDF5 = b"\x89HDF"
_OTHERS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "BigTIFF or EER", _HDF5: "HDF5", b"\x89PNG": "PNG"}

#: endings of names of compressed files
_ENDINGS = (".gz", ".bz2", ".xz", ".zst")


def refuse_packed(path: Path, start: bytes, wanted: str) -> None:
    """Raise UserError when a file that begins with `start` is compressed, or is known to be of another format.

    wanted : the format that was expected
    """
    if start.startswith(_HDF5) and (ours := own_file(path)):
        raise UserError(f"{path} is no {wanted} file: it is {ours}")
    other = next((name for mark, name in _OTHERS.items() if start.startswith(mark)), None)
    if other:
        raise UserError(f"{path} is a {other} file; images are read from MRC stacks: convert it (e2proc2d.py)")
    packed = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if packed:
        raise UserError(f"{path} is compressed with {packed}; decompress it first")


def refuse_packed_name(path: str | os.PathLike) -> None:
    """Raise UserError for a name under which others would expect a compressed file; none are written."""
    ending = Path(path).suffix.lower()
    if ending in _ENDINGS:
        raise UserError(f"cannot write {path}: files are not compressed; leave {ending} out of the name")
