"""The report's charts of particles: distance, score and mixture, ROC, views, and what the score may go with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mpirecon.model.pose_state import FOUND
from mpirecon.report.colours import disc_cells, scale_bar
from mpirecon.report.svg import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, Chart, legend, number

#: dots of a scatter plot at most
_DOTS = 1500

#: so few are drawn larger
_FEW_DOTS = 200


def kinds(table: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """What is known of each particle: label → colour, rows (bool). One group without simulated errors."""
    valid = np.isfinite(table["distance"]) & np.isfinite(table["score"])
    wrong = table.get("pose_error")
    if wrong is None:
        return {"particles": (BLUE, valid)}
    junk = table.get("junk")
    junk = np.zeros_like(wrong) if junk is None else junk.astype(bool)
    moved = table["pose_state"] == FOUND if "pose_state" in table else np.zeros_like(wrong)
    groups = {"correct": (BLUE, valid & ~wrong & ~junk), "simulated wrong "
              "pose": (ORANGE, valid & wrong & ~junk & ~moved),
              "simulated wrong pose, at a found one": (GREEN, valid & wrong & ~junk & moved),
              "simulated junk": (PINK, valid & junk)}
    return {label: (colour, rows) for label, (colour, rows) in groups.items() if rows.any()}


def _edges(values: np.ndarray, most: int = 56) -> np.ndarray:
    """Bins for nearly all values; what lies far out is counted in the outermost."""
    if not values.size:
        return np.linspace(0, 1, 11)
    low, high = np.percentile(values, (0.5, 99.5))
    margin = 0.15 * (high - low) or 0.5 * abs(high) or 0.5
    low, high = max(low - margin, values.min()), min(high + margin, values.max())
    if not high > low:
        low, high = low - margin, high + margin
    return np.linspace(low, high, int(np.clip(2 * len(values) ** 0.5, 10, most)) + 1)


def histogram_chart(
    table: Mapping[str, np.ndarray], column: str, label: str, *, threshold: float | None = None, kept_is: str = "low",
    keep: float | None = None, by_kept: bool = False, height: int = 240,
) -> str:
    """Stacked histogram of a column by what is known of the particles, with the threshold of the run.

    kept_is : the side of the threshold that was kept, "low" or "high"
    keep : fraction of correct particles in the run's mixture, whose components are then drawn upon the bars (of the
        score)
    by_kept : distinguish kept and rejected ones by colour, where no errors were simulated
    """
    groups = kinds(table)
    if by_kept and len(groups) == 1:
        (colour, valid), = groups.values()
        kept = table["kept"].astype(bool)
        groups = {"kept": (colour, valid & kept), "rejected": (GREY, valid & ~kept)}
        groups = {name: of for name, of in groups.items() if of[1].any()}
    values = table[column]
    valid = np.any([rows for _, rows in groups.values()], axis=0) if groups else np.zeros(len(values), bool)
    edges = _edges(values[valid])
    clipped = np.clip(values, edges[0], edges[-1])
    counts = {name: np.histogram(clipped[rows], edges)[0] for name, (_, rows) in groups.items()}
    top = max(float(sum(counts.values()).max()) if counts else 1.0, 1.0)
    chart = Chart((edges[0], edges[-1]), (0, 1.08 * top), label, "particles", height=height)
    base = np.zeros(len(edges) - 1)
    for name, (colour, _) in groups.items():
        chart.bars(edges, counts[name], colour, base)
        base = base + counts[name]
    keys = [(colour, "box", f"{name} ({int(rows.sum()):,})") for name, (colour, rows) in groups.items()]
    middle = (edges[:-1] + edges[1:]) / 2
    reads = [(name, groups[name][0], [f"{c:,}" for c in counts[name]]) for name in groups]
    fine = np.linspace(edges[0], edges[-1], 8 * len(middle) + 1)
    for words, density in ({} if keep is None else components({k: v[valid] for k, v in table.items()}, keep)).items():
        colour, dash = (BLACK, "solid") if words.startswith("correct") else (GREEN, "dashed")
        per_bin = valid.sum() * (edges[1] - edges[0])
        chart.line(fine, per_bin * density(fine), colour, dash=dash, width=1.8)
        keys.append((colour, dash, words))
        reads.append((words, colour, [f"{v:.1f}" for v in per_bin * density(middle)]))
    if threshold is not None and edges[0] < threshold < edges[-1]:
        chart.rule(x=threshold, label="← kept" if kept_is == "low" else "kept →", colour=BLACK,
                   side="end" if kept_is == "low" else "start")
    chart.reads(middle, [f"{label.split(' (')[0]} {number(v)}" for v in middle], reads)
    return legend(keys) + chart.svg(f"Histogram of {column}")


def components(table: Mapping[str, np.ndarray], keep: float) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The score's density by a run's mixture, of the correct and of the others; label → function of the score.

    Of a component the score is normal about h·A, with A the signal that the particle's map and noise let expect (score
    over contrast). h and the variance are those that the posterior gives all particles of the component together; the
    share is the mixture's. Empty where the columns posterior and score say nothing.
    """
    score, posterior = table["score"], table.get("posterior")
    known = np.isfinite(score) if posterior is None else np.isfinite(score) & np.isfinite(posterior)
    if posterior is None or not known.any():
        return {}
    score, posterior = score[known], posterior[known]
    contrast = table["scale"][known] if "scale" in table else np.ones(len(score))
    expected = np.abs(np.divide(score, contrast, out=np.ones(len(score)),
                                where=contrast != 0)) if "scale" in table else contrast
    typical = np.quantile(expected, (np.arange(64) + 0.5) / 64)
    found = {}
    for words, share, weight in (("correct", keep, posterior), ("wrong", 1 - keep, 1 - posterior)):
        if not share > 0 or not weight.sum() > 1e-6:
            continue
        gain = (weight * score * expected).sum() / max((weight * expected**2).sum(), 1e-300)
        variance = (weight * (score - gain * expected) ** 2).sum() / weight.sum()
        found[f"{words}, as fitted ({100 * share:.1f} %)"] = _normals(share, gain * typical, max(variance, 1e-6))
    return found


