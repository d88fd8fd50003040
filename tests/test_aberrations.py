"""Aberrations, magnification and MTF of optics groups: polynomials, brute force, adjoint, files, reconstruction."""

import h5py
import numpy as np
import pytest
from adjoint import assert_adjoint, random_like
from sources import explicit_ctf

from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.aberrations import Aberrations, even_order, odd_order, tilt_coefficients, zernike
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.model.optics import electron_wavelength
from mpirecon.operators.ctf import ctf_samples
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.simulation.phantom import phantom

PIXEL_SIZE = 3.0
BOX = 24


def aberrations():
    """Two groups: 4 has everything, 9 nothing; phases of a few radians at Nyquist, 1/6 Å⁻¹."""
    odd = np.array([[0.5, -3.0, 120.0, 60.0, -90.0, 40.0], np.zeros(6)])
    even = np.array([[0.2, 10.0, -8.0, 14.0, 700.0, 0, 300.0, 0, -500.0], np.zeros(9)])
    matrix = np.array([[[1.02, 0.013], [-0.007, 0.97]], np.eye(2)])
    mtf = np.array([np.linspace(1.1, 0.6, BOX // 2 + 2), np.linspace(0.9, 1.4, BOX // 2 + 2)])
    return Aberrations(np.array([4, 9]), matrix, odd, even, mtf)


def particles(m, seed=0):
    rng = np.random.default_rng(seed)
    q = np.array([random_quaternion(particle_rng(seed, i, "aberrated")) for i in range(m)])
    u = rng.uniform(6000, 20000, m)
    ctf = make_ctf(m, voltage_kv=300, defocus_u=u, defocus_v=u - 900, astigmatism=rng.uniform(-3, 3, m), cs_mm=2.7,
                   amplitude_contrast=0.1, bfactor=20.0)
    group = np.where(rng.random(m) < 0.6, 4, 9)
    return ParticleSet(BOX, PIXEL_SIZE, Pose(q, rng.normal(0, 4, (m, 2))), ctf, 1 + np.arange(m) % 2, group)


def test_polynomials_in_x_and_y():
    x, y = np.random.default_rng(0).normal(0, 0.4, (2, 50))
    r2 = x**2 + y**2
    expected = {
        (0, 0): np.ones_like(x), (1, 1): x, (1, -1): y, (2, 0): 2 * r2 - 1, (2, 2): x**2 - y**2, (2, -2): 2 * x * y,
        (3, 1): (3 * r2 - 2) * x, (3, -1): (3 * r2 - 2) * y, (3, 3): x**3 - 3 * x * y**2, (3, -3): 3 * x**2 * y - y**3,
        (4, 0): 6 * r2**2 - 6 * r2 + 1, (4, 2): (4 * r2 - 3) * (x**2 - y**2),
        (4, 4): x**4 - 6 * x**2 * y**2 + y**4, (4, -4): 4 * x * y * (x**2 - y**2),
    }
    for (n, m), values in expected.items():
        np.testing.assert_allclose(zernike(n, m, x, y), values, atol=1e-12, err_msg=f"{n} {m}")
    assert [odd_order(i) for i in range(7)] == [(1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3), (5, -5)]
    assert [even_order(i) for i in range(9)] == [
        (0, 0),
        (2, -2),
        (2, 0),
        (2, 2),
        (4, -4),
        (4, -2),
        (4, 0),
        (4, 2),
        (4, 4),
    ]


def test_tilt_is_coma():
    x, y = np.random.default_rng(1).normal(0, 0.3, (2, 40))
    c = tilt_coefficients([[0.8, -0.3]], [2.7], [300.0])[0]
    phase = sum(c[i] * zernike(*odd_order(i), x, y) for i in range(6))
    expected = -2 * np.pi * 2.7e7 * electron_wavelength(300.0) ** 2 * 1e-3 * (0.8 * x - 0.3 * y) * (x**2 + y**2)
    np.testing.assert_allclose(phase, expected, rtol=1e-12)


def explicit_parts(kx, ky, ctf, group, table):
    """(CTF with even phases and MTF, factor of the odd phases) at one image's samples, and the magnified k in Å⁻¹."""
    row = list(table.group).index(group)
    x, y = table.magnification[row] @ np.stack([kx, ky]) / (BOX * PIXEL_SIZE)
    even = sum(c * zernike(*even_order(i), x, y) for i, c in enumerate(table.even[row]))
    odd = sum(c * zernike(*odd_order(i), x, y) for i, c in enumerate(table.odd[row]))
    q = ctf.copy()
    transfer = np.interp(np.hypot(kx, ky), np.arange(table.mtf.shape[1]), table.mtf[row])
    values = []
    for i in range(len(x)):  # a constant phase for each sample: the formula itself knows no aberrations
        q["phase_shift"] = ctf["phase_shift"] - even[i]
        values.append(explicit_ctf(q, x[i], y[i]))
    return np.array(values) * transfer, np.exp(1j * odd), np.stack([x, y])


def test_ctf_is_the_formula():
    table, plane, p = aberrations(), HalfPlane.of(BOX), particles(5)
    model = ForwardModel(BOX, PIXEL_SIZE, plane=plane, aberrations=table)
    found = ctf_samples(p.ctf, plane, PIXEL_SIZE, model.optics, p.optics_group)
    for i in range(5):
        expected, _, _ = explicit_parts(plane.kx, plane.ky, p.ctf[i], p.optics_group[i], table)
        np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_images_are_brute_force_sums():
    """A x by definition: V̂ at Rᵀ(M k, 0) summed voxel by voxel, CTF, phases and shift."""
    table, p = aberrations(), particles(4)
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=table)
    volume = phantom(BOX).astype(np.float32)
    samples = model.samples(model.prepare(volume), p.pose, p.ctf, p.optics_group)
    r = np.arange(BOX) - BOX // 2
    plane = model.plane
    assert plane.limit * table.stretch <= BOX / 2
    some = np.random.default_rng(0).choice(len(plane), 40, replace=False)
    kx, ky = plane.kx[some], plane.ky[some]
    for i, rotation in enumerate(p.pose.matrices()):
        ctf, odd, k = explicit_parts(kx, ky, p.ctf[i], p.optics_group[i], table)
        x, y, z = rotation[:2].T @ k * PIXEL_SIZE
        waves = [np.exp(-2j * np.pi * np.outer(f, r)) for f in (x, y, z)]
        expected = np.einsum("zyx,sx,sy,sz->s", volume, *waves, optimize=True) * ctf * odd
        assert np.linalg.norm(samples[i][some] - expected) < 1e-4 * np.linalg.norm(samples[i])


def test_adjoint():
    table, p = aberrations(), particles(4)
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=table)
    x, y = random_like((BOX,) * 3, np.float32, 1), random_like((4, BOX, BOX), np.float32, 2)
    assert_adjoint(
        lambda v: model.images(model.prepare(v), p.pose, p.ctf, p.optics_group),
        lambda i: model.adjoint(i, p.pose, p.ctf, p.optics_group), x, y,
    )


def test_reconstruction_undoes_them():
    table, p = aberrations(), particles(1500)
    truth = phantom(BOX).astype(np.float32)
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=table)
    images = model.images(model.prepare(truth), p.pose, p.ctf, p.optics_group)
    errors = []
    for known in (table, None):
        backend = CpuBackend(BOX, PIXEL_SIZE, aberrations=known, limit=model.plane.limit - 1)
        batch, one = backend.prepare(images, p), np.ones(len(p))
        accumulator = backend.accumulator()
        backend.accumulate(accumulator, batch, one, one, one)
        equations = backend.normal_equations(backend.folded(accumulator))
        found = equations.solve(equations.ridge(), 20)[0]
        sums = backend.statistics(backend.reference(truth), batch, backend.bands(np.ones(20), 2, 9, True)).sum(
            axis=(0, 1)
        )
        errors.append((np.linalg.norm(found - truth) / np.linalg.norm(truth),
                       (sums[0] - 2 * sums[1] + sums[2]) / sums[0]))
    assert errors[0][0] < 0.05 and errors[0][1] < 1e-4  # the map, and what the true map leaves of the images
    assert errors[1][0] > 0.3 and errors[1][1] > 0.1


