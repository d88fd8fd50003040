"""The first two screens of the page: the numbers, the curves and the pictures that most readers look for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape

import numpy as np

from mpirecon.model.pose_state import FOUND_WITHIN
from mpirecon.report import particle_charts, pieces
from mpirecon.report.charts import FSC_STYLE, KIND_COLOURS, KINDS, fsc_chart, loss_charts
from mpirecon.report.pictures import map_panel
from mpirecon.report.run_files import RunFiles
from mpirecon.report.svg import GREY
from mpirecon.report.verdict import (counted, deciding_mixture, declared, mask_in_words, percent, right_left_out,
                                     told_apart)
from mpirecon.robust.pose_mixture import SMALLEST_SEPARATION
from mpirecon.validate.told_apart import interval_in_words


def facts(summary: Mapping) -> list[tuple[str, str, str, str]]:
    """Name, number, more about it, and key of each fact at the top."""
    particles, ranks = summary["particles"], summary["ranks"]
    many = f"{len(ranks)} ranks" if len(ranks) != 1 else "1 rank"
    told = [
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
        _found_again(summary),
        _refined(summary),
        ("time", pieces.duration(summary["seconds"]),
         f"{many}, at most {pieces.size(summary['peak_memory_bytes'])} each", "time"),
        ("box", f"{particles['box']}", f"{particles['pixel_size']:.4g} Å/px, Nyquist {summary['nyquist']:.4g} Å", ""),
    ]  # fmt: skip
    return [fact for fact in told if fact]


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
    if not told_apart(summary):
        apart = (deciding_mixture(summary) or {}).get("separation")
        more = "correct and incorrect ones are not separable" + (f" ({apart:.1f} σ)" if apart is not None else "")
        return ("fraction correct", "not known", more, "good share")
    more = interval_in_words(mixture, summary.get("judged"))
    return ("fraction correct, estimated", f"{100 * share:.1f} %", more
            + ("; of the given poses" if summary.get("search") else ""), "good share")


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
            f"given poses are off, which makes "
            f"{found['angle_sigma']:.2g}° and {found['offset_sigma']:.2g} Å on each axis over all", "")


def _found_again(summary: Mapping) -> tuple | None:
    """What the search of poses brought."""
    search = summary.get("search")
    if search is None:
        return None
    if search.get("reason"):
        return ("poses found again", "0", f"nothing was searched: {search['reason']}", "")
    control = search["control"]
    more = f"of {search['searched']:,} searched"
    truth = summary.get("detection") or {}
    if "at_found" in truth:
        more += f"; {truth['found_again']:,} within {FOUND_WITHIN:g}° of the truth, {truth['believed_wrong']:,} wrong"
    more += f"; control: {control['came_back']} of {control['searched']} came back"
    return ("poses found again", f"{search['found']:,}", more, "")


def sections(run: RunFiles) -> list[str]:
    """The charts of the first two screens, two side by side."""
    return [_fsc(run), _map(run), _particles(run), _losses(run), _errors(run), _time(run.summary), _command(run)]


def _fsc(run: RunFiles) -> str:
    particles, after = run.summary["particles"], run.summary.get("postprocess") or {}
    styles = dict(FSC_STYLE)
    styles["fsc"] = (*styles["fsc"][:2], mask_label(run.summary))
    if "fsc_masked" in run.curves and np.allclose(run.curves["fsc"], run.curves["fsc_masked"], atol=1e-5):
        del styles["fsc_masked"]
    words = "The half maps have no particles in common."
    if after.get("mask") and "fsc_true" in run.curves:
        words += f" mask.mrc is {after['mask'] if after['automatic_mask'] else 'the given mask'}."
        words += " The corrected curve excludes the artefact of the mask, measured with random phases."
    elif after.get("note"):
        words += f" No {after['note']}."
    chart = fsc_chart(run.curves, particles["box"], particles["pixel_size"], styles=styles)
    return pieces.section("Half-map FSC", pieces.figure(chart, words), wide=False, fact="fsc")


def mask_label(summary: Mapping) -> str:
    """The scoring mask in a legend."""
    told = (summary.get("resolution_of") or {})
    text = told.get("mask", "mask") if not told.get("corrected") else "the scoring sphere"
    return text.split(" with a soft edge")[0].replace(", the largest that the box holds,", "")


def _map(run: RunFiles) -> str:
    picture = map_panel(run.maps["volume"], run.summary["particles"]["pixel_size"], "volume.mrc")
    words = ("volume.mrc, filtered by the half-map FSC: central slices above, projections below. To page through "
             "slices and rotate its "
             f"surface: mpirecon view {shlex.quote(str(run.folder / 'volume.mrc'))} --open")
    return pieces.section("Map", pieces.figure(picture, words), wide=False, fact="map")


def _shows_score(summary: Mapping) -> bool:
    """Whether the score and its mixture decided about the particles, rather than the distance."""
    return declared(summary)["mixture"] or summary["configuration"].get("keep") == "auto"


def _particles(run: RunFiles) -> str:
    """What decided about the particles: the score and its mixture, or the distance and its threshold."""
    summary = run.summary
    if not _shows_score(summary):
        return pieces.section("Particles: distance", _distance(run), wide=False, fact="score")
    words = ("How strongly each particle shows a map that it was not used for. The mixture uses six frequency bands "
             "together; ")
    if summary.get("search"):
        words = words.replace("used for. The mixture uses", "used for, at its pose in the final map. The mixture is of "
                              "given poses; it uses")
    mixture = deciding_mixture(summary) or {}
    if not told_apart(summary):
        words += "here it cannot distinguish correct from incorrect particles, so none was rejected."
        if "separation" in mixture:
            words += f" They lie {mixture['separation']:.1f} standard deviations apart; {SMALLEST_SEPARATION:g} are required."
    elif column := summary["configuration"].get("group_by"):
        words += (f"the curves show its expectation for this score. Rows with the same {column} are scored as a unit, "
                  f"so no threshold "
                  "on single images separates kept from rejected ones.")
    else:
        words += "the curves show its expectation for this score, and the line the threshold that best reproduces the selection."
    if summary.get("keep_estimate") is not None and told_apart(summary):
        words += (" The estimated fraction is the mean probability against the final map; particles above 50 % before "
                  "the last "
                  "iteration were kept.")
    return pieces.section("Particles: score and mixture", pieces.figure(score_chart(run), words), wide=False,
                          fact="score")


def score_chart(run: RunFiles) -> str:
    """Histogram of the score, with the mixture where the run fitted one."""
    mixture = run.summary.get("mixture") or {}
    mixes = bool(mixture) and told_apart(run.summary)
    together = bool(run.summary["configuration"].get("group_by"))
    cut = particle_charts.boundary(run.table["score"], run.table["kept"]) if mixes and not together else None
    return particle_charts.histogram_chart(run.table, "score", "score (signal over noise)", threshold=cut,
                                           kept_is="high",
                                           keep=mixture.get("keep") if mixes else None, by_kept=together)


def _distance(run: RunFiles) -> str:
    summary, table = run.summary, run.table
    configuration, kept, rule = summary["configuration"], summary["kept"], declared(summary)
    distance = np.sort(table["distance"][np.isfinite(table["distance"])])
    threshold, words = None, "From maps that the particle was not used for."
    if (last := summary["iterations"][-1]).get("scored", last["valid"]) < last["valid"]:
        words += f" Only a random sample of {last['scored']:,} particles was compared; --particle-scores compares all."
    label = f"distance ({configuration['distance']})"
    if rule["mixture"]:
        label = "distance (log likelihood ratio, wrong over correct)"
        if column := configuration.get("group_by"):
            words += f" Rows with the same {column} have the same value."
    if rule["selects"] and 0 < kept < len(distance):
        threshold = float(distance[kept - 1 : kept + 1].mean())
        words += f" The {kept:,} smallest distances were kept."
    elif rule["judges"] and not rule["mixture"]:
        low, middle, high = np.percentile(table["weight"][table["kept"]], (0, 50, 100)) if kept else (0, 0, 0)
        if not rule["selects"]:
            words += f" Weights run from {low:.3g} to {high:.3g} (median {middle:.3g})."
    if "pose_error" in table:
        words += " Simulated errors are coloured; the reconstruction does not use this information."
    if configuration["distance"] == "explained" and not rule["mixture"]:
        words += " Images that the map explains better are further to the left; 0 means that it explains nothing."
    chart = particle_charts.histogram_chart(table, "distance", label, threshold=threshold,
                                            by_kept=bool(configuration.get("group_by")))
    return pieces.figure(chart, words)


def _losses(run: RunFiles) -> str:
    records = run.summary["iterations"]
    if len(records) < 2:
        at = records[-1] if records else {}
        rows = [(name, pieces.value(at.get(key)), pieces.value(at.get(f"{key}_heldout"))) for name, key in (
            ("minimised loss", "loss"), ("L2 over all particles", "loss_l2"),
        )]  # fmt: skip
        body = pieces.table(("one iteration", "on the maps made", "held out"), rows, text=("one iteration",))
        return pieces.section("Loss", body + pieces.note(how_to_read(run.summary)), wide=False, fact="convergence")
    return pieces.section("Loss by iteration", pieces.figure(loss_charts(records), how_to_read(run.summary)),
                          wide=False,
                          fact="convergence")


def how_to_read(summary: Mapping) -> str:
    """What each loss counts, and what it is no measure of."""
    records = summary["iterations"]
    told = "An empty map has a loss of 1. " if records and "loss_of_nothing" in records[-1] else ""
    told += "Held out: each particle against a map made without it; the difference is overfitting. "
    if declared(summary)["selects"]:
        return told + ("The minimised loss includes only the kept particles: a trimmed loss always falls when more are "
                       "rejected. Use the FSC to judge quality.")
    if declared(summary)["mixture"]:
        return told + ("The minimised loss is weighted by the probabilities, and changes with them. Use the half-map "
                       "FSC to judge quality.")
    return told + "Losses of different kinds cannot be compared; use the half-map FSC to judge quality."


def _errors(run: RunFiles) -> str:
    """Detection of simulated errors; without any, the other histogram."""
    found = run.summary.get("detection")
    if run.detection is None or not found or not found["wrong"] or found["auc"] is None:
        if _shows_score(run.summary):
            return pieces.section("Particles: distance", _distance(run), wide=False)
        words = "How strongly each particle shows the map, in standard deviations of its noise; pure noise has 0 ± 1."
        return pieces.section("Particles: score", pieces.figure(score_chart(run), words), wide=False)
    chosen = _choice(run.summary, found)
    words = f"AUC {found['auc']:.4f}, average precision {found['average_precision']:.4f}; "
    best = f"{found['best_f1']:.4f} at the best threshold"
    words += f"F1 {found['f1']:.4f} of this run's selection, {best}." if chosen else f"F1 {best}. This run rejected no particle."
    if "at_found" in found:
        words += " All of this refers to given poses; the table by kind of error tells whose pose was found again."
    return pieces.section("Simulated errors detected", pieces.figure(particle_charts.roc_chart(run.detection, chosen),
                                                                     words), wide=False)


def _choice(summary: Mapping, found: Mapping) -> dict:
    if not found["kept"] or found["kept"] == counted(summary):  # nothing was chosen
        return {}
    right = counted(summary) - found["wrong"]
    left_out_right = right - (found["kept"] - found["wrong_among_kept"])
    return {"recall": found["recall"], "precision": found["precision"],
            "false_positive_rate": left_out_right / max(right, 1)}


#: phases that the page shows, the longest of all
_MOST_PHASES = 8


def _time(summary: Mapping) -> str:
    """Seconds of the busiest rank in the longest phases, and the rest, most of it waiting."""
    busiest = max(summary["ranks"], key=lambda rank: sum(rank["seconds"].values()))
    spent = sorted(busiest["seconds"].items(), key=lambda item: -item[1])[:_MOST_PHASES]
    rest = max(0.0, summary["seconds"] - sum(seconds for _, seconds in spent))
    most = max([rest, *(seconds for _, seconds in spent)], default=1) or 1
    rows = [(phase, seconds / most, f"{seconds:.2f} s", KIND_COLOURS[KINDS.get(phase, "computing")])
            for phase, seconds in spent if seconds >= 0.002 * most]
    rows.append(("waiting, small things", rest / most, f"{rest:.2f} s", GREY))
    words = f"Rank {busiest['rank']} ({busiest['host']}, {busiest['device']}), of {summary['seconds']:.1f} s in all"
    in_mpi = (busiest.get("traffic") or {}).get("seconds")
    if in_mpi and len(summary["ranks"]) > 1:
        words += f"; {in_mpi:.2f} s of it in MPI, moving {pieces.size(summary['bytes_moved'])} between all ranks"
    body = pieces.figure(particle_charts.bars(rows), words + ".")
    return pieces.section("Where the time went", body, wide=False, fact="where time went")


def _command(run: RunFiles) -> str:
    """The command as it can be typed again, where it ran and what it left, and what it ran on."""
    summary = run.summary
    versions = {summary["program"]: summary["version"], **summary["versions"]}
    devices: dict[str, int] = {}
    for rank in summary["ranks"]:
        where = f"{rank['device']} on {rank['host']}"
        devices[where] = devices.get(where, 0) + 1
    listed = [f"{many} × {where}" for where, many in devices.items()]
    shown = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
    return pieces.section(
        "Command", f"<pre>{escape(launched(summary))}</pre>"
        + pieces.note(f"The run is in {run.folder}. Ranks: {shown}. Made with "
                      + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."),
        fact="command",
    )  # fmt: skip


def launched(summary: Mapping) -> str:
    """The command line with the launcher that made its ranks: srun in a step of Slurm without another, else mpirun."""
    ranks, environment = len(summary["ranks"]), summary.get("environment") or {}
    if ranks == 1:
        return summary["command"]
    by_mpirun = any(name.startswith(("OMPI_", "HYDRA_", "MPI_LOCAL")) for name in environment)
    program = "srun" if "SLURM_STEP_ID" in environment and not by_mpirun else "mpirun"
    return f"{program} -n {ranks} {summary['command']}"
