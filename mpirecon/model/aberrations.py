"""What the optics of a group of images do beyond defocus, astigmatism and Cs: aberrations, magnification, detector.

A group's phase error is a sum of Zernike polynomials Z(n, m) of the spatial frequency in Å⁻¹, without normalisation
(Zivanov, Nakane & Scheres 2020, IUCrJ 7:253): the odd ones (beam tilt, trefoil, …) turn the phases of an image's
transform, the even ones (tetrafoil, …) add to the phase of the CTF. Frequencies are those in the specimen, M·k, where
M is the group's magnification matrix and k the frequency in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.optics import electron_wavelength

#: a magnification matrix beyond this is a misread column, not a microscope
_LARGEST_STRETCH = 1.5


@dataclass(frozen=True)
class Aberrations:
    """One row an optics group, of all groups of a particle set.

    Parameters
    ----------
    group : (g,) int32, ascending
    magnification : (g, 2, 2) float64, M of (kx, ky); the identity where there is nothing to correct
    odd, even : (g, ·) float64, Zernike coefficients in rlnOddZernike's and rlnEvenZernike's order, radians · Åⁿ
    mtf : (g, ·) float64, the detector's transfer relative to the mean of all groups, at 0, 1, 2 … Fourier pixels of
        the image, zero beyond what the images hold; no columns where it is not known

    Raises
    ------
    UserError
        for numbers that are not finite, or a magnification matrix that no microscope has.
    """

    group: np.ndarray
    magnification: np.ndarray
    odd: np.ndarray
    even: np.ndarray
    mtf: np.ndarray

    def __post_init__(self) -> None:
        shapes = {"magnification": (2, 2), "odd": (-1,), "even": (-1,), "mtf": (-1,)}
        object.__setattr__(self, "group", np.asarray(self.group, np.int32))
        for name, tail in shapes.items():
            values = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, values.reshape(len(self.group), *(tail if values.size else (0,))))
            if not np.isfinite(values).all():
                raise UserError(f"optics: {name} holds numbers that are not finite")
        stretch = np.linalg.svd(self.magnification, compute_uv=False)
        bad = (stretch.max(axis=1) > _LARGEST_STRETCH) | (stretch.min(axis=1) < 1 / _LARGEST_STRETCH)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f"optics group {self.group[row]}: the magnification matrix "
                            f"{self.magnification[row].tolist()} is far from the identity; check the columns")
        if (self.mtf < 0).any() or (self.mtf[:, :1] == 0).any():
            raise UserError("optics: the detector's transfer (MTF) must be positive, or zero from some frequency on")

    @classmethod
    def none(cls, group: np.ndarray) -> Aberrations:
        """Of groups without any."""
        g = len(group)
        return cls(group, np.tile(np.eye(2), (g, 1, 1)), *(np.zeros((g, 0)) for _ in range(3)))

    @property
    def trivial(self) -> bool:
        """Whether there is nothing to correct."""
        return not (
            (self.magnification != np.eye(2)).any() or self.odd.any() or self.even.any() or (self.mtf != 1).any()
        )

    def corrected(self) -> list[str]:
        """What there is to correct, in words, and in how many groups."""
        there = {
            "odd aberrations (beam tilt, trefoil …)": self.odd.any(axis=1),
            "even aberrations (tetrafoil …)": self.even.any(axis=1),
            "anisotropic magnification": (self.magnification != np.eye(2)).any(axis=(1, 2)),
            "the detector's MTF relative to the mean of the groups": ((self.mtf != 1) & (self.mtf != 0)).any(axis=1),
        }
        return [f"{name} in {int(rows.sum())} of {len(rows)} optics groups" for name,
                rows in there.items() if rows.any()]

    @property
    def stretch(self) -> float:
        """The largest factor by which any group's M lengthens a frequency, at least 1."""
        return max(1.0, float(np.linalg.svd(self.magnification, compute_uv=False).max()))

    def rows(self, optics_group: np.ndarray) -> np.ndarray:
        """Row of each particle's group, (m,) int64; UserError for a group that is not here."""
        row = np.minimum(np.searchsorted(self.group, optics_group), len(self.group) - 1)
        unknown = self.group[row] != optics_group
        if unknown.any():
            raise UserError(f"optics group {optics_group[np.flatnonzero(unknown)[0]]} is not in the table of optics "
                            f"groups")
        return row


def tilt_coefficients(tilt_mrad: np.ndarray, cs_mm: np.ndarray, voltage_kv: np.ndarray) -> np.ndarray:
    """Odd Zernike coefficients of a beam tilt (g, 2) mrad, (g, 6): the phase is −2π·Cs·λ²·(tilt · k)·|k|².

    Zivanov et al. 2018, eLife 7:e42166, eq. 14 ff.; the linear part is left in, as a shift that the poses hold.
    """
    per_tilt = -2 * np.pi * np.asarray(cs_mm) * 1e7 * electron_wavelength(voltage_kv) ** 2 * 1e-3 / 3
    x, y = (per_tilt * np.asarray(tilt_mrad, np.float64)[:, i] for i in (0, 1))
    zero = np.zeros_like(x)
    # |k|²·kx = (Z(3, 1) + 2·Z(1, 1)) / 3
    return np.stack([2 * y, 2 * x, zero, y, x, zero], axis=1)


def odd_order(index: int) -> tuple[int, int]:
    """(n, m) of an odd coefficient: (1, −1), (1, 1), (3, −3), (3, −1), (3, 1), (3, 3), (5, −5) …"""
    n = 1
    while index > n:
        index, n = index - n - 1, n + 2
    return n, 2 * index - n


def even_order(index: int) -> tuple[int, int]:
    """(n, m) of an even coefficient: (0, 0), (2, −2), (2, 0), (2, 2), (4, −4) …"""
    n = 0
    while index > n:
        index, n = index - n - 1, n + 2
    return n, 2 * index - n


def zernike(n: int, m: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Z(n, m) at frequencies x, y in Å⁻¹: radial polynomial times cos mφ, or sin |m|φ where m < 0."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    radial = sum(
        (-1) ** k
        * factorial(n - k)
        / (factorial(k) * factorial((n + abs(m)) // 2 - k) * factorial((n - abs(m)) // 2 - k))
        * radius ** (n - 2 * k)
        for k in range((n - abs(m)) // 2 + 1)
    )
    return radial * (np.cos(m * angle) if m >= 0 else np.sin(-m * angle))


def zernike_sum(coefficients: np.ndarray, order, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ c_i Z_i(x, y), like x; `order` is odd_order or even_order."""
    total = np.zeros(np.shape(x))
    for index in np.flatnonzero(coefficients):
        total += coefficients[index] * zernike(*order(int(index)), x, y)
    return total
