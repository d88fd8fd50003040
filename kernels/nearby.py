"""The best pose near the given one, of every particle, and the log likelihood's curvature about it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpirecon.kernels.cache import later, njit
from mpirecon.kernels.gridding import DEGREE, GROUP, MARGIN, first_tap
from mpirecon.kernels.project import powers_of
from mpirecon.kernels.statistics import factors

gather_gradient, prefetch = later("mpirecon.kernels.vectors", "gather_gradient", "prefetch")

#: longest step of the search, radians: beyond it the likelihood is no parabola any more
_LONGEST_STEP = 0.2


@njit(cache=True, nogil=True, error_model="numpy")
def turned(q, rotation, out):
    """out = the rotation (3, 3) followed by the turn of the unit quaternion q (w, x, y, z)."""
    w, x, y, z = q
    turn = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    for c in range(3):
        a, b, d = rotation[0, c], rotation[1, c], rotation[2, c]
        for r in range(3):
            out[r, c] = turn[r][0] * a + turn[r][1] * b + turn[r][2] * d


@njit(cache=True, nogil=True, error_model="numpy")
def newton_step(turn, slope, curvature, precision, q):
    """One damped step towards the maximum of L(δ) − precision·|δ|²/2, from δ = turn; turn and q are updated.

    turn : (3,) rotation vector, radians
    slope : (3,) of L
    curvature : (6,) of −L, as xx, xy, xz, yy, yz, zz
    q : (4,), the quaternion of turn.
    """
    xx, yy, zz = curvature[0] + precision, curvature[3] + precision, curvature[5] + precision
    xy, xz, yz = curvature[1], curvature[2], curvature[4]
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy  # cofactors of a symmetric matrix
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    determinant = xx * a + xy * b + xz * c
    gx, gy, gz = slope[0] - precision * turn[0], slope[1] - precision * turn[1], slope[2] - precision * turn[2]
    sx = (a * gx + b * gy + c * gz) / determinant
    sy = (b * gx + d * gy + e * gz) / determinant
    sz = (c * gx + e * gy + f * gz) / determinant
    length = np.sqrt(sx * sx + sy * sy + sz * sz)
    if not length > 0:
        return
    angle = min(length, _LONGEST_STEP)
    w, k = np.cos(angle / 2), np.sin(angle / 2) / length
    sx, sy, sz = k * sx, k * sy, k * sz
    q0, q1, q2, q3 = q
    q[0] = w * q0 - sx * q1 - sy * q2 - sz * q3
    q[1] = w * q1 + sx * q0 + sy * q3 - sz * q2
    q[2] = w * q2 - sx * q3 + sy * q0 + sz * q1
    q[3] = w * q3 + sx * q2 - sy * q1 + sz * q0
    sine = np.sqrt(q[1] ** 2 + q[2] ** 2 + q[3] ** 2)
    k = 2 * np.arctan2(sine, q[0]) / max(sine, 1e-12)
    for i in range(3):
        turn[i] = k * q[1 + i]


@njit(cache=True, nogil=True, error_model="numpy")
def turn_all(q, rotation, out):
    """out[i] = rotation[i] (m, 3, 3) followed by the turn of the unit quaternion q[i] (m, 4),
    for a kernel elsewhere."""
    for i in range(rotation.shape[0]):
        turned(q[i], rotation[i], out[i])


@njit(cache=True, nogil=True, error_model="numpy")
def step_all(turn, g, h, precision, q):
    """Newton's step of every particle, from the slopes (m, 3) and curvatures (m, 6) that a kernel elsewhere found."""
    for i in range(turn.shape[0]):
        newton_step(turn[i], g[i], h[i], precision, q[i])


