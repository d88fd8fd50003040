"""What the particles that were left out look like together: junk, the map itself, or something else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.kernels import fft
from mpirecon.validate.fsc import crossing, fsc, fsc_of_transforms, shell_count, shell_index, shell_sum
from mpirecon.validate.masks import radius_grid

#: shells below hold the overall shape, which any pose leaves
_FIRST_SHELL = 3

#: shells count up to where the half maps of the kept particles agree less than this
_LEAST_FSC = 0.3

#: amplitude of the map in the discarded particles' map, relative to the map's, from which on they are no junk
LARGEST_AMPLITUDE = 0.3

#: half-map FSC of what is left of it without the map, from which on it is something of its own …
LARGEST_RESIDUAL = 0.2

#: … if it is this many standard deviations of chance
_SIGNIFICANT = 4.0


@dataclass(frozen=True)
class Comparison:
    """Half-map FSC of the kept, the discarded and of particles discarded at random, and what the discarded show.

    fsc_selection, fsc_random, fsc_discarded : (box // 2 + 1,)
    amplitude : of the map in the discarded particles' map, 1 when they show it as well as the kept, 0 for junk and
        wrong poses, below 0 when chosen for contradicting it
    residual_fsc : mean half-map FSC of what remains of it without the map and without the spherical average, which
        wrong poses leave
    chance : its standard deviation for noise
    last : finest shell that counts for both
    """

    fsc_selection: np.ndarray
    fsc_random: np.ndarray
    fsc_discarded: np.ndarray
    amplitude: float
    residual_fsc: float
    chance: float
    last: int

    @classmethod
    def of(cls, discarded: tuple, selection: tuple, random: tuple, mask: np.ndarray) -> Comparison:
        """From three pairs of half maps, (n, n, n) each, all particles counting alike."""
        box = mask.shape[0]
        curves = [fsc(*pair, mask) for pair in (selection, random, discarded)]
        d, m = ([_transform(volume, mask) for volume in pair] for pair in (discarded, selection))
        # half against the other half: their noise is independent
        common = shell_sum(_product(m[0], m[1]), box)
        ratio = (shell_sum(_product(d[0], m[1]), box) + shell_sum(_product(d[1], m[0]), box)) / 2
        last = _last_shell(curves[0])
        good = slice(min(_FIRST_SHELL, last), last + 1)
        ratio = np.divide(ratio, common, out=np.zeros_like(ratio), where=common > 0)
        weight = (shell_count(box) * np.clip(curves[0], 0, 1) ** 2)[good]
        amplitude = float((ratio[good] * weight).sum() / max(weight.sum(), 1e-300))
        shells = np.minimum(shell_index(box), box // 2)
        rest = fsc_of_transforms(*(a - ratio.astype(np.float32)[shells] * b for a, b in zip(d, m)), box)
        independent = shell_count(box)[good] * float(np.square(mask, dtype=np.float64).mean())
        chance = float(np.sqrt((1 / np.maximum(independent, 1)).sum()) / len(independent))
        return cls(*curves, amplitude, float(rest[good].mean()), chance, last)

    @property
    def finding(self) -> str:
        """``"correct particles"``, ``"something else"`` or ``"junk"``."""
        if self.amplitude > LARGEST_AMPLITUDE:
            return "correct particles"
        if self.residual_fsc > max(LARGEST_RESIDUAL, _SIGNIFICANT * self.chance):
            return "something else"
        return "junk"

    def as_dict(self, box: int, pixel_size: float) -> dict:
        """``controls`` and ``warnings`` for summary.json."""
        curves = {"selection": self.fsc_selection, "random_discard": self.fsc_random, "discarded": self.fsc_discarded}
        controls = {
            name: {"resolution_0143": crossing(curve, 0.143, box, pixel_size), "mean_fsc": float(curve[1:].mean()),
                   "fsc": curve.tolist()}
            for name, curve in curves.items()
        }  # fmt: skip
        controls["discarded"] |= {
            "amplitude": self.amplitude, "residual_fsc": self.residual_fsc, "looks_like": self.finding,
            "shells": [min(_FIRST_SHELL, self.last), self.last],
        }  # fmt: skip
        return {"controls": controls, "warnings": self._warnings()}

    def _warnings(self) -> list[str]:
        texts = []
        if self.finding == "correct particles":
            texts.append(
                "the map of the discarded particles alone (discarded.mrc) shows the map, at "
                f"{100 * self.amplitude:.0f} % of its amplitude: correct particles, or a similar state, were rejected"
            )
        elif self.finding == "something else":
            texts.append(
                "the half maps of the discarded particles agree on something that is not the map (mean FSC "
                f"{self.residual_fsc:.2f} without it): discarded.mrc may be a minor state or another particle, not junk"
            )
        selected, at_random = float(self.fsc_selection[1:].mean()), float(self.fsc_random[1:].mean())
        if selected <= at_random:
            texts.append(
                "leaving out as many particles at random gives half maps that agree as well (mean FSC "
                f"{at_random:.3f}, with the selection {selected:.3f}): the selection did not improve the map"
            )
        return texts


def _transform(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Half transform of a masked map without its average over all directions."""
    return fft.rfftn(((volume - _spherical_average(volume)) * mask).astype(np.float32))


def _spherical_average(volume: np.ndarray) -> np.ndarray:
    """Each voxel's mean over all directions, linear between radii of whole and half voxels, (n, n, n) float32.

    Steps of a whole voxel would leave enough of a sharp edge behind for the half maps to agree on.
    """
    radius = 2 * radius_grid(volume.shape[0])
    near = np.floor(radius).astype(np.int64)
    far = radius - near
    length = int(near.max()) + 2
    below, above = near.ravel(), near.ravel() + 1
    total = np.bincount(below, (volume * (1 - far)).ravel(), length)
    total += np.bincount(above, (volume * far).ravel(), length)
    count = np.bincount(below, (1 - far).ravel(), length) + np.bincount(above, far.ravel(), length)
    met = count > 0
    return np.interp(radius, np.flatnonzero(met), total[met] / count[met]).astype(np.float32)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.real * b.real + a.imag * b.imag


def _last_shell(curve: np.ndarray) -> int:
    """The last shell before the FSC first falls too low, at least the second."""
    below = np.flatnonzero(curve[1:] < _LEAST_FSC)
    return max(2, int(below[0]) if below.size else len(curve) - 1)
