"""A point group in the accumulation: the normal equations of all symmetry-related copies of every image.

Each image counts once at every pose R gᵀ that shows the same. Where g maps the Fourier grid onto itself (axes of order
2 and 4 along x, y, z, axes of order 3 along the diagonals), the finished accumulator is summed over its rotations,
which is exact, because the interpolation kernel is the same along the three axes. Only what is left of the group, one
rotation for each coset, is spread image by image.
"""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.symmetrise import symmetrise
from mpirecon.model.symmetry import PointGroup


class Symmetry:
    """How a point group enters an accumulator.

    copies : (c, 3, 3) float64, what the batch must be spread at: poses R · copiesᵀ
    """

    def __init__(self, group: PointGroup) -> None:
        self.group = group
        self._signed, self.copies = group.split()

    @property
    def sums_grid(self) -> bool:
        """Whether ``finish`` has anything to do."""
        return len(self._signed) > 1

    def finish(self, folded: np.ndarray) -> None:
        """Sum a folded accumulator, (p, p, p//2 + 1, 3) float32, over the rotations that need no images; in place."""
        if self.sums_grid:
            symmetrise(folded, self._signed)