def _normals(share: float, means: np.ndarray, variance: float) -> Callable[[np.ndarray], np.ndarray]:
    """`share` of the mean of normal densities."""
    def density(x: np.ndarray) -> np.ndarray:
        return share * np.exp(-((x[:, None]
                                 - means) ** 2) / (2 * variance)).mean(axis=1) / np.sqrt(2 * np.pi * variance)

    return density


def boundary(values: np.ndarray, kept: np.ndarray) -> float | None:
    """The value that best splits kept (above) from left out (below); None when nothing was left out."""
    finite = np.isfinite(values)
    values, kept = values[finite], kept[finite]
    if kept.all() or not kept.any():
        return None
    order = np.argsort(values)
    right = np.cumsum(~kept[order]) - np.cumsum(kept[order])
    cut = int(right.argmax())
    ordered = values[order]
    return float((ordered[cut] + ordered[min(cut + 1, len(ordered) - 1)]) / 2)


def roc_chart(curves: Mapping[str, np.ndarray], chosen: Mapping) -> str:
    """ROC and precision over recall, with the run's selection on both."""
    pictures = []
    for across, up, labels in (
        ("false_positive_rate", "recall", ("correct particles rejected", "incorrect particles rejected")),
        ("recall", "precision", ("incorrect particles rejected", "incorrect among rejected")),
    ):
        chart = Chart((0, 1), (0, 1.02), *labels, width=290, height=245, left=64, right=14,
                      x_ticks=_PERCENT, y_ticks=_PERCENT)
        if up == "recall":
            chart.line([0, 1], [0, 1], GREY, dash="dotted", width=1.3)
        chart.line(curves[across], curves[up], BLUE)
        if chosen.get(across) is not None and chosen.get(up) is not None:
            chart.points([chosen[across]], [chosen[up]], ORANGE, 5)
        chart.reads(curves[across], [f"{labels[0]}: {100 * v:.1f} %" for v in curves[across]],
                    [(labels[1], BLUE, [f"{100 * v:.1f} %" for v in curves[up]])])
        pictures.append(chart.svg(f"{labels[1]} over {labels[0]}"))
    here = chosen.get("recall") is not None
    keys = legend(
        [(BLUE, "solid", "all thresholds of the distance")] + [(ORANGE, "dot", "this run's selection")] * here
    )
    return f'{keys}<div class="two">{"".join(pictures)}</div>'


