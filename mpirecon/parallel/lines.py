"""Where a rank writes to: whether someone looks,
and lines that stay whole where the output of many ranks comes together."""

from __future__ import annotations

from typing import TextIO

from mpirecon.parallel.launcher import find_launcher


def write_line(text: str, stream: TextIO) -> None:
    """Write a line at once. print() hands over the text and its end apart, and other ranks' lines get between them."""
    stream.write(f"{text}\n")
    stream.flush()


def is_terminal(stream) -> bool:
    """Whether someone looks at what this process writes there, at once and in place.

    Under mpirun or srun nobody does, as far as a rank can know: launchers give ranks terminals of their own and write
    what comes from them wherever they were told to, which may be a file.
    """
    return stream.isatty() and find_launcher() is None
