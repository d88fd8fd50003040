"""What is selected by the mixture of poses: weights, groups, and what to do where nothing can be told apart."""

import numpy as np
import pytest
from evidence import draw, draw_small_errors
from test_pose_mixture import COMM

from mpirecon.robust.distances import EXPLAINED
from mpirecon.robust.evidence import Evidence
from mpirecon.robust.mixture_model import CORRECT, JUNK
from mpirecon.robust.nearby import ANGLES, NearbyPoses
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.select import can_be_followed, select
from mpirecon.robust.selection import AUTO, RandomPoses
from mpirecon.robust.statistics import Statistics
from mpirecon.validate.detection import auc

def statistics_of(evidence, noise=1.0, seed=0):
    """Statistics whose evidence this is, of particles with this noise power (m,) and 2000 samples a band."""
    samples = np.full(evidence.t.shape[1], 2000.0)
    variance = np.broadcast_to(noise, len(evidence.t))[:, None]
    pp, yp = evidence.a**2 * variance, evidence.t * evidence.a * variance
    residual = variance * np.random.default_rng(seed).chisquare(samples, evidence.t.shape)
    return Statistics(np.stack([residual + 2 * yp - pp, yp, pp], axis=2), samples)


def selected(drawn, valid=None, noise=1.0, random_poses=None, **options):
    m = len(drawn.kind)
    valid = np.ones(m, bool) if valid is None else valid
    random_poses = random_poses or RandomPoses(np.arange(m), statistics_of(drawn.random, noise))
    options = {"loss": "posterior", "distance": EXPLAINED, "random_poses": random_poses, **options}
    return select(COMM, statistics_of(drawn.own, noise), np.arange(m), valid, **options)


def test_evidence_is_in_standard_deviations():
    drawn = draw(50, 0.3)
    noise = np.random.default_rng(1).uniform(0.5, 2, 50)
    evidence = Evidence.of(statistics_of(drawn.own, noise).sums, noise[:, None] * np.ones(6))
    np.testing.assert_allclose(evidence.a, drawn.own.a)
    np.testing.assert_allclose(evidence.t, drawn.own.t, atol=1e-12)
    empty = Evidence.of(np.zeros((2, 3, 3)), np.ones((2, 3)))
    assert not empty.a.any() and not empty.t.any()


def test_the_posterior_weighs_by_noise_and_knows_contrasts():
    drawn = draw(3000, 0.3, seed=2)
    noise = np.exp(np.random.default_rng(3).normal(0, 0.3, 3000))
    chosen = selected(drawn, noise=noise)
    good = drawn.kind == CORRECT
    assert np.mean(chosen.kept == good) > 0.98 and auc(chosen.distance, ~good) > 0.995
    assert (chosen.kept == (chosen.posterior >= 0.5)).all()
    weighed = chosen.posterior > 0.99
    product = (chosen.weight * noise)[weighed]
    np.testing.assert_allclose(product, np.median(product), rtol=0.2)
    assert (chosen.contrast2 > chosen.contrast**2).all()
    assert chosen.mixture_.keep_ == pytest.approx(good.mean(), abs=0.02)


def test_what_is_rejected_counts_by_the_rest_of_its_probability():
    """To the millionth, below which it is not added at all."""
    drawn = draw(3000, 0.3, strength=16.0, seed=2)
    valid = np.arange(3000) % 50 > 0
    chosen = selected(drawn, valid)
    sigma = particle_sigma(COMM, statistics_of(drawn.own), valid)
    rejected = valid & ~chosen.kept
    negligible = chosen.posterior < 1e-6
    assert (rejected & negligible).sum() > 10 < (rejected & ~negligible).sum()
    assert not chosen.weight[negligible | ~valid].any() and not chosen.kept[~valid].any()
    counted = valid & ~negligible
    np.testing.assert_allclose(chosen.weight[counted], (chosen.posterior / sigma**2)[counted], rtol=1e-9)


