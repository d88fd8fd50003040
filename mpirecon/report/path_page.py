"""The page about a path of nested selections: what each step is worth beside random discards, and on noise."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.io.mrc import read_map
from mpirecon.report import pieces
from mpirecon.report.charts import fsc_chart, resolution_ticks
from mpirecon.report.colours import colour_of
from mpirecon.report.controls import controls_section
from mpirecon.report.pictures import map_panel
from mpirecon.report.svg import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, Chart, legend, number

#: steps whose FSC curves are drawn, at most
_CURVES = 6


def write_path_page(
    folder: Path, summary: dict, volume: np.ndarray | None = None, *, target: Path | None = None,
    overwrite: bool = True,
    place: Path | None = None,
) -> Path:
    """Write the page into a path's folder, or as `target`; returns its place. Atomic.

    summary : the content of summary.json
    volume : the best step's map, (n, n, n), where it is in memory
    place : where the path's files are to be, where that is not the folder (yet)

    Raises
    ------
    UserError
        when the folder holds no finished path, or the page cannot be written.
    """
    folder = Path(folder)
    target = folder / "report.html" if target is None else Path(target)
    volume = read_map(folder / "volume.mrc").array if volume is None else volume
    try:
        page = path_page((place or folder).resolve().name, summary, volume)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{folder}: summary.json was not written by a path of this version ({type(error).__name__}: "
                        f"{error}); run mpirecon path again") from error
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return target


def path_page(name: str, summary: dict, volume: np.ndarray) -> str:
    """The page as text, about the path of that name."""
    program = f"{summary['program']} {summary['version']}"
    template = Template(resources.files("mpirecon.report").joinpath("report.html").read_text(encoding="utf-8"))
    warnings = summary["warnings"]
    null = [pieces.note(summary["null"]["sentence"])] if summary["null"] else []
    return template.substitute(
        generator=escape(program),
        kind=escape("mpirecon path · " + str(summary["started"]).replace("T", " ").replace("+00:00", " UTC")),
        title=escape(f"{name}: {Path(summary['particles']['file']).name}"),
        verdict=escape(summary["verdict"]["sentence"]),
        cautions="\n".join([*(f'<p class="caution">{escape(text)}</p>' for text in warnings), *null])
        or '<p class="calm">No warnings.</p>',
        facts="\n".join(pieces.fact(*fact) for fact in _facts(summary)),
        overview="\n".join(_overview(summary)),
        details="\n".join(part for part in _details(summary, volume) if part),
        footer=escape(f"Written by {program} from the files in this folder; mpirecon report writes it again."),
    )


def _facts(summary: dict) -> list[tuple[str, str, str, str]]:
    verdict, steps = summary["verdict"], summary["steps"]
    best, whole = _step(steps, verdict["best"]), steps[0]
    finest = _step(steps, verdict["best_resolution"])
    limit = "–" if verdict["limit"] is None else f"{verdict['limit']:+.4f}"
    schedule, configuration = summary["path"]["schedule"], summary["configuration"]
    scored = (f"by a first run, loss {configuration['loss']}" if schedule == "once"
              else f"at each step, distance {configuration['distance']}")
    facts = [
        ("half maps agree best", _share(best), f"{best['particles']} particles; mean FSC {best['mean_fsc']:.4f}, all "
         f"{whole['mean_fsc']:.4f}", "best"),
        ("gain in mean FSC", number(verdict["gain"]), f"by chance up to {limit}", "gain"),
        ("best resolution", pieces.angstrom(finest["resolution_fitted"], summary),
         f"at {_share(finest)}, the most particles within one standard error of the finest; all: "
         f"{pieces.angstrom(whole['resolution_fitted'], summary)}", "resolution"),
        ("B of random discards", _bfactor(verdict["bfactor"]), "ln N against 1/d² (Rosenthal & Henderson)", "bfactor"),
        ("scored", schedule, f"{scored}; {len(steps)} steps, random discards of each size: "
         f"{summary['path']['random_draws']}", "path"),
    ]
    if summary["wrong_share"] is not None:
        facts.append(("simulated errors", f"{100 * summary['wrong_share']:.1f} %",
                      f"{100 * best['wrong_share']:.1f} % of the best step's", "truth"))
    return facts


def _overview(summary: dict) -> list[str]:
    steps, random = summary["steps"], summary["random"]
    drawn = [
        ("Resolution", _resolution_chart(summary), f"Half-map FSC 0.143 in the mask ({summary['mask']}), by all curves "
         "together, finer upwards. Grey dots: where each curve falls below 0.143 by itself. Orange dots are random "
         "discards of the same sizes; the line through them is Rosenthal and Henderson's."),
        ("Agreement of half maps", _by_share(summary, "mean_fsc", "mean half-map FSC"),
         "Mean of the half-map FSC over all shells: what the best step is found by."),
        ("FSC to the map of all particles", _by_share(summary, "fsc_to_all", "mean FSC"),
         "Mean over all shells, in the mask. A selection that only loses particles follows the random discards."),
        ("Directions", _by_share(summary, "area_ratio", "ratio of areas", more=("sphericity", GREEN)),
         "FSC in cones of the half maps: least over largest area under the curves (as cFAR), and sphericity; 1 is "
         "alike in all directions."),
    ]  # fmt: skip
    if any(record["bfactor"] is not None for record in (*steps, *random)):
        drawn.append(("B-factor", _by_share(summary, "bfactor", "B (Å²)"),
                      "Of each map, from the Guinier plot between 10 Å and its resolution."))
    if summary["null"]:
        drawn.append(("The same on pure noise", _null_chart(summary), "Mean half-map FSC beyond the innermost shells "
                      "of the same path on noise with the spectra of the images, and the same poses and CTFs: it must "
                      "stay below the limit."))
    return [pieces.section(title, pieces.figure(picture, words), wide=False) for title, picture, words in drawn]


def _details(summary: dict, volume: np.ndarray) -> list[str]:
    about, verdict = summary["particles"], summary["verdict"]
    panel = map_panel(volume, about["pixel_size"], "volume.mrc")
    words = ("volume.mrc, half1.mrc and half2.mrc are of the best-scored "
             f"{_share(_step(summary['steps'], verdict['best']))}.")
    return [
        pieces.section(
            "Half-map FSC of the steps",
            pieces.figure(_curves(summary), "In the mask; all curves are in fsc.csv."),
            wide=False,
        ),
        pieces.section("Map of the best step", panel + pieces.note(words), wide=False),
        pieces.section("Steps and random discards", _table(summary)),
        controls_section(summary),
        pieces.section(
            "How it was made",
            f"<pre>{escape(summary['command'])}</pre>"
            + pieces.note(
                "mpirecon export FOLDER --star kept.star writes the particles of the best step, with --step X those of "
                "another; kept_to in particles.h5 is the smallest fraction that each particle is kept in."
            ),
        ),
    ]


# charts


def _axis(summary: dict) -> dict:
    """All particles at the right."""
    fractions = [step["fraction"] for step in summary["steps"]]
    return {"x": (0.0, 104.0), "xlabel": "kept (%)", "ticks": [(v, str(v)) for v in range(0, 101, 10)],
            "at": [100 * f for f in fractions]}


def _marks(chart: Chart, summary: dict) -> None:
    """The best step and, where errors were simulated, the fraction of correct particles."""
    chart.rule(x=100 * summary["verdict"]["best"], label="best", colour=BLUE)
    if summary["wrong_share"]:
        chart.rule(x=100 * (1 - summary["wrong_share"]), label="correct", dash="dotted", colour=GREEN, side="start")


def _resolution_chart(summary: dict) -> str:
    steps, random, axis, nyquist = summary["steps"], summary["random"], _axis(summary), summary["nyquist"]

    def frequency(records: Sequence[dict], name: str = "resolution_fitted") -> np.ndarray:
        return np.array([1 / (record[name] or nyquist) for record in records])

    alone = frequency(steps, "resolution_0143")
    both = np.concatenate([frequency(steps), alone, frequency(random)])
    margin = 0.06 * (both.max() - both.min()) or 0.05 * both.max()
    low, high = both.min() - margin, both.max() + margin
    chart = Chart(axis["x"], (low, high), axis["xlabel"], "resolution (Å)", height=315, x_ticks=axis["ticks"],
                  y_ticks=_angstrom_ticks(low, high))
    _marks(chart, summary)
    fitted = _fitted_line(summary)
    if fitted is not None:
        chart.line(*fitted, GREY, dash="dashed", width=1.4)
    chart.points([100 * r["fraction"] for r in random], frequency(random), ORANGE, 3.2)
    chart.points(axis["at"], alone, GREY, 2.4)
    chart.line(axis["at"], frequency(steps), BLUE, marker=True)
    _reads(chart, summary, "resolution_fitted", lambda v: pieces.angstrom(v, summary))
    keys = [(BLUE, "solid", "best-scored"), (ORANGE, "dot", "at random")]
    return legend(keys + ([(GREY, "dashed", f"B = {_bfactor(summary['verdict']['bfactor'])}")] if fitted
                          else [])) + chart.svg("Resolution by fraction kept")


def _fitted_line(summary: dict):
    """Rosenthal and Henderson's line through the random discards, (shares, 1/d), where it was fitted."""
    from mpirecon.validate.nested import rosenthal_henderson

    steps = [summary["steps"][0], *summary["random"]]
    found = rosenthal_henderson(steps)
    if found is None:
        return None
    bfactor, intercept = found
    share = np.linspace(min(step["fraction"] for step in steps), 1, 60)
    square = (np.log(share * steps[0]["particles"]) - intercept) * 2 / bfactor
    return 100 * share[square > 0], np.sqrt(square[square > 0])


