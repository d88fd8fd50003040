"""The files that a path leaves: the table of its steps, which particles are in each, the best step's maps,
and the page."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mpirecon.io.atomic import atomic_path
from mpirecon.io.mrc import write_map
from mpirecon.io.run_kinds import PATH
from mpirecon.io.run_output import write_particle_table, write_summary
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.comm import together
from mpirecon.robust.statistics import Statistics, matched_filter
from mpirecon.solvers.controls import selection_checks
from mpirecon.solvers.shift_check import shift_warnings
from mpirecon.solvers.walk import Walk
from mpirecon.validate.coverage import view_coverage, write_views_csv
from mpirecon.validate.fsc_table import write_fsc_csv
from mpirecon.validate.masks import cut_to_sphere
from mpirecon.validate.nested import PathVerdict

#: soft edge of the sphere that fits the box, pixels, as in a reconstruction's maps
_CORNER_EDGE = 3.0

#: columns of path.csv: what is known of each step and random discard
COLUMNS = (
    "fraction", "particles", "chosen", "draw", "resolution_0143", "resolution_fitted", "resolution_error",
    "resolution_05", "mean_fsc", "fsc_to_all", "fsc_to_all_05", "bfactor",
    "area_ratio", "sphericity", "resolution_best", "resolution_worst", "contrast_left_out", "wrong_share",
)  # fmt: skip


def write_path(
    walk: Walk, folder: Path, about: dict, steps: list[dict], random: list[dict], verdict: PathVerdict,
    null: dict | None, place: Path
) -> dict:
    """Write everything into `folder` from rank 0; returns the summary (on rank 0; empty elsewhere). Collective.

    place : where the files are to be in the end
    """
    comm, maps = walk.comm, walk.maps(verdict.best)
    summary = {}
    with together(comm):
        if comm.rank == 0:
            summary = _write(walk, folder, about, steps, random, verdict, null, maps, place)
    return summary


def _write(walk, folder, about, steps, random, verdict, null, maps, place) -> dict:
    from mpirecon.report.path_page import write_path_page

    file = walk.file
    for name, volume in maps.items():
        cut_to_sphere(volume, file.box / 2, _CORNER_EDGE)
        if name == "volume" and (walk.run.problem.masked_by_user or walk.own_mask):
            volume *= walk.mask
    for name, volume in (maps | walk.own_mask).items():
        write_map(folder / f"{name}.mrc", volume, file.pixel_size, overwrite=True)
    write_path_csv(folder / "path.csv", steps, random)
    write_fsc_csv(folder / "fsc.csv", {f"fsc_{100 * step['fraction']:.3g}": np.array(step["fsc"]) for step in steps},
                  file.box,
                  file.pixel_size, overwrite=True)
    identity = file.identity()
    write_particle_table(folder / "particles.h5", _particle_columns(walk, verdict.best),
                         {"particles": str(file.lasting), **identity})
    controls = _controls(walk, folder, verdict.best)
    summary = {
        **about,
        "kind": PATH.kind,
        "configuration": walk.run.config.as_dict(),
        "path": {"schedule": walk.options.schedule, "fractions": list(walk.fractions),
                 "random_draws": walk.options.random_draws,
                 "high_pass": list(walk.options.high_pass) if walk.options.schedule == "sieve" else None},
        "used": walk.used,
        "mask": walk.mask_text,
        "weights": None if walk.run.given is None else walk.run.given.as_dict(),
        "particles": {"file": str(file.lasting), "count": len(file), "box": file.box, "pixel_size": file.pixel_size,
                      **identity, "valid": int(walk.members.valid.sum())},
        "normalisation": walk.run.slab.normaliser.as_dict() | ({} if walk.run.state.survey.levels is None
                                                               else walk.run.state.survey.levels.as_dict()),
        "nyquist": 2 * file.pixel_size,
        "resolution_0143": next(step["resolution_0143"] for step in steps if step["fraction"] == verdict.best),
        "verdict": verdict.as_dict(),
        "wrong_share": steps[0]["wrong_share"],
        "steps": steps, "random": random, "null": null,
        **controls,
        "warnings": [*_warnings(walk, null), *controls["warnings"]],
    }  # fmt: skip
    write_path_page(folder, summary, maps["volume"], place=place)
    write_summary(folder / "summary.json", summary)
    return summary


def write_path_csv(path: Path, steps: list[dict], random: list[dict]) -> None:
    """A row for each step (chosen: score) and each random discard (chosen: random); what is not known is left empty.
    Atomic."""
    with atomic_path(path, overwrite=True) as temporary, open(temporary, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for chosen, records in (("score", steps), ("random", random)):
            for record in records:
                row = {**record, "chosen": chosen}
                table.writerow([_cell(row.get(name)) for name in COLUMNS])


def _cell(value) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _particle_columns(walk: Walk, best: float) -> dict[str, np.ndarray]:
    """One row per input particle; kept and weight are those of the best step."""
    file, walked, kept, given = walk.file, walk.walked, walk.kept(best), walk.run.given
    found, metadata = walked.found, file.metadata()
    columns = {
        "id": np.arange(len(file)), "half": metadata.half, "kept": kept,
        "weight": kept * (1.0 if given is None else given.relative), "kept_to": walked.kept_to,
        "skipped": ~walk.members.valid,
    }  # fmt: skip
    if found:
        one = Statistics(np.stack([np.zeros(len(file)), found["yp"], found["pp"]], axis=-1)[:, None, :], np.ones(1))
        columns |= {"distance": found["distance"], "score": matched_filter(one, found["sigma"]),
                    "sigma": found["sigma"]}
    if given is not None:
        columns["given_weight"] = given.values
    if metadata.pose_error is not None:
        columns["pose_error"] = metadata.pose_error
    return columns


def _controls(walk: Walk, folder: Path, best: float) -> dict:
    """What being left out at the best step goes with beside poses, and the views that it leaves."""
    none = {"warnings": [], "selection_bias": None, "selection_limits": None, "coverage": None}
    columns = walk.columns(best)
    valid = columns.pop("valid")
    columns = {name: values[valid] for name, values in columns.items()}
    coverage = view_coverage(columns["quaternion"], columns["kept"], columns.get("group"),
                             point_group(walk.run.config.symmetry))
    write_views_csv(folder / "views.csv", coverage)
    return none if columns["kept"].all() else selection_checks(columns, coverage)


def _warnings(walk: Walk, null: dict | None) -> list[str]:
    texts = [text for text in (walk.run.problem.parted, walk.mask_note) if text]
    texts += shift_warnings(walk.run.state.records)
    if null is None or null["passed"]:
        return texts
    return [
        *texts,
        f"{null['sentence'].rstrip('.')}. What this path gains may be made by the selection itself; compare it with "
        "another distance or more folds",
    ]
