"""Filters of the maps that particles are compared with."""

import numpy as np
import pytest
from scipy.fft import rfftn

from mpirecon.simulation.phantom import phantom
from mpirecon.solvers.wiener import local_wiener, ssnr_of_half, wiener_filter
from mpirecon.validate.fsc import filter_shells, fsc
from mpirecon.validate.masks import soft_sphere

BOX = 32


@pytest.fixture(scope="module")
def noisy():
    """Two halves of the phantom with white noise, filtered as references are:
    truth, halves, noise power, SSNR, mask."""
    truth, mask, rng = phantom(BOX), soft_sphere(BOX, 12, 4), np.random.default_rng(0)
    sigma = 0.6 * truth.std()
    halves = [(truth + sigma * rng.standard_normal(truth.shape).astype(np.float32)) for _ in range(2)]
    ssnr = ssnr_of_half(fsc(*halves, mask))
    first, second = (wiener_filter(rfftn(h), ssnr) * mask for h in halves)
    noise = float((mask * (first - second) ** 2).sum() / 2 / mask.sum())
    return truth, first, noise, ssnr, mask


def test_shells_are_multiplied_by_their_gain(noisy):
    volume = noisy[1]
    np.testing.assert_allclose(filter_shells(volume, np.ones(BOX // 2 + 1))[8:24, 8:24, 8:24],
                               filter_shells(volume, np.full(BOX // 2 + 1, 3.0))[8:24, 8:24, 8:24] / 3, rtol=1e-4,
                               atol=1e-6)
    ssnr = np.linspace(9, 0, BOX // 2 + 1)
    np.testing.assert_array_equal(wiener_filter(rfftn(volume), ssnr), filter_shells(volume, ssnr / (1 + ssnr)))


def test_a_reference_loses_the_noise_about_the_particle(noisy):
    truth, volume, noise, ssnr, mask = noisy
    better = local_wiener(volume, noise, ssnr, mask)
    assert better.dtype == np.float32 and better.shape == truth.shape
    before, after = fsc(volume, truth)[1:16], fsc(better, truth)[1:16]
    assert after.mean() > before.mean() + 0.03 and (after > before - 0.01).all()
    # where there is nothing but noise little of it is left, where the particle is dense nearly all
    empty, dense = (truth < 0.01 * truth.max()) & (mask > 0.9), truth > 0.3 * truth.max()
    assert np.square(better[empty]).sum() < 0.7 * np.square(volume[empty]).sum()
    assert better[dense].sum() == pytest.approx(volume[dense].sum(), rel=0.1)


def test_noise_alone_gives_nothing_and_no_nan():
    rng, mask = np.random.default_rng(1), soft_sphere(BOX, 12, 4)
    volume = rng.standard_normal((BOX,) * 3).astype(np.float32) * mask
    for ssnr in (np.zeros(BOX // 2 + 1), np.full(BOX // 2 + 1, 0.01)):
        out = local_wiener(volume, 1.5, ssnr, mask)
        assert np.isfinite(out).all()
    assert np.isfinite(local_wiener(0 * volume, 0.0, np.zeros(BOX // 2 + 1), mask)).all()


def test_without_noise_a_reference_stays_as_it_is(noisy):
    truth, *_, mask = noisy
    ssnr = np.full(BOX // 2 + 1, 1e6)
    np.testing.assert_allclose(local_wiener(truth * mask, 0.0, ssnr, mask),
                               filter_shells(truth * mask, 0 * ssnr + 1) * (mask > 0),
                               atol=1e-3 * truth.max())
