"""Poses near the given ones: the kernel against its definition, what it finds, and what is concluded from it."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mpirecon.backend.cpu import CpuBackend
from mpirecon.cli import run
from mpirecon.io.mrc import read_map
from mpirecon.io.run_output import read_particle_table
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.operators.forward import ForwardModel
from mpirecon.robust.nearby import ANGLES, NearbyPoses, attenuation_profile, between_angles
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.phantom import phantom
from mpirecon.solvers.passes import Engine
from mpirecon.validate.fsc import fsc

BOX, PIXEL_SIZE = 32, 5.0


def quaternion(rotation):
    return np.roll(rotation.as_quat(), 1, axis=-1)


def turned(q, turn):
    """The pose q followed by a turn (rotation vector, radians) in the image's frame."""
    return quaternion(Rotation.from_rotvec(turn) * Rotation.from_quat(np.roll(q, -1, axis=-1)))


def made(m=12, noise=0.0, premultiplied=False, error=0.0, seed=0):
    """A backend, a batch of images at poses that are wrong by `error` degrees, and the turns that mend them."""
    rng = np.random.default_rng(seed)
    volume = phantom(BOX)
    true = quaternion(Rotation.random(m, random_state=seed))
    turn = rng.normal(size=(m, 3))
    turn *= np.radians(error) / np.linalg.norm(turn, axis=1, keepdims=True)
    u = rng.uniform(8000, 20000, m)
    ctf = make_ctf(m, voltage_kv=300, defocus_u=u, defocus_v=u - 300, astigmatism=rng.uniform(0, 3, m), cs_mm=2.7,
                   amplitude_contrast=0.1)
    forward = ForwardModel(BOX, PIXEL_SIZE)
    images = forward.images(forward.prepare(volume), Pose(true, np.zeros((m, 2))), ctf)
    images += noise * images.std() * rng.standard_normal(images.shape).astype(np.float32)
    if premultiplied:
        images = multiply_by_ctf(images, ctf, PIXEL_SIZE)
    given = ParticleSet(BOX, PIXEL_SIZE, Pose(turned(true, -turn), np.zeros((m, 2))), ctf, np.ones(m), np.ones(m))
    backend = CpuBackend(BOX, PIXEL_SIZE, premultiplied=premultiplied)
    return backend, backend.prepare(images, given), backend.reference(volume), turn


def bands_of(backend, noise=1.0, whitened=True):
    return backend.bands(np.full(backend.plane.shells, noise), 2, backend.plane.shells - 1, whitened)


def look(backend, batch, reference, bands, *highest, precision=1e-6):
    return backend.nearby(reference, batch, bands, np.array(highest), precision)


def at(backend, batch, reference, bands, turn):
    """L = Σ yp − pp/2 of each particle, turned."""
    rotation = Rotation.from_rotvec(turn).as_matrix() @ batch.rotation
    sums = backend.statistics(reference, batch, bands, rotation).sum(axis=1)
    return sums[:, 1] - sums[:, 2] / 2


@pytest.mark.parametrize("premultiplied, whitened", [(False, True), (True, True), (True, False)])
def test_a_look_at_the_given_pose(premultiplied, whitened):
    """Its sums are those of statistics, its slope the difference of L about the pose, its curvature Σ Re ∂p*∂p."""
    backend, batch, reference, _ = made(premultiplied=premultiplied, noise=1.0, error=3.0)
    bands = bands_of(backend, whitened=whitened)
    turn, sums, slope, curvature = look(backend, batch, reference, bands, 5)
    assert not turn.any()
    np.testing.assert_allclose(sums, backend.statistics(reference, batch, bands)[:, :, 1:], rtol=1e-4, atol=1e-2)
    step = 0.004
    for axis in range(3):
        e = step * np.eye(3)[axis]
        numeric = (at(backend, batch, reference, bands, e) - at(backend, batch, reference, bands, -e)) / (2 * step)
        np.testing.assert_allclose(slope[:, axis], numeric, atol=0.01 * np.abs(slope).max())
    c2 = batch.ctf.astype(float) ** 2
    # what multiplies |V̂|², in all three modes
    factor = bands.gain[0] * (c2 if whitened else c2**2) * (bands.band >= 0)
    slices = [
        [backend.projection.forward(reference, Rotation.from_rotvec(s * step * e).as_matrix() @ batch.rotation)
         for s in (1, -1)] for e in np.eye(3)
    ]
    d = [(up - down).astype(np.complex128) / (2 * step) for up, down in slices]
    brute = np.stack([(factor * (d[i].conj() * d[j]).real).sum(axis=1) for i, j in
                      ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))], axis=1)
    np.testing.assert_allclose(curvature, brute, atol=0.01 * np.abs(brute).max())


