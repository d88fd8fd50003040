"""C: the contrast-transfer function of each particle, multiplied onto its samples. C is real: its own adjoint."""

from __future__ import annotations

import numpy as np

from mpirecon.kernels.ctf import evaluate_aberrated_ctf, evaluate_ctf
from mpirecon.model.optics import electron_wavelength
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.half_plane import HalfPlane


def ctf_coefficients(ctf: np.ndarray, box: int, pixel_size: float, phase_flipped: bool = False) -> np.ndarray:
    """Per-particle polynomial in image-pixel frequencies, (m, 8) float64.

    ctf : (m,) CTF_DTYPE
    phase_flipped : the images were multiplied by the sign of their CTF, whose magnitude is left.
    Columns: turns (radians / 2π) per kx², kx·ky, ky², |k|⁴, constant turns, scale, the envelope's exponent per |k|²,
    and 1 where phases were flipped.
    """
    wavelength = electron_wavelength(ctf["voltage_kv"])
    per_pixel = 1.0 / (box * pixel_size)
    mean = (ctf["defocus_u"] + ctf["defocus_v"]) / 2
    difference = (ctf["defocus_u"] - ctf["defocus_v"]) / 2
    cosine, sine = np.cos(2 * ctf["astigmatism"]), np.sin(2 * ctf["astigmatism"])
    quadratic = wavelength * per_pixel**2 / 2  # πλ|k|²Δ over 2π
    quartic = -(ctf["cs_mm"] * 1e7) * wavelength**3 * per_pixel**4 / 4  # −(π/2)Csλ³|k|⁴ over 2π
    q0 = ctf["amplitude_contrast"]
    constant = (np.arctan2(q0, np.sqrt(1 - q0**2)) + ctf["phase_shift"]) / (2 * np.pi)
    return np.stack(
        [
            quadratic * (mean + difference * cosine),
            quadratic * 2 * difference * sine,
            quadratic * (mean - difference * cosine),
            quartic,
            constant,
            ctf["scale"],
            -ctf["bfactor"] / 4 * per_pixel**2,
            np.full(len(ctf), float(phase_flipped)),
        ],
        axis=1,
    )


def ctf_samples(
    ctf: np.ndarray, plane: HalfPlane, pixel_size: float, optics: OpticsPlanes | None = None,
    optics_group: np.ndarray | None = None, phase_flipped: bool = False,
) -> np.ndarray:
    """CTF of each particle at each half-plane sample, (m, s) float32; with `optics` that of its (m,) optics group.

    phase_flipped : its magnitude, as in images that were multiplied by its sign
    """
    return ctf_at(ctf, plane.kx, plane.ky, plane.box, pixel_size, optics, optics_group, phase_flipped)


def ctf_at(
    ctf: np.ndarray, kx: np.ndarray, ky: np.ndarray, box: int, pixel_size: float, optics: OpticsPlanes | None = None,
    optics_group: np.ndarray | None = None, phase_flipped: bool = False,
) -> np.ndarray:
    """As ctf_samples, at any samples kx, ky (s,) int32; `optics` must have been made for them."""
    out = np.empty((len(ctf), kx.size), np.float32)
    rows = None if optics is None else optics.rows(optics_group)
    evaluate(ctf_coefficients(ctf, box, pixel_size, phase_flipped), kx, ky, optics, rows, out)
    return out


def evaluate(
    coefficients: np.ndarray, kx: np.ndarray, ky: np.ndarray, optics: OpticsPlanes | None, rows: np.ndarray | None,
    out: np.ndarray
) -> None:
    """The CTFs of `ctf_coefficients` at samples kx, ky into out, (m, s) float32;
    rows : (m,) their optics groups' in `optics`."""
    if optics is None:
        evaluate_ctf(coefficients, kx, ky, out)
        return
    evaluate_aberrated_ctf(coefficients, kx, ky, rows, optics.magnification, optics.turns, out)
    out *= optics.on_ctf[rows]
