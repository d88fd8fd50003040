"""The mixture of well posed, wrongly posed and junk:
what it finds in evidence of its own making, and when it declines."""

from functools import lru_cache

import numpy as np
import pytest
from evidence import draw, draw_small_errors
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.evidence import Evidence
from mpirecon.robust.mixture_model import CONTRAST_PRIOR, CORRECT, JUNK, SMALL, WRONG
from mpirecon.robust.pose_mixture import SMALLEST_SEPARATION, PoseMixture
from mpirecon.validate.detection import auc

COMM = SerialCommunicator()
SHARES_OF_BAD = [0, 0.1, 0.3, 0.5, 0.8]


def fitted(drawn, keep=None, grouped=False, mixture=PoseMixture):
    rows = np.arange(len(drawn.kind))
    return mixture(keep).fit(COMM, drawn.own, drawn.random, rows, drawn.group if grouped else None)


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("contrast_cv", [0.02, 0.2])
@pytest.mark.parametrize("bad", SHARES_OF_BAD)
def test_the_share_of_the_good_is_found_within_two_points(bad, contrast_cv):
    for seed in range(3):
        drawn = draw(6000, bad, contrast_cv=contrast_cv, seed=seed)
        mixture = fitted(drawn)
        assert mixture.separable_
        assert mixture.keep_ == pytest.approx(np.mean(drawn.kind == CORRECT), abs=0.02)
        assert mixture.keep_ == mixture.shares_[CORRECT] and mixture.shares_.sum() == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 0.8), st.floats(0, 1), st.floats(7, 20), st.floats(0.02, 0.3), st.floats(0.6, 1.4),
    st.integers(0, 10**6),
)
def test_the_share_is_found_whatever_the_rest(bad, junk, strength, contrast_cv, gain, seed):
    drawn = draw(3000, bad, junk=junk, strength=strength / gain, contrast_cv=contrast_cv, gain=gain, seed=seed)
    assert fitted(drawn).keep_ == pytest.approx(np.mean(drawn.kind == CORRECT), abs=0.02)


@pytest.mark.parametrize("bad", SHARES_OF_BAD)
def test_the_interval_covers_the_truth(bad):
    """95 % are promised with the other parameters known; estimated along they leave about 90 % (36 ± 2 of 40)."""
    covered, widths = 0, []
    for seed in range(40):
        low, high = fitted(draw(1500, bad, seed=seed)).keep_interval_
        covered += low <= 1 - bad <= high
        widths.append(high - low)
    assert covered >= 33
    # no estimate of a share from 1500 draws is better than counting them, and this one is hardly worse
    counting = 2 * 1.96 * np.sqrt(bad * (1 - bad) / 1500)
    assert 0.95 * counting < np.mean(widths) < 1.15 * counting + 0.004


def test_a_set_without_wrong_poses_is_not_split_in_two():
    """A free mixture would: the good differ in contrast, and two Gaussians fit better than one."""
    for seed in range(5):
        drawn = draw(4000, 0, contrast_cv=0.3, seed=seed)
        mixture = fitted(drawn)
        assert mixture.keep_ > 0.995 and mixture.keep_interval_[1] == 1
        assert np.mean(mixture.posterior_ > 0.5) > 0.995


def test_junk_is_not_taken_for_wrong_poses():
    """Both are bad; they are told apart where wrong poses still look like the map a little."""
    drawn = draw(20000, 0.4, junk=0.5, strength=25, seed=1)
    assert fitted(drawn).shares_ == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


@pytest.mark.parametrize("keep", [0.3, 0.7, 1.0])
def test_a_share_that_is_given_is_obeyed(keep):
    mixture = fitted(draw(3000, 0.3), keep)
    assert mixture.keep_ == pytest.approx(min(keep, 0.9998))
    assert mixture.shares_.sum() == pytest.approx(1) and (mixture.shares_ > 0).all()


# ---------------------------------------------------------------- posteriors and parameters


@lru_cache
def large():
    """Many particles with an overlap of good and bad that leaves something to be uncertain about."""
    drawn = draw(40000, 0.4, strength=4.5, seed=7)
    return drawn, fitted(drawn)


def test_the_posterior_is_calibrated():
    """Of the particles with posterior p, a share p is well posed."""
    drawn, mixture = large()
    good = drawn.kind == CORRECT
    bins = np.minimum((10 * mixture.posterior_).astype(int), 9)
    assert (np.bincount(bins, minlength=10) > 100).all()
    for b in range(10):
        said, is_so = mixture.posterior_[bins == b].mean(), good[bins == b].mean()
        chance = np.sqrt(said * (1 - said) / (bins == b).sum())
        assert abs(is_so - said) < 4 * chance + 0.02, (b, said, is_so)


