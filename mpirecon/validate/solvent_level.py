"""Whether two maps stand on a level that a mask makes a shape of, which both then share whatever they show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: a mask below this is solvent
_OUTSIDE = 0.01

#: standard errors by which a level must differ from 0, and voxels that it is measured in
_SIGNIFICANT, _ENOUGH = 5.0, 1_000_000

#: shells that are looked at: the first have most of a mask's power; the very first has too few samples
_FIRST, _LAST = 2, 8

#: share of the masked maps' power that the level makes in one of these shells, from which on it is warned of. Measured:
#: at most 0.01 in maps of `reconstruct`, RELION and the EMDB in masks of any width; of noise in boxes of 32 to 128
#: pixels on a level of a tenth of its standard deviation 0.24 to 1, and about so much of it is the FSC there
_MUCH = 0.1


def level_warning(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None) -> str | None:
    """A warning where both maps (n, n, n) stand on a level of one sign that counts in a mask (n, n, n), 0 … 1."""
    if mask is None or not (solvent := mask < _OUTSIDE).any():
        return None
    pair = (first, second)
    levels = [_level(some[solvent]) for some in pair]
    if any(level is None for level in levels) or not levels[0][0] * levels[1][0] > 0:
        return None
    shape = _lowest_power(len(mask), lambda z: mask[z])
    power = [_lowest_power(len(mask), lambda z, some=some: some[z] * mask[z]) for some in pair]
    both = np.sqrt(power[0] * power[1])
    shares = np.divide(levels[0][0] * levels[1][0] * shape, both, out=np.zeros_like(both), where=both > 0)
    if not shares.size or shares.max() < _MUCH:
        return None
    worst = int(shares.argmax())
    return (f"outside of the mask the maps stand on a level of {_in_words(*levels)}. The mask makes a shape of it that "
            f"both share, whatever they show: {100 * min(1.0, shares[worst]):.0f} % of their power in shell "
            f"{_FIRST + worst} (a warning from {100 * _MUCH:.0f} %), and the FSC in the mask is too high. Subtract the "
            "mean of its solvent from each map first, or take the half maps of a run as they are")


def _level(values: np.ndarray) -> tuple[float, float] | None:
    """(median, standard deviation) of a map's solvent, None where its level is 0 or chance. Not the mean: a
    part of the particle may be outside."""
    values = values[:: max(1, len(values) // _ENOUGH)]
    level, spread = float(np.median(values)), float(values.std(dtype=np.float64))
    return (level, spread) if abs(level) > _SIGNIFICANT * spread / np.sqrt(len(values)) else None


def _in_words(first: tuple[float, float], second: tuple[float, float]) -> str:
    """Levels in the maps' standard deviations there, where they have any."""
    if any(spread <= 1e-6 * abs(level) for level, spread in (first, second)):
        return f"{first[0]:.3g} and {second[0]:.3g}"
    one, other = (f"{level / spread:.3g}" for level, spread in (first, second))
    return f"{one} and {other} of their standard deviations there"


def _lowest_power(n: int, plane: Callable[[int], np.ndarray]) -> np.ndarray:
    """Power of a map of n planes (n, n) in the shells that are looked at, without a transform of all of it."""
    last = min(_LAST, n // 2)
    k = np.arange(-last, last + 1)
    turn = np.exp(-2j * np.pi / n * np.outer(k, np.arange(n)))
    along_x = np.concatenate([turn[last:].real, turn[last:].imag]).T.astype(np.float32)  # real products are faster
    total = np.zeros((len(k), len(k), last + 1), np.complex128)
    for z in range(n):
        real, imaginary = np.split(plane(z) @ along_x, 2, axis=1)
        total += turn[:, z, None, None] * (turn @ (real + 1j * imaginary))
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k[last:] ** 2)).astype(int)
    power = np.where(k[last:] > 0, 2, 1) * np.abs(total) ** 2
    return np.bincount(shell.ravel(), power.ravel())[_FIRST : last + 1]
