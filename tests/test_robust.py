"""Averages, losses, distances and selection: what particles are weighed by."""

import numpy as np
import pytest
import scipy.fft
from adjoint import random_like
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import ndtr

import mpirecon.robust
from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.forward import ForwardModel
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.contradiction import FALSE_DISCOVERY_RATE, contradicting, looks_inverted, significance
from mpirecon.robust.distances import CORRELATION, DISTANCES, EXPLAINED, RAW, WHITENED, get_distance
from mpirecon.robust.losses import (
    HUBER_TUNING,
    L1,
    L2,
    LOSSES,
    M_ESTIMATORS,
    MAD_TO_SIGMA,
    REDESCENDING,
    Huber,
    make_loss,
)
from mpirecon.robust.schedule import loosened, mildness, widened
from mpirecon.robust.selection import (
    Attenuation,
    RandomPoses,
    Selection,
    keep_count,
    loss_value,
    norms,
    particle_sigma,
    select,
)
from mpirecon.robust.statistics import Statistics, matched_filter
from mpirecon.robust.weiszfeld import weiszfeld
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.phantom import phantom
from mpirecon.validate.contradiction import Contradiction

COMM = SerialCommunicator()


# ---------------------------------------------------------------- averages of points

#: multiples of 1/8 in a range: points may coincide, and none are nearly so
COORDINATE = st.integers(-800, 800).map(lambda i: i / 8)


def points_of(dimensions, least=1, most=12):
    return st.integers(least, most).flatmap(lambda m: arrays(np.float64, (m, dimensions), elements=COORDINATE))


def total_distance(x, points, weights=None):
    d = np.linalg.norm(points - x, axis=1)
    return float(d.sum() if weights is None else weights @ d)


@settings(max_examples=100, deadline=None)
@given(points_of(3))
def test_the_l2_average_is_the_mean(points):
    """The loss l2 weighs all alike, so its IRLS step x ← Σwy/Σw is the mean; nothing nearby has a smaller Σd²."""
    d = np.linalg.norm(points, axis=1)
    average = np.average(points, axis=0, weights=L2().weight(d))
    np.testing.assert_allclose(average, points.mean(axis=0))
    loss = L2().rho(np.linalg.norm(points - average, axis=1)).sum()
    for step in 0.1 * np.vstack([np.eye(3), -np.eye(3)]):
        assert L2().rho(np.linalg.norm(points - average - step, axis=1)).sum() > loss


@settings(max_examples=100, deadline=None)
@given(st.lists(COORDINATE, min_size=1, max_size=15).filter(lambda v: len(v) % 2), st.booleans())
def test_the_l1_average_of_numbers_is_their_median(values, as_column):
    points = np.array(values)
    spread = np.ptp(points)
    x = weiszfeld(points[:, None] if as_column else points, iterations=20000)
    assert x.shape == ((1,) if as_column else ())
    # near a point with neighbours on one side the iteration is slow; its loss is what counts
    best = np.abs(points - np.median(points)).sum()
    assert np.abs(points - x).sum() <= best + 1e-6 * spread + 1e-300


@settings(max_examples=100, deadline=None)
@given(st.lists(COORDINATE, min_size=2, max_size=14).filter(lambda v: len(v) % 2 == 0))
def test_an_even_number_of_numbers_has_any_median_between_the_middle_two(values):
    points = np.sort(values)
    x = weiszfeld(points, iterations=20000)
    assert np.abs(points - x).sum() <= np.abs(points - np.median(points)).sum() + 1e-6 * np.ptp(points) + 1e-300


@settings(max_examples=60, deadline=None)
@given(points_of(2, least=3), st.integers(0, 10**6))
def test_the_geometric_median_has_the_smallest_sum_of_distances(points, seed):
    weights = np.random.default_rng(seed).uniform(0.2, 2, len(points))
    x = weiszfeld(points, weights, iterations=20000)
    starts = [points.mean(axis=0), *points]  # the loss has kinks at the points, so they are candidates themselves
    best = min(total_distance(s, points, weights) for s in starts)
    best = min(best, minimize(total_distance, starts[0], (points, weights), method="Nelder-Mead",
                              options=dict(xatol=1e-9, fatol=1e-12, maxiter=4000)).fun)
    assert total_distance(x, points, weights) <= best * (1 + 1e-6) + 1e-12


def test_an_outlier_drags_the_mean_and_not_the_median():
    points = np.random.default_rng(1).normal(size=(100, 3))
    dirty = np.vstack([points, np.full((30, 3), 1e4)])
    assert np.linalg.norm(dirty.mean(axis=0)) > 1e3
    assert np.linalg.norm(weiszfeld(dirty) - weiszfeld(points)) < 1
    further = np.vstack([points, np.full((30, 3), 1e8)])  # the median sees where they lie, not how far
    np.testing.assert_allclose(weiszfeld(further), weiszfeld(dirty), atol=1e-2)


def test_a_start_on_a_point_is_left_when_it_is_no_median():
    """The mean, where the iteration starts, is a point here: 1/d is infinite there."""
    points = np.array([[0.0, 0], [10, 0], [-4, 3], [-4, -3], [-2, 0]])
    assert (points.mean(axis=0) == points[0]).all()
    x = weiszfeld(points)
    assert np.isfinite(x).all()
    best = minimize(total_distance, [-1.5, 0.0], (points,), method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-13))
    assert total_distance(x, points) == pytest.approx(best.fun, rel=1e-7)


def test_a_start_on_a_point_stays_when_it_is_the_median():
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    np.testing.assert_allclose(weiszfeld(square), [0, 0], atol=1e-12)
    heavy = np.array([[0.0, 0], [2, 0], [-1, 1], [-1, -1]])  # the others pull, but less than it weighs
    np.testing.assert_array_equal(weiszfeld(heavy, [3.0, 1, 1, 1], iterations=1), [0, 0])


def test_points_that_coincide_are_their_own_median():
    np.testing.assert_array_equal(weiszfeld(np.full((4, 2), 7.0)), [7, 7])
    np.testing.assert_array_equal(weiszfeld(np.array([[3.0, 4.0]])), [3, 4])


