"""The global pose search: its parts against brute force, and rejected particles found again."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

import mpirecon as mr
from mpirecon.model.pose import angular_distance, matrix_from_quaternion
from mpirecon.model.symmetry import point_group
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.search import warm
from mpirecon.search.acceptance import (
    Acceptance, Amplitudes, beside_given, by_evidence, log_evidence, log_odds, widening,
)
from mpirecon.search.circular import TurningSlices, largest
from mpirecon.search.decoy import decoy
from mpirecon.search.fine import climb, climb_together, sums_at, turned
from mpirecon.search.orientations import distance, grid, turns, views
from mpirecon.search.peaks import pick, weed
from mpirecon.search.pose_search import Band, Peaks, PoseSearch
from mpirecon.search.searcher import Searcher
from mpirecon.search.slices import cut, derivatives, slice_grid
from mpirecon.validate.fsc import fsc, shell_index
from mpirecon.validate.masks import soft_sphere


def random_quaternions(m, seed=0):
    q = np.random.default_rng(seed).standard_normal((m, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


@pytest.mark.parametrize("group", ["C1", "C3", "D2", "O"])
def test_orientations_cover_every_pose_once(group):
    group, step = point_group(group), 0.25
    found, whole = grid(step, group), grid(step, point_group("C1"))
    assert len(found) == pytest.approx(len(whole) / len(group), rel=0.15)
    asked = random_quaternions(60, 3)
    nearest = [np.radians(group.angular_distance(np.broadcast_to(q, found.shape), found)).min() for q in asked]
    assert max(nearest) < 1.1 * step
    assert [distance(q, whole).min() for q in asked] == pytest.approx(
        [np.radians(angular_distance(np.broadcast_to(q, whole.shape), whole)).min() for q in asked], abs=1e-7)


def test_peaks_are_the_best_with_their_neighbours_weeded():
    q = random_quaternions(400, 1).astype(np.float32)
    scores = np.random.default_rng(2).standard_normal((3, 400)).astype(np.float32)
    angle, chosen = 0.6, np.empty((3, 9), np.int64)
    pick(scores.copy(), q, np.cos(angle / 2), chosen)
    for row, found in zip(scores, chosen):
        left = list(range(400))
        for best in found:
            assert best == max(left, key=lambda i: row[i])
            left = [i for i in left if distance(q[i].astype(float), q[best].astype(float)) >= angle - 1e-3]
    few = np.empty((1, 5), np.int64)
    pick(np.ones((1, 2), np.float32), np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32), 0.9, few)
    assert sorted(few[0]) == [-1, -1, -1, 0, 1]


def test_slices_are_those_of_the_forward_model():
    box, volume = 32, mr.phantom(32, 4.0)
    plane = HalfPlane.of(box, 11.0)
    rotation = matrix_from_quaternion(random_quaternions(5))
    found = np.empty((5, len(plane)), np.complex64)
    cut(slice_grid(volume.array, 11), rotation, plane.kx, plane.ky, found)
    # the transform itself, sample by sample
    r = np.arange(box) - box // 2
    k = np.einsum("mji,jk->mik", rotation, np.stack([plane.kx, plane.ky, 0 * plane.kx]).astype(float))
    for i in range(5):
        x, y, z = (np.exp(-2j * np.pi / box * np.outer(k[i, axis], r)) for axis in range(3))
        exact = np.einsum("sz,sy,sx,zyx->s", z, y, x, volume.array.astype(float), optimize=True) / box
        assert np.linalg.norm(found[i] - exact) < 0.03 * np.linalg.norm(exact)


def a_case(seed=0, box=32, limit=11.0):
    rng, plane = np.random.default_rng(seed), HalfPlane.of(box, limit)
    s = len(plane)
    data = (rng.standard_normal(s) + 1j * rng.standard_normal(s)).astype(np.complex64)
    on_cross = rng.uniform(0.3, 1, s).astype(np.float32)
    return plane, data, on_cross, on_cross**2, slice_grid(mr.phantom(box, 4.0).array, int(limit) + 1)


@pytest.mark.parametrize("magnification", [np.eye(2), np.array([[1.04, -0.03], [0.01, 0.97]])])
def test_derivatives_are_those_of_finite_differences(magnification):
    plane, data, on_cross, on_model, volume = a_case()
    q, shift = random_quaternions(1, 5)[0], np.array([0.7, -1.2])

    def at(q, shift):
        out, gradient, cross, hessian = np.empty(2), np.empty(5), np.empty(5), np.empty((5, 5))
        derivatives(
            volume,
            matrix_from_quaternion(q[None])[0],
            magnification,
            shift,
            32,
            plane.kx,
            plane.ky,
            len(plane),
            data,
            on_cross,
            on_model,
            out,
            gradient,
            cross,
            hessian,
        )
        return out, gradient, cross, hessian

    here, gradient, cross, hessian = at(q, shift)
    assert np.linalg.eigvalsh(hessian).min() > 0
    step, numeric = 2e-4, np.empty((5, 2))
    for j in range(5):
        change = np.eye(5)[j] * step
        numeric[j] = (
            at(turned(q, change[:3]), shift + change[3:])[0] - at(turned(q, -change[:3]), shift - change[3:])[0]
        ) / (2 * step)
    # the interpolation is linear in pieces: the derivative jumps at their bounds
    np.testing.assert_allclose(gradient, numeric[:, 0], atol=0.02 * np.abs(numeric[:3, 0]).max())
    np.testing.assert_allclose(2 * cross, numeric[:, 1], atol=0.02 * np.abs(numeric[:, 1]).max())
    np.testing.assert_allclose(gradient[3:], numeric[3:, 0], rtol=1e-3)


@pytest.mark.parametrize("moves", [True, False])
def test_a_step_solves_the_normal_equations(moves):
    plane, _, on_cross, on_model, volume = a_case()
    q, data = random_quaternions(1, 5), np.empty((1, len(plane)), np.complex64)
    cut(volume, matrix_from_quaternion(turned(q[0], np.full(3, 0.02))[None]), plane.kx, plane.ky, data)
    size, precision, shift = (5 if moves else 3), np.array([3.0, 5.0, 2.0, 0.7, 0.4]), np.array([[0.1, -0.2]])
    given = volume, 32, plane.kx, plane.ky
    image = data[0] * on_cross, on_cross, on_model, np.eye(2)
    sums, gradient, cross, hessian = sums_at(*given, *image, q[0], shift[0])
    amplitude = sums[0] / sums[1]
    left = amplitude**2 * (hessian + np.diag(1e-3 * np.diag(hessian))) + np.diag(precision)
    step = np.zeros(5)
    step[:size] = np.linalg.solve(left[:size, :size], (amplitude * gradient - amplitude**2 * cross)[:size])
    assert 0.2 < amplitude and 0.01 < np.linalg.norm(step[:3]) < 0.15 and np.linalg.norm(step[3:]) < 2
    expected = turned(q[0], step[:3]), shift[0] + step[3:]
    climb(*given, len(plane), *image, moves, precision, q, shift, np.empty((1, 2)), np.empty((1, 5, 5)), 1)
    np.testing.assert_allclose(q[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(shift[0], expected[1], atol=1e-9)


def test_the_coarse_search_is_that_of_brute_force():
    plane, data, on_cross, on_model, _ = a_case(limit=15.0)
    search = PoseSearch(mr.phantom(32, 4.0).array, plane, 19.0, 12, point_group("C1"), 1.0)
    data, on_cross, on_model = (np.stack([a, a[::-1]])[:, search.band.order] for a in (data, on_cross, on_model))
    where, offset = search.coarse(data, on_cross, on_model, random_quaternions(2))
    k = search.band.kx[: search.band.coarse], search.band.ky[: search.band.coarse]
    slices = np.empty((len(search.orientations), search.band.coarse), np.complex64)
    cut(search.grid, matrix_from_quaternion(search.orientations), *k, slices)
    assert len(search.offsets) > 8 and not search.offsets[0].any()
    crosses = search.slices(lambda s: s.best(data[:, : len(k[0])] * on_cross[:, : len(k[0])], search.ramps)[0])
    powers = search.slices(lambda s: s.power(on_model[:, : len(k[0])]))
    for i in range(2):
        best = np.full(len(slices), -np.inf)
        for t in search.offsets:
            moved = data[i, : len(k[0])] * np.exp(2j * np.pi / 32 * (t[0] * k[0] + t[1] * k[1]))
            cross = (on_cross[i, : len(k[0])] * (slices.conj() * moved).real).sum(axis=1)
            best = np.maximum(best, cross / np.sqrt((on_model[i, : len(k[0])] * np.abs(slices) ** 2).sum(axis=1)))
        # slices are interpolated at other places: as far as the interpolation itself is off, not further
        assert np.sqrt(np.mean((crosses[i] / np.sqrt(powers[i]) - best) ** 2)) < 0.05 * best.std()
        assert best[where[i, 0]] > 0.98 * best.max()
        t = offset[i, 0]
        moved = data[i, : len(k[0])] * np.exp(2j * np.pi / 32 * (t[0] * k[0] + t[1] * k[1]))
        cross = (on_cross[i, : len(k[0])] * (slices[where[i, 0]].conj() * moved).real).sum()
        power = (on_model[i, : len(k[0])] * np.abs(slices[where[i, 0]]) ** 2).sum()
        assert cross / np.sqrt(power) == pytest.approx(best[where[i, 0]], rel=1e-4)


def test_slices_at_every_turn_are_those_of_turned_poses():
    plane, data, on_cross, on_model, grid_of_map = a_case(1)
    order = np.argsort(np.hypot(plane.kx, plane.ky), kind="stable")[3:]  # nothing at the origin
    k, y = (plane.kx[order], plane.ky[order]), (data * on_cross)[None, order]
    seen, around = views(0.9, point_group("D2")), turns(0.7)
    every = grid(0.9, point_group("D2")).reshape(len(seen), -1, 4)
    np.testing.assert_allclose(every[:, 0], seen, atol=1e-12)
    some = np.stack([[turned(q, np.array([0, 0, angle])) for angle in around] for q in seen]).reshape(-1, 4)
    slices = np.empty((len(some), len(order)), np.complex64)
    cut(grid_of_map, matrix_from_quaternion(some), *k, slices)
    ramps = np.exp(2j * np.pi / 32 * np.outer([0.0, 1.5], k[0])).astype(np.complex64)
    search = TurningSlices(grid_of_map, *k, 0.5, seen, around)
    best, which = search.best(y, ramps)
    exact = np.stack([((y * ramp) @ slices.conj().T).real[0] for ramp in ramps])
    np.testing.assert_allclose(best[0], exact.max(axis=0), atol=0.06 * exact.std())
    assert (which[0] == exact.argmax(axis=0))[np.abs(exact[0] - exact[1]) > 0.15 * exact.std()].all()
    np.testing.assert_allclose(search.power(on_model[None, order])[0], np.abs(slices) ** 2 @ on_model[order], rtol=0.05)


def test_bands_leave_the_background_out_and_grow():
    plane = HalfPlane.of(64)
    band = Band.of(plane, 38.0, 27)
    radius = np.hypot(band.kx, band.ky)
    assert band.reach == 19 and radius.min() >= 0.5 and radius.max() <= 27
    assert radius[: band.coarse].max() <= 19 < radius[band.coarse] and band.coarse < band.middle < len(radius)


def test_evidence_is_the_integral_over_pose_and_amplitude():
    """Of a likelihood that is normal in the pose, by sums over a fine grid of turns and amplitudes."""
    amplitudes, power, curvature = Amplitudes(1.0, 0.2), 30.0, 900.0
    peaks = Peaks(random_quaternions(1)[:, None], np.zeros((1, 1, 2)), np.array([[28.0]]), np.array([[power]]),
                  curvature * np.eye(5)[None, None], np.ones((1, 1), bool))
    found, share = log_evidence(peaks, amplitudes, 0.0, 1)
    a = np.linspace(-1, 3, 2001)
    of_amplitude = np.log(trapezoid(np.exp(28 * a - a**2 * power / 2 - (a - 1) ** 2 / 0.08) / np.sqrt(2 * np.pi * 0.04),
                                    a))
    best = float(amplitudes.best(np.array(28.0), np.array(power)))
    of_turn = 1.5 * np.log(2 * np.pi / (best**2 * curvature)) - np.log(8 * np.pi**2)
    assert found[0] == pytest.approx(of_amplitude + of_turn, abs=1e-6) and share[0] == 1
    four, _ = log_evidence(peaks, amplitudes, 0.0, 4)
    assert four[0] - found[0] == pytest.approx(np.log(4))


def test_amplitudes_are_measured_without_the_noise():
    rng = np.random.default_rng(0)
    power, a = rng.uniform(20, 80, 5000), rng.normal(0.9, 0.2, 5000)
    found = Amplitudes.of(a * power + np.sqrt(power) * rng.standard_normal(5000), power)
    assert found.mean == pytest.approx(0.9, abs=0.02) and found.sigma == pytest.approx(0.2, abs=0.03)


def test_the_prior_of_offsets_decides_between_peaks_that_fit_alike():
    same = np.ones((1, 2))
    peaks = Peaks(random_quaternions(2)[None], np.array([[[6.0, 0.0], [0.5, 0.0]]]), 25.0 * same, 25.0 * same,
                  np.tile(100 * np.eye(5), (1, 2, 1, 1)), same.astype(bool))
    order = by_evidence(peaks, Amplitudes(1.0, 0.2), 2.5, 1)
    assert order.tolist() == [[1, 0]]
    assert peaks.ordered(order).offset[0, 0].tolist() == [0.5, 0.0]
    shares = [log_evidence(p, Amplitudes(1.0, 0.2), 2.5, 1)[1][0] for p in (peaks, peaks.ordered(order))]
    assert shares[1] > 0.9 and sum(shares) == pytest.approx(1)


def test_odds_are_against_other_peaks_and_everything_else():
    evidence, share = np.log(np.array([9.0, 9.0, 1e-6])), np.array([1.0, 2 / 3, 1.0])
    np.testing.assert_allclose(log_odds(evidence, share), np.log([9.0, 6.0 / (1 + 3.0), 1e-6]), rtol=1e-9)
    assert log_odds(np.array([-np.inf]), np.array([0.0]))[0] == -30


def test_a_found_pose_and_the_given_one_share_their_probability():
    rng = np.random.default_rng(3)
    right, elsewhere = rng.uniform(0.01, 0.99, 500), rng.uniform(1e-7, 1e-6, 500)  # the best is one pose of very many
    given_if, given_else, found_if, found_else = rng.uniform(0.1, 9, (4, 500))  # likelihoods of what both measured
    found_if *= 10 ** rng.uniform(4, 9, 500)
    weights = np.stack([right * given_if * found_else, (1 - right) * elsewhere * given_else * found_if,
                        (1 - right) * (1 - elsewhere) * given_else * found_else])
    expected = weights / weights.sum(axis=0)
    g = right * given_if / (right * given_if + (1 - right) * given_else)
    p = elsewhere * found_if / (elsewhere * found_if + (1 - elsewhere) * found_else)
    np.testing.assert_allclose(beside_given(p, g, np.zeros(500, bool)), expected[1], rtol=1e-5)
    np.testing.assert_array_equal(p > g, expected[1] > expected[0])
    np.testing.assert_allclose(beside_given(p, g, np.ones(500, bool)), 1 - (1 - p) * (1 - g), rtol=1e-9)
    assert beside_given(np.ones(1), np.ones(1), np.zeros(1, bool))[0] == 0  # and no division by nothing


def test_theorys_odds_are_corrected_as_usual_where_decoys_are_noise():
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.6
    odds = np.where(right, rng.normal(9, 4, 2000), rng.normal(-6, 2.5, 2000))
    acceptance = Acceptance.of(odds, rng.normal(-6, 2.5, 200), np.arange(200))
    x = np.array([-2.0, 0.1, 2.0, 5.0])
    np.testing.assert_allclose(acceptance(x), 1 / (1 + np.exp(-(0.25 + 0.65 * x))), atol=0.02)
    # what decoys take off, they take off that
    reached = Acceptance.of(odds, rng.normal(9, 4, 200), np.arange(200))
    assert reached.laws["control"] == acceptance.laws["control"] and (reached(x) < 0.1 * acceptance(x)).all()


def test_no_pose_is_accepted_where_decoys_fit_as_well():
    rng = np.random.default_rng(1)
    for _ in range(4):
        odds = rng.normal(25, 8, 600)
        p = Acceptance.of(odds, rng.normal(25, 8, 200), np.arange(200))(odds)
        assert (p > 0.5).mean() < 0.05
    # half of them stand out above what decoys reach
    odds = np.concatenate([rng.normal(20, 5, 500), rng.normal(60, 6, 500)])
    p = Acceptance.of(odds, rng.normal(20, 5, 300), np.arange(0, 900, 3))(odds)
    assert p[500:].mean() > 0.95 and (p[:500] > 0.5).mean() < 0.05
    assert (Acceptance.of(odds, np.zeros(3), np.arange(3))(odds) > 0.9).all()  # too few decoys to say anything


def test_control_particles_that_do_not_come_back_lower_the_probabilities():
    rng = np.random.default_rng(2)
    known = rng.uniform(-4, 12, 3000)
    right = rng.random(3000) < 1 / (1 + np.exp(-(0.5 * known - 1)))
    back = right & (rng.random(3000) > 0.02)  # the given pose of some is wrong after all
    acceptance = Acceptance.of(known, np.full(100, -9.0), np.arange(100), known, back)
    p = acceptance(known)
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 0.99)):
        some = (p >= low) & (p < high)
        assert right[some].mean() == pytest.approx(p[some].mean(), abs=0.05)


def test_a_decoy_has_the_power_of_the_map_in_its_mask_and_nothing_else_of_it():
    volume, mask = mr.phantom(48, 4.0).array, soft_sphere(48, 16.0, 4.0)
    volume = volume * mask
    other = decoy(volume, mask, np.random.default_rng(0))
    shell = shell_index(48, 3)
    power = [np.bincount(shell.ravel(), (np.abs(np.fft.rfftn(v)) ** 2).ravel())[:20] for v in (volume, other)]
    np.testing.assert_allclose(power[1], power[0], rtol=0.02)
    assert (other[mask == 0] ** 2).sum() < 0.05 * (other**2).sum()
    assert np.abs(fsc(volume, other)[3:20]).mean() < 0.25


@pytest.fixture(scope="module")
def searched():
    particles = mr.simulate(mr.phantom(32, 6.0), 600, snr=0.3, error_rate=0.3, junk_rate=0.1, noise_cv=0.15, seed=2)
    result = mr.reconstruct(particles, loss="posterior")
    return particles, result, mr.search_poses(particles, result)


def errors(particles, table):
    return angular_distance(table["quaternion"], particles.truth["true_quaternion"][table["id"]])


def test_rejected_particles_are_found_again(searched):
    particles, result, table = searched
    np.testing.assert_array_equal(table["id"], np.flatnonzero(~result.kept))
    junk, off = particles.truth["junk"][table["id"]], errors(particles, table)
    wrong = particles.truth["pose_error"][table["id"]] & ~junk
    accepted = table["probability"] > 0.9
    assert (off[wrong] < 8).mean() > 0.93
    assert accepted[wrong].mean() > 0.85 and (off[accepted] < 8).mean() > 0.97
    assert not accepted[junk].any()
    assert (
        np.isfinite(table["angle_sigma"]).all()
        and 0.5 < np.median(off[wrong & accepted] / table["angle_sigma"][wrong & accepted]) < 3
    )
    given = particles.table["quaternion"][table["id"]]
    np.testing.assert_allclose(table["moved"], angular_distance(table["quaternion"], given), atol=1e-6)


def test_found_particles_make_a_better_map(searched):
    particles, result, table = searched
    found = particles.with_poses(table[table["probability"] > 0.9])
    assert found.truth["pose_error"].sum() < 0.5 * particles.truth["pose_error"].sum()
    again, truth = mr.reconstruct(found, loss="posterior"), mr.phantom(32, 6.0)
    assert again.kept.sum() > result.kept.sum() + 100
    better = mr.fsc(again.volume, truth).values[1:].mean() - mr.fsc(result.volume, truth).values[1:].mean()
    assert better > 0.002
    untouched = ~np.isin(np.arange(len(particles)), table["id"])
    np.testing.assert_array_equal(found.table["quaternion"][untouched], particles.table["quaternion"][untouched])


def test_offsets_are_found_too(searched):
    particles, result, table = searched
    rows = table["id"][~particles.truth["junk"][table["id"]]][:40]
    planted = np.random.default_rng(0).normal(0, 9.0, (len(rows), 2))  # Å, 1.5 pixels
    spoilt = np.zeros(len(rows), table.dtype)
    spoilt["id"], spoilt["quaternion"] = rows, particles.table["quaternion"][rows]
    spoilt["shift"] = particles.table["shift"][rows] + planted
    moved = particles.with_poses(spoilt)
    found = mr.search_poses(moved, result, rows, offset_sigma=9.0)
    right = errors(particles, found) < 8
    assert right.mean() > 0.8
    left = found["shift"] - particles.table["shift"][rows]
    assert np.median(np.abs(left[right])) < 1.0 < np.median(np.abs(planted))


def test_a_search_knows_the_symmetry():
    half = mr.phantom(24, 6.0).array
    both = mr.Volume(half + np.roll(half[:, ::-1, ::-1], (1, 1), axis=(1, 2)), 6.0)
    particles = mr.simulate(both, 400, snr=0.5, error_rate=0.3, seed=3)
    result = mr.reconstruct(particles, loss="posterior", symmetry="C2")
    table = mr.search_poses(particles, result)
    off = point_group("C2").angular_distance(table["quaternion"], particles.truth["true_quaternion"][table["id"]])
    assert len(table) > 80 and (off < 10).mean() > 0.85


def test_noise_is_refused(searched):
    noise = mr.simulate(mr.phantom(24, 6.0), 200, snr=0.0005, error_rate=0.3)
    with pytest.raises(mr.UserError, match="half maps .* agree .*a pose search needs"):
        mr.search_poses(noise, mr.reconstruct(noise))
    particles, result, _ = searched
    with pytest.raises(mr.UserError, match="200"):
        mr.search_poses(noise, result)
    with pytest.raises(mr.UserError, match="offset_sigma is -1"):
        mr.search_poses(particles, result, offset_sigma=-1)


def test_premultiplied_and_inverted_images_are_searched_alike():
    options = dict(snr=0.5, error_rate=0.3, seed=5)
    plain = mr.simulate(mr.phantom(24, 6.0), 300, **options)
    times_ctf = mr.simulate(mr.phantom(24, 6.0), 300, ctf_premultiplied=True, **options)
    about = plain.metadata()
    black = mr.Particles(-plain.images(), about.pose, about.ctf, pixel_size=6.0, half=about.half, contrast="black")
    rows = np.flatnonzero(plain.truth["pose_error"])[:40]
    found = [mr.search_poses(p, mr.reconstruct(p, loss="posterior"), rows) for p in (plain, times_ctf, black)]
    for table in found:
        assert (errors(plain, table) < 10).mean() > 0.85
    np.testing.assert_allclose(found[2]["score"], found[0]["score"], rtol=1e-3)


def test_widths_are_those_of_the_errors():
    rng = np.random.default_rng(0)
    of_two, of_three = (np.square(rng.standard_normal((4000, axes))).sum(axis=1) for axes in (2, 3))
    assert widening(of_three, 3) == pytest.approx(1, abs=0.03) and widening(of_two, 2) == pytest.approx(1, abs=0.03)
    assert widening(1.5**2 * of_three, 3) == pytest.approx(1.5, abs=0.04)
    lapses = np.concatenate([of_three, np.full(200, 1e4)])
    assert widening(lapses, 3) < 1.1
    assert widening(0.5 * of_three, 3) == 1 and widening(100 * of_three[:20], 3) == 1


def test_noise_about_the_particle_is_cut_away():
    n, plane = 32, HalfPlane.of(32)
    searcher = Searcher(plane, 4.0, False, np.ones((1, plane.shells)), point_group("C1"), 24.0, 10, 0.0, 0.0,
                        Amplitudes(1.0, 0.2))
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    particle = (radius < 6).astype(np.float32)
    noise = 0.1 * np.random.default_rng(1).standard_normal((n,) * 3).astype(np.float32)
    found = searcher.focused(particle + noise)
    np.testing.assert_allclose(found[radius < 5], (particle + noise)[radius < 5], atol=1e-5)
    assert not found[radius > 11].any() and (noise * searcher.mask(n))[radius > 11].any()
    # where nothing stands out the sphere is all there is
    np.testing.assert_array_equal(searcher.focused(noise), noise * searcher.mask(n))


def test_kernels_are_compiled_for_what_a_search_takes():
    for name in warm.steps(True, False) + warm.steps(False, True):
        module, function = name.split(":")
        assert module == warm.__name__
        getattr(warm, function)()
    kernels = cut, derivatives, weed, climb, climb_together, largest
    before = [kernel.variants for kernel in kernels]
    assert min(before) > 0
    volume, plane = mr.phantom(24, 6.0).array, HalfPlane.of(24)
    data, weight = np.ones((3, len(plane)), np.complex64), np.ones((3, len(plane)), np.float32)
    for offset in (0.0, 1.0):
        search = PoseSearch(np.ascontiguousarray(volume, np.float32), plane, 14.0, 8, point_group("C1"), offset)
        search.search(data, weight, weight, random_quaternions(3))
    assert [kernel.variants for kernel in kernels] == before
