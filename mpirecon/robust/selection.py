"""From distances to weights: who builds the next map, decided over all ranks together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.draws import uniform_draws
from mpirecon.parallel.comm import Communicator, SerialCommunicator
from mpirecon.parallel.select import median, smallest_k
from mpirecon.robust.contradiction import contradicting, looks_inverted
from mpirecon.robust.distances import Distance
from mpirecon.robust.losses import MAD_TO_SIGMA, is_m_estimator, loss_names, make_loss
from mpirecon.robust.nearby import ANGLES, NearbyPoses, between_angles
from mpirecon.robust.pose_mixture import Evidence, PoseMixture, SlightErrors
from mpirecon.robust.rules import Case, Rule
from mpirecon.robust.schedule import loosened, widened
from mpirecon.robust.statistics import Statistics

#: robust standard deviations beyond which a particle's noise is an outlier, not scatter
_OUTSIDE = 6.0

#: variance of the log of high- over middle-frequency noise that passes as one shape of spectrum: 10 %
_SHAPE_VARIANCE = 0.01

#: noise power over the typical one below which nobody is believed: weights go with its inverse
_LEAST_NOISE = 1e-6

#: σ above which an image is set back even where nothing else is known of it
NOISY = 2.0

#: scales of slight errors, in units of the angle that a typical image can tell by itself …
SCALES = (2.0, 4.0, 8.0)

#: … and angles, degrees, of larger errors that show at the own pose (some of nearby.ANGLES)
SEEN_ANGLES = (8.0, 16.0, 24.0)

#: angle, radians, that a typical image must be able to tell for slight errors to be looked for: below it, whatever an image
#: holds looks like some other pose nearby
_WIDEST = np.radians(5.0)

#: belief in a particle below which it need not be added to the map at all: a million such count as one. Much more would leave out
#: slightly wrong ones, of which little counts
_NEGLIGIBLE = 1e-6

#: particles of a large set that the mixture is first fitted to: they tell its shares within a third of a per cent
_SAMPLE = 20_000

#: ``--keep auto``
AUTO = "auto"


@dataclass
class Attenuation:
    """What slight errors of the pose leave of each particle's signal at each frequency: a mixture of few profiles.

    profile : (components, shells) float64, the share h of the amplitude that is left · contrast, contrast2 : (m, components)
    float64, the probability of the component times the expected s and s² of the particle in it, over the share of the signal
    that the particle's weight holds already.
    """

    profile: np.ndarray
    contrast: np.ndarray
    contrast2: np.ndarray

    def expected(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """E[s·h] and E[s²·h²] of some particles, (b, shells) float64 each."""
        return self._mean(self.contrast[rows], self.profile), self._mean(self.contrast2[rows], self.profile**2)

    @staticmethod
    def _mean(share: np.ndarray, profile: np.ndarray) -> np.ndarray:
        # not by a matrix product, whose last bits depend on how many particles there are
        return sum((share[:, c, None] * profile[c] for c in range(len(profile))), np.zeros((len(share), profile.shape[1])))


@dataclass
class Selection:
    """What a rank decided about its particles.

    weight : (m,) float64 · kept : (m,) bool · distance : (m,) float64, what was sorted, smaller is better · contrast,
    contrast2 : (m,) float64, expected s and s² of each image, 1 where the loss does not know · posterior : (m,) float64,
    probability of being well posed, NaN where the loss does not know · attenuation : Attenuation, or None where a particle's
    contrast is the same at all frequencies · contradicts : (m,) bool, images that contradict the map (contradiction.py) ·
    slight : (m,) bool, poses that are slightly wrong, not kept but counting in part · centre_, scale_ : typical norm and its spread over all ranks, on which the loss was calibrated · keep_ : share of the valid
    of all ranks that is kept · mixture_ : PoseMixture or None · n_iter_ : steps of EM that it took, 0 without.
    """

    weight: np.ndarray
    kept: np.ndarray
    distance: np.ndarray
    contrast: np.ndarray = None
    contrast2: np.ndarray = None
    posterior: np.ndarray = None
    attenuation: Attenuation | None = field(default=None, repr=False)
    contradicts: np.ndarray = None
    slight: np.ndarray = None
    centre_: float = math.nan
    scale_: float = math.nan
    keep_: float = math.nan
    mixture_: PoseMixture | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        m = len(self.weight)
        self.contrast = np.ones(m) if self.contrast is None else self.contrast
        self.contrast2 = np.ones(m) if self.contrast2 is None else self.contrast2
        self.posterior = np.full(m, np.nan) if self.posterior is None else self.posterior
        self.contradicts = np.zeros(m, bool) if self.contradicts is None else self.contradicts
        self.slight = np.zeros(m, bool) if self.slight is None else self.slight

    @property
    def n_iter_(self) -> int:
        return 0 if self.mixture_ is None else self.mixture_.n_iter_

    def expected_contrast(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """E[s] and E[s²] of some particles, (b,) float64 each, or (b, shells) where they depend on frequency."""
        if self.attenuation is None:
            return self.contrast[rows], self.contrast2[rows]
        return self.attenuation.expected(rows)

    def replaced(self, rows: np.ndarray, chosen: Selection) -> Selection:
        """This one, and of some rows, (m,) bool, what another has decided."""
        names = ("weight", "kept", "distance", "contrast", "contradicts")
        return replace(self, **{name: np.where(rows, getattr(chosen, name), getattr(self, name)) for name in names})

    def invert(self, rows: np.ndarray) -> None:
        """Let the images of some rows, (m,) bool, count with the other sign."""
        self.contrast = np.where(rows, -self.contrast, self.contrast)
        if self.attenuation is not None:
            self.attenuation.contrast[rows] *= -1

    @classmethod
    def everybody(cls, valid: np.ndarray, weight: np.ndarray | None = None) -> Selection:
        """All valid particles, with weight 1 or the given one."""
        weight = np.ones(len(valid)) if weight is None else weight
        return cls(np.where(valid, weight, 0.0), valid.copy(), np.zeros(len(valid)))


@dataclass
class RandomPoses:
    """Statistics (of the local `rows` only) of some particles at random orientations: what a wrong pose looks like."""

    rows: np.ndarray
    statistics: Statistics


def keep_count(keep: float, m: int) -> int:
    """⌈q·m⌉, with the rounding of q·m forgiven (0.7 · 10 is 7, not 8)."""
    return max(1, math.ceil(keep * m - 1e-9 * m))


def particle_sigma(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """σ_i: each particle's noise relative to the typical one, (m,) float64, from its high frequencies.

    The estimate scatters by itself, the more the fewer samples it has. The logarithms are drawn towards their median
    by the share of their spread that this scatter explains: even noise stays even. Where images differ in the *shape* of
    their noise spectrum (dose-weighted ones do: high frequencies of both signal and noise are filtered away), one number
    does not describe their noise, and weighting by it would favour the most filtered: σ is 1 then, outliers apart.
    """
    log, scatter = _log_noise(comm, statistics, valid, statistics.third(2))
    spread = (MAD_TO_SIGMA * _median(comm, np.abs(log[valid]))) ** 2
    real = max(0.0, 1 - scatter / spread) if spread > 0 else 0.0
    if not one_noise_shape(comm, statistics, valid):
        real = 0.0
    # the few far outside the bulk are what they are: shrinking is for the bulk
    outside = np.abs(log) > _OUTSIDE * math.sqrt(max(spread, scatter))
    return np.exp(np.where(outside, log, real * log) / 2)


def one_noise_shape(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> bool:
    """Whether the particles' noise spectra differ by a factor only: high against middle frequencies, within 10 %."""
    high, scatter_high = _log_noise(comm, statistics, valid, statistics.third(2))
    middle, scatter_middle = _log_noise(comm, statistics, valid, statistics.third(1))
    tilt = high - middle
    typical = _median(comm, tilt[valid])
    spread = (MAD_TO_SIGMA * _median(comm, np.abs(tilt[valid] - typical))) ** 2
    return bool(spread <= scatter_high + scatter_middle + _SHAPE_VARIANCE)


