"""What a mask adds to an FSC: the curve of maps whose phases were made random (Chen et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.kernels.shells import turn_phases
from mpirecon.operators.in_place import Inside, half_of_real, inside_of, real_of_half
from mpirecon.validate.fsc import fsc, fsc_of_transforms, masked_transform

#: phases are random from the first shell on where the unmasked FSC is below this
RANDOMISE_BELOW = 0.8

#: shells above that one in which the edge of the randomisation still shows, as in RELION
_MARGIN = 2

#: random phases are drawn until so many voxels were, up to eight times: a small map's curve of one draw is rough
_VOXELS, _MOST_DRAWS = 128**3, 8


@dataclass(frozen=True)
class RandomisedFSC:
    """FSC curves of two maps in a mask, (n // 2 + 1,) float64 each.

    unmasked : of the maps as they are
    masked : FSC_t
    randomised : FSC_n, of the maps with random phases
    true : (FSC_t − FSC_n) / (1 − FSC_n), and FSC_t below shell + 2
    shell : first randomised one; None when there is none
    """

    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    true: np.ndarray
    shell: int | None

    def at(self, place: float | None) -> float | None:
        """FSC_n at a place on the axis of shells (None: the last), between shells linearly;
        None where phases are not random there."""
        last = len(self.randomised) - 1
        place = last if place is None else place
        if self.shell is None or place < self.shell + _MARGIN + 1:
            return None
        return float(np.interp(place, np.arange(last + 1), self.randomised))


def randomise_phases(volume: np.ndarray, shell: int, rng: np.random.Generator) -> np.ndarray:
    """The real map with the amplitudes of `volume`, (n, n, n), and random phases from `shell` on; float32."""
    return np.ascontiguousarray(_randomised(masked_transform(np.asarray(volume, np.float32)), shell, rng))


def _randomised(transform: np.ndarray, shell: int, rng: np.random.Generator) -> np.ndarray:
    """As `randomise_phases`, of the map's half transform, which is overwritten: in its memory, as ``real_of_half``."""
    turn_phases(transform, shell**2, rng.integers(2**64, dtype=np.uint64))
    return real_of_half(transform, len(transform))


def phase_randomised_fsc(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, *, seed: int = 1, draws: int | None = None,
    unmasked: np.ndarray | None = None, masked: np.ndarray | None = None,
    transforms: tuple[np.ndarray, np.ndarray] | None = None,
) -> RandomisedFSC:
    """FSC_true of two half maps in a mask (Chen et al. 2013, Ultramicroscopy 135, 24, equation 4).

    A mask correlates maps by itself, most where it is tight. The correlation that it gives to the same maps with
    random phases, beyond where the unmasked FSC falls below 0.8, is taken off.

    Parameters
    ----------
    a, b : (n, n, n) float, unmasked half maps
    mask : (n, n, n) float, 0 … 1
    seed : int
    draws : how many random phases are averaged over, by default more for small maps
    unmasked, masked : (n // 2 + 1,) the FSC without the mask and in it, where they are known already
    transforms : likewise the half maps' half transforms (n, n, n // 2 + 1) complex64, unmasked
    """
    box = a.shape[0]
    plain = fsc(a, b) if unmasked is None else np.asarray(unmasked)
    masked = fsc(a, b, mask) if masked is None else masked
    below = np.flatnonzero(plain[1:] < RANDOMISE_BELOW)
    if not below.size:
        return RandomisedFSC(plain, masked, masked.copy(), masked.copy(), None)
    shell = int(below[0]) + 1
    draws = draws or int(np.clip(_VOXELS // box**3, 1, _MOST_DRAWS))
    rng = np.random.default_rng([seed, 0xF5C])
    randomised, inside = np.zeros(box // 2 + 1), inside_of(mask)
    for _ in range(draws):
        drawn = [_in_mask(_randomised(copy, shell, rng), mask, inside) for copy in _copies(a, b, transforms)]
        randomised += fsc_of_transforms(*drawn, box) / draws
    return RandomisedFSC(plain, masked, randomised, _true(masked, randomised, shell), shell)


def _in_mask(real: np.ndarray, mask: np.ndarray, inside: Inside) -> np.ndarray:
    real[inside] *= mask[inside]
    return half_of_real(real, inside=inside)


def _copies(a: np.ndarray, b: np.ndarray, transforms: tuple[np.ndarray, np.ndarray] | None):
    """The half maps' transforms, to be overwritten, one after the other."""
    for k, half in enumerate((a, b)):
        yield masked_transform(np.asarray(half, np.float32)) if transforms is None else transforms[k].copy()


def _true(masked: np.ndarray, randomised: np.ndarray, shell: int) -> np.ndarray:
    true = masked.copy()
    n = np.minimum(randomised[shell + _MARGIN :], 1 - 1e-9)
    true[shell + _MARGIN :] = (masked[shell + _MARGIN :] - n) / (1 - n)
    return true
