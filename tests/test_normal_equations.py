"""(Σ w AᴴA + Λ) x = Σ w Aᴴŷ: what is accumulated are the forward model's equations, and their solution is the truth."""

import numpy as np
import pytest
from adjoint import assert_adjoint, random_like

from mpirecon.backend.cpu import CpuBackend
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.normal import NormalEquations, dot
from mpirecon.operators.projection import Projection
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.density import band_limit
from mpirecon.simulation.phantom import phantom
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere

PIXEL_SIZE = 3.0


def particles(box, m, seed=0, **ctf):
    """Random orientations, shifts of a pixel or two and CTFs."""
    rng = np.random.default_rng(seed)
    q = np.array([random_quaternion(particle_rng(seed, i, "normal")) for i in range(m)])
    u = rng.uniform(8000, 25000, m)
    fields = dict(voltage_kv=300, defocus_u=u, defocus_v=u - 400, astigmatism=rng.uniform(0, 3, m), cs_mm=2.7,
                  amplitude_contrast=0.1)
    return ParticleSet(
        box, PIXEL_SIZE, Pose(q, rng.normal(0, 4.0, (m, 2))), make_ctf(m, **{**fields, **ctf}), np.ones(m), np.ones(m)
    )


def accumulated(backend, images, particle_set, weight=None, batch=500, contrast=None, contrast2=None):
    """Normal equations of images, in batches; contrasts are known to be 1, or `contrast` without uncertainty."""
    accumulator = backend.accumulator()
    weight = np.ones(len(images)) if weight is None else weight
    contrast = np.ones(len(images)) if contrast is None else contrast
    contrast2 = contrast**2 if contrast2 is None else contrast2
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        prepared = backend.prepare(images[rows], particle_set[rows])
        backend.accumulate(accumulator, prepared, weight[rows], contrast[rows], contrast2[rows])
    return backend.normal_equations(backend.folded(accumulator))


def nothing(equations):
    return np.zeros(equations.shells + 1)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# ---------------------------------------------------------------- the equations

CASES = [(16, None, 4), (17, None, 4), (16, 6.0, 4), (16, None, 6), (17, None, 6)]


def small_problem(box, limit, taps):
    """Images, weights (one of them 0) and a forward model with the backend's half plane and taps."""
    p = particles(box, 12, seed=box)
    images = random_like((12, box, box), np.float32, 3)
    weight = np.random.default_rng(4).uniform(0.2, 2, 12)
    weight[5] = 0
    backend = CpuBackend(box, PIXEL_SIZE, limit=limit, taps=taps)
    return p, images, weight, backend, ForwardModel(box, PIXEL_SIZE, taps, HalfPlane.of(box, limit))


@pytest.mark.parametrize("box, limit, taps", CASES)
def test_right_hand_side_is_the_weighted_adjoint(box, limit, taps):
    """Fourier samples are not divided by the box, images are: the equations are n² times those in pixels."""
    p, images, weight, backend, model = small_problem(box, limit, taps)
    b = accumulated(backend, images, p, weight).right_hand_side()
    weighted = images * weight[:, None, None].astype(np.float32)
    assert relative(b, box**2 * model.adjoint(weighted, p.pose, p.ctf)) < 2e-6


@pytest.mark.parametrize("radius, error", [(0.25, {4: 3e-4, 6: 3e-6}), (0.42, {4: 5e-3, 6: 1e-3})])
@pytest.mark.parametrize("box, limit, taps", CASES)
def test_convolution_is_project_and_backproject(box, limit, taps, radius, error):
    """Between voxels nearly a box apart the kernel's aliases remain in the convolution, so only the corners are poor.

    Noise and 12 particles are the worst case: of a dense set's convolution little is left at such distances.
    """
    p, images, weight, backend, model = small_problem(box, limit, taps)
    inside = soft_sphere(box, radius * box, edge=0)
    x = random_like((box,) * 3, np.float32, 6) * inside
    equations = accumulated(backend, images, p, weight)
    product = equations.apply(x, nothing(equations))
    seen = model.images(model.prepare(x), p.pose, p.ctf) * weight[:, None, None].astype(np.float32)
    assert relative(product * inside, box**2 * model.adjoint(seen, p.pose, p.ctf) * inside) < error[taps]


