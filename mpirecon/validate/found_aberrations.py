"""Aberrations as a file names them beside those that the images show: is the sign right, is the size?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.model.aberrations import Aberrations, even_order, odd_order, zernike_sum
from mpirecon.model.optics import electron_wavelength
from mpirecon.validate.phase_fit import GroupPhases, PhaseSums, even_basis, odd_basis

#: standard deviations from which on something is there that the file does not name
_CLEAR = 5.0
#: error below which a share of the imported one is told from none, all and the opposite, and how far from these it may be
_TELLS, _NEAR = 0.2, 0.3
#: error of a share of which nothing is known
_ANY = 10.0
RIGHT, WRONG_SIGN, ABSENT, OTHER, MIXED, UNTOLD = "right", "wrong sign", "absent", "other size", "groups differ", "cannot tell"


@dataclass(frozen=True)
class Term:
    """Something a lens does.

    odd : whether it turns phases, or adds to the CTF's · at : its coefficients in the basis of phase_fit · label : RELION's,
    for advice · cs_term : of cryosparc_optics.TERMS
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

    imported, found : (n,) the components · covariance : (n, n) of `found` · gain : twice the logarithm of the likelihood that is
    lost without it · unit, per_unit : what they are printed in, and
    radians of it · share, error : how many times the imported one explains the images; NaN where nothing was imported
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
        """Whether it is known to better than a radian at the edge of the band; beyond that, phases turn round unnoticed."""
        return bool(np.diag(self.covariance).mean() < 1)

    @property
    def typical_error(self) -> float:
        """Of one component of `found`, in `unit`."""
        return float(np.sqrt(np.diag(self.covariance).mean()) / abs(self.per_unit))

    def as_dict(self) -> dict:
        """In `unit`, for JSON."""
        return {
            "name": self.term.name, "unit": self.unit, "imported": (self.imported / self.per_unit).tolist(),
            "found": (self.found / self.per_unit).tolist(), "error": self.typical_error, "significance": self.significance,
            "determined": self.determined,
            "coefficient": self.share if self.named else None, "coefficient_error": self.error if self.named else None,
        }

    @property
    def significance(self) -> float:
        """Standard deviations by which it is there at all, by its error and by what is lost without it, whichever is less: with
        few images one of them may be far off."""
        by_error = self.found @ np.linalg.solve(self.covariance, self.found)
        return float(np.sqrt(max(0.0, min(by_error, self.gain) - len(self.found) + 1)))


@dataclass
class FoundGroup:
    """An optics group: how many particles were compared, and its terms.

    odd : (6,), even : (9,), all that was fitted, in the bases of phase_fit at frequencies over `edge` [1/Å]; even None where
    the images do not tell
    """

    group: int
    particles: int
    terms: list[FoundTerm] = field(default_factory=list)
    edge: float = np.nan
    odd: np.ndarray | None = None
    even: np.ndarray | None = None


@dataclass
class FoundAberrations:
    """All groups, and for each term the share of the imported one that all groups together show: name → (share, error).

    advice : what to do about it
    """

    groups: list[FoundGroup]
    band: tuple[float, float]
    premultiplied: bool
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def refined(self, known: Aberrations) -> Aberrations:
        """`known` with what was found instead of what was imported, group by group, odd and even apart: where anything of it is
        there beyond doubt, or was imported and is denied. Coefficients of higher order stay."""
        odd, even = _widened(known.odd, 6), _widened(known.even, 9)
        for row, group in enumerate(self.groups):
            if group.odd is not None and _telling(group.terms, True):
                odd[row, :6] = odd_zernike(group.odd, group.edge)
            if group.even is not None and _telling(group.terms, False):
                even[row, :9] = even_zernike(group.even, group.edge)
        return replace(known, odd=odd, even=even)

    def verdicts(self) -> dict[str, str]:
        """Name of each imported term → RIGHT, WRONG_SIGN, ABSENT, OTHER (size), MIXED (groups differ) or UNTOLD."""
        return {name: MIXED if self._apart(name) else _verdict(*share) for name, share in self.shares.items()}

    @property
    def contradicted(self) -> bool:
        """Whether the images say that something imported has the wrong sign, or is not there."""
        verdicts = self.verdicts()
        return bool({WRONG_SIGN, ABSENT} & {*verdicts.values(), *(v for name in verdicts for v in self._of_groups(name))})

    def _of_groups(self, name: str) -> dict[str, list[int]]:
        """Verdict → the groups that differ from what all say together, and of these only those that are sure."""
        found: dict[str, list[int]] = {}
        for group in self._apart(name):
            term = next(t for t in group.terms if t.term.name == name)
            found.setdefault(_verdict(term.share, term.error), []).append(group.group)
        return found

    def _apart(self, name: str) -> list[FoundGroup]:
        share = self.shares[name][0]
        return [g for g in self.groups for t in g.terms if t.term.name == name and t.named and t.error < _TELLS
                and abs(t.share - share) > max(_CLEAR * t.error, _NEAR)]

    def sentences(self) -> list[str]:
        """What was found, a sentence for each term that was imported or is there, and for groups that differ."""
        verdicts, said = self.verdicts(), []
        for term in TERMS:
            if term.name in verdicts:
                share, error = self.shares[term.name]
                said.append(f"{term.name} as imported {_WORDS[verdicts[term.name]]}: coefficient {share:+.2f} ± {error:.2f}")
                said += [f"{term.name}: in {_listed(groups)} what was imported {_WORDS[verdict]}"
                         for verdict, groups in self._of_groups(term.name).items()]
            unnamed = [g.group for g in self.groups for t in g.terms
                       if t.term == term and not t.named and t.determined and t.significance > _CLEAR]
            if unnamed:
                said.append(f"{term.name}: in the images of {_listed(unnamed)}, where nothing of it was imported")
        return said or ["none were imported, and the images show none beyond the errors above"]

    def as_dict(self) -> dict:
        """Everything, for JSON; NaN where nothing was imported is None."""
        verdicts = self.verdicts()
        return {
            "band": list(self.band),
            "ctf_premultiplied": self.premultiplied,
            "terms": {name: {"coefficient": share, "error": error, "verdict": verdicts[name]}
                      for name, (share, error) in self.shares.items()},
            "groups": [{"group": g.group, "particles": g.particles, "terms": [t.as_dict() for t in g.terms]} for g in self.groups],
            "sentences": self.sentences(),
            "advice": self.advice,
        }


