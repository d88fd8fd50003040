"""Threads that share a grid, and two maps in one gather: each against its definition."""

import itertools
import math

import numpy as np
import pytest
from adjoint import random_like
from scipy.integrate import quad
from scipy.special import iv
from scipy.stats import special_ortho_group

from mpirecon.backend import cpu
from mpirecon.backend.cpu import CpuBackend
from mpirecon.kernels.backproject import make_backproject
from mpirecon.kernels.gridding import MARGIN
from mpirecon.kernels.tiles import COUNT
from mpirecon.model import make_ctf
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose
from mpirecon.operators.projection import Projection
from mpirecon.operators.tiles import Slices, Tiles
from mpirecon.parallel.threads import Threads

SHAPES = [(4, 9, 1.5), (3, 10, 1.5), (3, 9, 2), (4, 10, 2)]

#: error of sums over tabulated taps in float32, of the largest; a sample too few is a hundred times more
TABULATED = 3e-5


def turned_by(angle, axis):
    i, j = [other for other in range(3) if other != axis]
    out = np.eye(3)
    out[i, i] = out[j, j] = math.cos(angle)
    out[i, j], out[j, i] = math.sin(angle), -math.sin(angle)
    return out


def views():
    """Slices at random, along every axis and plane of the grid, and out of those by next to nothing: (m, 3, 3)."""
    signed = [np.array(signs)[:, None] * np.eye(3)[list(order)] for order in itertools.permutations(range(3))
              for signs in itertools.product([1, -1], repeat=3)]  # fmt: skip
    along = [matrix for matrix in signed if np.linalg.det(matrix) > 0]
    close = [along[k] @ turned_by(angle, axis) for k, axis, angle in
             itertools.product((0, 3, 5, 8), range(3), (1e-12, -5e-10, 3e-9, -1e-6))]  # fmt: skip
    in_plane = [turned_by(angle, axis) for angle, axis in itertools.product((0.4, 2.0, 3.5), range(3))]
    return np.array([*special_ortho_group.rvs(3, size=6, random_state=1), *along, *close, *in_plane])


# ---------------------------------------------------------------- definitions, in float64


def axis_weights(u, points, taps, padding):
    """Kaiser-Bessel weight of every point of an axis in samples at u: (s, points), normalised to an integral of 1."""
    beta = math.pi * math.sqrt((taps / padding) ** 2 * (padding - 0.5) ** 2 - 0.8)
    distance = np.arange(points) - u[:, None]
    inside = (-taps / 2 < distance) & (distance <= taps / 2)

    def kernel(d):
        return iv(0, beta * np.sqrt(np.maximum(1 - (2 * d / taps) ** 2, 0)))

    return np.where(inside, kernel(distance), 0) / quad(kernel, -taps / 2, taps / 2)[0]


def places(projection, rotation, shape):
    """Whether each sample is turned to −k, and its weights along z, y and x of the extended grid."""
    plane, r = projection.plane, rotation * projection.ratio
    x, y, z = (r[0, axis] * plane.kx + r[1, axis] * plane.ky for axis in range(3))
    flip = x < 0
    sign = np.where(flip, -1, 1)
    middle = shape[0] // 2, shape[1] // 2, MARGIN
    return flip, [axis_weights(sign * u + m, n, projection.taps, projection.padding) for u, m,
                  n in zip((z, y, x), middle, shape)]


def points_of(grid, components):
    return grid.reshape(*grid.shape[:2], -1, components).astype(np.float64)


def backprojected(projection, rotation, numerator, weight):
    """The accumulator by definition, (nz, ny, nx, 3) float64; k = 0, its own Friedel mate, counts half."""
    out = np.zeros(points_of(projection.accumulator(), 3).shape)
    factor = np.where(projection.plane.multiplicity == 1, 0.5, 1.0)
    for r, n, w in zip(rotation, numerator, weight):
        flip, axes = places(projection, r, out.shape)
        n = np.where(flip, np.conj(n), n)
        values = factor[:, None] * np.stack([n.real, n.imag, w], axis=1)
        z, y, x = axes
        zy = np.einsum("sz,sy->szy", z, y).reshape(len(z), -1)
        out += (zy.T @ np.einsum("sx,sc->sxc", x, values).reshape(len(z), -1)).reshape(out.shape)
    return out


