"""Low-resolution maps of either half of some images, in nearest voxels,
and what they predict of the other half's images.
"""

from __future__ import annotations

import numpy as np

from mpirecon.parallel.comm import Communicator

#: of the mean weight of a voxel, what is added to each
_RIDGE = 0.1

Maps = list[tuple[np.ndarray, np.ndarray]]


class HalfMaps:
    """Images of all ranks at the same samples and poses, whatever is done to their values.

    kx, ky, shell : (s,) int, samples of a half plane, |k| rounded, at most `last`
    matrices : (m, 3, 3), of this rank's images
    half : (m,) 0 or 1
    """

    def __init__(
        self,
        comm: Communicator,
        kx: np.ndarray,
        ky: np.ndarray,
        shell: np.ndarray,
        last: int,
        matrices: np.ndarray,
        half: np.ndarray,
    ) -> None:
        self.comm, self.shell, self.last, self.half = comm, shell, last, half
        self.side = 2 * last + 3
        k = matrices[:, 0, :, None] * kx  # (m, 3, s) in x, y, z
        k += matrices[:, 1, :, None] * ky
        self._conjugate = k[:, 0] < 0
        np.negative(k, out=k, where=self._conjugate[:, None])
        np.rint(k, out=k)
        middle = last + 1  # floats hold the numbers of voxels exactly
        voxel = (k[:, 2] + middle) * self.side**2 + (k[:, 1] + middle) * self.side + k[:, 0]
        self._voxel = voxel.astype(np.int64)

    def turned(self, y: np.ndarray) -> np.ndarray:
        """Samples (m, s) as those at the voxels of the half space."""
        return np.where(self._conjugate, y.conj(), y)

    def maps(self, value: np.ndarray, weight: np.ndarray) -> Maps:
        """(numerator, weight) of the map of either half, flat; value, weight : (m, s), turned. Collective."""
        maps = []
        for number in (0, 1):
            some = self.half == number
            at, size = self._voxel[some].ravel(), self.side**3
            parts = (value[some].real.ravel(), value[some].imag.ravel(), weight[some].ravel())
            sums = self.comm.allreduce(np.stack([np.bincount(at, part, minlength=size) for part in parts]))
            maps.append((sums[0] + 1j * sums[1], sums[2]))
        return maps

    def predicted(self, maps: Maps, on: np.ndarray) -> np.ndarray:
        """(m, s) complex64, the other half's map at the samples of each image, times `on` (m, s)."""
        model = np.empty(on.shape, np.complex64)
        for number, sums in enumerate(maps):
            some = self.half != number
            model[some] = on[some] * transform_of(*sums)[self._voxel[some]]
        return model

    def gains(self, y: np.ndarray, model: np.ndarray) -> np.ndarray:
        """Power of each image y (m, s) that a model predicts, (m,), after one scale for each shell. Collective."""
        cross, square = (y * model.conj()).real, np.abs(model) ** 2
        n = self.last + 1
        sums = [np.bincount(self.shell, part.sum(axis=0), minlength=n) for part in (cross, square)]
        sums = self.comm.allreduce(np.stack(sums).astype(np.float64))
        scale = np.maximum(sums[0], 0) / np.maximum(sums[1], 1e-30)
        return 2 * cross @ scale[self.shell] - square @ (scale**2)[self.shell]


def transform_of(numerator: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The map's transform of its two sums."""
    return numerator / (weight + _RIDGE * weight[weight > 0].mean()) if weight.any() else numerator