@lru_cache(maxsize=None)
def make_nearby(taps: int):
    """``nearby(grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, highest, precision, turn, sums,
    slope, curvature)``: Newton's method on L = Σ yp − pp/2 over turns δ of the pose, L(δ) less a Gaussian prior's
    |δ|²·precision/2.

    grid … mode as for ``statistics`` · highest : (steps,) int64, the highest band that each look at the images uses;
    after all but the last a step is taken · precision : of the prior, 1/radian². Overwritten, of each particle:

    turn : (m, 3) float64, δ, the rotation vector in the image's frame of the turn that follows the given rotation
    sums : (m, bands, 2), yp and pp there
    slope : (m, 3), ∂L/∂δ there
    curvature : (m, 6), Gauss and Newton's Σ Re ∂p*∂p as xx, xy, xz, yy, yz, zz.

    A turn by δ moves the sample k to k − δ × k: along z for turns about x and y, within the image for those about z.
    """
    reach, beside = first_tap(taps)
    last_power = DEGREE[taps]
    length = 2 * taps

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def kernel(
        grid, powers, rotation, kx, ky, data, ctf, gain, band, mode, highest, precision, r, q, turn, sums, slope,
        curvature
    ):
        stride_y = grid.shape[2]
        stride_z = grid.shape[1] * stride_y
        origin = (
            (grid.shape[0] // 2 - reach) * stride_z + (grid.shape[1] // 2 - reach) * stride_y + 2 * (MARGIN - reach)
        )
        for i in range(rotation.shape[0]):
            g, h = slope[i], curvature[i]
            q[0], q[1], q[2], q[3] = 1.0, 0.0, 0.0, 0.0
            for step in range(highest.size):
                turned(q, rotation[i], r)
                for c in range(6):
                    h[c] = 0.0
                    g[c // 2] = 0.0
                for b in range(sums.shape[1]):
                    sums[i, b, 0] = sums[i, b, 1] = 0.0
                for s in range(kx.size):
                    ahead = s + GROUP
                    if ahead < kx.size and 0 <= band[ahead] <= highest[step]:
                        u, v = kx[ahead], ky[ahead]
                        x = r[0, 0] * u + r[1, 0] * v
                        y = r[0, 1] * u + r[1, 1] * v
                        z = r[0, 2] * u + r[1, 2] * v
                        if x < 0:
                            x, y, z = -x, -y, -z
                        where = (
                            int(np.floor(z + beside)) * stride_z
                            + int(np.floor(y + beside)) * stride_y
                            + 2 * int(np.floor(x + beside))
                        )
                        prefetch(grid, origin + where, stride_z, stride_y, length, taps)
                    b = band[s]
                    if b < 0 or b > highest[step]:
                        continue
                    u, v = kx[s], ky[s]
                    x = r[0, 0] * u + r[1, 0] * v
                    y = r[0, 1] * u + r[1, 1] * v
                    z = r[0, 2] * u + r[1, 2] * v
                    sign = np.float32(-1 if x < 0 else 1)
                    x, y, z = sign * x, sign * y, sign * z
                    x, y, z = x + beside, y + beside, z + beside
                    floor_x, floor_y, floor_z = np.floor(x), np.floor(y), np.floor(z)
                    where = int(floor_z) * stride_z + int(floor_y) * stride_y + 2 * int(floor_x)
                    re, im, x_re, x_im, y_re, y_im, z_re, z_im = gather_gradient(
                        grid, powers, origin + where, stride_z, stride_y, np.float32(x - floor_x - 0.5),
                        np.float32(y - floor_y - 0.5), np.float32(z - floor_z - 0.5), taps, last_power,
                    )  # fmt: skip
                    # the other half is the complex conjugate:
                    # its real part's slope changes sign, the imaginary's does not
                    im *= sign
                    out_re = sign * (r[2, 0] * x_re + r[2, 1] * y_re + r[2, 2] * z_re)
                    out_im = r[2, 0] * x_im + r[2, 1] * y_im + r[2, 2] * z_im
                    ax, ay, az = r[0, 0] * v - r[1, 0] * u, r[0, 1] * v - r[1, 1] * u, r[0, 2] * v - r[1, 2] * u
                    in_re = sign * (ax * x_re + ay * y_re + az * z_re)
                    in_im = ax * x_im + ay * y_im + az * z_im
                    _, on_cross, on_model = factors(mode, gain[s], ctf[i, s])
                    # ∂L = Re ∂p* (y − p): what the data say beyond the model
                    d_re, d_im = on_cross * data[i, s].real, on_cross * data[i, s].imag
                    sums[i, b, 0] += re * d_re + im * d_im
                    sums[i, b, 1] += on_model * (re * re + im * im)
                    d_re -= on_model * re
                    d_im -= on_model * im
                    out = out_re * d_re + out_im * d_im
                    g[0] -= v * out
                    g[1] += u * out
                    g[2] += in_re * d_re + in_im * d_im
                    out = on_model * (out_re * out_re + out_im * out_im)
                    mixed = on_model * (out_re * in_re + out_im * in_im)
                    h[0] += v * v * out
                    h[1] -= u * v * out
                    h[2] -= v * mixed
                    h[3] += u * u * out
                    h[4] += u * mixed
                    h[5] += on_model * (in_re * in_re + in_im * in_im)
                if step < highest.size - 1:
                    newton_step(turn[i], g, h, precision, q)

    def nearby(
        grid, table, rotation, ratio, kx, ky, data, ctf, gain, band, mode, highest, precision, turn, sums, slope,
        curvature
    ):
        turn[...] = 0.0
        kernel(grid, powers_of(table), rotation * ratio, kx, ky, data, ctf, gain, band, mode, highest, precision,
               np.empty((3, 3)), np.empty(4), turn, sums, slope, curvature)

    return nearby
