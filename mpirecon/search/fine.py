"""Gauss–Newton steps of a pose: the turn and offset that raise the matched filter z = yp / √pp most."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit
from mpirecon.search.slices import derivatives

#: how far a step may turn (radians) and move (pixels)
_FARTHEST_TURN, _FARTHEST_MOVE = 0.15, 2.0


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


def displacement(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The w, (…, 3) radians, at most a half turn long, of which ``turned(q, w)`` is r."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    a, b, c, d = np.moveaxis(r, -1, 0)
    # r q⁻¹, in the signs that `turned` has
    real = a * w + b * x + c * y + d * z
    vector = np.stack([b * w - a * x + d * y - c * z, c * w - a * y + b * z - d * x, d * w - a * z + c * x - b * y],
                      axis=-1)
    vector = np.where(np.asarray(real)[..., None] < 0, -vector, vector)
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, np.abs(real)[..., None])
    return vector * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def sums_at(grid, box, kx, ky, data, on_cross, on_model, magnification, q, shift) -> tuple:
    """``derivatives`` of one image at one pose: (yp and pp (2,), gradient (5,), cross (5,), hessian (5, 5))."""
    out = np.empty(2), np.empty(5), np.empty(5), np.empty((5, 5))
    derivatives(grid, _matrix(q), magnification, shift, box, kx, ky, len(kx), data, on_cross, on_model, *out)
    return out


@njit(cache=True, nogil=True)
def _put(values, to):
    """to[:] = values, an element at a time: of whole arrays, Numba compiles what it would say of their shapes, for
    seconds."""
    for i in range(to.size):
        to.flat[i] = values.flat[i]


@njit(cache=True, nogil=True)
def _solve(a, b):
    """b becomes a⁻¹ b by Gauss's elimination; a : (n, n), symmetric and positive, is changed. What nothing determines
    becomes 0. (Numba takes seconds to compile a call of LAPACK.)"""
    n = len(b)
    for i in range(n):
        for j in range(i + 1, n):
            factor = a[j, i] / a[i, i] if a[i, i] > 0 else 0.0
            for k in range(i + 1, n):
                a[j, k] -= factor * a[i, k]
            b[j] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[i, k] * b[k]
        b[i] = b[i] / a[i, i] if a[i, i] > 0 else 0.0


@njit(cache=True, nogil=True)
def _step(here, gradient, cross, h, size, damping, precision):
    """By the residual's normal equations, with the amplitude that fits best; a poor match must not turn it over."""
    amplitude = max(here[0] / here[1], 0.2)
    a = np.empty((size, size))
    b = np.empty(size)
    for j in range(size):
        b[j] = amplitude * gradient[j] - amplitude**2 * cross[j]
        for k in range(size):
            a[j, k] = amplitude**2 * h[j, k]
        a[j, j] += amplitude**2 * damping * h[j, j] + precision[j]
    _solve(a, b)
    return b


@njit(cache=True, nogil=True)
def climb(
    grid, box, kx, ky, count, data, on_cross, on_model, magnification, moves, precision, q, shift, sums, hessian,
    steps=8,
):
    """Climb from poses of one image to the nearest peaks of z, over the first `count` samples.

    magnification : (2, 2) · q : (k, 4), shift : (k, 2) pixels, in place · moves : whether offsets change ·
    precision : (5,) of a prior about turn 0 and offset 0 that keeps steps short · steps : at most · sums : (k, 2) yp,
    pp there · hessian : (k, 5, 5)
    """
    size = 5 if moves else 3
    here, there = np.empty(2), np.empty(2)
    gradient, cross, h = np.empty(5), np.empty(5), np.empty((5, 5))
    gradient2, cross2, h2 = np.empty(5), np.empty(5), np.empty((5, 5))
    for i in range(q.shape[0]):
        derivatives(grid, _matrix(q[i]), magnification, shift[i], box, kx, ky, count, data, on_cross, on_model, here,
                    gradient, cross, h)
        damping = 1e-3
        for _ in range(steps):
            if here[1] <= 0:
                break
            step = _step(here, gradient, cross, h, size, damping, precision)
            turn = np.sqrt((step[:3] ** 2).sum())
            scale = min(1.0, _FARTHEST_TURN / max(turn, 1e-12))
            if moves:
                scale = min(scale, _FARTHEST_MOVE / max(np.sqrt((step[3:] ** 2).sum()), 1e-12))
            step *= scale
            q2, shift2 = turned(q[i], step[:3]), shift[i].copy()
            if moves:
                shift2 += step[3:]
            derivatives(grid, _matrix(q2), magnification, shift2, box, kx, ky, count, data, on_cross, on_model, there,
                        gradient2, cross2, h2)
            if there[0] / np.sqrt(max(there[1], 1e-30)) > here[0] / np.sqrt(here[1]):
                gain = there[0] / np.sqrt(there[1]) - here[0] / np.sqrt(here[1])
                _put(q2, q[i])
                _put(shift2, shift[i])
                here, gradient, cross, h, there, gradient2, cross2, h2 = (there, gradient2, cross2, h2, here, gradient,
                                                                          cross, h)
                damping *= 0.3
                if gain < 1e-3:
                    break
            else:
                damping = max(10 * damping, 0.05)
                if damping > 50:
                    break
        _put(here, sums[i])
        _put(h, hessian[i])


