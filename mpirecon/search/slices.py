"""Central slices of a map and their derivatives by the pose, interpolated linearly on a grid twice as fine."""

from __future__ import annotations

import numpy as np
from numba import njit

#: side of the grid over the box
PADDING = 2


def slice_grid(volume: np.ndarray, limit: int, box: int | None = None) -> np.ndarray:
    """The transform of a map at frequencies below `limit` pixels⁻¹, on a grid of half pixels with 0 in its middle.

    Parameters
    ----------
    volume : (n, n, n) float32
    limit : int
        Fourier pixels, at most n / 2
    box : int, optional
        of the images, where the map has larger voxels than they have pixels

    Returns
    -------
    (g, g, g) complex64, g = 4 · limit + 5, orthonormal as the images' transforms are
    """
    n = len(volume)
    reach = 2 * limit + 2
    x = (np.arange(n) - n // 2) / (PADDING * n)
    damp = np.sinc(x) ** 2  # what linear interpolation does to the map
    corrected = np.asarray(volume, np.float64) / (damp[:, None, None] * damp[:, None] * damp) / (box or n)
    k = np.arange(-reach, reach + 1)
    # separable sums: only the low frequencies are wanted
    wave = np.exp(-2j * np.pi * np.outer(k, np.arange(n) - n // 2) / (PADDING * n))
    half = np.einsum("kx,zyx->zyk", wave[reach:], corrected, optimize=True)
    half = np.einsum("jy,zyk->zjk", wave, half, optimize=True)
    half = np.einsum("iz,zjk->ijk", wave, half, optimize=True)
    out = np.empty((len(k),) * 3, np.complex64)
    out[:, :, reach:] = half
    out[:, :, :reach] = half[::-1, ::-1, :0:-1].conj()
    return out


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def cut(grid, rotation, kx, ky, out):
    """Slices at rotations (m, 3, 3): out (m, s) complex64 = grid at 2 Rᵀ(kx, ky, 0)."""
    middle = grid.shape[0] // 2
    for i in range(rotation.shape[0]):
        r = rotation[i]
        for s in range(kx.size):
            x = 2 * (r[0, 0] * kx[s] + r[1, 0] * ky[s]) + middle
            y = 2 * (r[0, 1] * kx[s] + r[1, 1] * ky[s]) + middle
            z = 2 * (r[0, 2] * kx[s] + r[1, 2] * ky[s]) + middle
            ix, iy, iz = int(x), int(y), int(z)
            fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
            a = grid[iz, iy, ix] * (1 - fx) + grid[iz, iy, ix + 1] * fx
            b = grid[iz, iy + 1, ix] * (1 - fx) + grid[iz, iy + 1, ix + 1] * fx
            c = grid[iz + 1, iy, ix] * (1 - fx) + grid[iz + 1, iy, ix + 1] * fx
            d = grid[iz + 1, iy + 1, ix] * (1 - fx) + grid[iz + 1, iy + 1, ix + 1] * fx
            out[i, s] = (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def derivatives(grid, r, shift, box, kx, ky, count, data, on_cross, on_model, yp_out, gradient, cross, hessian):
    """Sums over the first `count` samples for one image at one pose, and their derivatives by it.

    With m = p(Rᵀk) the slice and u = exp(2πi k·shift/n) ŷ the image moved back:
    yp = Σ a Re(conj(m) u) and pp = Σ b |m|², a and b being on_cross and on_model; by a turn ω of the image's frame
    (R → exp([ω]) R) and the shift:

    yp_out : (2,) yp, pp · gradient : (5,) ∂yp · cross : (5,) ∂pp / 2 · hessian : (5, 5) Σ b Re(conj(∂m) ∂m), the
    model moved by the shift rather than the image
    """
    middle = grid.shape[0] // 2
    yp_out[:] = 0
    gradient[:] = 0
    cross[:] = 0
    hessian[:] = 0
    d = np.empty(5, np.complex64)
    wx, wy = 2 * np.pi * shift[0] / box, 2 * np.pi * shift[1] / box
    unit = np.float32(2 * np.pi / box)
    for s in range(count):
        k0, k1 = kx[s], ky[s]
        x = 2 * (r[0, 0] * k0 + r[1, 0] * k1) + middle
        y = 2 * (r[0, 1] * k0 + r[1, 1] * k1) + middle
        z = 2 * (r[0, 2] * k0 + r[1, 2] * k1) + middle
        ix, iy, iz = int(x), int(y), int(z)
        fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
        v000, v001 = grid[iz, iy, ix], grid[iz, iy, ix + 1]
        v010, v011 = grid[iz, iy + 1, ix], grid[iz, iy + 1, ix + 1]
        v100, v101 = grid[iz + 1, iy, ix], grid[iz + 1, iy, ix + 1]
        v110, v111 = grid[iz + 1, iy + 1, ix], grid[iz + 1, iy + 1, ix + 1]
        a, b = v000 + (v001 - v000) * fx, v010 + (v011 - v010) * fx
        c, e = v100 + (v101 - v100) * fx, v110 + (v111 - v110) * fx
        ab, ce = a + (b - a) * fy, c + (e - c) * fy
        m = ab + (ce - ab) * fz
        gz = ce - ab
        gy = (b - a) * (1 - fz) + (e - c) * fz
        gx = ((v001 - v000) * (1 - fy) + (v011 - v010) * fy) * (1 - fz) + ((v101 - v100) * (1 - fy) + (v111 - v110) * fy) * fz
        # δx = −2 Rᵀ(ω × k): components of the gradient along the image's axes
        g0 = 2 * (r[0, 0] * gx + r[0, 1] * gy + r[0, 2] * gz)
        g1 = 2 * (r[1, 0] * gx + r[1, 1] * gy + r[1, 2] * gz)
        g2 = 2 * (r[2, 0] * gx + r[2, 1] * gy + r[2, 2] * gz)
        # ω × k = (−ω2 k1, ω2 k0, ω0 k1 − ω1 k0)
        d[0] = -k1 * g2
        d[1] = k0 * g2
        d[2] = k1 * g0 - k0 * g1
        # the model at this shift is m exp(−2πi k·shift/n): its derivative, in the frame where the image is moved back
        d[3] = -1j * (unit * k0) * m
        d[4] = -1j * (unit * k1) * m
        phase = wx * k0 + wy * k1
        u = data[s] * complex(np.cos(phase), np.sin(phase))
        on_yp, on_pp = on_cross[s], on_model[s]
        yp_out[0] += on_yp * (m.real * u.real + m.imag * u.imag)
        yp_out[1] += on_pp * (m.real * m.real + m.imag * m.imag)
        for i in range(5):
            gradient[i] += on_yp * (d[i].real * u.real + d[i].imag * u.imag)
            cross[i] += on_pp * (d[i].real * m.real + d[i].imag * m.imag)
            for j in range(i + 1):
                hessian[i, j] += on_pp * (d[i].real * d[j].real + d[i].imag * d[j].imag)
    for i in range(5):
        for j in range(i):
            hessian[j, i] = hessian[i, j]