def slice_of(projection, rotation, points):
    """A grid's slice by definition, (s,) complex128."""
    full = points[..., 0] + 1j * points[..., 1]
    flip, axes = places(projection, rotation, full.shape)
    values = np.einsum("sz,sy,sx,zyx->s", *axes, full, optimize=True)
    return np.where(flip, np.conj(values), values)


def samples(projection, m, seed=0):
    shape = m, len(projection.plane)
    return random_like(shape, np.complex64, seed), np.abs(random_like(shape, np.float32, seed + 1)) + np.float32(0.5)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("taps, box, padding", SHAPES)
def test_threads_backproject_by_the_definition(taps, box, padding):
    rotation = views()
    expected = None
    for count in (1, 2, 3, 8):
        projection = Projection(box, None, taps, padding, Threads(count))
        numerator, weight = samples(projection, len(rotation))
        given = numerator.copy(), weight.copy()
        expected = backprojected(projection, rotation, numerator, weight) if expected is None else expected
        grid = projection.accumulator()
        projection.adjoint_add(grid, rotation, numerator, weight)
        np.testing.assert_array_equal((numerator, weight), given)  # halved meanwhile, and back
        allowed = TABULATED * np.abs(expected).max()
        np.testing.assert_allclose(points_of(grid, 3), expected, atol=allowed, err_msg=f"{count} threads")


def tiles_of(edges_z, edges_y):
    number = np.arange((len(edges_z) - 1) * (len(edges_y) - 1), dtype=np.int32).reshape(len(edges_z) - 1, -1)
    return Tiles((np.array(edges_z), np.array(edges_y)), number, np.arange(number.size + 1))


@pytest.mark.parametrize("taps, box, padding", SHAPES)
def test_a_view_alone_is_whole_wherever_tiles_cut_it(taps, box, padding):
    """Threads cut where a view's samples lie: a slice along an axis is cut through all of them."""
    projection, kernel = Projection(box, None, taps, padding), make_backproject(taps)
    plane = projection.plane
    for number, rotation in enumerate(views()[:, None]):
        some = samples(projection, 1)

        whole = projection.accumulator()
        about = projection.table, rotation, projection.ratio, plane.kx, plane.ky
        kernel(whole, *about, *some)
        shape, middle = whole.shape, whole.shape[0] // 2
        for cut in (*range(middle - 4, middle + 3), 6, whole.shape[0] - 8):
            for edges in (([0, cut, shape[0]], [0, shape[1]]), ([0, shape[0]], [0, cut, shape[1]]),
                          ([0, cut, shape[0]], [0, cut, shape[1]])):
                parts = projection.accumulator()
                for runs in tiles_of(*edges).shares(Slices(rotation, projection.ratio, plane, shape, taps), Threads(1)):
                    for part in runs:
                        kernel(parts, *about, *some, part)
                np.testing.assert_allclose(parts, whole, atol=1e-5, err_msg=f"view {number}, cut at {edges}")
        for count in (2, 3):
            threaded = Projection(box, plane, taps, padding, Threads(count))
            grids = []
            for by in (projection, threaded):
                grids.append(by.accumulator())
                by.adjoint_add(grids[-1], rotation, *some)
            np.testing.assert_allclose(grids[1], grids[0], atol=1e-5, err_msg=f"view {number}, {count} threads")


def test_threads_never_write_to_the_same_points():
    """What each thread's runs write, by the kernel itself, is apart from what the others' of the same list do; together
    they are all samples, once each."""
    for taps, count, seed in itertools.product((3, 4), (2, 3, 8, 20), range(4)):
        box = 40
        projection, kernel = Projection(box, None, taps, 1.5, Threads(count)), make_backproject(taps)
        plane, shape = projection.plane, projection.accumulator().shape
        rotation = views() if seed == 0 else special_ortho_group.rvs(3, size=6, random_state=seed)
        ones = np.ones((len(rotation), len(plane)), np.complex64), np.ones((len(rotation), len(plane)), np.float32)
        times, lists = np.zeros(ones[1].shape, int), list(projection.shares(rotation, shape))
        for apart in lists:
            assert len(apart) <= count
            written = np.zeros(shape[:2], int)
            for runs in apart:
                alone = projection.accumulator()
                kernel(alone, projection.table, rotation, projection.ratio, plane.kx, plane.ky, *ones, runs)
                written += (alone.reshape(*shape[:2], -1) != 0).any(axis=2)
                for image, first, many in runs[:, :3]:
                    times[image, first : first + many] += 1
            assert written.max() <= 1, (taps, count, seed)
        assert (times == 1).all(), (taps, count, seed)
    assert max(map(len, lists)) > 4  # of 20 threads many have something to do