def test_convolution_is_symmetric():
    p, images, weight, backend, _ = small_problem(16, None, 4)
    equations = accumulated(backend, images, p, weight)
    ridge = equations.ridge()
    for seed in range(3):
        x, y = random_like((16,) * 3, np.float32, seed), random_like((16,) * 3, np.float32, seed + 9)
        assert_adjoint(lambda v: equations.apply(v, ridge), lambda v: equations.apply(v, ridge), x, y)
        assert_adjoint(lambda v: equations.precondition(v, ridge), lambda v: equations.precondition(v, ridge), x, y)


def test_gradient_is_that_of_the_weighted_least_squares():
    """½ d/dt Σ w ‖A(x + t d) − y‖² = ⟨gradient, d⟩, by a symmetric difference (exact for a quadratic)."""
    box = 16
    p, images, weight, backend, model = small_problem(box, None, 6)
    equations = accumulated(backend, images, p, weight)
    inside = soft_sphere(box, box / 4, edge=0)
    x, d = (random_like((box,) * 3, np.float32, seed) * inside for seed in (1, 2))

    def half_loss(v):
        residual = (model.images(model.prepare(v), p.pose, p.ctf) - images).astype(float)
        return np.sum(weight * np.sum(residual**2, axis=(1, 2))) / 2

    slope = (half_loss(x + d) - half_loss(x - d)) / 2
    assert dot(equations.gradient(x, nothing(equations)), d) == pytest.approx(box**2 * slope, rel=1e-4)


def test_ridge_adds_a_filter_of_shells():
    """Λ multiplies the transform in the padded box, shell by shell in image pixels."""
    box = 16
    p, images, weight, backend, _ = small_problem(box, None, 4)
    equations = accumulated(backend, images, p, weight)
    x = random_like((box,) * 3, np.float32, 1)
    zero, flat = nothing(equations), np.full(equations.shells + 1, 0.7)
    added = equations.apply(x, flat) - equations.apply(x, zero)
    np.testing.assert_allclose(added, 0.7 * 32**3 * x, atol=1e-4 * np.abs(equations.apply(x, flat)).max())


def test_accumulation_does_not_depend_on_batches_nor_on_particles_without_weight():
    p, images, weight, backend, _ = small_problem(16, None, 4)
    whole = accumulated(backend, images, p, weight)
    parts = accumulated(backend, images, p, weight, batch=5)
    used = np.flatnonzero(weight)
    fewer = accumulated(backend, images[used], p[used], weight[used])
    for other in (parts, fewer):
        np.testing.assert_allclose(other.folded, whole.folded, atol=1e-5 * np.abs(whole.folded).max())


def test_spreading_leaves_the_samples_alone():
    projection = Projection(16)
    samples = random_like((2, len(projection.plane)), np.complex64, 1)
    weight = np.ones(samples.shape, np.float32)
    kept = samples.copy()
    projection.adjoint_add(projection.accumulator(), particles(16, 2).pose.matrices(), samples, weight)
    np.testing.assert_array_equal(samples, kept)
    assert (weight == 1).all()


# ---------------------------------------------------------------- regularisation


@pytest.fixture(scope="module")
def equations():
    p, images, weight, backend, _ = small_problem(16, None, 4)
    return accumulated(backend, images, p, weight)


def test_shell_weight_is_the_mean_of_what_was_spread(equations):
    """Every sample spreads its w·C² over a unit sum of taps, near its shell; together with mates they count once."""
    p, _, weight, backend, _ = small_problem(16, None, 4)
    batch = backend.prepare(np.zeros((12, 16, 16), np.float32), p)
    total = np.sum(weight[:, None] * batch.ctf**2 * backend.plane.multiplicity)
    mean = equations.shell_weight()
    assert mean.shape == (equations.shells + 1,)
    assert equations.folded[..., 2].sum() > 0
    friedel = np.full(17, 2.0)
    friedel[[0, -1]] = 1
    assert np.sum(friedel * equations.folded[..., 2]) == pytest.approx(total, rel=2e-3)


def test_ridge_floor_is_a_share_of_the_mean_weight(equations):
    mean = equations.shell_weight()
    np.testing.assert_allclose(equations.ridge(floor=1e-2)[:-1], 1e-2 * mean[:-1])
    assert equations.ridge()[-1] == mean[:-1].max()  # no data beyond the last shell


def test_wiener_term_is_the_weight_over_the_signal_to_noise_ratio(equations):
    mean = equations.shell_weight()
    ssnr = np.geomspace(1e4, 1e-2, equations.shells)
    ridge = equations.ridge(ssnr)
    np.testing.assert_allclose(ridge[:-1], mean[:-1] * np.maximum(1 / ssnr, 1e-3))
    assert (np.diff(ridge / mean)[:-1] >= -1e-9).all()


