"""Projection in real space: line integrals through a volume, and their exact adjoint."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.rotate import turned_back
from mpirecon.kernels.spline import add_at, value_at


@njit(cache=True, nogil=True, error_model="numpy")
def project_real(coefficients, rotation, out):
    """out[i](x, y) = Σ_t V(Rᵀ (x, y, t)): sums along the viewing direction in steps of a voxel.

    coefficients : (n, n, n) float32, spline coefficients of V[z, y, x], origin n // 2
    rotation : (m, 3, 3) float64
    out : (m, n, n) float32, overwritten
    """
    n, o = coefficients.shape[0], coefficients.shape[0] // 2
    wz, wy, wx = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(rotation.shape[0]):
        r = rotation[i]
        for y in range(n):
            for x in range(n):
                a, b = float(x - o), float(y - o)
                total = 0.0
                for t in range(n):
                    c = float(t - o)
                    px, py, pz = turned_back(r, a, b, c)
                    total += value_at(coefficients, pz + o, py + o, px + o, wz, wy, wx)
                out[i, y, x] = total


@njit(cache=True, nogil=True, error_model="numpy")
def backproject_real(coefficients, rotation, images):
    """Add images (m, n, n) float32 along their lines onto coefficients (n, n, n) float32:
    the transpose of project_real."""
    n, o = coefficients.shape[0], coefficients.shape[0] // 2
    wz, wy, wx = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(rotation.shape[0]):
        r = rotation[i]
        for y in range(n):
            for x in range(n):
                a, b = float(x - o), float(y - o)
                for t in range(n):
                    c = float(t - o)
                    px, py, pz = turned_back(r, a, b, c)
                    add_at(coefficients, pz + o, py + o, px + o, images[i, y, x], wz, wy, wx)
