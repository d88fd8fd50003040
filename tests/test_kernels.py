"""Every kernel against its definition in float64, written out without the kernels' tables, margins and half grids."""

import numpy as np
import pytest
from adjoint import inner, random_like
from kernel_definitions import (CTF_CASES, SUM_ERROR, TABLE_ERROR, TAPS, extended, half, hermitian_grid, integral,
                                interleaved, kaiser_bessel, mirrored, problem, rotations, weights_on_grid)  # fmt: skip
from sources import explicit_ctf

from mpirecon.kernels.backproject import make_backproject
from mpirecon.kernels.ctf import evaluate_ctf
from mpirecon.kernels.fold import extend, extended_shape, fold, fold_in_place
from mpirecon.kernels.gridding import MARGIN, kernel_table, kernel_transform
from mpirecon.kernels.project import make_project
from mpirecon.kernels.radial import divide_regularised, multiply_regularised, precondition, radial_sum, shell_points
from mpirecon.kernels.statistics import (
    PLAIN,
    PREMULTIPLIED_RAW,
    PREMULTIPLIED_WHITENED,
    image_power,
    image_shells,
    make_statistics,
    shell_power,
)
from mpirecon.kernels.translate import gather_translated, scatter_translated, translate_samples
from mpirecon.kernels.weigh import weigh
from mpirecon.model import make_ctf
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.operators.half_plane import HalfPlane

# ---------------------------------------------------------------- the interpolation kernel