def test_weights_count_points():
    points = np.random.default_rng(2).normal(size=(6, 2))
    weights = np.array([1.0, 2, 3, 1, 0, 2])
    np.testing.assert_allclose(weiszfeld(points, weights), weiszfeld(np.repeat(points, weights.astype(int), axis=0)),
                               atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(points_of(2, least=3), st.floats(0.01, 100), COORDINATE)
def test_the_median_moves_and_scales_with_its_points(points, factor, shift):
    assert mpirecon.robust.weiszfeld is weiszfeld
    a, b = weiszfeld(points, iterations=20000), weiszfeld(factor * points + shift, iterations=20000)
    moved = factor * points + shift
    assert total_distance(b, moved) == pytest.approx(total_distance(factor * a + shift, moved), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "points, weights, message",
    [
        (np.zeros((0, 2)), None, "m ≥ 1"),
        (np.zeros((2, 2, 2)), None, r"got \(2, 2, 2\)"),
        ([[1.0, np.nan]], None, "finite"),
        ([[1.0, np.inf]], None, "finite"),
        (np.zeros((3, 2)), [1.0, 1], "3 finite, non-negative weights"),
        (np.zeros((2, 2)), [1.0, -1], "non-negative"),
        (np.zeros((2, 2)), [0.0, 0], "not all zero"),
        (np.zeros((2, 2)), [np.nan, 1], "weights"),
        (np.zeros((2, 2)), [np.inf, 1], "weights"),
    ],
)
def test_weiszfeld_refuses(points, weights, message):
    with pytest.raises(UserError, match=message):
        weiszfeld(points, weights)


# ---------------------------------------------------------------- losses

CALIBRATED = [L2(), L1(), Huber(1.7)] + [make_loss(name, 2.0, 0.3) for name in M_ESTIMATORS]


@pytest.mark.parametrize("loss", CALIBRATED, ids=str)
def test_weight_is_the_slope_of_rho_over_the_distance(loss):
    d = np.linspace(0.01, 8, 200)
    h = 1e-6
    slope = (loss.rho(d + h) - loss.rho(d - h)) / (2 * h)
    np.testing.assert_allclose(loss.weight(d), slope / d, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(loss.influence(d), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", CALIBRATED, ids=str)
def test_losses_are_finite_and_do_not_fall_with_distance(loss):
    d = np.array([0.0, 1e-300, 1e-8, 1, 1e8])
    assert np.isfinite(loss.weight(d)).all() and (np.diff(loss.rho(d)) >= 0).all()
    assert (np.diff(loss.weight(d)) <= 0).all()  # the far never count more than the near
    assert loss.rho(d)[0] == 0


def test_huber_is_l2_for_the_near_and_l1_for_the_far():
    huber, near, far = Huber(2.0), np.array([0.0, 1.0, 2.0]), np.array([3.0, 50.0])
    np.testing.assert_allclose(huber.rho(near), L2().rho(near))
    np.testing.assert_allclose(np.diff(huber.rho(far)), 2.0 * np.diff(L1().rho(far)))


def test_huber_keeps_the_bulk():
    assert make_loss("huber", 5.0, 0.4).delta == pytest.approx(5 + 1.345 * 0.4)
    assert HUBER_TUNING == 1.345


@pytest.mark.parametrize("loss", REDESCENDING)
def test_redescending_losses_keep_the_bulk_and_let_go_of_the_far(loss):
    made = make_loss(loss, 5.0, 0.4)
    near, far = np.linspace(0, 5, 20), 5 + 0.4 * np.array([10.0, 100, 1e4])
    assert (made.weight(near) == 1).all()  # the nearer half of all particles is not set back at all
    np.testing.assert_allclose(made.rho(near), L2().rho(near))
    pull = made.influence(np.concatenate([[5.0], far]))
    assert (np.diff(pull) <= 0).all() and pull[-1] < 0.01 * pull[0]
    assert made.rho(far)[-1] < 0.01 * L2().rho(far)[-1]


def test_only_tukey_gives_no_weight_at_all():
    far = np.array([5 + 0.4 * 4.69, 6.9, 1e3])
    weight = {loss: make_loss(loss, 5.0, 0.4).weight(far) for loss in REDESCENDING}
    assert not weight["tukey"].any() and make_loss("tukey", 5.0, 0.4).weight(np.array([6.86]))[0] > 0
    assert (weight["cauchy"] > 0).all() and (weight["geman-mcclure"] > 0).all()
    # near the bulk they agree: the constants say at what distance doubt begins
    near = np.array([5 + 0.4 * 1.345])
    for loss in REDESCENDING:
        assert 0.75 < make_loss(loss, 5.0, 0.4).weight(near)[0] < 0.85


@pytest.mark.parametrize("loss", REDESCENDING)
def test_tuning_constants_are_95_percent_efficient(loss):
    """Asymptotic efficiency (E ψ′)² / E ψ² at the standard Gaussian of the textbook's ψ = xW(x/c), around zero."""
    x, step = np.linspace(-12, 12, 240_001, retstep=True)
    gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    psi = x * make_loss(loss, 0.0, 1.0).weight(np.abs(x))
    efficiency = (np.sum(x * psi * gauss) * step) ** 2 / (np.sum(psi**2 * gauss) * step)  # E ψ′ = E xψ (Stein)
    assert efficiency == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("loss", REDESCENDING)
def test_where_all_are_alike_all_count(loss):
    made = make_loss(loss, 5.0, 0.0)
    np.testing.assert_array_equal(made.weight(np.full(3, 5.0)), 1)
    assert made.weight(np.array([6.0]))[0] < 1e-12 and np.isfinite(made.rho(np.array([0.0, 5, 6, 1e6]))).all()
    nothing = make_loss(loss, 0.0, 0.0)
    assert np.isfinite(nothing.weight(np.array([0.0, 1.0]))).all() and nothing.weight(np.zeros(1))[0] == 1


def test_the_command_line_offers_every_loss():
    from mpirecon.cli.reconstruct import LOSSES as offered

    assert tuple(offered) == LOSSES


def test_mad_is_consistent_with_the_gaussian():
    values = np.random.default_rng(3).normal(0, 2.5, 200_001)
    assert MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))) == pytest.approx(2.5, rel=0.01)