def test_ridge_is_positive_whatever_the_signal_to_noise_ratio(equations):
    for ssnr in (np.zeros(equations.shells), np.full(equations.shells, np.inf)):
        ridge = equations.ridge(ssnr)
        assert np.isfinite(ridge).all() and (ridge > 0).all()


def test_empty_equations_have_the_empty_solution():
    backend = CpuBackend(16, PIXEL_SIZE)
    empty = backend.normal_equations(backend.folded(backend.accumulator()))
    ridge = empty.ridge()
    assert (ridge > 0).all()
    volume, residuals = empty.solve(ridge)
    assert not volume.any() and np.isfinite(residuals).all()


# ---------------------------------------------------------------- the solution


def assert_is_the_truth(volume, truth, error=0.005, scale=0.003):
    """FSC ≥ 0.9999 up to 0.9 Nyquist, L2 error and density scale right, inside the mask.

    Required are 0.999, 2 % and 0.5 %; reached 0.2 % and 0.15 %, which the ridge's floor (0.1 %) takes from the scale.
    """
    box = truth.shape[0]
    mask = soft_sphere(box, 0.42 * box, edge=3.0)
    curve = fsc(volume, truth, mask)
    assert curve[: int(0.9 * box / 2) + 1].min() > 0.9999
    assert relative(volume * mask, truth * mask) < error
    assert dot(volume * mask, truth) / dot(truth * mask, truth) == pytest.approx(1, abs=scale)


def noiseless(box, m, **ctf):
    """Images of the band-limited phantom by six taps, to be solved with four."""
    truth = band_limit(phantom(box))
    p = particles(box, m, seed=box, **ctf)
    model = ForwardModel(box, PIXEL_SIZE, taps=6)
    return truth, p, model.images(model.prepare(truth), p.pose, p.ctf)


@pytest.mark.parametrize("box, m", [(64, 3000), (45, 1500)])
def test_noiseless_images_give_the_truth(box, m):
    truth, p, images = noiseless(box, m)
    equations = accumulated(CpuBackend(box, PIXEL_SIZE), images, p)
    ridge = equations.ridge()
    volume, residuals = equations.solve(ridge, iterations=8)
    assert residuals[-1] < 0.1 * residuals[0]
    assert_is_the_truth(volume, truth)
    # what the residual says is what it is
    b = equations.right_hand_side()
    assert relative(equations.apply(volume, ridge), b) == pytest.approx(residuals[-1], rel=0.05)
    # the direct solution is the same map, less exactly
    direct = equations.direct(ridge)
    inside = soft_sphere(box, 0.42 * box, edge=3.0)
    assert relative(volume * inside, truth * inside) < relative(direct * inside, truth * inside) < 0.1


def test_residual_falls_with_every_iteration():
    truth, p, images = noiseless(24, 300)
    equations = accumulated(CpuBackend(24, PIXEL_SIZE), images, p)
    _, residuals = equations.solve(equations.ridge(), iterations=10, tolerance=1e-4)
    assert (np.diff(residuals) < 0).all() and len(residuals) <= 11
    loose = equations.solve(equations.ridge(), iterations=10, tolerance=residuals[2])[1]
    assert len(loose) <= 4  # stops when good enough


def test_weights_scale_away():
    """A common factor of all weights changes nothing: regularisation is relative to the mean weight."""
    truth, p, images = noiseless(24, 300)
    backend = CpuBackend(24, PIXEL_SIZE)
    once = accumulated(backend, images, p)
    thrice = accumulated(backend, images, p, np.full(300, 3.0))
    assert relative(thrice.solve(thrice.ridge())[0], once.solve(once.ridge())[0]) < 1e-4


def test_a_particle_of_weight_two_is_two_particles():
    _, p, images = noiseless(24, 60)
    backend = CpuBackend(24, PIXEL_SIZE)
    weight = np.ones(60)
    weight[:20] = 2
    rows = np.concatenate([np.arange(60), np.arange(20)])
    heavier, twice = accumulated(backend, images, p, weight), accumulated(backend, images[rows], p[rows])
    np.testing.assert_allclose(heavier.folded, twice.folded, atol=1e-5 * np.abs(twice.folded).max())


