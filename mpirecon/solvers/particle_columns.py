"""The particle table of a finished run: one row for each input particle."""

from __future__ import annotations

import numpy as np

from mpirecon.model.particles import TRUTH
from mpirecon.model.pose_state import GIVEN, REFINED
from mpirecon.model.symmetry import point_group
from mpirecon.robust.statistics import matched_filter
from mpirecon.solvers.controls import micrographs
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.state import Outcome


def particle_columns(run: Reconstruction, outcome: Outcome) -> dict[str, np.ndarray] | None:
    """One row per input particle, on rank 0: id, half, pose, distance, score …;
    few numbers each, so one rank can hold them."""
    slab, chosen, statistics = run.slab, outcome.selection, outcome.statistics
    local = {
        "id": slab.ids,
        "half": slab.metadata.half,
        "quaternion": slab.pose.quaternion,
        "shift": slab.pose.shift,
        "distance": np.where(outcome.scored, chosen.distance, np.nan),
        "score": np.where(outcome.scored, matched_filter(statistics, outcome.sigma), np.nan),
        "weight": chosen.weight * slab.given,
        "kept": chosen.kept,
        "posterior": chosen.posterior,
        "sigma": np.where(outcome.scored, outcome.sigma, np.nan),
        "scale": np.where(outcome.scored, statistics.contrast, np.nan),
        "skipped": slab.present & ~slab.valid,
        "defocus": (slab.metadata.ctf["defocus_u"] + slab.metadata.ctf["defocus_v"]) / 2,
    }
    if run.given is not None:
        local["given_weight"] = run.given.values[slab.start : slab.stop]
    local |= _truth_columns(run) | run.poses.columns(chosen.kept)
    total = len(run.file)
    gathered = {name: run.comm.gather_slabs(np.ascontiguousarray(v), total) for name, v in local.items()}
    if run.comm.rank:
        return None
    places = micrographs(run.file)
    if places is not None:
        gathered["micrograph"] = places[0]
    return gathered


def at_given_poses(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, with those not kept that count at a pose found elsewhere:
    the errors were simulated in given poses."""
    if "pose_state" not in columns:
        return columns
    return columns | {"kept": columns["kept"] & np.isin(columns["pose_state"], (GIVEN, REFINED))}


def _truth_columns(run: Reconstruction) -> dict[str, np.ndarray]:
    """Where errors were simulated: which poses are wrong, by how many degrees and Å, of which kind, and which images
    are junk, as far as the file says."""
    slab, metadata = run.slab, run.slab.metadata
    if metadata.pose_error is None:
        return {}
    columns = {"pose_error": metadata.pose_error}
    if metadata.true_quaternion is not None:
        group = point_group(run.config.symmetry)  # a pose of a symmetric particle is equivalent to its copies
        columns["angular_error"] = group.angular_distance(metadata.pose.quaternion, metadata.true_quaternion)
    if metadata.true_shift is not None:
        columns["offset_error"] = np.linalg.norm(metadata.pose.shift - metadata.true_shift, axis=1)
    if metadata.true_defocus is not None:
        columns["defocus_error"] = np.abs(metadata.ctf["defocus_u"] - metadata.true_defocus[:, 0])
    flags = {name: getattr(metadata, name) for name in TRUTH if name.startswith("planted_") or name == "duplicate_of"}
    columns |= {name: values for name, values in flags.items() if values is not None}
    junk = run.file.extra("junk", slab.start, slab.stop)
    return columns if junk is None else {**columns, "junk": junk.astype(bool)}
