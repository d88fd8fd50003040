"""Which poses are correct: the mixture of mixture_model.py, fitted to the particles of all ranks by EM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.parallel.comm import Communicator
from mpirecon.robust.evidence import Evidence, SmallErrors
from mpirecon.robust.likely_shares import likely_shares
from mpirecon.robust.mixture_model import (
    CONTRAST_PRIOR,
    FEWEST,
    FILTER,
    CORRECT,
    JUNK,
    NEGLIGIBLE,
    SMALL,
    WRONG,
    MixtureModel,
    band_sums,
)
from mpirecon.robust.view_shares import shares_by_view

#: distance of correct from incorrect poses, in standard deviations, below which none is rejected. The AUC it promises
#: is 0.96; real images keep less than they promise (measured: 0.67 for a promised 1.9 standard deviations)
SMALLEST_SEPARATION = 2.5

_ITERATIONS, _TOLERANCE = 100, 1e-5

#: wrong poses and junk can look so much alike that it takes EM long to find how many are which, and the spread of
#: contrasts is slow where it is small: which poses are correct hardly depends on either
_TOLERANCE_OF_REST = 2e-4

#: steps of EM with all particles where it began with a sample
_LAST = 6

#: steps of the shares alone in a step of EM, from its sixth on: they cost little, and no kind is given up before the
#: gain and the contrasts are about right
_SHARE_STEPS, _SETTLED = 30, 5
_GAIN = (0.05, 5.0)

#: ratio of two steps beyond which nothing is extrapolated, and how much ratios may differ
_SLOWEST, _ALIKE = 0.98, 0.05

#: how much the logarithm of the likelihood may fall by an extrapolation where the scores of wrong poses are measured
#: again, by which steps of EM lower it, too: by too little to matter
_ALLOWED = 2.0
_CONTRAST_VARIANCE = (1e-4, 0.5)

#: turns between the mean and the variance of contrasts in a step, each of which is taken to its best
_TURNS = 10


class PoseMixture(MixtureModel):
    """Fit by ``fit``; the attributes with a trailing underscore hold the result, per-particle ones of this rank.

    keep_ : fraction of correct poses
    keep_interval_ : its 95 % likelihood interval
    shares_ : fractions of correct, wrong and junk, and each kind of small errors where they were searched
    gain_ : (bands,) h
    filter_ : γ, 0 where noise has one shape
    contrast_cv_ : τ
    separation_ : standard deviations between correct and wrong
    separable_ : bool
    n_iter_ : int
    posterior_ : (m,) probability that the pose is correct
    score_ : (m,) log likelihood ratio of a correct pose against any other
    contrast_, contrast2_ : (m,) expected s and s² if the pose is correct
    small_ : (m, kinds) probability of each kind of small error
    small_contrast_, small_contrast2_ : (kinds, m) expected s and s² then.
    """

    def __init__(self, keep: float | None = None) -> None:
        self.keep = keep

    def fit(
        self, comm: Communicator, own: Evidence, random: Evidence, random_rows: np.ndarray,
        groups: np.ndarray | None = None, small: SmallErrors | None = None, log_noise: np.ndarray | None = None,
        sample: np.ndarray | None = None,
    ) -> PoseMixture:
        """EM over the particles of all ranks.

        Parameters
        ----------
        own : evidence of this rank's valid particles at their poses
        random : evidence of some of them, `random_rows` (indices into `own`), at random orientations
        groups : (m,) int64, optional, numbers 0 … of the groups of rows that are right or wrong together
        small : what the best poses nearby say of this rank's valid particles; without, errors are random or none
        log_noise : (m, bands), logarithm of each image's noise power over the typical one's, where that differs in
            shape
        sample : (m,) bool, chosen at random, whole groups: those that EM begins with, to end with a few steps of all;
            all if left out

        Raises
        ------
        UserError
            when there are no particles, none has any evidence (a map of zeros), all have the same, or it is not finite.
        """
        self._hold(comm, own, random, random_rows, groups, small, log_noise)
        if sample is None:
            self._climb(_ITERATIONS)
        else:
            self._begin_with(self._fitted_to(sample))
            self._climb(_LAST, begun=True)
        self._conclude()
        return self

    def _climb(self, most: int, begun: bool = False) -> None:
        """At most so many steps of EM, from the usual start unless `begun`."""
        if not begun:
            own, _, small = self._whole
            self._begin(own.t.shape[1], 0 if small is None else small.kinds)
        steps: list[float] = []  # of the spread of contrasts since the last extrapolation
        self._total, self._safe = -np.inf, None
        for self.n_iter_ in range(self.n_iter_ + 1, self.n_iter_ + most + 1):
            self.expect()
            before = self._parameters()
            self._maximise()
            step = self._parameters() - before
            steps.append(step[-1])
            change = np.abs(step[: len(self.shares_)])
            settled = change[WRONG], change[JUNK], abs(steps[-1])
            change[[WRONG, JUNK]] = 0
            if self.n_iter_ > _SETTLED and change.max() < _TOLERANCE and max(settled) < _TOLERANCE_OF_REST:
                break
            if self.n_iter_ > _SETTLED and self._extrapolate(step, steps[-3:]):
                steps.clear()
        self.expect()

    def share_by_view(self, view: np.ndarray) -> None:
        """Let correct poses be more frequent in some views than in others, where they are (view_shares.py). view : (m,)
        int64, number of each particle's. Collective."""
        wrong = self._responsibility[:, [WRONG, JUNK]].sum(axis=1)
        right = self.posterior_ + self.small_.sum(axis=1)
        more = shares_by_view(self._comm, np.log(np.maximum(right, NEGLIGIBLE) / np.maximum(wrong, NEGLIGIBLE)), view)
        if more is not None:
            self._attribute(more)
            self.score_ = self.score_ + more

    def _begin(self, bands: int, kinds: int) -> None:
        """Where EM starts, with so many kinds of small errors."""
        self.wrong_mean_ = self.wrong_variance_ = np.zeros(bands)
        self.gain_ = np.ones(bands)
        self.contrast_variance_ = 0.02
        self.shares_ = self._pinned(np.concatenate([[0.6, 0.3, 0.1], np.full(kinds, 0.02)]))
        self.posterior_ = np.full(len(self._own.t), 0.5)
        self.n_iter_ = 0

    def _fitted_to(self, sample: np.ndarray) -> PoseMixture:
        """The mixture of some particles alone."""
        own, random, small = self._whole
        number = np.cumsum(sample) - 1
        looked = sample[self._rows]
        own, random = (Evidence(some.t[rows], some.a[rows]) for some, rows in ((own, sample), (random, looked)))
        if small is not None:
            best = Evidence(small.best.t[sample], small.best.a[sample])
            small = replace(small, best=best, log_integral=small.log_integral[sample])
        groups, log_noise = (None if some is None else some[sample] for some in (self._groups, self._log_noise))
        fitted = PoseMixture(self.keep)
        fitted._hold(self._comm, own, random, number[self._rows[looked]], groups, small, log_noise)
        fitted._climb(_ITERATIONS)
        return fitted

    def _begin_with(self, fitted: PoseMixture) -> None:
        """EM continues where it ended with other particles."""
        self.wrong_mean_, self.wrong_variance_, self.gain_ = fitted.wrong_mean_, fitted.wrong_variance_, fitted.gain_
        self.contrast_variance_, self.shares_, self.n_iter_ = fitted.contrast_variance_, fitted.shares_, fitted.n_iter_
        if self._log_noise is not None:
            self._take_filtered(fitted.filter_)
        self._total = -np.inf
        self._likelihoods()

    def _parameters(self) -> np.ndarray:
        """Shares, gains and the spread of contrasts, that a step of EM changes."""
        return np.concatenate([self.shares_, self.gain_, [self.contrast_variance_**0.5]])

    def _extrapolate(self, step: np.ndarray, spreads: list[float]) -> bool:
        """Take the parameters to where steps lead that continue to shrink as the last ones of the spread of contrasts
        did, the slowest to converge (Aitken's method); False where these do not shrink alike yet."""
        if len(spreads) < 3 or 0 in spreads:
            return False
        before, ratio = spreads[-2] / spreads[-3], spreads[-1] / spreads[-2]
        if not (0 < ratio < _SLOWEST and abs(ratio - before) < _ALIKE):
            return False
        shares, gain, (cv,) = np.split(
            self._parameters() + step * ratio / (1 - ratio), np.cumsum([len(self.shares_), len(self.gain_)])
        )  # fmt: skip
        if shares.min() < 0 or not 0.5 * cv**2 < self.contrast_variance_ < 2 * cv**2:
            return False
        self._safe = self.shares_, self.gain_, self.contrast_variance_
        self.shares_, self.gain_ = self._pinned(shares), np.clip(gain, *_GAIN)
        self.contrast_variance_ = float(np.clip(cv**2, *_CONTRAST_VARIANCE))
        return True

    def expect(self) -> None:
        """Probabilities with the parameters as they are, or as they were before an extrapolation that went too far."""
        before, wrong = self._total, (self.wrong_mean_, self.wrong_variance_)
        self._evaluate()
        moved = not np.array_equal(wrong, (self.wrong_mean_, self.wrong_variance_))
        if self._safe is not None and self._total < before - moved * _ALLOWED:
            self.shares_, self.gain_, self.contrast_variance_ = self._safe
            self._evaluate()
        self._safe = None

    def _maximise(self) -> None:
        self._share_out()
        s, s2 = self.posterior_ * self.contrast_, self.posterior_ * self.contrast2_
        t, a = self._own.t, self._own.a
        once = self.posterior_ * self._once
        scalars = np.array([once.sum(), (once * self.contrast_).sum(), (once * self.contrast2_).sum()])
        per_band = self._sum([s @ (t * a), s2 @ a**2])
        total, contrast, squares = self._comm.allreduce(scalars)
        # contrasts of any mean are fitted; then the gain takes up the mean, for contrast is between particles. A step
        # so taken never lowers the likelihood,
        # and is longer (parameter-expanded EM: Liu, Rubin & Wu 1998, Biometrika 85:755)
        mean = self._spread_contrasts(total, contrast, squares)
        gain = per_band[0] / np.maximum(per_band[1], NEGLIGIBLE) * mean
        self.gain_ = np.clip(np.where(per_band[1] > NEGLIGIBLE, gain, self.gain_), *_GAIN)
        if self._log_noise is not None:
            self._fit_filter(s[:, None], s2[:, None], mean)

    def _share_out(self) -> None:
        """Shares from the probabilities, and in turn: EM of the shares alone, or Newton's steps to where it ends."""
        steps = _SHARE_STEPS if self.n_iter_ > _SETTLED else 1
        best, safe, newton = -np.inf, None, self.keep is None
        for step in range(1, steps + 1):
            before = self.shares_
            joint = self._relative @ before
            sums = np.append(self._once / joint @ self._relative, self._once @ np.log(joint))
            *count, likelihood = self._comm.allreduce(sums)
            if safe is not None and likelihood < best:  # too long a step
                self.shares_, safe, newton = safe, None, False
                continue
            best, safe = likelihood, None
            self.shares_ = self._reestimated(before * count)
            if ((self.shares_ > 0) != (before > 0)).any():
                self._compare()
                best = -np.inf
            if np.abs(self.shares_ - before).max() < _TOLERANCE / 10:
                break
            # of correct, wrong and junk alone the likelihood has one maximum; small errors may vanish or not
            if newton and step < steps and not self.shares_[SMALL:].any():
                safe, self.shares_ = self.shares_, self._newton(before, self.shares_)
        if steps > 1:
            self._attribute()

    def _reestimated(self, counts: np.ndarray) -> np.ndarray:
        """Shares from the expected numbers of each kind."""
        counts[SMALL:] = np.maximum(counts[SMALL:] - FEWEST, 0)
        if not counts.sum() > NEGLIGIBLE:  # so few that small errors, which explain them all, are given up
            counts = np.where(np.arange(len(counts)) < SMALL, self.shares_, 0.0)
        return self._pinned(counts / counts.sum())

    def _newton(self, shares: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The shares that a step of EM leaves as they are, as Newton's method has it from those before and after a
        step; those after it where some would not be positive."""
        kinds = slice(SMALL)
        relative = self._relative[:, kinds]
        weighted = relative * (self._once / (self._relative @ shares) ** 2)[:, None]
        curvature = self._comm.allreduce(weighted.T @ relative) / self._count
        # ∂(after)/∂(shares); shares sum to one before and after
        slope = np.diag(after[kinds] / shares[kinds]) - shares[kinds, None] * curvature
        step = np.linalg.lstsq(np.eye(SMALL) - slope, (after - shares)[kinds], rcond=None)[0]
        found = shares[kinds] + step - step.mean()
        return self._pinned(np.concatenate([found, after[SMALL:]])) if found.min() > 0 else after

    def _fit_filter(self, s: np.ndarray, s2: np.ndarray, mean: float) -> None:
        """A step of Newton's method towards the γ that the correct ones are most likely with. s, s2 : (m, 1), posterior
        times the expected contrast and its square, of the given mean."""
        signal = self._own.a * self.gain_ / mean
        slope = (self._log_noise * (s * signal * self._own.t - s2 * signal**2)).sum()
        curvature = (self._log_noise**2 * s2 * signal**2).sum()
        slope, curvature = self._comm.allreduce(np.array([slope, curvature]))
        step = slope / max(curvature, 1e-300)
        self._take_filtered(float(np.clip(self.filter_ + np.clip(step, -0.2, 0.2), *FILTER)))

    def _spread_contrasts(self, total: float, contrast: float, squares: float) -> float:
        """Set the variance of contrasts relative to their mean, and return the mean: the maximum, found in turns, of
        total·ln N(s; mean, variance·mean²) and the prior's logarithm. contrast, squares : sums of E[s] and E[s²]."""
        strength, typical = CONTRAST_PRIOR
        first, second = contrast / max(total, NEGLIGIBLE), squares / max(total, NEGLIGIBLE)
        mean, variance = first, self.contrast_variance_
        if not (
            total > NEGLIGIBLE and first > 0
        ):  # no pose is correct, or what are have no contrast: nothing is learned
            return 1.0
        for _ in range(_TURNS):
            mean = 2 * second / (first + np.sqrt(first**2 + 4 * variance * second))
            variance = (total * (second / mean**2 - 2 * first / mean + 1) + strength * typical) / (total + strength)
            variance = float(np.clip(variance, *_CONTRAST_VARIANCE))
        self.contrast_variance_ = variance
        return mean

    def _pinned(self, shares: np.ndarray) -> np.ndarray:
        """Shares that sum to one, hold that of the correct ones where the user gave it,
        and are never zero but for small errors."""
        least = np.where(np.arange(len(shares)) < SMALL, 1e-4, 0.0)
        # after the others were brought to their sum: their scale is changed there
        shares = np.maximum(self._with_given(shares), least)
        return self._with_given(shares)

    def _with_given(self, shares: np.ndarray) -> np.ndarray:
        """The fraction of correct ones as the user gave it, if so, the others in proportion."""
        if self.keep is None:
            return shares / shares.sum()
        good = min(max(self.keep, 1e-4), 1 - 2e-4)
        return np.concatenate([[good], shares[1:] * (1 - good) / max(shares[1:].sum(), NEGLIGIBLE)])

    def _conclude(self) -> None:
        with np.errstate(divide="ignore"):
            bad = np.log(self.shares_[1:] / self.shares_[1:].sum())
        self._log_bad = np.logaddexp.reduce(self.likelihood_[:, 1:] + bad, axis=1)
        self.score_ = self.likelihood_[:, CORRECT] - self._log_bad
        self.keep_ = float(self.shares_[CORRECT])
        self.contrast_cv_ = float(np.sqrt(self.contrast_variance_))
        apart = (self.gain_ - self.wrong_mean_) * self._own.a
        apart = self._over_groups(band_sums(apart, apart))
        total = self._comm.allreduce(np.array([(self.posterior_ * apart).sum(), self.posterior_.sum()]))
        self.separation_ = float(np.sqrt(total[0] / max(total[1], 1e-300)))
        self.keep_interval_ = likely_shares(self._comm, self.score_, self._once, self.keep_)
        self.separable_ = self.separation_ >= SMALLEST_SEPARATION
