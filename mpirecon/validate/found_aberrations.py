"""Aberrations as a file names them beside those that the images show: is the sign right, is the size?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.model.aberrations import Aberrations
from mpirecon.validate.phase_fit import even_zernike, odd_zernike

#: standard deviations from which on something is there that the file does not name
_CLEAR = 5.0
#: error below which a fraction of the imported one is distinguished from none, all and the opposite,
#: and how far from these it may be
_INFORMATIVE, _NEAR = 0.2, 0.3
RIGHT, WRONG_SIGN, ABSENT, OTHER, MIXED, UNDETERMINED = (
    "right",
    "wrong sign",
    "absent",
    "other size",
    "groups differ",
    "undetermined",
)


@dataclass(frozen=True)
class Term:
    """Something a lens does.

    odd : whether it turns phases, or adds to the CTF's
    at : its coefficients in the basis of phase_fit
    label : RELION's, for advice
    cs_term : of cryosparc_optics.TERMS
    """

    name: str
    odd: bool
    at: tuple[int, ...]
    label: str
    cs_term: str


TERMS = (
    Term("beam tilt", True, (2, 3), "rlnBeamTiltX, rlnBeamTiltY", "tilt"),
    Term("trefoil", True, (4, 5), "rlnOddZernike", "trefoil"),
    Term("tetrafoil", False, (6, 7), "rlnEvenZernike", "tetrafoil"),
    Term("two-fold of fourth order", False, (4, 5), "rlnEvenZernike", "tetrafoil"),
    Term("spherical aberration", False, (8,), "rlnEvenZernike", ""),
)


@dataclass
class FoundTerm:
    """One term in one optics group, in radians at the finest frequency of the band.

    imported, found : (n,) the components
    covariance : (n, n) of `found`
    gain : twice the logarithm of the likelihood that is lost without it
    unit, per_unit : what they are printed in, and radians of it
    share, error : how many times the imported one explains the images; NaN where nothing was imported
    """

    term: Term
    imported: np.ndarray
    found: np.ndarray
    covariance: np.ndarray
    gain: float
    unit: str
    per_unit: float
    share: float = np.nan
    error: float = np.nan

    @property
    def named(self) -> bool:
        """Whether anything of it was imported."""
        return bool(np.isfinite(self.share))

    @property
    def determined(self) -> bool:
        """Whether it is known to better than a radian at the edge of the band;
        beyond that, phases turn round unnoticed."""
        return bool(np.diag(self.covariance).mean() < 1)

    @property
    def typical_error(self) -> float:
        """Of one component of `found`, in `unit`."""
        return float(np.sqrt(np.diag(self.covariance).mean()) / abs(self.per_unit))

    def as_dict(self) -> dict:
        """In `unit`, for JSON."""
        return {
            "name": self.term.name, "unit": self.unit, "imported": (self.imported / self.per_unit).tolist(),
            "found": (self.found / self.per_unit).tolist(), "error": self.typical_error,
            "significance": self.significance,
            "determined": self.determined,
            "coefficient": self.share if self.named else None, "coefficient_error": self.error if self.named else None,
        }

    @property
    def significance(self) -> float:
        """Standard deviations by which it is there at all, by its error and by what is lost without it, whichever is
        less: with few images one of them may be far off."""
        by_error = self.found @ np.linalg.solve(self.covariance, self.found)
        return float(np.sqrt(max(0.0, min(by_error, self.gain) - len(self.found) + 1)))


@dataclass
class FoundGroup:
    """An optics group: how many particles were compared, and its terms.

    odd : (6,), even : (9,), all that was fitted, in the bases of phase_fit at frequencies over `edge` [1/Å]; even None
        where the images do not determine it
    """

    group: int
    particles: int
    terms: list[FoundTerm] = field(default_factory=list)
    edge: float = np.nan
    odd: np.ndarray | None = None
    even: np.ndarray | None = None


@dataclass
class FoundAberrations:
    """All groups, and for each term the fraction of the imported one that all groups together show:
    name → (share, error).

    advice : what to do about it
    """

    groups: list[FoundGroup]
    band: tuple[float, float]
    premultiplied: bool
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def refined(self, known: Aberrations) -> Aberrations:
        """`known` with what was found instead of what was imported, group by group, odd and even apart: where anything
        of it is there beyond doubt, or was imported and is denied. Coefficients of higher order stay."""
        odd, even = _widened(known.odd, 6), _widened(known.even, 9)
        for row, group in enumerate(self.groups):
            if group.odd is not None and _informative(group.terms, True):
                odd[row, :6] = odd_zernike(group.odd, group.edge)
            if group.even is not None and _informative(group.terms, False):
                even[row, :9] = even_zernike(group.even, group.edge)
        return replace(known, odd=odd, even=even)

    @property
    def informative(self) -> list[int]:
        """Optics groups of which `refined` takes what was found."""
        return [g.group for g in self.groups if any(_informative(g.terms, odd) for odd in (True, False))]

    def verdicts(self) -> dict[str, str]:
        """Name of each imported term → RIGHT, WRONG_SIGN, ABSENT, OTHER (size), MIXED (groups differ) or UNTOLD."""
        return {name: MIXED if self._apart(name) else _verdict(*share) for name, share in self.shares.items()}

    @property
    def contradicted(self) -> bool:
        """Whether the images say that something imported has the wrong sign, or is not there."""
        verdicts = self.verdicts()
        return bool(
            {WRONG_SIGN, ABSENT} & {*verdicts.values(), *(v for name in verdicts for v in self._of_groups(name))}
        )

    def _of_groups(self, name: str) -> dict[str, list[int]]:
        """Verdict → the groups that differ from what all say together, and of these only those that are sure."""
        found: dict[str, list[int]] = {}
        for group in self._apart(name):
            term = next(t for t in group.terms if t.term.name == name)
            found.setdefault(_verdict(term.share, term.error), []).append(group.group)
        return found

    def _apart(self, name: str) -> list[FoundGroup]:
        share = self.shares[name][0]
        return [g for g in self.groups for t in g.terms if t.term.name == name and t.named and t.error < _INFORMATIVE
                and abs(t.share - share) > max(_CLEAR * t.error, _NEAR)]

    def sentences(self) -> list[str]:
        """What was found, a sentence for each term that was imported or is there, and for groups that differ."""
        verdicts, said = self.verdicts(), []
        for term in TERMS:
            if term.name in verdicts:
                share, error = self.shares[term.name]
                said.append(f"{term.name} as imported {_WORDS[verdicts[term.name]]}: coefficient {share:+.2f} ± "
                            f"{error:.2f}")
                said += [f"{term.name}: in {_listed(groups)} what was imported {_WORDS[verdict]}"
                         for verdict, groups in self._of_groups(term.name).items()]
            if unnamed := self.unnamed(term):
                said.append(f"{term.name}: in the images of {_listed(unnamed)}, where none was imported")
        return said or ["none were imported, and the images show none beyond the errors above"]

    def unnamed(self, term: Term) -> list[int]:
        """Groups that show a term of which nothing was imported."""
        return [g.group for g in self.groups for t in g.terms
                if t.term == term and not t.named and t.determined and t.significance > _CLEAR]

    def as_dict(self) -> dict:
        """Everything, for JSON; NaN where nothing was imported is None."""
        verdicts = self.verdicts()
        return {
            "band": list(self.band),
            "ctf_premultiplied": self.premultiplied,
            "terms": {name: {"coefficient": share, "error": error, "verdict": verdicts[name]}
                      for name, (share, error) in self.shares.items()},
            "groups": [{"group": g.group, "particles": g.particles, "terms": [t.as_dict() for t in g.terms]}
                       for g in self.groups],
            "sentences": self.sentences(),
            "advice": self.advice,
        }


def _widened(coefficients: np.ndarray, width: int) -> np.ndarray:
    """(g, at least width), with zeros at the end."""
    return np.pad(coefficients, ((0, 0), (0, max(0, width - coefficients.shape[1]))))


def _informative(terms: list[FoundTerm], odd: bool) -> bool:
    """Whether what was found of one group's odd or even terms is worth more than what was imported."""
    return any(
        t.determined and (t.significance > _CLEAR or t.named and t.error < _INFORMATIVE)
        for t in terms
        if t.term.odd == odd
    )


_WORDS = {
    RIGHT: "explains the images",
    WRONG_SIGN: "has the wrong sign",
    ABSENT: "is not in the images",
    OTHER: "is in the images with another size",
    MIXED: "is not the same for all optics groups",
    UNDETERMINED: "is neither confirmed nor denied by so few or so noisy images",
}


def _verdict(share: float, error: float) -> str:
    if error > _INFORMATIVE:
        return UNDETERMINED
    for value, verdict in ((1, RIGHT), (-1, WRONG_SIGN), (0, ABSENT)):
        if abs(share - value) < _NEAR:
            return verdict
    return OTHER


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"optics group{'s'[: len(numbers) > 1]} {', '.join(map(str, numbers[:10]))}{more}"


def summed_up(groups: list[FoundGroup], band: tuple[float, float], premultiplied: bool) -> FoundAberrations:
    """What all groups say together."""
    result = FoundAberrations(groups, band, premultiplied)
    for term in TERMS:
        found = [t for group in groups for t in group.terms if t.term == term and t.named]
        if found:
            weight = np.array([1 / t.error**2 for t in found])
            result.shares[term.name] = (float(weight @ [t.share for t in found] / weight.sum()),
                                        float(weight.sum() ** -0.5))
    return result
