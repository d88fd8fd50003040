"""The nouns: what they accept, what they say when refusing, and the pose conventions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mpirecon.errors import UserError
from mpirecon.model import CTF_DTYPE, Img, ParticleSet, Pose, Stack, Volume, electron_wavelength, make_ctf
from mpirecon.model.draws import (
    multiply_quaternions,
    particle_rng,
    draw_pose_errors,
    random_halves,
    random_quaternion,
    uniform_draws,
)
from mpirecon.model.optics import ctf_rows
from mpirecon.model.pose import angular_distance, euler_from_matrix, matrix_from_quaternion, quaternion_from_euler

ANGLE = st.floats(-360, 360, allow_nan=False)


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [4, 5])
def test_arrays_keep_memory_dtype_and_pixel_size(dtype, n):
    for cls, shape in ((Volume, (n, n, n)), (Stack, (3, n, n)), (Img, (n, n))):
        data = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        noun = cls(data, 1.5)
        assert (noun.box, noun.shape, noun.dtype, noun.pixel_size) == (n, shape, dtype, 1.5)
        assert noun.device == "cpu"
        for view in (np.asarray(noun), noun.to_numpy(), np.from_dlpack(noun)):
            assert np.shares_memory(view, data) and view.dtype == data.dtype
        copy = np.array(noun, copy=True)
        assert not np.shares_memory(copy, data)
        np.testing.assert_array_equal(copy, data)


def test_a_stack_gives_its_images():
    stack = Stack(np.arange(32.0).reshape(2, 4, 4), 2.0)
    assert len(stack) == 2 and isinstance(stack[1], Img) and stack[1].pixel_size == 2.0
    np.testing.assert_array_equal(stack[1].array, stack.array[1])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Volume(np.zeros((4, 4)), 1), ["Volume", "(z, y, x)", "(4, 4)"]),
        (lambda: Volume(np.zeros((4, 5, 4)), 1), ["Volume", "z, y, x", "same length", "(4, 5, 4)"]),
        (lambda: Stack(np.zeros((2, 4, 5)), 1), ["Stack", "y, x", "same length", "(2, 4, 5)"]),
        (lambda: Stack(np.zeros((4, 4)), 1), ["Stack", "(particle, y, x)", "(4, 4)"]),
        (lambda: Img(np.zeros((4, 4, 4)), 1), ["Img", "(y, x)", "(4, 4, 4)"]),
        (lambda: Img(np.zeros((1, 1)), 1), ["Img", "at least 2", "(1, 1)"]),
        (lambda: Volume(np.zeros((4, 4, 4), int), 1), ["Volume", "float32", "int64"]),
        (lambda: Volume(np.zeros((4, 4, 4), complex), 1), ["float32", "complex128"]),
        (lambda: Volume([[[1.0]]], 1), ["expected an array", "list"]),
        (lambda: Volume(np.zeros((4, 4, 4)), 0), ["pixel size", "Å", "0"]),
        (lambda: Volume(np.zeros((4, 4, 4)), float("nan")), ["pixel size", "nan"]),
        (lambda: Volume(np.zeros((4, 4)), 1, source="map.mrc"), ["Volume from map.mrc"]),
    ],
)
def test_arrays_say_what_was_wrong(make, said):
    with pytest.raises(UserError) as error:
        make()
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize("cls, shape", [(Volume, (4, 4, 4)), (Stack, (3, 4, 4)), (Img, (4, 4))])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_dlpack_both_ways_shares_memory(library, cls, shape):
    xp = np if library == "numpy" else pytest.importorskip("torch")
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    tensor = xp.from_dlpack(cls(data, 2.0))
    back = cls.from_dlpack(tensor, 2.0)
    data[...] = 7
    assert float(tensor.reshape(-1)[0]) == 7 and back.array.reshape(-1)[0] == 7
    assert back.pixel_size == 2.0 and isinstance(back, cls)


def test_an_autograd_tensor_is_wrapped_without_its_graph():
    torch = pytest.importorskip("torch")
    noun = Volume.from_dlpack(torch.ones(4, 4, 4, requires_grad=True), 1.0)
    assert noun.array.sum() == 64


def _cupy_or_skip():
    cupy = pytest.importorskip("cupy")
    try:
        cupy.zeros(1)
    except Exception as error:
        pytest.skip(f"no usable GPU: {error}")
    return cupy


def test_cupy_arrays_stay_on_their_device():
    cupy = _cupy_or_skip()
    volume = Volume(cupy.ones((4, 4, 4), "f4"), 1.0)
    assert volume.device == "cuda:0"
    np.testing.assert_array_equal(np.asarray(volume), 1)
    back = Volume.from_dlpack(cupy.from_dlpack(volume), 1.0)
    assert back.array.data.ptr == volume.array.data.ptr


# ---------------------------------------------------------------- poses


def relion_matrix(rot, tilt, psi):
    """R row by row in RELION's convention."""
    phi, theta, psi = np.radians([rot, tilt, psi])
    cp, sp, ct, st_, cs, ss = np.cos(phi), np.sin(phi), np.cos(theta), np.sin(theta), np.cos(psi), np.sin(psi)
    return np.array(
        [
            [cs * ct * cp - ss * sp, cs * ct * sp + ss * cp, -cs * st_],
            [-ss * ct * cp - cs * sp, -ss * ct * sp + cs * cp, ss * st_],
            [st_ * cp, st_ * sp, ct],
        ]
    )


