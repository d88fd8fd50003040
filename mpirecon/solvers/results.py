"""From a finished run to its files: maps, FSC, particle table, summary."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.run_output import took_part, write_particle_table, write_summary
from mpirecon.kernels import fft
from mpirecon.model.optics import curvature_resolution, electron_wavelength
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.comm import together
from mpirecon.parallel.held import memory_held
from mpirecon.robust.selection import AUTO
from mpirecon.solvers.controls import micrographs
from mpirecon.solvers.groups import WHOLE, half_map
from mpirecon.solvers.normalise import OFF
from mpirecon.solvers.particle_columns import at_given_poses, particle_columns
from mpirecon.solvers.record import describe
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.score import half_map_columns
from mpirecon.solvers.shift_check import shift_warnings
from mpirecon.solvers.state import Outcome
from mpirecon.validate.against_reference import AgainstReference, compare_with_reference
from mpirecon.validate.detection import curves_by_kind, detection_report, write_detection_csv
from mpirecon.validate.fsc import crossing, fsc, fsc_of_transforms, masked_transform
from mpirecon.validate.fsc_table import write_fsc_csv
from mpirecon.validate.map_warnings import (
    anisotropy_warning, curvature_warning, few_particles_warning, mask_warnings, no_agreement_warning,
    outside_warning,
)  # fmt: skip
from mpirecon.validate.masks import asymmetry, cut_to_sphere
from mpirecon.validate.error_effects import with_effects
from mpirecon.validate.postprocess import Postprocessed, postprocess


def write_results(
    run: Reconstruction, outcome: Outcome, folder: Path, about: dict, *, postprocessed: bool = True,
    place: Path | None = None,
    logs: Path | None = None, half_map_scores: bool = False,
    reference: Path | None = None,
) -> dict:
    """Write everything into `folder` from rank 0; returns the summary (on rank 0; empty elsewhere). Collective.

    about : what the caller knows of the run (command line, versions, start time), put into the summary as it is ·
    postprocessed : also write mask.mrc and sharpened.mrc, and correct the FSC for the mask · place, logs : where the
    files are to be in the end, and where the ranks' logs are, where that is not `folder` · half_map_scores : also
    compare the particles with the half maps · reference : a map to compare the reconstruction with
    """
    comm = run.comm
    maps = {name: outcome.maps.take(which) for name, which in _MAPS.items()}
    with together(comm):
        if comm.rank == 0:
            # outside the sphere that fits the box no voxel is in every view; RELION blanks those corners too
            for volume in maps.values():
                cut_to_sphere(volume, run.file.box / 2, _CORNER_EDGE)
            if run.problem.masked_by_user:
                maps["volume"] *= run.engine.mask
    columns = particle_columns(run, outcome)
    if half_map_scores:
        more = half_map_columns(run, None if comm.rank else (maps["half1"], maps["half2"]))
        columns = None if comm.rank else columns | more
    about = about | {"warnings": [*about["warnings"], *run.poses.warnings(outcome.selection.kept)]}
    if comm.rank:  # rank 0 is not through yet
        run.log.event("timeline", **run.engine.timings.timeline())
    ranks = comm.gather(_rank_facts(run))
    summary = {}
    with together(comm), fft.workers_of(run.problem.threads):
        if comm.rank == 0:
            against = None if reference is None else _against(run, outcome, maps, reference)
            summary = _write(run, outcome, folder, about, maps, columns, ranks, postprocessed, place, logs, against)
    return summary


#: diameter of a particle over its box, where nobody said
_TYPICAL_DIAMETER = 0.6

#: soft edge of the sphere that fits the box, pixels, as RELION's
_CORNER_EDGE = 3.0

#: share of a mask outside of which its copies by the point group may lie: voxels at its edge, a little off centre
_ASYMMETRIC = 0.05

#: micrographs named in the summary, of those that kept the smallest share
_WORST = 5

_MAPS = {"half1": half_map(1), "half2": half_map(2), "volume": WHOLE}


def _against(run: Reconstruction, outcome: Outcome, maps: dict, reference: Path) -> AgainstReference:
    """The map beside the one that its particles were refined against, in the mask that they are scored in."""
    box, pixel_size = run.file.box, run.file.pixel_size
    at = crossing(_scored(run, outcome, maps), 0.143, box, pixel_size)
    mean = (maps["half1"] + maps["half2"]) / 2  # the volume may be masked already
    found = compare_with_reference(mean, pixel_size, read_map(reference), Path(reference).name, run.engine.mask, at)
    return replace(found, path=os.path.abspath(reference))


def _write(run, outcome, folder, about, maps, columns, ranks, postprocessed, place, logs, against=None) -> dict:
    from mpirecon.report.html import write_report

    file, pixel_size = run.file, run.file.pixel_size
    with run.engine.timings("postprocess"):
        curves = {"fsc": _scored(run, outcome, maps)}
        transforms = tuple(masked_transform(maps[half]) for half in ("half1", "half2"))
        curves["fsc_unmasked"] = fsc_of_transforms(*transforms, file.box)
        more = _postprocess(run, maps, curves, transforms) if postprocessed else None
        del transforms
    if more is not None:
        curves |= more.curves()
        if run.config.mask == AUTO and more.mask is not None:
            maps["volume"] *= more.mask
        maps |= {name: volume for name, volume in (("mask", more.mask), ("sharpened", more.sharpened))
                 if volume is not None}
    if against is not None and against.fsc is not None:
        curves["fsc_reference"] = against.fsc
    found = None
    with run.engine.timings("write"):
        for name, volume in maps.items():
            write_map(folder / f"{name}.mrc", volume, pixel_size, overwrite=True)
        write_fsc_csv(folder / "fsc.csv", curves, file.box, pixel_size, overwrite=True)
        about = about | {"particles": file.identity()}
        write_particle_table(folder / "particles.h5", columns, {"particles": str(file.lasting), **about["particles"]})
        if "pose_error" in columns:
            at_given = at_given_poses(columns)
            found, points = detection_report(at_given)
            points = points.thinned()
            write_detection_csv(folder / "detection.csv", points, curves_by_kind(at_given, points))
    ranks[0] = _rank_facts(run)
    run.log.event("timeline", **run.engine.timings.timeline())
    headline = _headline(run, curves, more)
    if found is not None:
        resolution = headline["resolution_0143"] or 2 * pixel_size
        wavelength = float(electron_wavelength(run.slab.metadata.ctf["voltage_kv"][0]))
        found["by_kind"] = with_effects(found["by_kind"], columns, resolution, wavelength)
    summary = _summary(run, outcome, about | {"detection": found}, headline, columns, ranks)
    summary |= _time(run, ranks) | {"reference": None if against is None
                                    else {**against.as_dict(), "sentence": against.sentence}}
    more_to_warn_of = (
        run.problem.parted, *_levels(run), *shift_warnings(outcome.records), *_map_warnings(run, summary, columns),
        no_agreement_warning(curves["fsc"], file.box * pixel_size), _outside(run, maps), _asymmetric_mask(run),
        curvature_warning(summary), *(() if against is None else against.warnings),
    )  # fmt: skip
    summary["warnings"] = [*summary["warnings"], *(text for text in more_to_warn_of if text)]
    write_report(folder, summary, maps=maps, table=columns, place=place, logs=logs)
    write_summary(folder / "summary.json", summary)
    return summary


def _scored(run: Reconstruction, outcome: Outcome, maps: dict) -> np.ndarray:
    """FSC of the half maps in the mask that the run scored in; as it was found there, where the sphere that cuts the
    maps lies around that mask."""
    if outcome.fsc is not None and run.config.mask in (None, AUTO):
        return outcome.fsc
    return fsc(maps["half1"], maps["half2"], run.engine.mask)


def _map_warnings(run: Reconstruction, summary: dict, columns: dict) -> list[str | None]:
    """What to be wary of in the maps themselves, whoever built them."""
    after, valid = summary["postprocess"] or {}, took_part(columns)
    texts = [few_particles_warning(tuple(int((valid & (columns["half"] == half)).sum()) for half in (1, 2))),
            anisotropy_warning(after.get("cones"))]
    if run.config.mask in (None, AUTO):
        return texts
    name = Path(run.config.mask_called).name
    return [*texts, *mask_warnings(run.engine.mask, name, after.get("randomised_at_resolution"))]


def _levels(run: Reconstruction) -> list[str]:
    """Warnings of images that are not normalised, and what was done about it."""
    if run.state.survey.levels is None:
        return []
    mode = run.slab.normaliser.mode
    left = "it was not subtracted (--normalise off) and may degrade the map"
    return run.state.survey.levels.sentences(left if mode == OFF else "it was taken off",
                                             left if mode == OFF else "they were brought to one gain")


def _outside(run: Reconstruction, maps: dict) -> str | None:
    """A warning where the particle lies outside of the mask or the diameter that the user gave."""
    focus = run.config.mask not in (None, AUTO)
    if not focus and run.config.diameter is None:
        return None
    name = f"the mask {Path(run.config.mask_called).name}" if focus else f"--diameter {run.config.diameter:g} Å"
    return outside_warning(maps["half1"], maps["half2"], run.engine.mask, name, focus)


def _asymmetric_mask(run: Reconstruction) -> str | None:
    """A warning where a symmetric map is cut by a mask that is not."""
    config = run.config
    if config.mask in (None, AUTO) or config.symmetry == "C1":
        return None
    outside = asymmetry(run.engine.mask, point_group(config.symmetry).matrices)
    if outside <= _ASYMMETRIC:
        return None
    return (f"the mask {config.mask_called} does not have the symmetry {config.symmetry}: a rotation of it takes "
            f"{100 * outside:.0f} % of the mask's "
            "inside to its outside. The map has the symmetry, and is scored and cut in that mask; take one of the "
            "whole particle")


def _curvature(run: Reconstruction) -> dict:
    """Å beyond which the curvature of the Ewald sphere matters, for a particle that fills the mask."""
    diameter = run.config.diameter or _TYPICAL_DIAMETER * run.file.box * run.file.pixel_size
    voltage = float(run.slab.metadata.ctf["voltage_kv"][0])
    return {"resolution": curvature_resolution(diameter, voltage), "diameter": diameter, "voltage_kv": voltage}


def _postprocess(run: Reconstruction, maps: dict, curves: dict, transforms: tuple) -> Postprocessed:
    """Mask, corrected FSC, cones, B-factor and sharpened map; in the user's mask file, else in one made from the
    map."""
    given = run.config.mask not in (None, AUTO)
    pixel_size = run.file.pixel_size
    return postprocess(
        maps["half1"], maps["half2"], pixel_size, unmasked=curves["fsc_unmasked"], seed=run.config.seed,
        resolution=crossing(curves["fsc"], 0.143, run.file.box, pixel_size),
        mask=run.engine.mask if given else None, mask_text=run.problem.mask_text if given else "",
        transforms=transforms,
    )  # fmt: skip


def _headline(run: Reconstruction, curves: dict, more: Postprocessed | None) -> dict:
    """Which curve and mask the run's resolution is taken from."""
    box, pixel_size = run.file.box, run.file.pixel_size
    corrected = run.config.mask == AUTO and "fsc_true" in curves
    curve = curves["fsc_true" if corrected else "fsc"]
    return {
        "resolution_0143": crossing(curve, 0.143, box, pixel_size),
        "resolution_05": crossing(curve, 0.5, box, pixel_size),
        "resolution_0143_unmasked": crossing(curves["fsc_unmasked"], 0.143, box, pixel_size),
        "resolution_of": {
            "curve": "fsc_true" if corrected else "fsc",
            "mask": more.mask_text if corrected else run.problem.mask_text,
            "corrected": corrected,
        },
        "postprocess": None if more is None else more.as_dict(box, pixel_size),
        "ewald_sphere": _curvature(run),
    }  # fmt: skip


