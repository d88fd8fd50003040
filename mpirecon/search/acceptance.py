"""The probability that what a search found is right: the evidence of its peaks against everything else that the image may be.

Each peak's evidence is the likelihood ratio to no signal, integrated over poses (Laplace's method) and over the
amplitude, whose distribution is that of well-posed particles. All poses that are in no peak, and no particle at all,
have an evidence of 1 on average, which is what any image of noise alone has. The odds of the best peak are its evidence
over that of all the rest.

That holds for noise that is white once its spectrum is divided out, and for a map without errors. What is more in real
images (neighbours, carbon, a structure of its own) is measured in two ways:

- decoys: the same images searched in maps of another structure with the same power in each shell, in the same mask,
  where no pose is right (target-decoy competition; Elias & Gygi 2007, Nature Methods 4, 207, on mass spectra);
- control: particles whose pose is known, for the run keeps them, searched as if it was not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.search.pose_search import Peaks

#: part of the errors that tells how wide they are: few are lapses
_MOST = 0.68

#: steps of EM
_STEPS = 50

#: log odds beyond which nothing is distinguished
_CERTAIN = 30.0

#: decoys or control particles that say anything
FEWEST = 30

#: fraction of control particles whose given pose is wrong after all
_LAPSES = 0.01

#: standard deviations by which images must stand out among decoys for any of them to be accepted
_SURELY = 4.0

#: (offset, slope) of theory, and standard deviations that it may be off by before there are data
_THEORY = (0.0, 1.0), (5.0, 0.3)

#: the same of what a control shows: errors of the map and of its model make large odds of theory's too large, and what
#: is searched is likelier to be a particle than theory takes it (measured: docs/pose_search.md)
_USUAL = (0.25, 0.65), (0.8, 0.1)


@dataclass(frozen=True)
class Amplitudes:
    """Distribution of yp / pp of well-posed particles: normal, by mean and standard deviation."""

    mean: float
    sigma: float

    @classmethod
    def of(cls, cross: np.ndarray, power: np.ndarray) -> Amplitudes:
        """Of yp and pp, (m,) each, at poses that are right; what noise adds to the spread is taken out."""
        used = power > 0
        cross, power = cross[used], power[used]
        mean = float(cross.sum() / power.sum())
        scatter = power * (cross / power - mean) ** 2 - 1  # 1 is the noise's part
        spread = float(scatter.mean() / power.mean())
        return cls(mean, float(np.sqrt(np.clip(spread, 0.05**2, 0.5**2))))

    def log_ratio(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """log ∫ N(a) exp(a·yp − a²·pp/2) da."""
        precision = power + 1 / self.sigma**2
        pull = cross + self.mean / self.sigma**2
        return pull**2 / (2 * precision) - self.mean**2 / (2 * self.sigma**2) - np.log(self.sigma**2 * precision) / 2

    def best(self, cross: np.ndarray, power: np.ndarray) -> np.ndarray:
        """The most probable amplitude."""
        return (cross + self.mean / self.sigma**2) / (power + 1 / self.sigma**2)

    def moments(self, cross: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The expected amplitude and its square."""
        best = self.best(cross, power)
        return best, best**2 + 1 / (power + 1 / self.sigma**2)


