"""Translation: phase ramps on half-plane samples, picked from or put into an image's real FFT."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.ctf import sine_of_turns
from mpirecon.kernels.tiles import rows_of


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _ramp(position, box, first, out):
    """out[j] = exp(2πi (first + j) position / box), complex64."""
    for j in range(out.size):
        turns = (first + j) * position / box
        out[j] = complex(sine_of_turns(turns + 0.25), sine_of_turns(turns))


def gather_translated(spectra, position, kx, ky, out, scale=1.0, rows=None) -> None:
    """out[i, s] = scale · spectra[i](k_s) · exp(+2πi k·position_i / n):
    the image moved so that `position` is the origin.

    spectra : (m, n, n//2 + 1) complex64, rfft2 of the images with the origin at pixel 0
    position : (m, 2) float64, pixels (x, y), what becomes the origin
    kx, ky : (s,) int32
    out : (m, s) complex64
    rows : their ``rows_of``, where they are known
    """
    rows = rows_of(kx, ky) if rows is None else rows
    _gather_translated(spectra, position, kx, ky, rows, scale, *_ramps(spectra.shape[1]), out)


def _ramps(box: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the phases along x and y that an image is moved by."""
    return np.empty(box // 2 + 1, np.complex64), np.empty(2 * box + 1, np.complex64)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gather_translated(spectra, position, kx, ky, bounds, scale, ramp_x, ramp_y, out):
    n = spectra.shape[1]
    for i in range(spectra.shape[0]):
        _ramp(position[i, 0], n, np.int64(0), ramp_x)
        _ramp(position[i, 1], n, -n, ramp_y)
        for r in range(bounds.size - 1):
            first, x, y = bounds[r], kx[bounds[r]], ky[bounds[r]]
            last = x + bounds[r + 1] - first
            # slices have no negative indices, so that LLVM can vectorise the loop
            row, phase, to = spectra[i, y if y >= 0 else y + n, x:last], ramp_x[x:last], out[i, first : bounds[r + 1]]
            turn = np.complex64(scale) * ramp_y[y + n]
            for j in range(to.size):
                re = phase[j].real * turn.real - phase[j].imag * turn.imag
                im = phase[j].real * turn.imag + phase[j].imag * turn.real
                to[j] = complex(row[j].real * re - row[j].imag * im, row[j].real * im + row[j].imag * re)


def translate_samples(samples, shift, box, kx, ky, out, rows=None) -> None:
    """out[i, s] = samples[i, s] · exp(+2πi k·shift_i / n):
    centred samples with what lies `shift` off the centre moved there.

    samples, out : (m, s) complex64, which may be one array
    shift : (m, 2) float64, pixels (x, y); where it is zero, out is the very samples
    box : n
    kx, ky : (s,) int32
    rows : their ``rows_of``, where they are known
    """
    rows = rows_of(kx, ky) if rows is None else rows
    _translate_samples(samples, shift, box, kx, ky, rows, *_ramps(box), out)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _translate_samples(samples, shift, n, kx, ky, bounds, ramp_x, ramp_y, out):
    for i in range(samples.shape[0]):
        if shift[i, 0] == 0 and shift[i, 1] == 0:
            out[i] = samples[i]
            continue
        _ramp(shift[i, 0], n, np.int64(0), ramp_x)
        _ramp(shift[i, 1], n, -n, ramp_y)
        for r in range(bounds.size - 1):
            first, x, turn = bounds[r], kx[bounds[r]], ramp_y[ky[bounds[r]] + n]
            for j in range(bounds[r + 1] - first):
                out[i, first + j] = samples[i, first + j] * (ramp_x[x + j] * turn)


def scatter_translated(samples, position, kx, ky, spectra) -> None:
    """The transpose's twin: spectra[i](k_s) = samples[i, s] · exp(−2πi k·position_i / n), zero elsewhere.

    Arguments as for ``gather_translated``; on the column kx = 0 the mirrored sample is written as well, so that an
    inverse real FFT gives the real image.
    """
    _scatter_translated(samples, position, kx, ky, *_ramps(spectra.shape[1]), spectra)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _scatter_translated(samples, position, kx, ky, ramp_x, ramp_y, spectra):
    n = spectra.shape[1]
    for i in range(spectra.shape[0]):
        spectra[i] = 0
        _ramp(-position[i, 0], n, np.int64(0), ramp_x)
        _ramp(-position[i, 1], n, -n, ramp_y)
        for s in range(kx.size):
            row = ky[s] if ky[s] >= 0 else ky[s] + n
            value = samples[i, s] * (ramp_x[kx[s]] * ramp_y[ky[s] + n])
            spectra[i, row, kx[s]] = value
            if kx[s] == 0 and ky[s] != 0:
                spectra[i, (n - row) % n, 0] = np.conj(value)