def _widened(coefficients: np.ndarray, width: int) -> np.ndarray:
    """(g, at least width), with zeros at the end."""
    return np.pad(coefficients, ((0, 0), (0, max(0, width - coefficients.shape[1]))))


def _telling(terms: list[FoundTerm], odd: bool) -> bool:
    """Whether what was found of one group's odd or even terms is worth more than what was imported."""
    return any(t.determined and (t.significance > _CLEAR or t.named and t.error < _TELLS) for t in terms if t.term.odd == odd)


def odd_zernike(value: np.ndarray, edge: float) -> np.ndarray:
    """Coefficients (6,) of phase_fit.odd_basis at frequencies over `edge`, as rlnOddZernike has them."""
    x, y, coma_x, coma_y, cosine, sine = value / edge ** np.array([1, 1, 3, 3, 3, 3])
    return np.array([y + 2 * coma_y / 3, x + 2 * coma_x / 3, sine, coma_y / 3, coma_x / 3, cosine])


def even_zernike(value: np.ndarray, edge: float) -> np.ndarray:
    """Coefficients (9,) of phase_fit.even_basis at frequencies over `edge`, as rlnEvenZernike has them: taken off the CTF's phase."""
    v = value / edge ** np.array([0, 2, 2, 2, 4, 4, 4, 4, 4])
    return -np.array([v[0] + v[1] / 2 + v[8] / 3, v[3] + 0.75 * v[5], v[1] / 2 + v[8] / 2, v[2] + 0.75 * v[4], v[7], v[5] / 4, v[8] / 6,
                      v[4] / 4, v[6]])


_WORDS = {
    RIGHT: "explains the images",
    WRONG_SIGN: "has the wrong sign",
    ABSENT: "is not in the images",
    OTHER: "is in the images with another size",
    MIXED: "is not the same for all optics groups",
    UNTOLD: "is neither confirmed nor denied by so few or so noisy images",
}


def _verdict(share: float, error: float) -> str:
    if error > _TELLS:
        return UNTOLD
    for value, verdict in ((1, RIGHT), (-1, WRONG_SIGN), (0, ABSENT)):
        if abs(share - value) < _NEAR:
            return verdict
    return OTHER


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"optics group{'s'[: len(numbers) > 1]} {', '.join(map(str, numbers[:10]))}{more}"


def measure_group(
    sums: PhaseSums, known: Aberrations, row: int, at: np.ndarray, shell: np.ndarray, ctf: np.void, premultiplied: bool
) -> FoundGroup:
    """Fit the phases of one optics group.

    Parameters
    ----------
    sums : of this group · row : which of `known` it is · at : (2, s) frequencies in Å⁻¹ · shell : (s,) int, from 0
    ctf : of one of its particles, for voltage and Cs
    """
    found = FoundGroup(int(known.group[row]), sums.count)
    if found.particles:
        _fill(found, sums, known, row, at, shell, ctf, premultiplied)
    return found