_PERCENT = [(v, f"{100 * v:g} %") for v in (0, 0.25, 0.5, 0.75, 1)]


def views_chart(views: Mapping[str, np.ndarray]) -> str:
    """Particles per view before, and the fraction of each that was kept."""
    before, after = views["before"], views["after"]
    share = np.divide(after, before, out=np.full(len(before), np.nan), where=before > 0)
    most = float(before.max()) if len(before) else 1.0
    left = disc_cells(views, before, 0, most, lambda i: f"{before[i]:.0f} particles", "particles per view")
    unchanged = np.array_equal(before, after)
    title = f'<p class="small">particles per view{"" if unchanged else ", before the selection"}</p>'
    if unchanged:
        return f"<div>{title}{left}{scale_bar('0', f'{most:.0f}')}</div>"
    right = disc_cells(views, share, 0, 1, lambda i: f"{after[i]:.0f} of {before[i]:.0f} kept",
                       "fraction kept per view")
    drawn = (f"<div>{title}{left}{scale_bar('0', f'{most:.0f}')}</div>"
             f'<div><p class="small">fraction of each view that was kept</p>{right}{scale_bar("0 %", "100 %")}</div>')
    if "found" not in views:
        return drawn
    for name, words in (("given", "all particles, at the given poses"), ("found", "those kept at a found pose")):
        counts = views[name]
        top = max(float(counts.max()), 1.0)
        disc = disc_cells(views, counts, 0, top, lambda i, counts=counts: f"{counts[i]:.0f} particles", words)
        drawn += f'<div><p class="small">{words}</p>{disc}{scale_bar("0", f"{top:.0f}")}</div>'
    return drawn


#: width of a chart that shares its row with so many, in the units of its letters: what it has on a wide page
_WIDTHS = {1: 590, 2: 590, 3: 393, 4: 292}