def test_fewer_bands_are_looked_at_when_asked():
    backend, batch, reference, _ = made()
    bands = bands_of(backend)
    sums = look(backend, batch, reference, bands, 2)[1]
    assert not sums[:, 3:].any()
    np.testing.assert_allclose(sums[:, :3], backend.statistics(reference, batch, bands)[:, :3, 1:], rtol=1e-4,
                               atol=1e-2)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("error", [1.0, 4.0])
def test_the_search_finds_the_pose_that_was_right(error, premultiplied):
    backend, batch, reference, turn = made(error=error, premultiplied=premultiplied)
    found = look(backend, batch, reference, bands_of(backend), 3, 3, 5, 5)[0]
    assert np.degrees(np.abs(found - turn)).max() < 0.15


def test_a_strong_prior_stays_at_the_given_pose():
    backend, batch, reference, _ = made(error=4.0)
    found = look(backend, batch, reference, bands_of(backend), 3, 3, 5, precision=1e12)[0]
    assert np.degrees(np.abs(found)).max() < 1e-3


def test_each_noise_group_has_its_own_gain():
    backend, batch, reference, _ = made()
    batch.group[::3] = 1
    both = backend.bands(np.array([[1.0], [4.0]]) * np.ones(backend.plane.shells), 2, backend.plane.shells - 1, True)
    sums = look(backend, batch, reference, both, 5)[1]
    np.testing.assert_allclose(sums, backend.statistics(reference, batch, both)[:, :, 1:], rtol=1e-4, atol=1e-2)


# ---------------------------------------------------------------- what is concluded


def test_the_integral_over_errors_of_a_scale():
    """Against a sum over a million draws of the prior."""
    rng = np.random.default_rng(1)
    m, scale, bands = 4, 0.08, 2
    root = rng.normal(0, 9, (m, 3, 3))
    h = root @ root.transpose(0, 2, 1) + 20 * np.eye(3)
    nearby = NearbyPoses.empty(m, bands, 5)
    nearby.turn[:], nearby.slope[:] = rng.normal(0, 0.05, (m, 3)), rng.normal(0, 3, (m, 3))
    nearby.curvature[:] = h[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    variance = np.array([1.0, 2.0, 1.0, 0.5])
    log, angle = nearby.integral(variance, scale)
    draws = rng.normal(0, scale, (10**6, 3))
    for i in range(m):
        away = draws - nearby.turn[i]
        value = (away @ nearby.slope[i] - np.einsum("ni,ij,nj->n", away, h[i], away) / 2) / variance[i]
        weight = np.exp(value)
        assert log[i] == pytest.approx(np.log(weight.mean()), abs=0.02)
        squared = (weight * np.square(draws).sum(axis=1)).sum() / weight.sum()
        assert angle[i] == pytest.approx(np.sqrt(squared), rel=0.02)
    np.testing.assert_allclose(nearby[np.array([2, 0])].matrix(), h[[2, 0]])


@pytest.mark.parametrize("stretch", [1.0, 1e3, 1e6])
def test_the_integral_of_uneven_curvatures_is_the_formula(stretch):
    """Images that show a turn about one axis alone; against LAPACK, matrix by matrix."""
    rng = np.random.default_rng(2)
    m, scale = 50, 0.05
    axes = np.linalg.qr(rng.normal(size=(m, 3, 3)))[0]
    h = axes @ (np.array([1.0, 50.0, 50.0 * stretch])[:, None] * axes.transpose(0, 2, 1))
    nearby = NearbyPoses.empty(m, 1, 2)
    nearby.turn[:], nearby.slope[:] = rng.normal(0, 0.02, (m, 3)), rng.normal(0, 3, (m, 3))
    nearby.curvature[:] = h[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    log, angle = nearby.integral(np.ones(m), scale)
    for i in range(m):
        precision = h[i] + np.eye(3) / scale**2
        g, turn = nearby.slope[i], nearby.turn[i]
        linear = g + h[i] @ turn
        mean = np.linalg.solve(precision, linear)
        wanted = linear @ mean / 2 - g @ turn - turn @ h[i] @ turn / 2 - np.linalg.slogdet(precision * scale**2)[1] / 2
        assert log[i] == pytest.approx(wanted, rel=1e-8, abs=1e-8)
        assert angle[i] == pytest.approx(np.sqrt(mean @ mean + np.trace(np.linalg.inv(precision))), rel=1e-8)


def test_what_an_error_leaves_of_the_signal():
    """Against slices of turned poses, compared shell by shell."""
    volume = phantom(BOX)
    backend = CpuBackend(BOX, PIXEL_SIZE, taps=6)
    profile, power = attenuation_profile(volume, backend.plane.shells)
    assert profile.shape == (len(ANGLES), backend.plane.shells) and power.shape == (backend.plane.shells,)
    np.testing.assert_allclose(profile[0], 1, atol=1e-5)
    assert (np.diff(profile, axis=0) <= 0).all() and profile.min() >= 0
    rng = np.random.default_rng(5)
    rotation = Rotation.random(400, random_state=3)
    grid = backend.projection.grid(volume)
    right = backend.projection.forward(grid, rotation.as_matrix())
    shell = backend.plane.shell
    for row in (4, 7, 9):
        axis = rng.normal(size=(400, 3))
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        moved = Rotation.from_rotvec(np.radians(ANGLES[row]) * axis) * rotation
        wrong = backend.projection.forward(grid, moved.as_matrix())
        cross = np.bincount(shell, (right.conj() * wrong).real.sum(axis=0))
        left = cross / np.bincount(shell, np.square(np.abs(right)).sum(axis=0))
        np.testing.assert_allclose(profile[row, 1:12], np.clip(left[1:12], 0, 1), atol=0.06)


def test_angles_are_interpolated():
    degrees = np.array([0.0, 0.25, 5.0, 32.0, 77.0])
    share = between_angles(np.radians(degrees))
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(share @ ANGLES, np.minimum(degrees, 32))
    assert ((share > 0).sum(axis=1) <= 2).all()


def test_what_an_error_leaves_beyond_a_coarse_map_goes_with_angle_times_frequency():
    volume = phantom(32)
    profile, power = attenuation_profile(volume, 24)
    assert profile.shape == (len(ANGLES), 24) and not power[16:].any() and (power[:16] > 0).all()
    held, _ = attenuation_profile(volume, 16)
    np.testing.assert_array_equal(profile[:, :16], held)
    eight = np.flatnonzero(ANGLES == 8)[0]
    k = 18
    np.testing.assert_allclose(profile[eight, k], np.interp(8 * k / 15, ANGLES, held[:, 15]))
    assert (np.diff(profile, axis=0) <= 0).all() and profile[0] == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- a whole run


@pytest.mark.parametrize(("errors", "looks"), [((), [0.25]), (("--error-rate", "0.4", "--error-kind", "small:12"),
                                                              [0.25, 1, 1, 1])])
def test_some_are_looked_at_first_and_all_where_errors_are_found(tmp_path, monkeypatch, errors, looks):
    looked, statistics, nearby = [], Engine.statistics, CpuBackend.nearby

    def counting(engine, *args, **options):
        looked.append(0)
        return statistics(engine, *args, **options)

    def look(backend, reference, batch, *args):
        looked[-1] += len(batch.group)
        return nearby(backend, reference, batch, *args)

    monkeypatch.setattr(Engine, "statistics", counting)
    monkeypatch.setattr(CpuBackend, "nearby", look)
    monkeypatch.setattr("mpirecon.solvers.nearby_schedule.FIRST_SEARCH_AT", 100)
    particles = tmp_path / "particles.h5"
    assert run(["simulate", "--phantom", "--particles", "600", "--box", "24", "--pixel-size", "8", "--snr", "0.15",
                "-q", *errors,
                "-o", str(particles)]) == 0
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "out"), "--loss", "posterior", "-q"]) == 0
    assert [count / 600 for count in looked if count] == pytest.approx(looks, abs=0.06)
    assert looked[0] == 0 and looked[1] > 0


