"""Is a pose right, or only nearly? What the best pose near the given one says, and how far away it is.

A right pose is where the likelihood has its maximum; near one with a small error there is a better pose. About the best
pose δ* that Newton's method finds (a turn after the given rotation, in radians), the log likelihood is nearly

    L(δ) = L(δ*) + gᵀ(δ − δ*) − (δ − δ*)ᵀ H (δ − δ*) / 2

and for errors of scale τ, δ ~ N(0, τ²), the likelihood of the image is an integral over a Gaussian. No pose is changed
by this: it only says how far each counts, at which frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.robust.statistics import Statistics

#: Newton's method is drawn to the given pose as by a Gaussian prior of this many radians (15°): it looks nearby
SEARCH_PRIOR = np.radians(15.0)

#: bands that the search's steps use, as fractions of all, the last look using all:
#: the maximum is broader at low frequencies
SEARCH_BANDS = (2 / 3, 2 / 3, 1)

#: angles of error, degrees, between which what is left of the signal is interpolated
ANGLES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])

#: points per shell and angle from which that is measured
_POINTS = 2000


@dataclass
class NearbyPoses:
    """What the ``nearby`` kernel found for m particles, in the units of Statistics.

    turn : (m, 3) float64, δ*, radians
    sums : (m, bands, 2), yp and pp there
    slope : (m, 3), g
    curvature : (m, 6), H as xx, xy, xz, yy, yz, zz
    profile : (angles, shells), fraction of the signal's amplitude that an error of ANGLES leaves
    band_profile : (angles, bands), the same of each band.
    """

    turn: np.ndarray
    sums: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    profile: np.ndarray
    band_profile: np.ndarray

    @classmethod
    def empty(cls, m: int, bands: int, shells: int) -> NearbyPoses:
        shapes = (m, 3), (m, bands, 2), (m, 3), (m, 6), (len(ANGLES), shells), (len(ANGLES), bands)
        return cls(*(np.zeros(shape) for shape in shapes))

    def __getitem__(self, rows) -> NearbyPoses:
        return NearbyPoses(self.turn[rows], self.sums[rows], self.slope[rows], self.curvature[rows], self.profile,
                           self.band_profile)

    def at_own(self, rows: np.ndarray, statistics: Statistics) -> NearbyPoses:
        """The same, but for some rows (m,) bool the own pose with its `statistics`, as if there were no better one."""
        turn, slope = (np.where(rows[:, None], 0.0, values) for values in (self.turn, self.slope))
        sums = np.where(rows[:, None, None], statistics.sums[:, :, 1:], self.sums)
        return NearbyPoses(turn, sums, slope, self.curvature, self.profile, self.band_profile)

    def matrix(self) -> np.ndarray:
        """H, (m, 3, 3)."""
        return self.curvature[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)

    def width(self, variance: np.ndarray) -> np.ndarray:
        """How well each image shows its pose: the standard deviation of a turn, radians, (m,);
        infinite without signal."""
        mean = self.curvature[:, [0, 3, 5]].sum(axis=1) / 3 / variance
        return 1 / np.sqrt(np.maximum(mean, 1e-300))

    def integral(self, variance: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """∫ N(δ; 0, scale²) exp(L(δ) − L(δ*)) dδ: its logarithm, and the root mean square of the angle |δ|, (m,) each.

        variance : (m,) of the particles' noise, in the units of the statistics
        scale : radians
        """
        h, g, turn = self.matrix() / variance[:, None, None], self.slope / variance[:, None], self.turn
        turned = np.einsum("mij,mj->mi", h, turn)
        constant = -(g * turn).sum(axis=1) - (turn * turned).sum(axis=1) / 2
        root, log_determinant = _inverse_root(h + np.eye(3) / scale**2)
        half = np.einsum("mij,mj->mi", root, g + turned)
        mean = np.einsum("mji,mj->mi", root, half)
        log = constant + np.square(half).sum(axis=1) / 2 - (log_determinant + 6 * np.log(scale)) / 2
        return log, np.sqrt(np.square(mean).sum(axis=1) + np.square(root).sum(axis=(1, 2)))


def _inverse_root(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of symmetric positive definite matrices (m, 3, 3): L⁻¹ of their Cholesky factors, and their log determinants, of
    all matrices at once, for a call of LAPACK for each takes ten times as long."""
    a = matrix
    x = np.sqrt(a[:, 0, 0])
    xy, xz = a[:, 1, 0] / x, a[:, 2, 0] / x
    y = np.sqrt(a[:, 1, 1] - xy**2)
    yz = (a[:, 2, 1] - xz * xy) / y
    z = np.sqrt(a[:, 2, 2] - xz**2 - yz**2)
    out = np.zeros_like(a)
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = 1 / x, 1 / y, 1 / z
    out[:, 1, 0], out[:, 2, 1] = -xy / (x * y), -yz / (y * z)
    out[:, 2, 0] = (xy * yz / y - xz) / (x * z)
    return out, 2 * np.log(x * y * z)


