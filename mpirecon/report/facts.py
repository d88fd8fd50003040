"""The numbers at the top of the page."""

from __future__ import annotations

from collections.abc import Mapping

from mpirecon.model.pose_state import FOUND_WITHIN
from mpirecon.report import pieces
from mpirecon.report.verdict import (
    counted, deciding_mixture, declared, mask_in_words, percent, right_left_out, separable,
)  # fmt: skip
from mpirecon.validate.separation import interval_in_words


def facts(summary: Mapping) -> list[tuple[str, str, str, str]]:
    """Name, number, more about it, and key of each fact at the top."""
    particles, ranks = summary["particles"], summary["ranks"]
    many = f"{len(ranks)} ranks" if len(ranks) != 1 else "1 rank"
    shown = [
        ("resolution", pieces.angstrom(summary["resolution_0143"], summary), mask_in_words(summary), "resolution"),
        _other_resolutions(summary),
        _by_direction(summary),
        _local(summary),
        (
            "particles kept" if declared(summary)["selects"] or declared(summary)["mixture"] else "particles used",
            f"{summary['kept']:,}", f"of {counted(summary):,}, {percent(summary['kept'], counted(summary))}"
            + _at_which_poses(summary), "kept",
        ),
        _correct(summary),
        _planted(summary),
        _recovered(summary),
        _refined(summary),
        ("time", pieces.duration(summary["seconds"]),
         f"{many}, at most {pieces.size(summary['peak_memory_bytes'])} each", "time"),
        ("box", f"{particles['box']}", f"{particles['pixel_size']:.4g} Å/px, Nyquist {summary['nyquist']:.4g} Å", ""),
    ]  # fmt: skip
    return [fact for fact in shown if fact]


def _other_resolutions(summary: Mapping) -> tuple | None:
    after = summary.get("postprocess") or {}
    bare = f"in mask.mrc; no mask {pieces.angstrom(summary['resolution_0143_unmasked'], summary)}"
    if "resolution_0143" not in after or (summary.get("resolution_of") or {}).get("corrected"):
        return ("without mask", pieces.angstrom(summary["resolution_0143_unmasked"], summary),
                f"FSC 0.5 at {pieces.angstrom(summary['resolution_05'], summary)}", "")
    b = after.get("bfactor")
    more = bare + (f"; B\u00a0{b:.0f}\u00a0Å²".replace("-", "−") if b is not None else "")
    return ("corrected for mask", pieces.angstrom(after["resolution_0143"], summary), more, "")


def _by_direction(summary: Mapping) -> tuple | None:
    cones = (summary.get("postprocess") or {}).get("cones")
    if not cones:
        return None
    digits = 0 if cones["best"] >= 10 else 1
    best, worst = (f"{cones[name]:.{digits}f}" for name in ("best", "worst"))
    more = f"median {cones['median']:.1f} Å; sphericity {cones['sphericity']:.2f}"
    return ("by direction", f"{best} – {worst} Å" if best != worst else f"{best} Å", more, "")


def _local(summary: Mapping) -> tuple | None:
    """The local resolution, where it was found."""
    found = summary.get("local_resolution")
    if not found:
        return None
    where = "of the mask" if found["masked"] else "of the box"
    if found["median"] is None:
        return ("local resolution", "none", f"the half maps agree in no window {where}", "local resolution")
    between = f"{found['best']:.1f} – {found['worst']:.1f} Å"
    none = f"; none in {100 * found['without_resolution']:.2g} %" if found["without_resolution"] >= 0.01 else ""
    return ("local resolution", between, f"of 98 % {where}; median {found['median']:.2f} Å{none}", "local resolution")


def _at_which_poses(summary: Mapping) -> str:
    again = (summary.get("search") or {}).get("found")
    return f"; {again:,} of them at a found pose" if again else ""


def _correct(summary: Mapping) -> tuple | None:
    """The fraction of correct particles as the mixture estimates it."""
    share, mixture = summary.get("keep_estimate"), summary.get("mixture") or {}
    if share is None:
        return None
    if not separable(summary):
        apart = (deciding_mixture(summary) or {}).get("separation")
        more = "correct and incorrect ones are not separable" + (f" ({apart:.1f} σ)" if apart is not None else "")
        return ("fraction correct", "not known", more, "fraction correct")
    more = interval_in_words(mixture, summary.get("scored"))
    return ("fraction correct, estimated", f"{100 * share:.1f} %", more
            + ("; of the given poses" if summary.get("search") else ""), "fraction correct")


def _planted(summary: Mapping) -> tuple | None:
    found = summary.get("detection")
    if not found or found.get("auc") is None:
        return None
    ranked = f"AUC {found['auc']:.4f}"
    if not found.get("recall"):
        return ("simulated errors", f"{found['wrong']:,}", ranked, "errors")
    lost = right_left_out(summary)
    beside = f"; {lost:,} correct ones rejected, too" if lost > 0 else ""
    if "at_found" in found:  # what is found of them is the rejected given pose
        return ("simulated errors rejected", f"{100 * found['recall']:.1f} %",
                f"of {found['wrong']:,}, at the given pose{beside}; {ranked}", "errors")
    return ("simulated errors detected", f"{100 * found['recall']:.1f} %", f"of {found['wrong']:,}{beside}; {ranked}",
            "errors")


def _refined(summary: Mapping) -> tuple | None:
    """How many poses were moved near where they were given, and how far given poses are off."""
    found = (summary.get("search") or {}).get("refinement")
    if found is None:
        return None
    if not found["moved"]:
        return ("poses refined", "0", f"of {found['particles']:,}: noise explains how far the best poses lie from the "
                f"given ones", "")
    return ("poses refined", f"{found['moved']:,}", f"of {found['particles']:,}; {100 * found['fraction']:.0f} % of "
            f"given poses are off, which makes {found['angle_sigma']:.2g}° and {found['offset_sigma']:.2g} Å on each "
            "axis over all", "")


def _recovered(summary: Mapping) -> tuple | None:
    """What the search of poses brought."""
    search = summary.get("search")
    if search is None:
        return None
    if search.get("reason"):
        return ("poses recovered", "0", f"nothing was searched: {search['reason']}", "")
    control = search["control"]
    more = f"of {search['searched']:,} searched"
    truth = summary.get("detection") or {}
    if "at_found" in truth:
        more += f"; {truth['found_again']:,} within {FOUND_WITHIN:g}° of the truth, {truth['accepted_wrong']:,} wrong"
    more += f"; control: {control['came_back']} of {control['searched']} came back"
    return ("poses recovered", f"{search['found']:,}", more, "")
