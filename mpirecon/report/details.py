"""What follows after the first two screens: every map, directions, B-factor, views, tables, ranks, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from mpirecon.report import local_resolution, particle_charts, pieces, recovered_poses
from mpirecon.report.charts import cones_chart, guinier_chart, timeline_chart
from mpirecon.report.particle_charts import against_charts, kind_of, kinds, views_chart
from mpirecon.report.pictures import map_panel
from mpirecon.report.run_files import RunFiles
from mpirecon.report.svg import legend
from mpirecon.report.verdict import percent
from mpirecon.validate.map_warnings import curvature_in_words

#: with more ranks than this the table shows its extremes and the slowest ones
_RANKS_SHOWN = 16

#: Å that a B-factor's fit should reach: few shells lie between 10 Å and coarser resolutions
_STEADY_FROM = 5.0

_MAP_WORDS = {
    "half1": "half1.mrc, neither filtered nor masked", "half2": "half2.mrc, likewise",
    "sharpened": "sharpened.mrc, of both halves", "discarded": "discarded.mrc, of the rejected particles",
}  # fmt: skip


def sections(run: RunFiles) -> list[str]:
    """What belongs to map and particles."""
    return [_confusion(run), _by_kind(run.summary), recovered_poses.section(run), _maps(run), _reference(run.summary),
            _local(run), _cones(run),
            _guinier(run), _views(run), _against(run)]


def last_sections(run: RunFiles) -> list[str]:
    """Tables: iterations, ranks, configuration."""
    return [_iterations(run.summary), _ranks(run), _configuration(run.summary)]


def _maps(run: RunFiles) -> str:
    pixel_size = run.summary["particles"]["pixel_size"]
    shown = [pieces.figure(map_panel(volume, pixel_size, name), _MAP_WORDS.get(name, f"{name}.mrc"))
             for name, volume in run.maps.items() if name != "volume"]
    across = "triples-of" if len(shown) == 3 else "pairs-of"  # no empty quarter
    return pieces.section("All maps", f'<div class="{across}">{"".join(shown)}</div>') if shown else ""


def _reference(summary: Mapping) -> str:
    found = summary.get("reference")
    if not found:
        return ""
    values = ((name, found.get(key)) for name, key in (("correlation", "correlation"),
                                                       ("with the mirrored reference", "mirrored"),
                                                       ("FSC 0.5 (Å)", "resolution_05"),
                                                       ("FSC 0.143 (Å)", "resolution_0143")))
    table = pieces.table(["", "value"], [[name, "–" if value is None else f"{value:.3f}".replace("-", "−")] for name,
                                         value in values], text=("",))
    return pieces.section("Beside the reference", pieces.note(found["sentence"]) + table)


def _local(run: RunFiles) -> str:
    if not run.local:
        return ""
    return local_resolution.section(run.local, run.summary["local_resolution"], run.summary["particles"]["pixel_size"])


def _confusion(run: RunFiles) -> str:
    found = run.summary.get("detection")
    if not found or not found.get("confusion"):
        return ""
    columns = {
        "": kind_of,
        "particles": lambda r: f"{r['count']:,}",
        "kept": lambda r: f"{r['kept']:,} ({percent(r['kept'], r['count'])})",
        "mean posterior": lambda r: "–" if r["mean_posterior"] is None else f"{r['mean_posterior']:.3f}",
        "AUC against correct": lambda r: "–" if r["auc"] is None else f"{r['auc']:.4f}",
    }
    caption, words = "Fraction kept. The curves are in detection.csv.", ""
    if "at_found" in found:
        columns = _with_found(columns)
        caption = ("Fraction kept at the given pose (dark) and at a found one (pale). The curves, of given poses, are "
                   "in detection.csv.")
        words = pieces.note(FATE)
    table = pieces.table(columns, ([cell(row) for cell in columns.values()] for row in found["confusion"]), text=("",))
    bars = pieces.figure(particle_charts.kept_bars(found["confusion"]), caption)
    return pieces.section("Kept particles by kind of error", f'<div class="pairs-of">{bars}<div '
                          f'class="kinds">{table}{words}</div></div>')


#: what the columns about given and found poses mean
FATE = ("Kinds are those of the given poses, and so are AUC, kept and rejected at the given pose. Recovered: kept at a "
        "found pose within 5° of the true one. Accepted and wrong: kept at a found pose more than 10° off, or without "
        "a particle in the image. The posterior is that of the pose used.")


def _with_found(columns: dict) -> dict:
    """The columns of a table of kinds, with what became of particles whose poses were searched beside what did at the
    given ones."""
    def share(name):
        return lambda r: f"{r[name]:,} ({percent(r[name], r['count'])})"

    more = {"kept at a found pose": share("at_found"), "recovered": share("found_again"),
            "accepted and wrong": share("accepted_wrong")}
    out: dict = {}
    for name, cell in columns.items():
        out[f"{name} at the given pose" if name in ("kept", "rejected") else name] = cell
        out |= more if name in ("kept", "rejected") else {}
    return out


def _by_kind(summary: Mapping) -> str:
    rows = (summary.get("detection") or {}).get("by_kind")
    if not rows:
        return ""
    columns = {
        "simulated error": lambda r: r["kind"],
        "particles": lambda r: f"{r['count']:,}",
        "with this error only": lambda r: f"{r['alone']:,}",
        "size (rms)": lambda r: "–" if r["rms"] is None else f"{r['rms']:.3g}"
        + (f" {r['unit']}" if r["unit"] == "Å" else "°"),
        "rejected": lambda r: percent(r["count"] - r["kept"], r["count"]),
        "precision": lambda r: "–" if r["precision"] is None else f"{r['precision']:.3f}",
        "mean posterior": lambda r: "–" if r["mean_posterior"] is None else f"{r['mean_posterior']:.3f}",
        "AUC": lambda r: "–" if r["auc"] is None else f"{r['auc']:.4f}",
        "fraction of the map's weight": lambda r: f"{r['weight']:.3f}",
        "signal left": lambda r: "–" if r["amplitude"] is None else f"{r['amplitude']:.3f}",
    }
    again = "at_found" in rows[0]
    columns = _with_found(columns) if again else columns
    table = pieces.table(columns, ([cell(row) for cell in columns.values()] for row in rows), text=("simulated error",))
    words = f"{FATE} " if again else ""
    words += ("Each kind compared with the particles of correct pose without this error. Precision: the fraction with "
              "this error among the rejected ones of both. Signal left: the map's amplitude at its resolution relative "
              "to that without these errors.")
    for row in rows:
        if row["kind"] == "hand" and row["weight"] > 0.5:
            words += (" Most of the map's weight comes from poses of opposite hand: the map is the mirror image of the "
                      "true one.")
        if row["kind"] == "duplicate" and row["shared_noise"]:
            words += (f" {row['pairs']:,} particles are in both half maps: {100 * row['shared_noise']:.1f} % of their "
                      "noise is the same, which inflates the FSC.")
    return pieces.section("Simulated errors, kind by kind", table + pieces.note(words))


def _cones(run: RunFiles) -> str:
    cones = (run.summary.get("postprocess") or {}).get("cones")
    if not cones:
        return ""
    particles = run.summary["particles"]
    words = (
        f"FSC along {len(cones['resolution'])} directions, in cones of {cones['half_angle']:g}°, in mask.mrc: it falls "
        f"below 0.143 between {cones['best']:.2f} and {cones['worst']:.2f} Å (median {cones['median']:.2f}, standard "
        f"deviation {cones['spread']:.2f} Å). Sphericity {cones['sphericity']:.3f}; 1 means isotropic. A cone contains "
        "few samples of the innermost shells, which are therefore common to all directions."
    )
    drawn = cones_chart(cones, run.curves["fsc_masked"], particles["box"], particles["pixel_size"])
    return pieces.section("Resolution by direction", pieces.figure(f'<div class="chart-and-disc">{drawn}</div>', words))


def _guinier(run: RunFiles) -> str:
    fit = (run.summary.get("postprocess") or {}).get("guinier")
    if not fit or not fit.get("inverse_d2"):
        return ""
    words = fit["note"] or (
        f"B-factor {fit['bfactor']:.0f}".replace(" -", " −") + f" Å², fitted from {fit['used'][0]:.1f} to "
        f"{fit['used'][1]:.2f} Å to the mean of the half maps in mask.mrc; sharpened.mrc is sharpened by it."
    )
    words = words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
    if fit["bfactor"] is not None and fit["used"][1] > _STEADY_FROM:
        words += (f" A fit over such a short range is uncertain: maps better than {_STEADY_FROM:g} Å give a more "
                  "reliable one. Check whether sharpened.mrc looks grainy.")
    return pieces.section("Guinier plot", pieces.figure(guinier_chart(fit), words), wide=False)


def _views(run: RunFiles) -> str:
    if run.views is None:
        return ""
    words = ("Viewing directions on the half sphere, in bins of equal area; opposite views are mirror images and share "
             "a bin.")
    if "found" in run.views:
        words += (" The upper two are at the poses used; the lower ones of all particles at their given poses, and of "
                  "those kept at a found one.")
    symmetry = run.summary["configuration"].get("symmetry") or "C1"
    if symmetry != "C1":
        words += f" Each particle counts at all poses related by {symmetry}."
    coverage = run.summary.get("coverage") or {}
    if coverage:
        words += (f" Evenness {coverage['evenness_before']:.3f} before the selection, {coverage['evenness_after']:.3f} "
                  f"after; {coverage['thinned']} of {coverage['bins']} views thinned out.")
    return pieces.section("Views", pieces.figure(f'<div class="two">{views_chart(run.views)}</div>', words), wide=False)


_ROW = {1: "narrow", 2: "two", 3: "three", 4: "four"}


def _against(run: RunFiles) -> str:
    charts = against_charts(run.table)
    if not charts:
        return ""
    keys = legend([(colour, "dot", label) for label, (colour, _) in kinds(run.table).items()])
    words = "Clean images have higher scores than noisy ones, as they should."
    if "micrograph" in charts:
        words += (" Micrographs are sorted by their median score (line); the band contains the middle half of each "
                  "one's particles.")
    if run.summary.get("selection_bias"):
        words += " The controls of the selection below test whether rejection correlates with these."
    worst = (run.summary.get("micrographs") or {}).get("fewest_kept") or []
    worst = [row for row in worst if row["kept"] < row["particles"]]
    if worst:
        listed = "; ".join(f"{row['name']} {row['kept']} of {row['particles']}" for row in worst[:3])
        words += f" Micrographs with the smallest kept fraction: {listed}."
    drawn = f'{keys}<div class="{_ROW[len(charts)]} against">{"".join(charts.values())}</div>'
    *before, last = charts
    title = "Score against " + (f"{', '.join(before)} and {last}" if before else last)
    return pieces.section(title, pieces.figure(drawn, words))


def _iterations(summary: Mapping) -> str:
    records = summary["iterations"]
    wrong = ("simulated errors among kept" if summary.get("search") is None
             else "wrong or junk among kept, at the poses used")
    columns = {
        "iteration": lambda r: str(r["iteration"]),
        "loss": lambda r: pieces.value(r["loss"]),
        "loss, held out": lambda r: pieces.value(r["loss_heldout"]),
        "L2 over all": lambda r: pieces.value(r["loss_l2"]),
        "L2, held out": lambda r: pieces.value(r["loss_l2_heldout"]),
        "kept": lambda r: f"{r['kept']:,} ({percent(r['kept'], r['valid'])})",
        wrong: lambda r: (
            f"{r['wrong_among_kept']:,} ({percent(r['wrong_among_kept'], r['kept'])})"
        ),
        "FSC 0.143": lambda r: pieces.angstrom(r["resolution_0143"], summary),
    }
    if not all("wrong_among_kept" in record for record in records):
        del columns[wrong]
    table = pieces.table(columns, ([cell(record) for cell in columns.values()] for record in records))
    unit = "An empty map has a loss of 1. " if records and "loss_of_nothing" in records[-1] else ""
    return pieces.section("Iterations", table + pieces.note(
        unit + "Held out: each particle against a map made without it. Each row refers to the maps of its iteration, "
        "before their final refinement."))


def _ranks(run: RunFiles) -> str:
    ranks = run.summary["ranks"]
    phases = list(dict.fromkeys(phase for rank in ranks for phase in rank["seconds"]))
    header = ["rank", "host", "device", "particles", *phases, "in MPI", "moved", "memory"]

    def cells(rank: dict) -> list[str]:
        traffic = rank["traffic"]
        return [
            str(rank["rank"]), rank["host"], rank["device"], f"{rank['particles']:,}",
            *(f"{rank['seconds'].get(phase, 0):.2f}" for phase in phases),
            f"{traffic['seconds']:.2f}", pieces.size(traffic["bytes_moved"]), pieces.size(rank["peak_memory_bytes"]),
        ]  # fmt: skip

    shown, note = ranks, ""
    if len(ranks) > _RANKS_SHOWN:
        busiest = sorted(ranks, key=lambda rank: -sum(rank["seconds"].values()))[:_RANKS_SHOWN]
        shown = sorted(busiest, key=lambda rank: rank["rank"])
        totals = [sum(rank["seconds"].values()) for rank in ranks]
        note = pieces.note(
            f"The {len(shown)} busiest of {len(ranks)} ranks; the busy time of all lies between {min(totals):.2f} and "
            f"{max(totals):.2f} s (median {float(np.median(totals)):.2f} s). All are in summary.json."
        )
    note += pieces.note(
        "Seconds of wall time by phase; those in MPI include waiting and are part of the phases. Memory is the peak."
    )
    drawn = ""
    if run.timelines:
        chart = f'<div class="scroll broad">{timeline_chart(run.timelines)}</div>'
        drawn = pieces.figure(chart, "Activity of each rank; gaps are waiting.")
    return pieces.section("Ranks", drawn + pieces.table(header, map(cells, shown), text=("host", "device"), dense=True)
                          + note)


def _configuration(summary: Mapping) -> str:
    particles = summary["particles"]
    pairs = {
        "particles": f"{particles['file']}: {particles['count']:,}"
        + (", CTF-premultiplied" if particles["ctf_premultiplied"] else "")
        + (", phase-flipped" if particles.get("ctf_phase_flipped") else ""),
        "started in": summary.get("folder") or "–",
        "optics": "; ".join(particles.get("optics") or []) or "only defocus, astigmatism and Cs",
        **({"Ewald sphere": curvature_in_words(summary["ewald_sphere"])} if "ewald_sphere" in summary else {}),
        "given weights": weights_in_words(summary.get("weights")),
        **{name.replace("_", " "): setting(name, value, (summary.get("used") or {}).get(name))
           for name, value in summary["configuration"].items() if name != "weights"},
    }
    rows = "\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs.items())
    return pieces.section("Configuration", f'<dl class="pairs">\n{rows}\n</dl>')


def weights_in_words(given: Mapping | None) -> str:
    """The weights that the particles were given, of summary.json."""
    if given is None:
        return "none: only those of the loss"
    words = (f"{given['source']}, {given['smallest']:.4g} to {given['largest']:.4g}, median {given['median']:.4g}, "
             f"effective number {given['effective']:,.0f}")
    return words + (f"; {given['zero']:,} of weight 0 are ignored" if given["zero"] else "")


_UNITS = {"memory": pieces.size, "max_resolution": lambda at: f"{at:.4g} Å", "diameter": lambda at: f"{at:.4g} Å",
          "score_resolution": lambda band: "{:.4g} to {:.4g} Å".format(*band)}


def setting(name: str, asked, used) -> str:
    """What an option was, and what was used where that was for the program to choose."""
    def words(value) -> str:
        return (
            _UNITS[name](value) if name in _UNITS and not isinstance(value, (str, type(None))) else pieces.value(value)
        )

    if used is None or used == asked:
        return words(asked)
    if asked not in (None, "auto"):  # settled by the program already, as folds are
        return words(used)
    return f"{words(used)} (automatic)"
