"""Central slices of a map and their derivatives by the pose, interpolated linearly on a grid twice as fine."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit

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
    corrected = (volume / (damp[:, None, None] * damp[:, None] * damp) / (box or n)).astype(np.float32)
    k = np.arange(-reach, reach + 1)
    # separable sums: only the low frequencies are wanted
    wave = np.exp(-2j * np.pi * np.outer(k, np.arange(n) - n // 2) / (PADDING * n)).astype(np.complex64)
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
def derivatives(
    grid, r, magnification, shift, box, kx, ky, count, data, on_cross, on_model, yp_out, gradient, cross, hessian
):
    """Sums over the first `count` samples for one image at one pose, and their derivatives by it.

    With m = p(RᵀMk) the slice, M (2, 2) being the magnification of the image's optics, and u = exp(2πi k·shift/n) ŷ
    the image moved back: yp = Σ a Re(conj(m) u) and pp = Σ b |m|², a and b being on_cross and on_model; by a turn ω of
    the image's frame (R → exp([ω]) R) and the shift:

    yp_out : (2,) yp, pp · gradient : (5,) ∂yp · cross : (5,) ∂pp / 2 · hessian : (5, 5) Σ b Re(conj(∂m) ∂m), the
    model moved by the shift rather than the image
    """
    # what the interpolation reads first, sample by sample; then sums along rows, which the compiler makes vectors of
    m, d = np.empty((2, count), np.float32), np.empty((5, 2, count), np.float32)
    _with_slopes(grid, r, magnification, kx, ky, m, d)
    u = np.empty((2, count), np.float32)
    _moved_back(data, kx, ky, shift[0] / box, shift[1] / box, u)
    unit = np.float32(2 * np.pi / box)
    yp, pp = 0.0, 0.0
    for s in range(count):
        # the model at this shift is m exp(−2πi k·shift/n): its derivative, in the frame where the image is moved back
        d[3, 0, s], d[3, 1, s] = unit * kx[s] * m[1, s], -unit * kx[s] * m[0, s]
        d[4, 0, s], d[4, 1, s] = unit * ky[s] * m[1, s], -unit * ky[s] * m[0, s]
        yp += on_cross[s] * (m[0, s] * u[0, s] + m[1, s] * u[1, s])
        pp += on_model[s] * (m[0, s] * m[0, s] + m[1, s] * m[1, s])
    yp_out[0], yp_out[1] = yp, pp
    for i in range(5):
        x, y, of_yp, of_pp = d[i, 0], d[i, 1], 0.0, 0.0
        for s in range(count):
            of_yp += on_cross[s] * (x[s] * u[0, s] + y[s] * u[1, s])
            of_pp += on_model[s] * (x[s] * m[0, s] + y[s] * m[1, s])
        gradient[i], cross[i] = of_yp, of_pp
        for j in range(i + 1):
            x2, y2, of_both = d[j, 0], d[j, 1], 0.0
            for s in range(count):
                of_both += on_model[s] * (x[s] * x2[s] + y[s] * y2[s])
            hessian[i, j] = hessian[j, i] = of_both


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _moved_back(data, kx, ky, x, y, out):
    """out : (2, count), real and imaginary part of exp(2πi (kx x + ky y)) ŷ."""
    reach = 0
    for s in range(out.shape[1]):
        reach = max(reach, abs(kx[s]), abs(ky[s]))
    along_x, along_y = np.empty((2 * reach + 1, 2), np.float32), np.empty((2 * reach + 1, 2), np.float32)
    for i in range(2 * reach + 1):
        a, b = 2 * np.pi * (i - reach) * x, 2 * np.pi * (i - reach) * y
        along_x[i, 0], along_x[i, 1], along_y[i, 0], along_y[i, 1] = np.cos(a), np.sin(a), np.cos(b), np.sin(b)
    for s in range(out.shape[1]):
        i, j = kx[s] + reach, ky[s] + reach
        cos = along_x[i, 0] * along_y[j, 0] - along_x[i, 1] * along_y[j, 1]
        sin = along_x[i, 0] * along_y[j, 1] + along_x[i, 1] * along_y[j, 0]
        re, im = data[s].real, data[s].imag
        out[0, s], out[1, s] = re * cos - im * sin, re * sin + im * cos


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _with_slopes(grid, r, magnification, kx, ky, m, d):
    """The slice, (2, count), and d[:3], its derivatives by a turn of the image's frame: real and imaginary parts."""
    middle = grid.shape[0] // 2
    m00, m01 = np.float32(magnification[0, 0]), np.float32(magnification[0, 1])
    m10, m11 = np.float32(magnification[1, 0]), np.float32(magnification[1, 1])
    for s in range(m.shape[1]):
        k0, k1 = np.float32(kx[s]), np.float32(ky[s])
        k0, k1 = m00 * k0 + m01 * k1, m10 * k0 + m11 * k1
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
        gz = ce - ab
        gy = (b - a) * (1 - fz) + (e - c) * fz
        gx = ((v001 - v000) * (1 - fy) + (v011 - v010) * fy) * (1 - fz) + ((v101 - v100) * (1 - fy)
                                                                           + (v111 - v110) * fy) * fz
        value = ab + gz * fz
        m[0, s], m[1, s] = value.real, value.imag
        # δx = −2 Rᵀ(ω × Mk): components of the gradient along the image's axes; ω × k = (−ω2 k1, ω2 k0, ω0 k1 − ω1 k0)
        g0 = 2 * (np.float32(r[0, 0]) * gx + np.float32(r[0, 1]) * gy + np.float32(r[0, 2]) * gz)
        g1 = 2 * (np.float32(r[1, 0]) * gx + np.float32(r[1, 1]) * gy + np.float32(r[1, 2]) * gz)
        g2 = 2 * (np.float32(r[2, 0]) * gx + np.float32(r[2, 1]) * gy + np.float32(r[2, 2]) * gz)
        d[0, 0, s], d[0, 1, s] = -k1 * g2.real, -k1 * g2.imag
        d[1, 0, s], d[1, 1, s] = k0 * g2.real, k0 * g2.imag
        d[2, 0, s], d[2, 1, s] = k1 * g0.real - k0 * g1.real, k1 * g0.imag - k0 * g1.imag
