"""One self-contained page about two runs, made of the pieces of a run's report."""

from __future__ import annotations

import os
from html import escape
from itertools import chain
from pathlib import Path

import numpy as np

from mpirecon import __version__
from mpirecon.io.atomic import atomic_path, refuse_existing
from mpirecon.io.run_inputs import run_inputs
from mpirecon.report import pieces
from mpirecon.report.charts import fsc_chart
from mpirecon.report.comparison import GROUPS, Comparison
from mpirecon.report.html import fill_page
from mpirecon.report.particle_charts import bars
from mpirecon.report.pictures import map_panel
from mpirecon.report.svg import BLUE, GREEN, GREY, ORANGE, Chart, legend
from mpirecon.report.verdict import mask_in_words, percent, sentence

#: colour of each of GROUPS
_COLOURS = (BLUE, ORANGE, GREEN, GREY)

#: dots of the scatter of scores at most
_DOTS = 6000


def write_comparison(compared: Comparison, target: str | os.PathLike, overwrite: bool = False) -> Path:
    """Write the page; returns its path.
    UserError when it exists, without `overwrite`, or is what one of the runs left or was made from."""
    target = Path(target)
    read = (run_inputs(run.folder, particles) for run, particles in zip(compared.runs, compared.particles))
    refuse_existing(target, overwrite, chain.from_iterable(read))
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(comparison_page(compared), encoding="utf-8", errors="backslashreplace")
    return target


def comparison_page(compared: Comparison) -> str:
    """The page as text."""
    first, second = compared.names
    return fill_page(
        kind=escape("mpirecon compare · " + ", ".join(str(run.summary["started"])[:10] for run in compared.runs)),
        generator=escape(f"mpirecon {__version__}"), title=escape(f"{first} and {second}"),
        verdict=escape(" ".join(sentences(compared))),
        cautions=pieces.cautions(sentence(text) for text in compared.notes),
        facts="\n".join(pieces.fact(*fact) for fact in _facts(compared)),
        overview="\n".join(part for part in (_fsc(compared), _between(compared), _kept(compared), _scores(compared))
                           if part),
        details="\n".join((_settings(compared), _runs(compared), _maps(compared))),
        footer=escape(f"Written by mpirecon {__version__} from the folders {compared.runs[0].folder} and "
                      f"{compared.runs[1].folder}."),
    )  # fmt: skip


def sentences(compared: Comparison) -> list[str]:
    """The comparison in a few sentences, for the page and the terminal."""
    texts, names = [], compared.names
    at = [pieces.angstrom(run.summary["resolution_0143"], run.summary) for run in compared.runs]
    texts.append(f"The half maps of {names[0]} agree to {at[0]}, those of {names[1]} to {at[1]}.")
    curve = "fsc_masked" if "fsc_masked" in compared.between else "fsc_unmasked"
    if compared.between:
        half = compared.crossing(0.5, curve)
        where = "in both masks" if curve == "fsc_masked" else "without a mask"
        texts.append(f"The two maps agree (FSC 0.5, {where}) to {half:.2f} Å." if half
                    else f"The two maps agree up to Nyquist ({where}).")
    counts = compared.counts
    if counts is not None:
        shared = sum(counts[name] for name in GROUPS)
        texts.append(f"Of {shared:,} particles that both had, both kept {counts['both']:,}, only {names[0]} "
                    f"{counts['first']:,}, only {names[1]} {counts['second']:,}, neither {counts['neither']:,}.")
        alone = [f"{counts[f'in_{which}_alone']:,} particles are in {name} alone" for which,
                 name in zip(("first", "second"), names)
                 if counts[f"in_{which}_alone"]]
        texts += [f"{'; '.join(alone)}."] if alone else []
    if not compared.settings:
        texts.append("No setting differs.")
    return texts


def _facts(compared: Comparison) -> list[tuple[str, str, str, str]]:
    facts = [(f"resolution, {name}", pieces.angstrom(run.summary["resolution_0143"], run.summary),
              mask_in_words(run.summary), f"resolution{n}")
             for n, (name, run) in enumerate(zip(compared.names, compared.runs), 1)]
    facts += [(f"kept, {name}", f"{run.summary['kept']:,}", f"of {run.summary['particles']['count']:,}", f"kept{n}")
              for n, (name, run) in enumerate(zip(compared.names, compared.runs), 1)]
    counts = compared.counts
    if counts is not None:
        shared = sum(counts[name] for name in GROUPS)
        facts.append(("kept by both", f"{counts['both']:,}", f"of {shared:,} that both had, "
                      f"{percent(counts['both'], shared)}", "both"))
    if compared.correlation is not None:
        facts.append(("scores", f"{compared.correlation:.3f}", "correlation of the two scores of a particle", "scores"))
    return facts


