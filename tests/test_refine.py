"""--poses refine: poses with small errors are moved, as far as the set shows that they are wrong; exact ones stay."""

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.model.pose import angular_distance, matrix_from_quaternion
from mpirecon.model.pose_state import FOUND, REFINED
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.search.acceptance import Amplitudes
from mpirecon.search.fine import displacement, turned
from mpirecon.search.local import LOCAL, Neighbourhood
from mpirecon.search.pose_errors import NearErrors, PoseErrors
from mpirecon.search.slices import cut, slice_grid

TRUTH = mr.phantom(24, 6.0)
FAR = np.radians(15), 5.0


def random_quaternions(m, seed=0):
    q = np.random.default_rng(seed).standard_normal((m, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_a_displacement_is_the_turn_that_leads_there():
    q, w = random_quaternions(20), np.random.default_rng(1).uniform(-1, 1, (20, 3))
    there = np.array([turned(a, b) for a, b in zip(q, w)])
    np.testing.assert_allclose(displacement(q, there), w, atol=1e-12)
    np.testing.assert_allclose(displacement(-q, there), w, atol=1e-12)
    np.testing.assert_allclose(displacement(q, q), 0, atol=1e-12)


def observed(errors, seed=0):
    """Displacements, curvatures, gains and scatters of particles with these errors (m, d) and known noise."""
    rng, (m, size) = np.random.default_rng(seed), errors.shape
    axes = rng.standard_normal((m, size, size))
    width = np.array([0.02] * 3 + [0.1] * (size - 3)) * rng.uniform(0.7, 1.4, (m, 1))
    covariance = np.eye(size) * (width**2)[:, None, :]
    tilted = np.linalg.qr(np.eye(size) + 0.2 * axes)[0]
    covariance = tilted.swapaxes(1, 2) @ covariance @ tilted
    noise = np.einsum("mij,mj->mi", np.linalg.cholesky(covariance), rng.standard_normal((m, size)))
    curvature, found = np.linalg.inv(covariance), errors + noise
    gain = np.einsum("mi,mij,mj->m", found, curvature, found) / 2
    return found, curvature, gain, rng.chisquare(size, m)


@pytest.mark.parametrize("size", [3, 5])
def test_where_noise_explains_the_displacements_no_pose_moves(size):
    for seed in range(5):
        found, curvature, gain, scatter = observed(np.zeros((600, size)), seed)
        errors = PoseErrors.fit(found, curvature, gain, scatter, FAR)
        assert errors.wrong == 0 and errors.widths == (0, 0)
        assert not errors(found, curvature, gain).moves.any()
    # nor where noise is more than the curvatures say, which the scatter shows
    found, curvature, gain, scatter = observed(np.zeros((600, size)))
    errors = PoseErrors.fit(1.4 * found, curvature, 1.4**2 * gain, 1.4**2 * scatter, FAR)
    assert (
        errors.noise == pytest.approx(1.4**2, rel=0.15)
        and not errors(1.4 * found, curvature, 1.4**2 * gain).moves.any()
    )


def test_the_errors_of_some_are_learned_and_taken_back():
    rng, m = np.random.default_rng(3), 1500
    wrong = np.arange(m) < 0.4 * m
    truth = np.where(wrong[:, None], rng.standard_normal((m, 5)) * ([0.08] * 3 + [0.0] * 2), 0.0)
    found, curvature, gain, scatter = observed(truth, 4)
    errors = PoseErrors.fit(found, curvature, gain, scatter, FAR)
    assert errors.wrong == pytest.approx(0.4, abs=0.08)
    assert errors.widths[0] == pytest.approx(0.08 * np.sqrt(0.4), rel=0.15) and errors.widths[1] < 0.04
    refined = errors(found, curvature, gain)
    assert refined.moves[wrong].mean() > 0.85 and refined.moves[~wrong].mean() < 0.06
    off = (refined.displacement - truth)[refined.moves & wrong]
    assert np.sqrt((off[:, :3] ** 2).mean()) < np.sqrt(((found - truth)[refined.moves & wrong, :3] ** 2).mean())
    spread = np.einsum(
        "mi,mij,mj->m", off[:, :3], np.linalg.inv(refined.covariance[refined.moves & wrong, :3, :3]), off[:, :3]
    )
    assert spread.mean() == pytest.approx(3, rel=0.2)


def test_evidence_for_a_width_is_the_mean_likelihood_over_such_errors():
    found, curvature, gain, _ = observed(np.full((4, 3), 0.03), 2)
    law = PoseErrors(np.array([0.5, 0.5]), np.array([0.0, 0.05]), np.zeros(2), 1.0)
    draws = 0.05 * np.random.default_rng(0).standard_normal((400_000, 3))
    for d, h, g, log in zip(found, curvature, gain, law.log_odds(found, curvature, gain)):
        likelihood = g - np.einsum("ni,ij,nj->n", draws - d, h, draws - d) / 2
        assert log[0] == 0 and log[1] == pytest.approx(np.log(np.exp(likelihood).mean()), abs=0.05)


def test_peaks_near_given_poses_lie_where_noise_sets_them():
    box, m = 24, 150
    plane, q = HalfPlane.of(box), random_quaternions(150, 5)
    model = np.empty((m, len(plane)), np.complex64)
    cut(slice_grid(TRUTH.array, 12), matrix_from_quaternion(q), plane.kx, plane.ky, model)
    rng = np.random.default_rng(6)
    sigma = 0.8 * np.sqrt((np.abs(model) ** 2).mean())
    data = (
        model + sigma * (rng.standard_normal(model.shape) + 1j * rng.standard_normal(model.shape)) / np.sqrt(2)
    ).astype(np.complex64)
    weight = np.full(data.shape, 2 / sigma**2, np.float32)
    near, law = Neighbourhood(TRUTH.array, plane, 16.0, 11, True), Amplitudes(1.0, 0.1)
    errors = np.where(np.arange(m)[:, None] < 50, 0.15 * rng.standard_normal((m, 3)), 0.0)
    given = np.array([turned(a, -w) for a, w in zip(q, errors)])
    out = np.zeros(m, LOCAL)
    data, weight = (np.ascontiguousarray(a[:, near.band.order]) for a in (data, weight))
    for i in range(m):
        near.look(data[i], weight[i], weight[i], given[i], law, out[i])
    exact = (np.arange(m) >= 50) & (out["curvature"][:, 0, 0] > 0)
    assert exact.sum() >= 90
    d, h = out["displacement"], out["curvature"]
    assert np.median(np.einsum("mi,mij,mj->m", d, h, d)[exact]) / 4.351 == pytest.approx(1, abs=0.35)
    assert 2 * out["gain"][exact].mean() / 5 == pytest.approx(1, abs=0.25)
    assert np.median(out["scatter"][exact]) / 4.351 == pytest.approx(1, abs=0.35)
    moved = (np.arange(m) < 50) & (h[:, 0, 0] > 0)
    assert np.median(angular_distance(out["quaternion"], q)[moved]) < 0.5 * np.median(angular_distance(given, q)[moved])


def test_errors_of_a_size_are_distinguished_from_wrong_poses_anywhere():
    rng = np.random.default_rng(0)
    near = np.degrees(np.linalg.norm(np.radians(12) * rng.standard_normal((200, 3)), axis=1))
    anywhere = angular_distance(random_quaternions(300, 1), random_quaternions(300, 2))
    still, noise = np.zeros((500, 2)), np.full(500, 0.1)
    both = np.concatenate([near, anywhere])
    found = NearErrors.of(both, still + 0.1 * rng.standard_normal((500, 2)), noise, np.ones(500))
    assert (
        found.share == pytest.approx(0.4, abs=0.08)
        and np.degrees(found.turn) == pytest.approx(12, abs=1.5)
        and found.offset == 0
    )
    moved = NearErrors.of(both, 1.5 * rng.standard_normal((500, 2)), noise, np.ones(500))
    assert moved.offset == pytest.approx(1.5, rel=0.15)
    assert NearErrors.of(anywhere, still[:300], noise[:300], np.ones(300)) is None
    assert NearErrors.of(near, still[:200], noise[:200], np.full(200, 0.5)) is None  # nobody is accepted


OPTIONS = dict(loss="posterior", poses="refine", search_offset=0.0, iterations=4, deterministic=True)


@pytest.fixture(scope="module")
def with_small_errors(tmp_path_factory):
    path = tmp_path_factory.mktemp("refine") / "particles.h5"
    return mr.simulate(TRUTH, 400, path, snr=0.7, error_rate=0.4, error_degrees=12, noise_cv=0.15, seed=3)


#: as the command has them
NAMED = [text for name, value in OPTIONS.items()
         for text in ([f"--{name}"] if value is True else [f"--{name.replace('_', '-')}", value])]


@pytest.fixture(scope="module")
def refined(with_small_errors, cli, tmp_path_factory):
    """A run in a process of its own, which takes the kernels that are kept, as ranks do."""
    folder = tmp_path_factory.mktemp("refined") / "run"
    done = cli("reconstruct", with_small_errors.path, *NAMED, "-o", folder, env={})
    assert done.returncode == 0, done.stderr
    return mr.Result(folder)


def test_small_pose_errors_are_refined(with_small_errors, refined):
    table, truth = refined.particles, with_small_errors.truth
    wrong, true = truth["pose_error"], truth["true_quaternion"]
    before, after = (
        angular_distance(with_small_errors.table["quaternion"], true),
        angular_distance(table["quaternion"], true),
    )
    moved = table["pose_state"] == REFINED
    assert moved[wrong & (before > 5)].mean() > 0.5 and moved[~wrong].mean() < 0.05
    assert np.median(after[moved]) < 0.5 * np.median(before[moved]) and (after[moved] < 10).mean() > 0.9
    assert 0.5 < np.median(after[moved] / table["pose_sigma"][moved]) / 1.538 < 1.6
    assert (
        np.isnan(table["pose_sigma"][~moved & (table["pose_state"] != FOUND)]).all()
        and (table["weight"][moved] > 0).all()
    )
    told = refined.summary["search"]["refinement"]
    assert told["moved"] >= moved.sum() > 0 and 0.1 < told["fraction"] < 0.6 and 2 < told["angle_sigma"] < 9
    gain = mr.fsc(refined.volume, TRUTH).values[1:].mean()
    assert gain > mr.fsc(mr.reconstruct(with_small_errors, loss="posterior").volume, TRUTH).values[1:].mean() + 0.003


def test_ranks_refine_to_the_same_bits(with_small_errors, refined, mpirun, tmp_path):
    done = mpirun(2, ["-m", "mpirecon", "reconstruct", with_small_errors.path, *NAMED, "-o", tmp_path / "two"],
                  env={})
    assert done.returncode == 0, done.stderr
    together = mr.Result(tmp_path / "two")
    np.testing.assert_array_equal(together.volume.to_numpy(), refined.volume.to_numpy())
    for name in ("quaternion", "shift", "pose_state", "posterior", "pose_sigma"):
        np.testing.assert_array_equal(together.particles[name], refined.particles[name])


def test_exact_poses_stay():
    particles = mr.simulate(TRUTH, 300, snr=0.7, junk_rate=0.1, noise_cv=0.15, seed=3)
    run, fixed = mr.reconstruct(particles, **OPTIONS), mr.reconstruct(particles, loss="posterior")
    assert not (run.particles["pose_state"] == REFINED).any() and run.summary["search"]["refinement"]["moved"] == 0
    both = [mr.fsc(result.volume, TRUTH).values[1:].mean() for result in (run, fixed)]
    assert abs(both[0] - both[1]) < 0.001
