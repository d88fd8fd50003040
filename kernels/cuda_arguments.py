"""What the CUDA kernels take of a particle: float32 numbers in two parts, high + low, that keep the digits of float64."""

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


def ctf_arguments(coefficients: np.ndarray) -> np.ndarray:
    """``ctf_coefficients`` (m, 7) float64 as ``ctf_at`` in common.cuh takes them, (m, 12) float32."""
    out = np.zeros((len(coefficients), 12), np.float32)
    out[:, 0:8:2], out[:, 1:8:2] = _in_two(coefficients[:, :4])
    out[:, 8] = coefficients[:, 4] - np.round(coefficients[:, 4])  # whole turns change nothing
    out[:, 9:11] = coefficients[:, 5:7]
    return out


def shift_arguments(shift_pixels: np.ndarray, box: int) -> np.ndarray:
    """Shifts (m, 2), pixels (x, y) from pixel box // 2, as ``ramp_at`` in common.cuh takes them, (m, 4) float32."""
    out = np.empty((len(shift_pixels), 4), np.float32)
    out[:, 0::2], out[:, 1::2] = _in_two(np.asarray(shift_pixels, np.float64) / box)
    return out


def frequencies(kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """kx, ky (s,) as the kernels take them, (s, 2) int16."""
    return np.ascontiguousarray(np.stack([kx, ky], axis=1).astype(np.int16))


def _in_two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)
