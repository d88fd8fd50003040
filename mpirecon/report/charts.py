"""The report's charts of half maps and iterations: FSC, cones, Guinier plot, losses.
Each returns a legend and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpirecon.report.colours import disc_points, scale_bar
from mpirecon.report.svg import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, Chart, legend, number

#: column of fsc.csv → how it is drawn
FSC_STYLE = {
    "fsc_unmasked": (GREY, "solid", "no mask"),
    "fsc_masked": (ORANGE, "dashed", "in mask.mrc, as it is"),
    "fsc_randomised": (PINK, "dotted", "in mask.mrc, random phases"),
    "fsc_true": (ORANGE, "solid", "in mask.mrc, corrected"),
    "fsc_reference": (GREEN, "dashed", "with the reference, in the scoring mask"),
    "fsc": (BLUE, "solid", "in the scoring mask"),
}


def resolution_ticks(highest: float) -> list[tuple[float, str]]:
    """Places 1/Å of round values in Å that do not crowd."""
    candidates = sorted((c * 10.0**e for e in range(-1, 4) for c in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)), reverse=True)
    chosen: list[float] = []
    for value in candidates:
        fits = highest * 0.06 <= 1 / value <= highest * 1.0001
        if fits and (not chosen or 1 / value - 1 / chosen[-1] >= highest * 0.085):
            chosen.append(value)
    return [(1 / v, f"{v:g}") for v in chosen]


def fsc_chart(curves: Mapping[str, np.ndarray], box: int, pixel_size: float, *, styles: Mapping | None = None,
              height: int = 315) -> str:
    """FSC curves over resolution with the usual thresholds, and their legend.

    curves : column → (box // 2 + 1,)
    styles : column → (colour, dash, label), by default those of fsc.csv
    """
    styles = {name: style for name, style in (styles or FSC_STYLE).items() if name in curves}
    shells = np.arange(1, box // 2 + 1)
    frequency = shells / (box * pixel_size)
    lowest = min(float(np.min(curves[name][1:])) for name in styles)
    chart = Chart((0, frequency[-1]), (min(-0.04, max(-0.5, lowest - 0.02)), 1.02), "resolution (Å)", height=height,
                  right=44,
                  x_ticks=resolution_ticks(frequency[-1]), y_ticks=[(v, number(v)) for v in (0, 0.25, 0.5, 0.75, 1)])
    for threshold in (0.5, 0.143):
        chart.rule(y=threshold, label=f"{threshold:g}")
    for name, (colour, dash, _) in styles.items():
        chart.line(frequency, curves[name][1:], colour, dash=dash, width=2.4 if name == "fsc" else 1.9)
    reading = reversed(styles.items())
    chart.reads(frequency, [f"{box * pixel_size / s:.2f} Å" for s in shells],
                [(label, colour, [f"{v:.3f}" for v in curves[name][1:]]) for name, (colour, _, label) in reading])
    return legend([style for style in reversed(styles.values())]) + chart.svg("Fourier shell correlation")


def loss_charts(records: Sequence[Mapping]) -> str:
    """Three small charts by iteration: what is minimised, the plain L2 loss, and what was kept."""
    solid, dashed = (BLUE, "solid", "on the maps made"), (GREEN, "dashed", "held out")
    return legend([solid, dashed]) + '<div class="three">' + "".join([
        _by_iteration(records, "loss being minimised", {"loss": solid, "loss_heldout": dashed}),
        _by_iteration(records, "L2 over all particles", {"loss_l2": solid, "loss_l2_heldout": dashed}),
        _by_iteration(records, "kept (%)", {"kept_fraction": (ORANGE, "solid", "kept")}, factor=100),
    ]) + "</div>"  # fmt: skip


def _by_iteration(records, title: str, series: Mapping[str, tuple], factor: float = 1.0) -> str:
    at = [r["iteration"] for r in records]
    values = {name: np.array([np.nan if r.get(name) is None else factor * r[name] for r in records], float)
              for name in series}
    everything = np.concatenate(list(values.values()))
    everything = everything[np.isfinite(everything)]
    low, high = (everything.min(), everything.max()) if everything.size else (0.0, 1.0)
    # the last digits of a settled loss are no drama
    half = max(0.6 * (high - low), 5e-4 * abs(high), 1e-12)
    middle = (low + high) / 2
    most = at[-1] if at else 1
    step = max(1, -(-most // 6))
    chart = Chart((at[0] - 0.3, most + 0.3), (middle - half, middle + half), "iteration", width=200, height=195,
                  left=50,
                  right=6, top=26, x_ticks=[(i, str(i)) for i in range(at[0], most + 1, step)])
    chart.text(2, 13, title, size=12, colour="#1c2733")
    for name, (colour, dash, _) in series.items():
        chart.line(at, values[name], colour, dash=dash, marker=len(records) <= 30)
    chart.reads(at, [f"iteration {i}" for i in at], [(label, colour, [f"{v:.6g}" for v in values[name]])
                                                    for name, (colour, _, label) in series.items()])
    return chart.svg(f"{title} by iteration")


def cones_chart(cones: Mapping, whole: np.ndarray, box: int, pixel_size: float) -> str:
    """How FSC curves along directions lie about the whole shell's, and where on the sphere resolution is what."""
    q = {name: np.array(curve) for name, curve in cones["quantiles"].items()}
    shells = np.arange(1, box // 2 + 1)
    frequency = shells / (box * pixel_size)
    chart = Chart((0, frequency[-1]), (-0.1, 1.02), "resolution (Å)", width=720, height=330, right=44,
                  x_ticks=resolution_ticks(frequency[-1]), y_ticks=[(v, number(v)) for v in (0, 0.25, 0.5, 0.75, 1)])
    for threshold in (0.5, 0.143):
        chart.rule(y=threshold, label=f"{threshold:g}")
    chart.band(frequency, q["least"][1:], q["most"][1:], BLUE, 0.13)
    chart.band(frequency, q["low"][1:], q["high"][1:], BLUE, 0.25)
    chart.line(frequency, q["median"][1:], BLUE)
    chart.line(frequency, whole[1:], ORANGE, dash="dashed")
    chart.reads(frequency, [f"{box * pixel_size / s:.2f} Å" for s in shells], [
        ("best direction", BLUE, [f"{v:.3f}" for v in q["most"][1:]]),
        ("median", BLUE, [f"{v:.3f}" for v in q["median"][1:]]),
        ("worst direction", BLUE, [f"{v:.3f}" for v in q["least"][1:]]),
        ("all", ORANGE, [f"{v:.3f}" for v in whole[1:]]),
    ])  # fmt: skip
    keys = legend([(BLUE, "solid", "median direction"), (BLUE, "band", "two thirds of the directions; all of them"),
                   (ORANGE, "dashed", "whole shells")])
    return f"<div>{keys}{chart.svg('FSC in cones')}</div><div>{_directions(cones)}</div>"


#: least range of the colours of directions, about their median: a difference of a few per cent is no matter of colour
_COLOUR_RANGE = 1.25


def _directions(cones: Mapping) -> str:
    direction, at = np.array(cones["direction"]), np.array(cones["resolution"])
    middle = float(np.median(at))
    low, high = min(float(at.min()), middle / _COLOUR_RANGE), max(float(at.max()), middle * _COLOUR_RANGE)
    disc = disc_points(direction, at, low, high, lambda v: f"{v:.2f} Å", "resolution along directions", reverse=True)
    return disc + scale_bar(f"{low:.2f} Å", f"{high:.2f} Å", reverse=True)


def guinier_chart(fit: Mapping) -> str:
    """ln amplitude against 1/d², plain and weighted, and the line through what was fitted."""
    x, plain = np.array(fit["inverse_d2"], float), np.array(fit["amplitude"], float)
    weighted = np.array([np.nan if v is None else v for v in fit["weighted"]], float)
    weighted[np.isnan(weighted).cumsum() > 0] = np.nan  # what comes after the FSC first fell to zero is noise
    finite = np.concatenate([plain, weighted])
    finite = finite[np.isfinite(finite)]
    margin = 0.05 * np.ptp(finite) if finite.size else 1
    chart = Chart((0, x[-1]), (finite.min() - margin, finite.max() + margin), "1/d² (1/Å²)", "ln amplitude", height=270)
    chart.line(x, plain, GREY)
    chart.line(x, weighted, BLUE)
    keys = [(BLUE, "solid", "weighted by √(2 FSC/(1 + FSC))"), (GREY, "solid", "as it is")]
    if fit.get("bfactor") is not None:
        ends = 1 / np.array(fit["used"]) ** 2
        chart.line(ends, fit["intercept"] + fit["bfactor"] / 4 * ends, ORANGE, width=2.6)
        keys.append((ORANGE, "solid", f"fit: B = {fit['bfactor']:.0f} Å²".replace("-", "−")))
    chart.reads(x, [f"{v**-0.5:.2f} Å" for v in x], [("weighted", BLUE, weighted), ("as it is", GREY, plain)])
    return legend(keys) + chart.svg("Guinier plot")


# where time went

#: what a rank does in a phase; phases of other names are counted as computing
KINDS = {
    "setup": "starting", "compile": "compiling", "read": "reading", "reduce": "reducing", "checkpoint": "writing",
    "write": "writing", "postprocess": "after the solve",
}  # fmt: skip
KIND_COLOURS = {
    "starting": GREY, "compiling": PINK, "reading": SKY, "computing": BLUE, "reducing": ORANGE, "writing": AMBER,
    "after the solve": GREEN,
}  # fmt: skip


def by_kind(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each kind of work."""
    total = dict.fromkeys(KIND_COLOURS, 0.0)
    for phase, spent in seconds.items():
        total[KINDS.get(phase, "computing")] += spent
    return total


def timeline_chart(timelines: Mapping[int, Mapping]) -> str:
    """A row for each rank: what it did when; the parts of a span stand side by side, as long as they took.

    timelines : rank → origin and spans of its log
    """
    first = min(t["origin"] for t in timelines.values())
    end = max((t["origin"] - first + (t["spans"][-1][1] if t["spans"] else 0) for t in timelines.values()), default=1)
    row = 22 if len(timelines) > 6 else 30
    height = 20 + row * len(timelines) + 44
    chart = Chart((0, max(end, 1e-3)), (0, len(timelines)), "seconds", width=1160, height=height, left=64, top=8,
                  y_ticks=[])
    for place, (rank, timeline) in enumerate(sorted(timelines.items())):
        up = chart.top + place * row + 3
        chart.text(chart.left - 8, up + row / 2 + 1, f"rank {rank}", anchor="end")
        shift = timeline["origin"] - first
        for kind, rects in _segments(timeline["spans"], shift, chart).items():
            body = "".join(f'<rect x="{a:.2f}" y="{up:.1f}" width="{w:.2f}" height="{row - 6}"/>' for a, w in rects)
            chart.raw(f'<g fill="{KIND_COLOURS[kind]}"><title>{kind}</title>{body}</g>')
    return legend([(colour, "box", kind) for kind,
                   colour in KIND_COLOURS.items()]) + chart.svg("What each rank did when")


def _segments(spans, shift: float, chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """Bars of each kind; neighbours of one kind are joined."""
    bars: dict[str, list[tuple[float, float]]] = {}
    last = None
    for start, _, within in spans:
        at = start + shift
        for kind, spent in by_kind(within).items():
            if spent <= 0:
                continue
            a, b = float(chart.px(at)), float(chart.px(at + spent))
            if last == kind and a - sum(bars[kind][-1]) < 0.4:
                bars[kind][-1] = (bars[kind][-1][0], b - bars[kind][-1][0])
            else:
                bars.setdefault(kind, []).append((a, b - a))
            at, last = at + spent, kind
    return bars
