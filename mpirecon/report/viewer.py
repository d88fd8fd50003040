"""A quick look at a map without other software: a self-contained page, or characters in a terminal."""

from __future__ import annotations

import base64
import json
import shutil
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from mpirecon.io.atomic import atomic_path
from mpirecon.kernels import fft
from mpirecon.report.pictures import map_panel, projections, slices

#: characters from dark to bright, where there are no colours
_RAMP = " .:-=+*#%@"

#: the greys of a terminal's 256 colours: 232 is nearly black, 255 nearly white
_FIRST_GREY, _GREYS = 232, 24


def write_view(volume: np.ndarray, pixel_size: float, name: str, target: Path, *, size: int = 96,
               level: float | None = None,
               overwrite: bool = False) -> Path:
    """The page about a map: slices to slide through, projections, a surface to turn; returns its path. Atomic.

    Parameters
    ----------
    volume : (n, n, n) float
    pixel_size : Å
    size : voxels of a side in the page at most: a larger map is low-passed and coarsened, so that the page stays small
    level : density of the surface first shown; by default well above the solvent
    """
    volume = np.asarray(volume, np.float32)
    small = coarsened(volume, size)
    low, high = float(small.min()), float(small.max())
    level = surface_level(small) if level is None else level
    share = (small - low) / max(high - low, 1e-30)
    data = {
        "n": small.shape[0], "pixel": pixel_size * volume.shape[0] / small.shape[0], "low": low, "high": high,
        "level": min(max(level, low), high), "show": [float(v) for v in np.percentile(small, (0.5, 99.8))],
    }  # fmt: skip
    voxels = base64.b64encode(np.rint(255 * share).astype(np.uint8).tobytes()).decode()
    n, m = volume.shape[0], small.shape[0]
    text = f"{n} × {n} × {n} voxels of {pixel_size:.4g} Å, density {volume.min():.4g} … {volume.max():.4g}, " \
           f"standard deviation {volume.std():.4g}"
    if m < n:
        text += (
            f"; shown coarsened to {m} voxels of {data['pixel']:.4g} Å, the pictures at the foot are of the map itself"
        )
    template = Template(resources.files("mpirecon.report").joinpath("view.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(name), text=escape(text + "."), data=json.dumps(data), voxels=voxels,
        panel=map_panel(volume, pixel_size, name),
    )
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return Path(target)


def coarsened(volume: np.ndarray, size: int) -> np.ndarray:
    """The map on a grid of at most `size` voxels a side, its finer frequencies cut off; float32."""
    n = volume.shape[0]
    if n <= size:
        return volume
    m = size - size % 2
    keep = np.concatenate([np.arange(m // 2), np.arange(n - m // 2, n)])
    f = fft.rfftn(np.asarray(volume, np.float32))[np.ix_(keep, keep, np.arange(m // 2 + 1))]
    return fft.irfftn(f * np.float32((m / n) ** 3), s=(m,) * 3).astype(np.float32)


def surface_level(volume: np.ndarray) -> float:
    """A density for a first surface: five standard deviations above what lies at the rim of the box's sphere.

    At least the 88th percentile of the sphere and at most the 99.3rd, so that there is something to see.
    """
    n = volume.shape[0]
    x2 = ((np.arange(n, dtype=np.float32) - n // 2) / (n / 2)) ** 2
    r2 = x2[:, None, None] + x2[:, None] + x2
    rim = volume[(r2 > 0.72) & (r2 < 0.92)]
    low, high = np.percentile(volume[r2 < 0.92], (88, 99.3))
    return float(np.clip(rim.mean() + 5 * rim.std(), low, high)) if rim.size else float(low)


def terminal_view(volume: np.ndarray, pixel_size: float, *, colour: bool, columns: int | None = None) -> str:
    """Central slices and, below, projections as text;
    two rows of pixels a line, as half blocks, where colours may be used."""
    columns = columns or shutil.get_terminal_size((80, 24)).columns
    n = volume.shape[0]
    width = int(max(8, min(n, (columns - 4) // 3)))
    lines = []
    for what, images in (("central slices", slices(volume)), ("projections", projections(volume))):
        low, high = np.percentile(np.stack(images), (0.5, 99.7))
        shown = [_resampled(image[::-1], width, low, high) for image in images]
        lines.append("  ".join(f"{f'{what} {plane}':<{width}.{width}}" for plane in ("xy", "xz", "yz")))
        draw = _half_blocks if colour else _characters
        lines += ["  ".join(row) for row in zip(*(draw(image) for image in shown))]
    lines.append(f"{n * pixel_size:.4g} Å across, {n} voxels of {pixel_size:.4g} Å; density {volume.min():.4g} … "
                 f"{volume.max():.4g}")
    return "\n".join(lines)


def _resampled(image: np.ndarray, width: int, low: float, high: float) -> np.ndarray:
    """(width, width) in 0 … 1: means of the pixels in each cell."""
    edges = np.linspace(0, image.shape[0], width + 1).round().astype(int)
    starts = np.minimum(edges[:-1], image.shape[0] - 1)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), starts, 0), starts, 1)
    count = np.maximum(np.diff(edges), 1)
    return np.clip((sums / np.outer(count, count) - low) / max(high - low, 1e-30), 0, 1)


def _half_blocks(image: np.ndarray) -> list[str]:
    grey = _FIRST_GREY + np.rint(image * (_GREYS - 1)).astype(int)
    grey = np.concatenate([grey, grey[-1:]]) if len(grey) % 2 else grey
    return ["".join(f"\x1b[38;5;{upper};48;5;{lower}m▀" for upper, lower in zip(*pair)) + "\x1b[0m"
            for pair in zip(grey[::2], grey[1::2])]


def _characters(image: np.ndarray) -> list[str]:
    rows = (
        (image[: len(image) // 2 * 2].reshape(-1, 2, image.shape[1]).mean(axis=1) * (len(_RAMP) - 1))
        .round()
        .astype(int)
    )
    return ["".join(_RAMP[v] for v in row) for row in rows]
