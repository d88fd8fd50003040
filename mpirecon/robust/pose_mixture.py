"""Which particles are well posed: a calibrated mixture, fitted to what each particle says of a map it did not build.

A particle's evidence is t_b = yp_b / (σ √pp_b) in each band b of frequencies: pure noise makes it a standard normal
number. Three kinds of particles differ in its mean and variance, with a_b = √pp_b / σ the expected signal:

* well posed, of contrast s:  t ~ N(s·h·a, 1), s ~ N(1, τ²) between particles
* wrongly posed:              t ~ N(r·a, 1 + v·a²), r and v measured by scoring particles at random orientations
* junk (no particle):         t ~ N(0, 1)
* slightly wrong, where nearby poses were looked at: as well posed, but at the best pose nearby, times an integral over
  the errors of a scale (mpirecon/robust/nearby.py); a few scales. Errors too large for the search to mend show at the own
  pose: t ~ N(s·h·c·a, 1 + (1 − c²)·v·a²), where an error of an angle leaves the share c of the amplitude; a few angles

The gain h_b says how much of the map's amplitude the data confirm. Only the shares, h and τ are fitted (EM); what a
wrong pose looks like is measured, so that a set without wrong poses is not split in two, as a free mixture would.

Images that were filtered each in its own way (dose-weighted tilt images) differ in the shape of their noise spectrum, and
what is left of their signal differs along with it: where an image's noise power is v times the typical, its signal is taken
to be v^γ times the map's, γ fitted. γ = 0 is noise of another shape and signal like anybody's, γ = 1/2 a filter, and γ = 1
a filter by what radiation left of the signal (Grant & Grigorieff 2015, eLife 4:e06980).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator

#: kinds of particles; SLIGHT and beyond are slight errors
GOOD, WRONG, JUNK, SLIGHT = 0, 1, 2, 3

#: distance of the good from the wrong, in standard deviations, below which nobody is thrown out. The AUC it promises
#: is 0.96; real images keep less than they promise (measured: 0.67 for a promised 1.9 standard deviations)
SMALLEST_SEPARATION = 2.5

_ITERATIONS, _TOLERANCE = 100, 1e-5

#: wrong poses and junk can look so much alike that it takes EM long to tell how many are which, and the spread of contrasts
#: is slow where it is small: who is good hardly depends on either
_TOLERANCE_OF_REST = 2e-4

#: steps of EM with everybody where it began with a sample
_LAST = 6

#: steps of the shares alone in a step of EM, from its sixth on: they cost little, and no kind is given up before the gain
#: and the contrasts are about right
_SHARE_STEPS, _SETTLED = 30, 5
_GAIN = (0.05, 5.0)

#: ratio of two steps beyond which nothing is extrapolated, and how much ratios may differ
_SLOWEST, _ALIKE = 0.98, 0.05

#: how much the logarithm of the likelihood may fall by an extrapolation where what a wrong pose looks like is measured anew,
#: by which steps of EM lower it, too: as little as tells nothing apart
_ALLOWED = 2.0
_CONTRAST_VARIANCE = (1e-4, 0.5)

#: what is known of contrasts beforehand: as much as so many particles of this variance (15 %) tell. Without it the spread
#: drifts for hundreds of steps along a ridge: wider, it makes good what is wrong
_CONTRAST_PRIOR = (5.0, 0.0225)

#: log likelihood ratio beyond which nothing is left to doubt: e⁻³⁰ is far below rounding
_SURE = 30.0

#: least and largest γ, and those that EM may start from
_FILTER = (0.0, 1.0)
_FILTERS = np.linspace(*_FILTER, 11)

#: expected signal below which a band tells nothing: a square of it is lost beside 1 in double precision
_LEAST_SIGNAL = 1e-8

#: signal over noise beyond which nobody can be surer, and sums of squares over particles and products over bands stay finite
_SUREST = 1e6

#: sums of probabilities below which nobody is meant
_NOBODY = 1e-200

#: turns between the mean and the variance of contrasts in a step, each of which is taken to its best
_TURNS = 10

#: particles that a kind of slight errors must explain better than anything else does, else it is given up: the prior
#: of Figueiredo & Jain (2002, IEEE Trans. Pattern Anal. 24:381), by which needless components vanish
_FEWEST = 3.0


@dataclass
class Evidence:
    """t and a, (m, bands) float64 each, of this rank's particles; bands without signal have a = t = 0."""

    t: np.ndarray
    a: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, variance: np.ndarray) -> Evidence:
        """From statistics' sums (m, bands, 3) and the variance of the noise in their units, (m, bands)."""
        a = np.sqrt(np.maximum(sums[:, :, 2], 0) / variance)
        a = np.where(a < _LEAST_SIGNAL, 0.0, a)
        t = np.divide(sums[:, :, 1] / variance, a, out=np.zeros_like(a), where=a > 0)
        return cls(t, a)

    def limited(self) -> Evidence:
        """The same, of particles that are surer than any can be only as much as that."""
        largest = np.maximum(np.abs(self.t), self.a).max(axis=1, initial=0)
        if not (largest > _SUREST).any():
            return self
        factor = np.where(largest > _SUREST, _SUREST / np.maximum(largest, _SUREST), 1.0)[:, None]
        return Evidence(self.t * factor, self.a * factor)

    def filtered(self, left: np.ndarray) -> Evidence:
        """The same, where the signal to expect is the share `left` (m, bands) of the map's."""
        return Evidence(self.t, self.a * left)


