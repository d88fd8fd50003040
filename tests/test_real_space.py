"""Kernels of real space: against definitions in float64, by the dot test, against the Fourier kernels,
CUDA against CPU."""

import mrcfile
import numpy as np
import pytest
from adjoint import assert_adjoint, random_like
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from test_cuda_backend import aberrations, fake_cupy  # noqa: F401 - a fixture
from test_cuda_kernels import i4, needs_compiler, run, runs_kernels
from kernel_definitions import rotations

from mpirecon.backend import get_backend
from mpirecon.errors import UserError
from mpirecon.kernels.cuda_arguments import motion_arguments, real_space_rotation
from mpirecon.kernels.line_integrals import backproject_real, project_real
from mpirecon.kernels.rotate import move_images, rotate_volumes
from mpirecon.kernels.spline import coefficients
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.operators.forward import ForwardModel


def cubic(u):
    """The cubic B-spline, written out."""
    u = np.abs(u)
    return np.where(u < 1, (4 - 6 * u**2 + 3 * u**3) / 6, np.where(u < 2, (2 - u) ** 3 / 6, 0))


def spline(c, points):
    """Σ c[z, y, x] β(…) at points (…, 3) of (z, y, x), all float64."""
    weights = [cubic(points[..., axis, None] - np.arange(n)) for axis, n in enumerate(c.shape)]
    return np.einsum("...z,...y,...x,zyx->...", *weights, c.astype(float), optimize=True)


