"""Cubic B-splines: interpolation of sampled images and volumes in real space.

Samples are turned into spline coefficients once (``coefficients``, its own adjoint); values between them are then sums
of four coefficients an axis. Coefficients outside the array are zero. Source: Unser 1999, IEEE Signal Process.
Mag. 16(6):22.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.kernels.cache import njit


def coefficients(samples: np.ndarray, axes: tuple[int, ...], workers: int = 1) -> np.ndarray:
    """Spline coefficients of samples that repeat periodically along `axes`, the last of them halved by the real FFT."""
    spectrum = fft.rfftn(np.asarray(samples, np.float32), axes=axes, workers=workers)
    spectrum *= coefficient_filter([samples.shape[a] for a in axes])
    return fft.irfftn(spectrum, s=[samples.shape[a] for a in axes], axes=axes, workers=workers).astype(np.float32)


def coefficient_filter(shape: list[int]) -> np.ndarray:
    """What ``coefficients`` multiplies a real FFT of that shape with: 1 / Π (2 + cos ω) / 3, float32."""
    out = np.ones((), np.float32)
    for axis, n in enumerate(shape):
        frequency = np.fft.rfftfreq(n) if axis == len(shape) - 1 else np.fft.fftfreq(n)
        factor = 3 / (2 + np.cos(2 * np.pi * frequency))
        out = out[..., None] * factor.astype(np.float32)
    return out


@njit(inline="always")
def spline_weights(t, out):
    """Weights of the coefficients at floor − 1 … floor + 2 for a point t above the floor, t in [0, 1)."""
    s = np.float32(1) - t
    out[0] = s * s * s / np.float32(6)
    out[1] = (np.float32(4) - np.float32(6) * t * t + np.float32(3) * t * t * t) / np.float32(6)
    out[2] = (np.float32(4) - np.float32(6) * s * s + np.float32(3) * s * s * s) / np.float32(6)
    out[3] = t * t * t / np.float32(6)


@njit(inline="always")
def value_at(c, z, y, x, wz, wy, wx):
    """The spline with coefficients c (nz, ny, nx) at a point; w… : (4,) float32 scratch."""
    fz, fy, fx = np.floor(z), np.floor(y), np.floor(x)
    iz, iy, ix = int(fz) - 1, int(fy) - 1, int(fx) - 1
    total = np.float32(0)
    if iz <= -4 or iy <= -4 or ix <= -4 or iz >= c.shape[0] or iy >= c.shape[1] or ix >= c.shape[2]:
        return total
    spline_weights(np.float32(z - fz), wz)
    spline_weights(np.float32(y - fy), wy)
    spline_weights(np.float32(x - fx), wx)
    for jz in range(max(0, -iz), min(4, c.shape[0] - iz)):
        for jy in range(max(0, -iy), min(4, c.shape[1] - iy)):
            w = wz[jz] * wy[jy]
            for jx in range(max(0, -ix), min(4, c.shape[2] - ix)):
                total += w * wx[jx] * c[iz + jz, iy + jy, ix + jx]
    return total


@njit(inline="always")
def add_at(c, z, y, x, value, wz, wy, wx):
    """The adjoint of ``value_at``: spread a value onto the coefficients."""
    fz, fy, fx = np.floor(z), np.floor(y), np.floor(x)
    iz, iy, ix = int(fz) - 1, int(fy) - 1, int(fx) - 1
    if iz <= -4 or iy <= -4 or ix <= -4 or iz >= c.shape[0] or iy >= c.shape[1] or ix >= c.shape[2]:
        return
    spline_weights(np.float32(z - fz), wz)
    spline_weights(np.float32(y - fy), wy)
    spline_weights(np.float32(x - fx), wx)
    for jz in range(max(0, -iz), min(4, c.shape[0] - iz)):
        for jy in range(max(0, -iy), min(4, c.shape[1] - iy)):
            w = wz[jz] * wy[jy] * value
            for jx in range(max(0, -ix), min(4, c.shape[2] - ix)):
                c[iz + jz, iy + jy, ix + jx] += w * wx[jx]