def test_small_errors_are_found_and_make_a_better_map(tmp_path):
    """12° (half-Gaussian) on 40 % of the poses: a single pose's score tells them with an AUC of 0.74."""
    particles, truth = tmp_path / "particles.h5", tmp_path / "truth.mrc"
    assert run(["simulate", "--phantom", "--particles", "1000", "--box", "32", "--pixel-size", "6", "--snr", "0.1",
                "-q",
                "--error-rate", "0.4", "--error-kind", "small:12", "--truth-map", str(truth), "-o",
                str(particles)]) == 0
    quality, summary = {}, {}
    for loss in ("l2", "posterior"):
        out = tmp_path / loss
        assert run(["reconstruct", str(particles), "-o", str(out), "--loss", loss, "-q"]) == 0
        summary[loss] = json.loads((out / "summary.json").read_text())
        quality[loss] = fsc(read_map(out / "volume.mrc").array, read_map(truth).array)[1:16].mean()
    assert summary["posterior"]["detection"]["auc"] > summary["l2"]["detection"]["auc"] + 0.1
    assert quality["posterior"] > quality["l2"] + 0.008
    assert summary["posterior"]["mixture"]["small_errors"] > 0.2
    table = read_particle_table(tmp_path / "posterior" / "particles.h5")
    far, right = table["angular_error"] > 15, table["angular_error"] == 0
    assert not any("left out show the map" in text for text in summary["posterior"]["warnings"])
    assert np.median(table["weight"][far]) < 0.4 < 0.8 < np.median(table["weight"][right])
