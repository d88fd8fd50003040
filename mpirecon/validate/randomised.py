"""What a mask adds to an FSC: the curve of maps whose phases were made random (Chen et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from mpirecon.validate.fsc import fsc, fsc_of_transforms

#: phases are random from the first shell on where the unmasked FSC is below this
RANDOMISE_BELOW = 0.8

#: shells above that one in which the edge of the randomisation still shows, as in RELION
_MARGIN = 2

#: random phases are drawn until so many voxels were, up to eight times: a small map's curve of one draw is rough
_VOXELS, _MOST_DRAWS = 128**3, 8


@dataclass(frozen=True)
class RandomisedFSC:
    """FSC curves of two maps in a mask, (n // 2 + 1,) float64 each.

    unmasked : of the maps as they are · masked : FSC_t · randomised : FSC_n, of the maps with random phases ·
    true : (FSC_t − FSC_n) / (1 − FSC_n), and FSC_t below shell + 2 · shell : first randomised one; None when there is none
    """

    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    true: np.ndarray
    shell: int | None


def randomise_phases(volume: np.ndarray, shell: int, rng: np.random.Generator) -> np.ndarray:
    """The real map with the amplitudes of `volume`, (n, n, n), and random phases from `shell` on; float32."""
    box = volume.shape[0]
    k = scipy.fft.rfftn(np.asarray(volume, np.float32))
    # the phases of a real white-noise map are uniform and have the symmetry that a real map needs
    noise = scipy.fft.rfftn(rng.standard_normal(volume.shape, np.float32))
    beyond = squared_radius(box) >= shell**2
    noise = noise[beyond]
    k[beyond] = np.abs(k[beyond]) * (noise / np.maximum(np.abs(noise), np.finfo(np.float32).tiny))
    return scipy.fft.irfftn(k, s=volume.shape).astype(np.float32)


def squared_radius(box: int) -> np.ndarray:
    """k² of every sample of a half transform, (box, box, box // 2 + 1) float32."""
    k2 = scipy.fft.fftfreq(box, 1 / box).astype(np.float32) ** 2
    return k2[:, None, None] + k2[:, None] + np.arange(box // 2 + 1, dtype=np.float32) ** 2


def phase_randomised_fsc(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, *, seed: int = 1, draws: int | None = None,
    unmasked: np.ndarray | None = None,
) -> RandomisedFSC:
    """FSC_true of two half maps in a mask (Chen et al. 2013, Ultramicroscopy 135, 24, equation 4).

    A mask correlates maps by itself, most where it is tight. The correlation that it gives to the same maps with
    random phases, beyond where the unmasked FSC falls below 0.8, is taken off.

    Parameters
    ----------
    a, b : (n, n, n) float, unmasked half maps
    mask : (n, n, n) float, 0 … 1
    seed : int · draws : how many random phases are averaged over, by default more for small maps ·
    unmasked : (n // 2 + 1,) the unmasked FSC, where it is known already
    """
    box = a.shape[0]
    plain = fsc(a, b) if unmasked is None else np.asarray(unmasked)
    masked = fsc(a, b, mask)
    below = np.flatnonzero(plain[1:] < RANDOMISE_BELOW)
    if not below.size:
        return RandomisedFSC(plain, masked, masked.copy(), masked.copy(), None)
    shell = int(below[0]) + 1
    draws = draws or int(np.clip(_VOXELS // box**3, 1, _MOST_DRAWS))
    rng = np.random.default_rng([seed, 0xF5C])
    randomised = np.zeros(box // 2 + 1)
    for _ in range(draws):
        fa, fb = (scipy.fft.rfftn(randomise_phases(half, shell, rng) * mask) for half in (a, b))
        randomised += fsc_of_transforms(fa, fb, box) / draws
    return RandomisedFSC(plain, masked, randomised, _true(masked, randomised, shell), shell)


def _true(masked: np.ndarray, randomised: np.ndarray, shell: int) -> np.ndarray:
    true = masked.copy()
    n = np.minimum(randomised[shell + _MARGIN :], 1 - 1e-9)
    true[shell + _MARGIN :] = (masked[shell + _MARGIN :] - n) / (1 - n)
    return true
