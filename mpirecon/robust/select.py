"""From statistics to weights: which particles build the next map, decided over all ranks together."""

from __future__ import annotations

import numpy as np

from mpirecon.model.draws import uniform_draws
from mpirecon.parallel.comm import Communicator
from mpirecon.robust.contradiction import contradicting, looks_inverted
from mpirecon.robust.distances import Distance
from mpirecon.robust.evidence import Evidence
from mpirecon.robust.known_rules import decide, rule_of
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.particle_noise import noise_shapes, noise_variance, particle_sigma
from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.rules import Case, Rule
from mpirecon.robust.selection import AUTO, RandomPoses, Selection
from mpirecon.robust.small_pose_errors import SmallPoseErrors
from mpirecon.robust.statistics import Statistics

#: particles of a large set that the mixture is first fitted to: they give its fractions within a third of a per cent
_SAMPLE = 20_000


def select(
    comm: Communicator,
    statistics: Statistics,
    ids: np.ndarray,
    valid: np.ndarray,
    *,
    loss: str | Rule,
    distance: Distance,
    keep: float | str | None = None,
    sort_scope: str = "global",
    random_poses: RandomPoses | None = None,
    groups: np.ndarray | None = None,
    nearby: NearbyPoses | None = None,
    views: np.ndarray | None = None,
    relaxation: float = 0.0,
) -> Selection:
    """Weights of this rank's particles from their held-out statistics.

    Parameters
    ----------
    statistics : of the m particles of this rank, against maps that they did not build
    ids : (m,) int64, unique over ranks
    loss : its name, or its rule
    valid : (m,) bool; the others (bad images) get no weight and are not counted
    keep : fraction of correct particles; None or ``"auto"`` lets the mixture decide (`posterior`, and `sorted` with
        ``"auto"``)
    sort_scope : ``"global"`` keeps the smallest ⌈keep·m⌉ over all ranks, ``"batch"`` of the particles given here
    random_poses : needed wherever the mixture decides
    groups : (m,) int64, numbers of the groups of rows that are right or wrong together, for the mixture
    nearby : the best poses near the particles' own, for the mixture to find small errors by
    views : (m,) int64, number of the view of each particle's pose, for the mixture: correct poses may be more frequent
        in some views than in others
    relaxation : 0 … 1, how far from its end a graduated schedule is (schedule.py); above 0 the mixture is followed even where
        correct and incorrect poses cannot be separated yet

    Notes
    -----
    Images that contradict the map (contradiction.py) are treated first: one that shows it with inverted contrast counts
    with its sign turned, whatever the loss; any other has a wrong pose, and no weight with an M-estimator, whose
    weights of noisy images are nearly alike.
    """
    rule = rule_of(loss)
    if not rule.scores:
        sigma = particle_sigma(comm, statistics, valid)
        return decide(rule, Case(comm, statistics, sigma, ids, valid, valid, distance))
    against = contradicting(comm, statistics, valid)
    inverted = against & looks_inverted(statistics)
    statistics = statistics.inverted(inverted)
    sigma = particle_sigma(comm, statistics, valid)
    mixture = small = None
    if rule.mixture or keep == AUTO:
        given = None if keep in (None, AUTO) else keep
        random_poses = RandomPoses(random_poses.rows, random_poses.statistics.inverted(inverted[random_poses.rows]))
        typical = noise_variance(comm, statistics, sigma, valid)
        log_noise = noise_shapes(comm, statistics, valid)
        variance = typical if log_noise is None else typical * np.exp(log_noise)
        if nearby is not None:
            small = SmallPoseErrors.of(comm, nearby.at_own(inverted, statistics), variance, np.median(typical, axis=1),
                                    valid)
        mixture = fit_mixture(comm, statistics, ids, variance, valid, random_poses, given, groups, small, log_noise)
        if views is not None:
            mixture.share_by_view(views[valid])
    followed = mixture is not None and can_be_followed(comm, mixture, relaxation)
    selection = decide(rule, Case(comm, statistics, sigma, ids, valid, valid & (inverted | ~against), distance, keep,
                                 sort_scope, relaxation,
                                 mixture, followed, small))  # fmt: skip
    selection.invert(inverted)
    selection.contradicts = against
    kept, total = (comm.allreduce_scalar(int(rows.sum())) for rows in (selection.kept, valid))
    selection.keep_ = kept / max(total, 1)
    if mixture is not None:
        mixture.forget_evidence()
    return selection


def fit_mixture(
    comm: Communicator, statistics: Statistics, ids: np.ndarray, variance: np.ndarray, valid: np.ndarray,
    random_poses: RandomPoses,
    keep: float | None, groups: np.ndarray | None = None, small: SmallPoseErrors | None = None,
    log_noise: np.ndarray | None = None,
) -> PoseMixture:
    """The mixture of correct poses, small errors, wrong poses and junk that explains the particles' statistics."""
    usable = valid[random_poses.rows]
    used = random_poses.rows[usable]
    number = np.cumsum(valid) - 1  # row → index among the valid
    own = Evidence.of(statistics.sums[valid], variance[valid])
    random = Evidence.of(random_poses.statistics.sums[usable], variance[used])
    groups = None if groups is None else groups[valid]
    log_noise = None if log_noise is None else log_noise[valid]
    errors = None if small is None else small.errors
    sample = None if groups is not None else _sample(comm, ids[valid], number[used])
    return PoseMixture(keep).fit(comm, own, random, number[used], groups, errors, log_noise, sample)


def _sample(comm: Communicator, ids: np.ndarray, looked: np.ndarray) -> np.ndarray | None:
    """(m,) bool, about _SAMPLE of all ranks' particles, drawn by their ids, and those scored at random poses, which
    were drawn by them, too; None where there are not many more."""
    total = comm.allreduce_scalar(len(ids))
    if total < 2 * _SAMPLE:
        return None
    sample = uniform_draws(0, ids, "mixture") < _SAMPLE / total
    sample[looked] = True
    return sample


def can_be_followed(comm: Communicator, mixture: PoseMixture, relaxation: float) -> bool:
    """Whether to go by the mixture: it separates correct from incorrect poses,
    or is on its way there and finds any correct ones at all."""
    return mixture.separable_ or (relaxation > 0 and comm.allreduce_scalar(float(mixture.posterior_.sum())) >= 1)
