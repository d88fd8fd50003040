"""Gains: by how much the images of a set differ in scale, signal and noise together.

The noise outside the particle measures an image's scale, if signal and noise were scaled alike, as by counts that are
electrons here and grey values there. Where only the noise differs, as with the thickness of the ice, dividing by it
would spoil the signal's scale instead. What distinguishes the two is the power that the middle of an image has more
than its border: it grows with the square of a gain, and not with the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: least spread of the logarithm of a scale, that of its estimate in a small box
_LEAST_SPREAD = 0.03

#: images whose scale lies so many spreads from the typical one are not of the set's own distribution:
#: from where, to where
_ODD = 4.0, 8.0

#: spreads between which a set comes to be taken to differ in gain, where the particle's power cannot decide it
_SPREAD = 0.3, 0.6

#: fractions of the differences in noise that may be gain,
#: and how sure the spread makes of one before the images' power is used
_EXPONENTS, _UNSURE = np.linspace(0, 1, 41), 0.3

#: the middle's power, over the noise's, between which views come to differ by more than noise does; by how much there,
#: and by how much more where there is next to no noise
_BRIGHT, _VIEWS = (3.0, 30.0), (0.12, 0.15)

#: spreads of the middles' power between which images of next to no noise are taken to differ in gain:
#: views differ by less
_SPREAD_OF_VIEWS = 0.25, 0.5

#: spreads of the noise between which images that were multiplied by CTFs and weights come to differ by more than these
_SPREAD_OF_WEIGHTS = 0.6, 1.0

#: shares found below and above which none and all of the differences are taken for gain; and where particles are so
#: bright that what they scatter to the border is part of its noise
_DIFFER, _DIFFER_BRIGHT = np.array([0.3, 0.7]), np.array([0.6, 0.9])

#: fraction of the variance of log σ that is not the error of σ: below, no differences are seen, above, all
_UNSEEN, _SEEN = 0.3, 0.8

#: the middle's power, over the noise's, between which it comes to measure an image's scale:
#: next to no noise is left to do so
_CLEAN = 30.0, 300.0

#: the middle's power, over the noise's, between which a bright particle's own light at the border comes to matter
_OUTWEIGHS = 3.0, 15.0

#: deviations at the border between which a plane that a bright particle may have made comes to be taken for background
_OF_PARTICLE = 0.5, 1.5

#: power of a middle beyond so many deviations counts as that far
_FAR = 4.0


@dataclass(frozen=True)
class Gains:
    """How images of a set are brought to one scale: each is multiplied by (typical / scale)^exponent.

    typical : median of the noise outside the particle
    middle : median power of the middle of an image
    spread : of the logarithm of a scale, a robust standard deviation
    exponent : 0 … 1, fraction of the differences that is gain
    by_middle : 0 … 1, how far the middle's power measures an image's scale rather than the noise outside. Images
        farther from the typical noise than the set's own spread can explain, their middles too, are brought to it
        entirely.
    """

    typical: float
    middle: float
    spread: float
    exponent: float
    by_middle: float
    premultiplied: bool = False

    @classmethod
    def of(cls, sigma: np.ndarray, halves: np.ndarray, middle: np.ndarray, premultiplied: bool = False) -> Gains | None:
        """From some images: sigma (m,), halves (m, 2) and middle (m,) as Background has them;
        None where most have no noise.

        premultiplied : the images were multiplied by their CTF, and maybe by weights of exposure and tilt: that scales
            signal and noise together too, and is what they should count by
        """
        usable = np.isfinite(sigma) & (sigma > 0) & (halves > 0).all(axis=1) & np.isfinite(middle) & (middle > 0)
        if usable.sum() < max(2, len(sigma) / 2):
            return None
        sigma, halves, middle = sigma[usable], halves[usable], middle[usable]
        typical, of_middle = float(np.median(sigma)), float(np.median(middle))
        log_halves = np.log(halves) / 2 - np.log(typical)
        spread = _spread(np.log(sigma))
        found = _share_of_gain(log_halves, np.log(middle) - 2 * np.log(typical), spread)
        clean, bright = (_between(np.log(of_middle / typical**2), *np.log(bounds)) for bounds in (_CLEAN, _BRIGHT))
        none, all_ = _DIFFER + bright * (_DIFFER_BRIGHT - _DIFFER)
        exponent = np.clip((found - none) / (all_ - none), 0, 1) * _seen(log_halves)
        exponent += clean * (_between(np.log(middle).std() / 2, *_SPREAD_OF_VIEWS) - exponent)
        if premultiplied:
            exponent *= _between(spread, *_SPREAD_OF_WEIGHTS)
        least = max(_LEAST_SPREAD + bright * _VIEWS[0] + clean * _VIEWS[1], min(spread, _spread(np.log(middle) / 2)))
        by_middle = _weight_of_middle(log_halves, np.log(middle) / 2)
        return cls(typical, of_middle, float(least), float(exponent), float(max(clean, by_middle)), premultiplied)

    def of_background(self, size: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Fraction of each image's plane that is background, (m,); size : (m,), how far it rises above zero.

        All of it where images are noisy. Where the particle outweighs the noise, or a CTF has spread it, what it
        scatters to the border looks like a small plane too: only planes that are large beside the deviation there are
        surely none of its own.
        """
        unsure = 1.0 if self.premultiplied else _between(np.log(self.middle / self.typical**2), *np.log(_OUTWEIGHS))
        return 1 - unsure * (1 - _between(size / np.where(sigma > 0, sigma, self.typical), *_OF_PARTICLE))

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

    def factor_by_noise(self, sigma: np.ndarray) -> np.ndarray:
        """The same, were every middle as much brighter or fainter as the noise."""
        return self.factor(sigma, self.middle * np.exp(2 * self._log(sigma)))

    def _log(self, sigma: np.ndarray) -> np.ndarray:
        return np.log(np.where(np.isfinite(sigma) & (sigma > 0), sigma, self.typical) / self.typical)


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _seen(log_halves: np.ndarray) -> float:
    """How far differences in noise are more than errors of their estimate, 0 … 1:
    what the halves of the pixels have in common."""
    both, apart = _spread(log_halves.sum(axis=1)), _spread(log_halves[:, 0] - log_halves[:, 1])
    share = 1 - (apart / both) ** 2 if both > 0 else 0.0
    return float(np.clip((share - _UNSEEN) / (_SEEN - _UNSEEN), 0, 1))