def test_unknown_losses_are_named():
    with pytest.raises(UserError, match="unknown loss 'l3'.*" + ", ".join(LOSSES)):
        make_loss("l3", 1, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(M_ESTIMATORS), st.floats(0, 5), st.floats(0.01, 2), st.integers(0, 10**6))
def test_no_reweighted_step_raises_the_loss(name, centre, scale, seed):
    """ρ is concave in d², so the weighted squares bound it from above: true from any start, for any calibration."""
    rng = np.random.default_rng(seed)
    loss = make_loss(name, centre, scale)
    points = rng.normal(size=(30, 3)) + rng.normal(0, 5, (30, 1)) * (rng.random((30, 1)) < 0.3)
    x = rng.normal(0, 3, 3)
    history = []
    for _ in range(10):
        d = np.linalg.norm(points - x, axis=1)
        history.append(loss.rho(d).sum())
        weight = loss.weight(d)
        if not weight.sum():
            break  # tukey sees nobody from here
        x = weight @ points / weight.sum()
    assert (np.diff(history) <= 1e-9 * history[0]).all()


@pytest.mark.parametrize("loss", REDESCENDING)
def test_redescending_losses_forget_what_is_far(loss):
    """From a start among the good, the outliers hardly matter or not at all; to l1 they always do."""
    points = np.random.default_rng(1).normal(size=(100, 3))
    dirty = np.vstack([points, np.full((30, 3), 50.0)])
    centre, scale = 1.6, 0.7  # of the norms of three standard normal numbers

    def average(data):
        x = np.zeros(3)
        for _ in range(200):
            weight = make_loss(loss, centre, scale).weight(np.linalg.norm(data - x, axis=1))
            x = weight @ data / weight.sum()
        return x

    drag = np.linalg.norm(average(dirty) - average(points))
    assert drag < {"cauchy": 0.1, "geman-mcclure": 1e-2}.get(loss, 1e-12)
    assert drag < 0.3 * np.linalg.norm(weiszfeld(dirty) - weiszfeld(points))