def test_the_file_keeps_them(tmp_path):
    table, p = aberrations(), particles(6)
    for name, known in (("with", table), ("without", None), ("trivial", Aberrations.none(np.array([4, 9])))):
        with ParticleWriter(tmp_path / f"{name}.h5", 6, BOX, PIXEL_SIZE, overwrite=False) as writer:
            writer.write_images(0, np.zeros((6, BOX, BOX), np.float32))
            writer.write_metadata(p)
            writer.write_optics(known)
        with ParticleFile(tmp_path / f"{name}.h5") as file:
            found = file.aberrations()
            if name == "with":
                for field in ("group", "magnification", "odd", "even", "mtf"):
                    np.testing.assert_array_equal(getattr(found, field), getattr(table, field))
            else:
                assert found is None
    with h5py.File(tmp_path / "with.h5", "a") as file:
        file["optics_group"][3] = 5
    with ParticleFile(tmp_path / "with.h5") as file, pytest.raises(UserError, match="with.h5.*group 5"):
        file.aberrations()


def test_impossible_numbers_are_refused():
    with pytest.raises(UserError, match="group 4.*far from the identity"):
        Aberrations(np.array([4]), [[[2.0, 0], [0, 1]]], [[]], [[]], [[]])
    with pytest.raises(UserError, match="odd.*not finite"):
        Aberrations(np.array([4]), [np.eye(2)], [[np.nan]], [[]], [[]])
