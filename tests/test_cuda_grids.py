"""CUDA kernels of the CTF, of translations and of whole grids against their twins, run on the host or on a GPU."""

import numpy as np
import pytest
from adjoint import random_like
from kernel_definitions import CTF_CASES, TYPICAL, half, hermitian_grid, mirrored
from sources import explicit_ctf
from test_cuda_kernels import (PLAIN_OPTICS, f4, f8, i4, i8, image_arguments, k_of, particles, run, runs_kernels,
                               size_of, twin_samples)  # fmt: skip

from mpirecon.kernels.ctf import evaluate_aberrated_ctf
from mpirecon.kernels.cuda_arguments import ctf_arguments, frequencies, shift_arguments
from mpirecon.kernels.fold import extend, extended_shape, fold
from mpirecon.kernels.radial import divide_regularised, multiply_regularised, precondition, radial_sum, shell_points
from mpirecon.kernels.translate import scatter_translated, translate_samples
from mpirecon.model import make_ctf
from mpirecon.operators.ctf import ctf_coefficients
from mpirecon.operators.half_plane import HalfPlane

# ---------------------------------------------------------------- CTF, translation


@runs_kernels
@pytest.mark.parametrize("case", CTF_CASES)
@pytest.mark.parametrize("box, pixel_size", [(32, 1.1), (33, 3.0), (64, 0.5)])
def test_ctf_is_the_formula(case, box, pixel_size):
    ctf, plane = make_ctf(1, **CTF_CASES[case]), HalfPlane.of(box)
    out = np.full((1, len(plane)), np.nan, f4)
    coefficients = ctf_arguments(ctf_coefficients(ctf, box, pixel_size))
    run("evaluate_ctf", 3, coefficients, *PLAIN_OPTICS, k_of(plane), i4(len(plane)), i4(1), out, threads=32)
    per_pixel = 1 / (box * pixel_size)
    np.testing.assert_allclose(out[0], explicit_ctf(ctf[0], plane.kx * per_pixel, plane.ky * per_pixel), atol=2e-6)


@runs_kernels
@pytest.mark.parametrize("bfactor", [0.0, 30.0])
def test_ctf_with_aberrations_is_the_twins(bfactor):
    """Magnified frequencies, more phase and a detector, of two groups;
    a large box, where phases are hundreds of turns."""
    box, pixel_size, m = 320, 0.7, 3
    plane = HalfPlane.of(box)
    some = np.random.default_rng(0).permutation(len(plane))[:500]
    kx, ky = plane.kx[some], plane.ky[some]
    ctf = make_ctf(m, **{**TYPICAL, "defocus_v": [9000.0, 20000.0, 12000.0], "astigmatism": [0.3, -1.0, 2.0],
                         "bfactor": bfactor})
    row = np.array([1, 0, 1])
    magnification = np.eye(2) + np.random.default_rng(1).uniform(-0.02, 0.02, (2, 2, 2))
    turns, on_ctf = np.random.default_rng(2).uniform(-2, 2, (2, 2, len(some))).astype(f4)
    coefficients = ctf_coefficients(ctf, box, pixel_size)
    twin, out = np.full((2, m, len(some)), np.nan, f4)
    evaluate_aberrated_ctf(coefficients, kx, ky, row, magnification, turns, twin)
    run("evaluate_ctf", 3, ctf_arguments(coefficients, magnification[row]), np.ones((2, len(some)), np.complex64),
        turns,
        on_ctf, row.astype(i4), frequencies(kx, ky), i4(len(some)), i4(m), out, threads=32)  # fmt: skip
    np.testing.assert_allclose(out, twin * on_ctf[row], atol=1e-5)


@runs_kernels
@pytest.mark.parametrize("kind", ["samples", "transforms"])
def test_odd_phases_are_undone_once(kind):
    box, m = 9, 3
    plane = HalfPlane.of(box)
    spectra, shift, _, ctf = particles(box, m)
    data, _ = twin_samples(spectra, shift, ctf, plane, 1.3)
    row, group = np.arange(m, dtype=i4), np.array([1, 0, 1], i4)
    phase = np.exp(1j * random_like((2, len(plane)), f4, 1)).astype(np.complex64)
    optics = (phase, np.zeros(phase.shape, f4), np.ones(phase.shape, f4), group)
    out = np.full((m, len(plane)), np.nan, np.complex64)
    data *= phase[group]
    run("gather_translated", 2, *image_arguments(kind, spectra, shift, data, row, optics), k_of(plane), i4(len(plane)),
        i4(m),
        row, out, threads=64)  # fmt: skip
    np.testing.assert_allclose(out, data, atol=2e-6)


