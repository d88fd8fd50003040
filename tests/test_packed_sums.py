"""Sums kept within the sphere of the samples, and FFTs in their own memory: less memory, the same numbers."""

import mmap

import numpy as np
import pytest
import scipy.fft
from scipy.stats import special_ortho_group

from mpirecon.backend.cpu import CpuBackend
from mpirecon.kernels.radial import divide_regularised, precondition, radial_sum, weight_sum
from mpirecon.kernels.sphere import Packed, Sphere, add_middle, rows_of
from mpirecon.operators.fixed_point import FixedPoint
from mpirecon.operators.in_place import half_of_real, inside_of, map_of, real_of_half, transform_of
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.pages import alone, zeros
from mpirecon.solvers.groups import GroupStore, half_map, held_out_map
from mpirecon.validate.fsc import masked_transform
from mpirecon.validate.masks import SoftMask, soft_sphere


def filled(backend, seed=0, stretch=1.0, memory=None, room=None):
    """A folded accumulator of slices at random orientations, of all frequencies; one folded into room is empty then."""
    rng = np.random.default_rng(seed)
    plane, accumulator = backend.plane, backend.accumulator(memory)
    assert not accumulator.any()
    rotation = stretch * special_ortho_group.rvs(3, size=40, random_state=seed)
    numerator = (rng.standard_normal((40, len(plane), 2)) @ [1, 1j]).astype(np.complex64)
    backend.projection.adjoint_add(accumulator, rotation, numerator, np.ones(numerator.shape, np.float32))
    folded = backend.folded(accumulator, room)
    assert room is None or not accumulator.any()
    return folded


def packed(folded, reach):
    sphere = Sphere.of(len(folded), reach)
    return Packed(sphere, sphere.pack(folded.copy()).copy())