def lines(n, r):
    """Points Rᵀ(x, y, t) of every pixel's line, (n, n, n, 3) of (z, y, x) array coordinates."""
    y, x, t = np.meshgrid(*(np.arange(n) - n // 2,) * 3, indexing="ij")
    return (np.stack([x, y, t], axis=-1) @ r)[..., ::-1] + n // 2


def blob(n, seed=0):
    """A smooth density well inside the box."""
    noise = random_like((n, n, n), np.float32, seed)
    r = np.linalg.norm(np.indices((n, n, n)) - n // 2, axis=0)
    return gaussian_filter(noise * (r < n / 2 - 5), 1.6).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (6, 8, 7)])
def test_a_spline_goes_through_its_samples(shape):
    samples = random_like(shape, np.float32, 1)
    c = coefficients(samples, tuple(range(len(shape))))
    padded = np.pad(c, 2, mode="wrap") if len(shape) == 3 else np.pad(c, 2, mode="wrap")[None]
    points = np.stack(np.meshgrid(*(np.arange(k) + 2.0 for k in shape), indexing="ij"), axis=-1)
    if len(shape) == 2:
        points = np.concatenate([np.zeros((*shape, 1)), points], axis=-1)
        padded = padded * 1.5  # a plane's own weight is 4/6
    np.testing.assert_allclose(spline(padded, points), samples, atol=2e-6)


@pytest.mark.parametrize("n", [7, 8])
def test_line_integrals_are_sums_of_splines(n):
    c, rotation, out = random_like((n, n, n), np.float32, 1), rotations(2), np.full((2, n, n), np.nan, np.float32)
    project_real(c, rotation, out)
    np.testing.assert_allclose(out, [spline(c, lines(n, r)).sum(axis=2) for r in rotation], atol=2e-5)


@pytest.mark.parametrize("n", [7, 8])
def test_backprojection_is_the_adjoint_of_line_integrals(n):
    rotation = rotations(3, 2)

    def forward(volume):
        out = np.empty((3, n, n), np.float32)
        project_real(coefficients(volume, (0, 1, 2)), rotation, out)
        return out

    def adjoint(images):
        out = np.zeros((n, n, n), np.float32)
        backproject_real(out, rotation, images)
        return coefficients(out, (0, 1, 2))

    assert_adjoint(forward, adjoint, random_like((n, n, n), np.float32, 1), random_like((3, n, n), np.float32, 2))


def test_rotations_turn_what_was_there():
    n = 24
    volume, rotation = blob(n), rotations(2, 3)
    out = np.empty((2, n, n, n), np.float32)
    c = coefficients(volume, (0, 1, 2))
    rotate_volumes(c, rotation, out)
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2,) * 3, indexing="ij")
    for i, r in enumerate(rotation):
        points = (np.stack([x, y, z], axis=-1) @ r)[..., ::-1] + n // 2
        np.testing.assert_allclose(out[i], spline(c, points), atol=1e-6)
    back = np.empty((1, n, n, n), np.float32)
    rotate_volumes(coefficients(out[0], (0, 1, 2)), rotation[:1].transpose(0, 2, 1), back)
    assert np.linalg.norm(back[0] - volume) < 0.02 * np.linalg.norm(volume)
    quarter = np.array([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    rotate_volumes(c, quarter, back)  # x to y: what was at (x, 0) is at (0, x); the row that wraps round is empty
    np.testing.assert_allclose(back[0][:, 1:, 1:], np.rot90(volume[:, 1:, 1:], -1, axes=(1, 2)),
                               atol=3e-4 * volume.max())


def test_images_are_turned_then_moved():
    n = 16
    images = np.stack([blob(n)[n // 2], blob(n, 1)[n // 2]])
    angle, shift = np.array([0.4, np.pi / 2]), np.array([[1.25, -2.0], [0.0, 3.0]])
    c, out = coefficients(images, (1, 2)), np.empty_like(images)
    move_images(c, angle, shift, out)
    y, x = np.meshgrid(*(np.arange(n) - n // 2,) * 2, indexing="ij")
    for i in range(2):
        a, b = x - shift[i, 0], y - shift[i, 1]
        cosine, sine = np.cos(angle[i]), np.sin(angle[i])
        points = np.stack([0 * a, cosine * b - sine * a + n // 2, cosine * a + sine * b + n // 2], axis=-1)
        np.testing.assert_allclose(out[i], 1.5 * spline(c[i : i + 1], points), atol=1e-6)
    moved = np.empty_like(images)
    move_images(c, np.zeros(2), np.array([[2.0, 0], [0, -1]]), moved)
    np.testing.assert_allclose(moved[0][:, 4:-2], images[0][:, 2:-4], atol=3e-3 * images.max())
    np.testing.assert_allclose(moved[1][2:-4], images[1][3:-3], atol=3e-3 * images.max())


def test_line_integrals_agree_with_central_slices():
    """Real and Fourier space, of a density whose detail the grid resolves: the same images to 1 %."""
    n = 32
    volume, rotation = blob(n), rotations(3, 5)
    model = ForwardModel(n, 1.0)
    q = Rotation.from_matrix(rotation).as_quat()[:, [3, 0, 1, 2]]
    expected = model.images(model.prepare(volume), Pose(q, np.zeros((3, 2))), None)
    out = np.empty((3, n, n), np.float32)
    project_real(coefficients(volume, (0, 1, 2)), rotation, out)
    assert np.linalg.norm(out - expected) < 0.01 * np.linalg.norm(expected)


@runs_kernels
@pytest.mark.parametrize("n", [7, 8])
def test_cuda_kernels_are_the_twins(n):
    c, rotation = random_like((n, n, n), np.float32, 1), rotations(2)
    turn = real_space_rotation(rotation)
    twin, out = np.full((2, 2, n, n), np.nan, np.float32)
    project_real(c, rotation, twin)
    run("project_real", 2, c, turn, i4(n), i4(2), out, threads=32)
    np.testing.assert_allclose(out, twin, atol=1e-5)
    images = random_like((2, n, n), np.float32, 2)
    twin, out = np.zeros((2, n, n, n), np.float32)
    backproject_real(twin, rotation, images)
    run("backproject_real", 2, out, turn, i4(n), i4(2), images, threads=32)
    np.testing.assert_allclose(out, twin, atol=1e-5)
    twin, out = np.full((2, 2, n, n, n), np.nan, np.float32)
    rotate_volumes(c, rotation, twin)
    run("rotate_volumes", 2, c, turn, i4(n), i4(2), out, threads=32)
    np.testing.assert_allclose(out, twin, atol=5e-6)
    angle, shift = np.array([0.4, -2.0]), np.array([[1.25, -2.0], [0.3, 3.0]])
    twin, out = np.full((2, 2, n, n), np.nan, np.float32)
    move_images(images, angle, shift, twin)
    run("move_images", 2, images, motion_arguments(angle, shift), i4(n), i4(2), out, threads=32)
    np.testing.assert_allclose(out, twin, atol=5e-6)


# ---------------------------------------------------------------- the backends


def smooth_problem(n=20, m=9):
    """Images of a smooth density at known poses, shifts and CTFs, with a little noise."""
    rng = np.random.default_rng(3)
    truth = blob(n)
    pose = Pose(rng.standard_normal((m, 4)), rng.uniform(-4, 4, (m, 2)))
    ctf = make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(5e3, 2e4, m), defocus_v=1e4, cs_mm=2.7,
                   amplitude_contrast=0.1)
    model = ForwardModel(n, 2.0)
    images = model.images(model.prepare(truth), pose, ctf)
    images += 0.1 * images.std() * random_like(images.shape, np.float32, 4)
    return truth, ParticleSet(n, 2.0, pose, ctf, 1 + np.arange(m) % 2, np.zeros(m, int)), images


@pytest.mark.parametrize("premultiplied, whitened", [(False, True), (True, True), (True, False)])
def test_statistics_and_normal_equations_agree_with_fourier_space(premultiplied, whitened):
    truth, particle_set, images = smooth_problem(m=120)
    found = {}
    for space in ("fourier", "real"):
        backend = get_backend("cpu", 20, 2.0, space=space, premultiplied=premultiplied, limit=7.0)
        batch = backend.prepare(images, particle_set)
        bands = backend.bands(np.linspace(1, 2, backend.plane.shells), 1, backend.plane.shells - 1, whitened)
        sums = backend.statistics(backend.reference(truth), batch, bands)
        accumulator, one = backend.accumulator(), np.linspace(0, 2, len(images))
        backend.accumulate(accumulator, batch, one, one, one**2)
        equations = backend.normal_equations(backend.folded(accumulator))
        ridge = equations.ridge(np.full(backend.plane.shells, 10.0))
        found[space] = sums, equations.right_hand_side(), equations.shell_weight(), equations.solve(ridge, 20)[0]
    # beyond the sphere that fits the box, Fourier space sees the periodic copies of the image, real space nothing
    inside = np.linalg.norm(np.indices((20, 20, 20)) - 10, axis=0) < 7
    for name, mine, its in zip(("statistics", "right-hand side", "weights", "map"), found["fourier"], found["real"]):
        if mine.shape == inside.shape:
            mine, its = mine[inside], its[inside]
        error = np.linalg.norm(its - mine) / np.linalg.norm(mine)
        # the corners, of which the two spaces see different things, are part of the normal equations
        assert error < {"weights": 1e-6, "map": 0.2}.get(name, 0.02), f"{name}: {error:.3g}"


def test_residuals_over_pixels_are_those_over_frequencies():
    """Parseval: ‖y − A x‖² over pixels is yy − 2 yp + pp over all bands, unwhitened."""
    truth, particle_set, images = smooth_problem()
    backend = get_backend("cpu", 20, 2.0, space="real")
    batch = backend.prepare(images, particle_set)
    bands = backend.bands(np.ones(backend.plane.shells), 0, backend.plane.shells - 1, False)
    yy, yp, pp = backend.statistics(backend.reference(truth), batch, bands).sum(axis=1).T
    over_pixels = backend.residuals(backend.reference(truth), images, batch, particle_set.pose.shift / 2.0)
    np.testing.assert_allclose(over_pixels, yy - 2 * yp + pp, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("premultiplied", [False, True])
def test_real_space_on_cuda_is_that_on_cpu(fake_cupy, premultiplied):
    fake_cupy()
    truth, particle_set, images = smooth_problem(12, 70)  # more than are projected at a time
    found = {}
    for name in ("cpu", "cuda"):
        backend = get_backend(name, 12, 2.0, space="real", premultiplied=premultiplied)
        batch = backend.prepare(images, particle_set)
        bands = backend.bands(np.linspace(1, 2, backend.plane.shells), 1, backend.plane.shells - 1, True)
        sums = backend.statistics(backend.reference(truth), batch, bands)
        accumulator, weight = backend.accumulator(), np.linspace(0, 2, len(images))
        backend.accumulate(accumulator, batch, weight, weight, weight**2)
        folded = backend.folded(accumulator)
        equations = backend.normal_equations(folded)
        found[name] = sums, folded, equations.solve(equations.ridge(), 2)[0]
    for cpu, cuda in zip(found["cpu"], found["cuda"]):
        assert np.abs(cuda - cpu).max() < 3e-5 * np.abs(cpu).max()


def test_reconstruct_in_real_space_gives_the_map_of_fourier_space(cli, tmp_path):
    particles = tmp_path / "particles.h5"
    made = cli("simulate", "--phantom", "--particles", 150, "--box", 16, "--pixel-size", 6, "--snr", 1, "--seed", 3,
               "-o", particles)
    assert made.returncode == 0, made.stderr
    maps = {}
    for space in ("fourier", "real"):
        result = cli("reconstruct", particles, "-o", tmp_path / space, "--space", space, "--no-postprocess",
                     "--backend", "cpu",
                     "--max-resolution", 20)  # fmt: skip
        assert result.returncode == 0, result.stderr
        maps[space] = mrcfile.read(tmp_path / space / "volume.mrc").astype(float).ravel()
    assert np.corrcoef(maps["fourier"], maps["real"])[0, 1] > 0.99


def test_real_space_refuses_aberrations():
    with pytest.raises(UserError, match="--space real does not know.*--space fourier"):
        get_backend("cpu", 12, 2.0, space="real", aberrations=aberrations())
