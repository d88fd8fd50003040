"""Amounts of memory and time as people and batch systems write them."""

from __future__ import annotations

import math
import re

from mpirecon.errors import UserError

_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_memory(text: str, name: str = "--memory") -> int:
    """Bytes of ``64G``, ``64GB``, ``512M`` … (powers of 1024, as batch systems count)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    amount = float(match[1]) * _BYTES[match[2].upper()] if match else 0
    if not 0 < amount < 2**60:
        raise UserError(f"{name} {text}: expected an amount with its unit, e.g. 64G or 512M")
    return int(amount)


def parse_time(text: str, name: str = "--time") -> int:
    """Seconds of ``2:30:00``, ``1-12:00:00`` (days first), ``90m``, ``2h``, ``1d``."""
    text = text.strip()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", text, re.ASCII)
    single = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text, re.ASCII)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        total = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    else:
        total = round(float(single[1]) * _SECONDS[single[2]]) if single else 0
    if not 0 < total < 10**9:
        # schedulers disagree about what 2:30 and 90 are
        raise UserError(f"{name} {text}: expected hours:minutes:seconds, days-hours:minutes:seconds, or e.g. 90m or 2h")
    return total


def memory_words(amount: float) -> str:
    """Bytes as people write them: 512 MB, 63.5 GB."""
    if amount >= 1000 * 2**30:
        return f"{amount / 2**40:.3g} TB"
    return f"{amount / 2**30:.3g} GB" if amount >= 2**30 else f"{math.ceil(amount / 2**20)} MB"


def clock(seconds: int) -> str:
    """hours:minutes:seconds, with as many hours as it takes."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