def against_charts(table: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The score against defocus, noise level, contrast and micrograph, of what is known and differs: name → chart."""
    wanted = {"defocus": ("defocus", "defocus (µm)", 1e-4), "noise": ("sigma", "noise level σ (relative)", 1.0),
              "contrast": ("scale", "contrast (relative)", 1.0)}
    wanted = {name: of for name, of in wanted.items() if _differs(table, of[0], of[2])}
    groups = _quartiles(table) if "micrograph" in table else None
    wide = _WIDTHS.get(len(wanted) + (groups is not None), 590)
    charts = {name: _scatter(table, *of, wide) for name, of in wanted.items()}
    if groups is not None:
        charts["micrograph"] = _by_micrograph(groups, wide)
    return charts


def _differs(table: Mapping[str, np.ndarray], column: str, factor: float) -> bool:
    """Whether a column is there and has more than one value, where the score is known."""
    if column not in table:
        return False
    values = table[column][np.isfinite(table[column]) & np.isfinite(table["score"])]
    return len(values) > 0 and np.ptp(values * factor) > 0


def _scatter(table: Mapping[str, np.ndarray], column: str, label: str, factor: float, width: int) -> str:
    groups = kinds(table)
    x, y = table[column] * factor, table["score"]
    valid = np.isfinite(x) & np.isfinite(y)
    limits = [np.percentile(v[valid], (0.3, 99.7)) for v in (x, y)]
    (x0, x1), (y0, y1) = ((low - 0.04 * (high - low), high + 0.04 * (high - low)) for low, high in limits)
    chart = Chart((x0, x1), (y0, y1), label, "score", width=width, height=240, left=50, right=10, top=8)
    stride = max(1, len(x) // _DOTS)
    for colour, rows in groups.values():
        shown = np.flatnonzero(rows & valid)[::stride]
        shown = shown[(x[shown] >= x0) & (x[shown] <= x1) & (y[shown] >= y0) & (y[shown] <= y1)]
        chart.points(x[shown], y[shown], colour, *((1.5, 0.45) if len(x) > _FEW_DOTS else (3, 0.8)))
    return chart.svg(f"Score against {column}")


def _quartiles(table: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Quartiles of the scores of each micrograph, (micrographs, 3), by their medians; None where there is but one."""
    number_, score = table["micrograph"], table["score"]
    valid = np.isfinite(score)
    order = np.lexsort((score[valid], number_[valid]))
    groups = np.split(score[valid][order], np.flatnonzero(np.diff(number_[valid][order])) + 1)
    if len(groups) < 2:
        return None
    quartiles = np.array([np.percentile(g, (25, 50, 75)) for g in groups])
    return quartiles[np.argsort(quartiles[:, 1])]


def _by_micrograph(quartiles: np.ndarray, width: int) -> str:
    """Median score of each micrograph, sorted, with the middle half of its particles."""
    count = len(quartiles)
    quartiles = quartiles[np.linspace(0, count - 1, min(count, 300)).round().astype(int)]
    x = np.linspace(1, count, len(quartiles))
    low, high = quartiles.min(), quartiles.max()
    chart = Chart((1, count), (low - 0.05 * (high - low), high + 0.05 * (high - low)), "micrographs, sorted", "score",
                  width=width, height=240, left=50, right=10, top=8)
    chart.band(x, quartiles[:, 0], quartiles[:, 2], BLUE, 0.2)
    chart.line(x, quartiles[:, 1], BLUE)
    return chart.svg("Score by micrograph")


def kept_bars(confusion: Sequence[Mapping]) -> str:
    """Particles kept, by kind, as bars: at the given pose, and beyond that at a found one."""
    return bars([(kind_of(row), row["kept"] / row["count"], _kept_words(row),
                  BLUE if row["kind"] == "right" else PINK if row["kind"] == "junk" else ORANGE,
                  row.get("at_found", 0) / row["count"])
                 for row in confusion if row["count"]])


def _kept_words(row: Mapping) -> str:
    if not row.get("at_found"):
        return f"{row['kept']:,} of {row['count']:,}"
    return f"{row['kept']:,} + {row['at_found']:,} of {row['count']:,}"


def kind_of(row: Mapping) -> str:
    """A row of the confusion in words: correct, wrong by so many degrees or Å, junk."""
    if row.get("angstrom") is not None:
        low, high = row["angstrom"]
        return f"offset {low:g}–{high:g} Å off" if high is not None else f"offset {low:g} Å off or more"
    if row["degrees"] is not None:
        return "{:g}–{:g}° off".format(*row["degrees"])
    return "correct" if row["kind"] == "right" else row["kind"]


def bars(rows: Sequence[tuple]) -> str:
    """Horizontal bars: (name, share 0 … 1, words, colour) each,
    and perhaps the fraction of a paler part that follows."""
    from html import escape

    def paler(colour: str, share: float = 0.0) -> str:
        return f'<i style="width:{100 * share:.1f}%;background:{colour};opacity:0.45"></i>' if share else ""

    body = "".join(
        f"<tr><th>{escape(name)}</th><td><i "
        f"style=\"width:{max(100 * share, 0.3):.1f}%;background:{colour}\"></i>{paler(colour, *more)}</td>"
        f"<td>{escape(words)}</td></tr>" for name, share, words, colour, *more in rows
    )  # fmt: skip
    return f'<table class="bars"><tbody>{body}</tbody></table>'
