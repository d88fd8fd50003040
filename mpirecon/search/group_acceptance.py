"""The probability that what is found of groups of images is right, of which there may be few.

What is right and what is wrong is measured: kept groups whose own turn came back when they were searched as if it was
not known, those of which it did not, and groups in decoys, where no turn is right. The ratio of the two is a logistic
function of the log odds, and which share of the groups in question is right follows from their own odds, by EM. Theory
says an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.search.acceptance import logistic

#: groups that are right and groups that are wrong, without which nothing is accepted
FEWEST = 8

#: standard deviations of offset and slope of the log ratio before there are data, about 0 and 1
_SPREAD = (10.0, 0.5)

_STEPS = 100


@dataclass(frozen=True)
class GroupAcceptance:
    """offset, slope : of the log likelihood ratio of right to wrong, by log odds · share : of the groups in question
    that are right; 0 where too little was measured"""

    offset: float
    slope: float
    share: float

    def __call__(self, odds: np.ndarray) -> np.ndarray:
        """Probability that what was found is right, (m,)."""
        prior = np.log(max(self.share, 1e-30)) - np.log1p(-min(self.share, 1 - 1e-9))
        return logistic(np.minimum(self.offset + self.slope * odds + prior, odds))

    @property
    def laws(self) -> dict[str, tuple[float, float]]:
        """As Acceptance has them."""
        return {"groups": (self.offset, self.slope)}

    @classmethod
    def of(cls, odds: np.ndarray, decoys: np.ndarray, known: np.ndarray, back: np.ndarray) -> GroupAcceptance:
        """odds : (m,) of the groups in question · decoys : (d,) · known, back : (k,) of groups with a known turn,
        whether it came back"""
        from scipy.optimize import minimize  # takes long to load

        right, wrong = known[back], np.concatenate([known[~back], decoys])
        if min(len(right), len(wrong)) < FEWEST:
            return cls(0.0, 1.0, 0.0)

        def loss(law):
            lines = (law[0] + law[1] * x for x in (right, wrong))
            # each kind counts as one half: what is fitted is the ratio of their densities
            seen = [
                np.log(logistic(line) if sign > 0 else logistic(-line)).mean() for line, sign in zip(lines, (1, -1))
            ]
            return (
                -min(len(right), len(wrong)) * sum(seen)
                + (law[0] / _SPREAD[0]) ** 2 / 2
                + ((law[1] - 1) / _SPREAD[1]) ** 2 / 2
            )

        offset, slope = minimize(loss, (0.0, 0.8), bounds=((None, None), (0.0, 1.0)), method="L-BFGS-B").x
        share = 0.5
        for _ in range(_STEPS):
            share = float((logistic(offset + slope * odds + np.log(share / (1 - share))).sum() + 1) / (len(odds) + 2))
        return cls(float(offset), float(slope), share)