def _log_noise(comm: Communicator, statistics: Statistics, valid: np.ndarray, bands: slice) -> tuple[np.ndarray, float]:
    """Log of each particle's noise power over the typical one, (m,), and the variance it has by chance alone."""
    noise = statistics.noise_of(bands)
    typical = _median(comm, noise[valid])
    if not typical > 0:
        return np.zeros(len(noise)), math.inf
    # n samples of a real image's transform are n / 2 independent complex numbers
    return np.log(np.maximum(noise, _LEAST_NOISE * typical) / typical), 2 / max(statistics.samples[bands].sum(), 1)


def select(
    comm: Communicator,
    statistics: Statistics,
    ids: np.ndarray,
    valid: np.ndarray,
    *,
    loss: str,
    distance: Distance,
    keep: float | str | None = None,
    sort_scope: str = "global",
    random_poses: RandomPoses | None = None,
    groups: np.ndarray | None = None,
    nearby: NearbyPoses | None = None,
    mild: float = 0.0,
) -> Selection:
    """Weights of this rank's particles from their held-out statistics.

    Parameters
    ----------
    statistics : of the m particles of this rank, against maps that they did not build
    ids : (m,) int64, unique over ranks
    valid : (m,) bool; the others (bad images) get no weight and are not counted
    keep : share of the good; None or ``"auto"`` lets the mixture decide (`posterior`, and `sorted` with ``"auto"``)
    sort_scope : ``"global"`` keeps the smallest ⌈keep·m⌉ over all ranks, ``"batch"`` of the particles given here
    random_poses : needed wherever the mixture decides
    groups : (m,) int64, numbers of the groups of rows that are right or wrong together, for the mixture
    nearby : the best poses near the particles' own, for the mixture to find slight errors by
    mild : 0 … 1, how far from its end a graduated schedule is (schedule.py); above 0 the mixture is followed even where good
        and wrong cannot be told apart yet

    Notes
    -----
    Images that contradict the map (contradiction.py) are looked at first: one that shows it upside down counts with its
    sign turned, whatever the loss; any other has a wrong pose, and no weight with an M-estimator, whose weights of noisy
    images are nearly alike.
    """
    rule = rule_of(loss)
    if not rule.judges:
        return rule.decide(Case(comm, statistics, particle_sigma(comm, statistics, valid), ids, valid, valid, distance))
    against = contradicting(comm, statistics, valid)
    inverted = against & looks_inverted(statistics)
    statistics = statistics.inverted(inverted)
    sigma = particle_sigma(comm, statistics, valid)
    mixture = slight = None
    if rule.mixture or keep == AUTO:
        given = None if keep in (None, AUTO) else keep
        random_poses = RandomPoses(random_poses.rows, random_poses.statistics.inverted(inverted[random_poses.rows]))
        typical = noise_variance(comm, statistics, sigma, valid)
        log_noise = noise_shapes(comm, statistics, valid)
        variance = typical if log_noise is None else typical * np.exp(log_noise)
        if nearby is not None:
            slight = SlightPoses.of(comm, nearby.at_own(inverted, statistics), variance, np.median(typical, axis=1), valid)
        mixture = fit_mixture(comm, statistics, ids, variance, valid, random_poses, given, groups, slight, log_noise)
    followed = mixture is not None and _followed(comm, mixture, mild)
    selection = rule.decide(Case(comm, statistics, sigma, ids, valid, valid & (inverted | ~against), distance, keep, sort_scope, mild,
                                 mixture, followed, slight))  # fmt: skip
    selection.invert(inverted)
    selection.contradicts = against
    kept, total = (comm.allreduce_scalar(int(rows.sum())) for rows in (selection.kept, valid))
    selection.keep_ = kept / max(total, 1)
    return selection


