"""What the CUDA kernels take of a particle:
float32 numbers in two parts, high + low, that keep the digits of float64."""

from __future__ import annotations

import numpy as np

#: high parts of rotations are multiples of this: times a frequency below 2¹¹, and two of them added, they stay exact
_STEP = 2.0**-12

#: frequencies are int16 and their products with high parts exact up to here
LARGEST_BOX = 2048


def rotation_arguments(rotation: np.ndarray, ratio: float) -> np.ndarray:
    """The first two rows of ratio · R of rotations (m, 3, 3), (m, 12) float32: six high parts, six low ones."""
    rows = ratio * np.asarray(rotation, np.float64)[:, :2].reshape(-1, 6)
    high = np.round(rows / _STEP) * _STEP
    return np.concatenate([high, rows - high], axis=1).astype(np.float32)


def ctf_arguments(coefficients: np.ndarray, magnification: np.ndarray | None = None) -> np.ndarray:
    """``ctf_coefficients`` (m, 8) float64 as ``ctf_at`` in common.cuh takes them, (m, 16) float32.

    magnification : (m, 2, 2) float64 of the particles' optics groups: the CTF is that at the frequencies M·k.
    """
    c = np.array(coefficients, np.float64)
    out = np.zeros((len(c), 16), np.float32)
    if magnification is not None:
        m = np.asarray(magnification, np.float64)
        form = np.stack([c[:, 0], c[:, 1] / 2, c[:, 1] / 2, c[:, 2]], axis=1).reshape(-1, 2, 2)
        c[:, :3] = _quadratic(np.einsum("mji,mjk,mkl->mil", m, form, m))
        out[:, 11:14] = _quadratic(np.einsum("mji,mjk->mik", m, m) - np.eye(2))
    out[:, 0:8:2], out[:, 1:8:2] = _in_two(c[:, :4])
    out[:, 8] = c[:, 4] - np.round(c[:, 4])  # whole turns change nothing
    out[:, 9:11] = c[:, 5:7]
    out[:, 14] = c[:, 7]
    return out


def _quadratic(form: np.ndarray) -> np.ndarray:
    """Coefficients of x², xy and y² of symmetric forms (m, 2, 2), (m, 3)."""
    return np.stack([form[:, 0, 0], form[:, 0, 1] + form[:, 1, 0], form[:, 1, 1]], axis=1)


def shift_arguments(shift_pixels: np.ndarray, box: int) -> np.ndarray:
    """Shifts (m, 2), pixels (x, y) from pixel box // 2, as ``ramp_at`` in common.cuh takes them, (m, 4) float32."""
    out = np.empty((len(shift_pixels), 4), np.float32)
    out[:, 0::2], out[:, 1::2] = _in_two(np.asarray(shift_pixels, np.float64) / box)
    return out


def frequencies(kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """kx, ky (s,) as the kernels take them, (s, 2) int16."""
    return np.ascontiguousarray(np.stack([kx, ky], axis=1).astype(np.int16))


def real_space_rotation(rotation: np.ndarray) -> np.ndarray:
    """Rotations (m, 3, 3) as the kernels of real space take them, (m, 9) float32."""
    return np.ascontiguousarray(np.asarray(rotation, np.float32).reshape(-1, 9))


def motion_arguments(angle: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """In-plane angles (m,), radians, and shifts (m, 2), pixels, as ``move_images`` takes them, (m, 4) float32."""
    return np.column_stack([np.cos(angle), np.sin(angle), shift]).astype(np.float32)


def _in_two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)
