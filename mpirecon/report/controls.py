"""The part of the page about the controls of the selection."""

from __future__ import annotations

from mpirecon.report import figures, pieces

_SETS = {
    "selection": "kept by the selection", "random_discard": "as many kept at random", "discarded": "left out, alone",
}  # fmt: skip

_BIAS = {
    "sigma": "noise level σ", "defocus": "defocus", "ctf_scale": "the CTF's scale", "optics groups": "optics groups",
    "micrographs": "micrographs",
}  # fmt: skip


def controls_section(summary: dict) -> str:
    """What being left out goes with, views before and after, and the maps of ``--controls``; "" without selection."""
    bias, coverage = summary.get("selection_bias"), summary.get("coverage")
    if not bias or not coverage:
        return ""
    rows = [(f"being left out and {_BIAS.get(name, name)}", _number(value), "0") for name, value in bias.items()
            if name != "contrast_left_out"]
    contrast = _number(bias["contrast_left_out"])
    rows.append(("contrast of the map in those left out, over that in those kept", contrast, "0"))
    rows.append(("views with less than half of the particles that they should have kept",
                 f"{coverage['thinned']} of {coverage['bins']}", "0"))
    rows.append(("evenness of the views, before → after",
                 f"{coverage['evenness_before']:.3f} → {coverage['evenness_after']:.3f}", "unchanged"))
    header = ("control", "found", "expected of a selection by pose")
    table = pieces.table(header, rows, text=("control",))
    return pieces.section("Controls of the selection", table + _maps(summary))


def _maps(summary: dict) -> str:
    controls = summary.get("controls")
    if not controls:
        return pieces.note("reconstruct --controls adds the map of the particles left out, and a discard at random.")
    if "selection" not in controls:
        return pieces.note(f"The map of the particles left out was {controls['note']}.")
    particles = summary["particles"]
    curves = {label: controls[name]["fsc"] for name, label in _SETS.items()}
    at = {label: controls[name]["resolution_0143"] for name, label in _SETS.items()}
    picture = figures.fsc_figure(curves, particles["box"], particles["pixel_size"], at, size=(7.5, 3.6))
    found = controls["discarded"]
    words = (
        "Half-map FSC, masked, every particle counting alike: of those kept, of as many drawn at random, and of those "
        f"left out. These look like {found['looks_like']}: their map has the map's structure at "
        f"{100 * found['amplitude']:.0f} % of its amplitude, and what remains without it agrees between its halves by "
        f"{found['residual_fsc']:.3f}. Wrong poses leave agreement at the lowest frequencies, where any pose gives the "
        "overall shape. The map is discarded.mrc."
    )
    return pieces.figure(picture, "FSC of the kept, of a random choice and of the discarded", words)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
