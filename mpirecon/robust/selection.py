"""From distances to weights: who builds the next map, decided over all ranks together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpirecon.robust.distances import Distance
from mpirecon.robust.losses import MAD_TO_SIGMA, L2, make_loss
from mpirecon.robust.statistics import Statistics
from mpirecon.parallel.comm import Communicator, SerialCommunicator
from mpirecon.parallel.select import median, smallest_k


@dataclass
class Selection:
    """What a rank decided about its particles.

    weight : (m,) float64 · kept : (m,) bool · distance : (m,) float64, what was sorted · centre_, scale_ : typical norm and
    its spread over all ranks, on which the loss was calibrated.
    """

    weight: np.ndarray
    kept: np.ndarray
    distance: np.ndarray
    centre_: float
    scale_: float


def keep_count(keep: float, m: int) -> int:
    """⌈q·m⌉, with the rounding of q·m forgiven (0.7 · 10 is 7, not 8)."""
    return max(1, math.ceil(keep * m - 1e-9 * m))


def particle_sigma(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """σ_i: each particle's noise relative to the typical one, (m,) float64, from its residual at high frequency."""
    typical = _median(comm, statistics.noise[valid])
    if not typical > 0:
        return np.ones_like(statistics.noise)
    return np.sqrt(np.maximum(statistics.noise, 1e-6 * typical) / typical)


def select(
    comm: Communicator,
    statistics: Statistics,
    ids: np.ndarray,
    valid: np.ndarray,
    *,
    loss: str,
    distance: Distance,
    keep: float = 1.0,
    sort_scope: str = "global",
) -> Selection:
    """Weights of this rank's particles from their held-out statistics.

    Parameters
    ----------
    statistics : of the m particles of this rank, against maps that they did not build
    ids : (m,) int64, unique over ranks
    valid : (m,) bool; the others (bad images) get no weight and are not counted
    sort_scope : ``"global"`` keeps the smallest ⌈keep·m⌉ over all ranks, ``"batch"`` of the particles given here
    """
    sigma = particle_sigma(comm, statistics, valid)
    score = distance.score(statistics, sigma)
    if loss == "l2":
        return Selection(valid.astype(np.float64), valid.copy(), score, math.nan, math.nan)
    if loss == "sorted":
        kept = np.zeros(len(score), bool)
        scope = comm if sort_scope == "global" else SerialCommunicator()
        total = scope.allreduce_scalar(int(valid.sum()))
        if total:
            kept[valid] = smallest_k(scope, score[valid], ids[valid], keep_count(keep, total))
        return Selection(kept.astype(np.float64), kept, score, math.nan, math.nan)
    norm = norms(comm, distance, statistics, valid)
    centre = _median(comm, norm[valid])
    scale = MAD_TO_SIGMA * _median(comm, np.abs(norm[valid] - centre))
    weight = make_loss(loss, centre, scale).weight(norm)
    # relative to the typical particle, so that the regularisation means the same for every loss
    typical = _median(comm, weight[valid])
    weight = np.where(valid, weight / (typical if typical > 0 else 1), 0.0)
    return Selection(weight, valid & (weight > 0), score, centre, scale)


def norms(comm: Communicator, distance: Distance, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """The unsquared distance d of every particle, (m,) float64; collective, for the typical image power."""
    typical = _median(comm, statistics.yy[valid])
    return distance.norm(statistics, typical)


def loss_value(
    comm: Communicator, loss: str, d: np.ndarray, selection: Selection
) -> float:
    """The loss being minimised, per particle that it counts: mean ρ over the kept (sorted) or over all.

    2ρ is returned, so that L2's value is the mean squared norm.
    """
    rho = make_loss(loss, selection.centre_, selection.scale_) if loss in ("l1", "huber") else L2()
    counted = selection.kept
    total = comm.allreduce_scalar(float(2 * rho.rho(d[counted]).sum()))
    return total / max(comm.allreduce_scalar(int(counted.sum())), 1)


def _median(comm: Communicator, values: np.ndarray) -> float:
    return median(comm, values) if comm.allreduce_scalar(len(values)) else math.nan
