"""Gauss–Newton steps of a pose: the turn and offset that raise the matched filter z = yp / √pp most."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpirecon.search.slices import derivatives

#: steps at most in one band, and how far a step may turn (radians) and move (pixels)
_STEPS, _FARTHEST_TURN, _FARTHEST_MOVE = 8, 0.15, 2.0


@njit(cache=True, nogil=True)
def turned(q, w):
    """q of exp([w]) R: with R's rows as in model.pose, the quaternion of the turn stands first."""
    angle = np.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
    s = 0.5 if angle < 1e-9 else np.sin(angle / 2) / angle
    a, b, c, d = np.cos(angle / 2), s * w[0], s * w[1], s * w[2]
    out = np.empty(4)
    out[0] = a * q[0] - b * q[1] - c * q[2] - d * q[3]
    out[1] = a * q[1] + b * q[0] + c * q[3] - d * q[2]
    out[2] = a * q[2] - b * q[3] + c * q[0] + d * q[1]
    out[3] = a * q[3] + b * q[2] - c * q[1] + d * q[0]
    return out / np.sqrt((out**2).sum())


@njit(cache=True, nogil=True)
def _matrix(q):
    w, x, y, z = q
    r = np.empty((3, 3))
    r[0, 0], r[0, 1], r[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    r[1, 0], r[1, 1], r[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    r[2, 0], r[2, 1], r[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return r


@njit(cache=True, nogil=True)
def climb(grid, box, kx, ky, count, data, on_cross, on_model, moves, precision, q, shift, sums, hessian):
    """Climb from poses of one image to the nearest peaks of z, over the first `count` samples.

    q : (k, 4), shift : (k, 2) pixels, in place · moves : whether offsets change · precision : (5,) of a prior about turn 0 and
    offset 0 that keeps steps short · sums : (k, 2) yp, pp there · hessian : (k, 5, 5)
    """
    size = 5 if moves else 3
    here, there = np.empty(2), np.empty(2)
    gradient, cross, h = np.empty(5), np.empty(5), np.empty((5, 5))
    gradient2, cross2, h2 = np.empty(5), np.empty(5), np.empty((5, 5))
    for i in range(q.shape[0]):
        derivatives(grid, _matrix(q[i]), shift[i], box, kx, ky, count, data, on_cross, on_model, here, gradient, cross, h)
        damping = 1e-3
        for _ in range(_STEPS):
            if here[1] <= 0:
                break
            # with the amplitude that fits best, the residual's normal equations; a poor match must not turn it over
            amplitude = max(here[0] / here[1], 0.2)
            a = np.empty((size, size))
            b = np.empty(size)
            for j in range(size):
                b[j] = amplitude * gradient[j] - amplitude**2 * cross[j]
                for k in range(size):
                    a[j, k] = amplitude**2 * h[j, k]
                a[j, j] += amplitude**2 * damping * h[j, j] + precision[j]
            step = np.linalg.solve(a, b)
            turn = np.sqrt((step[:3] ** 2).sum())
            scale = min(1.0, _FARTHEST_TURN / max(turn, 1e-12))
            if moves:
                scale = min(scale, _FARTHEST_MOVE / max(np.sqrt((step[3:] ** 2).sum()), 1e-12))
            step *= scale
            q2, shift2 = turned(q[i], step[:3]), shift[i].copy()
            if moves:
                shift2 += step[3:]
            derivatives(grid, _matrix(q2), shift2, box, kx, ky, count, data, on_cross, on_model, there, gradient2, cross2, h2)
            if there[0] / np.sqrt(max(there[1], 1e-30)) > here[0] / np.sqrt(here[1]):
                gain = there[0] / np.sqrt(there[1]) - here[0] / np.sqrt(here[1])
                q[i], shift[i] = q2, shift2
                here[:], gradient[:], cross[:], h[:] = there, gradient2, cross2, h2
                damping *= 0.3
                if gain < 1e-3:
                    break
            else:
                damping = max(10 * damping, 0.05)
                if damping > 50:
                    break
        sums[i], hessian[i] = here, h