def test_where_nothing_can_be_distinguished_all_are_kept():
    drawn = draw(2000, 0.4, strength=1, seed=4)
    chosen = selected(drawn)
    assert not chosen.mixture_.separable_
    assert chosen.kept.all() and (chosen.posterior == 1).all()
    np.testing.assert_allclose(chosen.weight, 1)
    assert (chosen.contrast == 1).all() and (chosen.contrast2 == 1).all()
    by_rank = selected(drawn, loss="sorted", keep=AUTO)
    assert by_rank.kept.all() and not by_rank.mixture_.separable_


def test_on_its_way_a_graduated_schedule_follows_a_mixture_that_cannot_distinguish_them_yet():
    drawn = draw(2000, 0.4, strength=1, seed=4)
    chosen = selected(drawn, relaxation=0.2)
    assert not chosen.mixture_.separable_ and np.ptp(chosen.posterior) > 0.2
    good = drawn.kind == CORRECT
    assert chosen.weight[good].mean() > 1.2 * chosen.weight[~good].mean()
    by_rank = selected(drawn, loss="sorted", keep=AUTO, relaxation=0.2)
    assert by_rank.kept.mean() == pytest.approx(by_rank.mixture_.keep_, abs=1e-3)


def test_no_good_particle_is_none_to_follow():
    drawn = draw(200, 0.4, strength=1, seed=4)
    mixture = selected(drawn).mixture_
    mixture.separable_, mixture.posterior_ = False, np.full(200, 1e-4)
    assert not can_be_followed(COMM, mixture, relaxation=0.5)
    mixture.posterior_ = np.full(200, 1e-2)
    assert can_be_followed(COMM, mixture, relaxation=0.5) and not can_be_followed(COMM, mixture, relaxation=0)


def test_sorted_keeps_the_share_that_the_mixture_finds():
    drawn = draw(4000, 0.3, seed=5)
    chosen = selected(drawn, loss="sorted", keep=AUTO)
    assert chosen.kept.sum() == np.ceil(chosen.mixture_.keep_ * 4000) == chosen.keep_ * 4000
    assert chosen.n_iter_ == chosen.mixture_.n_iter_ > 1
    assert chosen.kept.mean() == pytest.approx(np.mean(drawn.kind == CORRECT), abs=0.02)
    assert set(np.unique(chosen.weight)) == {0.0, 1.0}
    given = selected(drawn, loss="sorted", keep=0.25)
    assert given.kept.sum() == 1000 and given.mixture_ is None


def test_a_share_given_to_the_posterior_is_obeyed():
    drawn = draw(3000, 0.3, seed=6)
    assert selected(drawn, keep=0.4).mixture_.keep_ == pytest.approx(0.4)
    assert selected(drawn, keep=AUTO).mixture_.keep_ == selected(drawn).mixture_.keep_


def test_random_poses_belong_to_their_rows():
    """Each keeps its own noise, whichever rows they are; those of invalid particles are not looked at."""
    drawn = draw(3000, 0.3, seed=7)
    noise = np.exp(np.random.default_rng(3).normal(0, 0.4, 3000))
    valid = np.arange(3000) % 5 != 0
    rows = np.arange(1000, 3000, 2)
    full = statistics_of(drawn.random, noise)
    random = RandomPoses(rows, Statistics(full.sums[rows], full.samples))
    some = selected(drawn, valid, noise, random)
    assert not some.weight[~valid].any() and not some.kept[~valid].any() and not some.posterior[~valid].any()
    everybody = selected(drawn, valid, noise)
    assert some.mixture_.keep_ == pytest.approx(everybody.mixture_.keep_, abs=0.01)
    random.statistics.sums[~valid[rows]] = 1e9
    np.testing.assert_array_equal(selected(drawn, valid, noise, random).posterior, some.posterior)


