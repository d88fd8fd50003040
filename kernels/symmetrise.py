"""Sum of a folded accumulator over rotations that map the cubic grid onto itself: exact, in place."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit


def symmetrise(folded, signed) -> None:
    """folded[k] ← Σ_h folded[h k] over a group of signed permutations.

    folded : (p, p, p//2 + 1, 3) float32 or int64, (re, im, weight) at [kz, ky, kx], the other half its Friedel mates
    signed : (h, 3, 3) int64, rows and columns x, y, z. The points that the group maps onto each other are summed once,
        from the one that stands first, and all are given the sum.
    """
    h = signed.shape[0]
    _symmetrise(folded, signed, np.empty((h, 3), np.int64), np.empty(h, np.bool_))


@njit(cache=True, nogil=True, error_model="numpy")
def _symmetrise(folded, signed, at, mate):
    """at, mate : room for the stored points of an orbit, z, y, x"""
    p, half = folded.shape[0], folded.shape[2]
    h = signed.shape[0]
    for kz in range(p):
        for ky in range(p):
            for kx in range(half):
                here = (kz * p + ky) * half + kx
                first = True
                for g in range(h):
                    m = signed[g]
                    x = (m[0, 0] * kx + m[0, 1] * ky + m[0, 2] * kz) % p
                    y = (m[1, 0] * kx + m[1, 1] * ky + m[1, 2] * kz) % p
                    z = (m[2, 0] * kx + m[2, 1] * ky + m[2, 2] * kz) % p
                    mate[g] = x >= half
                    if mate[g]:
                        x, y, z = p - x, -y % p, -z % p
                    if (z * p + y) * half + x < here:
                        first = False
                        break
                    at[g, 0], at[g, 1], at[g, 2] = z, y, x
                if not first:
                    continue
                re = im = w = folded.dtype.type(0)
                for g in range(h):
                    value = folded[at[g, 0], at[g, 1], at[g, 2]]
                    re += value[0]
                    im += -value[1] if mate[g] else value[1]
                    w += value[2]
                for g in range(h):
                    value = folded[at[g, 0], at[g, 1], at[g, 2]]
                    value[0], value[1], value[2] = re, -im if mate[g] else im, w
