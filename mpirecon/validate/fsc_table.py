"""FSC curves as a table on disk and as a plot in a terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import numpy as np

from mpirecon.io.atomic import atomic_path


def write_fsc_csv(path, curves: Mapping[str, np.ndarray], box: int, pixel_size: float, *, overwrite: bool) -> None:
    """Columns shell, resolution (Å, ``inf`` for shell 0) and one for each curve (box // 2 + 1,); atomic.

    Raises UserError when the file exists (without `overwrite`) or cannot be written.
    """
    with atomic_path(path, overwrite) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "resolution", *curves])
        for shell, values in enumerate(zip(*curves.values())):
            resolution = box * pixel_size / shell if shell else float("inf")
            table.writerow([shell, f"{resolution:.6g}", *(f"{value:.6f}" for value in values)])


def text_plot(curve: np.ndarray, box: int, pixel_size: float, width: int = 64, height: int = 11) -> str:
    """The curve in characters: frequency to the right with Å beneath, thresholds 0.5 and 0.143 as dotted lines."""
    shells = np.linspace(1, box // 2, width)
    values = np.clip(np.interp(shells, np.arange(box // 2 + 1), curve), 0, 1)
    rows = np.rint((1 - values) * (height - 1)).astype(int)
    marked = {round((1 - t) * (height - 1)): t for t in (1.0, 0.5, 0.143, 0.0)}
    lines = []
    for row in range(height):
        cells = ["·" if 0 < row < height - 1 and row in marked else " "] * width
        for column in np.flatnonzero(rows == row):
            cells[column] = "*"
        label = f"{marked[row]:5.3f}" if row in marked else ""
        lines.append(f"{label:>6} |{''.join(cells)}".rstrip())
    lines.append(f"{'':>6} +{'-' * width}")
    return "\n".join([*lines, _resolution_labels(shells, box, pixel_size)])


def _resolution_labels(shells: np.ndarray, box: int, pixel_size: float) -> str:
    line = [" "] * (len(shells) + 12)
    for column in np.linspace(0, len(shells) - 1, 5).astype(int):
        text = f"{box * pixel_size / shells[column]:.3g}"
        start = 8 + column - (0 if column == 0 else len(text) // 2)
        line[start : start + len(text)] = text
    return "".join(line).rstrip() + " Å"
