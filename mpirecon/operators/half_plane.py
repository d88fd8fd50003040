"""The Fourier samples of an image that carry information: half a plane, inside a radius."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels.tiles import rows_of


@dataclass(frozen=True)
class HalfPlane:
    """Samples with kx > 0, or kx = 0 and ky ≥ 0, and |k| < `limit`, row by row.

    kx, ky : (s,) int32, in pixels of the image's transform
    shell : (s,) int32, |k| rounded
    multiplicity : (s,) float32, how often the sample stands in the full plane: 2, and 1 at k = 0.
    """

    box: int
    limit: float
    kx: np.ndarray
    ky: np.ndarray
    shell: np.ndarray
    multiplicity: np.ndarray

    @classmethod
    def of(cls, box: int, limit: float | None = None, stretch: float = 1.0, level: bool = True) -> HalfPlane:
        """All samples of a (box, box) image below `limit` pixels⁻¹ (Nyquist, box / 2, when left out).

        level : whether k = 0 is among them. It holds the level of an image, which says nothing of the particle where
            the CTF is near 0 there and images have backgrounds; in a sum over images it would spread to its neighbours
        stretch : the most that a magnification lengthens a frequency; what it would take beyond Nyquist is left out
        """
        limit = box / 2 / stretch if limit is None else min(float(limit), box / 2 / stretch)
        if limit <= 1:
            raise UserError(f"a resolution limit of {limit:.2f} Fourier pixels leaves no signal in a box of {box}")
        reach = int(np.ceil(limit))
        ky, kx = np.meshgrid(np.arange(-reach, reach + 1), np.arange(0, reach + 1), indexing="ij")
        radius = np.hypot(kx, ky)
        keep = (radius < limit) & ((kx > 0) | (ky >= 0)) & (level | (radius > 0))
        kx, ky, radius = kx[keep], ky[keep], radius[keep]
        multiplicity = np.where(radius == 0, 1, 2).astype(np.float32)
        shell = np.floor(radius + 0.5).astype(np.int32)
        return cls(box, limit, kx.astype(np.int32), ky.astype(np.int32), shell, multiplicity)

    def __len__(self) -> int:
        return self.kx.size

    @cached_property
    def rows(self) -> np.ndarray:
        """Where rows of samples begin, and the end, int64."""
        return rows_of(self.kx, self.ky)

    @property
    def shells(self) -> int:
        """Number of shells: 0 … the highest that has a sample."""
        return int(self.shell.max()) + 1
