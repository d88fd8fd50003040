"""Charts as SVG text: lines, bands, histograms and points over two axes,
with what a pointer should read written beside them.

No library draws them, so that a report costs milliseconds and its pictures stay sharp in print.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

import numpy as np

#: distinguishable in grey and by colour-blind eyes, dark enough on white (Okabe & Ito 2008)
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, BLACK = "#56B4E9", "#E69F00", "#1c2733"
GREY = "#8a96a3"

_SOLID, _DASHED, _DOTTED = "", "6 4", "2 3"
DASHES = {"solid": _SOLID, "dashed": _DASHED, "dotted": _DOTTED}


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from low to high, at most about `most` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A value as a tick or a pointer's reading shows it."""
    if value != value:
        return "–"
    if value == 0:
        return "0"
    text = f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.2e}"
    return text.replace("-", "−")


class Chart:
    """Two axes and what is drawn between them.

    Parameters
    ----------
    x, y : (low, high) of the axes
    xlabel, ylabel : str
    width, height : of the picture, in its own units; on the page it is as wide as its place
    x_ticks, y_ticks : (value, text) pairs; round numbers when left out
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], xlabel: str = "", ylabel: str = "", *, width: int = 560,
        height: int = 300, left: int = 52, right: int = 16, top: int = 12, bottom: int = 44,
        x_ticks: Sequence[tuple[float, str]] | None = None, y_ticks: Sequence[tuple[float, str]] | None = None,
    ) -> None:  # fmt: skip
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - right, top, height - bottom
        self.x, self.y = _widened(x), _widened(y)
        self._parts: list[str] = []
        self._series: list[dict] = []
        self._readings: list[str] | None = None
        self._at: list[float] = []
        self._axes(xlabel, ylabel, x_ticks, y_ticks)

    # where things are

    def px(self, x) -> np.ndarray:
        """Horizontal place of values."""
        low, high = self.x
        return self.left + (np.asarray(x, float) - low) / (high - low) * (self.right - self.left)

    def py(self, y) -> np.ndarray:
        """Vertical place of values."""
        low, high = self.y
        return self.bottom - (np.asarray(y, float) - low) / (high - low) * (self.bottom - self.top)

    # what is drawn

    def line(self, x, y, colour: str, label: str = "", dash: str = "solid", width: float = 2,
             marker: bool = False) -> None:
        """A curve; gaps where a value is not finite."""
        pieces, pen = [], "M"
        for at, up in zip(self.px(x), self.py(np.clip(y, *self.y))):
            if not math.isfinite(up):
                pen = "M"
                continue
            pieces.append(f"{pen}{at:.1f} {up:.1f}")
            pen = "L"
        style = f' stroke-dasharray="{DASHES[dash]}"' if DASHES[dash] else ""
        self._parts.append(f'<path d="{"".join(pieces)}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
                           f' stroke-linejoin="round" stroke-linecap="round"{style}/>')
        if marker:
            self.points(x, y, colour, 3.2)

    def band(self, x, low, high, colour: str, opacity: float = 0.18) -> None:
        """The area between two curves."""
        x = np.asarray(x, float)
        xs = np.concatenate([self.px(x), self.px(x)[::-1]])
        ys = np.concatenate([self.py(np.clip(high, *self.y)), self.py(np.clip(low, *self.y))[::-1]])
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys))
        self._parts.append(f'<polygon points="{points}" fill="{colour}" fill-opacity="{opacity:g}"/>')

    def bars(self, edges, heights, colour: str, base=None, opacity: float = 0.85) -> None:
        """A histogram's bars between edges, from `base` up."""
        base = np.zeros(len(heights)) if base is None else np.asarray(base, float)
        x, low, high = self.px(edges), self.py(base), self.py(base + np.asarray(heights, float))
        rects = [
            f'<rect x="{a:.1f}" y="{t:.1f}" width="{max(b - a - 0.6, 0.4):.1f}" height="{l - t:.1f}"/>'
            for a, b, l, t in zip(x[:-1], x[1:], low, high) if l - t > 0.01
        ]  # fmt: skip
        self._parts.append(f'<g fill="{colour}" fill-opacity="{opacity:g}">{"".join(rects)}</g>')

    def points(self, x, y, colour: str, radius: float = 1.6, opacity: float = 1.0) -> None:
        """Dots, as one path however many they are."""
        inside = np.isfinite(np.asarray(y, float)) & np.isfinite(np.asarray(x, float))
        places = zip(self.px(np.asarray(x)[inside]), self.py(np.clip(np.asarray(y, float)[inside], *self.y)))
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in places)
        self._parts.append(f'<path d="{dots}" stroke="{colour}" stroke-width="{2 * radius:g}" stroke-linecap="round" '
                           f'stroke-opacity="{opacity:g}" fill="none"/>')

    def rule(self, *, x: float | None = None, y: float | None = None, label: str = "", dash: str = "dashed",
             colour: str = "#4a5866", side: str = "end") -> None:
        """A line across at one value, with a word beside it."""
        if x is not None:
            at = float(self.px(x))
            ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{self.top}" y2="{self.bottom}"'
            place = (at + (5 if side == "start" else -5), self.top + 11, "start" if side == "start" else "end")
        else:
            at = float(self.py(y))
            ends = f'x1="{self.left}" x2="{self.right}" y1="{at:.1f}" y2="{at:.1f}"'
            place = (self.right + 5, at + 4, "start")
        self._parts.append(f'<line {ends} stroke="{colour}" stroke-width="1" stroke-dasharray="{DASHES[dash]}"/>')
        if label:
            self.text(place[0], place[1], label, anchor=place[2], size=11.5)

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", size: float = 12, colour: str = "#4a5866",
             turn: bool = False) -> None:
        """Words at a place of the picture (not of the axes)."""
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}" fill="{colour}"'
                           f'{turned}>{escape(words)}</text>')

    def raw(self, markup: str) -> None:
        """Any other SVG."""
        self._parts.append(markup)

    # what a pointer reads

    def reads(self, x, heading: Sequence[str], series: Sequence[tuple[str, str, Sequence]]) -> None:
        """Let a pointer read values: at each x a heading and, of each (label, colour, values), the value."""
        self._at = [round(float(v), 1) for v in self.px(x)]
        self._readings = list(heading)
        self._series = [
            {
                "label": label,
                "colour": colour,
                "values": [v if isinstance(v, str) else number(float(v)) for v in values],
            }
            for label, colour, values in series
        ]

    def svg(self, description: str) -> str:
        """The picture."""
        hover = ""
        if self._readings is not None:
            data = json.dumps({"x": self._at, "heading": self._readings, "series": self._series}, ensure_ascii=False)
            hover = f' data-hover="{escape(data)}" data-top="{self.top}" data-bottom="{self.bottom}"'
        return (
            f'<svg class="chart" style="--w:{self.width}" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(description)}"{hover}>'
            f'{"".join(self._parts)}</svg>'
        )

    def _axes(self, xlabel, ylabel, x_ticks, y_ticks) -> None:
        x_ticks = [(v, number(v)) for v in ticks(*self.x, 7)] if x_ticks is None else x_ticks
        y_ticks = [(v, number(v)) for v in ticks(*self.y, 5)] if y_ticks is None else y_ticks
        grid, words = [], []
        for value, label in y_ticks:
            at = float(self.py(value))
            grid.append(f'<line x1="{self.left}" x2="{self.right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            words.append(f'<text x="{self.left - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for value, label in x_ticks:
            at = float(self.px(value))
            grid.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{self.bottom}" y2="{self.bottom + 4}"/>')
            words.append(f'<text x="{at:.1f}" y="{self.bottom + 17}" text-anchor="middle">{escape(label)}</text>')
        middle = (self.left + self.right) / 2
        if xlabel:
            words.append(f'<text x="{middle:.1f}" y="{self.bottom + 36}" text-anchor="middle">{escape(xlabel)}</text>')
        if ylabel:
            up = (self.top + self.bottom) / 2
            words.append(f'<text x="13" y="{up:.1f}" text-anchor="middle" transform="rotate(-90 13 {up:.1f})">'
                         f"{escape(ylabel)}</text>")
        self._parts.append(f'<g stroke="#e3e8ed" stroke-width="1">{"".join(grid)}</g>'
                           f'<line x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}" '
                           f'stroke="#9aa6b2"/>'
                           f'<g font-size="12" fill="#4a5866">{"".join(words)}</g>')


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """A row of (colour, kind, label) above a chart; kind is solid, dashed, dotted, band, box or dot."""
    def mark(colour: str, kind: str) -> str:
        if kind in ("box", "band"):
            opacity = 0.85 if kind == "box" else 0.25
            return f'<rect x="1" y="2" width="16" height="9" rx="1.5" fill="{colour}" fill-opacity="{opacity}"/>'
        if kind == "dot":
            return f'<circle cx="9" cy="6.5" r="4" fill="{colour}"/>'
        return (f'<line x1="0" x2="18" y1="6.5" y2="6.5" stroke="{colour}" stroke-width="2.4" '
                f'stroke-dasharray="{DASHES[kind].replace("6 4", "5 2.5")}"/>')

    items = "".join(
        f'<li><svg viewBox="0 0 18 13" width="18" height="13" aria-hidden="true">{mark(colour, kind)}</svg>'
        f"{escape(label)}</li>" for colour, kind, label in entries
    )  # fmt: skip
    return f'<ul class="legend">{items}</ul>'


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(v) for v in limits)
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high > low:
        return low, high
    margin = 0.5 * abs(low) or 0.5
    return low - margin, low + margin
