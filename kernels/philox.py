"""The first number of a Philox stream for each of many keys: NumPy's, without a generator object for each.

Philox 4x64 with 10 rounds: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.cache import njit

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW, _HALF, _UNIT = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)


@njit(cache=True, nogil=True)
def _high(a, b):
    """The upper 64 bits of the product of two 64-bit numbers."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    low, one, two = a0 * b0, a0 * b1, a1 * b0
    middle = (low >> _HALF) + (one & _LOW) + (two & _LOW)
    return a1 * b1 + (one >> _HALF) + (two >> _HALF) + (middle >> _HALF)


@njit(cache=True, nogil=True)
def first_uniform(seed, particles, block, out):
    """What ``Generator(Philox(key=[seed, particle], counter=[0, 0, 0, block])).random()`` gives, into out (m,) float64.

    particles : (m,) uint64; seed, block : uint64
    """
    for i in range(len(particles)):
        k0, k1 = seed, particles[i]
        a, b, c, d = np.uint64(1), np.uint64(0), np.uint64(0), block  # NumPy counts up before the first draw
        for _ in range(10):
            a, b, c, d = _high(_M1, c) ^ b ^ k0, _M1 * c, _high(_M0, a) ^ d ^ k1, _M0 * a
            k0, k1 = k0 + _W0, k1 + _W1
        out[i] = np.float64(a >> _UNIT) * (1.0 / 9007199254740992.0)
