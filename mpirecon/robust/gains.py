"""Gains: by how much the images of a set differ in scale, signal and noise together.

The noise outside the particle tells an image's scale, if signal and noise were scaled alike, as by counts that are electrons here
and grey values there. Where only the noise differs, as with the thickness of the ice, dividing by it would spoil the signal's
scale instead. What tells the two apart is the power that the middle of an image has more than its border: it grows with the
square of a gain, and not with the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: least spread of the logarithm of a scale, that of its estimate in a small box
_LEAST_SPREAD = 0.03

#: images whose scale lies so many spreads from the typical one are not of the set's own distribution: from where, to where
_ODD = 4.0, 8.0

#: spreads between which a set comes to be believed to differ in gain, where the particle's power cannot tell
_SPREAD = 0.3, 0.6

#: shares of the differences in noise that may be gain, and how sure the spread makes of one before the images are asked
_EXPONENTS, _UNSURE = np.linspace(0, 1, 41), 0.3

#: spreads of the middles' power between which images of next to no noise are believed to differ in gain: views differ by less
_SPREAD_OF_VIEWS = 0.25, 0.5

#: shares found below and above which none and all of the differences are taken for gain
_NONE, _ALL = 0.3, 0.7

#: share of the variance of log σ that is not the error of σ: below, no differences are seen, above, all
_UNSEEN, _SEEN = 0.3, 0.8

#: the middle's power, over the noise's, between which images come to tell their scale by it: next to no noise is left to do so
_CLEAN = 30.0, 300.0

#: power of a middle beyond so many deviations counts as that far
_FAR = 4.0


@dataclass(frozen=True)
class Gains:
    """How images of a set are brought to one scale: each is multiplied by (typical / scale)^exponent.

    typical : median of the noise outside the particle · middle : median power of the middle of an image · spread : of the
    logarithm of a scale, a robust standard deviation · exponent : 0 … 1, share of the differences that is gain · by_middle :
    0 … 1, how far the middle's power tells an image's scale rather than the noise outside. Images farther from the typical noise than the set's own
    spread can explain, their middles too, are brought to it entirely.
    """

    typical: float
    middle: float
    spread: float
    exponent: float
    by_middle: float

    @classmethod
    def of(cls, sigma: np.ndarray, halves: np.ndarray, middle: np.ndarray) -> Gains | None:
        """From some images: sigma (m,), halves (m, 2) and middle (m,) as Background has them; None where most have no noise."""
        usable = np.isfinite(sigma) & (sigma > 0) & (halves > 0).all(axis=1) & np.isfinite(middle) & (middle > 0)
        if usable.sum() < max(2, len(sigma) / 2):
            return None
        sigma, halves, middle = sigma[usable], halves[usable], middle[usable]
        typical, of_middle = float(np.median(sigma)), float(np.median(middle))
        log_halves = np.log(halves) / 2 - np.log(typical)
        spread = _spread(np.log(sigma))
        found = _share_of_gain(log_halves, middle[:, None] / halves - 1, spread)
        exponent = np.clip((found - _NONE) / (_ALL - _NONE), 0, 1) * _seen(log_halves)
        clean = _between(np.log(of_middle / typical**2), *np.log(_CLEAN))
        exponent += clean * (_between(np.log(middle).std() / 2, *_SPREAD_OF_VIEWS) - exponent)
        least = max(_LEAST_SPREAD, min(spread, _spread(np.log(middle) / 2)))
        by_middle = _weight_of_middle(log_halves, np.log(middle) / 2)
        return cls(typical, of_middle, least, float(exponent), float(max(clean, by_middle)))

    def asks_middle(self, sigma: np.ndarray) -> np.ndarray:
        """(m,) bool, images of whose middle the power must be known: `factor` needs no other."""
        return (np.abs(self._log(sigma)) > _ODD[0] * self.spread) | (self.exponent > 0)

    def factor(self, sigma: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """What each image is multiplied by, (m,) float64."""
        noise, power = self._log(sigma), np.log(np.where(middle > 0, middle, self.middle) / self.middle) / 2
        agreed = np.where(noise * power > 0, np.minimum(np.abs(noise), np.abs(power)), 0.0)
        odd = np.where(self.asks_middle(sigma), _between(agreed / self.spread, *_ODD), 0.0)
        scale = noise + self.by_middle * np.where(self.asks_middle(sigma), power - noise, 0.0)
        return np.exp(-(self.exponent + (1 - self.exponent) * odd) * scale)

    def _log(self, sigma: np.ndarray) -> np.ndarray:
        return np.log(np.where(np.isfinite(sigma) & (sigma > 0), sigma, self.typical) / self.typical)


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _seen(log_halves: np.ndarray) -> float:
    """How far differences in noise are more than errors of their estimate, 0 … 1: what the halves of the pixels have in common."""
    both, apart = _spread(log_halves.sum(axis=1)), _spread(log_halves[:, 0] - log_halves[:, 1])
    share = 1 - (apart / both) ** 2 if both > 0 else 0.0
    return float(np.clip((share - _UNSEEN) / (_SEEN - _UNSEEN), 0, 1))


def _weight_of_middle(log_halves: np.ndarray, log_middle: np.ndarray) -> float:
    """The weight of two estimates' mean that has the least variance: of the noise outside, by how its halves differ, and of the middle,
    by how it differs from that, whose power also depends on the view."""
    outside = (_spread(log_halves[:, 0] - log_halves[:, 1]) / 2) ** 2
    middle = max(_spread(log_middle - log_halves.mean(axis=1)) ** 2 - outside, 1e-12)
    return outside / (outside + middle)


def _share_of_gain(log_halves: np.ndarray, excess: np.ndarray, spread: float) -> float:
    """The exponent's mean over its probability, given the excess of power in the middle, in units of the noise.

    Were all the differences gain, that excess would be the same in all images; were none, it would fall with the noise's
    variance. Noise and excess are taken from different halves of the pixels, so that an error of one is not seen in the other.
    """
    prior = _between(spread, *_SPREAD)
    total = -np.square((_EXPONENTS - prior) / _UNSURE) / 2
    for one, other in ((0, 1), (1, 0)):
        centre = np.median(excess[:, other])
        deviation = max(_spread(excess[:, other]), 1e-6)
        seen = np.clip(excess[:, other], centre - _FAR * deviation, centre + _FAR * deviation)
        falls = np.exp(-2 * np.outer(1 - _EXPONENTS, np.clip(log_halves[:, one], -5, 5)))
        height = np.maximum((falls * seen).sum(axis=1) / np.square(falls).sum(axis=1), 0)
        # the two halves see the same middle: together they count once
        total -= np.square((seen - height[:, None] * falls) / deviation).sum(axis=1) / 4
    weight = np.exp(total - total.max())
    return float((weight * _EXPONENTS).sum() / weight.sum())


def _between(x, none: float, all_: float):
    """0 below `none`, 1 above `all_`, smooth between."""
    x = np.clip((x - none) / (all_ - none), 0, 1)
    return x * x * (3 - 2 * x)
