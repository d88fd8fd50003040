"""S: the in-plane shift, a phase ramp on an image's transform, joined with the move of the origin to pixel n // 2."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels import fft
from mpirecon.kernels.translate import gather_translated, scatter_translated
from mpirecon.operators.half_plane import HalfPlane


def centred_samples(
    images: np.ndarray, shift_pixels: np.ndarray, plane: HalfPlane, workers: int = 1, out: np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Sᴴ of images: half-plane samples with the particle moved to the origin.

    images : (m, n, n) float32
    shift_pixels : (m, 2) float64, where the particle sits (x, y) relative to pixel n // 2 · returns (m, s) complex64 =
        scale · Σ_r I(r) exp(−2πi k·(r − n//2 − shift) / n), `out` if given.
    """
    spectra = fft.rfft2(np.asarray(images, np.float32), workers=workers)
    out = np.empty((len(images), len(plane)), np.complex64) if out is None else out
    gather_translated(spectra, shift_pixels + plane.box // 2, plane.kx, plane.ky, out, scale, plane.rows)
    return out


def images_from_samples(samples: np.ndarray, shift_pixels: np.ndarray, plane: HalfPlane,
                        workers: int = 1) -> np.ndarray:
    """S of samples, as images: (m, s) complex64 → (m, n, n) float32, the particle `shift_pixels` off pixel n // 2."""
    n = plane.box
    spectra = np.empty((len(samples), n, n // 2 + 1), np.complex64)
    scatter_translated(np.asarray(samples, np.complex64), shift_pixels + n // 2, plane.kx, plane.ky, spectra)
    return fft.irfft2(spectra, s=(n, n), workers=workers)