def _fsc(compared: Comparison) -> str:
    """Half-map FSC of both runs; those of different boxes in charts of their own."""
    words = "Half-map FSC of both runs, with the curve of the quoted resolution; dotted: without a mask."
    grids = [(run.summary["particles"]["box"], run.summary["particles"]["pixel_size"]) for run in compared.runs]
    curves, styles, drawn = {}, {}, []
    for number, (name, run, colour) in enumerate(zip(compared.names, compared.runs, (BLUE, ORANGE))):
        column = (run.summary.get("resolution_of") or {}).get("curve", "fsc")
        curves |= {f"{number} {column}": run.curves[column], f"{number} unmasked": run.curves["fsc_unmasked"]}
        styles |= {f"{number} unmasked": (colour, "dotted", f"{name}, no mask"),
                   f"{number} {column}": (colour, "solid", name)}
        if grids[0] != grids[1]:
            drawn.append(fsc_chart(curves, *grids[number], styles=styles))
            curves, styles = {}, {}
    drawn = drawn or [fsc_chart(curves, *grids[0], styles=styles)]
    return pieces.section("Half-map FSC", "".join(pieces.figure(chart, words) for chart in drawn), wide=False,
                          fact="fsc")


def _between(compared: Comparison) -> str:
    if not compared.between:
        return ""
    styles = {"fsc_unmasked": (GREY, "solid", "no mask"), "fsc_masked": (BLUE, "solid", "in both masks")}
    words = ("Between the two maps, each the mean of its half maps. They share particles, and noise with them: this "
             "says how much alike the maps are, not how good either is.")
    chart = fsc_chart(compared.between, *compared.grid, styles=styles)
    return pieces.section("FSC between the maps", pieces.figure(chart, words), wide=False, fact="between")


def _labels(compared: Comparison) -> tuple[str, ...]:
    first, second = compared.names
    return "kept by both", f"only by {first}", f"only by {second}", "by neither"


def _kept(compared: Comparison) -> str:
    counts, wrong = compared.counts, compared.wrong
    if counts is None:
        return ""
    shared = max(sum(counts[name] for name in GROUPS), 1)
    rows = []
    for label, name, colour in zip(_labels(compared), GROUPS, _COLOURS):
        words = f"{counts[name]:,} ({percent(counts[name], shared)})"
        if wrong is not None:
            words += f", {wrong[name]:,} with a simulated error"
        rows.append((label, counts[name] / shared, words, colour))
    words = f"Particles that both runs had, matched by {compared.matched.by}."
    if compared.same_half is not None and compared.same_half < 1:
        words += (f" {100 * compared.same_half:.1f} % of them are in the same half set: the half maps of one run are "
                  "no independent check of the other's.")
    return pieces.section("Kept particles", pieces.figure(bars(rows), words), wide=False, fact="kept")


def _scores(compared: Comparison) -> str:
    if compared.matched is None or not len(compared.matched.first):
        return ""
    x, y = compared.scores
    scored = np.isfinite(x) & np.isfinite(y)
    if not scored.any():
        return ""
    limits = [(float(v[scored].min()), float(v[scored].max())) for v in (x, y)]
    chart = Chart(*limits, f"score in {compared.names[0]}", "score", height=300, left=56)
    step = max(1, len(x) // _DOTS)
    for number, colour in enumerate(_COLOURS):
        some = np.flatnonzero(scored & (compared.group == number))[::step]
        chart.points(x[some], y[some], colour, 2.2, 0.6)
    keys = legend([(colour, "dot", label) for colour, label in zip(_COLOURS, _labels(compared))])
    words = f"Up: score in {compared.names[1]}. How strongly a particle shows a map that it did not help to build."
    return pieces.section("Scores of both runs", pieces.figure(keys + chart.svg("Scores of both runs"), words),
                          wide=False, fact="scores")


def _settings(compared: Comparison) -> str:
    body = pieces.table(("setting", *compared.names), compared.settings,
                        text=("setting", *compared.names)) if compared.settings else \
        pieces.note("None: both runs have the same options and particles.")
    return pieces.section("Settings that differ", body, fact="settings")


def _runs(compared: Comparison) -> str:
    rows = [("command", *(str(run.summary.get("command") or "–") for run in compared.runs)),
            ("time", *(pieces.duration(run.summary["seconds"]) for run in compared.runs)),
            ("fraction correct, estimated", *(_share(run.summary["keep_estimate"]) for run in compared.runs)),
            ("warnings", *("; ".join(run.summary["warnings"]) or "none" for run in compared.runs))]
    return pieces.section("The runs", pieces.table(("", *compared.names), rows, text=("", *compared.names)))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _maps(compared: Comparison) -> str:
    shown = [pieces.figure(map_panel(run.maps["volume"], run.summary["particles"]["pixel_size"], name),
                           f"volume.mrc of {name}")
             for run, name in zip(compared.runs, compared.names)]
    return pieces.section("Maps", f'<div class="pairs-of">{"".join(shown)}</div>')