@pytest.mark.parametrize(("limit", "stretch"), [(None, 1.0), (9.0, 1.0), (8.0, 1.2)])
@pytest.mark.parametrize(("box", "taps", "padding"), [(20, 4, 2.0), (32, 3, 1.5), (27, 6, 2.0)])
def test_nothing_lies_beyond_the_sphere(box, taps, padding, limit, stretch):
    backend = CpuBackend(box, 2.0, taps=taps, padding=padding, limit=limit)
    folded, reach = filled(backend, stretch=stretch), backend.projection.reach(stretch)
    assert backend.reach == backend.projection.reach() <= reach
    found = packed(folded, reach)
    np.testing.assert_array_equal(found.rows(0, len(folded)), folded)
    p = len(folded)
    k = np.abs(np.fft.fftfreq(p, 1 / p))
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(p // 2 + 1) ** 2
    farthest = np.sqrt(k2[folded[..., 2] > 0].max())
    assert reach - 2 < farthest <= reach  # it is no larger than it must be
    assert found.values.size < 0.85 * folded.size


def test_kernels_take_packed_sums_as_whole_ones():
    backend = CpuBackend(32, 2.0, taps=3, padding=1.5)
    folded = filled(backend)
    part, p, ratio = packed(folded, backend.reach), len(folded), backend.projection.ratio
    ridge = np.linspace(1, 2, backend.plane.shells + 1)
    spectra = np.zeros((2, p, p, p // 2 + 1), np.complex64)
    sums = np.zeros((3, len(ridge)))
    for sum_, spectrum, total in zip((folded, part), spectra, sums):
        divide_regularised(sum_, ridge, ratio, spectrum)
        weight_sum(sum_, ratio, total)
    radial_sum(folded.reshape(p, p, -1), 3, 2, ratio, sums[2])
    assert spectra[0].any()
    np.testing.assert_array_equal(spectra[1], spectra[0])
    np.testing.assert_array_equal(sums[1:], sums[:1].repeat(2, axis=0))
    spectra[:] = 1 + 1j
    for sum_, spectrum in zip((folded, part), spectra):
        precondition(spectrum, sum_, ridge, ratio)
    np.testing.assert_array_equal(spectra[1], spectra[0])
    np.testing.assert_array_equal(rows_of(part, 3, 5), folded[:, 3:5])
    middles = np.zeros((2, 12, 12, 7, 3), np.float32)
    for sum_, middle in zip((folded, part), middles):
        add_middle(sum_, middle)
    assert middles[0].any()
    np.testing.assert_array_equal(middles[1], middles[0])


def test_equations_of_a_store_are_those_of_the_whole_sums():
    backend = CpuBackend(24, 2.0, padding=1.5, taps=3)
    shape = filled(backend).shape
    store = GroupStore(SerialCommunicator(), shape, sphere=Sphere.of(shape[0], backend.reach))
    for fold in range(2):
        store.put((1, fold), filled(backend, fold))
    found = backend.normal_equations(store.collect(half_map(1), 0))
    expected = backend.normal_equations(filled(backend, 0) + filled(backend, 1))
    assert found.total_weight == pytest.approx(expected.total_weight, rel=1e-6) and found.total_weight > 0
    ridge, x = expected.ridge(), np.random.default_rng(5).standard_normal((24,) * 3).astype(np.float32)
    np.testing.assert_allclose(found.ridge(), ridge, rtol=1e-6)
    for one, other in ((found.direct(ridge), expected.direct(ridge)), (found.apply(x, ridge), expected.apply(x, ridge)),
                       (found.right_hand_side(), expected.right_hand_side()),
                       (found.precondition(x, ridge), expected.precondition(x, ridge))):
        np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize("sphere", [True, False])
def test_a_store_takes_the_memory_of_another(sphere):
    """No array is made for sums of groups that it had, and none of the other's remains."""
    backend = CpuBackend(24, 2.0, padding=1.5, taps=3)
    shape, comm = filled(backend).shape, SerialCommunicator()
    sphere = Sphere.of(shape[0], backend.reach) if sphere else None
    first = GroupStore(comm, shape, sphere=sphere)
    assert all(first.put((1, fold), filled(backend, fold)) for fold in range(2))
    old = [first.collect(held_out_map((1, fold)), 0) for fold in (1, 0)]
    first.collect(half_map(1), 0, side=12)
    second = GroupStore(comm, shape, sphere=sphere, room=first)
    folded = filled(backend, 5)
    assert not second.put((1, 0), folded) and not second.put((1, 1), filled(backend, 6, memory=folded))
    assert second.put((2, 0), filled(backend, 7))  # of which there was none
    for fold, before in enumerate(old):
        found = second.collect(held_out_map((1, 1 - fold)), 0)
        assert np.shares_memory(*(sums.values if sphere else sums for sums in (found, before)))
        np.testing.assert_array_equal(rows_of(found, 0, shape[0]), filled(backend, 5 + fold))
    with pytest.raises((KeyError, IndexError)):
        first.collect(half_map(1), 0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("box", "padding", "limit"), [(24, 1.5, None), (20, 2.0, 7.0)])
def test_accumulators_are_folded_into_room(threads, box, padding, limit):
    """As in their own memory, all of it overwritten; and what room a store has."""
    backend = CpuBackend(box, 2.0, padding=padding, taps=3, limit=limit, threads=threads)
    folded = filled(backend)
    sphere, comm = Sphere.of(len(folded), backend.reach), SerialCommunicator()
    first = GroupStore(comm, folded.shape, sphere=sphere)
    assert first.room((1, 0)) is None and first.put((1, 0), filled(backend, 1))
    second = GroupStore(comm, folded.shape, sphere=sphere, room=first)
    assert second.room((1, 1)) is None
    room = second.room((1, 0))
    found = filled(backend, room=room)
    assert found is room and not second.put((1, 0), found)
    np.testing.assert_array_equal(found.values, sphere.pack(folded))
    assert np.shares_memory(second.collect(half_map(1), 0).values, room.values)
    units = FixedPoint(1.0, 1.0)
    assert GroupStore(comm, folded.shape, fixed_point=units, sphere=sphere, room=second).room((1, 0)) is None


def test_accumulators_are_made_where_others_were():
    backend = CpuBackend(24, 2.0, padding=1.5, taps=3)
    folded = filled(backend)
    again = backend.accumulator(folded)
    assert backend.accumulator(again) is again or np.shares_memory(backend.accumulator(again), again)
    assert np.shares_memory(again, folded) and not again.any() and again.shape == backend.accumulator().shape
    other = CpuBackend(20, 2.0, padding=1.5, taps=3).accumulator(folded)  # of another size
    assert not np.shares_memory(other, folded)
    assert not np.shares_memory(backend.accumulator(folded.copy()), folded)


@pytest.mark.parametrize("side", [6, 7, 11, 36])
@pytest.mark.parametrize("whole", [True, False])
def test_lowest_frequencies_are_added_and_taken_from(side, whole):
    folded = filled(CpuBackend(24, 2.0, padding=1.5, taps=3))
    k = np.arange(side)
    k[side // 2 + 1 :] -= side
    sums = folded if whole else packed(folded, CpuBackend(24, 2.0, padding=1.5, taps=3).reach)
    middle = folded[k][:, k, : side // 2 + 1]
    to = np.random.default_rng(3).standard_normal(middle.shape).astype(np.float32)
    kept, out = to.copy(), np.full_like(to, np.nan)
    add_middle(sums, out, -1, to)
    np.testing.assert_array_equal(out, kept - middle)
    np.testing.assert_array_equal(to, kept)
    add_middle(sums, to)
    np.testing.assert_array_equal(to, kept + middle)


@pytest.mark.parametrize(("huge", "own"), [(False, False), (True, True)])
def test_memory_behind_what_is_kept_is_given_back(huge, own):
    array = zeros((3 * 2**20,), np.float32, huge)
    array[:] = 1
    kept = alone(array[: 2**18])
    assert (kept == 1).all() and np.shares_memory(kept, array) == own
    if own and hasattr(mmap, "MADV_DONTNEED"):
        assert not array[2**18 :].any()  # new pages


@pytest.mark.parametrize("n", [12, 15])
def test_transforms_in_place_are_those_of_scipy(n):
    volume = np.random.default_rng(n).standard_normal((n, n, n)).astype(np.float32)
    half = transform_of(n, lambda some: volume[some])
    expected = scipy.fft.rfftn(volume)
    np.testing.assert_allclose(half, expected, atol=1e-6 * np.abs(expected).max())
    real = real_of_half(half, n)
    np.testing.assert_allclose(real, volume, atol=1e-5)
    assert np.shares_memory(real, half)
    again = half_of_real(real)
    np.testing.assert_allclose(again, expected, atol=1e-6 * np.abs(expected).max())
    found = map_of(again)
    np.testing.assert_allclose(found, volume, atol=1e-5)
    assert found.flags.c_contiguous and np.shares_memory(found, half)
    assert transform_of(n, lambda some: volume[some], np.float64).dtype == np.complex128


@pytest.mark.parametrize("n", [12, 15])
@pytest.mark.parametrize(("z", "y"), [((3, 9), (5, 8)), ((0, 4), (7, 12)), ((0, 12), (0, 12)), ((0, 0), (0, 0))])
def test_lines_outside_a_mask_count_as_zero(n, z, y):
    volume = np.random.default_rng(n).standard_normal((n, n, n)).astype(np.float32)
    mask = np.zeros((n, n, n), np.float32)
    mask[slice(*z), slice(*y), 2:6] = 0.5
    inside = inside_of(mask)
    assert inside == (slice(*z), slice(*y))
    expected = scipy.fft.rfftn(volume * mask)
    volume[mask == 0] = np.nan  # whatever is there
    np.testing.assert_array_equal(masked_transform(np.nan_to_num(volume, nan=7), mask), expected)
    real = real_of_half(np.zeros((n, n, n // 2 + 1), np.complex64), n)
    real[:] = np.nan
    real[inside] = np.nan_to_num(volume[inside] * mask[inside])
    np.testing.assert_allclose(half_of_real(real, inside=inside), expected, atol=1e-5)


def test_planes_of_a_soft_mask_are_those_of_the_sphere():
    mask, sphere = SoftMask(20, 6.5, 2.5), soft_sphere(20, 6.5, 2.5)
    np.testing.assert_array_equal(mask[3:9], sphere[3:9])
    np.testing.assert_array_equal(mask.array, sphere)
    given = SoftMask.of(sphere / 2)
    np.testing.assert_array_equal(given[3:9], sphere[3:9] / 2)
    assert mask.shape == given.shape == sphere.shape