def test_the_score_sorts_like_the_posterior_and_better_than_the_sum_of_evidence():
    drawn, mixture = large()
    order = np.argsort(mixture.score_)
    assert (np.diff(mixture.posterior_[order]) >= -1e-12).all()
    # the prior share is in the posterior, not in the score
    odds = np.log(mixture.keep_ / (1 - mixture.keep_))
    posterior = 1 / (1 + np.exp(-np.clip(mixture.score_ + odds, -500, 500)))
    np.testing.assert_allclose(posterior, mixture.posterior_, atol=1e-9)
    bad = drawn.kind != CORRECT
    assert auc(-mixture.score_, bad) > auc(-drawn.own.t.sum(axis=1), bad) + 0.005


@pytest.mark.parametrize("contrast_cv", [0.1, 0.2, 0.3])
def test_the_spread_of_contrast_is_recovered(contrast_cv):
    mixture = fitted(draw(10000, 0.3, contrast_cv=contrast_cv, seed=2))
    assert mixture.contrast_cv_ == pytest.approx(contrast_cv, abs=0.015)


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.3])
def test_the_gain_is_recovered_where_there_is_signal(gain):
    mixture = fitted(draw(10000, 0.3, strength=8 / gain, gain=gain, seed=3))
    np.testing.assert_allclose(mixture.gain_[:4], gain, rtol=0.05)


def test_contrasts_are_those_of_the_particles():
    """The expected contrast is right on average, and as uncertain as it says."""
    rng = np.random.default_rng(4)
    m, a = 4000, 8 * np.ones((4000, 1))
    s = rng.normal(1, 0.2, m)
    own = Evidence(s[:, None] * a + rng.normal(size=a.shape), a)
    random = Evidence(0.1 * a + rng.normal(size=a.shape), a)
    mixture = PoseMixture().fit(COMM, own, random, np.arange(m))
    variance = mixture.contrast2_ - mixture.contrast_**2
    assert np.mean((mixture.contrast_ - s) ** 2) == pytest.approx(variance.mean(), rel=0.1)
    assert variance.mean() < 0.8 * 0.2**2
    assert np.mean(mixture.contrast_) == pytest.approx(1, abs=0.02)


def test_what_a_wrong_pose_looks_like_is_measured():
    drawn, mixture = large()
    np.testing.assert_allclose(mixture.wrong_mean_[:3], 0.08, atol=0.02)
    np.testing.assert_allclose(mixture.wrong_variance_[:3], 0.015, atol=0.015)


@pytest.mark.parametrize("some", [300, 1000])
def test_some_random_poses_are_enough(some):
    drawn = draw(6000, 0.3, seed=5)
    rows = np.sort(np.random.default_rng(1).choice(6000, some, replace=False))
    mixture = PoseMixture().fit(COMM, drawn.own, drawn[rows].random, rows)
    assert mixture.keep_ == pytest.approx(np.mean(drawn.kind == CORRECT), abs=0.02)


@pytest.mark.parametrize("keep", [None, 0.6])
def test_a_sample_shows_what_all_particles_show(keep):
    drawn = draw(40_000, 0.3, strength=4, seed=7)  # weak ones: many are in doubt
    rows = np.sort(np.random.default_rng(1).choice(40_000, 4000, replace=False))
    sample = np.zeros(40_000, bool)
    sample[rows] = True  # those looked at in random poses, and some more
    sample |= np.random.default_rng(2).random(40_000) < 0.2
    whole = PoseMixture(keep).fit(COMM, drawn.own, drawn[rows].random, rows)
    begun = PoseMixture(keep).fit(COMM, drawn.own, drawn[rows].random, rows, sample=sample)
    assert begun.keep_ == pytest.approx(whole.keep_, abs=0.003)
    assert begun.keep_interval_ == pytest.approx(whole.keep_interval_, abs=0.006)
    np.testing.assert_allclose(begun.posterior_, whole.posterior_, atol=0.025)
    assert len(begun.posterior_) == 40_000 and 0.1 < np.mean((whole.posterior_ > 0.05) & (whole.posterior_ < 0.95))


def test_a_sample_shows_small_errors_too():
    drawn, small, _ = draw_small_errors(12_000, 0.2, 0.3, seed=3)
    rows = np.arange(0, 12_000, 4)
    sample = np.arange(12_000) % 4 < 2
    whole = PoseMixture().fit(COMM, drawn.own, drawn[rows].random, rows, small=small)
    begun = PoseMixture().fit(COMM, drawn.own, drawn[rows].random, rows, small=small, sample=sample)
    np.testing.assert_allclose(begun.shares_[:3], whole.shares_[:3], atol=0.006)
    assert begun.shares_[3:].sum() == pytest.approx(whole.shares_[3:].sum(), abs=0.006)
    np.testing.assert_allclose(begun.posterior_, whole.posterior_, atol=0.05)


