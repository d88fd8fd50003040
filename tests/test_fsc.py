"""Fourier shell correlation against explicit loops, and the fsc command."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
from conftest import radial_power
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.kernels.shells import correlate_cells, correlate_shells, turn_phases
from mpirecon.validate import masks
from mpirecon.validate.coverage import bin_of, view_bins
from mpirecon.validate.fsc import crossing, fsc, friedel_weight, shell_count, shell_index, shell_sum


def noise(box, seed=0):
    return np.random.default_rng(seed).standard_normal((box, box, box))


def full_transform(volume):
    """Samples of the full float64 transform, one by one, with their rounded radius."""
    box = len(volume)
    f = np.fft.fftn(volume)
    for index in itertools.product(range(box), repeat=3):
        k = [i if i <= box // 2 else i - box for i in index]
        yield f[index], math.floor(math.sqrt(sum(c * c for c in k)) + 0.5)


def brute_force_fsc(a, b):
    box = len(a)
    cross, power_a, power_b = (np.zeros(box // 2 + 1) for _ in range(3))
    for (fa, shell), (fb, _) in zip(full_transform(a), full_transform(b)):
        if shell <= box // 2:
            cross[shell] += (fa * fb.conjugate()).real
            power_a[shell] += abs(fa) ** 2
            power_b[shell] += abs(fb) ** 2
    return cross / np.sqrt(power_a * power_b)


@pytest.mark.parametrize("box", [8, 9, 12, 13])
def test_fsc_equals_a_loop_over_all_samples(box):
    a = noise(box)
    b = a + noise(box, 1)
    np.testing.assert_allclose(fsc(a, b), brute_force_fsc(a, b), atol=1e-12)
    np.testing.assert_allclose(fsc(a.astype("f4"), b.astype("f4")), brute_force_fsc(a, b), atol=1e-5)


@pytest.mark.parametrize("box", [8, 9])
def test_mask_multiplies_both_maps(box):
    a, b, mask = noise(box), noise(box, 1), masks.soft_sphere(box, 2, 2)
    np.testing.assert_allclose(fsc(a, b, mask), brute_force_fsc(a * mask, b * mask), atol=1e-6)


@pytest.mark.parametrize("box", [8, 9])
def test_shells_count_every_sample_of_the_full_transform_once(box):
    radii = [shell for _, shell in full_transform(noise(box))]
    expected = np.bincount(radii)[: box // 2 + 1]
    np.testing.assert_array_equal(shell_count(box), expected)
    assert friedel_weight(box).sum() == box
    assert shell_index(box).shape == (box, box, box // 2 + 1)


@pytest.mark.parametrize("box", [16, 17])
def test_radial_power_obeys_parseval_and_white_noise_is_white(box):
    image = np.random.default_rng(0).standard_normal((box, box))
    inside = np.fft.fft2(image, norm="ortho")
    k = np.fft.fftfreq(box, 1 / box)
    inside[np.rint(np.hypot(*np.meshgrid(k, k))) > box // 2] = 0
    assert np.sum(radial_power(image) * shell_count(box, 2)) == pytest.approx(np.sum(np.abs(inside) ** 2))
    power = radial_power(3 * noise(24))
    assert np.abs(power[5:] / 9 - 1).max() < 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 11), st.integers(0, 1000), st.floats(0.01, 100))
def test_fsc_is_symmetric_bounded_and_blind_to_scale(box, seed, scale):
    a, b = noise(box, seed), noise(box, seed + 1)
    curve = fsc(a, b)
    np.testing.assert_allclose(fsc(b, scale * a), curve, atol=1e-10)
    np.testing.assert_allclose(fsc(a, -b), -curve, atol=1e-10)
    np.testing.assert_allclose(fsc(a, a), 1, atol=1e-12)
    assert (np.abs(curve) <= 1 + 1e-12).all()


def test_independent_noise_does_not_correlate_and_an_empty_map_gives_zero():
    assert np.abs(fsc(noise(32), noise(32, 1))[8:]).max() < 0.15
    np.testing.assert_array_equal(fsc(noise(8), np.zeros((8, 8, 8))), 0)


def test_crossing_is_linear_between_shells():
    curve = np.array([1, 1, 0.9, 0.6, 0.4, 0.1])
    assert crossing(curve, 0.5, box=10, pixel_size=2.0) == pytest.approx(20 / 3.5)
    assert crossing(curve, 0.9, box=10, pixel_size=2.0) == pytest.approx(20 / 2)
    assert crossing(curve, 0.05, 10, 2.0) is None
    # the first fall counts, not a later rise
    assert crossing(np.array([1, 0.9, 0.1, 0.9, 0.9]), 0.5, 8, 1.0) == pytest.approx(8 / 1.5)
    # below from the first shell on: longer than the box, whatever the maps' means do
    assert crossing(np.array([-1, 0.0, 0.9, 0.9]), 0.5, 8, 1.0) == pytest.approx(16)
    assert crossing(np.array([1, 0.9, np.nan]), 0.45, 8, 1.0) == pytest.approx(8 / 1.5)


@pytest.mark.parametrize(
    "a, b, mask, message",
    [
        (np.zeros((4, 4)), np.zeros((4, 4)), None, "must be a cube"),
        (np.zeros((4, 4, 4)), np.zeros((6, 6, 6)), None, r"\(4, 4, 4\).*second map \(6, 6, 6\)"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.zeros((5, 5, 5)), r"mask \(5, 5, 5\)"),
        (np.full((4, 4, 4), np.nan), np.zeros((4, 4, 4)), None, "first map holds 64 NaN"),
    ],
)
def test_fsc_says_what_is_wrong(a, b, mask, message):
    with pytest.raises(UserError, match=message):
        fsc(a, b, mask)


@pytest.mark.parametrize("box", [16, 17])
def test_soft_masks(box):
    mask = masks.soft_sphere(box, 4, 3)
    r = np.sqrt(sum((g - box // 2) ** 2 for g in np.mgrid[:box, :box, :box]))
    assert (mask[r <= 4] == 1).all() and (mask[r >= 7] == 0).all()
    np.testing.assert_allclose(mask[r == 5], 0.75, atol=1e-6)  # a third into the edge: (1 + cos 60°) / 2
    np.testing.assert_array_equal(mask, masks.cosine_edge(masks.radius_grid(box) - np.float32(4), 3))
    volume = np.random.default_rng(0).standard_normal((box,) * 3, np.float32)
    expected = volume * mask
    assert masks.cut_to_sphere(volume, 4, 3) is volume and (volume == expected).all()
    assert masks.soft_sphere(box, 4, 0, ndim=2).sum() == np.count_nonzero(r[box // 2] <= 4)
    np.testing.assert_allclose(shell_sum(np.ones((box, box, box // 2 + 1), "f4"), box), shell_count(box))


# kernels, against the same sums written plainly


@pytest.mark.parametrize("box", [8, 9, 12, 15])
def test_sums_by_shell_and_by_cell_are_those_of_the_samples(box):
    rng = np.random.default_rng(box)
    a, b = (scipy.fft.rfftn(rng.standard_normal((box,) * 3)) for _ in range(2))
    products = (a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2
    shell, weight = shell_index(box), np.broadcast_to(friedel_weight(box), a.shape)
    expected = [np.bincount(shell.ravel(), (p * weight).ravel())[: box // 2 + 1] for p in products]
    sums = np.zeros((3, box // 2 + 1))
    correlate_shells(a, b, sums)
    np.testing.assert_allclose(sums, expected)
    np.testing.assert_allclose([shell_sum(p, box) for p in products], expected)
    top, cells = view_bins(40)
    by_cell = np.zeros((cells.sum(), box // 2 + 1, 3))
    correlate_cells(a, b, top, cells, by_cell)
    k = np.stack(np.meshgrid(*[scipy.fft.fftfreq(box, 1 / box)] * 2, np.arange(box // 2 + 1), indexing="ij")[::-1],
                 axis=-1)
    use = (shell > 0) & (shell <= box // 2)
    where = bin_of(k[use] / np.linalg.norm(k[use], axis=1, keepdims=True), top, cells)
    expected = np.zeros_like(by_cell)
    for c, product in enumerate(products):
        np.add.at(expected, (where, shell[use], c), (product * weight)[use])
    np.testing.assert_allclose(by_cell, expected, atol=1e-9)


@pytest.mark.parametrize("box", [8, 9])
def test_turned_phases_are_those_of_a_real_map(box):
    k = scipy.fft.rfftn(np.random.default_rng(1).standard_normal((box,) * 3))
    turned = k.copy()
    turn_phases(turned, 4, np.uint64(7))
    again = scipy.fft.rfftn(scipy.fft.irfftn(turned, s=(box,) * 3))  # a real map: mates that disagree would be averaged
    np.testing.assert_allclose(again, turned, atol=1e-9)
    np.testing.assert_allclose(np.abs(turned), np.abs(k), rtol=5e-7)  # the turn has float32's digits
    beyond = np.linalg.norm(np.stack(np.meshgrid(*[scipy.fft.fftfreq(box, 1 / box)] * 2, np.arange(box // 2 + 1),
                                                 indexing="ij")), axis=0) >= 2
    np.testing.assert_array_equal(turned[~beyond], k[~beyond])
    turns = np.angle(turned / k)[beyond]
    assert abs(np.exp(1j * turns).mean()) < 3 / np.sqrt(beyond.sum()) and turns.std() > 1.5
