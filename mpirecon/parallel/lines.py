"""Lines that stay whole where the output of many ranks comes together."""

from __future__ import annotations

from typing import TextIO


def write_line(text: str, stream: TextIO) -> None:
    """Write a line at once. print() hands over the text and its end apart, and other ranks' lines get between them."""
    stream.write(f"{text}\n")
    stream.flush()
