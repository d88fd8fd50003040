"""What lenses did to images, from sums over the particles of an optics group: phases fitted to every Fourier sample.

An image's sample is modelled as s e^{iφ} (cos δ · S + sin δ · C) p + noise, with p the projection of a map that the
image did not help to build, S and C the sine and cosine of the CTF's own phase (amplitude and envelope included), and s
how much of the image the map of that shell explains. φ is odd in the frequency (beam tilt, trefoil), δ even (tetrafoil,
and what is left of defocus); both are sums of polynomials (Zivanov, Nakane & Scheres 2020, IUCrJ 7:253). s may be
negative: a map that was made with the wrong aberrations loses contrast in its finer shells, or has it inverted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

#: steps of the fit, and rounds in which its band grows: at coarse frequencies phases are small, and no turn is missed
_STEPS, _ROUNDS = 40, 6
#: in the coarser bands nothing moves a coefficient by more radians at the edge of the band than about this without a
#: reason
_LEASH = 3.0
#: how much is known of a shell's scale beforehand, 1/variance: a map explains about as much as it shows, so that few
#: images cannot make noise agree with a CTF that is nearly zero
_PRIOR = 1.0
#: fraction of its own information that a coefficient is left when others could do all that it does
_BLIND = 1e-9


@dataclass
class PhaseSums:
    """Sums over particles at s samples, w being a particle's weight and y its image's transform, centred.

    sine, cosine : (s,) complex128, Σ w S conj(p) y and Σ w C conj(p) y
    ss, sc, cc : (s,) float64, Σ w S² |p|² …
    power : (s,) float64, Σ w |y|²
    count : how many particles
    """

    sine: np.ndarray
    cosine: np.ndarray
    ss: np.ndarray
    sc: np.ndarray
    cc: np.ndarray
    power: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, samples: int) -> PhaseSums:
        return cls(*(np.zeros(samples, complex) for _ in range(2)), *(np.zeros(samples) for _ in range(4)))

    def add(
        self, s: np.ndarray, c: np.ndarray, p: np.ndarray, y: np.ndarray, weight: np.ndarray,
        premultiplied: bool = False
    ) -> None:
        """Add images: S and C (m, s) float, p and y (m, s) complex, weight (m,). Of premultiplied ones y is S times an
        image: the information of the cosine is lost."""
        w = weight[:, None]
        if premultiplied:
            self.sine += (w * np.conj(p) * y).sum(axis=0)
            self.ss += (w * s * s * np.square(np.abs(p))).sum(axis=0)
            self.power += (w * np.square(np.abs(y))).sum(axis=0) / np.maximum((s * s).mean(axis=0), 0.05)
            self.count += int((weight > 0).sum())
            return
        product, square = w * np.conj(p) * y, w * np.square(np.abs(p))
        self.sine += (s * product).sum(axis=0)
        self.cosine += (c * product).sum(axis=0)
        self.ss += (s * s * square).sum(axis=0)
        self.sc += (s * c * square).sum(axis=0)
        self.cc += (c * c * square).sum(axis=0)
        self.power += (w * np.square(np.abs(y))).sum(axis=0)
        self.count += int((weight > 0).sum())

    def at(self, samples: np.ndarray) -> PhaseSums:
        """Of some samples."""
        return PhaseSums(*(array[samples] for array in self.arrays()), self.count)

    def arrays(self) -> list[np.ndarray]:
        """The sums that ranks add up."""
        return [getattr(self, field.name) for field in fields(self) if field.name != "count"]


def odd_basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(6, s): the polynomials of φ: a shift along x and y, coma along x and y, trefoil as cosine and sine."""
    k2 = x**2 + y**2
    return np.stack([x, y, k2 * x, k2 * y, x**3 - 3 * x * y**2, 3 * x**2 * y - y**3])


def even_basis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(9, s): the polynomials of δ: constant, defocus, astigmatism (cosine, sine of 2φ), then of the fourth order 2φ,
    2φ, 4φ, 4φ (cosine, sine each), and spherical aberration."""
    k2, two, cross = x**2 + y**2, x**2 - y**2, 2 * x * y
    return np.stack([np.ones_like(x), k2, two, cross, k2 * two, k2 * cross, two**2 - cross**2, 2 * two * cross, k2**2])


def odd_zernike(value: np.ndarray, edge: float) -> np.ndarray:
    """Coefficients (6,) of odd_basis at frequencies over `edge`, as rlnOddZernike has them."""
    x, y, coma_x, coma_y, cosine, sine = value / edge ** np.array([1, 1, 3, 3, 3, 3])
    return np.array([y + 2 * coma_y / 3, x + 2 * coma_x / 3, sine, coma_y / 3, coma_x / 3, cosine])


def even_zernike(value: np.ndarray, edge: float) -> np.ndarray:
    """Coefficients (9,) of even_basis at frequencies over `edge`, as rlnEvenZernike has them:
    taken off the CTF's phase."""
    v = value / edge ** np.array([0, 2, 2, 2, 4, 4, 4, 4, 4])
    return -np.array([v[0] + v[1] / 2 + v[8] / 3, v[3] + 0.75 * v[5], v[1] / 2 + v[8] / 2, v[2] + 0.75 * v[4], v[7],
                      v[5] / 4, v[8] / 6,
                      v[4] / 4, v[6]])