@pytest.mark.parametrize("premultiplied", [False, True])
def test_a_known_contrast_counts_like_the_scale_in_the_ctf(premultiplied):
    """w s C ŷ and w s² C²: an image of contrast s is one whose CTF is s times as large."""
    _, p, images = noiseless(24, 60)
    s = np.random.default_rng(3).uniform(0.5, 1.5, 60)
    s[7] = 0  # says nothing, and changes nothing
    backend = CpuBackend(24, PIXEL_SIZE, premultiplied=premultiplied)
    known = accumulated(backend, images, p, contrast=s)
    p.ctf["scale"] *= s
    if premultiplied:  # the scaled CTF multiplies such data once more
        images = images * s[:, None, None].astype(np.float32)
    scaled = accumulated(backend, images, p)
    np.testing.assert_allclose(known.folded, scaled.folded, atol=1e-5 * np.abs(scaled.folded).max())


def test_an_uncertain_contrast_weighs_more_than_it_says():
    """E[s²] = E[s]² + Var(s) is the weight, E[s] the data's factor: doubt draws the map to zero, as it should."""
    _, p, images = noiseless(24, 60)
    backend = CpuBackend(24, PIXEL_SIZE)
    certain = accumulated(backend, images, p)
    doubtful = accumulated(backend, images, p, contrast=np.ones(60), contrast2=np.full(60, 1.25))
    np.testing.assert_array_equal(doubtful.folded[..., :2], certain.folded[..., :2])
    np.testing.assert_allclose(doubtful.folded[..., 2], 1.25 * certain.folded[..., 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_a_contrast_per_shell_counts_like_an_envelope_in_the_ctf(premultiplied):
    """A signal that fades with frequency, by as much as a B-factor per particle fades it."""
    _, p, images = noiseless(24, 60)
    backend = CpuBackend(24, PIXEL_SIZE, premultiplied=premultiplied)
    plane, weight = backend.plane, np.random.default_rng(4).uniform(0, 2, 60)
    weight[3] = 0
    h = np.random.default_rng(3).uniform(0, 1, (60, plane.shells))
    known = accumulated(backend, images, p, weight, contrast=h)
    batch = backend.prepare(images, p)
    batch.ctf *= h[:, plane.shell].astype(np.float32)
    if premultiplied:
        batch.data *= h[:, plane.shell].astype(np.float32)
    accumulator = backend.accumulator()
    backend.accumulate(accumulator, batch, weight, np.ones(60), np.ones(60))
    faded = backend.folded(accumulator)
    np.testing.assert_allclose(known.folded, faded, atol=1e-5 * np.abs(faded).max())


def test_scale_and_envelope_in_the_ctf_are_divided_out():
    rng = np.random.default_rng(8)
    truth, p, images = noiseless(32, 800, scale=rng.uniform(0.6, 1.4, 800), bfactor=50.0)
    equations = accumulated(CpuBackend(32, PIXEL_SIZE), images, p)
    # the floor of the ridge weighs more where the envelope leaves less: 0.9 % is reached
    assert_is_the_truth(equations.solve(equations.ridge(), iterations=12)[0], truth, error=0.015, scale=0.005)


@pytest.mark.parametrize("box", [24, 25])
def test_premultiplied_images_give_the_same_equations(box):
    """C·y with the weight C² carries the same numerator C·y; only sums near Nyquist's edge see the pixels."""
    _, p, images = noiseless(box, 200)
    plain = accumulated(CpuBackend(box, PIXEL_SIZE), images, p)
    multiplied = multiply_by_ctf(images, p.ctf, PIXEL_SIZE)
    other = accumulated(CpuBackend(box, PIXEL_SIZE, premultiplied=True), multiplied, p)
    np.testing.assert_allclose(other.folded, plain.folded, atol=1e-5 * np.abs(plain.folded).max())
    ridge = plain.ridge()
    assert relative(other.solve(ridge)[0], plain.solve(ridge)[0]) < 1e-4


def test_resolution_limit_leaves_the_rest_as_it_was():
    box, limit = 32, 9.0
    truth, p, images = noiseless(box, 600)
    equations = accumulated(CpuBackend(box, PIXEL_SIZE, limit=limit), images, p)
    assert isinstance(equations, NormalEquations)
    volume, _ = equations.solve(equations.ridge(), iterations=8)
    mask = soft_sphere(box, 0.42 * box, edge=3.0)
    assert fsc(volume, truth, mask)[: int(limit) - 1].min() > 0.999