@settings(max_examples=200, deadline=None)
@given(ANGLE, ANGLE, ANGLE)
def test_pose_matrix_is_relions(rot, tilt, psi):
    pose = Pose.from_euler([rot], [tilt], [psi])
    expected = relion_matrix(rot, tilt, psi)
    np.testing.assert_allclose(pose.matrices()[0], expected, atol=1e-12)
    w, x, y, z = pose.quaternion[0]
    np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), expected, atol=1e-12)
    active = Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True)
    np.testing.assert_allclose(active.inv().as_matrix(), expected, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(ANGLE, st.one_of(ANGLE, st.sampled_from([0.0, 180.0, 1e-7, 179.9999])), ANGLE)
def test_angles_come_back_as_the_same_rotation(rot, tilt, psi):
    pose = Pose.from_euler([rot], [tilt], [psi])
    angles = pose.euler()
    assert 0 <= angles[0, 1] <= 180
    np.testing.assert_allclose(Pose.from_euler(*angles.T).matrices(), pose.matrices(), atol=1e-7)


def test_at_the_poles_rot_is_zero_and_psi_carries_the_turn():
    angles = Pose.from_euler([30, 30], [0, 180], [40, 40]).euler()
    np.testing.assert_allclose(angles, [[0, 0, 70], [0, 180, 10]], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_q_and_minus_q_are_one_pose(seed):
    q = random_quaternion(np.random.default_rng(seed))[None]
    np.testing.assert_allclose(Pose(-q, np.zeros((1, 2))).matrices(), Pose(q, np.zeros((1, 2))).matrices())
    np.testing.assert_allclose(angular_distance(q, -q), 0, atol=1e-5)


def test_quaternions_multiply_as_their_matrices_do():
    a, b = random_quaternion(np.random.default_rng(0)), random_quaternion(np.random.default_rng(1))
    product = matrix_from_quaternion(multiply_quaternions(a, b)[None])[0]
    np.testing.assert_allclose(product, matrix_from_quaternion(a[None])[0] @ matrix_from_quaternion(b[None])[0])


def test_poses_are_normalised_and_sliced():
    pose = Pose([[2, 0, 0, 0], [0, 0, 3, 0]], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(pose.quaternion, [[1, 0, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(pose[1:].shift, [[3, 4]])
    assert len(pose) == 2 and len(pose[[0]]) == 1
    angles = euler_from_matrix(matrix_from_quaternion(quaternion_from_euler(10, 20, 30)))
    np.testing.assert_allclose(angles, [[10, 20, 30]])


@pytest.mark.parametrize(
    "quaternion, shift, said",
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), r"\(m, 4\), got \(2, 3\)"),
        (np.ones((2, 4)), np.zeros((3, 2)), r"\(2, 2\), got \(3, 2\)"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], np.zeros((2, 2)), "particle 1 .*length above zero"),
        ([[1, 0, 0, 0], [np.nan, 0, 0, 0]], np.zeros((2, 2)), "particle 1 .*finite"),
        ([[1, 0, 0, 0]], [[np.inf, 0]], "particle 0 .*finite"),
    ],
)
def test_poses_say_what_was_wrong(quaternion, shift, said):
    with pytest.raises(UserError, match=said):
        Pose(quaternion, shift)


# ---------------------------------------------------------------- particle sets


def particle_set(m=4, **changes):
    values = dict(
        box=8,
        pixel_size=2.0,
        pose=Pose(np.tile([1.0, 0, 0, 0], (m, 1)), np.arange(2.0 * m).reshape(m, 2)),
        ctf=make_ctf(m, voltage_kv=300, defocus_u=1e4, defocus_v=1e4, cs_mm=2.7, amplitude_contrast=0.1),
        half=1 + np.arange(m) % 2,
        optics_group=np.arange(m),
        pose_error=np.arange(m) == 1,
    )
    return ParticleSet(**{**values, **changes})


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([2, 0]), np.array([False, True, True, False])])
def test_picking_particles_keeps_their_columns_together(rows):
    whole = particle_set()
    part = whole[rows]
    np.testing.assert_array_equal(part.ids, np.arange(4)[rows])
    np.testing.assert_array_equal(part.optics_group, part.ids)
    np.testing.assert_array_equal(part.pose.shift, whole.pose.shift[part.ids])
    np.testing.assert_array_equal(part.pose_error, part.ids == 1)
    assert part.true_quaternion is None and part.half.dtype == np.uint8


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(half=[1, 2, 1]), "half has 3 rows for 4 poses"),
        (dict(half=[1, 2, 3, 1]), "half of particle 2 is 3, expected 1 or 2"),
        (dict(ctf=np.zeros(4)), "CTF_DTYPE, got float64"),
        (dict(ctf=make_ctf(4)), "particle 0: CTF voltage_kv is 0 kV, outside 20"),
        (dict(ctf=ctf_rows(4, voltage_kv=300, defocus_u=[1, 2, 9e9, 3])), "particle 2: CTF defocus_u is 9e.09 Å"),
        (dict(ctf=ctf_rows(4, voltage_kv=[300, np.nan, 300, 300])), "particle 1: CTF voltage_kv is nan"),
        (dict(contrast="grey"), "'grey', expected 'white' or 'black'"),
        (dict(true_quaternion=np.zeros((3, 4))), "true_quaternion has 3 rows for 4 poses"),
    ],
)
def test_particle_sets_say_what_was_wrong(changes, said):
    with pytest.raises(UserError, match=said):
        particle_set(**changes)


