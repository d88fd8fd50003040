"""Whether particles were rejected for their pose, or for their noise, defocus or micrograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.validate.detection import auc

#: weakest association of rejection with anything else that is worth a warning (rank-biserial correlation) …
LARGEST = 0.2

#: … if it is this many standard deviations from none
_SIGNIFICANT = 5.0

#: rejected particles that show the map with more than this fraction of the contrast of kept ones are not junk
LARGEST_CONTRAST = 0.5

#: fewer kept or rejected particles than this are not tested
_FEWEST = 20


@dataclass(frozen=True)
class Association:
    """Correlation of rejection with something else.

    Parameters
    ----------
    name : str
        the other quantity
    value : float
        −1 … 1; 0 is none
    chance : float
        standard deviation of the value for a random selection
    """

    name: str
    value: float
    chance: float

    @property
    def limit(self) -> float:
        """The absolute value above which a warning is given."""
        return max(LARGEST, _SIGNIFICANT * self.chance)

    @property
    def alarming(self) -> bool:
        return abs(self.value) > self.limit


def with_number(
    name: str, kept: np.ndarray, values: np.ndarray, together: np.ndarray | None = None
) -> Association | None:
    """Rank-biserial correlation of rejection with a number of each particle (Cureton 1956); None without spread.

    Of all pairs of a rejected and a kept particle, the fraction in which the rejected one has the larger number, minus
    the fraction in which it has the smaller: a rank statistic, robust to outliers. `together` : (m,) group of each row,
    if rows are selected group by group; each group then counts once, with its mean.
    """
    if together is not None:
        _, first, number = np.unique(together, return_index=True, return_inverse=True)
        values = np.bincount(number, values) / np.bincount(number)
        kept = kept[first]
    out, kept_count = int((~kept).sum()), int(kept.sum())
    if min(out, kept_count) < _FEWEST or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    chance = np.sqrt((len(kept) + 1) / (3 * out * kept_count))
    return Association(name, 2 * auc(values, ~kept) - 1, float(chance))


def with_group(
    name: str, kept: np.ndarray, group: np.ndarray, together: np.ndarray | None = None
) -> Association | None:
    """Root of the intraclass correlation of being kept within groups such as micrographs; None with one group.

    The variance of the groups' kept counts beyond that of a binomial draw: 0 if all groups are alike, 1 if each is
    kept or rejected as a whole. `together` as for with_number; each of its groups counts once in a micrograph.
    """
    _, number = np.unique(group, return_inverse=True)
    if together is not None:
        number, kept = once(number, kept, together)
    n = np.bincount(number).astype(np.float64)
    share, pairs = kept.mean(), (n * (n - 1)).sum()
    if len(n) < 2 or pairs == 0 or min((~kept).sum(), kept.sum()) < _FEWEST:
        return None
    variance = share * (1 - share)
    excess = (np.bincount(number, kept) - n * share) ** 2 - n * variance
    correlation = max(0.0, float(excess.sum() / (variance * pairs)))
    # the sum of squares of G groups scatters by √(2/Σn(n−1)); its root is compared, hence the root here
    return Association(name, np.sqrt(correlation), float(np.sqrt(np.sqrt(2 / pairs)) / np.sqrt(_SIGNIFICANT)))


def once(where: np.ndarray, kept: np.ndarray, together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`where` (m,) and `kept` (m,) of one row of each group `together` in each place."""
    _, first = np.unique(np.stack([where, together]), axis=1, return_index=True)
    return where[first], kept[first]


def contrast_left_out(kept: np.ndarray, yp: np.ndarray, pp: np.ndarray,
                      small: np.ndarray | None = None) -> float | None:
    """Contrast of the map in the rejected particles relative to the kept ones, Σyp/Σpp each; None when undefined.

    small : (m,) bool, neither kept nor rejected: small pose errors, used at low frequencies.
    """
    left_out = ~kept if small is None else ~kept & ~small
    if min(left_out.sum(), kept.sum()) < _FEWEST:
        return None
    out, inside = (yp[rows].sum() / max(pp[rows].sum(), 1e-300) for rows in (left_out, kept))
    return float(out / inside) if inside > 0 else None


#: what to do where the fraction to keep is given, or found: by the loss, or by how far a path goes
KEEP_MORE = "Keep more"

#: and where the mixture weighs particles, which keeps no number of them
OF_MIXTURE = ("If the fraction of correct particles is known, give it with --keep; --loss sorted --keep X keeps as "
              "many as it is told")


def warnings_of(associations: list[Association], contrast: float | None, remedy: str = KEEP_MORE) -> list[str]:
    """A sentence or two for each problem found; remedy : what the loss has against too many rejected particles."""
    texts = []
    for a in (a for a in associations if a.alarming):
        if a.name in _NUMBERS:
            more = "higher" if a.value > 0 else "lower"
            texts.append(
                f"the selection correlates with {_NUMBERS[a.name]}: comparing a rejected with a kept particle, the "
                f"rejected one has the {more} one in {50 * (1 + abs(a.value)):.0f} % of pairs (50 % by chance). "
                "Particles may have been rejected for this reason rather than for a wrong pose"
            )
        else:
            texts.append(
                f"the selection differs between {a.name} more than by chance (intraclass correlation "
                f"{a.value**2:.2f}): check whether some of them are bad, or were processed differently"
            )
    if contrast is not None and contrast > LARGEST_CONTRAST:
        texts.append(
            f"the rejected particles show the map with {100 * contrast:.0f} % of the contrast of the kept ones: many "
            f"of them probably have correct poses. {remedy}"
        )
    return texts


_NUMBERS = {"sigma": "the noise level σ", "defocus": "defocus", "ctf_scale": "the CTF's scale"}
