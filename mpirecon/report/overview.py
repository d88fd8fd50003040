"""The first two screens of the page: the curves and the pictures that most readers look for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape

import numpy as np

from mpirecon.io.file_names import as_argument
from mpirecon.report import particle_charts, pieces
from mpirecon.report.charts import FSC_STYLE, KIND_COLOURS, KINDS, fsc_chart, loss_charts
from mpirecon.report.pictures import map_panel
from mpirecon.report.run_files import RunFiles
from mpirecon.report.svg import GREY
from mpirecon.report.verdict import counted, deciding_mixture, declared, separable
from mpirecon.robust.pose_mixture import SMALLEST_SEPARATION


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
    about = summary.get("resolution_of") or {}
    text = about.get("mask", "mask") if not about.get("corrected") else "the scoring sphere"
    return text.split(" with a soft edge")[0].replace(", the largest that the box holds,", "")


def _map(run: RunFiles) -> str:
    picture = map_panel(run.maps["volume"], run.summary["particles"]["pixel_size"], "volume.mrc")
    volume = shlex.quote(as_argument(run.folder / "volume.mrc"))
    words = ("volume.mrc, filtered by the half-map FSC: central slices above, projections below. To page through "
             f"slices and rotate its surface: mpirecon view {volume} --open")
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
    if not separable(summary):
        words += "here it cannot distinguish correct from incorrect particles, so none was rejected."
        if "separation" in mixture:
            words += (f" They lie {mixture['separation']:.1f} standard deviations apart; {SMALLEST_SEPARATION:g} are "
                      "required.")
    elif column := summary["configuration"].get("group_by"):
        words += (f"the curves show its expectation for this score. Rows with the same {column} are scored as a unit, "
                  "so no threshold on single images separates kept from rejected ones.")
    else:
        words += ("the curves show its expectation for this score, and the line the threshold that best reproduces the "
                  "selection.")
    if summary.get("keep_estimate") is not None and separable(summary):
        words += (" The estimated fraction is the mean probability against the final map; particles above 50 % before "
                  "the last iteration were kept.")
    return pieces.section("Particles: score and mixture", pieces.figure(score_chart(run), words), wide=False,
                          fact="score")


def score_chart(run: RunFiles) -> str:
    """Histogram of the score, with the mixture where the run fitted one."""
    mixture = run.summary.get("mixture") or {}
    mixes = bool(mixture) and separable(run.summary)
    together = bool(run.summary["configuration"].get("group_by"))
    cut = particle_charts.boundary(run.table["score"], run.table["kept"]) if mixes and not together else None
    return particle_charts.histogram_chart(
        run.table,
        "score",
        "score (signal over noise)",
        threshold=cut,
        kept_is="high",
        keep=mixture.get("keep") if mixes else None,
        by_kept=together,
    )


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
    elif rule["scores"] and not rule["mixture"]:
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
    words = "An empty map has a loss of 1. " if records and "loss_of_nothing" in records[-1] else ""
    words += "Held out: each particle against a map made without it; the difference is overfitting. "
    if declared(summary)["selects"]:
        return words + (
            "The minimised loss includes only the kept particles: a trimmed loss always falls when more are rejected. "
            "Use the FSC to judge quality."
        )
    if declared(summary)["mixture"]:
        return words + ("The minimised loss is weighted by the probabilities, and changes with them. Use the half-map "
                       "FSC to judge quality.")
    return words + "Losses of different kinds cannot be compared; use the half-map FSC to judge quality."


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
    words += (
        f"F1 {found['f1']:.4f} of this run's selection, {best}."
        if chosen
        else f"F1 {best}. This run rejected no particle."
    )
    if "at_found" in found:
        words += " All of this refers to given poses; the table by kind of error shows which poses were recovered."
    return pieces.section(
        "Simulated errors detected", pieces.figure(particle_charts.roc_chart(run.detection, chosen), words), wide=False
    )


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