def attenuation_profile(volume: np.ndarray, shells: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fraction of a map's Fourier amplitude that agrees with itself turned by ANGLES about random axes,
    (angles, shells).

    volume : (n, n, n) float32. Per shell the regression of V̂(k) on V̂ at the turned k, over random points: 1 without
        error, 0 where nothing of the signal is left, never rising with the angle. Also returned is each shell's power,
        (shells,).
    Beyond what the map's box holds, an angle leaves of a shell what an angle as much larger leaves of the last one.
    """
    wanted, shells = shells, min(shells, volume.shape[0] // 2)
    line = np.arange(shells, dtype=np.int32)
    ones = np.ones(shells, np.float32)
    projection = Projection(volume.shape[0], HalfPlane(volume.shape[0], shells, line, 0 * line, line, ones))
    grid = projection.grid(volume)
    rng = np.random.default_rng(seed)
    # random points on the sphere, and the perpendicular ones that they move to
    point, other = rng.standard_normal((2, _POINTS, 3))
    point /= np.linalg.norm(point, axis=1, keepdims=True)
    other -= (other * point).sum(axis=1, keepdims=True) * point
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    lever = np.sqrt(1 - rng.uniform(-1, 1, _POINTS) ** 2)  # a random axis moves a point by its distance from the axis
    right = _samples(projection, grid, point)
    power = np.maximum(np.square(np.abs(right)).sum(axis=0), 1e-30)
    profile = np.empty((len(ANGLES), shells))
    for row, angle in enumerate(np.radians(ANGLES)):
        moved = 2 * np.arcsin(np.minimum(lever * np.sin(angle / 2), 1))[:, None]
        wrong = _samples(projection, grid, np.cos(moved) * point + np.sin(moved) * other)
        profile[row] = (right.conj() * wrong).real.sum(axis=0) / power
    profile = np.clip(np.minimum.accumulate(profile, axis=0), 0, 1)
    beyond = [np.interp(ANGLES * k / (shells - 1), ANGLES, profile[:, -1]) for k in range(shells, wanted)]
    return np.column_stack([profile, *beyond]), np.concatenate([power, np.zeros(wanted - shells)])


def _samples(projection: Projection, grid: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """V̂ along lines from the origin, (m, shells): sample k of a slice whose x axis is the direction."""
    rotation = np.zeros((len(direction), 3, 3))
    rotation[:, 0] = direction
    return projection.forward(grid, rotation)


def between_angles(angle: np.ndarray) -> np.ndarray:
    """Shares, (m, angles), by which ANGLES interpolate angles (m,) in radians."""
    degrees = np.clip(np.degrees(angle), 0, ANGLES[-1])
    upper = np.clip(np.searchsorted(ANGLES, degrees, side="left"), 1, len(ANGLES) - 1)
    share = (degrees - ANGLES[upper - 1]) / (ANGLES[upper] - ANGLES[upper - 1])
    out = np.zeros((len(angle), len(ANGLES)))
    rows = np.arange(len(angle))
    out[rows, upper], out[rows, upper - 1] = share, 1 - share
    return out
