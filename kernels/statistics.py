"""Statistics: yy, yp and pp of every particle in one pass that never stores a projection (DESIGN section 2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpirecon.kernels.project import make_gather


@lru_cache(maxsize=None)
def make_statistics(taps: int):
    """``statistics(grid, table, rotation, ratio, kx, ky, data, on_data, on_cross, on_model, band, out)``.

    grid … ky as for ``project`` · data : (m, s) complex64, shift already undone · on_data, on_cross, on_model :
    (m, s) float32, what multiplies |ŷ|², Re conj(V̂)ŷ and |V̂|² of a sample (CTF, noise and multiplicity) ·
    band : (s,) int8, the band 0 or 1 that a sample counts in, negative for none · out : (m, 2, 3) float64,
    overwritten with yy, yp, pp of each band.
    """
    gather = make_gather(taps)

    @njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
    def statistics(grid, table, rotation, ratio, kx, ky, data, on_data, on_cross, on_model, band, out):
        scratch = np.empty((5, 2 * taps), np.float32)
        for i in range(rotation.shape[0]):
            r = rotation[i] * ratio
            out[i] = 0.0
            for s in range(kx.size):
                b = band[s]
                if b < 0:
                    continue
                x = r[0, 0] * kx[s] + r[1, 0] * ky[s]
                y = r[0, 1] * kx[s] + r[1, 1] * ky[s]
                z = r[0, 2] * kx[s] + r[1, 2] * ky[s]
                if x < 0:
                    re, im = gather(grid, table, -x, -y, -z, scratch)
                    im = -im
                else:
                    re, im = gather(grid, table, x, y, z, scratch)
                yre, yim = data[i, s].real, data[i, s].imag
                out[i, b, 0] += on_data[i, s] * (yre * yre + yim * yim)
                out[i, b, 1] += on_cross[i, s] * (re * yre + im * yim)
                out[i, b, 2] += on_model[i, s] * (re * re + im * im)

    return statistics
