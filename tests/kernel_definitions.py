"""What kernels are compared with: sums as they are defined, in double precision, and the cases they are tried on."""

import math
from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import iv
from scipy.stats import special_ortho_group

from mpirecon.kernels.fold import extended_shape
from mpirecon.kernels.gridding import MARGIN
from mpirecon.operators.half_plane import HalfPlane

TAPS = [2, 3, 4, 6]

#: largest error of a tap's polynomial, as tabulated; the kernel's own error is 5e-2, 1e-2, 1e-3 and 1e-5
TABLE_ERROR = {2: 2e-5, 3: 1e-5, 4: 6e-6, 6: 1e-7}

#: largest error of a sum over taps³ of them in float32, of the largest sample
SUM_ERROR = {2: 1e-4, 3: 6e-5, 4: 3e-5, 6: 2e-6}


def kaiser_bessel(u, taps):
    """The interpolation kernel, not normalised; its shape parameter is that of a 2× padded grid."""
    beta = math.pi * math.sqrt((taps / 2) ** 2 * 1.5**2 - 0.8)
    return iv(0, beta * np.sqrt(np.maximum(1 - (2 * np.asarray(u) / taps) ** 2, 0)))


@lru_cache(maxsize=None)
def integral(taps, frequency=0.0):
    return quad(lambda u: kaiser_bessel(u, taps) * math.cos(2 * math.pi * u * frequency), -taps / 2, taps / 2)[0]


def weights_on_axis(u, p, taps):
    """Kernel about coordinate u on a periodic axis of p points; a tap at exactly +taps/2 counts, one at −taps/2 not."""
    out = np.zeros(p)
    for g in range(math.floor(u) - taps, math.floor(u) + taps + 1):
        if -taps / 2 < g - u <= taps / 2:
            out[g % p] += kaiser_bessel(g - u, taps) / integral(taps)
    return out


def weights_on_grid(rotation, ratio, kx, ky, p, taps):
    """Weight of every periodic grid point [z, y, x] in a particle's sample (kx, ky), which lies at Rᵀ(kx, ky, 0)."""
    x, y, z = ratio * (rotation.T @ np.array([kx, ky, 0.0]))
    sign = -1 if x < 0 else 1  # where taps tie (integer coordinates), the stored half decides
    axes = [weights_on_axis(sign * u, p, taps) for u in (z, y, x)]
    grid = np.einsum("z,y,x->zyx", *axes)
    return mirrored(grid) if sign < 0 else grid


def mirrored(array):
    """array[−z, −y, −x] on the periodic grid."""
    return np.roll(array[::-1, ::-1, ::-1], 1, axis=(0, 1, 2))


def hermitian_grid(p, seed=0):
    """Transform of a random real volume, full (p, p, p) complex128."""
    return np.fft.fftn(np.random.default_rng(seed).standard_normal((p, p, p)))


def half(full):
    return np.ascontiguousarray(full[..., : full.shape[0] // 2 + 1])


def extended(full, components=2):
    """What ``extend`` must give: every point of the larger grid holds the periodic value."""
    p = full.shape[0]
    shape = extended_shape(p, components)
    z, y, x = (np.arange(n) - o for n, o in zip((shape[0], shape[1], shape[2] // components),
                                               (p // 2 + MARGIN, p // 2 + MARGIN, MARGIN)))
    return full[np.ix_(z % p, y % p, x % p)]


def interleaved(values):
    return np.stack([values.real, values.imag], axis=-1).reshape(*values.shape[:2], -1).astype(np.float32)


def rotations(m, seed=1):
    return special_ortho_group.rvs(3, size=m, random_state=seed).reshape(m, 3, 3)


def problem(box, p, taps, m=3, seed=3):
    """Rotations, half plane and slices of a random grid by definition, (m, s) complex128."""
    plane, rotation, full = HalfPlane.of(box), rotations(m, seed), hermitian_grid(p, seed)
    ratio = p / box
    slices = np.array(
        [[np.sum(weights_on_grid(r, ratio, kx, ky, p, taps) * full) for kx, ky in zip(plane.kx, plane.ky)]
         for r in rotation]
    )  # fmt: skip
    return plane, rotation, full, ratio, slices


TYPICAL = dict(voltage_kv=300.0, defocus_u=15000.0, defocus_v=15000.0, cs_mm=2.7, amplitude_contrast=0.1)

CTF_CASES = {
    "typical": TYPICAL,
    "no aberration": {**TYPICAL, "cs_mm": 0.0, "amplitude_contrast": 0.0},
    "astigmatic": {**TYPICAL, "defocus_v": 11000.0, "astigmatism": 0.7},
    "astigmatic, turned back": {**TYPICAL, "defocus_v": 11000.0, "astigmatism": -2.1},
    "phase plate": {**TYPICAL, "phase_shift": math.pi / 2},
    "overfocus": {**TYPICAL, "defocus_u": -9000.0, "defocus_v": -12000.0, "astigmatism": 0.3},
    "damped": {**TYPICAL, "bfactor": 60.0},
    "scaled": {**TYPICAL, "scale": 0.37},
    "inverted": {**TYPICAL, "scale": -1.0},
    "all amplitude": {**TYPICAL, "amplitude_contrast": 1.0},
    "120 kV, large Cs, far defocus": {**TYPICAL, "voltage_kv": 120.0, "cs_mm": 6.3, "defocus_u": 60000.0},
}
