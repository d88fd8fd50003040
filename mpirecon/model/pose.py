"""Poses: unit quaternions (w, x, y, z) of R = Rz(psi) Ry(tilt) Rz(rot), and shifts in Å.

R rows are the image's x, y and viewing axes in the volume's frame: the image's Fourier sample (kx, ky) is the volume's
at Rᵀ(kx, ky, 0). Angles are RELION's rlnAngleRot, rlnAngleTilt, rlnAnglePsi.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.model.devices import numbers_of, working_cupy


#: width of a ring of views, radians
_RING = 0.1

#: Å: no image is as large as a shift beyond this, which is a damaged number
FARTHEST = 1e6


@dataclass
class Pose:
    """Orientation and in-plane position of m particles, kept on the host.

    Parameters may be NumPy or CuPy arrays, or any DLPack tensors (PyTorch …).

    Parameters
    ----------
    quaternion : (m, 4) float64
        Unit quaternions (w, x, y, z); q and −q are the same pose. Normalised here.
    shift : (m, 2) float64, Å
        (x, y) position of the particle relative to the image centre: minus rlnOriginX/YAngst.

    Raises
    ------
    UserError
        for a wrong shape, NaN, a quaternion of length zero or a shift beyond 0.1 mm (the first bad row is named).
    """

    quaternion: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        q, t = numbers_of(self.quaternion, "Pose: quaternion"), numbers_of(self.shift, "Pose: shift")
        if q.ndim != 2 or q.shape[1] != 4:
            raise UserError(f"Pose: quaternion must have shape (m, 4), got {q.shape}")
        if t.shape != (len(q), 2):
            raise UserError(f"Pose: shift must have shape ({len(q)}, 2), got {t.shape}")
        norm = np.linalg.norm(q, axis=1)
        bad = ~(np.isfinite(norm) & (norm > 1e-6) & (np.abs(t) <= FARTHEST).all(axis=1))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f"Pose: particle {row} has quaternion {q[row].tolist()} and shift {t[row].tolist()}; a "
                            "quaternion needs a length above zero, a shift at most 0.1 mm, and all numbers must be "
                            "finite")
        self.quaternion = q / norm[:, None]
        self.shift = t

    def __len__(self) -> int:
        return len(self.quaternion)

    def __getitem__(self, rows) -> Pose:
        return Pose(self.quaternion[rows], self.shift[rows])

    def replaced(self, rows, quaternion: np.ndarray, shift: np.ndarray) -> Pose:
        """A copy with the poses of some rows replaced by those of another Pose, bit for bit and without checks.

        Parameters
        ----------
        rows : (k,) int or bool
        quaternion : (k, 4) float64
            unit quaternions (w, x, y, z)
        shift : (k, 2) float64
            Å

        Returns
        -------
        Pose
        """
        whole = copy(self)
        whole.quaternion, whole.shift = self.quaternion.copy(), self.shift.copy()
        whole.quaternion[rows], whole.shift[rows] = quaternion, shift
        return whole

    @classmethod
    def from_euler(cls, rot, tilt, psi, shift=None) -> Pose:
        """Poses from RELION's Euler angles.

        Parameters
        ----------
        rot, tilt, psi : (m,) float
            degrees
        shift : (m, 2) float, optional
            Å, minus RELION's origin; zero by default

        Returns
        -------
        Pose
        """
        angles = {name: np.atleast_1d(numbers_of(values, f"Pose: {name}"))
                  for name, values in (("rot", rot), ("tilt", tilt), ("psi", psi))}
        shapes = {name: values.shape for name, values in angles.items()}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values()) - {(1,)}) > 1:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise UserError(f"Pose: rot, tilt and psi must be arrays of one length, got shapes {said}")
        q = quaternion_from_euler(*np.broadcast_arrays(*angles.values()))
        return cls(q, np.zeros((len(q), 2)) if shift is None else shift)

    def to_cupy(self) -> tuple:
        """(quaternion, shift) as CuPy arrays, float64; UserError where there is no GPU."""
        cupy = working_cupy()
        return cupy.asarray(self.quaternion), cupy.asarray(self.shift)

    def matrices(self) -> np.ndarray:
        """Rotation matrices R, (m, 3, 3) float64."""
        return matrix_from_quaternion(self.quaternion)

    def euler(self) -> np.ndarray:
        """(rot, tilt, psi) in degrees, (m, 3), tilt in [0, 180]."""
        return euler_from_matrix(self.matrices())

    def rotation_vectors(self) -> np.ndarray:
        """cryoSPARC's rotation vectors w (axis times angle, at most a half turn), (m, 3): R is exp([w]x) transposed."""
        q = np.where(self.quaternion[:, :1] < 0, -self.quaternion, self.quaternion)
        sine = np.linalg.norm(q[:, 1:], axis=1, keepdims=True)
        angle = 2 * np.arctan2(sine, q[:, :1])
        return -q[:, 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def quaternion_from_euler(rot, tilt, psi) -> np.ndarray:
    """(m, 4) unit quaternions (w, x, y, z) of RELION's R(rot, tilt, psi); angles in degrees, each (m,).

    R is the inverse (transpose) of the active rotation Rz(rot) Ry(tilt) Rz(psi), hence the minus signs.
    """
    rot, tilt, psi = (np.radians(np.atleast_1d(np.asarray(a, dtype=np.float64))) for a in (rot, tilt, psi))
    c, s = np.cos(tilt / 2), np.sin(tilt / 2)
    total, difference = (psi + rot) / 2, (psi - rot) / 2
    return np.stack([c * np.cos(total), -s * np.sin(difference), -s * np.cos(difference), -c * np.sin(total)], axis=1)


def matrix_from_quaternion(q: np.ndarray) -> np.ndarray:
    """(m, 3, 3) rotation matrices of (m, 4) unit quaternions (w, x, y, z)."""
    w, x, y, z = np.moveaxis(np.asarray(q, dtype=np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(r, axis=-1) for r in rows], axis=-2)


def euler_from_matrix(r: np.ndarray) -> np.ndarray:
    """RELION's (rot, tilt, psi) in degrees, (m, 3), of (m, 3, 3) matrices; at tilt 0 or 180 rot is 0."""
    sin_tilt = np.hypot(r[:, 2, 0], r[:, 2, 1])
    tilt = np.arctan2(sin_tilt, r[:, 2, 2])
    rot = np.arctan2(r[:, 2, 1], r[:, 2, 0])
    psi = np.arctan2(r[:, 1, 2], -r[:, 0, 2])
    pole = sin_tilt < 1e-9
    rot = np.where(pole, 0.0, rot)
    psi = np.where(pole, np.arctan2(-np.sign(r[:, 2, 2]) * r[:, 1, 0], r[:, 1, 1]), psi)
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def angular_distance(q1: np.ndarray, q2: np.ndarray) -> np.ndarray:
    """Angle in degrees between rotations given as (m, 4) unit quaternions; q and −q are the same."""
    return np.degrees(2 * np.arccos(np.clip(np.abs(np.sum(q1 * q2, axis=-1)), 0, 1)))


def view_order(quaternion: np.ndarray) -> np.ndarray:
    """The order of (m, 4) poses by view, ring by ring over the half sphere, (m,) int64:
    central slices of neighbours lie close."""
    view = matrix_from_quaternion(quaternion)[:, 2]
    view = np.where(view[:, 2:] < 0, -view, view)  # opposite views have the same slice
    ring = np.rint(np.arccos(np.clip(view[:, 2], -1, 1)) / _RING)
    return np.lexsort((np.arctan2(view[:, 1], view[:, 0]), ring))
