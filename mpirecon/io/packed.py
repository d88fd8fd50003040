"""Compressed files, recognised by their first bytes: refused by name rather than as damaged."""

from __future__ import annotations

from pathlib import Path

from mpirecon.errors import UserError

_MARKS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def refuse_packed(path: Path, start: bytes) -> None:
    """Raise UserError when a file that begins with `start` is compressed."""
    packed = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if packed:
        raise UserError(f"{path} is compressed with {packed}; decompress it first")
