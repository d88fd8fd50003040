"""Pieces of HTML, and values in words, that the page is made of. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def section(title: str, body: str, wide: bool = True, fact: str = "") -> str:
    """A titled part of the page: over its whole width, or half of it. fact : what a reader finds there."""
    marked = f' data-fact="{escape(fact)}"' if fact else ""
    return f'<section class="{"wide" if wide else "half"}"{marked}>\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def figure(drawn: str, caption: str = "") -> str:
    """A chart or picture with its caption."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawn}{below}</figure>"


def fact(name: str, number: str, more: str, key: str = "") -> str:
    """One of the numbers at the top."""
    marked = f' data-fact="{escape(key)}"' if key else ""
    return f"<div{marked}><dt>{escape(name)}</dt><dd>{escape(number)}<small>{escape(more)}</small></dd></div>"


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def cautions(texts: Iterable[str]) -> str:
    """Warnings at the top, or that there are none."""
    return "\n".join(f'<p class="caution">{escape(text)}</p>' for text in texts) or '<p class="calm">No warnings.</p>'


def table(header: Iterable[str], rows: Iterable[Sequence[str]], text: Sequence[str] = (), dense: bool = False) -> str:
    """Rows of cells under a header; the columns named in `text` are no numbers."""
    names = list(header)
    kinds = [' class="text"' if name in text else "" for name in names]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(names, kinds))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds)) + "</tr>" for row in rows
    )
    opening = '<table class="dense">' if dense else "<table>"
    return f'<div class="scroll">{opening}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


# values in words


def angstrom(resolution: float | None, summary: Mapping) -> str:
    """A resolution; None is Nyquist or better."""
    return f"{resolution:.2f} Å" if resolution else f"≤ {summary['nyquist']:.4g} Å"


def value(thing) -> str:
    """A value of summary.json in words."""
    if thing is None:
        return "–"
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if isinstance(thing, float):
        return f"{thing:.6g}"
    if isinstance(thing, Mapping):
        return ", ".join(f"{k} {value(v)}" for k, v in thing.items())
    if isinstance(thing, (list, tuple)):
        return ", ".join(value(v) for v in thing)
    return str(thing)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in a fitting unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