# ---------------------------------------------------------------- EM


class Watched(PoseMixture):
    """Records the log likelihood of every E step; what a wrong pose looks like is known, not measured anew."""

    def measure_wrong(self):
        self.wrong_mean_, self.wrong_variance_ = np.full(6, 0.08), np.full(6, 0.015)

    def expect(self):
        super().expect()
        self.history = [*getattr(self, "history", []), self.total()]

    def total(self):
        """Log likelihood, and the log prior of the contrasts' variance."""
        strength, typical = CONTRAST_PRIOR
        prior = -strength / 2 * (np.log(self.contrast_variance_) + typical / self.contrast_variance_)
        return float(np.logaddexp.reduce(self.likelihood_ + np.log(self.shares_), axis=1).sum() + prior)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.05, 0.8), st.floats(2, 12), st.floats(0.05, 0.4), st.sampled_from([None, 0.4]), st.integers(0, 10**6)
)
def test_no_step_lowers_the_likelihood(bad, strength, contrast_cv, keep, seed):
    """Theory promises it where a step maximises all that it changes: with measured wrong poses it does not."""
    drawn = draw(600, bad, strength=strength, contrast_cv=contrast_cv, seed=seed)
    mixture = fitted(drawn, keep, mixture=Watched)
    assert (np.diff(mixture.history) >= -1e-9 * abs(mixture.history[0])).all()


def test_the_likelihood_found_is_a_maximum():
    """Nothing nearby is better: of shares, gains and contrast spread, each a little changed."""
    mixture = fitted(draw(3000, 0.4, strength=10, seed=8), mixture=Watched)
    best = mixture.total()

    def changed(**values):
        kept = {name: getattr(mixture, name) for name in values}
        vars(mixture).update(values)
        mixture.expect()
        total = mixture.total()
        vars(mixture).update(kept)
        return total

    for factor in (0.9, 1.1):
        assert changed(gain_=mixture.gain_ * factor) < best
        assert changed(contrast_variance_=mixture.contrast_variance_ * factor**3) < best
    for step in ([0.03, -0.03, 0], [-0.03, 0.03, 0], [0, 0.05, -0.05], [0, -0.05, 0.05]):
        assert changed(shares_=mixture.shares_ + step) < best


# ---------------------------------------------------------------- indifference


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_particles_and_bands_without_signal_mean_nothing(seed):
    drawn = draw(400, 0.3, seed=seed % 7)
    rows = np.random.default_rng(seed).permutation(400)
    plain, moved = fitted(drawn), fitted(drawn[rows])
    np.testing.assert_allclose(moved.posterior_, plain.posterior_[rows], atol=1e-9)
    for evidence in (drawn.own, drawn.random):
        evidence.t, evidence.a = (np.insert(v, 2, 0.0, axis=1) for v in (evidence.t, evidence.a))
    np.testing.assert_allclose(fitted(drawn).posterior_, plain.posterior_, atol=1e-9)


# ---------------------------------------------------------------- groups


def test_groups_distinguish_what_single_rows_cannot():
    drawn = draw(8000, 0.4, strength=1.2, per_group=20, seed=3)
    single, grouped = fitted(drawn), fitted(drawn, grouped=True)
    assert not single.separable_ and grouped.separable_
    bad = drawn.kind != CORRECT
    assert auc(-single.score_, bad) < 0.85 and auc(-grouped.score_, bad) > 0.97
    assert grouped.keep_ == pytest.approx(np.mean(~bad), abs=0.03)


def test_rows_of_a_group_share_their_fate():
    drawn = draw(2000, 0.4, strength=2, per_group=8, seed=4)
    mixture = fitted(drawn, grouped=True)
    for values in (mixture.posterior_, mixture.score_, mixture.contrast_):
        by_group = values.reshape(-1, 8)
        assert np.ptp(by_group, axis=1).max() < 1e-9


def test_log_likelihoods_of_a_group_add():
    """Rows that are alike in groups of two: for wrong and junk, whose rows are independent, twice one row's."""
    drawn = draw(1000, 0.4, seed=5)
    twice = drawn[np.repeat(np.arange(1000), 2)]
    grouped = fitted(twice, grouped=True, mixture=Watched)
    single = fitted(drawn, mixture=Watched)
    np.testing.assert_allclose(grouped.likelihood_[::2, WRONG], 2 * single.likelihood_[:, WRONG])
    assert not grouped.likelihood_[:, JUNK].any()


def test_groups_of_one_are_no_groups():
    drawn = draw(1000, 0.3, seed=6)
    plain, grouped = fitted(drawn), fitted(drawn, grouped=True)
    np.testing.assert_allclose(grouped.posterior_, plain.posterior_, atol=1e-12)
    assert grouped.keep_interval_ == pytest.approx(plain.keep_interval_)


