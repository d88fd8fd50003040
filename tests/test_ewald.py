"""From which resolution on the curvature of the Ewald sphere matters, against images that are simulated with it."""

import numpy as np
import pytest
from scipy.special import j0

from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.model.optics import curvature_resolution, electron_wavelength
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.projection import Projection
from mpirecon.validate.fsc import fsc

BOX, RADIUS, DEPTH_AT_NYQUIST = 28, 0.36 * 28, 4.0  # depth: wavelength · diameter / resolution²


def atoms_in_a_ball(count=300):
    """(count, 3) positions in voxels, evenly in a ball."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((count, 3))
    return RADIUS * np.cbrt(rng.random((count, 1))) * direction / np.linalg.norm(direction, axis=1, keepdims=True)


def curved_images(atoms, rotation, plane, defocus_turns, curvature):
    """Samples (m, s) on the half plane: sums over atoms at both sidebands, k and ±curvature·|k|² along the beam."""
    k = np.stack([plane.kx, plane.ky], axis=1).astype(float)
    k2, out = (k**2).sum(axis=1), np.empty((len(rotation), len(k)), complex)
    for i, matrix in enumerate(rotation):
        seen = atoms @ matrix.T  # x, y across the image, z along the beam
        flat = np.exp(-2j * np.pi / BOX * (k @ seen[:, :2].T))
        depth = np.exp(-2j * np.pi / BOX * np.outer(curvature * k2, seen[:, 2]))
        phase = np.exp(2j * np.pi * defocus_turns[i] * k2)
        out[i] = (phase * (flat * depth).sum(axis=1) - np.conj(phase) * (flat * np.conj(depth)).sum(axis=1)) / 2j
    return out


def measure(images):
    """(depth of each shell, FSC with the truth of flat reconstructions of curved and of flat images)."""
    atoms, plane, rng = atoms_in_a_ball(), HalfPlane.of(BOX), np.random.default_rng(1)
    k2 = plane.kx.astype(float) ** 2 + plane.ky.astype(float) ** 2
    per_k2 = DEPTH_AT_NYQUIST / (BOX / 2) ** 2
    quaternion = np.array([random_quaternion(particle_rng(0, i, "ewald")) for i in range(images)])
    rotation, defocus = matrix_from_quaternion(quaternion), rng.uniform(3.0, 9.0, images) / (BOX / 2) ** 2 * 2
    axes = [np.exp(-2j * np.pi / BOX * np.outer(np.arange(BOX) - BOX // 2, atoms[:, i])) for i in range(3)]
    spectrum = np.einsum("zj,yj,xj->zyx", axes[2], axes[1], axes[0], optimize=True)
    truth = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum)).real).astype(np.float32)
    ctf, curves = np.sin(2 * np.pi * defocus[:, None] * k2), []
    # z = λk²/2 in Å⁻¹ is (depth / (2·diameter))·k² in pixels
    for curvature in (per_k2 / (2 * 2 * RADIUS) * BOX, 0.0):
        projection = Projection(BOX, plane)
        accumulator = projection.accumulator()
        samples = curved_images(atoms, rotation, plane, defocus, curvature)
        projection.adjoint_add(accumulator, rotation, (samples * ctf).astype(np.complex64),
                               (ctf**2).astype(np.float32))
        equations = NormalEquations(projection, projection.folded(accumulator))
        curves.append(fsc(equations.solve(equations.ridge(), 10)[0], truth))
    return per_k2 * np.arange(BOX // 2 + 1) ** 2, *curves


def formula(depth):
    """FSC of a flat reconstruction with the truth for density spread evenly through a ball: docs/method.md."""
    t, weight = np.polynomial.legendre.leggauss(64)
    t, weight = (t + 1) / 2, weight / 2
    left = j0(np.pi / 2 * np.asarray(depth)[..., None] * np.sqrt(1 - t**2))
    weight = weight * 3 * t**2
    return (left * weight).sum(axis=-1) / np.sqrt((left**2 * weight).sum(axis=-1))


def test_the_limit_is_that_of_curved_images():
    depth, curved, flat = measure(150)
    inside = slice(3, 13)
    assert flat[inside].min() > 0.97
    np.testing.assert_allclose(curved[inside], flat[inside] * formula(depth[inside]), atol=0.1)
    assert curved[13] < 0.2
    limit = electron_wavelength(300.0) * 300.0 / curvature_resolution(300.0, 300.0) ** 2
    assert formula(limit) == pytest.approx(0.95, abs=1e-3)
    assert np.interp(limit, depth, curved / flat) == pytest.approx(0.95, abs=0.06)  # of these 300 atoms