def noise_shapes(comm: Communicator, statistics: Statistics, valid: np.ndarray) -> np.ndarray | None:
    """Logarithm of each particle's noise power in each band over the typical one's, (m, bands), drawn towards 0 by its own
    scatter; None where all have a spectrum of one shape, of which σ tells all there is."""
    if one_noise_shape(comm, statistics, valid):
        return None
    shape = np.zeros((len(valid), len(statistics.samples)))
    for band in np.flatnonzero(statistics.samples):
        log, scatter = _log_noise(comm, statistics, valid, slice(band, band + 1))
        spread = (MAD_TO_SIGMA * _median(comm, np.abs(log[valid]))) ** 2
        shape[:, band] = log * (max(0.0, 1 - scatter / spread) if spread > 0 else 0.0)
    return shape


def noise_variance(comm: Communicator, statistics: Statistics, sigma: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Variance of each particle's noise in the units of the statistics, (m, bands): σ² times each band's typical noise.

    The spectrum that whitens images is their own power, signal included: what that adds is taken out here.
    """
    level = np.ones(len(statistics.samples))
    for band in np.flatnonzero(statistics.samples):
        typical = _median(comm, (statistics.noise_of(slice(band, band + 1)) / sigma**2)[valid])
        level[band] = typical if typical > 0 else 1.0
    return sigma[:, None] ** 2 * level


@dataclass
class SlightPoses:
    """Slight errors of the valid particles' poses: the mixture's view of them, and what they leave of the signal.

    errors : SlightErrors · angle : (m, kinds) float64, root mean square of the error, radians, where it is of that kind ·
    profile : (angles, shells)
    """

    errors: SlightErrors
    angle: np.ndarray
    profile: np.ndarray

    @classmethod
    def of(
        cls, comm: Communicator, nearby: NearbyPoses, variance: np.ndarray, overall: np.ndarray, valid: np.ndarray
    ) -> SlightPoses | None:
        """Scales of error are multiples of the angle that a typical image can tell; None where that is none that is slight.

        overall : (m,) variance for slopes and curvatures, which are sums over bands
        """
        nearby, variance, overall = nearby[valid], variance[valid], overall[valid]
        width = _median(comm, nearby.width(overall))
        if not width <= _WIDEST:
            return None
        found = [nearby.integral(overall, scale * width) for scale in SCALES]
        log, angle = (np.stack(values, axis=1) for values in zip(*found))
        seen = np.searchsorted(ANGLES, SEEN_ANGLES)
        angle = np.column_stack([angle, *(np.full(len(angle), np.radians(ANGLES[a])) for a in seen)])
        whole = np.concatenate([nearby.sums[:, :, :1], nearby.sums], axis=2)  # Evidence makes nothing of yy
        errors = SlightErrors(Evidence.of(whole, variance), log, nearby.band_profile[seen])
        return cls(errors, angle, nearby.profile)


def fit_mixture(
    comm: Communicator, statistics: Statistics, ids: np.ndarray, variance: np.ndarray, valid: np.ndarray, random_poses: RandomPoses,
    keep: float | None, groups: np.ndarray | None = None, slight: SlightPoses | None = None,
    log_noise: np.ndarray | None = None,
) -> PoseMixture:
    """The mixture of well posed, slightly and wrongly posed and junk that explains the particles' statistics."""
    usable = valid[random_poses.rows]
    used = random_poses.rows[usable]
    number = np.cumsum(valid) - 1  # row → index among the valid
    own = Evidence.of(statistics.sums[valid], variance[valid])
    random = Evidence.of(random_poses.statistics.sums[usable], variance[used])
    groups = None if groups is None else groups[valid]
    log_noise = None if log_noise is None else log_noise[valid]
    errors = None if slight is None else slight.errors
    sample = None if groups is not None else _sample(comm, ids[valid], number[used])
    return PoseMixture(keep).fit(comm, own, random, number[used], groups, errors, log_noise, sample)


def _sample(comm: Communicator, ids: np.ndarray, looked: np.ndarray) -> np.ndarray | None:
    """(m,) bool, about _SAMPLE of all ranks' particles, drawn by their ids, and those looked at in random poses, which were drawn
    by them, too; None where there are not many more."""
    total = comm.allreduce_scalar(len(ids))
    if total < 2 * _SAMPLE:
        return None
    sample = uniform_draws(0, ids, "mixture") < _SAMPLE / total
    sample[looked] = True
    return sample


def _followed(comm: Communicator, mixture: PoseMixture, mild: float) -> bool:
    """Whether to go by the mixture: it tells good from wrong, or is on its way there and finds anybody good at all."""
    return mixture.separable_ or (mild > 0 and comm.allreduce_scalar(float(mixture.posterior_.sum())) >= 1)


def _by_posterior(
    mixture: PoseMixture, sigma: np.ndarray, valid: np.ndarray, slight: SlightPoses | None, told_apart: bool
) -> Selection:
    """w = posterior / σ², slight errors counted by what they leave of the signal, and the contrast of each image; everybody
    alike when good and wrong are not told apart."""
    weight, posterior, score = np.zeros(len(valid)), np.zeros(len(valid)), np.full(len(valid), -np.inf)
    contrast, contrast2 = np.ones(len(valid)), np.ones(len(valid))
    attenuation, slightly_wrong = None, np.zeros(len(valid), bool)
    score[valid] = mixture.score_
    if told_apart:
        posterior[valid] = mixture.posterior_
        # an image of negative contrast would be added upside down: it has nothing to say
        contrast[valid] = np.maximum(mixture.contrast_, 0)
        contrast2[valid] = mixture.contrast2_
        noise = sigma
    else:
        posterior[valid] = 1.0
        noise = np.where(sigma > NOISY, sigma, 1.0)  # plain L2, but for images of outlying power
    believed = posterior
    if told_apart and mixture.slight_.size:
        believed, attenuation = _attenuation(mixture, slight, valid)
        slightly_wrong[valid] = mixture.slight_.sum(axis=1) >= 0.5
    believed = np.where(believed < _NEGLIGIBLE, 0.0, believed)
    weight[valid] = believed[valid] / noise[valid] ** 2
    return Selection(
        weight, valid & (posterior >= 0.5), -score, contrast, contrast2, posterior, attenuation, slight=slightly_wrong,
        mixture_=mixture,
    )  # fmt: skip


def _attenuation(mixture: PoseMixture, slight: SlightPoses, valid: np.ndarray) -> tuple[np.ndarray, Attenuation]:
    """The share of each particle's signal that is believed, (m,), E[h²] over right poses, for which h = 1, and errors of every
    scale, averaged over shells; and E[s·h(k)] over the same, relative to it."""
    share, first, second = np.zeros((3, len(valid), len(slight.profile)))
    right = np.ones_like(mixture.contrast_), np.maximum(mixture.contrast_, 0), mixture.contrast2_
    wrong = np.ones_like(mixture.slight_contrast_), np.maximum(mixture.slight_contrast_, 0), mixture.slight_contrast2_
    for total, of_right, of_wrong in zip((share, first, second), right, wrong):
        for kind, probability in enumerate(mixture.slight_.T):
            total[valid] += (probability * of_wrong[kind])[:, None] * between_angles(slight.angle[:, kind])
        total[valid, 0] += mixture.posterior_ * of_right
    believed = sum(share[:, c] * left for c, left in enumerate(np.square(slight.profile).mean(axis=1)))
    for total in (first, second):
        np.divide(total, believed[:, None], out=total, where=believed[:, None] > 0)
    return believed, Attenuation(slight.profile, first, second)


def _sorted(scope, score, ids, valid, keep, mixture) -> Selection:
    kept = np.zeros(len(score), bool)
    total = scope.allreduce_scalar(int(valid.sum()))
    if total:
        kept[valid] = smallest_k(scope, score[valid], ids[valid], keep_count(keep, total))
    return Selection(kept.astype(np.float64), kept, score, mixture_=mixture)


def sorting_score(case: Case) -> np.ndarray:
    """The distance by which a case's particles are sorted, (m,) float64, smaller is better; collective."""
    return case.distance.score(case.statistics, case.sigma, _median(case.comm, case.statistics.yy[case.valid]))


class LeastSquares(Rule):
    """Everybody alike, in closed form."""

    name, judges, squares, rounds = "l2", False, True, 1

    def decide(self, case: Case) -> Selection:
        return Selection(case.valid.astype(np.float64), case.valid.copy(), sorting_score(case), keep_=1.0)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray, given: np.ndarray) -> float:
        return _mean_rho(comm, self.name, d, selection, selection.kept, given)