@dataclass
class SlightErrors:
    """best : Evidence at the best pose near each particle's own · log_integral : (m, scales), the logarithm of the
    likelihood of errors of each scale over that at the best pose · left : (angles, bands), what errors of some angles leave of
    the amplitude at the own pose. The kinds are the scales, then the angles."""

    best: Evidence
    log_integral: np.ndarray
    left: np.ndarray

    @property
    def kinds(self) -> int:
        return self.log_integral.shape[1] + len(self.left)


class PoseMixture:
    """Fit by ``fit``; the attributes with a trailing underscore hold the result, per-particle ones of this rank.

    keep_ : share of the well posed · keep_interval_ : its 95 % likelihood interval · shares_ : good, wrong, junk, and
    each kind of slight errors where they were looked for · gain_ : (bands,) h · filter_ : γ, 0 where noise has one shape · contrast_cv_ : τ · separation_ : standard deviations between good and wrong · separable_ : bool
    · n_iter_ : int · posterior_ : (m,) probability of being well posed · score_ : (m,) log likelihood ratio of well posed
    against not · contrast_, contrast2_ : (m,) expected s and s² if well posed · slight_ : (m, kinds) probability of each kind
    of slight error · slight_contrast_, slight_contrast2_ : (kinds, m) expected s and s² then.
    """

    def __init__(self, keep: float | None = None) -> None:
        self.keep = keep

    def fit(
        self, comm: Communicator, own: Evidence, random: Evidence, random_rows: np.ndarray,
        groups: np.ndarray | None = None, slight: SlightErrors | None = None, log_noise: np.ndarray | None = None,
        sample: np.ndarray | None = None,
    ) -> PoseMixture:
        """EM over the particles of all ranks.

        Parameters
        ----------
        own : evidence of this rank's valid particles at their poses
        random : evidence of some of them, `random_rows` (indices into `own`), at random orientations
        groups : (m,) int64, optional, numbers 0 … of the groups of rows that are right or wrong together
        slight : what the best poses nearby say of this rank's valid particles; without, errors are random or none
        log_noise : (m, bands), logarithm of each image's noise power over the typical one's, where that differs in shape
        sample : (m,) bool, chosen at random, whole groups: who EM begins with, to end with a few steps of everybody; all if
            left out

        Raises
        ------
        UserError
            when there are no particles, none has any evidence (a map of zeros), all have the same, or it is not finite.
        """
        self._comm, self._rows, self._groups, self._log_noise = comm, random_rows, groups, log_noise
        self._whole = own, random, slight
        self._require_numbers(own, random, slight, log_noise)
        self._take_filtered(0.0 if log_noise is None else self._likeliest_filter())
        if groups is not None:
            self._group_count = 1 + comm.allreduce_scalar(int(groups.max(initial=-1)), "max")
        self._once = 1 / self._over_groups(np.ones(len(own.t)))  # each group counts once, whoever holds its rows
        self._count = comm.allreduce_scalar(float(self._once.sum()))
        self._require_evidence()
        most = _ITERATIONS
        if sample is None:
            self._begin(own.t.shape[1], 0 if slight is None else slight.kinds)
        else:
            self._begin_with(self._fitted_to(sample))
            most = _LAST
        steps: list[float] = []  # of the spread of contrasts since the last extrapolation
        self._total, self._safe = -np.inf, None
        for self.n_iter_ in range(self.n_iter_ + 1, self.n_iter_ + most + 1):
            self._expect()
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
        self._expect()
        self._conclude()
        return self

    def _begin(self, bands: int, kinds: int) -> None:
        """Where EM starts, with so many kinds of slight errors."""
        self._wrong_mean = self._wrong_variance = np.zeros(bands)
        self.gain_ = np.ones(bands)
        self._contrast_variance = 0.02
        self.shares_ = self._pinned(np.concatenate([[0.6, 0.3, 0.1], np.full(kinds, 0.02)]))
        self.posterior_ = np.full(len(self._own.t), 0.5)
        self.n_iter_ = 0

    def _fitted_to(self, sample: np.ndarray) -> PoseMixture:
        """The mixture of some particles alone."""
        own, random, slight = self._whole
        number = np.cumsum(sample) - 1
        looked = sample[self._rows]
        own, random = (Evidence(some.t[rows], some.a[rows]) for some, rows in ((own, sample), (random, looked)))
        if slight is not None:
            best = Evidence(slight.best.t[sample], slight.best.a[sample])
            slight = replace(slight, best=best, log_integral=slight.log_integral[sample])
        groups, log_noise = (None if some is None else some[sample] for some in (self._groups, self._log_noise))
        return PoseMixture(self.keep).fit(self._comm, own, random, number[self._rows[looked]], groups, slight, log_noise)

    def _begin_with(self, fitted: PoseMixture) -> None:
        """EM goes on where it ended with other particles."""
        self._wrong_mean, self._wrong_variance, self.gain_ = fitted._wrong_mean, fitted._wrong_variance, fitted.gain_
        self._contrast_variance, self.shares_, self.n_iter_ = fitted._contrast_variance, fitted.shares_, fitted.n_iter_
        if self._log_noise is not None:
            self._take_filtered(fitted.filter_)
        self._total = -np.inf
        self._judge()

    def _parameters(self) -> np.ndarray:
        """Shares, gains and the spread of contrasts, that a step of EM changes."""
        return np.concatenate([self.shares_, self.gain_, [self._contrast_variance**0.5]])

    def _extrapolate(self, step: np.ndarray, spreads: list[float]) -> bool:
        """Take the parameters to where steps lead that go on to shrink as the last ones of the spread of contrasts did, the
        slowest to converge (Aitken's method); False where these do not shrink alike yet."""
        if len(spreads) < 3 or 0 in spreads:
            return False
        before, ratio = spreads[-2] / spreads[-3], spreads[-1] / spreads[-2]
        if not (0 < ratio < _SLOWEST and abs(ratio - before) < _ALIKE):
            return False
        shares, gain, (cv,) = np.split(
            self._parameters() + step * ratio / (1 - ratio), np.cumsum([len(self.shares_), len(self.gain_)])
        )  # fmt: skip
        if shares.min() < 0 or not 0.5 * cv**2 < self._contrast_variance < 2 * cv**2:
            return False
        self._safe = self.shares_, self.gain_, self._contrast_variance
        self.shares_, self.gain_ = self._pinned(shares), np.clip(gain, *_GAIN)
        self._contrast_variance = float(np.clip(cv**2, *_CONTRAST_VARIANCE))
        return True

    def _take_filtered(self, exponent: float) -> None:
        """Expect of each image the signal that its filter leaves, v^exponent of the map's."""
        self.filter_ = exponent
        own, random, slight = self._whole
        best = None if slight is None else slight.best
        if self._log_noise is not None:
            left = self._left(exponent)
            own, random, best = own.filtered(left), random.filtered(left[self._rows]), best and best.filtered(left)
        self._own, self._random = own.limited(), random.limited()
        self._slight = slight and replace(slight, best=best.limited())

    def _left(self, exponent: float) -> np.ndarray:
        return np.exp(np.minimum(exponent * self._log_noise, 50.0))

    def _likeliest_filter(self) -> float:
        """The γ with which the map explains most of all particles' evidence, by least squares: from one far off, all that
        have much to say would be thought wrong before it could be fitted."""
        t, explained = self._whole[0].t, []
        for exponent in _FILTERS:
            a = self._whole[0].a * self._left(exponent)
            along, power = self._sum([_sums(t.T, a.T), _sums(a.T, a.T)])
            explained.append((along**2 / np.maximum(power, 1e-300)).sum())
        return float(_FILTERS[np.argmax(explained)])

    def _require_numbers(self, own: Evidence, random: Evidence, slight: SlightErrors | None, log_noise: np.ndarray | None) -> None:
        more = [] if slight is None else [slight.best.t, slight.best.a, slight.log_integral, slight.left]
        values = [own.t, own.a, random.t, random.a, *more, *([] if log_noise is None else [log_noise])]
        if self._comm.allreduce_scalar(int(not all(np.isfinite(some).all() for some in values))):
            raise UserError("the mixture cannot be fitted: the evidence of some particle is not a finite number")

    def _require_evidence(self) -> None:
        t, a = self._own.t, self._own.a
        if self._count == 0 or self._comm.allreduce_scalar(float(np.square(a).sum())) == 0:
            raise UserError("the mixture has nothing to fit: no particle has any signal to be compared with")
        highest = self._comm.allreduce(np.stack([t, -t]).max(axis=1, initial=-np.inf), "max")
        if self._count > 1 and (highest[0] == -highest[1]).all():
            raise UserError("the mixture has nothing to tell apart: the evidence of all particles is the same")

    # E step

    def _expect(self) -> None:
        """Probabilities with the parameters as they are, or as they were before an extrapolation that went too far."""
        before, wrong = self._total, (self._wrong_mean, self._wrong_variance)
        self._evaluate()
        moved = not np.array_equal(wrong, (self._wrong_mean, self._wrong_variance))
        if self._safe is not None and self._total < before - moved * _ALLOWED:
            self.shares_, self.gain_, self._contrast_variance = self._safe
            self._evaluate()
        self._safe = None

    def _evaluate(self) -> None:
        self._measure_wrong()
        self._judge()

    def _judge(self) -> None:
        wrong = self._over_groups(self._log_wrong())
        good, self.contrast_, self.contrast2_ = self._log_good(self._own)
        self._likelihood = np.column_stack([good, wrong, np.zeros(len(wrong)), *self._log_slight()])
        self._compare()
        self._attribute()
        explained = self._largest + np.log(self._relative @ self.shares_)
        self._total = self._comm.allreduce_scalar(float(self._once @ explained)) + self._log_prior()

    def _log_prior(self) -> float:
        """Of the spread of contrasts, and against kinds of slight errors."""
        strength, typical = _CONTRAST_PRIOR
        spread = -strength / 2 * (np.log(self._contrast_variance) + typical / self._contrast_variance)
        slight = self.shares_[SLIGHT:]
        return spread - _FEWEST * np.log(slight[slight > 0]).sum()

    def _compare(self) -> None:
        """Likelihoods relative to the largest; kinds that were given up explain nobody."""
        alive = np.where(self.shares_ > 0, self._likelihood, -np.inf)
        self._largest = alive.max(axis=1)
        self._relative = np.exp(alive - self._largest[:, None])

    def _attribute(self) -> None:
        """Probabilities of each kind, from the likelihoods and the shares."""
        joint = self._relative * self.shares_
        self._responsibility = joint / (joint @ np.ones(joint.shape[1]))[:, None]
        self.posterior_ = self._responsibility[:, GOOD]
        self.slight_ = self._responsibility[:, SLIGHT:]

    def _over_groups(self, values: np.ndarray) -> np.ndarray:
        """Sums of (m, …) values over the rows of each group, given back to every row; the values without groups."""
        if self._groups is None:
            return values
        total = np.zeros((self._group_count, *values.shape[1:]))
        np.add.at(total, self._groups, values)
        return self._comm.allreduce(total)[self._groups]

    def _log_good(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log likelihood ratio to junk, the contrast integrated out (a Gaussian prior times a Gaussian likelihood); and
        the expected contrast and its square.

        Rows of a group show one particle: they share one contrast.
        """
        signal = evidence.a * self.gain_
        return self._over_contrast(_sums(signal, signal), _sums(signal, evidence.t))

    def _over_contrast(self, v: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """∫ N(s; 1, τ²) exp(s·u − s²·v/2) ds: its logarithm, and the expected s and s²."""
        v, u = self._over_groups(np.stack([v, u], axis=1)).T
        prior = 1 / self._contrast_variance
        precision = v + prior
        contrast = (u + prior) / precision
        log = (contrast**2 * precision - prior + np.log(prior / precision)) / 2
        return log, contrast, contrast**2 + 1 / precision

    def _log_slight(self) -> np.ndarray:
        """Log likelihood ratio of slight errors to junk, (kinds, m); keeps their contrasts."""
        if self._slight is None:
            return np.zeros((0, len(self._own.t)))
        best, contrast, contrast2 = self._log_good(self._slight.best)
        found = [(best + log, contrast, contrast2) for log in self._over_groups(self._slight.log_integral).T]
        found += [self._log_left(share) for share in self._slight.left]
        log, self.slight_contrast_, self.slight_contrast2_ = (np.stack(values) for values in zip(*found))
        return log

    def _log_left(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As _log_good, where the share `left` (bands,) of the amplitude is right and the rest as for a wrong pose."""
        t, a = self._own.t, self._own.a
        variance = 1 + (1 - left**2) * self._wrong_variance * a**2
        signal = a * self.gain_ * left
        weighted = signal / variance
        log, contrast, contrast2 = self._over_contrast(_sums(signal, weighted), _sums(t, weighted))
        by_variance = (_sums(t, t * (1 - 1 / variance)) - np.log(variance.prod(axis=1))) / 2
        return log + self._over_groups(by_variance), contrast, contrast2

    def _log_wrong(self) -> np.ndarray:
        t, a = self._own.t, self._own.a
        variance = 1 + self._wrong_variance * a**2
        beside = t - self._wrong_mean * a
        return (_sums(t, t) - _sums(beside, beside / variance) - np.log(variance.prod(axis=1))) / 2

    def _measure_wrong(self) -> None:
        """r and v from random orientations of the particles that are thought good; as they were where none is."""
        t, a, w = self._random.t, self._random.a, self.posterior_[self._rows]
        total = self._sum([w @ (t * a), w @ a**2])
        self._wrong_mean = np.divide(*total, out=self._wrong_mean.copy(), where=total[1] > _NOBODY)
        excess = (t - self._wrong_mean * a) ** 2 - 1
        total = self._sum([w @ (excess * a**2), w @ a**4])
        found = np.divide(*total, out=self._wrong_variance.copy(), where=total[1] > _NOBODY)
        self._wrong_variance = np.maximum(found, 0)

    # M step

    def _maximise(self) -> None:
        self._share_out()
        s, s2 = self.posterior_ * self.contrast_, self.posterior_ * self.contrast2_
        t, a = self._own.t, self._own.a
        once = self.posterior_ * self._once
        scalars = np.array([once.sum(), (once * self.contrast_).sum(), (once * self.contrast2_).sum()])
        per_band = self._sum([s @ (t * a), s2 @ a**2])
        total, contrast, squares = self._comm.allreduce(scalars)
        # contrasts of any mean are fitted; then the gain takes up the mean, for contrast is between particles. A step so
        # taken never lowers the likelihood, and is longer (parameter-expanded EM: Liu, Rubin & Wu 1998, Biometrika 85:755)
        mean = self._spread_contrasts(total, contrast, squares)
        gain = per_band[0] / np.maximum(per_band[1], _NOBODY) * mean
        self.gain_ = np.clip(np.where(per_band[1] > _NOBODY, gain, self.gain_), *_GAIN)
        if self._log_noise is not None:
            self._fit_filter(s[:, None], s2[:, None], mean)

    def _share_out(self) -> None:
        """Shares from the probabilities, and in turn: EM of the shares alone, or Newton's steps to where it ends."""
        steps = _SHARE_STEPS if self.n_iter_ > _SETTLED else 1
        best, safe, newton = -np.inf, None, self.keep is None
        for step in range(1, steps + 1):
            before = self.shares_
            joint = self._relative @ before
            told = np.append(self._once / joint @ self._relative, self._once @ np.log(joint))
            *count, likelihood = self._comm.allreduce(told)
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
            # of good, wrong and junk alone the likelihood has one maximum; slight errors may vanish or not
            if newton and step < steps and not self.shares_[SLIGHT:].any():
                safe, self.shares_ = self.shares_, self._newton(before, self.shares_)
        if steps > 1:
            self._attribute()

    def _reestimated(self, counts: np.ndarray) -> np.ndarray:
        """Shares from the expected numbers of each kind."""
        counts[SLIGHT:] = np.maximum(counts[SLIGHT:] - _FEWEST, 0)
        if not counts.sum() > _NOBODY:  # so few that slight errors, which explain them all, are given up
            counts = np.where(np.arange(len(counts)) < SLIGHT, self.shares_, 0.0)
        return self._pinned(counts / counts.sum())

    def _newton(self, shares: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The shares that a step of EM leaves as they are, as Newton's method has it from those before and after a step; those
        after it where some would not be positive."""
        kinds = slice(SLIGHT)
        relative = self._relative[:, kinds]
        weighted = relative * (self._once / (self._relative @ shares) ** 2)[:, None]
        curvature = self._comm.allreduce(weighted.T @ relative) / self._count
        # ∂(after)/∂(shares); shares sum to one before and after
        slope = np.diag(after[kinds] / shares[kinds]) - shares[kinds, None] * curvature
        step = np.linalg.lstsq(np.eye(SLIGHT) - slope, (after - shares)[kinds], rcond=None)[0]
        found = shares[kinds] + step - step.mean()
        return self._pinned(np.concatenate([found, after[SLIGHT:]])) if found.min() > 0 else after

    def _fit_filter(self, s: np.ndarray, s2: np.ndarray, mean: float) -> None:
        """A step of Newton's method towards the γ that the good are most likely with. s, s2 : (m, 1), posterior times
        the expected contrast and its square, of the given mean."""
        signal = self._own.a * self.gain_ / mean
        slope = (self._log_noise * (s * signal * self._own.t - s2 * signal**2)).sum()
        curvature = (self._log_noise**2 * s2 * signal**2).sum()
        slope, curvature = self._comm.allreduce(np.array([slope, curvature]))
        step = slope / max(curvature, 1e-300)
        self._take_filtered(float(np.clip(self.filter_ + np.clip(step, -0.2, 0.2), *_FILTER)))

    def _spread_contrasts(self, total: float, contrast: float, squares: float) -> float:
        """Set the variance of contrasts relative to their mean, and return the mean: the maximum, found in turns, of
        total·ln N(s; mean, variance·mean²) and the prior's logarithm. contrast, squares : sums of E[s] and E[s²]."""
        strength, typical = _CONTRAST_PRIOR
        first, second = contrast / max(total, _NOBODY), squares / max(total, _NOBODY)
        mean, variance = first, self._contrast_variance
        if not (total > _NOBODY and first > 0):  # nobody is good, or what are have no contrast: nothing is learned
            return 1.0
        for _ in range(_TURNS):
            mean = 2 * second / (first + np.sqrt(first**2 + 4 * variance * second))
            variance = (total * (second / mean**2 - 2 * first / mean + 1) + strength * typical) / (total + strength)
            variance = float(np.clip(variance, *_CONTRAST_VARIANCE))
        self._contrast_variance = variance
        return mean

    def _pinned(self, shares: np.ndarray) -> np.ndarray:
        """Shares that sum to one, hold the good one where the user gave it, and are never zero but for slight errors."""
        least = np.where(np.arange(len(shares)) < SLIGHT, 1e-4, 0.0)
        shares = np.maximum(self._with_given(shares), least)  # after the others were brought to their sum: their scale is changed there
        return self._with_given(shares)

    def _with_given(self, shares: np.ndarray) -> np.ndarray:
        """The share of the good as the user gave it, if so, the others in proportion."""
        if self.keep is None:
            return shares / shares.sum()
        good = min(max(self.keep, 1e-4), 1 - 2e-4)
        return np.concatenate([[good], shares[1:] * (1 - good) / max(shares[1:].sum(), _NOBODY)])

    # results

    def _conclude(self) -> None:
        with np.errstate(divide="ignore"):
            bad = np.log(self.shares_[1:] / self.shares_[1:].sum())
        self._log_bad = np.logaddexp.reduce(self._likelihood[:, 1:] + bad, axis=1)
        self.score_ = self._likelihood[:, GOOD] - self._log_bad
        self.keep_ = float(self.shares_[GOOD])
        self.contrast_cv_ = float(np.sqrt(self._contrast_variance))
        apart = (self.gain_ - self._wrong_mean) * self._own.a
        apart = self._over_groups(_sums(apart, apart))
        total = self._comm.allreduce(np.array([(self.posterior_ * apart).sum(), self.posterior_.sum()]))
        self.separation_ = float(np.sqrt(total[0] / max(total[1], 1e-300)))
        self.keep_interval_ = self._interval()
        self.separable_ = self.separation_ >= SMALLEST_SEPARATION

    def _interval(self) -> tuple[float, float]:
        """Shares of the good whose likelihood is within 1.92 of the best (χ² of one degree, 95 %)."""
        grid = np.unique(np.concatenate([np.linspace(0.001, 0.999, 200), self.keep_ + np.linspace(-0.03, 0.03, 121)]))
        grid = np.concatenate([[0.0], grid[(grid > 0) & (grid < 1)], [1.0]])
        # ln(g·exp(score) + 1 − g) but for a constant; of who is surely good or bad, ln g or ln(1 − g)
        sure = np.abs(self.score_) > _SURE
        ratio, once = np.exp(self.score_[~sure]), self._once[~sure]
        with np.errstate(divide="ignore", invalid="ignore"):  # none and all are shares, too
            both = [self._once[sure & side].sum() for side in (self.score_ > 0, self.score_ < 0)]
            likelihood = sum(count * np.log(share) if count else 0 * grid for count, share in zip(both, (grid, 1 - grid)))
        for start in range(0, len(ratio), 4096):  # the table of particles × shares stays small
            part = slice(start, start + 4096)
            likelihood += once[part] @ np.log1p((ratio[part, None] - 1) * grid)
        self._comm.allreduce(likelihood)
        inside = grid[likelihood >= likelihood.max() - 1.92]
        return float(inside.min()), float(inside.max())

    def _sum(self, parts: list[np.ndarray]) -> np.ndarray:
        return self._comm.allreduce(np.ascontiguousarray(np.stack(parts)))


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ x·y over bands, (m, bands) each → (m,); much faster than a sum along a short axis."""
    return np.einsum("mb,mb->m", x, y)
