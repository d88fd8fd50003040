"""Aberrations, magnification and detector of optics groups, at the Fourier samples of images.

What a backend needs of them are three small planes a group and a 2 × 2 matrix: `on_data` is multiplied onto the
samples, `turns` is added to the CTF's phase, `on_ctf` is multiplied onto the CTF, and `rotations` gives matrices whose
first two rows take image frequencies to the volume's, magnification included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.model.aberrations import Aberrations, even_order, odd_order, zernike_sum


@dataclass(frozen=True)
class OpticsPlanes:
    """Planes of g groups at s samples.

    on_data : (g, s) complex64
    turns : (g, s) float32, radians / 2π
    on_ctf : (g, s) float32
    magnification : (g, 2, 2) float64
    aberrations : what they were made of
    """

    aberrations: Aberrations
    on_data: np.ndarray
    turns: np.ndarray
    on_ctf: np.ndarray

    @classmethod
    def of(
        cls, aberrations: Aberrations | None, kx: np.ndarray, ky: np.ndarray, box: int, pixel_size: float,
        premultiplied: bool = False,
    ) -> OpticsPlanes | None:
        """At samples kx, ky (s,) in pixels of a (box, box) image's transform; None where there is nothing to correct.

        premultiplied : the data hold CTF times image; the detector's part is then missing in them and multiplied on
        """
        if aberrations is None or aberrations.trivial:
            return None
        k = np.stack([kx, ky]).astype(np.float64) / (box * pixel_size)
        shape = len(aberrations.group), k.shape[1]
        phase, turns, transfer = np.zeros(shape), np.zeros(shape), np.ones(shape)
        for row in range(shape[0]):
            x, y = aberrations.magnification[row] @ k
            phase[row] = zernike_sum(aberrations.odd[row], odd_order, x, y)
            turns[row] = -zernike_sum(aberrations.even[row], even_order, x, y) / (2 * np.pi)
            if aberrations.mtf.shape[1]:
                transfer[row] = _transfer(aberrations.mtf[row], np.hypot(kx, ky))
        on_data = np.exp(-1j * phase) * (transfer if premultiplied else 1.0)
        return cls(aberrations, on_data.astype(np.complex64), turns.astype(np.float32), transfer.astype(np.float32))

    @property
    def magnification(self) -> np.ndarray:
        return self.aberrations.magnification

    def rows(self, optics_group: np.ndarray) -> np.ndarray:
        """Row of each particle's group, (m,) int64."""
        return self.aberrations.rows(optics_group)

    def correct(self, samples: np.ndarray, rows: np.ndarray) -> None:
        """Undo the odd phases of an image's samples (m, s) complex64, in place."""
        samples *= self.on_data[rows]

    def apply(self, samples: np.ndarray, rows: np.ndarray) -> None:
        """Put the odd phases on a projection's samples (m, s) complex64, in place: the adjoint of `correct`."""
        samples *= np.conj(self.on_data[rows])

    def rotations(self, matrices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(m, 3, 3) rotations R → matrices whose first two rows are those of Mᵀ R: Rᵀ(M k, 0) is theirs of k."""
        out = np.array(matrices, np.float64)
        out[:, :2] = np.einsum("mji,mjk->mik", self.magnification[rows], matrices[:, :2])
        return out


def _transfer(curve: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A curve at 0, 1, 2 … between its points, and 0 beyond its last positive one where it ends in zeros."""
    last = int(np.flatnonzero(curve)[-1])
    values = np.interp(radius, np.arange(last + 1), curve[: last + 1])
    return values if last == len(curve) - 1 else np.where(radius > last, 0.0, values)
