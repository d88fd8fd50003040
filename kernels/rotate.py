"""Rotation and translation in real space, of volumes and images: cubic splines about the centre, voxel n // 2."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.kernels.spline import value_at


@njit(inline="always")
def turned_back(r, a, b, c):
    """(x, y, z) of Rᵀ (a, b, c), for a (3, 3) matrix r."""
    return (
        r[0, 0] * a + r[1, 0] * b + r[2, 0] * c,
        r[0, 1] * a + r[1, 1] * b + r[2, 1] * c,
        r[0, 2] * a + r[1, 2] * b + r[2, 2] * c,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def rotate_volumes(coefficients, rotation, out):
    """out[i](r) = V(Rᵀ r): the volume turned by R.

    coefficients : (n, n, n) float32, spline coefficients of V[z, y, x]
    rotation : (m, 3, 3) float64, of (x, y, z)
    out : (m, n, n, n) float32, overwritten
    """
    n, o = coefficients.shape[0], coefficients.shape[0] // 2
    wz, wy, wx = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(rotation.shape[0]):
        r = rotation[i]
        for z in range(n):
            for y in range(n):
                for x in range(n):
                    a, b, c = float(x - o), float(y - o), float(z - o)
                    px, py, pz = turned_back(r, a, b, c)
                    out[i, z, y, x] = value_at(coefficients, pz + o, py + o, px + o, wz, wy, wx)


@njit(cache=True, nogil=True, error_model="numpy")
def move_images(coefficients, angle, shift, out):
    """out[i](r) = I[i](rotated back by −angle of (r − shift)): each image turned about its centre, then moved.

    coefficients : (m, n, n) float32, spline coefficients of the images
    angle : (m,) float64, radians, from x to y
    shift : (m, 2) float64, pixels (x, y)
    out : (m, n, n) float32, overwritten
    """
    n, o = coefficients.shape[1], coefficients.shape[1] // 2
    wz, wy, wx = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(coefficients.shape[0]):
        cosine, sine = np.cos(angle[i]), np.sin(angle[i])
        for y in range(n):
            for x in range(n):
                a, b = x - o - shift[i, 0], y - o - shift[i, 1]
                # one plane: its value between planes is that at the plane, where a spline weighs 4/6
                value = value_at(coefficients[i : i + 1], 0.0, cosine * b - sine * a + o, cosine * a + sine * b + o, wz,
                                 wy, wx)
                out[i, y, x] = np.float32(1.5) * value
