"""The phases of one optics group, fitted to the sums over its particles and set beside what was imported."""

from __future__ import annotations

import numpy as np

from mpirecon.model.aberrations import Aberrations, even_order, odd_order, zernike_sum
from mpirecon.model.optics import electron_wavelength
from mpirecon.validate.found_aberrations import TERMS, FoundGroup, FoundTerm, Term
from mpirecon.validate.phase_fit import GroupPhases, PhaseSums, even_basis, odd_basis

#: error of a fraction of which nothing is known
_ANY = 10.0


def measure_group(
    sums: PhaseSums, known: Aberrations, row: int, at: np.ndarray, shell: np.ndarray, ctf: np.void, premultiplied: bool
) -> FoundGroup:
    """Fit the phases of one optics group.

    Parameters
    ----------
    sums : of this group
    row : which of `known` it is
    at : (2, s) frequencies in Å⁻¹
    shell : (s,) int, from 0
    ctf : of one of its particles, for voltage and Cs
    """
    found = FoundGroup(int(known.group[row]), sums.count)
    if found.particles:
        _fill(found, sums, known, row, at, shell, ctf, premultiplied)
    return found


def _fill(group: FoundGroup, sums, known, row, at, shell, ctf, premultiplied) -> None:
    """Fit one group, odd phases first: those hardly depend on what the even ones are taken to be."""
    edge = float(np.hypot(*at).max())
    x, y = at / edge
    bases = odd_basis(x, y), even_basis(x, y)
    odd, even = (
        _in_basis(known.odd[row], odd_order, bases[0], at),
        -_in_basis(known.even[row], even_order, bases[1], at),
    )
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
        group.terms += [_term(term, even, fit_even, edge, ctf, lambda rows,
                              start: phases.even(bases[1][rows], start, phi, 1))
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
    """(unit, radians at the edge of one of it):
    mrad of beam tilt where there is a Cs, else coefficients in rad · Åⁿ."""
    wavelength = float(electron_wavelength(ctf["voltage_kv"]))
    if term.name == "beam tilt" and abs(ctf["cs_mm"]) > 0.1:
        return "mrad", -2 * np.pi * ctf["cs_mm"] * 1e7 * wavelength**2 * 1e-3 * edge**3
    if term.name == "spherical aberration":
        return "mm of Cs", -np.pi / 2 * 1e7 * wavelength**3 * edge**4
    order = 3 if term.odd else 4
    # RELION's even coefficients are taken off the CTF's phase
    return f"rad Å{'³' if order == 3 else '⁴'}", edge**order if term.odd else -(edge**order)