@pytest.mark.parametrize("taps", TAPS)
def test_kernel_transform_is_the_fourier_integral_of_the_kernel(taps):
    x = np.linspace(-0.5, 0.5, 21)
    np.testing.assert_allclose(
        kernel_transform(x, taps), [integral(taps, f) / integral(taps) for f in x], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("taps", TAPS)
def test_tabulated_taps_are_the_kernel(taps):
    table = kernel_table(taps).astype(np.float64)
    # an odd number of taps lies about the nearest grid point, an even one about the nearest middle of two
    for u in np.linspace(0.0, 0.999, 37) - 0.5 * (taps % 2):
        for j in range(taps):
            tap = j - (taps - 1) // 2
            value = np.polynomial.polynomial.polyval(u - 0.5 * (taps % 2 == 0), table[j])
            assert abs(value - kaiser_bessel(tap - u, taps) / integral(taps)) < TABLE_ERROR[taps]


def test_other_numbers_of_taps_are_refused():
    with pytest.raises(ValueError, match="taps must be one of"):
        kernel_table(5)


# ---------------------------------------------------------------- between half grid and extended grid


@pytest.mark.parametrize("p", [8, 10, 12])
def test_extend_is_periodic_and_hermitian(p):
    full = hermitian_grid(p).astype(np.complex64)
    out = np.empty(extended_shape(p, 2), np.float32)
    extend(half(full), out)
    np.testing.assert_allclose(out, interleaved(extended(full)), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("p", [8, 10, 12])
def test_fold_wraps_and_adds_friedel_mates(p):
    grid = random_like(extended_shape(p, 3), np.float32, 5)
    out = np.empty((p, p, p // 2 + 1, 3), np.float32)
    fold(grid, out)
    points = grid.reshape(*grid.shape[:2], -1, 3).astype(np.float64)
    value, weight = np.zeros((p,) * 3, complex), np.zeros((p,) * 3)
    for (z, y, x), _ in np.ndenumerate(points[..., 0]):
        at = (z - p // 2 - MARGIN) % p, (y - p // 2 - MARGIN) % p, (x - MARGIN) % p
        value[at] += complex(*points[z, y, x, :2])
        weight[at] += points[z, y, x, 2]
    value, weight = half(value + np.conj(mirrored(value))), half(weight + mirrored(weight))
    np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], value, atol=2e-5)
    np.testing.assert_allclose(out[..., 2], weight, atol=2e-5)


def one_by_one_from_the_last(length, part):
    for first in reversed(range(length)):
        part(first, first + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("p", [2, 4, 8, 10, 12, 30])
def test_fold_in_place_is_fold_in_the_memory_of_the_grid(p, dtype):
    grid = (1000 * random_like(extended_shape(p, 3), np.float32, 5)).astype(dtype)
    out = np.empty((p, p, p // 2 + 1, 3), dtype)
    fold(grid, out)
    for more in ((), (one_by_one_from_the_last,)):
        copy = grid.copy()
        found = fold_in_place(copy, *more)
        np.testing.assert_array_equal(found, out)
        assert np.shares_memory(found, copy) and found.flags.c_contiguous


@pytest.mark.parametrize("p", [8, 10])
def test_fold_is_the_transpose_of_extend(p):
    """⟨extend(h), g⟩ over the extended grid = ½ ⟨h, fold(g)⟩ over the whole grid: fold adds each point and its mate."""
    h = half(hermitian_grid(p)).astype(np.complex64)
    spread = np.empty(extended_shape(p, 2), np.float32)
    extend(h, spread)
    grid = random_like(extended_shape(p, 3), np.float32, 6)
    out = np.empty((p, p, p // 2 + 1, 3), np.float32)
    fold(grid, out)
    friedel = np.full(p // 2 + 1, 2.0)
    friedel[[0, -1]] = 1
    points = grid.reshape(*grid.shape[:2], -1, 3)
    left = inner(spread.reshape(*points.shape[:3], 2), points[..., :2])
    right = inner(h, out[..., 0] + 1j * out[..., 1], friedel) / 2
    assert left == pytest.approx(right, abs=1e-6 * float(np.linalg.norm(spread) * np.linalg.norm(grid)))


# ---------------------------------------------------------------- project, backproject, statistics


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("box, p", [(4, 8), (5, 10), (5, 12)])
def test_project_sums_the_taps_on_the_periodic_grid(box, p, taps):
    plane, rotation, full, ratio, slices = problem(box, p, taps)
    out = np.empty(slices.shape, np.complex64)
    make_project(taps)(
        interleaved(extended(full)), kernel_table(taps), rotation, ratio, plane.kx, plane.ky, out
    )
    np.testing.assert_allclose(out, slices, atol=SUM_ERROR[taps] * np.abs(slices).max())


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("box, p", [(4, 8), (5, 10), (5, 12)])
def test_backproject_spreads_samples_and_weights_with_the_same_taps(box, p, taps):
    plane, rotation, ratio = HalfPlane.of(box), rotations(3), p / box
    numerator = random_like((3, len(plane)), np.complex64, 1)
    weight = np.abs(random_like((3, len(plane)), np.float32, 2))
    value, total = np.zeros((p,) * 3, complex), np.zeros((p,) * 3)
    for i, r in enumerate(rotation):
        for s, (kx, ky) in enumerate(zip(plane.kx, plane.ky)):
            w = weights_on_grid(r, ratio, kx, ky, p, taps)
            value += numerator[i, s] * w + np.conj(numerator[i, s]) * mirrored(w)
            total += weight[i, s] * (w + mirrored(w))
    grid, out = np.zeros(extended_shape(p, 3), np.float32), np.empty((p, p, p // 2 + 1, 3), np.float32)
    spread = make_backproject(taps)
    spread(grid, kernel_table(taps), rotation, ratio, plane.kx, plane.ky, numerator, weight)
    fold(grid, out)
    np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], half(value), atol=SUM_ERROR[taps] * np.abs(value).max())
    np.testing.assert_allclose(out[..., 2], half(total), atol=SUM_ERROR[taps] * total.max())
    once = grid.copy()
    spread(grid, kernel_table(taps), rotation, ratio, plane.kx, plane.ky, numerator, weight)
    np.testing.assert_allclose(grid, 2 * once, atol=1e-5 * np.abs(once).max())  # added to, not overwritten


#: what each mode fits to the samples ŷ, and the variance it divides by, from CTF c and noise power 1/gain
MODES = {
    PLAIN: lambda c: (c, np.ones_like(c)),
    PREMULTIPLIED_RAW: lambda c: (c**2, np.ones_like(c)),
    PREMULTIPLIED_WHITENED: lambda c: (c**2, c**2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("box, p", [(4, 8), (5, 10)])
def test_statistics_are_sums_over_the_samples_of_each_band(box, p, taps, mode):
    plane, rotation, full, ratio, slices = problem(box, p, taps)
    rng = np.random.default_rng(9)
    data = random_like(slices.shape, np.complex64, 7) * np.float32(np.abs(slices).mean())
    ctf = (rng.choice([-1, 1], slices.shape) * rng.uniform(0.15, 1, slices.shape)).astype(np.float32)
    gain = rng.uniform(0.5, 2, len(plane)).astype(np.float32)
    band = rng.permuted(np.arange(len(plane)) % 3 - 1).astype(np.int8)
    out = np.full((3, 2, 3), np.nan)
    make_statistics(taps)(
        interleaved(extended(full)), kernel_table(taps), rotation, ratio, plane.kx, plane.ky,
        data, ctf, gain, band, mode, out,
    )  # fmt: skip
    on_model, variance = MODES[mode](ctf.astype(np.float64))
    model, scale = on_model * slices, gain / variance
    for b in (0, 1):
        inside = band == b
        terms = [np.abs(data) ** 2, (np.conj(model) * data).real, np.abs(model) ** 2]
        expected = np.stack([(scale * t)[:, inside].sum(axis=1) for t in terms], axis=1)
        if mode == PREMULTIPLIED_WHITENED:  # the power is divided by the band's mean C², not by each sample's
            power, noise = (gain * terms[0])[:, inside].sum(axis=1), (gain * variance)[:, inside].sum(axis=1)
            expected[:, 0] = power * gain[inside].sum(dtype=np.float64) / noise
        bound = np.sqrt(expected[:, 0] * expected[:, 2])[:, None]  # of yp, by Cauchy and Schwarz
        np.testing.assert_allclose(out[:, b], expected, rtol=SUM_ERROR[taps], atol=SUM_ERROR[taps] * bound.min())


def test_zeros_of_the_ctf_do_not_blow_up_premultiplied_statistics():
    """ŷ = C·y of noise, and a little of the neighbours' where C is 0: whitened, its power is that of plain noise."""
    taps, m = 4, 2000
    plane, rotation, full, ratio, _ = problem(4, 8, taps, m=1)
    phase = np.linspace(0, 20, m * len(plane), dtype=np.float32).reshape(m, -1)
    ctf = np.sin(phase) * (np.abs(np.sin(phase)) > 0.1)
    ctf[0] = 0  # nothing at all is no reason to divide by it
    data = random_like(ctf.shape, np.complex64, 5) / np.sqrt(np.float32(2)) * ctf
    data += 0.01 * random_like(ctf.shape, np.complex64, 6)
    out = np.empty((m, 1, 3))
    make_statistics(taps)(
        interleaved(extended(full)), kernel_table(taps), np.repeat(rotation, m, axis=0), ratio, plane.kx, plane.ky,
        data,
        ctf, np.ones(len(plane), np.float32), np.zeros(len(plane), np.int8), PREMULTIPLIED_WHITENED, out,
    )  # fmt: skip
    assert out[0, 0, 0] == 0 and np.isfinite(out).all()
    assert np.mean(out[1:, 0, 0]) == pytest.approx(len(plane), rel=5 / np.sqrt(m * len(plane) / 4))


def worth(ctf, premultiplied):
    """What a sample counts: the noise of a premultiplied one has the variance C²."""
    return ctf.astype(float) ** 2 if premultiplied else np.ones(ctf.shape)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("box", [8, 9])
def test_shell_power_counts_multiplicities_and_what_a_sample_is_worth(box, premultiplied):
    plane = HalfPlane.of(box)
    data, ctf = random_like((5, len(plane)), np.complex64, 1), random_like((5, len(plane)), np.float32, 2)
    weight = np.array([1.0, 0.25, 0.0, 3.0, -1.0])
    data[[2, 4]] = np.nan  # a bad image has no weight: it adds no power, and is not counted either
    power, count = np.ones(plane.shells), np.ones(plane.shells)
    shell_power(data, ctf, weight, plane.multiplicity, plane.shell, premultiplied, power, count)
    used = weight > 0
    for s in range(plane.shells):
        inside = plane.shell == s
        multiplicity = np.where((plane.kx == 0) & (plane.ky == 0), 1.0, 2.0)[inside]
        weighted = weight[used, None] * multiplicity * np.abs(data[used][:, inside]) ** 2
        assert power[s] == pytest.approx(1 + np.sum(weighted), rel=1e-5)
        counted = multiplicity * worth(ctf[used][:, inside], premultiplied)
        assert count[s] == pytest.approx(1 + np.sum(counted), rel=1e-5)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("box", [8, 9])
def test_image_power_is_the_mean_over_the_whole_plane(box, premultiplied):
    plane = HalfPlane.of(box)
    data, ctf = random_like((4, len(plane)), np.complex64, 3), random_like((4, len(plane)), np.float32, 4)
    ctf[2] = 0
    data[3] = 0
    out = np.full(4, np.nan)
    image_power(data, ctf, plane.multiplicity, premultiplied, out)
    total = np.sum(plane.multiplicity * np.abs(data.astype(complex)) ** 2, axis=1)
    count = np.sum(plane.multiplicity * worth(ctf, premultiplied), axis=1)
    np.testing.assert_allclose(out, np.divide(total, count, out=np.zeros(4), where=count > 0), rtol=1e-5)
    assert out[3] == 0 and (out[2] == 0) == premultiplied


@pytest.mark.parametrize("m", [1, 4, 7])
def test_image_shells_are_the_power_of_each_image_in_each_shell(m):
    plane = HalfPlane.of(9)
    data, out = random_like((m, len(plane)), np.complex64, 1), np.full((m, plane.shells), np.nan)
    image_shells(data, plane.multiplicity, plane.shell, out)
    for s in range(plane.shells):
        inside = plane.shell == s
        power = np.sum(plane.multiplicity[inside] * np.abs(data[:, inside].astype(complex)) ** 2, axis=1)
        np.testing.assert_allclose(out[:, s], power, rtol=1e-6)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_samples_are_weighed_by_their_column(columns, premultiplied):
    m, samples = 3, 21
    data, ctf = random_like((m, samples), np.complex64, 1), random_like((m, samples), np.float32, 2)
    on_data, on_weight = (random_like((m, columns), np.float32, seed) for seed in (3, 4))
    column = (np.arange(samples) % columns).astype(np.int32)
    numerator, weight = np.empty_like(data), np.empty_like(ctf)
    weigh(data, ctf, on_data, on_weight, column, premultiplied, numerator, weight)
    factor = on_data[:, column].astype(float) * (1 if premultiplied else ctf)
    np.testing.assert_allclose(numerator, factor * data, rtol=1e-6)
    np.testing.assert_allclose(weight, on_weight[:, column].astype(float) * ctf.astype(float) ** 2, rtol=1e-6)


# ---------------------------------------------------------------- CTF


@pytest.mark.parametrize("case", CTF_CASES)
@pytest.mark.parametrize("box, pixel_size", [(32, 1.1), (33, 3.0)])
def test_ctf_is_the_formula(case, box, pixel_size):
    ctf = make_ctf(1, **CTF_CASES[case])
    plane = HalfPlane.of(box)
    out = np.empty((1, len(plane)), np.float32)
    evaluate_ctf(ctf_coefficients(ctf, box, pixel_size), plane.kx, plane.ky, out)
    per_pixel = 1 / (box * pixel_size)
    np.testing.assert_allclose(out[0], explicit_ctf(ctf[0], plane.kx * per_pixel, plane.ky * per_pixel), atol=2e-6)


def test_ctf_of_many_particles_at_once():
    rng = np.random.default_rng(0)
    m, box, pixel_size = 200, 24, 0.9
    u = rng.uniform(-5000, 40000, m)
    ctf = make_ctf(
        m, voltage_kv=rng.choice([80, 200, 300], m), defocus_u=u, defocus_v=u + rng.normal(0, 2000, m),
        astigmatism=rng.uniform(-4, 4, m), cs_mm=rng.uniform(0, 3, m), amplitude_contrast=rng.uniform(-0.2, 0.9, m),
        phase_shift=rng.uniform(-4, 4, m), bfactor=rng.uniform(0, 80, m) * rng.integers(0, 2, m),
        scale=rng.uniform(0.5, 1, m),
    )  # fmt: skip
    plane = HalfPlane.of(box)
    out = np.empty((m, len(plane)), np.float32)
    evaluate_ctf(ctf_coefficients(ctf, box, pixel_size), plane.kx, plane.ky, out)
    k = 1 / (box * pixel_size)
    np.testing.assert_allclose(out, [explicit_ctf(c, plane.kx * k, plane.ky * k) for c in ctf], atol=2e-6)


# ---------------------------------------------------------------- translation


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("box", [8, 9])
def test_gather_translated_is_a_phase_ramp(box, in_rows):
    plane = HalfPlane.of(box)
    order = np.arange(len(plane)) if in_rows else np.random.default_rng(2).permutation(len(plane))
    kx, ky = plane.kx[order], plane.ky[order]
    spectra = random_like((3, box, box // 2 + 1), np.complex64, 1)
    position = np.array([[0.0, 0.0], [1.25, -3.5], [box // 2 + 0.1, 40.7]])
    out = np.empty((3, len(plane)), np.complex64)
    for scale in ((), (0.25,)):
        gather_translated(spectra, position, kx, ky, out, *scale)
        for i, (x, y) in enumerate(position):
            ramp = (scale or (1,))[0] * np.exp(2j * np.pi * (kx * x + ky * y) / box)
            np.testing.assert_allclose(out[i], spectra[i, ky % box, kx] * ramp, atol=2e-6)


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("box", [8, 9])
def test_centred_samples_are_moved_on_by_a_phase_ramp(box, in_rows):
    plane = HalfPlane.of(box)
    order = np.arange(len(plane)) if in_rows else np.random.default_rng(2).permutation(len(plane))
    kx, ky = plane.kx[order], plane.ky[order]
    samples, shift = random_like((3, len(plane)), np.complex64, 1), np.array([[0.0, 0.0], [1.25, -3.5], [0.0, 40.7]])
    out = np.empty_like(samples)
    translate_samples(samples, shift, box, kx, ky, out)
    np.testing.assert_array_equal(out[0], samples[0])
    for i, (x, y) in enumerate(shift):
        np.testing.assert_allclose(out[i], samples[i] * np.exp(2j * np.pi * (kx * x + ky * y) / box), atol=2e-6)
    translate_samples(samples, shift, box, kx, ky, samples)
    np.testing.assert_array_equal(samples, out)


@pytest.mark.parametrize("box, limit", [(8, None), (9, None), (9, 2.5)])
def test_scatter_translated_gives_a_real_image_and_zeros_elsewhere(box, limit):
    plane = HalfPlane.of(box, limit)
    samples = random_like((2, len(plane)), np.complex64, 1)
    position = np.array([[1.25, -3.5], [box // 2 - 0.1, 20.7]])
    spectra = np.full((2, box, box // 2 + 1), np.nan, np.complex64)
    scatter_translated(samples, position, plane.kx, plane.ky, spectra)
    for i, (x, y) in enumerate(position):
        expected = np.zeros((box, box), complex)
        for s, (kx, ky) in enumerate(zip(plane.kx, plane.ky)):
            value = samples[i, s] * np.exp(-2j * np.pi * (kx * x + ky * y) / box)
            expected[ky % box, kx % box] = value
            if kx or ky:
                expected[-ky % box, -kx % box] = np.conj(value)
        np.testing.assert_allclose(spectra[i], expected[:, : box // 2 + 1], atol=2e-6)


# ---------------------------------------------------------------- radial kernels


def shells_of(p, ratio, last):
    """Shell of every point of the half grid in image pixels, and how often it stands in the whole grid."""
    k = np.fft.fftfreq(p, 1 / p)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(p // 2 + 1) ** 2)
    friedel = np.full(radius.shape, 2.0)
    friedel[..., [0, -1] if p % 2 == 0 else [0]] = 1
    return np.minimum(np.floor(radius / ratio + 0.5).astype(int), last), friedel


@pytest.mark.parametrize("p, ratio", [(8, 2.0), (10, 2.0), (12, 12 / 5)])
def test_radial_sum_counts_the_whole_grid(p, ratio):
    folded = random_like((p, p, p // 2 + 1, 3), np.float32, 1)
    total, count = np.zeros(4), shell_points(p, ratio, 4)
    radial_sum(folded.reshape(p, p, -1), 3, 2, ratio, total)
    shell, friedel = shells_of(p, ratio, 3)
    np.testing.assert_array_equal(count, np.bincount(shell.ravel(), friedel.ravel()))
    np.testing.assert_allclose(total, np.bincount(shell.ravel(), (friedel * folded[..., 2]).ravel()), rtol=1e-6)
    assert count.sum() == p**3


@pytest.mark.parametrize("p, ratio", [(8, 2.0), (12, 12 / 5)])
def test_regularised_products_and_quotients(p, ratio):
    folded = np.abs(random_like((p, p, p // 2 + 1, 3), np.float32, 1))
    spectrum = random_like((p, p, p // 2 + 1), np.complex64, 2)
    ridge = np.array([0.5, 0.0, 2.0, 0.1])
    denominator = folded[..., 2] + ridge[shells_of(p, ratio, 3)[0]]
    out = np.empty_like(spectrum)
    divide_regularised(folded, ridge, ratio, out)
    np.testing.assert_allclose(out, (folded[..., 0] + 1j * folded[..., 1]) / denominator, rtol=1e-6)
    quotient, product = spectrum.copy(), spectrum.copy()
    precondition(quotient, folded, ridge, ratio)
    np.testing.assert_allclose(quotient, spectrum / denominator, rtol=1e-6)
    multiply_regularised(product, np.ascontiguousarray(folded[..., 2]), ridge, ratio)
    np.testing.assert_allclose(product, spectrum * denominator, rtol=1e-6)


def test_points_that_no_sample_reached_become_zero():
    folded = np.ones((8, 8, 5, 3), np.float32)
    folded[1, 2, 3] = 0
    out, spectrum = np.empty((8, 8, 5), np.complex64), np.ones((8, 8, 5), np.complex64)
    divide_regularised(folded, np.zeros(3), 2.0, out)
    precondition(spectrum, folded, np.zeros(3), 2.0)
    assert out[1, 2, 3] == 0 and spectrum[1, 2, 3] == 0
    assert np.count_nonzero(out) == np.count_nonzero(spectrum) == out.size - 1
