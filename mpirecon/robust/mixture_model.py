"""A calibrated mixture of correct poses, wrong poses and junk: which particles are what, given its parameters.

A particle's evidence is t_b = yp_b / (σ √pp_b) in each band b of frequencies: pure noise makes it a standard normal
number. Three kinds of particles differ in its mean and variance, with a_b = √pp_b / σ the expected signal:

* correct, of contrast s:     t ~ N(s·h·a, 1), s ~ N(1, τ²) between particles
* wrong:                      t ~ N(r·a, 1 + v·a²), r and v measured by scoring particles at random orientations
* junk (no particle):         t ~ N(0, 1)
* with a small error, where nearby poses were searched: as correct, but at the best pose nearby, times an integral over
  the errors of a scale (mpirecon/robust/nearby.py); a few scales. Errors too large for the search to mend show at the
  own pose: t ~ N(s·h·c·a, 1 + (1 − c²)·v·a²), where an error of an angle leaves the fraction c of the amplitude; a few
  angles

The gain h_b says how much of the map's amplitude the data confirm. Only the shares, h and τ are fitted (EM); what a
wrong pose looks like is measured, so that a set without wrong poses is not split in two, as a free mixture would.

Images that were filtered each in its own way (dose-weighted tilt images) differ in the shape of their noise spectrum,
and what is left of their signal differs along with it: where an image's noise power is v times the typical, its signal
is taken to be v^γ times the map's, γ fitted. γ = 0 is noise of another shape and signal like anybody's, γ = 1/2 a
filter, and γ = 1 a filter by what radiation left of the signal (Grant & Grigorieff 2015, eLife 4:e06980).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.parallel.comm import Communicator
from mpirecon.robust.evidence import Evidence, SmallErrors

#: kinds of particles; SMALL and beyond are small errors
CORRECT, WRONG, JUNK, SMALL = 0, 1, 2, 3

#: what is known of contrasts beforehand: as much as so many particles of this variance (15 %) would show. Without it
#: the spread drifts for hundreds of steps along a ridge: wider, it takes wrong poses for correct ones
CONTRAST_PRIOR = (5.0, 0.0225)

#: least and largest γ, and those that EM may start from
FILTER = (0.0, 1.0)
_FILTERS = np.linspace(*FILTER, 11)

#: sums of probabilities that are negligible
NEGLIGIBLE = 1e-200

#: particles that a kind of small errors must explain better than anything else does, else it is given up: the prior
#: of Figueiredo & Jain (2002, IEEE Trans. Pattern Anal. 24:381), by which needless components vanish
FEWEST = 3.0


class MixtureModel:
    """The mixture's parameters, set by ``PoseMixture.fit``, and what they make of the evidence (the E step)."""

    def _hold(
        self, comm: Communicator, own: Evidence, random: Evidence, random_rows: np.ndarray, groups: np.ndarray | None,
        small: SmallErrors | None, log_noise: np.ndarray | None,
    ) -> None:
        """The evidence that is to be explained; parameters are those of ``PoseMixture.fit``. Collective."""
        self._comm, self._rows, self._groups, self._log_noise = comm, random_rows, groups, log_noise
        self._whole = own, random, small
        self._require_numbers(own, random, small, log_noise)
        self._take_filtered(0.0 if log_noise is None else self._likeliest_filter())
        if groups is not None:
            self._group_count = 1 + comm.allreduce_scalar(int(groups.max(initial=-1)), "max")
        self._once = 1 / self._over_groups(np.ones(len(own.t)))  # each group counts once, whoever holds its rows
        self._count = comm.allreduce_scalar(float(self._once.sum()))
        self._require_evidence()

    def forget_evidence(self) -> None:
        """Let go of what the mixture was fitted to, a kilobyte for each particle; its results stay."""
        self._own = self._random = self._small_errors = self._whole = self._log_noise = None
        self._relative = self._largest = self._responsibility = self.likelihood_ = self._once = self._log_bad = None
        self.small_contrast_ = self.small_contrast2_ = None  # attenuation holds what was made of them

    def _take_filtered(self, exponent: float) -> None:
        """Expect of each image the signal that its filter leaves, v^exponent of the map's."""
        self.filter_ = exponent
        own, random, small = self._whole
        best = None if small is None else small.best
        if self._log_noise is not None:
            left = self._left(exponent)
            own, random, best = own.filtered(left), random.filtered(left[self._rows]), best and best.filtered(left)
        self._own, self._random = own.limited(), random.limited()
        self._small_errors = small and replace(small, best=best.limited())

    def _left(self, exponent: float) -> np.ndarray:
        return np.exp(np.minimum(exponent * self._log_noise, 50.0))

    def _likeliest_filter(self) -> float:
        """The γ with which the map explains most of all particles' evidence, by least squares: from one far off, all
        that have much to say would be thought wrong before it could be fitted."""
        t, explained = self._whole[0].t, []
        for exponent in _FILTERS:
            a = self._whole[0].a * self._left(exponent)
            along, power = self._sum([band_sums(t.T, a.T), band_sums(a.T, a.T)])
            explained.append((along**2 / np.maximum(power, 1e-300)).sum())
        return float(_FILTERS[np.argmax(explained)])

    def _require_numbers(self, own: Evidence, random: Evidence, small: SmallErrors | None,
                         log_noise: np.ndarray | None) -> None:
        more = [] if small is None else [small.best.t, small.best.a, small.log_integral, small.left]
        values = [own.t, own.a, random.t, random.a, *more, *([] if log_noise is None else [log_noise])]
        if self._comm.allreduce_scalar(int(not all(np.isfinite(some).all() for some in values))):
            raise UserError("the mixture cannot be fitted: the evidence of some particle is not a finite number")

    def _require_evidence(self) -> None:
        t, a = self._own.t, self._own.a
        if self._count == 0 or self._comm.allreduce_scalar(float(np.square(a).sum())) == 0:
            raise UserError("the mixture has nothing to fit: no particle has any signal to be compared with")
        highest = self._comm.allreduce(np.stack([t, -t]).max(axis=1, initial=-np.inf), "max")
        if self._count > 1 and (highest[0] == -highest[1]).all():
            raise UserError("the mixture cannot be fitted: the evidence of all particles is the same")

    def _evaluate(self) -> None:
        self.measure_wrong()
        self._likelihoods()

    def _likelihoods(self) -> None:
        wrong = self._over_groups(self._log_wrong())
        good, self.contrast_, self.contrast2_ = self._log_correct(self._own)
        self.likelihood_ = np.column_stack([good, wrong, np.zeros(len(wrong)), *self._log_small_errors()])
        self._compare()
        self._attribute()
        explained = self._largest + np.log(self._relative @ self.shares_)
        self._total = self._comm.allreduce_scalar(float(self._once @ explained)) + self._log_prior()

    def _log_prior(self) -> float:
        """Of the spread of contrasts, and against kinds of small errors."""
        strength, typical = CONTRAST_PRIOR
        spread = -strength / 2 * (np.log(self.contrast_variance_) + typical / self.contrast_variance_)
        small = self.shares_[SMALL:]
        return spread - FEWEST * np.log(small[small > 0]).sum()

    def _compare(self) -> None:
        """Likelihoods relative to the largest; kinds that were given up explain none."""
        kinds = np.flatnonzero(self.shares_)
        alive = self.likelihood_[:, kinds]
        self._largest = alive.max(axis=1)
        self._relative = np.zeros_like(self.likelihood_)
        self._relative[:, kinds] = np.exp(alive - self._largest[:, None])

    def _attribute(self, more: np.ndarray | None = None) -> None:
        """Probabilities of each kind, from the likelihoods and the shares. more : (m,), by how much the logarithmic
        odds of being right are larger than the shares say."""
        joint = self._relative * self.shares_
        if more is not None:
            joint[:, [WRONG, JUNK]] *= np.exp(-more)[:, None]
        self._responsibility = joint / (joint @ np.ones(joint.shape[1]))[:, None]
        self.posterior_ = self._responsibility[:, CORRECT]
        self.small_ = self._responsibility[:, SMALL:]

    def _over_groups(self, values: np.ndarray) -> np.ndarray:
        """Sums of (m, …) values over the rows of each group, given back to every row; the values without groups."""
        if self._groups is None:
            return values
        total = np.zeros((self._group_count, *values.shape[1:]))
        np.add.at(total, self._groups, values)
        return self._comm.allreduce(total)[self._groups]

    def _log_correct(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log likelihood ratio to junk, the contrast integrated out (a Gaussian prior times a Gaussian likelihood); and
        the expected contrast and its square.

        Rows of a group show one particle: they share one contrast.
        """
        signal = evidence.a * self.gain_
        return self._over_contrast(band_sums(signal, signal), band_sums(signal, evidence.t))

    def _over_contrast(self, v: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """∫ N(s; 1, τ²) exp(s·u − s²·v/2) ds: its logarithm, and the expected s and s²."""
        v, u = self._over_groups(np.stack([v, u], axis=1)).T
        prior = 1 / self.contrast_variance_
        precision = v + prior
        contrast = (u + prior) / precision
        log = (contrast**2 * precision - prior + np.log(prior / precision)) / 2
        return log, contrast, contrast**2 + 1 / precision

    def _log_small_errors(self) -> np.ndarray:
        """Log likelihood ratio of small errors to junk, (kinds, m), −∞ of the kinds that were given up; keeps their
        contrasts."""
        if self._small_errors is None:
            return np.zeros((0, len(self._own.t)))
        nothing = np.full(len(self._own.t), -np.inf), *np.ones((2, len(self._own.t)))
        alive = self.shares_[SMALL:] > 0
        scales = self._small_errors.log_integral.shape[1]
        best, contrast, contrast2 = self._log_correct(self._small_errors.best) if alive[:scales].any() else nothing
        found = [(best + log, contrast, contrast2) for log in self._over_groups(self._small_errors.log_integral).T]
        found = [some if has else nothing for some, has in zip(found, alive)]
        found += [self._log_left(share) if has else nothing
                  for share, has in zip(self._small_errors.left, alive[scales:])]
        log, self.small_contrast_, self.small_contrast2_ = (np.stack(values) for values in zip(*found))
        return log

    def _log_left(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As _log_good, where the fraction `left` (bands,) of the amplitude is right and the rest as for a wrong
        pose."""
        t, a = self._own.t, self._own.a
        variance = 1 + (1 - left**2) * self.wrong_variance_ * a**2
        signal = a * self.gain_ * left
        weighted = signal / variance
        log, contrast, contrast2 = self._over_contrast(band_sums(signal, weighted), band_sums(t, weighted))
        by_variance = (band_sums(t, t * (1 - 1 / variance)) - np.log(variance.prod(axis=1))) / 2
        return log + self._over_groups(by_variance), contrast, contrast2

    def _log_wrong(self) -> np.ndarray:
        t, a = self._own.t, self._own.a
        variance = 1 + self.wrong_variance_ * a**2
        beside = t - self.wrong_mean_ * a
        return (band_sums(t, t) - band_sums(beside, beside / variance) - np.log(variance.prod(axis=1))) / 2

    def measure_wrong(self) -> None:
        """r and v from random orientations of the particles that are thought correct; as they were where none is."""
        t, a, w = self._random.t, self._random.a, self.posterior_[self._rows]
        total = self._sum([w @ (t * a), w @ a**2])
        self.wrong_mean_ = np.divide(*total, out=self.wrong_mean_.copy(), where=total[1] > NEGLIGIBLE)
        excess = (t - self.wrong_mean_ * a) ** 2 - 1
        total = self._sum([w @ (excess * a**2), w @ a**4])
        found = np.divide(*total, out=self.wrong_variance_.copy(), where=total[1] > NEGLIGIBLE)
        self.wrong_variance_ = np.maximum(found, 0)

    def _sum(self, parts: list[np.ndarray]) -> np.ndarray:
        return self._comm.allreduce(np.ascontiguousarray(np.stack(parts)))


def band_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ x·y over bands, (m, bands) each → (m,); much faster than a sum along a short axis."""
    return np.einsum("mb,mb->m", x, y)
