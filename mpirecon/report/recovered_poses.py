"""The section on recovered poses: what each search brought, and the map of the found ones alone."""

from __future__ import annotations

import numpy as np

from mpirecon.report import pieces
from mpirecon.report.charts import fsc_chart
from mpirecon.report.run_files import RunFiles
from mpirecon.report.svg import BLUE, GREEN, GREY, ORANGE

_CURVES = {
    "expected": (GREY, "dotted", "the two maps, were their signal the same"),
    "between": (GREEN, "dashed", "the two maps with each other"),
    "found": (ORANGE, "solid", "half maps at found poses alone"),
    "given": (BLUE, "solid", "half maps at given poses alone"),
}  # fmt: skip


def section(run: RunFiles) -> str:
    """Empty where no poses were searched."""
    searches = [(record["iteration"], record["search"]) for record in run.summary["iterations"] if record.get("search")]
    if not searches or all(search.get("reason") for _, search in searches):
        return ""
    columns = {
        "after iteration": lambda i, s: str(i),
        "searched": lambda i, s: f"{s['searched']:,}",
        "accepted at a found pose": lambda i, s: f"{s['found']:,}",
        "median angle from the given pose": lambda i, s: _number(s.get("median_angle"), "°"),
        "median offset from it": lambda i, s: _number(s.get("median_offset"), " Å"),
        "control that came back": lambda i, s: (
            "–" if "control" not in s else f"{s['control']['came_back']} of {s['control']['searched']}"
        ),
    }
    if all("planted" in search for _, search in searches):
        columns |= {
            "within 5° of the truth, accepted or not": lambda i, s: (
                f"{s['planted']['found_within_5_degrees']:,} of {s['planted']['planted']:,}"
            ),
            "accepted and wrong": lambda i, s: f"{s['planted']['accepted_and_wrong']:,}",
        }
    body = pieces.table(columns, ([cell(*search) for cell in columns.values()] for search in searches))
    return pieces.section(
        "Recovered poses", f'<div class="pairs-of">{_maps(run)}<div>{body}{_halves(run)}</div></div>',
        fact="recovered",
    )


def _halves(run: RunFiles) -> str:
    """How far half maps agree after each iteration: of all, of the rejected alone, of those at found poses alone."""
    records = [record for record in run.summary["iterations"] if record.get("search_fsc")]
    if not records:
        return ""
    parts = {"all": "all", "rejected": "rejected, at given poses", "found": "kept at found poses"}
    rows = [[str(record["iteration"]), *(_mean(record["search_fsc"][part]) for part in parts)] for record in records]
    return pieces.figure(
        pieces.table(["iteration", *parts.values()], rows),
        "FSC of half maps, mean over all shells: of all particles by their weights, of the rejected ones alone at "
        "their given poses, and of those alone that are kept at found poses. These build the map from the iteration "
        "after a search on.",
    )


def _mean(curve: list[float] | None) -> str:
    return "–" if curve is None else f"{np.mean(curve[1:]):.3f}"


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.3g}{unit}"


def _maps(run: RunFiles) -> str:
    found, particles = run.summary.get("found_map"), run.summary["particles"]
    if not found:
        return pieces.note("Too few were found for half maps of their own.")
    chart = fsc_chart(
        {name: np.array(found[name]) for name in _CURVES}, particles["box"], particles["pixel_size"], styles=_CURVES
    )
    at = [pieces.angstrom(found[f"resolution_{name}"], run.summary) for name in ("found", "given")]
    words = (
        "Maps of the kept particles, all of weight 1, in the scoring mask: of those at found poses alone (FSC 0.143 at "
        f"{at[0]}), and of those at given poses alone ({at[1]}). The two share no particle, so that they agree where "
        "they show the same structure; "
    )
    words += (
        "where their halves agree, they do so by "
        + f"{found['deficit']:.3f} less than their noise lets expect (± {found['chance']:.3f})."
        if found["deficit"] is not None
        else "their halves do not agree well enough to say more."
    )
    return pieces.figure(chart, words)