@njit(cache=True, nogil=True)
def _of_group(
    grid, box, kx, ky, count, data, on_cross, on_model, magnification, relation, turn, move, out, gradient, cross,
    hessian,
):
    """``derivatives`` summed over the images of a group: image i has the orientation relation[i] · turn, and is moved
    by the x and y of relation[i] · move; by a turn after `turn`, and by `move`, (6,) and (6, 6)."""
    out[:], gradient[:], cross[:], hessian[:] = 0, 0, 0, 0
    one, g, c, h = np.empty(2), np.empty(5), np.empty(5), np.empty((5, 5))
    by = np.zeros((5, 6))
    for i in range(len(relation)):
        r = relation[i]
        shift = np.array([(r[0] * move).sum(), (r[1] * move).sum()])
        derivatives(grid, np.dot(r, turn), magnification[i], shift, box, kx, ky, count, data[i], on_cross[i],
                    on_model[i], one, g, c, h)
        _put(r, by[:3, :3])
        _put(r[:2], by[3:, 3:])
        out += one
        gradient += np.dot(by.T, g)
        cross += np.dot(by.T, c)
        hessian += np.dot(by.T, np.dot(h, by))


@njit(cache=True, nogil=True)
def climb_together(
    grid, box, kx, ky, count, data, on_cross, on_model, magnification, relation, moves, precision, q, move, sums,
    hessian, steps,
):
    """As ``climb``, of images that share a turn and a move in three dimensions, as ``_of_group`` has it.

    data, on_cross, on_model : (k, s) · magnification : (k, 2, 2) · relation : (k, 3, 3) · q : (c, 4), turns, and
    move : (c, 3) pixels, in place · precision : (6,) · hessian : (c, 6, 6)
    """
    size = 6 if moves else 3
    here, there = np.empty(2), np.empty(2)
    gradient, cross, h = np.empty(6), np.empty(6), np.empty((6, 6))
    gradient2, cross2, h2 = np.empty(6), np.empty(6), np.empty((6, 6))
    for i in range(q.shape[0]):
        _of_group(grid, box, kx, ky, count, data, on_cross, on_model, magnification, relation, _matrix(q[i]), move[i],
                  here, gradient, cross, h)
        damping = 1e-3
        for _ in range(steps):
            if here[1] <= 0:
                break
            step = _step(here, gradient, cross, h, size, damping, precision)
            scale = min(1.0, _FARTHEST_TURN / max(np.sqrt((step[:3] ** 2).sum()), 1e-12))
            if moves:
                scale = min(scale, _FARTHEST_MOVE / max(np.sqrt((step[3:] ** 2).sum()), 1e-12))
            step *= scale
            q2, move2 = turned(q[i], step[:3]), move[i].copy()
            if moves:
                move2 += step[3:]
            _of_group(grid, box, kx, ky, count, data, on_cross, on_model, magnification, relation, _matrix(q2), move2,
                      there, gradient2, cross2, h2)
            gain = there[0] / np.sqrt(max(there[1], 1e-30)) - here[0] / np.sqrt(here[1])
            if gain > 0:
                _put(q2, q[i])
                _put(move2, move[i])
                here, gradient, cross, h, there, gradient2, cross2, h2 = (there, gradient2, cross2, h2, here, gradient,
                                                                          cross, h)
                damping *= 0.3
                if gain < 1e-3:
                    break
            else:
                damping = max(10 * damping, 0.05)
                if damping > 50:
                    break
        _put(here, sums[i])
        _put(h, hessian[i])
