"""Controls of a selection, after a run: what it may have gone by other than wrong poses, and what it threw away."""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.family import family_column
from mpirecon.io.mrc import write_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.comm import together
from mpirecon.parallel.select import smallest_k
from mpirecon.robust.contradiction import contradicting, looks_inverted
from mpirecon.solvers.groups import WHOLE
from mpirecon.solvers.part_maps import FEWEST, enough, half_maps, solved
from mpirecon.solvers.record import describe
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.slab_data import uniform_hash
from mpirecon.solvers.state import Outcome
from mpirecon.solvers.wiener import ssnr_of_whole
from mpirecon.validate.contradiction import Contradiction
from mpirecon.validate.coverage import Coverage, view_coverage, write_views_csv
from mpirecon.validate.discarded import Comparison
from mpirecon.validate.found_map import FoundMap
from mpirecon.validate.selection_bias import (
    KEEP_MORE, LARGEST_CONTRAST, OF_MIXTURE, contrast_left_out, warnings_of, with_group, with_number,
)  # fmt: skip
from mpirecon.validate.separation import ScoredSelection

#: columns of things that particles come from, where the file has them
_PLACES = ("optics groups", "micrographs")

#: sets the draw of a random discard apart from the others of the seed
_RANDOM_DISCARD = 0xD15C


def check_selection(run: Reconstruction, outcome: Outcome, folder: Path, costly: bool) -> dict:
    """Warnings and what they rest on, for summary.json, on rank 0 (elsewhere of no meaning). Collective.

    ``warnings`` (sentences), ``contradicting``, ``scored``, ``selection_bias``, ``selection_limits`` and ``coverage``;
    with `costly`, also ``controls`` and discarded.mrc. Where poses were found, ``found_map``. Where no particle was
    rejected there is no more to warn of than images that contradict the map,
    and that the particles could not be separated.
    """
    against = _contradicting(run, outcome)
    found = _cheap_controls(run, outcome, folder)
    more = _costly_controls(run, outcome, folder) if costly else {"controls": None, "warnings": []}
    again = _found_control(run, outcome)
    return {**against, **found, **more, **again,
            "warnings": against["warnings"] + found["warnings"] + more["warnings"] + again["warnings"]}


def _contradicting(run: Reconstruction, outcome: Outcome) -> dict:
    """``contradicting`` for summary.json, and warnings; robust losses have gone by it."""
    against, inverted = outcome.selection.contradicts, outcome.selection.contrast < 0
    if not run.config.rule.scores:
        against = contradicting(run.comm, outcome.statistics, outcome.scored)
        inverted = against & looks_inverted(outcome.statistics)
    columns = {"wrong": against & ~inverted, "inverted": inverted}
    whole = {name: run.comm.gather_slabs(flags, len(run.file)) for name, flags in columns.items()}
    if run.comm.rank:
        return {"contradicting": None, "warnings": []}
    scored = outcome.records[-1]["scored"]
    sample = scored if scored < outcome.records[-1]["valid"] else None
    found = Contradiction(*(np.flatnonzero(flags) for flags in whole.values()), run.config.rule, sample)
    return {"contradicting": found.as_dict(), "warnings": found.warnings()}


def _cheap_controls(run: Reconstruction, outcome: Outcome, folder: Path) -> dict:
    columns = _columns(run, outcome)
    found = {"warnings": [], "selection_bias": None, "selection_limits": None, "coverage": None}
    scored = None
    with together(run.comm):
        if run.comm.rank == 0:
            columns = {name: values[columns["valid"]] for name, values in columns.items()}
            coverage = view_coverage(columns["quaternion"], columns["kept"], columns.get("group"),
                                     point_group(run.config.symmetry),
                                     columns["given"], columns["moved"])
            write_views_csv(folder / "views.csv", coverage)
            if not columns["kept"].all() and columns["kept"].any():
                rule = run.config.rule
                by_mixture = rule.mixture and not rule.selects
                found = selection_checks(columns, coverage, OF_MIXTURE if by_mixture else KEEP_MORE)
            scored = _scored_selection(run, outcome, columns)
    texts = [] if scored is None else scored.warnings()
    return {**found, "scored": None if scored is None else scored.scored, "warnings": texts + found["warnings"]}


def _scored_selection(run: Reconstruction, outcome: Outcome, columns: dict[str, np.ndarray]) -> ScoredSelection:
    """What became of the valid particles, from their columns."""
    # estimates and what is compared with them are of given poses
    kept, group, last = columns["accepted"], columns.get("group"), outcome.selection.mixture_
    independent = kept if group is None else kept[np.unique(group, return_index=True)[1]]
    decided = outcome.records[-1].get("mixture")
    unscored = run.config.rule.scores and np.isnan(outcome.selection.keep_) and bool(kept.all())
    blind = decided is not None and not decided["separable"]
    return ScoredSelection(
        len(kept), int(kept.sum()), len(independent), float(independent.mean()), decided,
        None if last is None else describe(last), unscored, run.config.group_by,
        family_column(run.file) if blind else None, run.config.rule.selects,
        None if run.poses.at_given is None else float(columns["kept"].mean()),
    )  # fmt: skip