@pytest.mark.parametrize("loss", [L1(epsilon=1e-3), Huber(0.2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_reweighting_never_raises_the_loss_and_finds_the_line(loss, seed):
    """min Σρ(‖y_i − A_i x‖) by weighted least squares, 40 of 100 measurements grossly wrong."""
    rng = np.random.default_rng(seed)
    a, truth = rng.normal(size=(100, 3, 4)), rng.normal(size=4)
    y = a @ truth + 0.02 * rng.normal(size=(100, 3))
    y[:40] += rng.normal(3, 4, (40, 3))

    def norm(x):
        return np.linalg.norm(y - a @ x, axis=1)

    def solve(w):
        return np.linalg.solve(np.einsum("i,ijk,ijl->kl", w, a, a), np.einsum("i,ijk,ij->k", w, a, y))

    plain = x = solve(np.ones(100))
    history = []
    for _ in range(60):
        history.append(loss.rho(norm(x)).sum())
        x = solve(loss.weight(norm(x)))
    assert (np.diff(history) <= 1e-9 * history[0]).all()
    best = minimize(lambda v: loss.rho(norm(v)).sum(), truth, method="Powell", options=dict(xtol=1e-10, ftol=1e-14))
    assert history[-1] == pytest.approx(best.fun, rel=1e-4)
    assert np.linalg.norm(x - truth) < 0.1 * np.linalg.norm(plain - truth)


# ---------------------------------------------------------------- statistics and distances


def statistics_like(yy, yp, pp, noise=None, samples=1000.0):
    """Statistics with these means over the band, and with this residual in its upper third (default: as everywhere)."""
    yy, yp, pp = (np.broadcast_to(np.asarray(v, float), np.shape(yy)) for v in (yy, yp, pp))
    mean = np.stack([yy, yp, pp], axis=1)
    high = mean.copy()
    if noise is not None:
        high[:] = np.stack([np.asarray(noise, float), 0 * yy, 0 * yy], axis=1)
    return Statistics(np.stack([1.5 * mean - 0.5 * high] * 2 + [high], axis=1) * samples / 3, np.full(3, samples / 3))


def random_statistics(m, seed=0):
    """Statistics of particles near a map, of uneven noise: yy > 0, pp > 0, the residual is not negative."""
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=(m, 6, 10)) * rng.uniform(0.7, 1.4, (m, 1, 1)), 0.5 * rng.normal(size=(m, 6, 10))
    return Statistics(np.stack([(y**2).sum(2), (y * p).sum(2), (p**2).sum(2)], axis=2), np.full(6, 10.0))


def at_random(s, seed=1):
    """What the particles of statistics s look like at random orientations."""
    return RandomPoses(np.arange(len(s.sums)), random_statistics(len(s.sums), seed))


def test_statistics_are_sums_over_bands_per_sample():
    sums = np.arange(18.0).reshape(2, 3, 3)
    statistics = Statistics(sums, np.array([10.0, 5.0, 4.0]))
    np.testing.assert_allclose(statistics.yy, [(0 + 3 + 6) / 19, (9 + 12 + 15) / 19])
    np.testing.assert_allclose(statistics.yp, [(1 + 4 + 7) / 19, (10 + 13 + 16) / 19])
    np.testing.assert_allclose(statistics.pp, [(2 + 5 + 8) / 19, (11 + 14 + 17) / 19])
    np.testing.assert_allclose(statistics.residual, (statistics.yy - 2 * statistics.yp + statistics.pp))
    sums[:, 2, 0] += 7
    np.testing.assert_allclose(statistics.noise, [max(13 - 8, (13 - 14 + 8) / 4) / 4, max(22 - 17, (22 - 32 + 17) / 4) / 4])
    sums[:, 2, 0] = sums[:, 2, 2]  # an image all signal: noise is what the difference leaves, or a quarter of the residual
    np.testing.assert_allclose(statistics.noise, np.maximum(0, 2 * sums[:, 2, 2] - 2 * sums[:, 2, 1]) / 4 / 4)
    empty = Statistics.empty(4, statistics.samples)
    assert empty.sums.shape == (4, 3, 3) and not empty.sums.any() and not empty.residual.any()


@pytest.mark.parametrize(
    "samples, thirds",
    [
        ([9] * 6, [(0, 2), (2, 4), (4, 6)]),
        ([9, 0, 9, 0, 9, 0], [(0, 2), (2, 4), (4, 5)]),
        ([9, 9], [(0, 0), (0, 1), (1, 2)]),
        ([9, 0, 0, 0, 0, 0], [(0, 0), (0, 0), (0, 1)]),
    ],
)
def test_thirds_are_those_of_the_bands_with_samples(samples, thirds):
    """The upper third, where noise is measured, always has samples."""
    statistics = Statistics.empty(1, np.array(samples, float))
    assert [statistics.third(k) for k in range(3)] == [slice(*ends) for ends in thirds]


def test_distances_are_functions_of_the_three_numbers():
    s, sigma = random_statistics(9), np.linspace(0.5, 2, 9)
    np.testing.assert_allclose(RAW.score(s, sigma, 7.0), s.yy - 2 * s.yp + s.pp)
    np.testing.assert_allclose(WHITENED.score(s, sigma, 7.0), s.yy - 2 * s.yp + s.pp)
    np.testing.assert_allclose(EXPLAINED.score(s, sigma, 7.0), s.pp - 2 * s.yp)
    np.testing.assert_allclose(CORRELATION.score(s, sigma, 7.0), -s.yp / (sigma * np.sqrt(s.pp)) * np.sqrt(60))
    np.testing.assert_allclose(EXPLAINED.score(s, sigma, 7.0) + s.yy, WHITENED.score(s, sigma, 7.0))
    np.testing.assert_allclose(RAW.norm(s, 7.0) ** 2, s.residual)
    # explained, as a length: the residual of a particle whose image has the typical power
    np.testing.assert_allclose(EXPLAINED.norm(s, 7.0) ** 2, s.pp - 2 * s.yp + 7.0)
    assert [d.whitened for d in (RAW, WHITENED, EXPLAINED, CORRELATION)] == [False, True, True, True]


def test_an_image_of_outlying_power_is_judged_by_its_excess():
    """Its yp is as much too large as it is too bright: by chance it would look the best of all."""
    s = statistics_like([1.0, 1.0, 1e8, 3.9], [0.1, -0.1, 1e3, 0.1], 0.2)
    score = EXPLAINED.score(s, None, 1.0)
    np.testing.assert_allclose(score, [0.2 - 0.2, 0.2 + 0.2, 1e8 - 2e3 + 0.2 - 1, 0], atol=1e-6)
    assert EXPLAINED.norm(s, 1.0)[2] == pytest.approx(1e4, rel=1e-4)


def test_lengths_are_never_negative_nor_nan():
    s = statistics_like([0.0], 1, 1)  # rounding can leave a residual below zero
    for distance in (RAW, WHITENED, EXPLAINED):
        assert distance.norm(s, 0.0)[0] == 0


def test_a_map_that_is_empty_scores_nobody():
    s = statistics_like(np.ones(2), 0, 0)
    np.testing.assert_array_equal(matched_filter(s, np.ones(2)), 0)
    np.testing.assert_array_equal(s.contrast, 0)


def test_unknown_distances_are_named():
    assert all(get_distance(name) is d for name, d in DISTANCES.items())
    with pytest.raises(UserError, match="unknown distance 'far'.*correlation"):
        get_distance("far")


# ---------------------------------------------------------------- distances of images

PIXEL_SIZE = 3.0


def particles(box, m, seed=0):
    rng = np.random.default_rng(seed)
    q = [random_quaternion(particle_rng(seed, i, "robust")) for i in range(m)]
    u = rng.uniform(8000, 25000, m)
    ctf = make_ctf(m, voltage_kv=300, defocus_u=u, defocus_v=u, cs_mm=2.7, amplitude_contrast=0.1)
    return ParticleSet(box, PIXEL_SIZE, Pose(q, rng.normal(0, 4.0, (m, 2))), ctf, np.ones(m), np.ones(m))


def statistics_of(backend, volume, images, p, bands):
    return Statistics(backend.statistics(backend.reference(volume), backend.prepare(images, p), bands), bands.samples)


def keep_shells(images, lowest, highest):
    """Images with only the Fourier samples whose radius rounds to these shells, below Nyquist."""
    n = images.shape[-1]
    radius = np.hypot(scipy.fft.fftfreq(n, 1 / n)[:, None], scipy.fft.fftfreq(n, 1 / n))
    shell = np.floor(radius + 0.5)
    inside = (shell >= lowest) & (shell <= highest) & (radius < n / 2)
    return scipy.fft.ifft2(np.where(inside, scipy.fft.fft2(images.astype(float)), 0)).real, inside


@pytest.mark.parametrize("box, lowest, highest", [(24, 0, 12), (25, 0, 13), (24, 2, 8), (25, 3, 7)])
def test_raw_distance_is_the_real_space_residual_within_the_band(box, lowest, highest):
    """‖y − Ax‖² of images, with images from the forward model; by Parseval the pixels' own units."""
    p, volume = particles(box, 6), phantom(box)
    model, backend = ForwardModel(box, PIXEL_SIZE, taps=6), CpuBackend(box, PIXEL_SIZE, taps=6)
    clean = model.images(model.prepare(volume), p.pose, p.ctf)
    images = clean + random_like(clean.shape, np.float32, 1) * 2 * clean.std()
    bands = backend.bands(np.full(backend.plane.shells, 7.0), lowest, highest, whitened=False)
    s = statistics_of(backend, volume, images, p, bands)
    difference, inside = keep_shells(images - clean, lowest, highest)
    assert bands.samples.sum() == inside.sum()
    np.testing.assert_allclose(s.residual * bands.samples.sum(), np.sum(difference**2, axis=(1, 2)), rtol=2e-5)
    y, ax = keep_shells(images, lowest, highest)[0], keep_shells(clean, lowest, highest)[0]
    np.testing.assert_allclose(s.yy * bands.samples.sum(), np.sum(y**2, axis=(1, 2)), rtol=2e-5)
    np.testing.assert_allclose(s.pp * bands.samples.sum(), np.sum(ax**2, axis=(1, 2)), rtol=2e-5)
    np.testing.assert_allclose(s.yp * bands.samples.sum(), np.sum(y * ax, axis=(1, 2)), rtol=2e-4)


def test_whitened_distance_weighs_each_shell_by_its_noise():
    box = 24
    p, volume = particles(box, 6), phantom(box)
    model, backend = ForwardModel(box, PIXEL_SIZE, taps=6), CpuBackend(box, PIXEL_SIZE, taps=6)
    clean = model.images(model.prepare(volume), p.pose, p.ctf)
    images = clean + random_like(clean.shape, np.float32, 1) * 2 * clean.std()
    noise_power = np.random.default_rng(2).uniform(0.5, 5, backend.plane.shells)
    bands = backend.bands(noise_power, 2, 9, whitened=True)
    s = statistics_of(backend, volume, images, p, bands)
    noise = images - clean
    expected = sum(np.sum(keep_shells(noise, k, k)[0] ** 2, axis=(1, 2)) / noise_power[k] for k in range(2, 10))
    np.testing.assert_allclose(s.residual * bands.samples.sum(), expected, rtol=2e-5)
    np.testing.assert_allclose(EXPLAINED.score(s, None, np.median(s.yy)) + s.yy, s.residual)
    # the noise band is the upper third: the last two of six
    shells = [backend.plane.shell[bands.band == b] for b in range(6)]
    assert min(shells[4]) == 8 and max(shells[5]) == 9
    high, inside = keep_shells(images - clean, 8, 9)
    assert bands.samples[4:].sum() == inside.sum()
    expected = sum(np.sum(keep_shells(high, k, k)[0] ** 2, axis=(1, 2)) / noise_power[k] for k in range(8, 10))
    np.testing.assert_allclose(s.residual_of(s.third(2)) * bands.samples[4:].sum(), expected, rtol=2e-5)


def test_premultiplied_images_score_like_plain_ones():
    """C·y against C²·x: the same cross term and model power, so the same explained distance."""
    box = 24
    p, volume = particles(box, 6), phantom(box)
    model = ForwardModel(box, PIXEL_SIZE)
    images = model.images(model.prepare(volume), p.pose, p.ctf)
    images += random_like(images.shape, np.float32, 1) * images.std()
    plain = CpuBackend(box, PIXEL_SIZE)
    multiplied = CpuBackend(box, PIXEL_SIZE, premultiplied=True)
    bands = plain.bands(np.full(plain.plane.shells, 2.0), 2, 9, whitened=True)
    s = statistics_of(plain, volume, images, p, bands)
    other = statistics_of(multiplied, volume, multiply_by_ctf(images, p.ctf, PIXEL_SIZE), p, bands)
    np.testing.assert_allclose(other.yp, s.yp, rtol=1e-4)
    np.testing.assert_allclose(other.pp, s.pp, rtol=1e-6)
    a, b = (EXPLAINED.score(v, None, np.median(v.yy)) for v in (other, s))
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_white_noise_has_a_whitened_residual_of_one():
    box, m = 32, 100
    p, backend = particles(box, m), CpuBackend(box, PIXEL_SIZE)
    images = 3 * random_like((m, box, box), np.float32, 4)
    batch = backend.prepare(images, p)
    power, count = np.zeros(backend.plane.shells), np.zeros(backend.plane.shells)
    own = backend.power(batch)
    np.testing.assert_allclose(own, 9, rtol=5 * np.sqrt(2 / box**2))
    backend.add_spectrum(batch, np.ones(m), power, count)
    np.testing.assert_allclose((power / count)[1:], 9, rtol=0.1)  # 800 samples and more; shell 0 has a hundred
    assert power.sum() / count.sum() == pytest.approx(9, rel=0.02)
    bands = backend.bands(power / count, 1, 15, whitened=True)
    s = statistics_of(backend, np.zeros((box,) * 3, np.float32), images, p, bands)
    assert s.residual.mean() == pytest.approx(1, abs=0.01)


def test_sigma_recovers_planted_noise_levels():
    box, m = 48, 60
    p, volume = particles(box, m), phantom(box)
    model, backend = ForwardModel(box, PIXEL_SIZE), CpuBackend(box, PIXEL_SIZE)
    clean = model.images(model.prepare(volume), p.pose, p.ctf)
    planted = np.random.default_rng(5).uniform(0.6, 1.6, m)
    noise = random_like(clean.shape, np.float32, 6) * 3 * clean.std()
    images = (clean + noise * planted[:, None, None]).astype(np.float32)
    bands = backend.bands(np.ones(backend.plane.shells), 2, 22, whitened=True)
    s = statistics_of(backend, volume, images, p, bands)
    sigma = particle_sigma(COMM, s, np.ones(m, bool))
    per_sample = 1 / np.sqrt(bands.samples[4:].sum())  # relative standard deviation of σ from n samples: 1/√(2·n/2)
    np.testing.assert_allclose(sigma, planted / np.sqrt(np.median(planted**2)), rtol=5 * per_sample)
    assert np.corrcoef(sigma, planted)[0, 1] > 0.99


def test_a_wrong_pose_does_not_make_a_particle_noisier():
    """Its residual holds the signal twice; the noise level found must not tell wrong from right poses."""
    box, m = 32, 400
    p, volume = particles(box, m), phantom(box)
    model, backend = ForwardModel(box, PIXEL_SIZE), CpuBackend(box, PIXEL_SIZE)
    clean = model.images(model.prepare(volume), p.pose, p.ctf)
    images = (clean + random_like(clean.shape, np.float32, 6) * clean.std()).astype(np.float32)  # SNR 1
    wrong = np.arange(m) % 2 == 0
    q = p.pose.quaternion.copy()
    q[wrong] = q[np.roll(np.flatnonzero(wrong), 1)]
    given = ParticleSet(box, PIXEL_SIZE, Pose(q, p.pose.shift), p.ctf, p.half, p.optics_group)
    bands = backend.bands(np.ones(backend.plane.shells), 2, 15, whitened=True)
    s = statistics_of(backend, volume, images, given, bands)
    assert abs(s.noise[wrong].mean() / s.noise[~wrong].mean() - 1) < 0.02
    residual = s.residual_of(s.third(2))
    assert residual[wrong].mean() / residual[~wrong].mean() > 1.05  # what a residual would have said


def test_sigma_is_one_where_there_is_no_noise():
    everybody = np.ones(5, bool)
    np.testing.assert_array_equal(particle_sigma(COMM, statistics_like(np.ones(5), 0, 0, np.zeros(5)), everybody), 1)
    # a residual of nothing does not make a particle infinitely trusted
    s = statistics_like(np.ones(5), 0, 0, [4, 1, 1, 1, 1e-12])
    np.testing.assert_allclose(particle_sigma(COMM, s, everybody), [2, 1, 1, 1, 1e-3])


@pytest.mark.parametrize("cv", [0.0, 0.02, 0.05, 0.2])
def test_sigma_is_drawn_to_the_median_by_its_own_scatter(cv):
    """Even noise stays even; uneven noise is known better than by each particle's own residual."""
    rng, m, samples = np.random.default_rng(7), 4000, 900
    truth = np.maximum(rng.normal(1, cv, m), 0.2)
    own = truth**2 * rng.chisquare(samples / 3, m) / (samples / 3)
    s = statistics_like(own, 0, 0, samples=samples)
    sigma, truth, own = particle_sigma(COMM, s, np.ones(m, bool)), truth / np.median(truth), own / np.median(own)
    error, unshrunk = (np.sqrt(np.mean((v - truth) ** 2)) for v in (sigma, np.sqrt(own)))
    # the best linear estimate has the variance cv²·e²/(cv² + e²), e the scatter of a particle's own
    e = 1 / np.sqrt(2 * samples / 3)
    assert error < 1.1 * cv * e / np.hypot(cv, e) + 0.25 * e
    assert error < 1.02 * unshrunk


# ---------------------------------------------------------------- selection


def chosen(s, ids=None, valid=None, **options):
    m = len(s.yy)
    ids = np.arange(m) if ids is None else np.asarray(ids)
    valid = np.ones(m, bool) if valid is None else valid
    options = {"loss": "sorted", "distance": EXPLAINED, "random_poses": at_random(s), **options}
    return select(COMM, s, ids, valid, **options)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 100))
