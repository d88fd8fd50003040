"""Backgrounds and gains of images: estimates against brute force, and what no background, ramp or gain may change."""

from dataclasses import replace

import numpy as np
import pytest

from mpirecon.kernels.background import check_pixels
from mpirecon.operators.background import Background, Levels
from mpirecon.robust.gains import Gains

BOXES = (64, 33, 16)


def noise(box, m=60, seed=0):
    return np.random.default_rng(seed).standard_normal((m, box, box)).astype(np.float32)


def planes(box, plane):
    """(m, box, box) float64, a + b·u + c·v by its definition."""
    u = (np.arange(box) - (box - 1) / 2) / (box / 2)
    a, b, c = (values[:, None, None] for values in np.asarray(plane, float).T)
    return a + b * u[None, None, :] + c * u[None, :, None]


def outside(box):
    axis = np.arange(box) - (box - 1) / 2
    return np.hypot(axis[:, None], axis) > box / 2


@pytest.mark.parametrize("box", BOXES)
def test_it_is_the_least_squares_plane_of_the_pixels_outside(box):
    images, rows = noise(box), outside(box)
    found = Background(box).measure(images)
    basis = np.stack([values[rows] for values in planes(box, np.eye(3))], axis=1)
    for image, plane, sigma in zip(images, found.plane, found.sigma):
        wanted, squares, *_ = np.linalg.lstsq(basis, image[rows].astype(float), rcond=None)
        np.testing.assert_allclose(plane, wanted, atol=2e-5)
        assert sigma == pytest.approx(np.sqrt(squares[0] / (rows.sum() - 3)), rel=1e-5)


@pytest.mark.parametrize("box", BOXES)
def test_planes_of_a_thousand_deviations_leave_what_was_there_without(box):
    images, background = noise(box), Background(box)
    added = np.random.default_rng(1).uniform(-1000, 1000, (len(images), 3))
    tilted = (images + planes(box, added)).astype(np.float32)
    plain, found = background.measure(images), background.measure(tilted)
    # images were rounded when planes were added
    np.testing.assert_allclose(found.plane - added, plain.plane, atol=1e-4)
    np.testing.assert_allclose(found.sigma, plain.sigma, rtol=2e-5)
    background.take_off(images, plain)
    background.take_off(tilted, found)
    assert np.abs(tilted - images).max() < 3e-4  # float32's steps at 3000 are 2.4e-4


def test_dust_moves_the_estimate_by_less_than_noise_does():
    images, background = noise(64), Background(64)
    plain = background.measure(images)
    images[:, :7, :7] = 1e4
    rng = np.random.default_rng(2)
    for image in images:
        image.flat[rng.choice(64 * 64, 12, replace=False)] = rng.choice([-1e4, 1e4], 12)
    found = background.measure(images)
    assert np.abs(found.plane - plain.plane).max() < 0.1
    np.testing.assert_allclose(found.sigma, plain.sigma, rtol=0.03)


@pytest.mark.parametrize("box", (64, 17, 5))
def test_an_image_is_measured_alike_whatever_is_beside_it(box):
    images, background = noise(box, 20), Background(box)
    images[3].flat[:box] = 1e5
    together = background.measure(images)
    for k in range(len(images)):
        alone = background.measure(images[k : k + 1])
        np.testing.assert_array_equal(alone.plane[0], together.plane[k])
        assert alone.sigma[0] == together.sigma[k]


def test_counts_of_few_steps_have_the_deviation_of_their_noise():
    """8-bit images: at 0.7 steps a half of the pixels have one value, and a median of distances would be 0 or 1."""
    counts = np.rint(0.7 * noise(64) + 3)
    found = Background(64).measure(counts)
    assert np.median(found.sigma) == pytest.approx(np.sqrt(0.49 + 1 / 12), rel=0.02)
    assert np.abs(found.plane[:, 0] - 3).max() < 0.15


def test_constant_images_become_zero_and_what_is_not_finite_stays_so():
    images = noise(16, 4)
    images[0], images[1, 2, 3], images[2] = 7, np.nan, np.inf
    without = Background(16).without(images)
    assert (without[0] == 0).all() and np.isnan(without[1, 2, 3]) and not np.isfinite(without[2]).any()
    assert np.isfinite(without[3]).all() and images[0, 0, 0] == 7


def test_scales_are_multiplied_in():
    images, background = noise(16, 3), Background(16)
    scaled = images.copy()
    background.take_off(scaled, Levels(np.zeros((3, 3)), np.ones(3)), np.array([1.0, 2.0, 0.5]))
    np.testing.assert_array_equal(scaled, images * np.array([1, 2, 0.5], np.float32)[:, None, None])


# gains