# ---------------------------------------------------------------- noise of another shape


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_what_filters_leave_of_the_signal_is_found(exponent):
    """Images filtered each in its own way: noise power v, and v^γ of the signal; to ignore it tells less."""
    drawn = draw(8000, 0.4, strength=3, seed=8)
    log_noise = np.random.default_rng(8).normal(0, 0.6, (len(drawn.kind), 1)) * np.linspace(0, 1.5, 6)
    left = np.exp(-exponent * log_noise)
    # what is drawn holds all of the signal that `own.a` says; the map's own is larger where a filter took some
    own, random = (Evidence(e.t, e.a * left) for e in (drawn.own, drawn.random))
    rows = np.arange(len(drawn.kind))
    mixture = PoseMixture().fit(COMM, own, random, rows, log_noise=log_noise)
    assert mixture.filter_ == pytest.approx(exponent, abs=0.06)
    bad = drawn.kind != CORRECT
    assert auc(-mixture.score_, bad) > auc(-fitted(drawn).score_, bad) - 0.002
    if exponent == 1:
        assert auc(-mixture.score_, bad) > auc(-PoseMixture().fit(COMM, own, random, rows).score_, bad) + 0.003


# ---------------------------------------------------------------- when it declines


@pytest.mark.parametrize("bad", [0, 0.3, 0.8])
@pytest.mark.parametrize("strength", [0.2, 1, 2])
def test_too_weak_a_signal_is_not_separable(bad, strength):
    mixture = fitted(draw(3000, bad, strength=strength, seed=1))
    assert not mixture.separable_ and mixture.separation_ < SMALLEST_SEPARATION


@pytest.mark.parametrize(
    "t, a, message",
    [
        (np.zeros((5, 3)), np.zeros((5, 3)), "no particle has any signal"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "no particle has any signal"),
        (np.full((5, 3), 2.0), np.ones((5, 3)), "evidence of all particles is the same"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), "not a finite number"),
        (np.array([[1.0], [2.0]]), np.array([[1.0], [np.inf]]), "not a finite number"),
    ],
)
def test_the_mixture_refuses(t, a, message):
    with pytest.raises(UserError, match=message):
        PoseMixture().fit(COMM, Evidence(t, a), Evidence(t, a), np.arange(len(t)))


# ---------------------------------------------------------------- small errors


def fitted_small_errors(drawn, small, grouped=False):
    rows = np.arange(len(drawn.kind))
    return PoseMixture().fit(COMM, drawn.own, drawn.random, rows, drawn.group if grouped else None, small)


@pytest.mark.parametrize("bad", [0.1, 0.4])
def test_small_errors_are_found_by_the_better_pose_nearby(bad):
    drawn, small, turned = draw_small_errors(5000, bad, 0.4, seed=1)
    mixture = fitted_small_errors(drawn, small)
    wrong = turned | (drawn.kind != CORRECT)
    assert mixture.keep_ == pytest.approx(np.mean(~wrong), abs=0.02)
    assert mixture.shares_[SMALL:].sum() == pytest.approx(turned.mean(), abs=0.04)
    assert mixture.shares_.sum() == pytest.approx(1) and mixture.small_.shape == (5000, 4)
    alone = fitted(drawn)
    assert auc(-mixture.score_, wrong) > auc(-alone.score_, wrong) + 0.01
    # of those found, the scale is the one that they were drawn with
    assert np.argmax(mixture.shares_[SMALL:]) == 1


@pytest.mark.parametrize("bad", SHARES_OF_BAD)
def test_a_set_without_small_errors_has_none(bad):
    for seed in range(2):
        drawn, small, _ = draw_small_errors(5000, bad, 0.0, seed=seed)
        mixture = fitted_small_errors(drawn, small)
        assert mixture.shares_[SMALL:].sum() < 0.01
        assert mixture.keep_ == pytest.approx(np.mean(drawn.kind == CORRECT), abs=0.02)


def test_the_logarithms_of_a_group_add_for_small_errors_too():
    drawn, small, _ = draw_small_errors(500, 0.3, 0.3, seed=3)
    single = fitted_small_errors(drawn, small)
    drawn.group = np.arange(500)
    grouped = fitted_small_errors(drawn, small, grouped=True)
    np.testing.assert_allclose(grouped.posterior_, single.posterior_, atol=1e-9)
    np.testing.assert_allclose(grouped.small_, single.small_, atol=1e-9)


# ---------------------------------------------------------------- parallel


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_mixture_under_mpirun(mpi_program, n):
    assert f"ok {n}" in mpi_program(n, "mixture_program.py").stdout
