"""The rules that runs know: least squares, trimmed least squares, the posterior, any function of the norm,
and those that are added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kinds import shown
from mpirecon.parallel.comm import Communicator, SerialCommunicator, run_together
from mpirecon.parallel.select import smallest_k
from mpirecon.robust import losses, own_rules
from mpirecon.robust.distances import Distance, norms_by, scores_by
from mpirecon.robust.losses import L2, MAD_TO_SIGMA, Loss, is_m_estimator, loss_names, maker_of
from mpirecon.robust.own_code import digest_of_code
from mpirecon.robust.particle_noise import NOISY, median_of
from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.returned import checked_numbers, checked_weights, refuse_bad, refuse_extreme, refuse_name
from mpirecon.robust.rules import Case, Rule
from mpirecon.robust.schedule import loosened, widened
from mpirecon.robust.selection import Selection, keep_count
from mpirecon.robust.small_pose_errors import SmallPoseErrors, attenuation
from mpirecon.robust.statistics import Statistics

#: probability of a particle below which it need not be added to the map at all: a million such count as one. Much more
#: would leave out those with small errors, of which little counts
_NEGLIGIBLE = 1e-6


def sorting_score(case: Case) -> np.ndarray:
    """The distance by which a case's particles are sorted, (m,) float64, smaller is better; collective."""
    typical = median_of(case.comm, case.statistics.yy[case.valid])
    # a script's own function may fail on one rank: the others must not wait for it
    return run_together(case.comm, lambda: scores_by(case.distance, case.statistics, case.sigma, typical, case.valid))


def norms(comm: Communicator, distance: Distance, statistics: Statistics, valid: np.ndarray) -> np.ndarray:
    """The unsquared distance d of every particle, (m,) float64; collective, for the typical image power."""
    typical = median_of(comm, statistics.yy[valid])
    return run_together(comm, lambda: norms_by(distance, statistics, typical, valid))


def mean_rho(comm: Communicator, loss: Loss, d: np.ndarray, counted: np.ndarray, given: np.ndarray) -> float:
    """Mean 2ρ of the counted, (m,) bool, of norms d, weighted by `given`; collective."""
    given, d = given[counted], d[counted]
    rho = run_together(comm, lambda: _rho(loss, d))
    total = comm.allreduce_scalar(float(2 * (given * rho).sum()))
    return total / max(comm.allreduce_scalar(float(given.sum())), np.finfo(np.float64).tiny)


def _rho(loss: Loss, d: np.ndarray) -> np.ndarray:
    what = f"loss {type(loss).__name__}: rho"
    rho = checked_numbers(what, loss.rho(d.copy()), d.shape)
    refuse_bad(what, rho, ~np.isfinite(rho) & np.isfinite(d), "it must be finite")
    return rho


def _sorted(scope, score, ids, valid, keep, mixture) -> Selection:
    kept = np.zeros(len(score), bool)
    total = scope.allreduce_scalar(int(valid.sum()))
    if total:
        kept[valid] = smallest_k(scope, score[valid], ids[valid], keep_count(keep, total))
    return Selection(kept.astype(np.float64), kept, score, mixture_=mixture)


def _by_posterior(
    mixture: PoseMixture, sigma: np.ndarray, valid: np.ndarray, small: SmallPoseErrors | None, separable: bool
) -> Selection:
    """w = posterior / σ², small errors counted by what they leave of the signal, and the contrast of each image;
    all alike when correct and incorrect ones are not separable."""
    weight, posterior, score = np.zeros(len(valid)), np.zeros(len(valid)), np.full(len(valid), -np.inf)
    contrast, contrast2 = np.ones(len(valid)), np.ones(len(valid))
    left, with_small_errors = None, np.zeros(len(valid), bool)
    score[valid] = mixture.score_
    if separable:
        posterior[valid] = mixture.posterior_
        # an image of negative contrast would be added with inverted contrast: it has no information
        contrast[valid] = np.maximum(mixture.contrast_, 0)
        contrast2[valid] = mixture.contrast2_
        noise = sigma
    else:
        posterior[valid] = 1.0
        noise = np.where(sigma > NOISY, sigma, 1.0)  # plain L2, but for images of outlying power
    counted = posterior
    if separable and mixture.small_.size:
        counted, left = attenuation(mixture, small, valid)
        with_small_errors[valid] = mixture.small_.sum(axis=1) >= 0.5
    counted = np.where(counted < _NEGLIGIBLE, 0.0, counted)
    weight[valid] = counted[valid] / noise[valid] ** 2
    return Selection(
        weight, valid & (posterior >= 0.5), -score, contrast, contrast2, posterior, left, small=with_small_errors,
        mixture_=mixture,
    )  # fmt: skip


class LeastSquares(Rule):
    """Everybody alike, in closed form."""

    name, scores, squares, rounds, how = "l2", False, True, 1, "alike"

    def of_norms(self, centre: float = 0.0, scale: float = 1.0) -> Loss:
        return L2()

    def decide(self, case: Case) -> Selection:
        return Selection(case.valid.astype(np.float64), case.valid.copy(), sorting_score(case), keep_=1.0)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
              given: np.ndarray) -> float:
        return mean_rho(comm, self.of_norms(), d, selection.kept, given)


class Trimmed(Rule):
    """Least trimmed squares: the nearest, as many as ``--keep`` or the mixture says."""

    name, keeps, must_keep, selects = "sorted", True, True, True

    def of_norms(self, centre: float = 0.0, scale: float = 1.0) -> Loss:
        return L2()

    def decide(self, case: Case) -> Selection:
        score, keep = sorting_score(case), 1.0
        if case.mixture is None:
            keep = loosened(case.keep, case.relaxation)
        elif case.followed:
            keep = case.mixture.keep_
        scope = case.comm if case.sort_scope == "global" else SerialCommunicator()
        return _sorted(scope, score, case.ids, case.valid, keep, case.mixture)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
              given: np.ndarray) -> float:
        return mean_rho(comm, self.of_norms(), d, selection.kept, given)


