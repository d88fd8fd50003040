"""P, S, C and A = C S P: exact slices, exact adjoints, the conventions on densities in closed form."""

import numpy as np
import pytest
import scipy.fft
from adjoint import assert_adjoint, random_like
from scipy.stats import special_ortho_group

from mpirecon.errors import UserError
from mpirecon.model import Pose, make_ctf
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.ctf import ctf_samples
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.fourier import padded_size, transform_cropped, transform_padded
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.operators.projection import Projection
from mpirecon.operators.shift import centred_samples, images_from_samples
from mpirecon.simulation.density import band_limit
from mpirecon.simulation.phantom import phantom

PIXEL_SIZE = 3.0

#: relative error of slices by number of taps; 1e-2 is required of 4. Two taps are cut off where the kernel is still
#: 9 % of its peak, which costs k = 0 and other integer coordinates most
SLICE_ERROR = {2: 0.2, 3: 1e-2, 4: 1e-3, 6: 1e-5}


def random_poses(m, seed=0, shift_sigma=4.0):
    q = [random_quaternion(particle_rng(seed, i, "test-pose")) for i in range(m)]
    return Pose(q, np.random.default_rng(seed).normal(0, shift_sigma, (m, 2)))


def random_ctf(m, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.uniform(8000, 25000, m)
    return make_ctf(m, voltage_kv=300, defocus_u=u, defocus_v=u - 500, astigmatism=rng.uniform(-3, 3, m), cs_mm=2.7,
                    amplitude_contrast=0.1, bfactor=30.0)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# ---------------------------------------------------------------- half plane and padded transforms


@pytest.mark.parametrize("box, limit", [(16, None), (17, None), (16, 5.3), (17, 5)])
def test_half_plane_and_its_mates_are_the_disc(box, limit):
    plane = HalfPlane.of(box, limit)
    k = np.arange(-box, box + 1)
    radius = np.hypot(*np.meshgrid(k, k))
    inside = radius[radius < (limit or box / 2)]
    assert plane.multiplicity.sum() == inside.size
    points = list(zip(plane.kx, plane.ky))
    both = set(points) | {(-x, -y) for x, y in points}
    assert len(both) == inside.size and len(points) == len(set(points))
    counts = np.bincount(plane.shell, plane.multiplicity)
    np.testing.assert_array_equal(counts, np.bincount(np.floor(inside + 0.5).astype(int)))
    assert plane.shells == len(counts)


def test_resolution_limit_never_passes_nyquist_nor_leaves_nothing():
    assert len(HalfPlane.of(16, 100)) == len(HalfPlane.of(16))
    with pytest.raises(UserError, match="leaves no signal"):
        HalfPlane.of(16, 0.5)


@pytest.mark.parametrize("box, padded", [(8, 16), (9, 18), (11, 24), (48, 96), (63, 128)])
def test_padded_size_is_even_at_least_double_and_fast(box, padded):
    assert padded_size(box) == padded


@pytest.mark.parametrize("box", [8, 9, 11])
def test_pruned_transforms_are_the_full_ones(box):
    p, o = padded_size(box), box // 2
    volume = random_like((box,) * 3, np.float32, 1)
    placed = np.zeros((p,) * 3)
    placed[:box, :box, :box] = volume
    placed = np.roll(placed, (-o,) * 3, axis=(0, 1, 2))
    spectrum = scipy.fft.rfftn(placed)
    np.testing.assert_allclose(transform_padded(volume, p), spectrum, atol=2e-6 * np.abs(spectrum).max())
    half = scipy.fft.rfftn(np.random.default_rng(2).standard_normal((p,) * 3)).astype(np.complex64)
    full = np.roll(scipy.fft.irfftn(half, s=(p,) * 3, norm="forward"), (o,) * 3, axis=(0, 1, 2))[:box, :box, :box]
    kept = half.copy()
    np.testing.assert_allclose(transform_cropped(half, box), full, atol=2e-6 * np.abs(full).max())
    np.testing.assert_array_equal(half, kept)


# ---------------------------------------------------------------- slices


def direct_slices(volume, rotation, plane):
    """V̂(Rᵀ(kx, ky, 0)) by summing over every voxel, (m, s) complex128."""
    n = volume.shape[0]
    r = np.arange(n) - n // 2
    out = []
    for matrix in rotation:
        k = np.stack([plane.kx, plane.ky, 0 * plane.kx], axis=1) @ matrix
        x, y, z = (np.exp(-2j * np.pi * np.outer(k[:, axis], r) / n) for axis in range(3))
        out.append(np.einsum("zyx,sz,sy,sx->s", volume, z, y, x, optimize=True))
    return np.array(out)


@pytest.mark.parametrize("taps", SLICE_ERROR)
@pytest.mark.parametrize("box", [11, 12])
def test_slices_of_noise_are_the_exact_fourier_sum(box, taps):
    """Noise reaches into the corners of the box, where interpolation is worst."""
    volume, rotation = random_like((box,) * 3, np.float32, 1), special_ortho_group.rvs(3, size=5, random_state=2)
    projection = Projection(box, taps=taps)
    slices = projection.forward(projection.grid(volume), rotation)
    exact = direct_slices(volume.astype(float), rotation, projection.plane)
    assert relative(slices, exact) < SLICE_ERROR[taps]


def test_slices_of_large_boxes_are_as_exact_on_a_smaller_grid():
    box, rng = 258, np.random.default_rng(4)
    model, volume = ForwardModel(box, PIXEL_SIZE), np.zeros((258,) * 3, np.float32)
    where, values = rng.integers(box // 4, 3 * box // 4, (3, 40)), rng.standard_normal(40).astype(np.float32)
    volume[tuple(where)] = values
    grid, rotation = model.prepare(volume), special_ortho_group.rvs(3, size=2, random_state=2)
    assert grid.nbytes < 0.6 * 4 * (2 * box) ** 3
    slices, plane = model.projection.forward(grid, rotation), model.plane
    k = np.stack([plane.kx, plane.ky, 0 * plane.kx], axis=1) @ rotation  # x, y, z
    phase = k @ (where[::-1] - box // 2) / box
    exact = np.exp(-2j * np.pi * phase) @ values
    assert relative(slices, exact) < 3 * SLICE_ERROR[6]


@pytest.mark.parametrize("taps", SLICE_ERROR)
@pytest.mark.parametrize("box", [48, 63, 64])
def test_slices_agree_with_a_non_uniform_fft(box, taps):
    finufft = pytest.importorskip("finufft")
    volume, rotation = phantom(box), special_ortho_group.rvs(3, size=10, random_state=box)
    projection = Projection(box, taps=taps)
    plane = projection.plane
    slices = projection.forward(projection.grid(volume), rotation)
    k = np.stack([plane.kx, plane.ky, 0 * plane.kx], axis=1) @ rotation
    x, y, z = (np.ascontiguousarray(2 * np.pi / box * k[..., axis].ravel()) for axis in range(3))
    exact = finufft.nufft3d2(z, y, x, volume.astype(np.complex128), isign=-1, eps=1e-10)
    exact = exact.reshape(slices.shape)
    assert relative(slices, exact) < SLICE_ERROR[taps]
    for s in range(1, plane.shells):  # every shell, not only the strong ones
        inside = plane.shell == s
        assert relative(slices[:, inside], exact[:, inside]) < 10 * SLICE_ERROR[taps]


# ---------------------------------------------------------------- adjoints

BOXES = [(16, None), (17, None), (16, 5.5), (17, 6.0)]


@pytest.mark.parametrize("taps", [2, 3, 4, 6])
@pytest.mark.parametrize("box, limit", BOXES)
def test_projection_has_its_adjoint(box, limit, taps):
    projection = Projection(box, HalfPlane.of(box, limit), taps)
    rotation = random_poses(4).matrices()

    def adjoint(samples):
        accumulator = projection.accumulator()
        projection.adjoint_add(accumulator, rotation, samples.copy(), np.zeros(samples.shape, np.float32))
        folded = projection.folded(accumulator)
        return projection.adjoint_volume(np.ascontiguousarray(folded[..., 0] + 1j * folded[..., 1]))

    def forward(volume):
        return projection.forward(projection.grid(volume), rotation)

    for seed in range(3):
        x = random_like((box,) * 3, np.float32, seed)
        y = random_like((4, len(projection.plane)), np.complex64, seed + 10)
        assert_adjoint(forward, adjoint, x, y, projection.plane.multiplicity)


@pytest.mark.parametrize("box, limit", BOXES)
def test_shift_has_its_adjoint(box, limit):
    plane, shift = HalfPlane.of(box, limit), random_poses(4).shift / PIXEL_SIZE
    samples, images = random_like((4, len(plane)), np.complex64, 1), random_like((4, box, box), np.float32, 2)
    assert_adjoint(
        lambda i: centred_samples(i, shift, plane),
        lambda s: box**2 * images_from_samples(s, shift, plane),
        images, samples, plane.multiplicity,
    )  # fmt: skip


@pytest.mark.parametrize("box", [16, 17])
def test_shift_undoes_itself_on_band_limited_images(box):
    plane, shift = HalfPlane.of(box), random_poses(4).shift / PIXEL_SIZE
    samples = random_like((4, len(plane)), np.complex64, 1)
    samples[:, plane.multiplicity == 1] = 1  # the mean of a real image
    back = centred_samples(images_from_samples(samples, shift, plane), shift, plane)
    np.testing.assert_allclose(back, samples, atol=5e-6)


@pytest.mark.parametrize("box", [16, 17])
def test_ctf_is_its_own_adjoint(box):
    plane = HalfPlane.of(box)
    c = ctf_samples(random_ctf(4), plane, PIXEL_SIZE)
    assert c.dtype == np.float32
    x, y = (random_like(c.shape, np.complex64, seed) for seed in (1, 2))
    assert_adjoint(lambda v: c * v, lambda v: c * v, x, y)


@pytest.mark.parametrize("with_ctf", [True, False])
@pytest.mark.parametrize("taps", [2, 3, 4, 6])
@pytest.mark.parametrize("box, limit", BOXES)
def test_the_whole_model_has_its_adjoint(box, limit, taps, with_ctf):
    model = ForwardModel(box, PIXEL_SIZE, taps, HalfPlane.of(box, limit))
    pose, ctf = random_poses(4), random_ctf(4) if with_ctf else None
    for seed in range(3):
        x, y = random_like((box,) * 3, np.float32, seed), random_like((4, box, box), np.float32, seed + 10)
        assert_adjoint(
            lambda v: model.images(model.prepare(v), pose, ctf), lambda i: model.adjoint(i, pose, ctf), x, y
        )


# ---------------------------------------------------------------- conventions


def gaussian_blobs(box, centres, width, height):
    """Volume [z, y, x] with Gaussians at centres (j, 3) = (x, y, z), voxels from the origin voxel box // 2."""
    r = np.arange(box) - box // 2
    x, y, z = (np.exp(-((r - centres[:, axis, None]) ** 2) / (2 * width**2)) for axis in range(3))
    return np.einsum("j,jz,jy,jx->zyx", height, z, y, x).astype(np.float32)


def blob_images(box, centres, width, height, pose):
    """Line integrals of the same in closed form: a blob at r is seen at the first two components of R r, plus shift."""
    r = np.arange(box) - box // 2
    out = []
    for matrix, shift in zip(pose.matrices(), pose.shift / PIXEL_SIZE):
        at = centres @ matrix.T
        x, y = (np.exp(-((r - (at[:, axis, None] + shift[axis])) ** 2) / (2 * width**2)) for axis in range(2))
        out.append(np.sqrt(2 * np.pi) * width * np.einsum("j,jy,jx->yx", height, y, x))
    return np.array(out)


CENTRES = np.array([[3.0, -2.0, 4.0], [-5.0, 1.0, 2.0], [0.0, 5.0, -4.0], [4.0, 4.0, 1.0]])
HEIGHTS = np.array([1.0, 0.8, 0.6, 0.5])
WIDTH = 1.6


@pytest.mark.parametrize("box", [32, 33])
def test_images_are_line_integrals_along_the_third_row_of_the_rotation(box):
    model, pose = ForwardModel(box, PIXEL_SIZE), random_poses(10, shift_sigma=5.0)
    images = model.images(model.prepare(gaussian_blobs(box, CENTRES, WIDTH, HEIGHTS)), pose, None)
    expected = blob_images(box, CENTRES, WIDTH, HEIGHTS, pose)
    assert relative(images, expected) < 1e-4


@pytest.mark.parametrize("box", [32, 33])
def test_the_mirrored_volume_does_not_match(box):
    model, pose = ForwardModel(box, PIXEL_SIZE), random_poses(10, shift_sigma=0.0)
    expected = blob_images(box, CENTRES, WIDTH, HEIGHTS, pose)
    for axis in range(3):
        other = CENTRES * np.where(np.arange(3) == axis, -1, 1)
        images = model.images(model.prepare(gaussian_blobs(box, other, WIDTH, HEIGHTS)), pose, None)
        assert relative(images, expected) > 0.3


@pytest.mark.parametrize("box", [24, 25, 32, 33])
def test_identity_pose_sums_over_z(box):
    volume = phantom(box)
    model = ForwardModel(box, PIXEL_SIZE)
    image = model.images(model.prepare(volume), Pose.from_euler([0], [0], [0]), None)[0]
    assert relative(image, volume.sum(axis=0)) < 2e-5


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("angles, axis", [((0, 90, 0), 2), ((90, 90, 0), 1), ((0, 0, 0), 0)])
def test_the_viewing_axis_is_rotations_third_row(box, angles, axis):
    """rot 0, tilt 90 looks along x; rot 90, tilt 90 along y: the image holds the sum over that axis."""
    volume = phantom(box)
    model = ForwardModel(box, PIXEL_SIZE)
    image = model.images(model.prepare(volume), Pose.from_euler(*([a] for a in angles)), None)[0]
    total = volume.sum(axis=axis)
    assert np.std(image) == pytest.approx(np.std(total), rel=1e-3)
    if axis == 2:  # R = Ry(90): image x is −z, image y is y
        assert relative(image[1:, 1:] if box % 2 == 0 else image,
                        total.T[1:, :0:-1] if box % 2 == 0 else total.T[:, ::-1]) < 1e-2


@pytest.mark.parametrize("box", [24, 25])
def test_whole_pixel_shifts_roll_the_image(box):
    volume = phantom(box)
    model, q = ForwardModel(box, PIXEL_SIZE), random_poses(3).quaternion
    prepared = model.prepare(volume)
    centred = model.images(prepared, Pose(q, np.zeros((3, 2))), None)
    shifts = np.array([[1, 0], [-3, 5], [box, -box]])
    moved = model.images(prepared, Pose(q, shifts * PIXEL_SIZE), None)
    for a, b, (x, y) in zip(centred, moved, shifts):
        np.testing.assert_allclose(b, np.roll(a, (y, x), axis=(0, 1)), atol=3e-6 * np.abs(a).max())


@pytest.mark.parametrize("box", [16, 17, 24, 25])
def test_the_origin_voxel_stays_the_origin_pixel(box):
    volume = np.zeros((box,) * 3, np.float32)
    volume[(box // 2,) * 3] = 1
    model = ForwardModel(box, PIXEL_SIZE)
    images = model.images(model.prepare(volume), random_poses(8, shift_sigma=0.0), None)
    o = box // 2
    for image in images:
        assert np.unravel_index(image.argmax(), image.shape) == (o, o)
        # symmetric about the origin pixel, whatever the pose
        inner = image[1 - box % 2 :, 1 - box % 2 :]
        np.testing.assert_allclose(inner, inner[::-1, ::-1], atol=1e-4 * image.max())


def test_protein_is_white():
    """Positive density under a CTF that is positive at low k: in underfocus the blurred particle is bright."""
    box = 48
    plane = HalfPlane.of(box)
    c = ctf_samples(random_ctf(5), plane, PIXEL_SIZE)
    assert (c[:, plane.shell <= 2] > 0).all()
    assert (ctf_samples(make_ctf(1, voltage_kv=300, defocus_u=1e4, defocus_v=1e4), plane, PIXEL_SIZE)
            [:, plane.shell == 1] > 0).all()
    model = ForwardModel(box, PIXEL_SIZE)
    images = model.images(model.prepare(phantom(box)), random_poses(5, shift_sigma=0.0), random_ctf(5))
    o = slice(box // 2 - 6, box // 2 + 6)
    assert (images[:, o, o].mean(axis=(1, 2)) > images.mean(axis=(1, 2))).all()


@pytest.mark.parametrize("box", [24, 25])
def test_images_hold_nothing_beyond_the_resolution_limit(box):
    limit = 7.5
    model = ForwardModel(box, PIXEL_SIZE, plane=HalfPlane.of(box, limit))
    images = model.images(model.prepare(random_like((box,) * 3, np.float32, 1)), random_poses(3), None)
    k = np.hypot(scipy.fft.fftfreq(box, 1 / box)[:, None], np.arange(box // 2 + 1))
    power = np.abs(scipy.fft.rfft2(images.astype(float))) ** 2
    assert power[:, k >= limit].max() < 1e-10 * power[:, k < limit].mean()
    whole = ForwardModel(box, PIXEL_SIZE)
    other = whole.images(whole.prepare(random_like((box,) * 3, np.float32, 1)), random_poses(3), None)
    spectrum, expected = scipy.fft.rfft2(images), scipy.fft.rfft2(other)
    np.testing.assert_allclose(spectrum[:, k < limit], expected[:, k < limit], atol=1e-5 * np.abs(expected).max())


def test_band_limited_map_is_what_images_can_show():
    volume = band_limit(random_like((24,) * 3, np.float32, 1))
    np.testing.assert_allclose(band_limit(volume, edge=0.0), volume, atol=1e-6)