def test_an_image_of_negative_contrast_is_not_added_upside_down():
    """Unless it is surely so: then its sign is turned."""
    chosen = selected(draw(3000, 0.3, contrast_cv=0.5, seed=9))
    assert chosen.mixture_.contrast_.min() < 0
    assert (chosen.contrast >= 0)[~chosen.contradicts].all() and 0 < chosen.contradicts.sum() < 60


def nearby_of(small, found, noise):
    """NearbyPoses that say the same: a parabola of 2000 per square radian about the turns found."""
    m, bands = small.best.t.shape
    nearby = NearbyPoses.empty(m, bands, 9)
    nearby.turn[:] = found
    nearby.sums[:] = np.stack([small.best.t * small.best.a, small.best.a**2], axis=2) * noise
    nearby.curvature[:, [0, 3, 5]] = 2000 * noise
    nearby.profile[:] = np.exp(-np.outer(np.radians(ANGLES), np.arange(9)))
    nearby.band_profile[:] = np.exp(-np.outer(np.radians(ANGLES), np.arange(bands)))
    return nearby


def test_small_errors_count_at_the_frequencies_where_they_are_right():
    drawn, small, turned = draw_small_errors(4000, 0.2, 0.4, seed=5)
    squared = -(small.log_integral[:, 0] + 1.5 * np.log(6.0)) * 12 / 2000  # of the turns found
    found = np.sqrt(squared)[:, None] * [1, 0, 0]
    chosen = selected(drawn, nearby=nearby_of(small, found, 1.0))
    first, second = (chosen.weight[:, None] * expected for expected in chosen.expected_contrast(np.arange(4000)))
    assert first.shape == second.shape == (4000, 9) and (second >= first**2 - 1e-9).all()
    far = turned & (squared > 0.15**2)
    good = (drawn.kind == CORRECT) & ~turned
    assert np.median(chosen.posterior[far]) < 0.01 and (chosen.weight[far] > 0).all()
    # like the profile of their angles: e^(-k·angle), 0.2 to 0.3 of the amplitude at k = 8, all of it at k = 0
    assert np.median(first[far, 8] / first[far, 0]) == pytest.approx(
        np.exp(-8 * np.median(np.sqrt(squared[far]))), abs=0.05
    )
    assert np.median(first[far, 0]) == pytest.approx(1, abs=0.15)
    assert np.median(first[good, 8]) > 0.85 and np.median(first[drawn.kind == JUNK]) < 0.05
    # and their weight says how much of them counts
    left = (np.exp(-np.outer(np.sqrt(squared[far]), np.arange(9))) ** 2).mean(axis=1)
    assert np.median(chosen.weight[far]) == pytest.approx(np.median(left), abs=0.05)
    assert np.median(chosen.weight[good]) > 0.85 and np.median(chosen.weight[drawn.kind == JUNK]) < 0.01


def test_groups_are_selected_whole():
    drawn = draw(2000, 0.4, strength=2.5, per_group=10, seed=8)
    chosen = selected(drawn, groups=drawn.group)
    assert chosen.mixture_.separable_
    assert (np.ptp(chosen.kept.reshape(-1, 10).astype(int), axis=1) == 0).all()


def test_an_inverted_image_is_not_looked_for_nearby():
    """The best pose near its own explains it least upside down; it is judged where it is, with its sign turned."""
    drawn, small, _ = draw_small_errors(300, 0.2, 0.4, seed=5)
    nearby = nearby_of(small, np.full((300, 3), 0.2), 1.0)
    own, rows = statistics_of(drawn.own, np.ones(300)), np.arange(300) % 7 == 0
    at_own = nearby.at_own(rows, own)
    assert not at_own.turn[rows].any() and not at_own.slope[rows].any() and (at_own.turn[~rows] == 0.2).all()
    np.testing.assert_array_equal(at_own.sums[rows], own.sums[rows][:, :, 1:])
    np.testing.assert_array_equal(at_own.sums[~rows], nearby.sums[~rows])
