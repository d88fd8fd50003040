"""Statistics of particles, and the distances made of them."""

import numpy as np
import pytest
import scipy.fft
from adjoint import random_like

from mpirecon.backend.cpu import CpuBackend
from mpirecon.errors import UserError
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.forward import ForwardModel
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.distances import CORRELATION, DISTANCES, EXPLAINED, RAW, WHITENED, get_distance
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.statistics import Statistics, matched_filter
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.phantom import phantom

COMM = SerialCommunicator()
from particle_statistics import random_statistics, statistics_like

COMM = SerialCommunicator()


def test_statistics_are_sums_over_bands_per_sample():
    sums = np.arange(18.0).reshape(2, 3, 3)
    statistics = Statistics(sums, np.array([10.0, 5.0, 4.0]))
    np.testing.assert_allclose(statistics.yy, [(0 + 3 + 6) / 19, (9 + 12 + 15) / 19])
    np.testing.assert_allclose(statistics.yp, [(1 + 4 + 7) / 19, (10 + 13 + 16) / 19])
    np.testing.assert_allclose(statistics.pp, [(2 + 5 + 8) / 19, (11 + 14 + 17) / 19])
    np.testing.assert_allclose(statistics.residual, (statistics.yy - 2 * statistics.yp + statistics.pp))
    sums[:, 2, 0] += 7
    np.testing.assert_allclose(statistics.noise, [max(13 - 8, (13 - 14 + 8) / 4) / 4,
                                                  max(22 - 17, (22 - 32 + 17) / 4) / 4])
    # an image all signal: noise is what the difference leaves, or a quarter of the residual
    sums[:, 2, 0] = sums[:, 2, 2]
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


def test_an_image_of_outlying_power_is_scored_by_its_excess():
    """Its yp is as much too large as it is too bright: by chance it would look the best of all."""
    s = statistics_like([1.0, 1.0, 1e8, 3.9], [0.1, -0.1, 1e3, 0.1], 0.2)
    score = EXPLAINED.score(s, None, 1.0)
    np.testing.assert_allclose(score, [0.2 - 0.2, 0.2 + 0.2, 1e8 - 2e3 + 0.2 - 1, 0], atol=1e-6)
    assert EXPLAINED.norm(s, 1.0)[2] == pytest.approx(1e4, rel=1e-4)


def test_lengths_are_never_negative_nor_nan():
    s = statistics_like([0.0], 1, 1)  # rounding can leave a residual below zero
    for distance in (RAW, WHITENED, EXPLAINED):
        assert distance.norm(s, 0.0)[0] == 0


def test_an_empty_map_scores_no_particle():
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
    np.testing.assert_allclose(s.sums[:, s.third(2)].sum(axis=1) @ [1, -2, 1], expected, rtol=2e-5)


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
    residual = s.sums[:, s.third(2)].sum(axis=1) @ [1, -2, 1]
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