def test_wavelength_of_common_microscopes():
    np.testing.assert_allclose(electron_wavelength([100, 200, 300]), [0.037014, 0.025079, 0.019687], atol=2e-6)
    assert make_ctf(2)["scale"].tolist() == [1, 1] and make_ctf(2).dtype == CTF_DTYPE


# ---------------------------------------------------------------- draws


def test_draws_depend_on_seed_particle_and_purpose_only():
    ids = np.array([5, 0, 17])
    np.testing.assert_array_equal(uniform_draws(3, ids, "a"), uniform_draws(3, np.arange(20), "a")[ids])
    same = [particle_rng(3, 5, "a").random() for _ in range(2)]
    assert same[0] == same[1] == uniform_draws(3, ids, "a")[0]
    others = [uniform_draws(3, ids, "b"), uniform_draws(4, ids, "a"), uniform_draws(3, ids + 1, "a")]
    assert not np.isin(np.concatenate(others), uniform_draws(3, ids, "a")).any()
    np.testing.assert_array_equal(random_halves(3, ids), random_halves(3, np.arange(20))[ids])


def test_halves_are_a_fair_coin():
    halves = random_halves(1, np.arange(4000))
    assert set(halves) == {1, 2} and abs(np.mean(halves == 1) - 0.5) < 0.03


def test_random_quaternions_are_uniform():
    """Haar measure: the rotated z axis is uniform on the sphere, the angle has density (1 − cos ω) / π."""
    rng = np.random.default_rng(0)
    q = np.array([random_quaternion(rng) for _ in range(8000)])
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1)
    r = matrix_from_quaternion(q)
    for axis in range(3):
        counts = np.histogram(r[:, 2, axis], bins=10, range=(-1, 1))[0]
        assert ((counts - 800) ** 2 / 800).sum() < 30  # chi², 9 degrees of freedom: p ≈ 0.0005
    omega = np.sort(2 * np.arccos(np.clip(np.abs(q[:, 0]), 0, 1)))
    expected = (omega - np.sin(omega)) / np.pi
    assert np.abs(expected - (np.arange(8000) + 0.5) / 8000).max() < 1.95 / np.sqrt(8000)  # Kolmogorov, p ≈ 0.001


def test_planted_errors_have_the_rate_and_keep_the_others():
    ids = np.arange(3000)
    true = np.array([random_quaternion(particle_rng(0, int(i), "pose")) for i in ids])
    given_, flag = draw_pose_errors(7, ids, true, 0.3)
    assert abs(flag.mean() - 0.3) < 4 * np.sqrt(0.21 / 3000)
    np.testing.assert_array_equal(given_[~flag], true[~flag])
    # a uniformly random rotation is off by more than 90° with probability 1/2 + 1/π
    assert abs(np.mean(angular_distance(given_[flag], true[flag]) > 90) - (0.5 + 1 / np.pi)) < 0.05
    again, _ = draw_pose_errors(7, ids[100:200], true[100:200], 0.3)
    np.testing.assert_array_equal(again, given_[100:200])
    # a higher rate flags the same particles and more
    assert draw_pose_errors(7, ids, true, 0.5)[1][flag].all()
    for rate in (0.0, 1.0):
        assert draw_pose_errors(7, ids, true, rate)[1].mean() == rate


def test_small_errors_are_half_gaussian():
    ids = np.arange(2000)
    true = np.array([random_quaternion(particle_rng(0, int(i), "pose")) for i in ids])
    given_, flag = draw_pose_errors(7, ids, true, 1.0, small_degrees=5.0)
    angle = angular_distance(given_, true)
    assert flag.all() and np.sqrt(np.mean(angle**2)) == pytest.approx(5.0, rel=0.06)
    assert angle.mean() == pytest.approx(5.0 * np.sqrt(2 / np.pi), rel=0.06)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**63 - 1), max_size=5),
       st.sampled_from(["half", "error-flag", "junk"]))
def test_many_draws_are_the_first_of_each_generator(seed, particles, purpose):
    wanted = [particle_rng(seed, particle, purpose).random() for particle in particles]
    assert uniform_draws(seed, np.array(particles, np.int64), purpose).tolist() == wanted