@example(100, 7)  # 0.07 · 100 is 7.000000000000001
def test_keep_count_is_the_share_rounded_up(m, percent):
    assert keep_count(percent / 100, m) == max(1, -(-percent * m // 100))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("distance", DISTANCES.values(), ids=lambda d: d.name)
def test_sorted_keeps_the_nearest(distance, keep):
    s = random_statistics(40)
    selection = chosen(s, keep=keep, distance=distance)
    score = distance.score(s, particle_sigma(COMM, s, np.ones(40, bool)), np.median(s.yy))
    np.testing.assert_array_equal(selection.distance, score)
    assert set(np.flatnonzero(selection.kept)) == set(np.argsort(score)[: keep_count(keep, 40)])
    assert selection.keep_ == keep_count(keep, 40) / 40 and selection.n_iter_ == 0
    np.testing.assert_array_equal(selection.weight, selection.kept.astype(float))


def test_ties_go_to_the_smaller_id():
    s = statistics_like(np.ones(6), 0, [1.0, 1, 1, 1, 0.5, 1])
    ids = np.array([50, 10, 40, 20, 60, 30])
    assert set(ids[chosen(s, ids, keep=0.5).kept]) == {60, 10, 20}


def test_a_sort_within_the_batch_asks_no_other_rank():
    class Elsewhere(SerialCommunicator):
        """One of two ranks, whose sibling's particles are all nearer."""

        asked = 0

        def allreduce_scalar(self, value, op="sum"):
            type(self).asked += 1
            return super().allreduce_scalar(value, op)

    s = random_statistics(10)
    everybody = np.ones(10, bool)
    select(Elsewhere(), s, np.arange(10), everybody, loss="sorted", distance=RAW, keep=0.5, sort_scope="global")
    asked_global = Elsewhere.asked
    Elsewhere.asked = 0
    batch = select(Elsewhere(), s, np.arange(10), everybody, loss="sorted", distance=RAW, keep=0.5, sort_scope="batch")
    assert Elsewhere.asked < asked_global
    assert batch.kept.sum() == 5 and s.residual[batch.kept].max() <= s.residual[~batch.kept].min()


@pytest.mark.parametrize("loss", LOSSES)
def test_particles_left_out_have_no_say(loss):
    s, valid = random_statistics(20), np.arange(20) % 4 != 0
    s.sums[~valid] = 0.0
    random = at_random(s)
    selection = chosen(s, valid=valid, loss=loss, keep=0.6, distance=WHITENED, random_poses=random)
    assert not selection.kept[~valid].any() and not selection.weight[~valid].any()
    alone = Statistics(s.sums[valid], s.samples)
    random = RandomPoses(np.arange(valid.sum()), Statistics(random.statistics.sums[valid], s.samples))
    fewer = chosen(alone, np.flatnonzero(valid), loss=loss, keep=0.6, distance=WHITENED, random_poses=random)
    np.testing.assert_array_equal(selection.kept[valid], fewer.kept)
    np.testing.assert_allclose(selection.weight[valid], fewer.weight)
    np.testing.assert_array_equal(selection.distance[valid], fewer.distance)
    if loss == "sorted":
        assert selection.kept.sum() == keep_count(0.6, int(valid.sum()))


def test_nobody_left_is_nothing_to_mix():
    with pytest.raises(UserError, match="nothing to fit"):
        chosen(random_statistics(4), valid=np.zeros(4, bool), loss="posterior")


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "posterior"])
def test_nobody_left_is_nobody_chosen(loss):
    selection = chosen(random_statistics(4), valid=np.zeros(4, bool), loss=loss, keep=0.5)
    assert not selection.kept.any() and not selection.weight.any()


