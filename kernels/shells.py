"""Kernels over half transforms (n, n, n//2 + 1), in ``scipy.fft.rfftn`` order,
of maps that are compared or filtered by shell.

Shell s holds the samples whose integer radius |k| rounds to s, s = 0 … n // 2; what lies beyond belongs to none.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.ctf import sine_of_turns
from mpirecon.kernels.radial import row_room, shells_of_row


def correlate_shells(a, b, sums) -> None:
    """Add Σ Re a b*, Σ|a|², Σ|b|² over the full transform into sums (3, n//2 + 1) float64; a, b : complex, or real."""
    _correlate_shells(a, b, row_room(a.shape[2]), sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _correlate_shells(a, b, shell, sums):
    n, width = a.shape[0], a.shape[2]
    for kz in range(n):
        for ky in range(n):
            shells_of_row(kz, ky, n, 1.0, np.int32(width), shell)
            for kx in range(width):
                s = shell[kx]
                if s == width:
                    break
                friedel = 1.0 if kx == 0 or 2 * kx == n else 2.0
                p, q = a[kz, ky, kx], b[kz, ky, kx]
                sums[0, s] += friedel * (p.real * q.real + p.imag * q.imag)
                sums[1, s] += friedel * (p.real * p.real + p.imag * p.imag)
                sums[2, s] += friedel * (q.real * q.real + q.imag * q.imag)


def scale_shells(spectrum, gain) -> None:
    """Multiply each shell by its gain, in place; gain : (n//2 + 2,) float32, the last that of everything beyond."""
    _scale_shells(spectrum, gain, row_room(spectrum.shape[2]))


@njit(cache=True, nogil=True, error_model="numpy")
def _scale_shells(spectrum, gain, shell):
    n = spectrum.shape[0]
    beyond = np.int32(gain.size - 1)
    for kz in range(n):
        for ky in range(n):
            shells_of_row(kz, ky, n, 1.0, beyond, shell)
            for kx in range(shell.size):
                spectrum[kz, ky, kx] *= gain[shell[kx]]


@njit(inline="always")
def _turns(key, index):
    """A number in [0, 1) for each index, from the bits of splitmix64 (Steele, Lea & Flood 2014)."""
    z = key + np.uint64(index) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.float64(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True, error_model="numpy")
def turn_phases(spectrum, radius2, key):
    """Turn the phase of every sample with |k|² ≥ radius2 by a random angle, in place;
    mates stay each other's conjugates.

    key : uint64, which angles. A sample that is its own mate stays real and changes its sign, or not.
    """
    n = spectrum.shape[0]
    for kz in range(n):
        z = kz - n if kz > n // 2 else kz
        for ky in range(n):
            y = ky - n if ky > n // 2 else ky
            here, mate = kz * n + ky, (n - kz) % n * n + (n - ky) % n
            for kx in range(spectrum.shape[2]):
                if z * z + y * y + kx * kx < radius2:
                    continue
                # on these two planes both mates are stored, and take the angle of the first of them
                twice = kx == 0 or 2 * kx == n
                turns = _turns(key, (min(here, mate) if twice else here) * spectrum.shape[2] + kx)
                if twice and here == mate:
                    turns = 0.0 if turns < 0.5 else 0.5
                elif twice and mate < here:
                    turns = -turns
                spectrum[kz, ky, kx] *= complex(sine_of_turns(turns + 0.25), sine_of_turns(turns))


@njit(inline="always")
def _bin(x, y, z, top, first, cells):
    """``coverage.bin_of`` of one direction."""
    if z < 0:
        x, y, z = -x, -y, -z
    ring, beyond = 0, top.size  # the last whose top is not below z; top descends
    while beyond - ring > 1:
        middle = (ring + beyond) // 2
        if top[middle] >= z:
            ring = middle
        else:
            beyond = middle
    turn = np.arctan2(y, x) / (2 * np.pi)
    turn = turn + 1 if turn < 0 else turn
    return first[ring] + min(int(turn * cells[ring]), cells[ring] - 1)


def correlate_cells(a, b, top, cells, sums) -> None:
    """As ``correlate_shells``, apart for each cell of the half sphere: sums (cells, n//2 + 1, 3) float64;
    shell 0 is left out.

    top, cells : of ``coverage.view_bins``
    """
    _correlate_cells(a, b, top, cells.cumsum() - cells, cells, row_room(a.shape[2]), sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _correlate_cells(a, b, top, first, cells, shell, sums):
    n, width = a.shape[0], a.shape[2]
    for kz in range(n):
        z = kz - n if 2 * kz >= n else kz
        for ky in range(n):
            y = ky - n if 2 * ky >= n else ky
            shells_of_row(kz, ky, n, 1.0, np.int32(width), shell)
            for kx in range(width):
                s = shell[kx]
                if s == width:
                    break
                if s == 0:
                    continue
                friedel = 1.0 if kx == 0 or 2 * kx == n else 2.0
                length = np.sqrt(float(z * z + y * y + kx * kx))
                to = sums[_bin(kx / length, y / length, z / length, top, first, cells), s]
                p, q = a[kz, ky, kx], b[kz, ky, kx]
                to[0] += friedel * (p.real * q.real + p.imag * q.imag)
                to[1] += friedel * (p.real * p.real + p.imag * p.imag)
                to[2] += friedel * (q.real * q.real + q.imag * q.imag)