@runs_kernels
@pytest.mark.parametrize("box", [8, 9, 48])
def test_gather_translated_is_a_phase_ramp(box):
    plane = HalfPlane.of(box)
    spectra = random_like((3, box, box // 2 + 1), np.complex64, 1)
    shift = np.array([[0.0, 0.0], [1.25, -3.5], [0.1, 140.7]])
    out = np.full((4, len(plane)), np.nan, np.complex64)
    row = np.array([3, 0, 2], i4)
    run("gather_translated", 2, spectra, np.arange(3, dtype=i4), shift_arguments(shift, box), i8(spectra[0].size),
        f4(0.5),
        i4(box), *PLAIN_OPTICS, k_of(plane), i4(len(plane)), i4(3), row, out, threads=64)  # fmt: skip
    for i, (x, y) in enumerate(shift + box // 2):
        ramp = np.exp(2j * np.pi * (plane.kx * x + plane.ky * y) / box)
        np.testing.assert_allclose(out[row[i]], 0.5 * spectra[i, plane.ky % box, plane.kx] * ramp, atol=3e-6)
    assert np.isnan(out[1]).all()


@runs_kernels
@pytest.mark.parametrize("box, limit", [(8, None), (9, None), (48, 2.5)])
def test_centred_samples_move_on_as_the_twins(box, limit):
    plane = HalfPlane.of(box, limit)
    samples, shift = random_like((3, len(plane)), np.complex64, 1), np.array([[0.0, 0.0], [1.25, -3.5], [-0.1, 20.7]])
    twin, out = np.empty_like(samples), np.full_like(samples, np.nan)
    translate_samples(samples, shift, box, plane.kx, plane.ky, twin)
    run("gather_translated", 2, samples, np.arange(3, dtype=i4), shift_arguments(shift, box), i8(len(plane)), f4(1),
        i4(box),
        *PLAIN_OPTICS, k_of(plane), i4(len(plane)), i4(3), np.arange(3, dtype=i4), out, threads=64)  # fmt: skip
    np.testing.assert_allclose(out, twin, atol=3e-6)


@runs_kernels
@pytest.mark.parametrize("box, limit", [(8, None), (9, None), (9, 2.5)])
def test_scatter_translated_is_the_twins(box, limit):
    plane = HalfPlane.of(box, limit)
    samples, shift = random_like((2, len(plane)), np.complex64, 1), np.array([[1.25, -3.5], [-0.1, 20.7]])
    twin, out = np.zeros((2, 2, box, box // 2 + 1), np.complex64)
    scatter_translated(samples, shift + box // 2, plane.kx, plane.ky, twin)
    run("scatter_translated", 2, samples, shift_arguments(shift, box), i4(box), k_of(plane), i4(len(plane)),
        i4(2), out, threads=64)  # fmt: skip
    np.testing.assert_allclose(out, twin, atol=3e-6)


# ---------------------------------------------------------------- grids


@runs_kernels
@pytest.mark.parametrize("p", [8, 10, 12])
def test_extend_and_fold_are_the_twins(p):
    spectrum = half(hermitian_grid(p)).astype(np.complex64)
    twin = np.empty(extended_shape(p, 2), f4)
    extend(spectrum, twin)
    out = np.full((*twin.shape[:2], twin.shape[2] // 2), np.nan, np.complex64)
    run("extend", 3, spectrum, i4(p), *size_of(p), out, threads=64)
    np.testing.assert_array_equal(out.view(f4), twin)
    points = random_like((*out.shape, 4), f4, 5)
    expected, folded = np.full((2, p, p, p // 2 + 1, 3), np.nan, f4)
    fold(np.ascontiguousarray(points[..., :3]).reshape(*out.shape[:2], -1), expected)
    run("fold", 3, points, *size_of(p), i4(p), folded, threads=64)
    np.testing.assert_allclose(folded, expected, atol=1e-5)
    assert mirrored(np.arange(8).reshape(2, 2, 2))[0, 0, 0] == 0


@runs_kernels
@pytest.mark.parametrize("p, ratio", [(8, 2.0), (10, 2.0), (12, 12 / 5)])
def test_radial_kernels_are_the_twins(p, ratio):
    folded = random_like((p, p, p // 2 + 1, 3), f4, 1)
    folded[..., 2] = np.abs(folded[..., 2])
    folded[1, 2, 3] = 0
    spectrum = random_like(folded.shape[:3], np.complex64, 2)
    ridge = np.array([0.5, 0.0, 2.0, 0.0])
    total, count = np.zeros(4), shell_points(p, ratio, 4)
    radial_sum(folded.reshape(p, p, -1), 3, 2, ratio, total)
    parts = np.full((2, p, 4), np.nan)
    run("radial_sum", p, folded, i4(3), i4(2), i4(p), f8(ratio), i4(4), parts[0], parts[1], threads=32, shared=64)
    np.testing.assert_allclose(parts.sum(axis=1), [total, count], rtol=1e-12)
    rest = i4(4), i4(p), f8(ratio)
    twin, out = np.full((2, *spectrum.shape), np.nan, np.complex64)
    divide_regularised(folded, ridge, ratio, twin)
    run("divide_regularised", 3, folded, ridge, *rest, out, threads=32)
    np.testing.assert_allclose(out, twin, rtol=1e-6)
    twin, out = spectrum.copy(), spectrum.copy()
    precondition(twin, folded, ridge, ratio)
    run("precondition", 3, out, folded, ridge, *rest, threads=32)
    np.testing.assert_allclose(out, twin, rtol=1e-6)
    twin, out, transfer = spectrum.copy(), spectrum.copy(), np.ascontiguousarray(folded[..., 2])
    multiply_regularised(twin, transfer, ridge, ratio)
    run("multiply_regularised", 3, out, transfer, ridge, *rest, threads=32)
    np.testing.assert_allclose(out, twin, rtol=1e-6)
