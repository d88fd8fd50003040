"""What is recorded of an iteration: the losses of its maps (loss_report.py), which particles were kept,
and how far the halves agree."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mpirecon.robust.mixture_model import SMALL
from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.selection import Selection
from mpirecon.solvers.loss_report import reported_losses
from mpirecon.solvers.state import State
from mpirecon.solvers.summed_losses import summed_losses
from mpirecon.validate.fsc import crossing

if TYPE_CHECKING:
    from mpirecon.solvers.run import Reconstruction


def iteration_record(run: Reconstruction, state: State, chosen: Selection) -> dict:
    """The record of an iteration, for state, logs and summary.json;
    chosen : the selection that built its maps, calibrated for the loss. Collective."""
    comm, file, valid = run.comm, run.file, run.slab.valid
    losses = None if run.scoring.sample is None else summed_losses(run.engine, run.solver, run.bands())
    counted = valid if losses else run.scored
    losses = losses or reported_losses(
        comm, run.config.rule, run.problem.distance, replace(chosen, kept=chosen.kept & run.scored),
        state.scores.inside, state.scores.held_out, run.scored, None if run.given is None else run.slab.given,
    )  # fmt: skip
    record = {
        "iteration": state.iteration, **losses, "losses_of": comm.allreduce_scalar(int(counted.sum())),
        "kept": comm.allreduce_scalar(int(chosen.kept.sum())),
        "valid": comm.allreduce_scalar(int(valid.sum())),
        "scored": comm.allreduce_scalar(int(run.scored.sum())),
        "resolution_0143": crossing(state.fsc, 0.143, file.box, file.pixel_size),
        "resolution_05": crossing(state.fsc, 0.5, file.box, file.pixel_size),
    }
    record["kept_fraction"] = record["kept"] / max(record["valid"], 1)
    if (wrong := run.poses.wrong()) is not None:
        wrong = wrong & valid
        record["wrong"] = comm.allreduce_scalar(int(wrong.sum()))
        record["wrong_among_kept"] = comm.allreduce_scalar(int((wrong & chosen.kept).sum()))
    if chosen.mixture_ is not None:
        record["mixture"] = describe(chosen.mixture_)
    if run.poses.due(state.iteration):
        record["search"] = dict(run.poses.facts)
    return record


def describe(mixture: PoseMixture) -> dict:
    """The mixture's numbers, for records and summaries."""
    return {
        "keep": mixture.keep_, "keep_interval": mixture.keep_interval_, "shares": mixture.shares_.tolist(),
        "separation": mixture.separation_, "separable": bool(mixture.separable_), "gain": mixture.gain_.tolist(),
        "filter": mixture.filter_,
        "contrast_cv": mixture.contrast_cv_, "n_iter": mixture.n_iter_,
        "small_errors": float(mixture.shares_[SMALL:].sum()),
    }  # fmt: skip
