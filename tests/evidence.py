"""Evidence drawn from the mixture's own model: what each kind of particle looks like when the model holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.robust.evidence import Evidence, SmallErrors
from mpirecon.robust.mixture_model import CORRECT, JUNK

#: signal in each band of frequencies, relative
SHAPE = np.array([1.0, 0.8, 0.5, 0.3, 0.15, 0.05])

#: mean and variance of a wrong pose's score, per unit of signal and of its square
WRONG_MEAN, WRONG_VARIANCE = 0.08, 0.015


@dataclass
class Drawn:
    """Evidence at the poses (own) and at random ones; kind : (m,) GOOD, WRONG or JUNK · group : (m,) int64."""

    own: Evidence
    random: Evidence
    kind: np.ndarray
    group: np.ndarray

    def __getitem__(self, rows) -> Drawn:
        own, random = (Evidence(e.t[rows], e.a[rows]) for e in (self.own, self.random))
        return Drawn(own, random, self.kind[rows], self.group[rows])


def draw(m, bad, *, junk=0.25, strength=8.0, contrast_cv=0.2, gain=0.8, per_group=1, seed=0) -> Drawn:
    """m particles, a share `bad` of them not well posed, of these a share `junk` no particles.

    strength : typical signal over noise of all bands
    gain : the share of the map's amplitude that the images hold
    per_group : rows that are one particle, of one kind and contrast
    """
    rng = np.random.default_rng(seed)
    groups = m // per_group
    kind = rng.choice(3, groups, p=[1 - bad, bad * (1 - junk), bad * junk])
    contrast = rng.normal(1, contrast_cv, groups)
    group = np.repeat(np.arange(groups), per_group)
    kind, contrast = kind[group], contrast[group]
    a = strength * SHAPE / np.linalg.norm(SHAPE) * rng.uniform(0.7, 1.3, (len(kind), 1))

    def noise():
        return rng.normal(size=a.shape)

    def wrong():
        return WRONG_MEAN * a + np.sqrt(1 + WRONG_VARIANCE * a**2) * noise()

    t = np.choose(kind[:, None], [contrast[:, None] * gain * a + noise(), wrong(), noise()])
    return Drawn(Evidence(t, a), Evidence(np.where(kind[:, None] == JUNK, noise(), wrong()), a), kind, group)


def draw_small_errors(m, bad, small, *, scale=0.1, precision=2000.0, scales=(0.05, 0.1, 0.2), seed=0, **options):
    """As ``draw``, but a share `small_errors` of the good are turned by errors of `scale` radians:
    (Drawn, SmallErrors, turned).

    The log likelihood about each one's best pose is a parabola of this precision, 1/radian²,
    the same in all directions.
    """
    drawn = draw(m, bad, seed=seed, gain=1.0, contrast_cv=0.1, **options)
    rng = np.random.default_rng(seed + 1000)
    turned = (drawn.kind == CORRECT) & (rng.random(m) < small)
    error = np.where(turned[:, None], rng.normal(0, scale, (m, 3)), 0)
    found = error + rng.normal(0, precision**-0.5, (m, 3))
    squared = np.square(found).sum(axis=1)
    best = Evidence(drawn.own.t.copy(), drawn.own.a)
    gain = precision * squared / 2 / drawn.own.a[:, 0]  # of the likelihood, in the first band's evidence
    best.t[~turned, 0] += gain[~turned]
    drawn.own.t[turned, 0] -= gain[turned]
    narrower = 1 + precision * np.square(scales)
    log = -1.5 * np.log(narrower) - precision * squared[:, None] / (2 * narrower)
    return drawn, SmallErrors(best, log, np.full((1, best.a.shape[1]), 0.3)), turned