def test_l2_keeps_everybody_alike():
    selection = chosen(random_statistics(7), loss="l2", keep=0.2)
    assert selection.kept.all() and (selection.weight == 1).all()


@pytest.mark.parametrize("loss", M_ESTIMATORS)
@pytest.mark.parametrize("distance", [RAW, WHITENED, EXPLAINED], ids=lambda d: d.name)
def test_weights_are_the_losses_own_relative_to_the_typical(loss, distance):
    s = random_statistics(41)
    selection = chosen(s, loss=loss, distance=distance)
    d = distance.norm(s, np.median(s.yy))
    np.testing.assert_array_equal(norms(COMM, distance, s, np.ones(41, bool)), d)
    centre, mad = np.median(d), np.median(np.abs(d - np.median(d)))
    assert selection.centre_ == pytest.approx(centre) and selection.scale_ == pytest.approx(1.4826 * mad)
    excess = np.maximum(d - centre, 0) / (1.4826 * mad)
    weight = {
        "l1": 1 / d,
        "huber": np.minimum(1, (centre + 1.345 * 1.4826 * mad) / d),
        "cauchy": 1 / (1 + (excess / 2.385) ** 2),
        "geman-mcclure": 1 / (1 + (excess / 3.787) ** 2) ** 2,
        "welsch": np.exp(-((excess / 2.985) ** 2)),
        "tukey": np.where(excess < 4.685, (1 - (excess / 4.685) ** 2) ** 2, 0),
    }[loss]
    np.testing.assert_allclose(selection.weight, weight / np.median(weight), atol=1e-15)
    np.testing.assert_array_equal(selection.kept, weight > 0)
    assert np.median(selection.weight) == pytest.approx(1)
    order = np.argsort(d)
    assert (np.diff(selection.weight[order]) <= 0).all() and selection.weight[order[-1]] < 1


