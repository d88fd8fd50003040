"""Statistics: yy, yp and pp of every particle in one pass that never stores a projection (DESIGN section 2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.gridding import DEGREE
from mpirecon.kernels.project import gather


#: how |ŷ|², Re conj(V̂)ŷ and |V̂|² are multiplied: for plain images, and for CTF-premultiplied ones by distance
PLAIN, PREMULTIPLIED_WHITENED, PREMULTIPLIED_RAW = 0, 1, 2


@njit(inline="always")
def _factors(mode, gain, c):
    """What multiplies |ŷ|², Re conj(V̂)ŷ and |V̂|² of a sample with CTF c; gain holds noise and multiplicity."""
    c2 = c * c
    if mode == PLAIN:  # ‖ŷ − C V̂‖²/ν²
        return gain, gain * c, gain * c2
    if mode == PREMULTIPLIED_WHITENED:  # ŷ = C·y, of noise C²ν²: ‖ŷ − C²V̂‖²/(C²ν²), but for |ŷ|²: see below
        return gain, gain, gain * c2
    return gain, gain * c2, gain * c2 * c2  # ‖ŷ − C²V̂‖²


@lru_cache(maxsize=None)
def make_statistics(taps: int):
    """``statistics(grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, out)``.

    grid … ky as for ``project`` · data : (m, s) complex64, shift already undone · ctf : (m, s) float32 · gain :
    (s,) float32, multiplicity over noise power · band : (s,) int8, the band that a sample counts in, negative for
    none · mode : PLAIN or one of the premultiplied · out : (m, bands, 3) float64, overwritten with yy, yp, pp of each
    band.

    Whitening premultiplied data would divide |ŷ|² by C², and what little is left at the zeros of C would drown the
    rest. Σ|ŷ|²/(C²ν²) is replaced by Σ|ŷ|²/ν² · Σ1/ΣC² over the band, which has the same mean for noise.
    """
    last = DEGREE[taps]

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def statistics(grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, out):
        scratch = np.empty((5, 2 * taps), np.float32)
        flat, squared = np.empty(out.shape[1]), np.empty(out.shape[1])  # Σ gain, and Σ gain C²
        for i in range(rotation.shape[0]):
            r = rotation[i] * ratio
            out[i] = flat[:] = squared[:] = 0.0
            for s in range(kx.size):
                b = band[s]
                if b < 0:
                    continue
                x = r[0, 0] * kx[s] + r[1, 0] * ky[s]
                y = r[0, 1] * kx[s] + r[1, 1] * ky[s]
                z = r[0, 2] * kx[s] + r[1, 2] * ky[s]
                if x < 0:
                    re, im = gather(grid, table, -x, -y, -z, scratch, taps, last)
                    im = -im
                else:
                    re, im = gather(grid, table, x, y, z, scratch, taps, last)
                on_data, on_cross, on_model = _factors(mode, gain[s], ctf[i, s])
                yre, yim = data[i, s].real, data[i, s].imag
                out[i, b, 0] += on_data * (yre * yre + yim * yim)
                out[i, b, 1] += on_cross * (re * yre + im * yim)
                out[i, b, 2] += on_model * (re * re + im * im)
                flat[b] += gain[s]
                squared[b] += gain[s] * ctf[i, s] ** 2
            if mode == PREMULTIPLIED_WHITENED:
                for b in range(out.shape[1]):
                    out[i, b, 0] *= flat[b] / squared[b] if squared[b] > 0 else 0.0

    return statistics


@njit(cache=True, nogil=True, error_model="numpy")
def image_power(data, ctf, multiplicity, premultiplied, out):
    """out[i] = mean power of image i over its samples, (m,) float64.

    Of premultiplied images, whose noise has the variance C², the mean is over Σ C².
    """
    for i in range(data.shape[0]):
        power = count = 0.0
        for s in range(multiplicity.size):
            m = multiplicity[s]
            power += m * (data[i, s].real ** 2 + data[i, s].imag ** 2)
            count += m * ctf[i, s] ** 2 if premultiplied else m
        out[i] = power / count if count > 0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def shell_power(data, ctf, weight, multiplicity, shell, premultiplied, power, count):
    """Add each sample's weighted power to power[shell] and what it is worth to count[shell], both float64.

    weight : (m,) float64 per image, 0 leaves it out · a premultiplied sample is worth C² (its noise has that
    variance), any other 1; multiplicities count.
    """
    for i in range(data.shape[0]):
        if weight[i] <= 0:
            continue
        for s in range(shell.size):
            m = multiplicity[s]
            power[shell[s]] += weight[i] * m * (data[i, s].real ** 2 + data[i, s].imag ** 2)
            count[shell[s]] += m * ctf[i, s] ** 2 if premultiplied else m
