"""Figures, drawn without a display. matplotlib is imported when the first one is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, refuse_existing
from mpirecon.validate.compare import LABELS, Comparison, distinct_names
from mpirecon.validate.fsc import THRESHOLDS

#: endings of the files that figures are drawn into
SUFFIXES = (".png", ".svg", ".pdf")

# dark enough on white, and distinguishable in grey and by colour-blind eyes (Okabe & Ito)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def fsc_figure(
    curves: Mapping[str, np.ndarray],
    box: int,
    pixel_size: float,
    resolutions: Mapping[str, float | None] | None = None,
    title: str = "",
    size: tuple[float, float] = (7.0, 4.4),
):
    """FSC curves over spatial frequency, with Å along the top and the usual thresholds; a matplotlib Figure.

    curves : label → (box // 2 + 1,)
    pixel_size : Å
    resolutions : label → Å at 0.143, added to the legend
    size : inches
    """
    figure, axes = new_figure(*size)
    frequency = np.arange(box // 2 + 1) / (box * pixel_size)
    lowest = 0.0
    for colour, (label, curve) in zip(colour_cycle(), curves.items()):
        resolution = (resolutions or {}).get(label)
        text = f"{label}: {resolution:.2f} Å" if resolution else label
        # shell 0 is the maps' mean, no matter of resolution
        axes.plot(frequency[1:], np.asarray(curve)[1:], color=colour, linewidth=1.8, label=text)
        lowest = min(lowest, float(np.min(curve[1:])))
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color="0.45", linewidth=0.9, linestyle=(0, (5, 4)))
        axes.annotate(f"{threshold:g}", (1.0, threshold), (4, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=9, color="0.35")
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set(xlim=(0, frequency[-1]), ylim=(max(-1.0, lowest - 0.03) if lowest < -0.05 else -0.05, 1.02))
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation")
    _resolution_axis(axes, frequency[-1])
    # below the axes: within them there is no place that no curve may need
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=min(len(curves), 2), edgecolor="none",
                fontsize=9)
    if title:
        axes.set_title(title, fontsize=11, pad=8)
    return figure


def _resolution_axis(axes, highest: float) -> None:
    """The same axis in Å along the top: round values that do not crowd."""
    candidates = np.array([c * 10.0**e for e in range(-1, 4) for c in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)])
    chosen: list[float] = []
    for value in sorted(candidates[(1 / candidates <= highest * 1.0001) & (1 / candidates >= highest * 0.06)]):
        if not chosen or 1 / chosen[-1] - 1 / value >= highest * 0.08:
            chosen.append(float(value))
    top = axes.secondary_xaxis("top")
    top.set_xticks([1 / v for v in chosen], [f"{v:g}" for v in chosen])
    top.set_xlabel("resolution (Å)")


def png_bytes(figure, dpi: int = 150) -> bytes:
    """The figure as a PNG in memory."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_figure(figure, path, suffix: str = ".png") -> None:
    """Write a figure as the format `suffix` names, whatever `path` ends with (it may be a temporary name)."""
    figure.savefig(path, format=suffix.lstrip(".").lower() or "png", dpi=150)


def check_suffix(path: str | os.PathLike, option: str = "") -> None:
    """Raise UserError for a file under whose ending no figure is drawn."""
    ending = Path(path).suffix.lower()
    if ending not in SUFFIXES:
        raise UserError(f"{option} {os.fspath(path)}: cannot draw {ending or 'a file without an ending'}; use "
                        f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}".lstrip())


def draw_comparison(comparison: Comparison, path, *, overwrite: bool) -> None:
    """The FSC figure of two maps as a file, format by its ending; atomic.

    Raises UserError for another ending, and when the file exists, without `overwrite`, or is one of those compared.
    """
    check_suffix(path)
    refuse_existing(path, overwrite, comparison.files)
    labels = LABELS if len(comparison.curves) > 1 else {"fsc": "FSC"}
    curves = {labels[name]: curve for name, curve in comparison.curves.items()}
    resolutions = {labels[name]: comparison.resolution(name, 0.143) for name in comparison.curves
                   if name != "fsc_randomised"}
    title = " and ".join(distinct_names(comparison.first, comparison.second))
    figure = fsc_figure(curves, comparison.box, comparison.pixel_size, resolutions, title)
    with atomic_path(path, overwrite) as temporary:
        save_figure(figure, temporary, Path(path).suffix)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1):
    """A Figure with the Agg canvas and its axes; pyplot, which keeps global state, stays out of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def colour_cycle():
    """Colours of curves, one after another."""
    while True:
        yield from _COLOURS
