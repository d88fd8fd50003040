"""A built-in test object: three unequal lobes of Gaussian blobs, without any symmetry, so that its hand shows."""

from __future__ import annotations

import numpy as np

from mpirecon.model.draws import particle_rng
from mpirecon.simulation.density import band_limit

_BLOBS = 1500
_WIDTHS = (0.003, 0.020)  # standard deviations, fractions of the box: detail at every scale down to box 256

#: centre (x, y, z) and half axes of each lobe, fractions of the box; blobs are shared out by volume
_LOBES = np.array(
    [
        [[0.04, -0.05, -0.10], [0.27, 0.20, 0.18]],
        [[0.08, 0.16, 0.22], [0.15, 0.13, 0.12]],
        [[-0.26, -0.06, 0.13], [0.09, 0.06, 0.16]],
    ]
)


#: where the third lobe is in the second conformation: turned by 40° about the first one's z axis
_SECOND = (-0.183, -0.251, 0.13)


def phantom(box: int, second: bool = False) -> np.ndarray:
    """The phantom, or its second conformation, sampled in a box, (box, box, box) float32, positive up to ringing,
    zero near the box's faces.

    It is the same object in every box: lengths are fractions of the box, and what a coarse grid cannot hold is cut off
    in Fourier space (``band_limit``), never aliased.
    """
    centre, width, mass = _blobs(second)
    x, y, z = (_periodic_gaussians(centre[:, axis], width, box) for axis in range(3))
    volume = np.zeros((box * box, box), np.float32)
    for chunk in np.array_split(np.arange(_BLOBS), 1 + box**2 * _BLOBS // 2**24):
        planes = np.einsum("jz,jy->zyj", z[chunk] * mass[chunk, None], y[chunk]).reshape(box * box, -1)
        volume += planes.astype(np.float32) @ x[chunk].astype(np.float32)
    return band_limit(volume.reshape(box, box, box), edge=max(2.0, box / 8))


def _blobs(second: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (j, 3), widths (j,) and masses (j,) of all blobs, in box units."""
    middle = np.array([*_LOBES[:2, 0], _SECOND]) if second else _LOBES[:, 0]
    lobe_volume = _LOBES[:, 1].prod(axis=1)
    lobe = np.searchsorted(np.cumsum(lobe_volume) / lobe_volume.sum(), (np.arange(_BLOBS) + 0.5) / _BLOBS)
    draws = np.array([particle_rng(0, j, "phantom").random(5) for j in range(_BLOBS)])
    cos_polar, azimuth, radius = 2 * draws[:, 0] - 1, 2 * np.pi * draws[:, 1], np.cbrt(draws[:, 2])
    sin_polar = np.sqrt(1 - cos_polar**2)
    direction = np.stack([sin_polar * np.cos(azimuth), sin_polar * np.sin(azimuth), cos_polar], axis=1)
    centre = middle[lobe] + _LOBES[lobe, 1] * radius[:, None] * direction
    width = _WIDTHS[0] * (_WIDTHS[1] / _WIDTHS[0]) ** draws[:, 3]
    # light narrow blobs keep the spectrum from falling faster than a protein's; the constant makes the density about 1
    return centre, width, 4e-4 * (0.5 + draws[:, 4]) * np.sqrt(width)


def _periodic_gaussians(centre: np.ndarray, width: np.ndarray, box: int) -> np.ndarray:
    """Unit-mass Gaussians on one axis, (j, box) float64, as the Fourier series that a grid of `box` points holds."""
    k = np.arange(1, (box + 1) // 2)
    x = (np.arange(box) - box // 2) / box
    terms = np.exp(-2 * (np.pi * width[:, None] * k) ** 2)
    phase = 2 * np.pi * k[:, None] * x  # cos 2πk(x − c) by the addition theorem: matrix products, no (j, k, x) array
    angle = 2 * np.pi * centre[:, None] * k
    return 1 + 2 * ((terms * np.cos(angle)) @ np.cos(phase) + (terms * np.sin(angle)) @ np.sin(phase))
