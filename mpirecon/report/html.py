"""One self-contained page about a finished run: report.html, made of nothing but the files in the run's folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path
from mpirecon.io.mrc import read_map
from mpirecon.io.run_output import read_particle_table
from mpirecon.report import figures, pieces
from mpirecon.report.controls import controls_section
from mpirecon.report.verdict import SELECTING, cautions, counted, percent, verdict

#: with more ranks than this the table shows its extremes and the slowest ones
_RANKS_SHOWN = 16

_CURVES = {"fsc": "half maps, masked", "fsc_unmasked": "half maps, unmasked"}


@dataclass(frozen=True)
class RunFiles:
    """What the page is made of, read from the run's folder.

    summary : summary.json · curves : column of fsc.csv → (box // 2 + 1,) · table : columns of particles.h5 ·
    volume : (n, n, n)
    """

    name: str
    summary: dict
    curves: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    volume: np.ndarray
    detection: dict[str, np.ndarray] | None = None


def write_report(folder: Path, summary: dict, *, target: Path | None = None, overwrite: bool = True) -> Path:
    """Write the page into the folder of a finished run, or as `target`; returns its path. Atomic.

    summary : the content of summary.json, which itself need not be there yet.
    Raises UserError when a file it needs is missing or is not what a run writes, or when it cannot be written.
    """
    folder = Path(folder)
    target = folder / "report.html" if target is None else Path(target)
    run = read_run_files(folder, summary)
    try:
        page = report_page(run)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}: summary.json or particles.h5 is not what this version's reconstruct writes "
            f"({type(error).__name__}: {error}); run the reconstruction again"
        ) from error
    with atomic_path(target, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def read_run_files(folder: Path, summary: dict) -> RunFiles:
    """Read what `report_page` needs; UserError naming the file that is missing or wrong."""
    for name in ("fsc.csv", "particles.h5", "volume.mrc"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: {name} is missing; a report needs the folder of a finished run, as reconstruct left it"
            )
    return RunFiles(
        folder.resolve().name, summary, _read_curves(folder / "fsc.csv"), read_particle_table(folder / "particles.h5"),
        read_map(folder / "volume.mrc").array,
        _read_table(folder / "detection.csv") if (folder / "detection.csv").is_file() else None,
    )  # fmt: skip


def report_page(run: RunFiles) -> str:
    """The page as text."""
    summary = run.summary
    sections = [
        _fsc_section(run), _slices_section(run), _loss_section(run), _distance_section(run), _detection_section(run),
        controls_section(summary), _iteration_section(summary),
        _rank_section(summary), _configuration_section(summary),
    ]  # fmt: skip
    template = Template(resources.files("mpirecon.report").joinpath("report.html").read_text(encoding="utf-8"))
    program = f"{summary['program']} {summary['version']}"
    return template.substitute(
        generator=escape(program),
        title=escape(f"{run.name}: {Path(summary['particles']['file']).name}"),
        started=escape(str(summary["started"]).replace("T", " ").replace("+00:00", " UTC")),
        verdict=escape(verdict(summary)),
        cautions="\n".join(f'<p class="caution">{escape(text)}</p>' for text in cautions(summary)),
        facts="\n".join(pieces.fact(*fact) for fact in _facts(summary)),
        sections="\n".join(section for section in sections if section),
        footer=escape(f"Written by {program} from the files in this folder; mpirecon report writes it anew."),
    )


# sections


def _facts(summary: dict) -> list[tuple[str, str, str]]:
    particles, ranks = summary["particles"], summary["ranks"]
    at, unmasked = summary["resolution_0143"], summary["resolution_0143_unmasked"]
    facts = [
        (
            "resolution",
            pieces.angstrom(at, summary),
            f"unmasked {pieces.angstrom(unmasked, summary)}; "
            f"0.5 at {pieces.angstrom(summary['resolution_05'], summary)}",
        ),
        (
            "particles kept" if summary["configuration"]["loss"] in SELECTING else "particles used",
            f"{summary['kept']:,}",
            f"of {counted(summary):,}, {percent(summary['kept'], counted(summary))}",
        ),
    ]
    found = summary.get("detection")
    if found and found["auc"] is not None:
        facts.append(("planted errors", f"{found['wrong']:,}", _found_in_words(found)))
    if summary.get("keep_estimate") is not None:
        share = pieces.value(summary["keep_estimate"])
        facts.append(("estimated good share", share, "from the score's two components"))
    many = f"{len(ranks)} ranks" if len(ranks) != 1 else "1 rank"
    memory = pieces.size(summary["peak_memory_bytes"])
    facts.append(("time", pieces.duration(summary["seconds"]), f"{many}, at most {memory} each"))
    facts.append(("box", f"{particles['box']}", f"{particles['pixel_size']:g} Å/px, Nyquist {summary['nyquist']:g} Å"))
    return facts


def _found_in_words(found: dict) -> str:
    ranked = f"AUC {found['auc']:.3f}"
    return ranked if not found["recall"] else f"{100 * found['recall']:.1f} % left out; {ranked}"


def _fsc_section(run: RunFiles) -> str:
    summary, particles = run.summary, run.summary["particles"]
    resolutions = {
        _CURVES["fsc"]: summary["resolution_0143"],
        _CURVES["fsc_unmasked"]: summary["resolution_0143_unmasked"],
    }
    curves = {_CURVES.get(name, name): curve for name, curve in run.curves.items()}
    picture = figures.fsc_figure(curves, particles["box"], particles["pixel_size"], resolutions, size=(7.5, 4.0))
    return pieces.section(
        "Resolution",
        pieces.figure(
            picture,
            "Fourier shell correlation of the two half maps",
            "Fourier shell correlation of the two half maps, which share no particle. The mask takes away noise around "
            "the particle; a mask that is too tight raises the curve by itself, so the unmasked curve is beside it.",
        ),
    )


def _slices_section(run: RunFiles) -> str:
    picture = figures.central_slices_figure({"": run.volume}, run.summary["particles"]["pixel_size"])
    return pieces.section(
        "Map",
        pieces.figure(
            picture,
            "Central slices of the map",
            "Central slices of volume.mrc: all particles used, filtered by the half-map FSC.",
        ),
    )


def _loss_section(run: RunFiles) -> str:
    records = run.summary["iterations"]
    words = f"Per particle and Fourier sample. {_how_to_read(run.summary)}"
    if len(records) < 2:  # a curve of one point says less than the table below
        return ""
    return pieces.section("Losses", pieces.figure(figures.loss_figure(records), "Losses by iteration", words))


def _how_to_read(summary: dict) -> str:
    """What each loss counts, and what it is no measure of."""
    if summary["configuration"]["loss"] in SELECTING:
        return (
            "The loss being minimised counts the kept particles alone: a trimmed loss always falls when more is left "
            "out, and is no figure of quality. L2 over all particles counts those left out as well. The held-out loss "
            "counts the kept ones, against maps that they did not help to build; by how much it exceeds the loss is "
            "overfitting. Quality is for the half-map FSC to tell."
        )
    return (
        "The held-out loss is taken against maps that a particle did not help to build; by how much it exceeds the "
        "loss is overfitting. Losses of different kinds do not compare; quality is for the half-map FSC to tell."
    )


def _distance_section(run: RunFiles) -> str:
    summary, table = run.summary, run.table
    configuration = summary["configuration"]
    distance = np.sort(table["distance"][np.isfinite(table["distance"])])
    kept = summary["kept"]
    words = [
        f"Left, what particles are sorted or weighted by: the {configuration['distance']} distance. "
        "Right, how strongly each shows the map. Both are taken against maps that the particle did not help to build."
    ]
    threshold = None
    if configuration["loss"] in SELECTING and 0 < kept < len(distance):
        threshold = float(distance[kept - 1 : kept + 1].mean())
        words.append(f"The {kept:,} smallest distances lie left of the dashed line.")
    if configuration["loss"] not in ("l2", *SELECTING):
        low, middle, high = np.percentile(table["weight"][table["kept"]], (0, 50, 100)) if kept else (0, 0, 0)
        words.append(f"Weights run from {low:.3g} to {high:.3g} (median {middle:.3g}).")
    if "pose_error" in table:
        words.append("Planted errors are coloured; the reconstruction does not know them.")
    picture = figures.distance_figure(table, configuration["distance"], threshold)
    return pieces.section("Particles", pieces.figure(picture, "Histograms of distance and score", " ".join(words)))


def _detection_section(run: RunFiles) -> str:
    found = run.summary.get("detection")
    if run.detection is None or not found or not found["wrong"] or found["auc"] is None:
        return ""
    right = counted(run.summary) - found["wrong"]
    left_out_right = right - (found["kept"] - found["wrong_among_kept"])
    chosen = {**found, "false_positive_rate": left_out_right / right}
    if not found["kept"] or found["kept"] == counted(run.summary):  # nothing was chosen
        chosen = dict.fromkeys(("recall", "precision", "false_positive_rate"))
    columns = {
        "": figures.kind_of,
        "particles": lambda r: f"{r['count']:,}",
        "kept": lambda r: f"{r['kept']:,} ({percent(r['kept'], r['count'])})",
        "mean posterior": lambda r: "–" if r["mean_posterior"] is None else f"{r['mean_posterior']:.3f}",
        "AUC against right": lambda r: "–" if r["auc"] is None else f"{r['auc']:.4f}",
    }
    table = pieces.table(columns, ([cell(row) for cell in columns.values()] for row in found["confusion"]), text=("",))
    words = (
        "Leaving out everybody beyond a threshold of the distance, for all thresholds. "
        f"AUC {found['auc']:.4f}, average precision {found['average_precision']:.4f}; "
        f"F1 {found['f1']:.4f} at this run's choice, {found['best_f1']:.4f} at the best threshold. "
        "Right, the share that was kept of each kind. The curves are in detection.csv."
    )
    picture = figures.detection_figure(run.detection, chosen, found["confusion"])
    return pieces.section("Planted errors", pieces.figure(picture, "ROC and precision-recall curves", words) + table)


def _iteration_section(summary: dict) -> str:
    records = summary["iterations"]
    columns = {
        "iteration": lambda r: str(r["iteration"]),
        "loss": lambda r: pieces.value(r["loss"]),
        "loss, held out": lambda r: pieces.value(r["loss_heldout"]),
        "L2 over all": lambda r: pieces.value(r["loss_l2"]),
        "L2, held out": lambda r: pieces.value(r["loss_l2_heldout"]),
        "kept": lambda r: f"{r['kept']:,} ({percent(r['kept'], r['valid'])})",
        "planted errors among kept": lambda r: (
            f"{r['wrong_among_kept']:,} ({percent(r['wrong_among_kept'], r['kept'])})"
        ),
        "FSC 0.143": lambda r: pieces.angstrom(r["resolution_0143"], summary),
    }
    if not all("wrong_among_kept" in record for record in records):
        del columns["planted errors among kept"]
    table = pieces.table(columns, ([cell(record) for cell in columns.values()] for record in records))
    note = pieces.note("Each row is measured on the maps that its iteration made, before their final refinement.")
    if len(records) < 2:  # the figure that says so otherwise is left out
        note += pieces.note(_how_to_read(summary))
    return pieces.section("Iterations", table + note)


def _rank_section(summary: dict) -> str:
    ranks = summary["ranks"]
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
    return pieces.section("Ranks", pieces.table(header, map(cells, shown), text=("host", "device"), dense=True) + note)


def _configuration_section(summary: dict) -> str:
    particles = summary["particles"]
    pairs = {
        "particles": f"{particles['file']}: {particles['count']:,}"
        + (", CTF-premultiplied" if particles["ctf_premultiplied"] else ""),
        **{name.replace("_", " "): pieces.value(value) for name, value in summary["configuration"].items()},
    }
    versions = {summary["program"]: summary["version"], **summary["versions"]}
    rows = "\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs.items())
    return (
        pieces.section("Command", f"<pre>{escape(summary['command'])}</pre>"
                 + pieces.note("Made with " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."))
        + pieces.section("Configuration", f'<dl class="pairs">\n{rows}\n</dl>')
    )  # fmt: skip


def _read_curves(path: Path) -> dict[str, np.ndarray]:
    """Columns of fsc.csv but shell and resolution."""
    columns = _read_table(path, "FSC curves")
    return {name: values for name, values in columns.items() if name not in ("shell", "resolution")}


def _read_table(path: Path, what: str = "curves") -> dict[str, np.ndarray]:
    """Columns of a table of numbers."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a table of {what} as reconstruct writes it") from error