class Posterior(Rule):
    """By the probability that the pose is correct."""

    name, mixture, searches_nearby, keeps, squares = "posterior", True, True, True, True
    how = "weighted by the probability that their pose is correct"

    def decide(self, case: Case) -> Selection:
        return _by_posterior(case.mixture, case.sigma, case.valid, case.small, case.followed)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
              given: np.ndarray) -> float:
        """Σ w d² / Σ w with the weights as they are."""
        weight = selection.weight * given
        total, weight = comm.allreduce(np.array([(weight * d**2).sum(), weight.sum()]))
        return float(total / max(weight, 1e-300))


class ByNorm(Rule):
    """By a function of the norm: an M-estimator, which `make` makes for a centre and a spread of norms."""

    length = True

    def __init__(self, name: str, make: Callable[[float, float], Loss]) -> None:
        self.name, self._make = name, make

    def of_norms(self, centre: float = 0.0, scale: float = 1.0) -> Loss:
        return self._make(centre, scale)

    def decide(self, case: Case) -> Selection:
        """Weights relative to the typical particle's, so that Λ means the same for every loss."""
        comm, valid, score = case.comm, case.credible, sorting_score(case)
        norm = norms(comm, case.distance, case.statistics, valid)
        centre = median_of(comm, norm[valid])
        scale = widened(MAD_TO_SIGMA * median_of(comm, np.abs(norm[valid] - centre)), case.relaxation)
        weight = run_together(comm, lambda: checked_weights(self.name, self.of_norms(centre, scale).weight(norm.copy()),
                                                            norm, valid))
        count, total = comm.allreduce(np.array([float(valid.sum()), weight[valid].sum()]))
        if count and not total > 0:
            raise UserError(f"loss {self.name}: it gave all {count:.0f} particles the weight 0; distances of "
                            f"typical particles are about {centre:.3g}, which it must not leave out")
        typical = median_of(comm, weight[valid])
        with np.errstate(over="ignore"):  # infinity is refused
            weight = np.where(valid, weight / (typical if typical > 0 else 1), 0.0)
        if count:
            largest = comm.allreduce_scalar(float(weight.max(initial=0)), "max")
            refuse_extreme(f"loss {self.name}: the function", largest)
        return Selection(weight, weight > 0, score, centre_=centre, scale_=scale)

    def value(self, comm: Communicator, d: np.ndarray, selection: Selection, valid: np.ndarray,
              given: np.ndarray) -> float:
        """A particle without weight still adds its ρ, else the loss would fall when more are left out."""
        loss = run_together(comm, lambda: self.of_norms(selection.centre_, selection.scale_))
        return mean_rho(comm, loss, d, valid, given)


_RULES: dict[str, Rule] = {rule.name: rule for rule in (LeastSquares(), Trimmed(), Posterior())}
_TRUSTED = (LeastSquares, Trimmed, Posterior, ByNorm)  # what these decide needs no check

#: digests of those that scripts have added, of what they do
_OWN: dict[str, str] = {}


def add_rule(rule: Rule) -> str:
    """Have runs know a rule by its name; returns the name. A rule of one's own that had it is replaced; runs that were
    made before keep it. UserError for the name of another loss, or none, and for what is no rule."""
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise UserError(f"rule {rule.__name__}: expected a rule, and this is its class; give {rule.__name__}()")
    if not isinstance(rule, Rule):
        raise UserError(f"rule {shown(rule)}: expected an instance of a subclass of Rule (mpirecon.robust.rules)")
    refuse_name(f"rule {type(rule).__name__}", getattr(rule, "name", None))
    losses.reserve(rule.name)
    _RULES[rule.name], _OWN[rule.name] = rule, digest_of_code(rule)
    return rule.name


def rule_names() -> tuple[str, ...]:
    """Names of all losses, those that were added last."""
    return tuple(dict.fromkeys((*loss_names(), *_RULES)))


def rule_of(loss: str | Rule) -> Rule:
    """The rule of the loss of that name, or the rule itself; UserError listing them all when there is none."""
    if isinstance(loss, Rule):
        return loss
    if loss in _RULES:
        return _RULES[loss]
    if not is_m_estimator(loss):
        raise UserError(f"unknown loss {loss!r}; choose one of {', '.join(rule_names())}")
    return ByNorm(loss, maker_of(loss))


def own_digest(loss: str) -> str | None:
    """A digest of what a loss does that a script added, by whichever way; None of a built-in one."""
    return _OWN.get(loss) or losses.own_digest(loss)


def decide(rule: Rule, case: Case) -> Selection:
    """What a rule decides; that of one's own is checked. Collective."""
    return rule.decide(case) if type(rule) in _TRUSTED else own_rules.decided(rule, case)


def loss_value(
    comm: Communicator, loss: str | Rule, d: np.ndarray, selection: Selection, valid: np.ndarray,
    given: np.ndarray | None = None
) -> float:
    """The loss being minimised, per particle that it counts: mean 2ρ over the kept (sorted) or over all valid ones,
    weighted by the weights `given`, (m,), if there are any.

    2ρ, so that L2's value is the mean squared norm. `posterior` minimises Σ w d² with its weights fixed.
    """
    rule, given = rule_of(loss), np.ones(len(d)) if given is None else given
    if type(rule) in _TRUSTED:
        return rule.value(comm, d, selection, valid, given)
    return own_rules.value_of(rule, comm, d, selection, valid, given)
