"""Statistics: yy, yp and pp of every particle in one pass that never stores a projection."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import later, njit
from mpirecon.kernels.gridding import DEGREE, GROUP, MARGIN, first_tap
from mpirecon.kernels.project import frequencies, places, powers_of

gather, locate, prefetch = later("mpirecon.kernels.vectors", "gather", "locate", "prefetch")

#: how |ŷ|², Re conj(V̂)ŷ and |V̂|² are multiplied: for plain images, and for CTF-premultiplied ones by distance
PLAIN, PREMULTIPLIED_WHITENED, PREMULTIPLIED_RAW = 0, 1, 2


@njit(inline="always")
def factors(mode, gain, c):
    """What multiplies |ŷ|², Re conj(V̂)ŷ and |V̂|² of a sample with CTF c; gain holds noise and multiplicity."""
    c2 = c * c
    if mode == PLAIN:  # ‖ŷ − C V̂‖²/ν²
        return gain, gain * c, gain * c2
    if mode == PREMULTIPLIED_WHITENED:  # ŷ = C·y, of noise C²ν²: ‖ŷ − C²V̂‖²/(C²ν²), but for |ŷ|²: see below
        return gain, gain, gain * c2
    return gain, gain * c2, gain * c2 * c2  # ‖ŷ − C²V̂‖²


@njit(inline="always")
def _add(out, band, yy, yp, pp, other_yp, other_pp):
    """Add the sums over some samples of a particle, and those of another map if there is one,
    into out (maps, bands, 3)."""
    out[0, band, 0] += yy
    out[0, band, 1] += yp
    out[0, band, 2] += pp
    if len(out) == 2:
        out[1, band, 1] += other_yp
        out[1, band, 2] += other_pp


def _others(some: np.ndarray, size: int) -> np.ndarray:
    """The numbers below `size` that are not among `some`."""
    others = np.ones(size, bool)
    others[some] = False
    return np.flatnonzero(others)


@lru_cache(maxsize=None)
def make_statistics(taps: int, maps: int = 1):
    """``statistics(grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, out, near=None)``.

    grid … ky as for ``project``, but with 2·maps floats a point: (re, im) of one map, or of two that are compared with
    the same data at the cost of little more than one · data : (m, s) complex64, shift already undone · ctf : (m, s)
    float32 · gain : (s,) float32, multiplicity over noise power · band : (s,) int8, the band that a sample counts in,
    negative for none · mode : PLAIN or one of the premultiplied · out : (m, bands, 3) float64 for one map, (m, 2,
    bands, 3) for two, overwritten with yy, yp, pp of each band; particles first, so that a part of them is an array of
    the same kind as all: Numba compiles for each kind apart, and sums in the order that suits it.

    Whitening premultiplied data would divide |ŷ|² by C², and what little is left at the zeros of C would drown the
    rest. Σ|ŷ|²/(C²ν²) is replaced by Σ|ŷ|²/ν² · Σ1/ΣC² over the band, which has the same mean for noise.
    """
    reach, _ = first_tap(taps)
    last_power = DEGREE[taps]
    components = 2 * maps
    length = components * taps

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def kernel(grid, powers, rotation, ratio, k, q, where, weights, data, ctf, gain, band, mode, near, beyond, out):
        place = where, weights
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        middle = (grid.shape[0] // 2 - reach) * stride_z + (grid.shape[1] // 2 - reach) * stride_y
        origin = middle + components * (MARGIN - reach)
        for i in range(rotation.shape[0]):
            xx, xy = rotation[i, 0, 0] * ratio, rotation[i, 1, 0] * ratio
            yx, yy = rotation[i, 0, 1] * ratio, rotation[i, 1, 1] * ratio
            zx, zy = rotation[i, 0, 2] * ratio, rotation[i, 1, 2] * ratio
            sum_yy = sum_yp = sum_pp = other_yp = other_pp = 0.0
            current = -1
            locate(powers, k, q, 0, xx, xy, yx, yy, zx, zy, stride_z, stride_y, components, 0.0, place, 0, taps,
                   last_power)
            for first in range(0, near.size, GROUP):
                slot, ahead = first & GROUP, (first & GROUP) ^ GROUP
                locate(
                    powers, k, q, first + GROUP, xx, xy, yx, yy, zx, zy, stride_z, stride_y, components, 0.0, place,
                    ahead, taps,
                    last_power,
                )  # fmt: skip
                for j in range(min(GROUP, near.size - first)):
                    s = near[first + j]
                    prefetch(grid, origin + where[ahead + j], stride_z, stride_y, length, taps)
                    b = band[s]
                    if b < 0:
                        continue
                    if b != current:  # neighbours share a band: sums stay in registers until it changes
                        if current >= 0:
                            _add(out[i], current, sum_yy, sum_yp, sum_pp, other_yp, other_pp)
                        sum_yy = sum_yp = sum_pp = other_yp = other_pp = 0.0
                        current = b
                    on_data, on_cross, on_model = factors(mode, gain[s], ctf[i, s])
                    # the other half of the grid is the complex conjugate
                    yre, yim = data[i, s].real, weights[3 * taps, slot + j] * data[i, s].imag
                    values = gather(grid, origin + where[slot + j], stride_z, stride_y, weights, slot + j, components,
                                    taps)
                    sum_yy += on_data * (yre * yre + yim * yim)
                    sum_yp += on_cross * (values[0] * yre + values[1] * yim)
                    sum_pp += on_model * (values[0] * values[0] + values[1] * values[1])
                    if maps == 2:
                        other_yp += on_cross * (values[components - 2] * yre + values[components - 1] * yim)
                        other_pp += on_model * (values[components - 2] ** 2 + values[components - 1] ** 2)
            if current >= 0:
                _add(out[i], current, sum_yy, sum_yp, sum_pp, other_yp, other_pp)
            for s in beyond:
                if band[s] >= 0:
                    out[i, 0, band[s], 0] += factors(mode, gain[s], ctf[i, s])[0] * (
                        data[i, s].real ** 2 + data[i, s].imag ** 2
                    )
            if mode == PREMULTIPLIED_WHITENED:
                for b in range(out.shape[2]):
                    flat = squared = 0.0  # Σ gain, and Σ gain C²
                    for s in range(band.size):
                        if band[s] == b:
                            flat += gain[s]
                            squared += gain[s] * ctf[i, s] ** 2
                    out[i, 0, b, 0] *= flat / squared if squared > 0 else 0.0
            if maps == 2:
                for b in range(out.shape[2]):
                    out[i, 1, b, 0] = out[i, 0, b, 0]

    def statistics(grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, out, near=None):
        near = np.arange(len(kx)) if near is None else near
        out = out if maps == 2 else out[:, None]
        out[...] = 0.0
        kernel(grid, powers_of(table), rotation, ratio, *frequencies(kx[near], ky[near]), *places(taps), data, ctf,
               gain, band, mode, near, _others(near, len(kx)), out)

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
def image_shells(data, multiplicity, shell, out):
    """out[i, k] = power of image i in shell k, (m, shells) float64, summed over the whole plane."""
    out[:] = 0.0
    side_by_side = data.shape[0] // 4 * 4  # a sum waits for the one before it, and those of other images do not
    for i in range(0, side_by_side, 4):
        for s in range(shell.size):
            for j in range(i, i + 4):
                out[j, shell[s]] += multiplicity[s] * (data[j, s].real ** 2 + data[j, s].imag ** 2)
    for i in range(side_by_side, data.shape[0]):
        for s in range(shell.size):
            out[i, shell[s]] += multiplicity[s] * (data[i, s].real ** 2 + data[i, s].imag ** 2)


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