@pytest.mark.parametrize("count", [2, 8, 64])
def test_tiles_hold_about_as_many_samples_each(count):
    projection = Projection(128, None, 3, 1.5, Threads(count))
    rotation = special_ortho_group.rvs(3, size=60, random_state=1)
    slices = Slices(rotation, projection.ratio, projection.plane, projection.accumulator().shape, 3)
    tiles = Tiles.of(slices, count)
    assert tiles.number.size >= min(2 * count, 100) and sorted(tiles.number.ravel()) == list(range(tiles.number.size))
    shares = [[part[:, COUNT].sum() for part in apart] for apart in tiles.shares(slices, Threads(count))]
    longest = sum(max(apart) for apart in shares)  # samples that are added one after the other
    assert longest * min(count, 8) < 1.6 * len(rotation) * len(projection.plane)


# ---------------------------------------------------------------- the backend


def particles(box, m, seed=0):
    rng = np.random.default_rng(seed)
    ctf = make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(5e3, 2e4, m), defocus_v=1e4, cs_mm=2.7,
                   amplitude_contrast=0.1)
    found = ParticleSet(box, 4.0, Pose(rng.standard_normal((m, 4)), rng.uniform(-6, 6, (m, 2))), ctf, np.ones(m),
                        np.ones(m))
    return found, random_like((m, box, box), np.float32, seed + 1), np.arange(m) % 3 % 2


@pytest.mark.parametrize("per_shell", [False, True])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_accumulated_contrasts_are_the_definition_on_any_number_of_threads(per_shell, premultiplied):
    box, m = 9, 7
    some, images, group = particles(box, m)
    rng = np.random.default_rng(4)
    expected = None
    for count in (1, 2, 3, 8):
        backend = CpuBackend(box, 4.0, premultiplied=premultiplied, padding=1.5, threads=count)
        batch, plane = backend.prepare(images, some, group), backend.plane
        if expected is None:
            shape = (m, plane.shells) if per_shell else (m,)
            contrast, contrast2, weight = rng.uniform(0.2, 1, shape), rng.uniform(0.2, 1, shape), rng.uniform(0.1, 1, m)
            weight[[2, 5]] = 0
            c, c2 = (v[:, plane.shell] if per_shell else v[:, None] for v in (contrast, contrast2))
            ctf, data = batch.ctf.astype(float), batch.data.astype(complex)
            numerator = box * weight[:, None] * c * data * (1 if premultiplied else ctf)
            expected = backprojected(backend.projection, batch.rotation, numerator, weight[:, None] * c2 * ctf**2)
        grid = backend.accumulator()
        backend.accumulate(grid, batch, weight, contrast, contrast2)
        for part in (np.s_[..., :2], np.s_[..., 2]):
            allowed = TABULATED * np.abs(expected[part]).max()
            np.testing.assert_allclose(points_of(grid, 3)[part], expected[part], atol=allowed,
                                       err_msg=f"{count} threads")


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_survey_is_the_same_on_any_number_of_threads(premultiplied):
    some, images, group = particles(10, 7)
    weight, found = np.array([1, 0.5, 0, 2, 1, 1, 3]), []
    for count in (1, 2, 3, 8):
        backend = CpuBackend(10, 4.0, premultiplied=premultiplied, padding=1.5, threads=count)
        batch, sums = backend.prepare(images, some, group), np.ones((2, backend.plane.shells))
        backend.add_spectrum(batch, weight, *sums)
        found.append((backend.power(batch), sums))
    plane, data, ctf = backend.plane, batch.data.astype(complex), batch.ctf.astype(float)
    worth = plane.multiplicity * (ctf**2 if premultiplied else np.ones_like(ctf))
    by_image = plane.multiplicity * np.abs(data) ** 2
    for power, (total, count) in found:
        np.testing.assert_allclose(power, by_image.sum(axis=1) / worth.sum(axis=1), rtol=1e-5)
        for values, sums in ((weight[:, None] * by_image, total), (np.where(weight[:, None] > 0, worth, 0), count)):
            np.testing.assert_allclose(sums - 1, np.bincount(plane.shell, values.sum(axis=0)), rtol=1e-5)


