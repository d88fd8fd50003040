"""Inner products of a map's transform with the sums of normal equations, over a grid of which half is stored."""

from __future__ import annotations

from mpirecon.kernels.cache import njit
from mpirecon.kernels.sphere import numbers_of


def cross_product(spectrum, folded, out, first: int, last: int) -> None:
    """Add Σ Re conj(spectrum) · numerator over the whole grid to out[0].

    spectrum : (p, last − first, p//2 + 1) complex64, the rows ky first … last − 1
    folded : (p, p, p//2 + 1, 3) float32, whole or packed
    out : (1,) float64
    """
    _cross_product(spectrum, *numbers_of(folded), out, first, last)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _cross_product(spectrum, values, start, length, out, first, last):
    p = start.shape[0]
    for kz in range(p):
        for ky in range(first, last):
            at, here, row = start[kz, ky], length[kz, ky] // 3, spectrum[kz, ky - first]
            some = alone = 0.0
            for kx in range(here):
                some += row[kx].real * values[at + 3 * kx] + row[kx].imag * values[at + 3 * kx + 1]
            for kx in (0, p // 2):  # their own Friedel mates
                if kx < here:
                    alone += row[kx].real * values[at + 3 * kx] + row[kx].imag * values[at + 3 * kx + 1]
            out[0] += 2 * some - alone


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def weighted_power(spectrum, transfer, out, first, last):
    """Add Σ transfer · |spectrum|² over the whole grid to out[0].

    spectrum : (p, last − first, p//2 + 1) complex64, the rows ky first … last − 1
    transfer : (p, p, p//2 + 1) float32
    out : (1,) float64
    """
    p = transfer.shape[0]
    for kz in range(p):
        for ky in range(first, last):
            weight, row = transfer[kz, ky], spectrum[kz, ky - first]
            some = alone = 0.0
            for kx in range(p // 2 + 1):
                some += weight[kx] * (row[kx].real * row[kx].real + row[kx].imag * row[kx].imag)
            for kx in (0, p // 2):  # their own Friedel mates
                alone += weight[kx] * (row[kx].real * row[kx].real + row[kx].imag * row[kx].imag)
            out[0] += 2 * some - alone
