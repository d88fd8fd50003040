"""Where a rank writes to: whether it is a terminal,
and lines that stay whole where the output of many ranks comes together."""

from __future__ import annotations

from typing import TextIO

from mpirecon.parallel.launcher import find_launcher


def write_line(text: str, stream: TextIO) -> None:
    """Write a line at once. print() hands over the text and its end apart, and other ranks' lines get between them."""
    stream.write(f"{text}\n")
    stream.flush()


def is_terminal(stream) -> bool:
    """Whether what this process writes there is read at once and in place.

    Under mpirun or srun it is not, as far as a rank can know: launchers give ranks terminals of their own and write
    what comes from them wherever they are set to, which may be a file.
    """
    return stream.isatty() and find_launcher() is None