class Trimmed(Rule):
    """Least trimmed squares: the nearest, as many as ``--keep`` or the mixture says."""

    name, keeps, must_keep = "sorted", True, True

    def decide(self, case: Case) -> Selection:
        score, keep = sorting_score(case), 1.0
        if case.mixture is None:
            keep = loosened(case.keep, case.mild)
        elif case.followed:
            keep = case.mixture.keep_
        scope = case.comm if case.sort_scope == "global" else SerialCommunicator()
        return _sorted(scope, score, case.ids, case.valid, keep, case.mixture)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray, given: np.ndarray) -> float:
        return _mean_rho(comm, self.name, d, selection, selection.kept, given)


class Posterior(Rule):
    """By the probability of being well posed."""

    name, mixture, looks, keeps, squares = "posterior", True, True, True, True

    def decide(self, case: Case) -> Selection:
        return _by_posterior(case.mixture, case.sigma, case.valid, case.slight, case.followed)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray, given: np.ndarray) -> float:
        """Σ w d² / Σ w with the weights as they are."""
        weight = selection.weight * given
        total, weight = comm.allreduce(np.array([(weight * d**2).sum(), weight.sum()]))
        return float(total / max(weight, 1e-300))


class ByNorm(Rule):
    """By a function of the norm: an M-estimator."""

    length = True

    def __init__(self, name: str) -> None:
        self.name = name

    def decide(self, case: Case) -> Selection:
        """Weights relative to the typical particle's, so that Λ means the same for every loss."""
        comm, valid, score = case.comm, case.credible, sorting_score(case)
        norm = norms(comm, case.distance, case.statistics, valid)
        centre = _median(comm, norm[valid])
        scale = widened(MAD_TO_SIGMA * _median(comm, np.abs(norm[valid] - centre)), case.mild)
        weight = make_loss(self.name, centre, scale).weight(norm)
        typical = _median(comm, weight[valid])
        weight = np.where(valid, weight / (typical if typical > 0 else 1), 0.0)
        return Selection(weight, weight > 0, score, centre_=centre, scale_=scale)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray, given: np.ndarray) -> float:
        """A particle without weight still adds its ρ, else the loss would fall when more are left out."""
        return _mean_rho(comm, self.name, d, selection, valid, given)