def selection_checks(columns: dict[str, np.ndarray], coverage: Coverage, remedy: str = KEEP_MORE) -> dict:
    """``warnings`` and what they rest on, for summary.json: what being left out goes with other than a wrong pose.

    remedy : what to do where too many are left out, of `selection_bias`
    columns : of the valid particles: kept, small, sigma, defocus, ctf_scale, yp, pp; group, optics groups and
    micrographs where known
    """
    kept, groups = columns["kept"], columns.get("group")
    tested = [
        *(with_number(name, kept, columns[name], groups) for name in ("sigma", "defocus", "ctf_scale")),
        *(with_group(name, kept, columns[name], groups) for name in _PLACES if name in columns),
    ]
    tested = [association for association in tested if association is not None]
    contrast = contrast_left_out(kept, columns["yp"], columns["pp"], columns["small"])
    texts = [*warnings_of(tested, contrast, remedy), coverage.warning()]
    return {
        "warnings": [text for text in texts if text],
        "selection_bias": {a.name: a.value for a in tested} | {"contrast_left_out": contrast},
        "selection_limits": {a.name: a.limit for a in tested} | {"contrast_left_out": LARGEST_CONTRAST},
        "coverage": coverage.as_dict(),
    }


def _columns(run: Reconstruction, outcome: Outcome) -> dict[str, np.ndarray]:
    """What the checks need of every particle, on rank 0: a few numbers each."""
    metadata, statistics = run.slab.metadata, outcome.statistics.inverted(outcome.selection.contrast < 0)
    ctf = metadata.ctf
    local = {
        "kept": outcome.selection.kept, "moved": run.poses.moved, "small": outcome.selection.small,
        "valid": run.slab.valid,
        "accepted": outcome.selection.kept if run.poses.at_given is None else run.poses.at_given,
        "sigma": outcome.sigma, "yp": statistics.yp, "pp": statistics.pp,
        "defocus": (ctf["defocus_u"] + ctf["defocus_v"]) / 2, "ctf_scale": ctf["scale"],
        "optics groups": metadata.optics_group, "quaternion": run.slab.pose.quaternion,
        "given": metadata.pose.quaternion,
    }  # fmt: skip
    whole = {name: run.comm.gather_slabs(np.ascontiguousarray(v), len(run.file)) for name, v in local.items()}
    if run.comm.rank:
        return {}
    if run.config.group_by is not None:
        _, whole["group"] = np.unique(run.file.group_names(run.config.group_by), return_inverse=True)
    places = micrographs(run.file)
    return whole | ({} if places is None else {"micrographs": places[0]})


@functools.lru_cache(1)
def micrographs(file: ParticleFile) -> tuple[np.ndarray, list] | None:
    """The number of each particle's micrograph, (m,) int32, and their names, in order, where the imported table has
    them; kept for the next who asks."""
    for name in ("rlnMicrographName", "location/micrograph_uid", "location/micrograph_path"):
        with suppress(UserError):
            return numbered(file.source_column(name).tolist())
    return None


def numbered(names: list) -> tuple[np.ndarray, list]:
    """Each name's number in their order, and the names; sorting those of all particles would take much longer."""
    ordered = sorted(set(names))
    number = {name: place for place, name in enumerate(ordered)}
    return np.fromiter((number[name] for name in names), np.int32, len(names)), ordered


# what costs passes over the data: maps of the discarded, and of as many particles left out at random


def _costly_controls(run: Reconstruction, outcome: Outcome, folder: Path) -> dict:
    """Maps of the kept, of the discarded alone and of all but as many drawn at random; three more passes. Collective.

    Every particle counts alike in them, or by the weight it was given, so that they differ by their particles alone.
    Writes discarded.mrc. Returns ``controls`` for summary.json (on rank 0) and ``warnings``.
    """
    comm, valid = run.comm, run.slab.valid
    kept, discarded = valid & outcome.selection.kept, valid & ~outcome.selection.kept
    in_halves = [int((discarded & (run.slab.metadata.half == h)).sum()) for h in (1, 2)]
    counts = comm.allreduce(np.array([*in_halves, int(kept.sum())], np.int64))
    if counts.min() < FEWEST:
        note = f"not made: {counts[:2].sum()} particles were rejected, too few for half maps"
        return {"controls": {"note": note}, "warnings": []}
    draw = uniform_hash(run.slab.ids, run.config.seed + _RANDOM_DISCARD)
    at_random = np.zeros(len(valid), bool)
    at_random[valid] = smallest_k(comm, draw[valid], run.slab.ids[valid], int(counts[2]))
    with run.engine.pace.showing(3 * run.slab.total, "controls", mine=3 * run.slab.here):
        selection, lot = half_maps(run, kept)[1], half_maps(run, at_random)[1]
        store, thrown = half_maps(run, discarded)
    compared = Comparison.of(thrown, selection, lot, run.engine.mask) if comm.rank == 0 else None
    curve = comm.bcast(compared.fsc_discarded if comm.rank == 0 else None)
    whole = solved(run, store, [WHOLE], ssnr_of_whole(curve)).get(WHOLE)
    with together(comm):
        if comm.rank == 0:
            write_map(folder / "discarded.mrc", whole * run.engine.mask, run.file.pixel_size, overwrite=True)
            return compared.as_dict(run.file.box, run.file.pixel_size)
    return {"controls": None, "warnings": []}


def _found_control(run: Reconstruction, outcome: Outcome) -> dict:
    """``found_map`` for summary.json (on rank 0), and warnings: the map of particles at found poses alone beside that
    of those at given ones; two more passes over them where poses were found. Collective.
    """
    comm, kept, moved = run.comm, run.slab.valid & outcome.selection.kept, run.poses.moved
    if not (enough(run, kept & moved) and enough(run, kept & ~moved)):
        return {"found_map": None, "warnings": []}
    mine = int(kept.sum())
    with run.engine.pace.showing(comm.allreduce_scalar(mine), "found poses", mine=mine):
        found, given = half_maps(run, kept & moved)[1], half_maps(run, kept & ~moved)[1]
    with together(comm):
        if comm.rank == 0:
            compared = FoundMap.of(found, given, run.engine.mask)
            return {"found_map": compared.as_dict(run.file.box, run.file.pixel_size), "warnings": compared.warnings()}
    return {"found_map": None, "warnings": []}
