"""What to say of a table whose text is in another encoding than UTF-8."""

from __future__ import annotations

import codecs

#: how texts begin whose letters have two or four bytes; the longer ones first, of which a shorter one is the beginning
_WIDE = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
         codecs.BOM_UTF16_BE: "UTF-16"}


def wide_encoding(start: bytes) -> str | None:
    """UTF-16 or UTF-32 where a file that begins so is in that; None else."""
    return next((name for mark, name in _WIDE.items() if start.startswith(mark)), None)


def not_utf8(start: bytes) -> str:
    """Why text cannot be read that begins so, and what to do, to stand behind the file's name."""
    name = wide_encoding(start)
    if name is None:
        return "not UTF-8 text; convert it first, for example with iconv -f latin1 -t utf8"
    return (f"{name} text, as some Windows programs save it, and not UTF-8; convert it first, for example with "
            f"iconv -f {name.lower()} -t utf8")
