"""The background of an image: the plane a + b·u + c·v through the pixels outside the particle, and the noise about it.

First from medians, which a few pixels cannot move however far off they are: of means of opposite pixels, where ramps
cancel, and of differences of mirrored ones. Then by least squares through all pixels that lie near that plane. And
whether an image can have one.
"""

from __future__ import annotations

import numpy as np
from mpirecon.kernels.cache import njit

#: fraction of a normal distribution within so many standard deviations, and that number:
#: it corrects the first estimate's spread
_MOST, _WITHIN = 0.8, 1.2816

#: pixels farther off than so many deviations do not count: of the first estimate, of the second
FIRST_CLIP, LAST_CLIP = 6.0, 5.0

#: as far as sums may be made in another order; numbers that are not finite stay what they are
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def check_pixels(images, total, varied):
    """The sum of each image's pixels, which is a finite number where all of them are, and whether they differ.

    images : (m, n·n) float32
    total : (m,) float64 and varied : (m,) bool, overwritten. Whether a sum is finite is not asked here: arithmetic whose
        order is free takes that for granted.
    """
    for i in range(images.shape[0]):
        flat = images[i]
        pixels, differs = 0.0, 0
        for p in range(flat.size):
            pixels += flat[p]
            differs |= flat[p] != flat[0]
        total[i], varied[i] = pixels, differs != 0


@njit(nogil=True)
def _select(values, k):
    """The k-th smallest of values (p,), which are put in another order (Hoare 1961)."""
    low, high = 0, values.size - 1
    while low < high:
        pivot, i, j = values[k], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < k:
            low = i
        if k < i:
            high = j
    return values[k]


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def _first(flat, four, four_u, four_v, pairs, spread):
    """(a, b, c, spread about them) of pixels ++, −+, +−, −− in u and v, (4, q);
    pairs (2q,) and spread (4q,) are room to work in."""
    q, middle = four_u.size, four_u.size
    for p in range(q):
        pairs[2 * p] = (np.float64(flat[four[0, p]]) + flat[four[3, p]]) / 2
        pairs[2 * p + 1] = (np.float64(flat[four[1, p]]) + flat[four[2, p]]) / 2
    a = _select(pairs, middle)
    for p in range(q):
        pairs[2 * p] = (np.float64(flat[four[0, p]]) - flat[four[1, p]]) / (2 * four_u[p])
        pairs[2 * p + 1] = (np.float64(flat[four[2, p]]) - flat[four[3, p]]) / (2 * four_u[p])
    b = _select(pairs, middle)
    for p in range(q):
        pairs[2 * p] = (np.float64(flat[four[0, p]]) - flat[four[2, p]]) / (2 * four_v[p])
        pairs[2 * p + 1] = (np.float64(flat[four[1, p]]) - flat[four[3, p]]) / (2 * four_v[p])
    c = _select(pairs, middle)
    total = 0.0
    for p in range(q):
        for corner in range(4):
            u = four_u[p] if corner % 2 == 0 else -four_u[p]
            v = four_v[p] if corner < 2 else -four_v[p]
            spread[4 * p + corner] = abs(flat[four[corner, p]] - (a + b * u + c * v))
            total += spread[4 * p + corner] ** 2
    typical = _select(spread, min(4 * q - 1, int(_MOST * 4 * q))) / _WITHIN
    # of a border that is all but constant, what there is
    return a, b, c, typical if typical > 0 else np.sqrt(total / (4 * q))


@njit(nogil=True, fastmath=_FAST, error_model="numpy")
def _plane_through(residual, u, v, limit):
    """(a, b, c, count) by least squares through the residuals (p,) up to `limit`."""
    one = su = sv = uu = uv = vv = r = ru = rv = np.float32(0)
    for p in range(residual.size):
        kept = abs(residual[p]) <= limit
        w, value = np.float32(1.0 if kept else 0.0), residual[p] if kept else np.float32(0)
        wu, wv = w * u[p], w * v[p]
        one += w
        su += wu
        sv += wv
        uu += wu * u[p]
        uv += wu * v[p]
        vv += wv * v[p]
        r += value
        ru += value * u[p]
        rv += value * v[p]
    n, su, sv, uu, uv, vv = (
        np.float64(one),
        np.float64(su),
        np.float64(sv),
        np.float64(uu),
        np.float64(uv),
        np.float64(vv),
    )
    if n < 3:
        return 0.0, 0.0, 0.0, n
    # about the pixels' centre, where the level is a mean by itself
    mu, mv, mean = su / n, sv / n, r / n
    cuu, cuv, cvv, cru, crv = uu - su * mu, uv - su * mv, vv - sv * mv, ru - r * mu, rv - r * mv
    determinant = cuu * cvv - cuv * cuv
    if determinant <= 1e-6 * n * n:  # they lie in a line: a slope cannot be determined
        return mean, 0.0, 0.0, n
    b, c = (cru * cvv - crv * cuv) / determinant, (crv * cuu - cru * cuv) / determinant
    return mean - b * mu - c * mv, b, c, n


@njit(nogil=True)
def _beyond(residual, limit):
    """How many residuals are beyond a limit; without branches, and so several at a time."""
    count = 0
    for j in range(residual.size):
        count += abs(residual[j]) > limit
    return count


def measure_background(images, outside, u, v, four, four_u, four_v, out) -> None:
    """a, b, c and the standard deviation of the noise of each image, (m, 4) float64; each summed in an order of its
    own, whatever images are beside it.

    images : (m, n·n) float32
    outside : (p,) int64, pixels outside the particle, at u, v (p,) float32
    four : (4, q) int64, pixels of one quarter, at four_u, four_v (q,) float64, and their mirror images in u, in v, and
        in both.
    """
    q, p = four_u.size, outside.size
    _measure_background(images, outside, u, v, four, four_u, four_v, np.empty(2 * q), np.empty(4 * q),
                        np.empty(p, np.float32), out)


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _measure_background(images, outside, u, v, four, four_u, four_v, pairs, spread, residual, out):
    p = outside.size
    for i in range(images.shape[0]):
        flat = images[i]
        a, b, c, sigma = _first(flat, four, four_u, four_v, pairs, spread)
        for j in range(p):
            residual[j] = flat[outside[j]] - (a + b * u[j] + c * v[j])
        for clip in (FIRST_CLIP, LAST_CLIP):
            limit = np.float32(clip * sigma)
            da, db, dc, count = _plane_through(residual, u, v, limit)
            squares = np.float32(0)
            fa, fb, fc = np.float32(da), np.float32(db), np.float32(dc)
            for j in range(p):
                kept = abs(residual[j]) <= limit
                residual[j] -= fa + fb * u[j] + fc * v[j]
                squares += residual[j] * residual[j] if kept else np.float32(0)
            a, b, c = a + da, b + db, c + dc
            sigma = np.sqrt(np.float64(squares) / max(count - 3, 1.0))
            if count == p and _beyond(residual, np.float32(LAST_CLIP * sigma)) == 0:
                break
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = a, b, c, sigma


@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def take_background_off(images, plane, factor, axis):
    """images = (images − plane) · factor, in place; in float64, for a level may be a thousand deviations.

    images : (m, n, n) float32
    plane : (m, 3) float64
    factor : (m,) float64
    axis : (n,) float64, u and v of the pixels
    """
    for i in range(images.shape[0]):
        for y in range(images.shape[1]):
            level = plane[i, 0] + plane[i, 2] * axis[y]
            for x in range(images.shape[2]):
                images[i, y, x] = (images[i, y, x] - (level + plane[i, 1] * axis[x])) * factor[i]
