"""A colour scale, and half spheres of directions drawn with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

import numpy as np

#: dark blue over green to yellow, even in lightness and for colour-blind eyes (viridis, van der Walt & Smith 2015)
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

_RADIUS = 118.0


def colour_of(share: float) -> str:
    """Colour at 0 … 1 of the scale."""
    place = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(place), len(_SCALE) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(_SCALE[low], _SCALE[low + 1]))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def scale_bar(low: str, high: str, reverse: bool = False) -> str:
    """The scale with words at its ends."""
    stops = [colour_of(i / 8) for i in range(9)]
    stops = stops[::-1] if reverse else stops
    return (f'<p class="scale"><span>{escape(low)}</span><i '
            f'style="background:linear-gradient(90deg,{",".join(stops)})"></i>'
            f"<span>{escape(high)}</span></p>")


def _share(value: float, low: float, high: float, reverse: bool) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return 1 - share if reverse else share


def _place(tilt, rot) -> tuple[np.ndarray, np.ndarray]:
    """Lambert's equal-area projection of the half sphere, degrees → picture; rot 0 to the right, 90 up."""
    radius = _RADIUS * np.sqrt(2) * np.sin(np.radians(tilt) / 2)
    return radius * np.cos(np.radians(rot)), -radius * np.sin(np.radians(rot))


def disc_points(
    direction: np.ndarray, values: np.ndarray, low: float, high: float, words: Callable[[float], str], description: str,
    reverse: bool = False,
) -> str:
    """Directions (m, 3) on the half sphere as coloured dots."""
    tilt = np.degrees(np.arccos(np.clip(direction[:, 2], -1, 1)))
    rot = np.degrees(np.arctan2(direction[:, 1], direction[:, 0]))
    radius = _RADIUS * 0.92 / len(values) ** 0.5
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour_of(_share(v, low, high, reverse))}">'
        f"<title>rot {r:.0f}°, tilt {t:.0f}°: {escape(words(v))}</title></circle>"
        for x, y, v, r, t in zip(*_place(tilt, rot), values, rot, tilt)
    )
    return _disc(dots, description)


def disc_cells(views: Mapping[str, np.ndarray], values: np.ndarray, low: float, high: float,
               words: Callable[[int], str], description: str) -> str:
    """Bins of views.csv as coloured cells; a view without a value is blank."""
    cells = []
    for i, value in enumerate(values):
        edges = [float(views[name][i]) for name in ("tilt_low", "tilt_high", "rot_low", "rot_high")]
        colour = colour_of(_share(value, low, high, False)) if np.isfinite(value) else "#f3f5f7"
        where = f"rot {(edges[2] + edges[3]) / 2:.0f}°, tilt {(edges[0] + edges[1]) / 2:.0f}°"
        cells.append(f'<path d="{_cell(*edges)}" fill="{colour}"><title>{where}: {escape(words(i))}</title></path>')
    return _disc("".join(cells), description)


def _cell(tilt_low: float, tilt_high: float, rot_low: float, rot_high: float) -> str:
    arc = np.linspace(rot_low, rot_high, max(2, int((rot_high - rot_low) / 6)))
    outer = zip(*_place(np.full_like(arc, tilt_high), arc))
    inner = zip(*_place(np.full_like(arc, tilt_low), arc[::-1]))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in [*outer, *inner]) + "Z"


def _disc(body: str, description: str) -> str:
    r = _RADIUS
    words = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{label}</text>'
        for x, y, anchor, label in ((r + 4, 4, "start", "0°"), (0, -r - 5, "middle", "90°"), (-r - 4, 4, "end", "180°"),
                                    (0, r + 14, "middle", "270°"))
    )
    return (
        f'<svg class="disc" viewBox="{-r - 38} {-r - 20} {2 * r + 76} {2 * r + 40}" role="img" '
        f'aria-label="{escape(description)}">{body}<circle r="{r}" fill="none" stroke="#9aa6b2"/>'
        f'<g font-size="11" fill="#4a5866">{words}</g></svg>'
    )
