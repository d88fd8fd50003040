"""Two map files against each other: curves, crossings, figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.io.mrc import read_map
from mpirecon.report.figures import THRESHOLDS, fsc_figure, save_figure
from mpirecon.validate.fsc import crossing, fsc
from mpirecon.validate.grids import check_same_grid

_LABELS = {"fsc": "unmasked", "fsc_masked": "masked"}


@dataclass(frozen=True)
class Comparison:
    """FSC curves of two maps: `curves` maps ``"fsc"`` and, with a mask, ``"fsc_masked"`` to (box // 2 + 1,) float64."""

    first: str
    second: str
    box: int
    pixel_size: float
    curves: dict[str, np.ndarray]

    def resolution(self, name: str, threshold: float) -> float | None:
        """Å where a curve falls below the threshold, None when it never does."""
        return crossing(self.curves[name], threshold, self.box, self.pixel_size)

    def lines(self) -> list[str]:
        """The crossings in words, one line a curve."""
        out = []
        for name in self.curves:
            told = [f"FSC {t:g} at {self._in_words(self.resolution(name, t))}" for t in THRESHOLDS]
            out.append(f"{_LABELS[name]}: {', '.join(told)}")
        return out

    def _in_words(self, resolution: float | None) -> str:
        nyquist = self.box * self.pixel_size / (self.box // 2)
        return f"{resolution:.2f} Å" if resolution else f"{nyquist:.2f} Å or better (never falls below it)"

    def as_dict(self) -> dict:
        """Everything for JSON; a crossing that does not happen is None."""
        crossings = {
            f"{name}_{str(t).replace('.', '')}": self.resolution(name, t) for name in self.curves for t in THRESHOLDS
        }
        curves = {name: curve.tolist() for name, curve in self.curves.items()}
        maps = {"maps": [self.first, self.second], "box": self.box, "pixel_size": self.pixel_size}
        return {**maps, "resolution": crossings, **curves}


def compare_maps(first, second, mask=None) -> Comparison:
    """FSC of two MRC maps, also within a mask when one is given; all three must share box and pixel size.

    Raises
    ------
    UserError
        naming the file that cannot be read or does not fit.
    """
    a, b = read_map(first), read_map(second)
    check_same_grid(a, str(first), b, str(second))
    for volume, path in ((a, first), (b, second)):
        if not np.ptp(volume.array) > 0:
            raise UserError(f"{path}: the map is constant, there is nothing to correlate")
    curves = {"fsc": fsc(a.array, b.array)}
    if mask is not None:
        m = read_map(mask)
        check_same_grid(a, str(first), m, f"the mask {mask}")
        if not np.any(m.array):
            raise UserError(f"{mask}: the mask is zero everywhere")
        curves["fsc_masked"] = fsc(a.array, b.array, m.array)
    return Comparison(str(first), str(second), a.box, a.pixel_size, curves)


def draw_comparison(comparison: Comparison, path, *, overwrite: bool) -> None:
    """The FSC figure as a file, format by its ending; atomic."""
    labels = _LABELS if len(comparison.curves) > 1 else {"fsc": "FSC"}
    curves = {labels[name]: curve for name, curve in comparison.curves.items()}
    resolutions = {labels[name]: comparison.resolution(name, 0.143) for name in comparison.curves}
    title = f"{Path(comparison.first).name} and {Path(comparison.second).name}"
    figure = fsc_figure(curves, comparison.box, comparison.pixel_size, resolutions, title)
    with atomic_path(path, overwrite) as temporary:
        save_figure(figure, temporary, Path(path).suffix)
