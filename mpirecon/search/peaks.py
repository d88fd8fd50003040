"""The best of many orientations, neighbours weeded out: each peak is one candidate."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit

#: scores looked at for each that is chosen: more than there are orientations on the grid near to one
_EACH = 16


@njit(cache=True, nogil=True)
def pick(scores, quaternion, cosine, chosen):
    """For each row the orientations of the highest scores, none nearer to a better one than an angle.

    scores : (b, n) float32 · quaternion : (n, 4) float32 · cosine : of half the angle · chosen : (b, k) int64,
    −1 where fewer are left
    """
    b, n = scores.shape
    few = min(n, _EACH * chosen.shape[1])
    for i in range(b):
        row = scores[i]
        least = np.partition(row, n - few)[n - few]
        high = np.flatnonzero((row >= least) & (row > -np.inf))
        high = high[np.argsort(-row[high], kind="mergesort")]
        left = np.ones(len(high), np.bool_)
        chosen[i] = -1
        k = 0
        for j in range(len(high)):
            if not left[j]:
                continue
            chosen[i, k] = high[j]
            k += 1
            if k == chosen.shape[1]:
                break
            w, x, y, z = quaternion[high[j]]
            for l in range(j + 1, len(high)):
                q = quaternion[high[l]]
                if abs(w * q[0] + x * q[1] + y * q[2] + z * q[3]) > cosine:
                    left[l] = False
