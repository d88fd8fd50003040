"""Poses searched in images whose optics magnify, each optics group in its own way: slices are those at M k."""

import numpy as np
import pytest
from test_rescue import TRUTH as RESCUED
from test_rescue_groups import BOX, TRUTH, random_quaternions, tilted

import mpirecon as mr
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.pose import angular_distance, matrix_from_quaternion
from mpirecon.model.pose_state import FOUND
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.model.symmetry import point_group
from mpirecon.search.acceptance import Amplitudes
from mpirecon.search.circular import TurningSlices
from mpirecon.search.fine import turned
from mpirecon.search.group_search import GroupSearch, composed
from mpirecon.search.local import LOCAL, Neighbourhood
from mpirecon.search.orientations import turns, views
from mpirecon.search.pose_search import PoseSearch
from mpirecon.search.slices import cut, slice_grid

#: an ellipse that no grid of orientations hides and whose transpose is another, and a pixel size 6 % smaller
ELLIPSE, SMALLER = np.array([[1.06, 0.12], [-0.04, 0.95]]), 0.94 * np.eye(2)
STRETCH = float(np.linalg.svd(ELLIPSE, compute_uv=False).max())
PLANE = HalfPlane.of(BOX, stretch=STRETCH)


def magnified(q, magnification):
    """Samples (m, s) of the phantom at orientations q (m, 4), whose optics magnify by (m, 2, 2)."""
    out, volume = np.empty((len(q), len(PLANE)), np.complex64), slice_grid(TRUTH.array, BOX // 2)
    for row, (rotation, m) in enumerate(zip(matrix_from_quaternion(q), magnification)):
        cut(volume, rotation[None], *(m @ (PLANE.kx, PLANE.ky)), out[row : row + 1])
    return out


def noisy(samples, over, seed):
    rng, sigma = np.random.default_rng(seed), over * np.sqrt((np.abs(samples) ** 2).mean())
    noise = rng.standard_normal(samples.shape) + 1j * rng.standard_normal(samples.shape)
    return (samples + sigma * noise / np.sqrt(2)).astype(np.complex64), np.full(samples.shape, 2 / sigma**2, np.float32)


def test_slices_at_every_turn_are_those_of_magnified_samples():
    inside = np.flatnonzero((PLANE.shell >= 1) & (PLANE.shell <= 8))
    k = np.stack([PLANE.kx, PLANE.ky])[:, inside[np.argsort(np.hypot(PLANE.kx, PLANE.ky)[inside], kind="stable")]]
    rng, volume = np.random.default_rng(0), slice_grid(TRUTH.array, 10)
    y = (rng.standard_normal(k.shape[1]) + 1j * rng.standard_normal(k.shape[1])).astype(np.complex64)[None]
    weight = rng.uniform(0.3, 1, (1, k.shape[1])).astype(np.float32)
    seen, around = views(0.9, point_group("C1")), turns(0.7)
    some = np.stack([[turned(q, np.array([0, 0, angle])) for angle in around] for q in seen]).reshape(-1, 4)
    search = TurningSlices(volume, *k, 0.5, seen, around, stretch=STRETCH)
    ramps = np.exp(2j * np.pi / BOX * np.outer([0.0, 1.5], k[0])).astype(np.complex64)
    for magnification in (ELLIPSE, SMALLER, np.eye(2)):
        slices = np.empty((len(some), k.shape[1]), np.complex64)
        cut(volume, matrix_from_quaternion(some), *(magnification @ k), slices)
        exact = np.stack([((y * ramp) @ slices.conj().T).real[0] for ramp in ramps])
        best, _ = search.best(y, ramps, magnification)
        assert np.sqrt(np.mean((best[0] - exact.max(axis=0)) ** 2)) < 0.03 * exact.std()
        np.testing.assert_allclose(search.power(weight, magnification)[0], np.abs(slices) ** 2 @ weight[0], rtol=0.05)


@pytest.fixture(scope="module")
def images():
    """(orientations, magnifications, samples, weights) of images of three optics groups, one after the other"""
    q, magnification = random_quaternions(45, 3), np.stack([ELLIPSE, SMALLER, np.eye(2)] * 15)
    return q, magnification, *noisy(magnified(q, magnification), 0.4, 1)


def test_images_of_several_magnifications_find_their_poses_in_one_search(images):
    q, magnification, data, weight = images
    search = PoseSearch(TRUTH.array, PLANE, 14.0, 9, point_group("C1"), 0.0, stretch=STRETCH)
    found = search.search(data, weight, weight, q, magnification)
    off = angular_distance(found.quaternion[:, 0], q)
    assert np.median(off) < 3 and np.percentile(off, 90) < 8
    # the peak is the pose's own where it has been climbed to, in all groups alike
    width = np.degrees(np.sqrt(np.diagonal(np.linalg.inv(found.curvature[:, 0, :3, :3]), axis1=1, axis2=2).mean(1)))
    scatter = [np.median(off[kind::3] / width[kind::3]) for kind in range(3)]
    assert max(scatter) < 2.5
    unknown = search.search(data, weight, weight, q)
    assert (unknown.score[:, 0] < found.score[:, 0] + 0.02)[np.arange(45) % 3 < 2].mean() > 0.9
    np.testing.assert_allclose(unknown.score[2::3, 0], found.score[2::3, 0], rtol=1e-5)


def test_images_are_compared_near_their_poses_at_their_magnification(images):
    q, magnification, data, weight = images
    near, law = Neighbourhood(TRUTH.array, PLANE, 14.0, 9, True, STRETCH), Amplitudes(1.0, 0.1)
    out = np.zeros((2, len(q)), LOCAL)
    data, weight = (np.ascontiguousarray(a[:, near.band.order]) for a in (data, weight))
    for i in range(len(q)):
        for row, m in enumerate((magnification[i], np.eye(2))):
            near.look(data[i], weight[i], weight[i], q[i], law, out[row, i], m)
    for kind in (0, 1):
        mine = np.arange(len(q)) % 3 == kind
        own, other = (part[mine & (out["curvature"][0, :, 0, 0] > 0)] for part in out)
        chi = np.einsum("mi,mij,mj->m", own["displacement"], own["curvature"], own["displacement"])
        assert len(own) > 10 and np.median(chi) < 2 * 4.351  # the median for 5 degrees of freedom
        assert (own["here"] > other["here"]).all()


def test_groups_find_their_turn_in_images_of_several_magnifications():
    given, turn = tilted(random_quaternions(2, 3)), random_quaternions(1, 4)[0]
    magnification = np.stack([ELLIPSE, SMALLER] * 3)
    data, weight = noisy(magnified(composed(given, turn), magnification), 1.0, 2)
    search = GroupSearch(TRUTH.array, PLANE, 14.0, 8, point_group("C1"), 0.0, stretch=STRETCH)
    relation = matrix_from_quaternion(given)
    found, unknown = (search.search(data, weight, weight, relation, m) for m in (magnification, None))
    assert angular_distance(found.turn[:1], turn[None])[0] < 3
    assert found.cross[0] / np.sqrt(found.power[0]) > 1.01 * unknown.cross[0] / np.sqrt(unknown.power[0])


def test_the_coarse_search_of_a_group_compares_at_magnified_samples():
    given, magnification = tilted(random_quaternions(1, 3)), np.stack([ELLIPSE, SMALLER, np.eye(2)])
    relation = matrix_from_quaternion(given)
    search = GroupSearch(TRUTH.array, PLANE, 14.0, 8, point_group("C1"), 0.0, stretch=STRETCH)
    p, order, turned_by = search.band.coarse, search.band.order, matrix_from_quaternion(search.turns)
    k = np.stack([search.band.kx[:p], search.band.ky[:p]])
    data, weight = noisy(magnified(given, magnification), 3.0, 5)
    data, weight = data[:, order], weight[:, order]
    cross, power = np.zeros((2, len(turned_by)))
    for r, m, image, w in zip(relation, magnification, data[:, :p], weight[:, :p]):
        model = np.empty((len(turned_by), p), np.complex64)
        cut(search.grid, r @ turned_by, *(m @ k), model)
        cross += (w * (model.conj() * image).real).sum(axis=1)
        power += (w * np.abs(model) ** 2).sum(axis=1)
    score = cross / np.sqrt(power)
    where, _ = search.coarse(data, weight, weight, relation, magnification)
    wrong, _ = search.coarse(data, weight, weight, relation)
    assert where[0] == score.argmax() and (np.diff(score[where]) <= 0).all() and list(wrong) != list(where)


def test_a_magnification_beyond_what_the_map_was_prepared_for_is_an_error(images):
    q, magnification, data, weight = images
    search = PoseSearch(TRUTH.array, PLANE, 14.0, 9, point_group("C1"), 0.0)
    with pytest.raises(ValueError, match="more than 1.0"):
        search.search(data, weight, weight, q, magnification)


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """The particles of `rescue`'s tests, taken by optics of which one group magnifies elliptically, one more."""
    path = tmp_path_factory.mktemp("magnified") / "particles.h5"
    plain = mr.simulate(RESCUED, 400, snr=1e6, error_rate=0.3, seed=2)
    about, truth = plain.metadata(), plain.truth
    optics = Aberrations(np.array([1, 2]), np.stack([ELLIPSE, SMALLER]), np.zeros((2, 0)), np.zeros((2, 0)),
                         np.zeros((2, 0)))
    group = (1 + np.arange(400) % 2).astype(np.int32)
    model = ForwardModel(about.box, about.pixel_size, aberrations=optics)
    pose = mr.Pose(truth["true_quaternion"], about.pose.shift)
    clean = model.images(model.prepare(RESCUED.array.astype(np.float32)), pose, about.ctf, group)
    noise = np.random.default_rng(1).normal(0, clean.std() / np.sqrt(0.7), clean.shape)
    with ParticleWriter(path, 400, about.box, about.pixel_size, overwrite=False) as writer:
        writer.write_images(0, (clean + noise).astype(np.float32))
        about.optics_group[:] = group
        writer.write_metadata(about)
        writer.write_optics(optics)
    return mr.open(path), truth


@pytest.mark.parametrize("poses", ["rescue", "refine"])
def test_wrong_poses_are_found_again_whatever_the_optics_magnify(particles, poses):
    particles, truth = particles
    run = mr.reconstruct(particles, loss="posterior", poses=poses, search_offset=0)
    table, wrong = run.particles, truth["pose_error"]
    off, found = angular_distance(table["quaternion"], truth["true_quaternion"]), table["pose_state"] == FOUND
    for group in (0, 1):
        mine = np.arange(400) % 2 == group
        assert (found & (off < 8))[wrong & mine].mean() > 0.9 and (off[found & mine] < 8).mean() > 0.95
        assert np.median(off[found & mine] / table["pose_sigma"][found & mine]) < 3
    assert np.median(off[~wrong & table["kept"]]) < 1.5


def test_scripts_search_magnified_particles(particles):
    particles, truth = particles
    found = mr.search_poses(particles, mr.reconstruct(particles, loss="posterior"))
    wrong = truth["pose_error"][found["id"]]
    right = angular_distance(found["quaternion"], truth["true_quaternion"][found["id"]]) < 8
    assert right[wrong].mean() > 0.9 and (found["probability"][wrong & right] > 0.5).mean() > 0.9