def _weight_of_middle(log_halves: np.ndarray, log_middle: np.ndarray) -> float:
    """The weight of two estimates' mean that has the least variance: of the noise outside, by how its halves differ,
    and of the middle, by how it differs from that, whose power also depends on the view."""
    outside = (_spread(log_halves[:, 0] - log_halves[:, 1]) / 2) ** 2
    middle = max(_spread(log_middle - log_halves.mean(axis=1)) ** 2 - outside, 1e-12)
    return outside / (outside + middle)


def _share_of_gain(log_halves: np.ndarray, log_middle: np.ndarray, spread: float) -> float:
    """The exponent's mean over its probability, given the power of the middles.

    Over that of the noise they have 1 + S·σ^(−2(1 − exponent)): were all the differences gain, the particle's share S
    would be the same in all images; were none, it would fall with the noise's variance. The noise that it is measured
    by and the noise that it falls with are of different halves of the pixels,
    so that an error of one is not seen in the other.
    """
    prior = _between(spread, *_SPREAD)
    total = -np.square((_EXPONENTS - prior) / _UNSURE) / 2
    for one, other in ((0, 1), (1, 0)):
        seen = log_middle - 2 * log_halves[:, other]
        falls = np.exp(-2 * np.outer(1 - _EXPONENTS, np.clip(log_halves[:, one], -7, 7)))
        share = np.maximum(np.median(np.expm1(np.clip(seen, -20, 20)) / falls, axis=1), 0)
        left = seen - np.log1p(share[:, None] * falls)
        deviation = max(1.4826 * float(np.median(np.abs(left), axis=1).min()), 1e-6)
        # the two halves see the same middle: together they count once
        total -= np.square(np.clip(left / deviation, -_FAR, _FAR)).sum(axis=1) / 4
    weight = np.exp(total - total.max())
    return float((weight * _EXPONENTS).sum() / weight.sum())


def _between(x, none: float, all_: float):
    """0 below `none`, 1 above `all_`, smooth between."""
    x = np.clip((x - none) / (all_ - none), 0, 1)
    return x * x * (3 - 2 * x)