@pytest.mark.parametrize("premultiplied, whitened", [(False, True), (False, False), (True, True), (True, False)])
@pytest.mark.parametrize("box, padding", [(9, 1.5), (10, 2)])
def test_two_maps_are_compared_as_each_alone_and_by_the_definition(box, padding, premultiplied, whitened):
    some, images, group = particles(box, 5)
    volumes = random_like((2, box, box, box), np.float32, 8)
    noise = np.random.default_rng(2).uniform(0.5, 2, (2, box))
    for count in (1, 3):
        backend = CpuBackend(box, 4.0, premultiplied=premultiplied, padding=padding, threads=count)
        batch, pair = backend.prepare(images, some, group), backend.pair()
        for which in (1, 0):
            backend.set_reference(pair, which, volumes[which])
        bands = backend.bands(noise, 1, backend.plane.shells - 1, whitened)
        together = backend.statistics(pair, batch, bands)
        elsewhere = batch.rotation[::-1].copy()
        assert together.shape == (2, 5, len(bands.samples), 3)
        for which in (0, 1):
            alone = backend.reference(volumes[which])
            np.testing.assert_array_equal(
                points_of(pair.values, 4)[..., 2 * which : 2 * which + 2], points_of(alone, 2)
            )
            np.testing.assert_allclose(together[which], backend.statistics(alone, batch, bands), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(backend.statistics(pair, batch, bands, elsewhere)[which],
                                       backend.statistics(alone, batch, bands, elsewhere), rtol=1e-5,
                                       atol=1e-7)  # fmt: skip
            expected = by_definition(backend, points_of(alone, 2), batch, bands, noise)
            np.testing.assert_allclose(together[which], expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


def by_definition(backend, points, batch, bands, noise):
    """yy, yp, pp of each particle and band, whatever is summed being written out: (b, bands, 3) float64."""
    plane, out = backend.plane, np.zeros((len(batch.data), len(bands.samples), 3))
    for i, (y, c) in enumerate(zip(batch.data.astype(complex), batch.ctf.astype(float))):
        v = slice_of(backend.projection, batch.rotation[i], points)
        p = (c**2 if backend.premultiplied else c) * v
        gain = plane.multiplicity / (noise[batch.group[i], plane.shell] if bands.whitened else 1)
        terms = np.stack([np.abs(y) ** 2, (np.conj(p) * y).real, np.abs(p) ** 2])
        for b in range(len(bands.samples)):
            inside = bands.band == b
            g = gain[inside]
            if backend.premultiplied and bands.whitened and len(g):  # the noise has the variance C²ν²
                on_data = np.full(len(g), g.sum() / np.sum(g * c[inside] ** 2))
                out[i, b] = [
                    np.sum(g * on_data * terms[0, inside]),
                    *np.sum(g * terms[1:, inside] / c[inside] ** 2, axis=1),
                ]
            else:
                out[i, b] = np.sum(g * terms[:, inside], axis=1)
    return out


@pytest.mark.parametrize("maps", [1, 2])
def test_the_parts_of_threads_are_arrays_of_the_kind_of_the_whole(monkeypatch, maps):
    """Numba compiles a kernel for each kind apart, and float32 sums then differ in their last bits between threads."""
    box, kinds, make = 24, set(), cpu.make_statistics
    particle_set, images, _ = particles(box, 9)

    def watched(*arguments):
        def call(*given):
            kinds.update(a.flags.c_contiguous for a in given if isinstance(a, np.ndarray))
            make(*arguments)(*given)

        return call

    monkeypatch.setattr(cpu, "make_statistics", watched)
    backend = CpuBackend(box, 4.0, threads=3)
    volume = np.random.default_rng(1).standard_normal((box,) * 3).astype(np.float32)
    pair = backend.pair()
    for which in range(2):
        backend.set_reference(pair, which, volume)
    bands = backend.bands(np.ones((1, backend.plane.shells)), 1, backend.plane.shells - 1, True)
    backend.statistics(pair if maps == 2 else backend.reference(volume), backend.prepare(images, particle_set), bands)
    assert kinds == {True}
