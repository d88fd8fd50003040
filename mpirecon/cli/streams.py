"""The command's output streams, made so that no text fails on them:
whatever they can spell, and whoever still reads."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from mpirecon.parallel.lines import write_line

#: the error handler of all text that leaves the command, where its encoding lacks a character
SPELLED = "mpirecon-spelled"

#: what a character becomes that neither the encoding has nor Unicode takes apart
_ASCII = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "·": "*", "×": "x", "÷": "/", "→": "->", "←": "<-", "≥": ">=", "≤": "<=",
    "±": "+-",
    "≈": "~", "≠": "!=", "°": " deg", "µ": "u", "μ": "u", "σ": "sigma", "π": "pi", "λ": "lambda", "χ": "chi",
    "ρ": "rho", "Σ": "sum",
    "√": "sqrt", "‖": "||", "“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "█": "#", "▀": "^", "▄": "_", "•": "*",
    "✓": "ok",
    "⁻": "-", "∞": "inf", "⁄": "/", "∘": "o",
}  # fmt: skip


def make_safe() -> None:
    """Have all three standard streams, and let both outputs take any text; once, before a file is opened.

    A descriptor that is closed would be the next file's, and what MPI or HDF5 print would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
    sys.stdout = _safe(sys.stdout)
    sys.stderr = _safe(sys.stderr)


def let_go(stream) -> None:
    """After a write that failed: what the stream still holds goes nowhere, else Python fails again as it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass  # a stream that is no file


class _Warnings(logging.Handler):
    """Warnings of the layers that know no console, as the console would say them."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(f"Warning: {record.getMessage()}", sys.stderr)


@contextmanager
def shown_warnings(first: bool) -> Iterator[None]:
    """Meanwhile print what is logged as a warning under ``mpirecon``, on the rank that is to speak."""
    logger, handler = logging.getLogger("mpirecon"), _Warnings(logging.WARNING) if first else logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _safe(stream):
    if stream is None:  # its descriptor was closed
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody else's
    plain = codecs.lookup(stream.encoding).name == "ascii"
    facts = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return _Patient(stream.detach(), "mpirecon_ascii" if plain else stream.encoding, SPELLED, **facts)


class _Patient(io.TextIOWrapper):
    """Text that goes on to nowhere once it is not read any more (``| head``):
    what a command makes does not depend on that."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            let_go(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            let_go(self)


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written instead of characters that the encoding lacks: bytes of a name as they are, else ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":  # a byte that was no text where it was read
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return ascii_of(letter), error.start + 1


def ascii_of(letter: str) -> str:
    """A character in ASCII: as it is usually spelled, without its accents, or a question mark."""
    known = _ASCII.get(letter)
    if known is None:
        parts = unicodedata.normalize("NFKD", letter)
        known = "".join(_ASCII.get(part, part if part.isascii() else "") for part in parts)
    return known or ("" if unicodedata.combining(letter) else "?")


def _plain(name: str) -> codecs.CodecInfo | None:
    """ASCII by another name: click takes a stream of that name for a mistake, and would write UTF-8 to it."""
    if name != "mpirecon_ascii":
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_.encode, ascii_.decode, ascii_.streamreader, ascii_.streamwriter, ascii_.incrementalencoder,
        ascii_.incrementaldecoder, name="mpirecon-ascii",
    )  # fmt: skip


codecs.register_error(SPELLED, _spell)
codecs.register(_plain)