def summed_up(groups: list[FoundGroup], band: tuple[float, float], premultiplied: bool) -> FoundAberrations:
    """What all groups say together."""
    result = FoundAberrations(groups, band, premultiplied)
    for term in TERMS:
        found = [t for group in groups for t in group.terms if t.term == term and t.named]
        if found:
            weight = np.array([1 / t.error**2 for t in found])
            result.shares[term.name] = (float(weight @ [t.share for t in found] / weight.sum()), float(weight.sum() ** -0.5))
    return result


def _fill(group: FoundGroup, sums, known, row, at, shell, ctf, premultiplied) -> None:
    """Fit one group, odd phases first: those hardly depend on what the even ones are taken to be."""
    edge = float(np.hypot(*at).max())
    x, y = at / edge
    bases = odd_basis(x, y), even_basis(x, y)
    odd, even = _in_basis(known.odd[row], odd_order, bases[0], at), -_in_basis(known.even[row], even_order, bases[1], at)
    # what is of higher order than the bases is taken to be as imported
    phi0 = zernike_sum(known.odd[row], odd_order, *at) - odd @ bases[0]
    delta0 = -zernike_sum(known.even[row], even_order, *at) - even @ bases[1]
    noise = np.bincount(shell, sums.power) / np.maximum(np.bincount(shell), 1) / max(sums.count, 1)
    turned = PhaseSums(sums.sine * np.exp(-1j * phi0), sums.cosine * np.exp(-1j * phi0), *sums.arrays()[2:], sums.count)
    phases = GroupPhases(turned, shell, noise)
    delta = delta0 + even @ bases[1]
    fit_odd = _best(lambda start: phases.odd(bases[0], start, delta), odd)
    phi = fit_odd.value @ bases[0]
    group.terms = [_term(term, odd, fit_odd, edge, ctf, lambda rows, start: phases.odd(bases[0][rows], start, delta, 1))
                   for term in TERMS if term.odd]
    group.edge, group.odd = edge, fit_odd.value
    if not premultiplied:
        fit_even = _best(lambda start: phases.even(bases[1], start, phi), even)
        group.terms += [_term(term, even, fit_even, edge, ctf, lambda rows, start: phases.even(bases[1][rows], start, phi, 1))
                        for term in TERMS if not term.odd]
        group.even = fit_even.value


def _best(fit, imported: np.ndarray):
    """The best of the fits that start from what was imported, from nothing, and from the opposite."""
    starts = [imported, 0 * imported, -imported] if imported.any() else [imported]
    return max((fit(start) for start in starts), key=lambda found: found.quality)


def _in_basis(coefficients: np.ndarray, order, basis: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Zernike coefficients up to the basis' order, in the basis: exact, as they span the same polynomials."""
    low = np.array([c if order(i)[0] <= 4 else 0.0 for i, c in enumerate(coefficients)])
    return np.linalg.lstsq(basis.T, zernike_sum(low, order, *at), rcond=None)[0]


def _term(term: Term, imported: np.ndarray, fit, edge: float, ctf: np.void, refit) -> FoundTerm:
    """refit : (rows of the basis, where to start) → the fit with these alone"""
    pick, others = list(term.at), [i for i in range(len(imported)) if i not in term.at]
    unit, per_unit = _unit(term, edge, ctf)
    gain = 2 * (fit.quality - refit(others, fit.value[others]).quality)
    found = FoundTerm(term, imported[pick], fit.value[pick], fit.covariance[np.ix_(pick, pick)], gain, unit, per_unit)
    if np.abs(found.imported).max() > 1e-6:
        direction = np.linalg.solve(found.covariance, found.imported)
        found.error = float((found.imported @ direction) ** -0.5)
        found.share = float(direction @ found.found) * found.error**2
        if not found.determined:
            found.share, found.error = 0.0, max(found.error, _ANY)
    return found


def _unit(term: Term, edge: float, ctf: np.void) -> tuple[str, float]:
    """(unit, radians at the edge of one of it): mrad of beam tilt where there is a Cs, else coefficients in rad · Åⁿ."""
    wavelength = float(electron_wavelength(ctf["voltage_kv"]))
    if term.name == "beam tilt" and abs(ctf["cs_mm"]) > 0.1:
        return "mrad", -2 * np.pi * ctf["cs_mm"] * 1e7 * wavelength**2 * 1e-3 * edge**3
    if term.name == "spherical aberration":
        return "mm of Cs", -np.pi / 2 * 1e7 * wavelength**3 * edge**4
    order = 3 if term.odd else 4
    # RELION's even coefficients are taken off the CTF's phase
    return f"rad Å{'³' if order == 3 else '⁴'}", edge**order if term.odd else -(edge**order)
