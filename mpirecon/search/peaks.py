"""The best of many orientations, neighbours weeded out: each peak is one candidate."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit

#: scores looked at for each that is chosen: more than there are orientations on the grid near to one
_EACH = 16


def pick(scores: np.ndarray, quaternion: np.ndarray, cosine: float, chosen: np.ndarray) -> None:
    """For each row the orientations of the highest scores, none nearer to a better one than an angle.

    scores : (b, n) float32 · quaternion : (n, 4) float32 · cosine : of half the angle · chosen : (b, k) int64,
    −1 where fewer are left
    """
    few = min(scores.shape[1], _EACH * chosen.shape[1])
    for row, best in zip(scores, chosen):
        least = np.partition(row, len(row) - few)[len(row) - few]
        high = np.flatnonzero((row >= least) & (row > -np.inf))
        high = high[np.argsort(-row[high], kind="stable")]
        weed(high, quaternion[high], float(cosine), np.ones(len(high), np.bool_), best)


@njit(cache=True, nogil=True)
def weed(high, quaternion, cosine, left, chosen):
    """The first of `high`, (h,) int64, at quaternion (h, 4), that are not near to one before; left : (h,) ones."""
    chosen[:] = -1
    k = 0
    for j in range(len(high)):
        if not left[j]:
            continue
        chosen[k] = high[j]
        k += 1
        if k == len(chosen):
            break
        w, x, y, z = quaternion[j]
        for l in range(j + 1, len(high)):
            q = quaternion[l]
            if abs(w * q[0] + x * q[1] + y * q[2] + z * q[3]) > cosine:
                left[l] = False