def log_evidence(
    peaks: Peaks, amplitudes: Amplitudes, offset_sigma: float, copies: int, turn_sigma: float = 0.0,
    turned: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(log evidence of each image, share that its first peak has in it), (m,) each; ``by_evidence`` brings the best
    there.

    Parameters
    ----------
    offset_sigma : float
        pixels, of the prior of offsets on each axis; 0: they are known
    copies : int
        order of the point group
    turn_sigma : float
        radians, of the prior of turns from the given pose on each axis; 0: all orientations are alike
    turned : (m, k) float
        radians, of each peak from the given pose
    """
    log = _of_peaks(peaks, amplitudes, offset_sigma, copies, turn_sigma, turned)
    total = np.logaddexp.reduce(log, axis=1)
    share = np.exp(log[:, 0] - np.where(np.isfinite(total), total, 0))
    return total, np.where(np.isfinite(total), share, 0.0)


def by_evidence(
    peaks: Peaks, amplitudes: Amplitudes, offset_sigma: float, copies: int, turn_sigma: float = 0.0,
    turned: np.ndarray | None = None,
) -> np.ndarray:
    """The order of each image's peaks, (m, k), by evidence, the most first: the prior counts beside likelihood."""
    return np.argsort(-_of_peaks(peaks, amplitudes, offset_sigma, copies, turn_sigma, turned), axis=1, kind="stable")


def _of_peaks(peaks, amplitudes, offset_sigma, copies, turn_sigma, turned) -> np.ndarray:
    """The log evidence of each peak, (m, k)."""
    size = 5 if offset_sigma else 3
    curvature = amplitudes.best(peaks.cross, peaks.power)[..., None, None] ** 2 * peaks.curvature[..., :size, :size]
    prior = -np.log(8 * np.pi**2 / copies)
    if turn_sigma:
        curvature = curvature + np.diag([1 / turn_sigma**2] * 3 + [0] * (size - 3))
        prior = -1.5 * np.log(2 * np.pi * turn_sigma**2) - np.square(turned) / (2 * turn_sigma**2)
    if offset_sigma:
        curvature = curvature + np.diag([0, 0, 0, *(1 / offset_sigma**2,) * 2])
        prior = prior - np.log(2 * np.pi * offset_sigma**2) - (peaks.offset**2).sum(axis=-1) / (2 * offset_sigma**2)
    sign, log_volume = np.linalg.slogdet(curvature)
    log = amplitudes.log_ratio(peaks.cross, peaks.power) + prior + size / 2 * np.log(2 * np.pi) - log_volume / 2
    return np.where(peaks.distinct & (sign > 0) & (peaks.cross > 0), log, -np.inf)


def log_odds(evidence: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Of each image's best peak against its other peaks, all other poses and no particle, (m,), from `log_evidence`."""
    with np.errstate(divide="ignore"):
        best = evidence + np.log(share)
    rivals = np.where(share < 1, evidence + np.log1p(-np.minimum(share, 1 - 1e-16)), -np.inf)
    return np.where(share > 0, best - np.logaddexp(0, rivals), -_CERTAIN)


@dataclass(frozen=True)
class Acceptance:
    """Probability of log odds x: the logistic function of the control's line, offset + slope · x, or of the decoys'
    where that is lower, and lower than x.

    laws : (offset, slope) by what they were measured with
    """

    laws: dict[str, tuple[float, float]]

    def __call__(self, odds: np.ndarray) -> np.ndarray:
        lines = {name: offset + slope * odds for name, (offset, slope) in self.laws.items()}
        control, decoys = lines["control"], np.minimum(lines.get("decoys", odds), odds)
        return logistic(np.minimum(control, decoys + np.maximum(control - odds, 0)))

    @classmethod
    def of(
        cls, odds: np.ndarray, decoys: np.ndarray, image: np.ndarray, known: np.ndarray | None = None,
        back: np.ndarray | None = None
    ) -> Acceptance:
        """From log odds; without a control its law is the usual one, and too few decoys say nothing.

        Parameters
        ----------
        odds : (m,)
            of the images in question
        decoys, image : (d,)
            of some of them in decoys, and which of the m they are
        known, back : (k,) float and bool
            of control particles, and whether their own pose came back
        """
        laws = {"control": _USUAL[0]}
        if len(decoys) >= FEWEST:
            laws["decoys"] = _law_of_decoys(odds, decoys, image)
        if known is not None and len(known) >= FEWEST:
            back = back.astype(np.float64)
            laws["control"] = _logistic_law(known, back, np.ones(len(known)), _USUAL, _LAPSES, lowers=False)
        return cls(laws)


def beside_given(found: np.ndarray, given: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Probability of the best of a search, (m,), where the given pose may be right as well.

    An image whose given pose is right looks, elsewhere, like one of nothing: weights of the found pose, the given one
    and neither are as (1 − g)·p, g·(1 − p) and (1 − g)·(1 − p).

    Parameters
    ----------
    found : (m,)
        p, probability that the best of a search is right if the given pose is wrong
    given : (m,)
        g, probability that the given pose is right, without regard to the search
    same : (m,) bool
        the best of the search is the given pose
    """
    elsewhere = (1 - given) * found / np.maximum(1 - given * found, 1e-12)
    return np.where(same, given + (1 - given) * found, elsewhere)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -_CERTAIN, _CERTAIN)))


def _law_of_decoys(odds: np.ndarray, decoys: np.ndarray, image: np.ndarray) -> tuple[float, float]:
    """Images are right, or what is found of them is like what is found of such images in decoys; by EM. No more of them
    are right than stand out, were all the others like decoys: where nothing stands out, right and wrong are one to
    EM."""
    above, everywhere = len(odds) * _share_above(odds, odds), np.ones(len(decoys))

    def stand_out(weight: np.ndarray, scatters: float) -> float:
        """The most that are above what decoys so weighted are, by chance alone with so many standard deviations."""
        chance = len(odds) * _share_above(decoys, odds, weight)
        return float((above - chance + scatters * np.sqrt(above + len(odds) / len(decoys) * chance)).max())

    if stand_out(everywhere, -_SURELY) <= 0:
        return -2 * _CERTAIN, 1.0
    p = np.clip(1 - _share_above(decoys, odds) * len(odds) / above, 0, 1)
    x = np.concatenate([odds, decoys])
    right, law = np.concatenate([np.ones(len(odds)), np.zeros(len(decoys))]), (0.0, 1.0)
    for _ in range(_STEPS):
        wrong = np.maximum(1 - p[image], 1e-9)
        weight = np.concatenate([p, wrong * (1 - p).sum() / wrong.sum()])
        new = _logistic_law(x, right, weight)
        if logistic(new[0] + new[1] * odds).sum() > stand_out(wrong, 1.0):
            new = _lowered(new, odds, max(stand_out(wrong, -1.0), 0.0))
        p = logistic(new[0] + new[1] * odds)
        if max(abs(a - b) for a, b in zip(new, law)) < 1e-3:
            break
        law = new
    return new


def _share_above(values: np.ndarray, limits: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Share of the values, weighted, that are not below each limit."""
    order = np.argsort(values, kind="stable")
    weight = np.ones(len(values)) if weight is None else weight
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    return 1 - below[np.searchsorted(values[order], limits, "left")] / below[-1]


def _lowered(law: tuple[float, float], odds: np.ndarray, most: float) -> tuple[float, float]:
    """A law with an offset so low that probabilities add up to no more than `most`."""
    low, high = law[0] - 2 * _CERTAIN, law[0]
    if logistic(high + law[1] * odds).sum() <= most:
        return law
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if logistic(middle + law[1] * odds).sum() > most else (middle, high)
    return low, law[1]


def _logistic_law(
    x: np.ndarray, right: np.ndarray, weight: np.ndarray, expected: tuple = _THEORY, lapses: float = 0.0,
    lowers: bool = True,
) -> tuple[float, float]:
    """(offset, slope) of a logistic regression.

    expected : what few data leave it near, ((offset, slope), standard deviations) · lapses : fraction of the right
    ones that are taken for wrong whatever their odds · lowers : whether x itself is taken where it is the lesser
    """
    from scipy.optimize import minimize  # takes long to load, and most runs search nothing

    x, (mean, spread) = np.clip(x, -_CERTAIN, _CERTAIN), expected

    def loss(law):
        line = law[0] + law[1] * x
        p = (1 - lapses) * logistic(np.minimum(line, x) if lowers else line)
        seen = weight * (right * np.log(p) + (1 - right) * np.log1p(-p))
        return -seen.sum() + sum(((a - m) / s) ** 2 / 2 for a, m, s in zip(law, mean, spread))

    found = minimize(loss, (-0.1, 0.9), bounds=((None, 0.0 if lowers else None), (0.0, 1.0)), method="L-BFGS-B").x
    return float(found[0]), float(found[1])


def widening(squared: np.ndarray, axes: int) -> float:
    """By how much errors exceed their standard deviations, 1 or more, from the 68 % that are smallest.

    squared : (m,) squared errors over the squared standard deviation of an axis · axes : which the errors have; too few
    errors say nothing
    """
    from scipy.stats import chi2  # takes long to load, and most runs search nothing

    if len(squared) < FEWEST:
        return 1.0
    return float(max(np.sqrt(np.quantile(squared, _MOST) / chi2.ppf(_MOST, axes)), 1.0))


def widths(peaks: Peaks, amplitudes: Amplitudes, moving: bool) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of the best peak's turn, radians (mean of the three axes), and offset, pixels (of the two);
    (m,) each."""
    size = 5 if moving else 3
    amplitude = amplitudes.best(peaks.cross[:, 0], peaks.power[:, 0])
    precision = amplitude[:, None, None] ** 2 * peaks.curvature[:, 0, :size, :size] + 1e-9 * np.eye(size)
    variance = np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2)
    turn = np.sqrt(np.maximum(variance[:, :3], 0).mean(axis=1))
    return turn, np.sqrt(np.maximum(variance[:, 3:], 0).mean(axis=1)) if moving else np.zeros(len(turn))
