"""Contrast-transfer function on half-plane samples."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit


@njit(inline="always", fastmath=True)
def sine_of_turns(turns):
    """sin(2π·turns) in float32 to 2e-7: reduced to ±1/4 turn, then an odd polynomial; vectorises, libm does not."""
    u = turns - np.floor(turns + 0.5)
    u = np.float32(u)
    if u > np.float32(0.25):
        u = np.float32(0.5) - u
    elif u < np.float32(-0.25):
        u = np.float32(-0.5) - u
    a = np.float32(6.283185307179586) * u
    b = a * a
    p = np.float32(-2.5052108e-8)
    p = p * b + np.float32(2.7557319e-6)
    p = p * b + np.float32(-1.9841270e-4)
    p = p * b + np.float32(8.3333333e-3)
    p = p * b + np.float32(-1.6666667e-1)
    return a + a * b * p


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def evaluate_ctf(coefficients, kx, ky, out):
    """out[i, s] = CTF of particle i at sample s.

    coefficients : (m, 8) float64 per particle: turns per kx², kx·ky, ky², |k|⁴ (k in pixels of the image's transform),
        constant turns, scale, envelope exponent per |k|², 1 where the sine's sign was taken off the image (its phases
        were flipped)
    kx, ky : (s,) int32
    out : (m, s) float32.
    """
    for i in range(coefficients.shape[0]):
        a, b, c, d = coefficients[i, 0], coefficients[i, 1], coefficients[i, 2], coefficients[i, 3]
        constant, scale, envelope = coefficients[i, 4], coefficients[i, 5], coefficients[i, 6]
        for s in range(kx.size):
            x, y = float(kx[s]), float(ky[s])
            k2 = x * x + y * y
            turns = a * x * x + b * x * y + c * y * y + d * k2 * k2 + constant
            out[i, s] = np.float32(scale) * sine_of_turns(turns)
        if coefficients[i, 7] != 0.0:
            for s in range(kx.size):
                out[i, s] = np.float32(np.copysign(1.0, scale)) * abs(out[i, s])
        if envelope != 0.0:
            for s in range(kx.size):
                k2 = float(kx[s]) * kx[s] + float(ky[s]) * ky[s]
                out[i, s] *= np.float32(np.exp(envelope * k2))


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def evaluate_aberrated_ctf(coefficients, kx, ky, row, magnification, turns, out):
    """As evaluate_ctf, at the magnified frequencies M·k, with more phase.

    row : (m,) int64, each particle's row of magnification (g, 2, 2) float64 and turns (g, s) float32, which are added
        to the phase.
    """
    for i in range(coefficients.shape[0]):
        a, b, c, d = coefficients[i, 0], coefficients[i, 1], coefficients[i, 2], coefficients[i, 3]
        constant, scale, envelope = coefficients[i, 4], coefficients[i, 5], coefficients[i, 6]
        more, m = turns[row[i]], magnification[row[i]]
        for s in range(kx.size):
            x = m[0, 0] * kx[s] + m[0, 1] * ky[s]
            y = m[1, 0] * kx[s] + m[1, 1] * ky[s]
            k2 = x * x + y * y
            value = sine_of_turns(a * x * x + b * x * y + c * y * y + d * k2 * k2 + constant + more[s])
            if coefficients[i, 7] != 0.0:
                value = abs(value)
            value *= np.float32(scale)
            if envelope != 0.0:
                value *= np.float32(np.exp(envelope * k2))
            out[i, s] = value
