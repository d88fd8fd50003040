"""Local resolution on a page: slices of the map coloured by it, and how many voxels have which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from mpirecon import __version__
from mpirecon.report import pieces
from mpirecon.report.colours import colour_of, scale_bar
from mpirecon.report.pictures import grey, grey_range, row, row_of_pngs, slices
from mpirecon.report.svg import BLACK, BLUE, Chart, legend, number

#: least range of the colours, about its middle: a difference of a few per cent is no matter of colour
_COLOUR_RANGE = 1.1

#: how dark the darkest density is drawn beneath a colour
_DARKEST = 0.3


def section(maps: Mapping[str, np.ndarray], found: Mapping, pixel_size: float) -> str:
    """Slices of locres_filtered.mrc as they are and coloured by locres.mrc, and the histogram.

    maps : ``"locres"``, Å, 0 where it is not known, and ``"locres_filtered"``, (n, n, n)
    found : ``LocalResolution.as_dict()``
    """
    low, high = colour_limits(found)
    shades, colours = _pictures(maps, low, high)
    box = len(maps["locres"])
    rows = (row(shades, pixel_size, box, "locres_filtered.mrc, central slice")
            + row(colours, pixel_size, box, "central slice, coloured by local resolution"))
    pictures = pieces.figure(
        f'<div class="maps">{rows}</div>{scale_bar(f"{low:.2f} Å", f"{high:.2f} Å", reverse=True)}',
        "Above: the mean of the half maps, each place filtered for the resolution there (locres_filtered.mrc). Below: "
        "the same, coloured by the local resolution (locres.mrc); grey where it is not known, or none.",
    )
    drawn = pieces.figure(histogram(found), words(found))
    return pieces.section("Local resolution", f'<div class="pairs-of">{pictures}{drawn}</div>', fact="local")


def _pictures(maps: Mapping[str, np.ndarray], low: float, high: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Central slices of the filtered map, (h, w) uint8, and the same coloured, (h, w, 3)."""
    filtered, resolution = (slices(np.asarray(maps[name])) for name in ("locres_filtered", "locres"))
    dark, bright = grey_range(filtered)
    shades = [grey(image, dark, bright) for image in filtered]
    return shades, [_coloured(shade, at, low, high) for shade, at in zip(shades, resolution)]


def notebook(maps: Mapping[str, np.ndarray], found: Mapping, pixel_size: float) -> str:
    """Coloured slices as HTML that needs no style sheet."""
    low, high = colour_limits(found)
    return (row_of_pngs(_pictures(maps, low, high)[1], f"yellow {low:.2f} Å, blue {high:.2f} Å. {words(found)} "
                        f"{len(maps['locres']) * pixel_size:.4g} Å a side"))


def words(found: Mapping) -> str:
    """What the histogram shows, and how it was found."""
    where = "of the mask" if found["masked"] else "that a window reaches"
    text = (f"FSC of the half maps in {found['windows']:,} soft spheres of radius {found['radius']:.4g} Å, edge "
            f"{found['edge']:.4g} Å, {found['sampling']:.4g} Å apart, each corrected by random phases; where it falls "
            f"below {found['threshold']:g}.")
    if found["median"] is None:
        return f"{text} The half maps do not agree in any window: no local resolution could be determined."
    text += (f" Of the voxels {where} half lie between {found['quartile_1']:.2f} and {found['quartile_3']:.2f} Å "
             f"(median {found['median']:.2f}), 98 % between {found['best']:.2f} and {found['worst']:.2f} Å")
    none = found["without_resolution"]
    return text + (f"; {100 * none:.3g} % have none (locres.mrc is {found['min_resolution']:g} Å there)." if none > 0
                   else ".")


def histogram(found: Mapping) -> str:
    """Fraction of the voxels over resolution, with the median."""
    edges, counts = (np.array(found["histogram"][name], float) for name in ("edges", "voxels"))
    share = 100 * counts / max(counts.sum(), 1) * (1 - found["without_resolution"])
    chart = Chart((edges[0], edges[-1]), (0, 1.08 * max(share.max(), 1e-3)), "local resolution (Å)", "voxels (%)",
                  height=300)
    chart.bars(edges, share, BLUE)
    if found["median"] is not None:
        chart.rule(x=found["median"], label="median", colour=BLACK, side="start")
    middle = (edges[:-1] + edges[1:]) / 2
    chart.reads(middle, [f"{number(at)} Å" for at in middle], [("voxels", BLUE, [f"{v:.2f} %" for v in share])])
    return legend([(BLUE, "box", "voxels with a resolution")]) + chart.svg("Histogram of the local resolution")


def colour_limits(found: Mapping) -> tuple[float, float]:
    """Å at the ends of the colour scale."""
    if found["median"] is None:
        return found["min_resolution"] / _COLOUR_RANGE, found["min_resolution"]
    return min(found["best"], found["median"] / _COLOUR_RANGE), max(found["worst"], found["median"] * _COLOUR_RANGE)


#: the colour scale in 256 steps, (256, 3)
_TABLE = np.array([[int(colour_of(i / 255)[at : at + 2], 16) for at in (1, 3, 5)] for i in range(256)])


def _coloured(shade: np.ndarray, resolution: np.ndarray, low: float, high: float) -> np.ndarray:
    """A grey picture, (h, w) uint8, in the colours of a slice of resolutions (n, n): bright colours are fine;
    (h, w, 3) uint8."""
    step = -(-resolution.shape[0] // len(shade))
    at = resolution[::step, ::step][: len(shade), : len(shade)][::-1]
    index = np.rint(255 * np.clip((high - at) / (high - low), 0, 1)).astype(int)
    light = _DARKEST + (1 - _DARKEST) * shade[..., None] / 255
    known = (at > 0) & (at <= 1.5 * high)
    return np.where(known[..., None], _TABLE[index] * light, shade[..., None]).astype(np.uint8)


def page(
    half_maps: Sequence[str], pixel_size: float, maps: Mapping[str, np.ndarray], found: Mapping, lines: Iterable[str],
    warnings: Iterable[str],
) -> str:
    """A page about two half maps of any program: what was found, `lines`, and the section."""
    template = Template(resources.files("mpirecon.report").joinpath("report.html").read_text(encoding="utf-8"))
    median = "none" if found["median"] is None else f"{found['median']:.2f} Å"
    *others, local, _ = lines
    facts = [pieces.fact("local resolution", median, "median", "local"),
             pieces.fact("windows", f"{found['windows']:,}", f"{found['windows_without_resolution']:,} without a "
                         f"resolution"),
             pieces.fact("time", pieces.duration(found["seconds"]), f"{pieces.size(found['memory_bytes'])} a rank")]
    table = pieces.table(
        ("half maps", "post-processing"),
        [(half_maps[0] if i == 0 else half_maps[1] if i == 1 else "", line) for i, line in enumerate(others)],
        text=("half maps", "post-processing"),
    )
    return template.substitute(
        generator=escape(f"mpirecon {__version__}"), title=escape(" and ".join(Path(name).name for name in half_maps)),
        kind="mpirecon postprocess", verdict=escape(local[:1].upper() + local[1:] + "."),
        cautions="\n".join(f'<p class="caution">{escape(text)}</p>' for text in warnings)
        or '<p class="calm">No warnings.</p>',
        facts="\n".join(facts), overview=section(maps, found, pixel_size),
        details=pieces.section("Post-processing", table),
        footer=escape(f"Written by mpirecon {__version__}, postprocess --local-resolution."),
    )