def _rank_facts(run: Reconstruction) -> dict:
    """This rank's place, time by phase, traffic and peak memory."""
    return {
        "rank": run.comm.rank,
        "host": run.comm.hostname,
        "device": run.problem.placement.uuid or run.engine.backend.name,
        "gpu": run.problem.placement.name or None,
        "particles": len(run.slab),
        "seconds": {phase: round(s, 4) for phase, s in run.engine.timings.seconds.items()},
        "traffic": run.comm.traffic,
        "peak_memory_bytes": memory_held()["most"],
    }


def _time(run: Reconstruction, ranks: list[dict]) -> dict:
    """Seconds from the run's beginning to the page about it, and of each phase on the rank that spent most in it."""
    phases = {phase for rank in ranks for phase in rank["seconds"]}
    return {
        "seconds": round(time.time() - run.engine.timings.origin, 3),
        "timings": {phase: max(rank["seconds"].get(phase, 0.0) for rank in ranks) for phase in sorted(phases)},
    }


def _summary(run: Reconstruction, outcome: Outcome, about: dict, headline: dict, columns: dict, ranks: list) -> dict:
    file = run.file
    mixture = outcome.selection.mixture_
    return {
        **about,
        "configuration": run.config.as_dict(),
        "rule": run.config.rule.declared(),
        "used": run.used,
        "particles": {
            "file": str(file.lasting), "count": len(file), "box": file.box, "pixel_size": file.pixel_size,
            **about["particles"],
            "ctf_premultiplied": bool(file.attributes["ctf_premultiplied"]),
            "ctf_phase_flipped": file.phase_flipped, "skipped": np.flatnonzero(columns["skipped"]).tolist(),
            "optics": [] if (optics := file.aberrations()) is None else optics.corrected(),
        },
        "weights": None if run.given is None else run.given.as_dict(),
        "normalisation": run.slab.normaliser.as_dict() | ({} if run.state.survey.levels is None
                                                          else run.state.survey.levels.as_dict()),
        "ranks": ranks,
        "transport": run.problem.transport,
        "iterations": outcome.records,
        "search": run.poses.facts,
        **headline,
        "nyquist": 2 * file.pixel_size,
        "kept": int(columns["kept"].sum()),
        "micrographs": _by_micrograph(run, columns),
        "keep_estimate": None if mixture is None or run.config.keep not in (None, AUTO) else mixture.keep_,
        "mixture": None if mixture is None else describe(mixture),
        "bytes_moved": sum(rank["traffic"]["bytes_moved"] for rank in ranks),
        "peak_memory_bytes": max(rank["peak_memory_bytes"] for rank in ranks),
    }  # fmt: skip


def _by_micrograph(run: Reconstruction, columns: dict) -> dict | None:
    """How many there are, and those that lost the largest share of their particles, by name; None when not known."""
    if "micrograph" not in columns:
        return None
    number, kept, took = columns["micrograph"], columns["kept"], took_part(columns)
    count = np.bincount(number[took], minlength=1 + int(number.max()))
    share = np.bincount(number[took], kept[took], minlength=len(count)) / np.maximum(count, 1)
    _, names = micrographs(run.file)
    worst = [i for i in np.lexsort((-count, share)) if count[i]][:_WORST]
    return {"count": int((count > 0).sum()), "fewest_kept": [
        {"name": _text(names[i]), "particles": int(count[i]),
         "kept": int(round(share[i] * count[i]))} for i in worst
    ]}  # fmt: skip


def _text(name) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