def _angstrom_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values in Å at places of 1/Å between two."""
    coarse = [tick for tick in resolution_ticks(high) if low <= tick[0]]
    if len(coarse) >= 3:
        return coarse
    return [(v, f"{1 / v:.3g}") for v in np.linspace(low, high, 5)]


def _by_share(summary: dict, name: str, ylabel: str, more: tuple[str, str] | None = None) -> str:
    axis, names = _axis(summary), [(name, BLUE)] + ([more] if more else [])
    values = {n: (_values(summary["steps"], n), _values(summary["random"], n)) for n, _ in names}
    every = np.concatenate([np.concatenate(pair) for pair in values.values()])
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    chart = Chart(axis["x"], (low - margin, high + margin), axis["xlabel"], ylabel, height=260, x_ticks=axis["ticks"])
    _marks(chart, summary)
    for (n, colour), dot in zip(names, (ORANGE, AMBER)):
        chart.points([100 * r["fraction"] for r in summary["random"]], values[n][1], dot, 3.0)
        chart.line(axis["at"], values[n][0], colour, marker=True)
    _reads(chart, summary, name, number)
    keys = [(BLUE, "solid", "best-scored" if more is None else f"best-scored, {ylabel}"),
            (ORANGE, "dot", "at random" if more is None else f"at random, {ylabel}")]
    if more is not None:
        keys += [(more[1], "solid", f"best-scored, {more[0]}"), (AMBER, "dot", f"at random, {more[0]}")]
    return legend(keys) + chart.svg(f"{ylabel} by fraction kept")


def _null_chart(summary: dict) -> str:
    axis, steps = _axis(summary), summary["null"]["steps"]
    values, limit = np.array([s["mean_fsc"] for s in steps]), steps[0]["limit"]
    low, high = min(values.min(), -limit), max(values.max(), limit)
    chart = Chart(axis["x"], (low - 0.2 * limit, high + 0.2 * limit), axis["xlabel"], "mean half-map FSC", height=260,
                  left=64, right=44, x_ticks=axis["ticks"])
    chart.rule(y=limit, label="limit")
    chart.rule(y=0.0, dash="dotted")
    chart.line(axis["at"], values, PINK, marker=True)
    chart.reads(axis["at"], [f"{100 * s['fraction']:.3g} %" for s in steps], [("noise", PINK, values)])
    return legend([(PINK, "solid", "best-scored of pure noise")]) + chart.svg(
        "Mean half-map FSC of noise by fraction kept"
    )


def _reads(chart: Chart, summary: dict, name: str, words) -> None:
    steps, random = summary["steps"], summary["random"]
    lots = []
    for step in steps:
        found = [r[name] for r in random if r["fraction"] == step["fraction"]]
        lots.append(" · ".join(_or_dash(v, words, name) for v in found) or "–")
    chart.reads(_axis(summary)["at"], [f"{_share(s)}, {s['particles']} particles" for s in steps],
                [("best-scored", BLUE, [_or_dash(s[name], words, name) for s in steps]), ("at random", ORANGE, lots)])


def _or_dash(value, words, name: str) -> str:
    return words(value) if value is not None or name == "resolution_fitted" else "–"


def _curves(summary: dict) -> str:
    steps, about = summary["steps"], summary["particles"]
    every = max(1, -(-len(steps) // _CURVES))
    shown = [step for k, step in enumerate(steps) if k % every == 0 or step["fraction"] == summary["verdict"]["best"]]
    styles = {_share(step): (colour_of(0.9 * (1 - step["fraction"])), "solid", _share(step)) for step in shown}
    return fsc_chart({_share(step): np.array(step["fsc"]) for step in shown}, about["box"], about["pixel_size"],
                     styles=styles)


def _table(summary: dict) -> str:
    header = ["kept", "particles", "chosen", "FSC 0.143", "by all curves", "± (Å)", "FSC 0.5", "mean FSC", "FSC to all",
              "B (Å²)", "area ratio", "sphericity", "contrast of rejected particles"]
    truth = summary["wrong_share"] is not None
    rows = []
    for chosen, records in (("best-scored", summary["steps"]), ("at random", summary["random"])):
        for r in records:
            cells = [_share(r), str(r["particles"]), chosen, pieces.angstrom(r["resolution_0143"], summary),
                     pieces.angstrom(r["resolution_fitted"], summary),
                     _optional(r.get("resolution_error")), pieces.angstrom(r["resolution_05"], summary),
                     f"{r['mean_fsc']:.4f}", f"{r['fsc_to_all']:.4f}", "–" if r["bfactor"] is None
                     else f"{r['bfactor']:.0f}".replace("-", "−"),
                     f"{r['area_ratio']:.3f}", f"{r['sphericity']:.3f}", _optional(r.get("contrast_left_out"))]
            rows.append(cells + ([_optional(r.get("wrong_share"))] if truth else []))
    return pieces.table(header + (["simulated errors"] if truth else []), rows, text=("chosen",), dense=True)


def _optional(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _values(records: Sequence[dict], name: str) -> np.ndarray:
    return np.array([np.nan if record[name] is None else record[name] for record in records], float)


def _step(steps: Sequence[dict], fraction: float) -> dict:
    return next(step for step in steps if step["fraction"] == fraction)


def _share(step: dict) -> str:
    return f"{100 * step['fraction']:.3g} %"


def _bfactor(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} Å²"
