"""The Kaiser-Bessel interpolation kernel of the padded Fourier grid: its taps and its transform.

A sample between grid points is a weighted sum of taps³ grid values, after the volume was divided by the kernel's own
transform (deapodisation). Source: Fessler & Sutton 2003, IEEE Trans. Signal Process. 51:560; shape parameter after
Beatty, Nishimura & Pauly 2005, IEEE Trans. Med. Imaging 24:799.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: grid points left free on every side of an extended grid: the reach of the widest kernel (6 taps) and rounding
MARGIN = 4

#: samples whose places are computed together, and ahead of which the cache lines of the next are asked for: enough to
#: hide the memory's latency, few enough for the lines to be in the second cache still
GROUP = 16

#: polynomial degree that keeps the tabulated taps within float32 rounding (6) or well below the kernel's error
DEGREE = {2: 6, 3: 6, 4: 6, 6: 8}


def first_tap(taps: int) -> tuple[int, float]:
    """(reach, beside): the first of `taps` points about a coordinate u is floor(u + beside) − reach; an odd number of
    them lies about the nearest grid point, an even one about the nearest middle between two."""
    return (taps - 1) // 2, 0.5 * (taps % 2)


def _shape_parameter(taps: int, oversampling: float) -> float:
    return np.pi * np.sqrt((taps / oversampling) ** 2 * (oversampling - 0.5) ** 2 - 0.8)


def _transform_unscaled(x: np.ndarray, taps: int, oversampling: float) -> np.ndarray:
    beta = _shape_parameter(taps, oversampling)
    argument = np.sqrt((beta**2 - (np.pi * taps * np.asarray(x, np.float64)) ** 2).astype(np.complex128))
    return taps * np.real(np.sinh(argument) / argument) / np.i0(beta)


def kernel_transform(x: np.ndarray, taps: int, oversampling: float = 2.0) -> np.ndarray:
    """Fourier transform of the kernel at position x (voxels over padded box, |x| ≤ 1/2); 1 at x = 0."""
    return _transform_unscaled(x, taps, oversampling) / _transform_unscaled(np.zeros(1), taps, oversampling)[0]


@lru_cache(maxsize=None)
def kernel_table(taps: int, oversampling: float = 2.0) -> np.ndarray:
    """Polynomial coefficients of each tap, (taps, degree + 1) float32, lowest power first.

    Tap j of a coordinate u sits at grid point floor(u + beside) − reach + j (``first_tap``); its weight is the
    polynomial j at t = u + beside − floor(u + beside) − 1/2.
    """
    if taps not in DEGREE:
        raise ValueError(f"taps must be one of {sorted(DEGREE)}, got {taps}")
    beta = _shape_parameter(taps, oversampling)
    norm = np.i0(beta) * _transform_unscaled(np.zeros(1), taps, oversampling)[0]
    nodes = -0.5 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)  # Chebyshev nodes of [-1/2, 1/2]
    table = np.empty((taps, DEGREE[taps] + 1))
    reach, beside = first_tap(taps)
    for j in range(taps):
        u = j - reach - (nodes + 0.5 - beside)
        values = np.i0(beta * np.sqrt(np.maximum(1 - (2 * u / taps) ** 2, 0))) / norm
        table[j] = np.polynomial.polynomial.polyfit(nodes, values, DEGREE[taps])
    return table.astype(np.float32)
