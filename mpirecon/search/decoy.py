"""Maps in which no pose is right: of another structure that has a map's power in each shell and fills its mask."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.validate.fsc import shell_index

#: shells that stay as they are: the particle's size, which all structures in the mask share
_KEPT = 2

#: rounds between the mask and the power of each shell; each undoes some of the other
_ROUNDS = 8


def decoy(reference: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A map with random phases within the mask, (n, n, n) float32.

    A mirrored map would not do: its projections are those of the map itself.

    Parameters
    ----------
    reference : (n, n, n) float
        within the mask
    mask : (n, n, n) float32
    """
    n = len(reference)
    shell = shell_index(n, 3)
    given = fft.rfftn(np.asarray(reference, np.float64))
    wanted = _power(given, shell)
    noise = fft.rfftn(rng.standard_normal(reference.shape))
    transform = np.abs(given) * noise / np.maximum(np.abs(noise), 1e-30)
    for _ in range(_ROUNDS):
        transform = np.where(shell < _KEPT, given, transform)
        volume = fft.irfftn(transform, s=reference.shape) * mask
        transform = fft.rfftn(volume)
        transform *= np.sqrt(wanted / np.maximum(_power(transform, shell), 1e-30))[shell]
    return fft.irfftn(np.where(shell < _KEPT, given, transform), s=reference.shape).astype(np.float32)


def _power(transform: np.ndarray, shell: np.ndarray) -> np.ndarray:
    return np.bincount(shell.ravel(), (transform.real**2 + transform.imag**2).ravel())
