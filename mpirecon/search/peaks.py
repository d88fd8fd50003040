"""The best of many orientations, neighbours weeded out: each peak is one candidate."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pick(scores, quaternion, cosine, chosen):
    """For each row the orientations of the highest scores, none nearer to a better one than an angle.

    scores : (b, n) float32, overwritten · quaternion : (n, 4) float32 · cosine : of half the angle · chosen : (b, k) int64,
    −1 where fewer are left
    """
    b, n = scores.shape
    for i in range(b):
        row = scores[i]
        for k in range(chosen.shape[1]):
            best = 0
            for j in range(1, n):
                if row[j] > row[best]:
                    best = j
            if row[best] == -np.inf:
                chosen[i, k:] = -1
                break
            chosen[i, k] = best
            w, x, y, z = quaternion[best]
            for j in range(n):
                if row[j] > -np.inf:
                    q = quaternion[j]
                    if abs(w * q[0] + x * q[1] + y * q[2] + z * q[3]) > cosine:
                        row[j] = -np.inf