def test_loss_value_is_the_mean_of_twice_rho():
    d, kept = np.array([1.0, 2.0, 5.0, 100.0]), np.array([True, True, True, False])
    everyone = np.ones(4, bool)
    some = Selection(kept.astype(float), kept, d, centre_=2.0, scale_=1.0)
    everybody = Selection(np.ones(4), np.ones(4, bool), d, centre_=2.0, scale_=1.0)
    assert loss_value(COMM, "l2", d, everybody, everyone) == pytest.approx(np.mean(d**2))
    assert loss_value(COMM, "sorted", d, some, everyone) == pytest.approx(np.mean(d[:3] ** 2))
    assert loss_value(COMM, "l1", d, everybody, everyone) == pytest.approx(2 * np.mean(d))
    delta = 2 + 1.345
    huber = np.where(d <= delta, d**2, delta * (2 * d - delta))
    assert loss_value(COMM, "huber", d, everybody, everyone) == pytest.approx(np.mean(huber))
    # whoever is given no weight by tukey still adds its ρ, the same for all so far away; bad images do not
    u2 = ((5 - 2) / 4.685) ** 2
    rho = [0.5, 2, 2 + 2 * 4.685 * (np.sqrt(u2) - 2 / 3 * u2**1.5 + u2**2.5 / 5) + 4.685**2 * (1 - (1 - u2) ** 3) / 6]
    far = 2 + 2 * 4.685 * 8 / 15 + 4.685**2 / 6
    assert loss_value(COMM, "tukey", d, some, everyone) == pytest.approx(2 * np.mean([*rho, far]))
    assert loss_value(COMM, "tukey", d, some, kept) == pytest.approx(2 * np.mean(rho))
    weighted = Selection(np.array([2.0, 1, 1, 0]), kept, d)
    assert loss_value(COMM, "posterior", d, weighted, everyone) == pytest.approx((2 * 1 + 4 + 25) / 4)
    nobody = Selection(np.zeros(4), np.zeros(4, bool), d, centre_=2.0, scale_=1.0)
    assert loss_value(COMM, "l2", d, nobody, ~everyone) == 0


# ---------------------------------------------------------------- contrast that depends on frequency


def test_expected_contrasts_are_means_over_the_components():
    """E[s·h(k)] and E[s²·h(k)²], summed component by component in plain loops."""
    rng = np.random.default_rng(0)
    share, s, variance = rng.dirichlet([1, 1, 1], 7), rng.normal(1, 0.2, (7, 3)), rng.uniform(0, 0.1, (7, 3))
    h = rng.uniform(0, 1, (3, 5))
    attenuation = Attenuation(h, share * s, share * (s**2 + variance))
    chosen = Selection(np.ones(7), np.ones(7, bool), np.zeros(7), attenuation=attenuation)
    rows = np.array([5, 2])
    first, second = chosen.expected_contrast(rows)
    for out, i in enumerate(rows):
        for k in range(5):
            mean = sum(share[i, c] * s[i, c] * h[c, k] for c in range(3))
            square = sum(share[i, c] * (s[i, c] ** 2 + variance[i, c]) * h[c, k] ** 2 for c in range(3))
            assert first[out, k] == pytest.approx(mean) and second[out, k] == pytest.approx(square)


def test_without_attenuation_the_contrast_is_one_number():
    chosen = Selection(np.ones(4), np.ones(4, bool), np.zeros(4), contrast=np.arange(4.0), contrast2=np.arange(4.0) ** 2)
    first, second = chosen.expected_contrast(np.array([3, 1]))
    np.testing.assert_array_equal(first, [3, 1])
    np.testing.assert_array_equal(second, [9, 1])


# ---------------------------------------------------------------- graduated schedules


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
def test_a_schedule_ends_with_the_loss_itself(rounds):
    mild = [mildness(iteration, rounds) for iteration in range(1, rounds + 1)]
    assert mild[-1] == 0 and (rounds == 1 or mild[0] == 1) and (np.diff(mild) < 0).all()
    assert loosened(0.3, 0) == 0.3 and loosened(0.3, 1) == 1 and widened(0.2, 0) == 0.2
    assert widened(0.2, 1) > widened(0.2, 0.5) > 0.2


def test_mild_selections_keep_more_and_weigh_more_evenly():
    s = random_statistics(60)
    shares = [chosen(s, keep=0.4, mild=mild).kept.mean() for mild in (0, 0.5, 1)]
    assert shares == pytest.approx([0.4, 0.7, 1])
    for loss in REDESCENDING:
        spread = [np.ptp(chosen(s, loss=loss, mild=mild).weight) for mild in (0, 0.5, 1)]
        assert spread[0] > spread[1] > spread[2] and spread[2] < 0.2
    assert chosen(s, loss="huber", mild=0.5).scale_ == pytest.approx(8**0.5 * chosen(s, loss="huber").scale_)


# ---------------------------------------------------------------- images that contradict the map