_RULES: dict[str, Rule] = {rule.name: rule for rule in (LeastSquares(), Trimmed(), Posterior())}


def add_rule(rule: Rule) -> str:
    """Have runs know a rule by its name; returns the name. UserError for the name of another loss."""
    if rule.name in rule_names():
        raise UserError(f"loss {rule.name}: there is one of this name already; choose another")
    _RULES[rule.name] = rule
    return rule.name


def rule_names() -> tuple[str, ...]:
    """Names of all losses, those that were added last."""
    return tuple(dict.fromkeys((*loss_names(), *_RULES)))


def rule_of(loss: str) -> Rule:
    """The rule of the loss of that name; UserError listing them all when there is none."""
    if loss in _RULES:
        return _RULES[loss]
    if not is_m_estimator(loss):
        raise UserError(f"unknown loss {loss!r}; choose one of {', '.join(rule_names())}")
    return ByNorm(loss)


def norms(comm: Communicator, distance: Distance, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """The unsquared distance d of every particle, (m,) float64; collective, for the typical image power."""
    typical = _median(comm, statistics.yy[valid])
    return distance.norm(statistics, typical)


def loss_value(
    comm: Communicator, loss: str, d: np.ndarray, selection: Selection, valid: np.ndarray, given: np.ndarray | None = None
) -> float:
    """The loss being minimised, per particle that it counts: mean 2ρ over the kept (sorted) or over all valid ones, weighted by the
    weights `given`, (m,), if there are any.

    2ρ, so that L2's value is the mean squared norm. `posterior` minimises Σ w d² with its weights fixed.
    """
    return rule_of(loss).value(comm, d, selection, valid, np.ones(len(d)) if given is None else given)


def _mean_rho(comm: Communicator, loss: str, d: np.ndarray, selection: Selection, counted: np.ndarray, given: np.ndarray) -> float:
    rho, given = make_loss(loss, selection.centre_, selection.scale_).rho, given[counted]
    total = comm.allreduce_scalar(float(2 * (given * rho(d[counted])).sum()))
    return total / max(comm.allreduce_scalar(float(given.sum())), np.finfo(np.float64).tiny)


def _median(comm: Communicator, values: np.ndarray) -> float:
    return median(comm, values) if comm.allreduce_scalar(len(values)) else math.nan
