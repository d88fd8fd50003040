"""The part of the page about the controls of the selection."""

from __future__ import annotations

import numpy as np

from mpirecon.report import pieces
from mpirecon.report.charts import fsc_chart
from mpirecon.report.svg import BLUE, GREEN, ORANGE
from mpirecon.validate.coverage import LARGEST_THINNED
from mpirecon.validate.discarded import LARGEST_AMPLITUDE, LARGEST_RESIDUAL
from mpirecon.validate.selection_bias import LARGEST

_SETS = {
    "selection": (BLUE, "solid", "kept by the selection"),
    "random_discard": (GREEN, "dashed", "as many kept at random"),
    "discarded": (ORANGE, "solid", "rejected particles only"),
}  # fmt: skip

_BIAS = {
    "sigma": "noise level σ", "defocus": "defocus", "ctf_scale": "the CTF's scale", "optics groups": "optics groups",
    "micrographs": "micrographs",
}  # fmt: skip

#: those that may be either way; of groups and contrasts only what is above counts
_SIGNED = ("sigma", "defocus", "ctf_scale")


def controls_section(summary: dict) -> str:
    """What rejection correlates with, views before and after, and the maps of ``--controls``; "" without selection."""
    bias, coverage = summary.get("selection_bias"), summary.get("coverage")
    if not bias or not coverage:
        return ""
    limits = summary.get("selection_limits") or {}
    rows = [(f"rejection and {_BIAS.get(name, name)}", _number(value), "0",
             _limit(limits.get(name), both=name in _SIGNED))
            for name, value in bias.items() if name != "contrast_left_out"]
    rows.append(("contrast of the map in rejected particles, relative to kept ones", _number(bias["contrast_left_out"]),
                 "0",
                 _limit(limits.get("contrast_left_out"))))
    rows.append(("views that kept less than half of the expected number of particles",
                 f"{coverage['thinned']} of {coverage['bins']}", "0", f"more than {100 * LARGEST_THINNED:g} %"))
    rows.append(("evenness of the views, before → after",
                 f"{coverage['evenness_before']:.3f} → {coverage['evenness_after']:.3f}", "about the same",
                 "see the line above"))
    header = ("control", "measured", "expected for a selection by pose", "warning threshold")
    table = pieces.table(header, rows, text=("control",))
    words = pieces.note("Correlations of rejection, −1 to 1 (rank-biserial; for groups, the root of the intraclass "
                        f"correlation). A warning is given above {LARGEST:g}, or five standard deviations of chance if "
                        "that is larger.")
    maps = _maps(summary)
    if not maps.startswith("<figure"):
        return pieces.section("Controls of the selection", table + words + maps)
    return pieces.section("Controls of the selection",
                          f'<div class="pairs-of"><div>{table}{words}</div><div>{maps}</div></div>')


def _limit(value: float | None, both: bool = False) -> str:
    return "–" if value is None else f"{'±' if both else ''}{value:.2f}"


def _maps(summary: dict) -> str:
    controls = summary.get("controls")
    if not controls:
        return pieces.note("reconstruct --controls adds the map of the rejected particles, and a random selection.")
    if "selection" not in controls:
        return pieces.note(f"The map of the rejected particles was {controls['note']}.")
    particles = summary["particles"]
    curves = {name: np.array(controls[name]["fsc"], float) for name in _SETS}
    at = [(label, controls[name]["resolution_0143"]) for name, (_, _, label) in _SETS.items()]
    styles = {name: (colour, dash, f"{label}: {resolution:.2f} Å" if resolution else label)
              for (name, (colour, dash, _)), (label, resolution) in zip(reversed(_SETS.items()), reversed(at))}
    picture = fsc_chart(curves, particles["box"], particles["pixel_size"], styles=styles)
    found = controls["discarded"]
    words = (
        "Masked half-map FSC with equal weights: of the kept particles, of as many drawn at random, and of the "
        f"rejected ones. These look like {found['looks_like']}: their map has the map's structure at "
        f"{max(0, 100 * found['amplitude']):.0f} % of its amplitude (warning above {100 * LARGEST_AMPLITUDE:g} %). "
        f"After subtraction of that, its half maps have a mean FSC of {found['residual_fsc']:.3f} (warning above "
        f"{LARGEST_RESIDUAL:g}). Even wrong poses give agreement at the lowest frequencies, where any pose gives the "
        "overall shape. The map is discarded.mrc."
    )
    return pieces.figure(picture, words)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