def images_like(rng, contrast, m=400, strength=1.0, samples=(40, 120, 200), noise=(1.0, 4.0, 0.3)):
    """Statistics of images: `contrast` (m,) times a random projection plus noise, uneven between bands and images."""
    level = rng.uniform(0.5, 2, (m, 1))
    sums = []
    for n, power in zip(samples, noise):
        p = strength * rng.normal(size=(m, n))
        y = contrast[:, None] * p + level * np.sqrt(power) * rng.normal(size=(m, n))
        sums.append(np.stack([(y**2).sum(1), (y * p).sum(1), (p**2).sum(1)], axis=1))
    return Statistics(np.stack(sums, axis=1), np.array(samples, float))


def test_noise_alone_is_as_significant_as_chance():
    rng, m = np.random.default_rng(1), 4000
    z = significance(images_like(rng, np.zeros(m), m))
    assert abs(z.mean()) < 4 / np.sqrt(m) and z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * m))
    bright = images_like(np.random.default_rng(1), np.zeros(m), m)
    bright.sums[:, :, 0] *= 1e8
    bright.sums[:, :, 1] *= 1e4
    np.testing.assert_allclose(significance(bright), z)  # an image ten thousand times too bright is no more significant
    assert not significance(Statistics.empty(2, np.ones(3))).any()


def test_inverted_images_contradict_the_map_and_hardly_any_other():
    contrast = np.where(np.arange(400) % 20 == 0, -1.0, 1.0) * (np.arange(400) % 3 > 0)  # a third shows nothing
    s = images_like(np.random.default_rng(2), contrast)
    against = contradicting(COMM, s, np.ones(400, bool))
    assert against[contrast < 0].all() and against[contrast >= 0].sum() <= 1
    assert looks_inverted(s)[contrast < 0].all() and not (looks_inverted(s) & against)[contrast >= 0].any()
    assert not contradicting(COMM, s, contrast >= 0)[contrast < 0].any()  # bad images are not asked


def test_no_image_contradicts_a_map_by_chance_more_often_than_promised():
    alarms = [contradicting(COMM, images_like(np.random.default_rng(seed), np.zeros(60), 60), np.ones(60, bool)).any()
              for seed in range(300)]
    assert np.mean(alarms) < 0.03  # 0.01, and three standard deviations of 300 draws


@pytest.mark.parametrize("seed", range(5))
def test_false_discoveries_are_held_as_benjamini_and_hochberg_say(seed):
    rng = np.random.default_rng(seed)
    s = images_like(rng, np.where(rng.random(400) < 0.1, -0.6, 0.0), strength=0.5)
    chance = np.sort(ndtr(significance(s)))
    below = np.flatnonzero(chance <= FALSE_DISCOVERY_RATE * np.arange(1, 401) / 400)
    found = contradicting(COMM, s, np.ones(400, bool))
    assert found.sum() == (below[-1] + 1 if len(below) else 0) > 0
    np.testing.assert_array_equal(np.sort(ndtr(significance(s))[found]), chance[: found.sum()])


@pytest.mark.parametrize("loss", M_ESTIMATORS)
def test_what_contradicts_the_map_is_turned_or_gets_no_weight(loss):
    kind = np.arange(400) % 40
    s = images_like(np.random.default_rng(3), np.where(kind == 0, -1.0, np.where(kind == 1, -0.45, 1.0)), strength=4)
    selection, turned = chosen(s, loss=loss, distance=WHITENED), chosen(s.inverted(kind == 0), loss=loss, distance=WHITENED)
    np.testing.assert_array_equal(selection.contradicts, kind < 2)
    assert not selection.weight[kind == 1].any() and not selection.kept[kind == 1].any()
    assert (selection.contrast == np.where(kind == 0, -1, 1)).all() and (selection.contrast2 == 1).all()
    np.testing.assert_array_equal(selection.weight, turned.weight)  # as the image of the right sign would
    assert selection.weight[kind == 0].min() > 0 or loss == "tukey"


@pytest.mark.parametrize("loss", ["sorted", "posterior"])
def test_every_robust_loss_turns_what_is_upside_down(loss):
    kind = np.arange(400) % 40
    s = images_like(np.random.default_rng(3), np.where(kind == 0, -1.0, np.where(kind == 1, -0.45, 1.0)), strength=4)
    at_random = RandomPoses(np.arange(400), images_like(np.random.default_rng(4), np.zeros(400), strength=4))
    options = dict(loss=loss, keep=0.95, distance=WHITENED, random_poses=at_random)
    selection = chosen(s, **options)
    assert selection.kept[kind == 0].all() and (selection.contrast[kind == 0] < 0).all()
    assert (selection.contrast[kind != 0] >= 0).all() and (selection.contradicts == (kind < 2)).all()
    assert not (chosen(s, loss="l2", distance=WHITENED).contrast < 0).any()


def test_turning_reaches_what_depends_on_frequency():
    attenuation = Attenuation(np.ones((2, 5)), np.ones((3, 2)), np.ones((3, 2)))
    selection = Selection(np.ones(3), np.ones(3, bool), np.zeros(3), attenuation=attenuation)
    selection.invert(np.array([False, True, False]))
    e, e2 = selection.expected_contrast(slice(None))
    assert (e[1] < 0).all() and (e[[0, 2]] > 0).all() and (e2 > 0).all() and selection.contrast.tolist() == [1, -1, 1]


def test_those_that_contradict_are_named():
    def warnings(wrong, inverted, loss):
        return Contradiction(np.array(wrong, int), np.array(inverted, int), loss).warnings()

    assert warnings([], [], "huber") == warnings([4], [], "sorted") == warnings([4], [], "l2") == []
    inverted, wrong = warnings(range(12), [3], "huber")
    assert inverted.endswith("sign turned: 1 particle (3)")
    assert "got no weight" in wrong and wrong.endswith("12 particles (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …)")
    assert "choose a robust --loss" in warnings([], [5, 6], "l2")[0]
    assert warnings([5], [5], "posterior") == [inverted.replace("3", "5")]
    told = Contradiction(np.array([1]), np.array([2, 3]), "cauchy").as_dict()
    assert told == {"wrong": [1], "inverted": [2, 3], "turned": True, "without_weight": True}
