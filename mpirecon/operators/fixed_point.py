"""Sums whose bits do not depend on their order: whole numbers of a unit that all ranks share, for --deterministic.

Floats round after every addition, so that their sum depends on which rank or thread adds when. Integers do not round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: bits of the largest term: more than float32 holds, so that small terms too are as exact as theirs
_BITS = 40

#: bits of a sum, one less than an int64's and its sign's
_SUM_BITS = 62

#: a grid point takes less than this many times the largest term from one image, Friedel mates and margins included
_PER_IMAGE = 32


@dataclass(frozen=True)
class FixedPoint:
    """Units of an accumulator's numerators and of its weights, as the powers of two that make whole numbers of them."""

    numerator: float
    weight: float

    @classmethod
    def of(cls, largest_numerator: float, largest_weight: float, images: int) -> FixedPoint:
        """Units for so many images whose samples are at most so large, on all ranks together."""
        bits = min(_BITS, _SUM_BITS - math.ceil(math.log2(_PER_IMAGE * max(images, 1))))
        return cls(*(2.0 ** (bits - _exponent(largest)) for largest in (largest_numerator, largest_weight)))

    def scale(self, numerator: np.ndarray, weight: np.ndarray) -> None:
        """Bring samples (m, s) into these units, in place; exact."""
        numerator *= np.float32(self.numerator)
        weight *= np.float32(self.weight)

    def floats(self, summed: np.ndarray, first: int) -> np.ndarray:
        """A flat int64 piece of an accumulator of (re, im, weight), from element `first` on, as float32."""
        out = np.empty(summed.shape, np.float32)
        for k in range(3):
            unit = self.weight if (first + k) % 3 == 2 else self.numerator
            out[k::3] = summed[k::3] * (1 / unit)
        return out


def sum_unit(largest: float, terms: int) -> float:
    """The power of two by which `terms` float64 of at most `largest` are multiplied,
    to be rounded and added as int64."""
    return 2.0 ** (_SUM_BITS - 1 - _exponent(largest) - math.ceil(math.log2(max(terms, 1))))


def _exponent(largest: float) -> int:
    return math.frexp(largest)[1] if largest > 0 else 0