@dataclass(frozen=True)
class Fit:
    """Coefficients (n,) of a basis, their covariance (n, n), and how well they do (larger is better)."""

    value: np.ndarray
    covariance: np.ndarray
    quality: float


class GroupPhases:
    """The sums of one group, ready to be fitted.

    Parameters
    ----------
    sums : PhaseSums
    shell : (s,) int, which shell each sample is of
    noise : (shells,) float64, mean w|y|² of a sample
    """

    def __init__(self, sums: PhaseSums, shell: np.ndarray, noise: np.ndarray) -> None:
        self.sums, self.shell, self.noise = sums, shell, noise
        self.weight = 1 / noise[shell]
        self.shells = len(noise)

    def odd(self, basis: np.ndarray, start: np.ndarray, delta: np.ndarray, rounds: int = _ROUNDS) -> Fit:
        """φ from `start` on, with δ (s,) as it is, in so many bands that grow from coarse to fine."""
        return self._fit(basis, start, delta, True, rounds)

    def even(self, basis: np.ndarray, start: np.ndarray, phi: np.ndarray, rounds: int = _ROUNDS) -> Fit:
        """δ from `start` on, with φ (s,) as it is, likewise."""
        return self._fit(basis, start, phi, False, rounds)

    def _fit(self, basis, start, other, odd: bool, rounds: int) -> Fit:
        value = np.array(start, np.float64)
        for part in range(1, rounds + 1):
            pick = np.flatnonzero(self.shell <= np.ceil(self.shell.max() * part / rounds))
            ridge = 0.5 / _LEASH**2 if part < rounds else 0.0
            band = GroupPhases(self.sums.at(pick), self.shell[pick], self.noise)
            value, information, quality = band._climb(basis[:, pick], value, other[pick], odd, ridge)
        return Fit(value, np.linalg.inv(2 * information), quality)

    def _climb(self, basis, value, other, odd, ridge):
        """Gauss-Newton, with the scales of the shells profiled out; (coefficients, information, quality)."""
        damping, start = 1e-4, value
        state = self._state(value @ basis, other, odd)
        for _ in range(_STEPS):
            quality, scale, parts, lower = state
            slope, curvature, cross = (self._odd_slopes if odd else self._even_slopes)(parts, scale[self.shell])
            gradient, information = basis @ slope, (basis * curvature) @ basis.T
            # what nothing in the data determines must end with a large error, and not with none
            least = _BLIND * np.diag(information) + 1e-30
            if cross is not None:  # what a change of the shells' scales would do as well
                together = np.stack([np.bincount(self.shell, row * cross, self.shells) for row in basis])
                information = information - (together / lower) @ together.T
            gradient = gradient - ridge * (value - start)
            information = information + np.diag(least + ridge)
            size = np.sqrt(np.maximum(np.diag(information), least))
            scaled = information / np.outer(size, size) + damping * np.eye(len(size))
            step = np.linalg.solve(scaled, gradient / size) / size
            new = self._state((value + step) @ basis, other, odd)
            if (
                new[0] - ridge * np.square(value + step - start).sum()
                < quality - ridge * np.square(value - start).sum()
            ):
                damping *= 10
                if damping > 1e6:
                    break
                continue
            value, state, damping = value + step, new, max(damping / 10, 1e-9)
            if new[0] - quality < 1e-4 and (step**2 @ np.diag(information)) < 1e-4:
                break
        return value, information, state[0]

    def _state(self, phase, other, odd):
        """(quality, s of each shell, A e^{−iφ} split into sine and cosine part, D of each shell)."""
        phi, delta = (phase, other) if odd else (other, phase)
        turn = np.exp(-1j * phi)
        first, second = self.sums.sine * turn, self.sums.cosine * turn
        c, s = np.cos(delta), np.sin(delta)
        explained = c * first.real + s * second.real
        power = c * c * self.sums.ss + 2 * s * c * self.sums.sc + s * s * self.sums.cc
        upper = np.bincount(self.shell, self.weight * explained, self.shells)
        lower = np.bincount(self.shell, self.weight * power, self.shells) + _PRIOR
        scale = upper / lower
        return float((upper * scale).sum()), scale, (first, second, c, s, power), lower

    def _odd_slopes(self, parts, scale):
        first, second, c, s, power = parts
        w = self.weight
        return w * scale * (c * first.imag + s * second.imag), w * scale**2 * power, None

    def _even_slopes(self, parts, scale):
        first, second, c, s, _ = parts
        ss, sc, cc, w = self.sums.ss, self.sums.sc, self.sums.cc, self.weight
        cross = (c * c - s * s) * sc + s * c * (cc - ss)
        slope = scale * (c * second.real - s * first.real) - scale**2 * cross
        return w * slope, w * scale**2 * (s * s * ss - 2 * s * c * sc + c * c * cc), w * scale * cross
