"""Translation: phase ramps on half-plane samples, picked from or put into an image's real FFT."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy")
def _ramp(position, box, first, out):
    """out[j] = exp(2πi (first + j) position / box), complex64."""
    for j in range(out.size):
        angle = 2.0 * np.pi * ((first + j) * position / box)
        out[j] = complex(np.cos(angle), np.sin(angle))


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def gather_translated(spectra, position, kx, ky, out):
    """out[i, s] = spectra[i](k_s) · exp(+2πi k·position_i / n): the image moved so that `position` is the origin.

    spectra : (m, n, n//2 + 1) complex64, rfft2 of the images with the origin at pixel 0 · position : (m, 2)
    float64, pixels (x, y), what becomes the origin · kx, ky : (s,) int32 · out : (m, s) complex64.
    """
    n = spectra.shape[1]
    ramp_x = np.empty(spectra.shape[2], np.complex64)
    ramp_y = np.empty(2 * n + 1, np.complex64)
    for i in range(spectra.shape[0]):
        _ramp(position[i, 0], n, 0, ramp_x)
        _ramp(position[i, 1], n, -n, ramp_y)
        for s in range(kx.size):
            row = ky[s] if ky[s] >= 0 else ky[s] + n
            out[i, s] = spectra[i, row, kx[s]] * (ramp_x[kx[s]] * ramp_y[ky[s] + n])


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def scatter_translated(samples, position, kx, ky, spectra):
    """The transpose's twin: spectra[i](k_s) = samples[i, s] · exp(−2πi k·position_i / n), zero elsewhere.

    Arguments as for ``gather_translated``; on the column kx = 0 the mirrored sample is written as well, so that
    an inverse real FFT gives the real image.
    """
    n = spectra.shape[1]
    ramp_x = np.empty(spectra.shape[2], np.complex64)
    ramp_y = np.empty(2 * n + 1, np.complex64)
    for i in range(spectra.shape[0]):
        spectra[i] = 0
        _ramp(-position[i, 0], n, 0, ramp_x)
        _ramp(-position[i, 1], n, -n, ramp_y)
        for s in range(kx.size):
            row = ky[s] if ky[s] >= 0 else ky[s] + n
            value = samples[i, s] * (ramp_x[kx[s]] * ramp_y[ky[s] + n])
            spectra[i, row, kx[s]] = value
            if kx[s] == 0 and ky[s] != 0:
                spectra[i, (n - row) % n, 0] = np.conj(value)
