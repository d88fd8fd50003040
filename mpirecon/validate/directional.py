"""FSC in cones: whether a map's resolution is the same in all directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.kernels import fft
from mpirecon.kernels.shells import correlate_cells
from mpirecon.validate.coverage import bin_centres, view_bins
from mpirecon.validate.fsc import crossing
from mpirecon.validate.masks import independent_share
from mpirecon.validate.sphericity import sphericity

#: half the opening of a cone, degrees (Tan et al. 2017)
HALF_ANGLE = 20.0

#: directions on the half sphere along which an FSC is taken
DIRECTIONS = 200

#: samples are first summed in so many cells of the half sphere, about 2.5° across, and cones are made of whole cells
_CELLS = 3000

#: shells that all directions share
_COMMON = 5

#: threshold of the body whose sphericity is reported
SPHERICITY_AT = 0.5


@dataclass(frozen=True)
class ConicalFSC:
    """FSC along directions on the half sphere.

    direction : (m, 3) unit vectors (x, y, z)
    curves : (m, n // 2 + 1)
    resolution : (m,) Å where a curve falls below 0.143, Nyquist where it never does
    sphericity : 0 … 1
    half_angle : of the cones, degrees
    independent : fraction of the Fourier samples that are, in the mask
    """

    direction: np.ndarray
    curves: np.ndarray
    resolution: np.ndarray
    sphericity: float
    pixel_size: float
    half_angle: float = HALF_ANGLE
    independent: float = 1.0

    @property
    def area_ratio(self) -> float:
        """Least over largest area under the curves up to the median direction's resolution, 0 … 1.

        As cryoSPARC's conical FSC area ratio (cFAR), but without the shells beyond, which hold noise.
        """
        area = self._curves_to_resolution.sum(axis=1)
        return float(area.min() / area.max()) if area.max() > 0 else 1.0

    @property
    def unevenness(self) -> float:
        """How far the least of these areas lies below the median one, in the standard deviations that noise gives to
        the area of a cone: the correlation F of n independent complex samples has the variance (1 − F²)² / 2n."""
        curves = self._curves_to_resolution
        area, shells = curves.sum(axis=1), np.arange(1, curves.shape[1] + 1)
        # of one shell, Friedel's twins counted once
        samples = 2 * np.pi * shells**2 * (1 - np.cos(np.radians(self.half_angle))) * self.independent
        variance = np.where(shells < _COMMON, 0, (1 - np.median(curves, axis=0) ** 2) ** 2 / (2 * samples))
        return float((np.median(area) - area.min()) / max(np.sqrt(variance.sum()), 1e-9))

    @property
    def _curves_to_resolution(self) -> np.ndarray:
        """The curves up to the median direction's resolution, below 0 counting as 0, without shell 0."""
        shells = self.curves.shape[1] - 1
        last = int(np.clip(round(2 * shells * self.pixel_size / float(np.median(self.resolution))), 1, shells))
        return np.clip(self.curves[:, 1 : last + 1], 0, 1)

    def as_dict(self) -> dict:
        """Numbers and what a picture needs, for summary.json."""
        worst, best = int(self.resolution.argmax()), int(self.resolution.argmin())
        quantiles = np.quantile(self.curves, (0, 0.16, 0.5, 0.84, 1), axis=0)
        return {
            "half_angle": self.half_angle, "sphericity": self.sphericity, "threshold": 0.143,
            "area_ratio": self.area_ratio, "unevenness": self.unevenness,
            "best": float(self.resolution[best]), "worst": float(self.resolution[worst]),
            "median": float(np.median(self.resolution)), "spread": float(self.resolution.std()),
            "worst_direction": [round(float(v), 4) for v in self.direction[worst]],
            "direction": np.round(self.direction, 4).tolist(), "resolution": np.round(self.resolution, 4).tolist(),
            "quantiles": {name: np.round(curve, 5).tolist()
                          for name, curve in zip(("least", "low", "median", "high", "most"), quantiles)},
        }  # fmt: skip


def conical_fsc(
    a: np.ndarray, b: np.ndarray, pixel_size: float, mask: np.ndarray | None = None, *, half_angle: float = HALF_ANGLE,
    directions: int = DIRECTIONS,
) -> ConicalFSC:
    """FSC of two maps in cones about many directions, and the sphericity of the body where it is above 0.5.

    As in the 3-D FSC (Tan et al. 2017, Nature Methods 14, 793): along a direction, only those Fourier samples of a
    shell and its two neighbours count that lie within `half_angle` degrees of it. Sphericity is the surface of a ball
    of the body's volume over the body's own surface (Wadell 1935): 1 where all directions are resolved alike.

    a, b : (n, n, n) float
    mask : (n, n, n), multiplies both
    """
    if mask is not None:
        a, b = a * mask, b * mask
    independent = 1.0 if mask is None else independent_share(mask)
    return conical_fsc_of_transforms(
        fft.rfftn(a), fft.rfftn(b), pixel_size, half_angle=half_angle, directions=directions,
        independent=independent
    )


def conical_fsc_of_transforms(
    fa: np.ndarray, fb: np.ndarray, pixel_size: float, *, half_angle: float = HALF_ANGLE, directions: int = DIRECTIONS,
    independent: float = 1.0,
) -> ConicalFSC:
    """As `conical_fsc`, of two half transforms (n, n, n // 2 + 1),
    of maps in a mask with this fraction of independent samples."""
    box = fa.shape[0]
    sums = _cell_sums(fa, fb, box)
    top, rings = view_bins(directions)
    direction = bin_centres(top, rings)
    inside = np.abs(direction @ bin_centres(*view_bins(_CELLS)).T) >= np.cos(np.radians(half_angle))
    curves = _curves([_three_shells(inside.astype(np.float64) @ s) for s in sums])
    # a cone holds a handful of the innermost samples: there the map has one FSC for all directions
    curves[:, :_COMMON] = _curves(sums.sum(axis=1, keepdims=True))[:, :_COMMON]

    def at(threshold: float) -> np.ndarray:
        nyquist = 2 * pixel_size
        return np.array([crossing(curve, threshold, box, pixel_size) or nyquist for curve in curves])

    ball = sphericity(direction, rings, 1 / at(SPHERICITY_AT))
    return ConicalFSC(direction, curves, at(0.143), ball, pixel_size, half_angle, independent)


def _curves(sums) -> np.ndarray:
    cross, power_a, power_b = sums
    norm = np.sqrt(power_a * power_b)
    return np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)


def _three_shells(sums: np.ndarray) -> np.ndarray:
    """Each shell with its neighbours: a cone holds a sixteenth of a shell, too little for a steady curve by itself."""
    padded = np.pad(sums, ((0, 0), (1, 1)))
    return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]


def _cell_sums(fa: np.ndarray, fb: np.ndarray, box: int) -> np.ndarray:
    """Σ Re a b*, Σ|a|², Σ|b|² in each cell of the half sphere and shell, (3, cells, box // 2 + 1)."""
    top, cells = view_bins(_CELLS)
    sums = np.zeros((int(cells.sum()), box // 2 + 1, 3))
    correlate_cells(fa, fb, top, cells, sums)
    return np.moveaxis(sums, 2, 0)