def particles(m=1000, box=32, snr=0.1, scale=1.0, noise_level=1.0, seed=3):
    """Images of a round blob of varying strength in noise."""
    rng = np.random.default_rng(seed)
    axis = np.arange(box) - box / 2
    blob = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (box / 8) ** 2))
    blob *= np.sqrt(snr / np.square(blob).mean())
    signal = blob * rng.uniform(0.8, 1.2, m)[:, None, None]
    level = np.broadcast_to(noise_level, m)[:, None, None]
    images = signal + level * rng.standard_normal((m, box, box))
    return (images * np.broadcast_to(scale, m)[:, None, None]).astype(np.float32)


def factors(images):
    background = Background(images.shape[1])
    levels = background.measure(images)
    middle = background.middle(images, levels)
    gains = Gains.of(levels.sigma, background.halves(images, levels), middle)
    return gains, gains.factor(levels.sigma, middle)


def log_normal(spread, m=1000):
    return np.exp(spread * np.random.default_rng(4).standard_normal(m))


@pytest.mark.parametrize("snr", (0.03, 0.1, 4.0))
@pytest.mark.parametrize("spread", (0.15, 0.3, 1.2))
def test_gains_are_distinguished_from_noise(snr, spread):
    """Of signal and noise scaled alike every image is brought to one scale;
    where the noise alone differs, nothing is done."""
    level = log_normal(spread)
    found, factor = factors(particles(snr=snr, scale=level))
    assert found.exponent > 0.9 and np.std(np.log(level * factor)) < 0.06
    if spread < 1:  # noise that differs thirtyfold is no set of images
        found, factor = factors(particles(snr=snr, noise_level=level))
        assert found.exponent < 0.15 and np.std(np.log(factor)) < 0.03


@pytest.mark.parametrize("share", (0.01, 0.1, 0.4))
def test_a_few_images_of_another_gain_are_found_one_by_one(share):
    scale = np.where(np.random.default_rng(5).random(1000) < share, 10.0, 1.0)
    _, factor = factors(particles(scale=scale))
    assert np.std(np.log(scale * factor)) < 0.06


def test_images_of_one_gain_stay_as_they_are():
    for snr in (0, 0.03, 0.1, 4.0):
        found, factor = factors(particles(snr=snr))
        assert found.exponent == 0 and (factor == 1).mean() > 0.995


def test_a_small_plane_of_a_bright_particle_may_be_its_own():
    size = np.array([0.1, 0.4, 1.0, 1.6, 100.0])
    noisy, _ = factors(particles(snr=0.1))
    np.testing.assert_array_equal(noisy.of_background(size, np.ones(5)), 1)
    bright, _ = factors(particles(snr=200.0))
    np.testing.assert_allclose(bright.of_background(size, np.ones(5)), [0, 0, 0.5, 1, 1], atol=1e-9)
    # a CTF that was multiplied onto the images has spread the particle over the border
    spread = replace(noisy, premultiplied=True)
    np.testing.assert_allclose(spread.of_background(size, np.ones(5)), [0, 0, 0.5, 1, 1], atol=1e-9)


def test_images_without_noise_outside_show_no_gain():
    images = particles(snr=0.1, noise_level=0.0)
    images[:, outside(32)] = 0
    background = Background(32)
    levels = background.measure(images)
    assert Gains.of(levels.sigma, background.halves(images, levels), background.middle(images, levels)) is None


def test_a_pixel_between_the_two_limits_is_left_out():
    box, images, rows = 64, noise(64), outside(64)
    images = np.clip(images, -4, 4)
    images[:, 0, 5] = 5.5
    found = Background(box).measure(images)
    rows[0, 5] = False
    basis = np.stack([values[rows] for values in planes(box, np.eye(3))], axis=1)
    for image, sigma in zip(images, found.sigma):
        _, squares, *_ = np.linalg.lstsq(basis, image[rows].astype(float), rcond=None)
        assert sigma == pytest.approx(np.sqrt(squares[0] / (rows.sum() - 3)), rel=1e-3)


def test_pixels_that_are_not_finite_or_all_alike_are_found():
    images = noise(16, 8)
    images[1, 3, 4], images[2, 0, 0], images[3, 15, 15] = np.nan, np.inf, -np.inf
    images[4] = 7.5
    images[5], images[5, 15, 15] = 7.5, 7.5001
    images[6] = np.finfo(np.float32).max
    images[7, :, ::2], images[7, :, 1::2] = np.inf, -np.inf
    total, varied = np.empty(8), np.empty(8, bool)
    check_pixels(images.reshape(8, -1), total, varied)
    finite = np.isfinite(total)
    np.testing.assert_array_equal(finite, [True, False, False, False, True, True, True, False])
    np.testing.assert_array_equal(varied[finite], [True, False, True, False])
