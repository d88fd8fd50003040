"""Reweighted least squares and C-steps on small problems: monotone where theory promises it, and what they find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.robust.least_squares import RobustLeastSquares
from mpirecon.robust.losses import LOSSES, M_ESTIMATORS
from mpirecon.robust.weiszfeld import weiszfeld

WAYS = [(loss, 0.6 if loss == "sorted" else None) for loss in LOSSES if loss != "posterior"]


def problem(seed, m=100, wrong=0.3, noise=0.05):
    """Measurements of one x, some of them of another; (A, y, x, which are wrong)."""
    rng = np.random.default_rng(seed)
    a, x = rng.normal(size=(m, 3, 4)), rng.normal(size=4)
    y = a @ x + noise * rng.normal(size=(m, 3))
    bad = rng.random(m) < wrong
    y[bad] += rng.normal(2, 3, (int(bad.sum()), 3))
    return a, y, x, bad


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(WAYS), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.6]),
       st.sampled_from(["plain", "graduated"]))
def test_no_step_raises_the_loss_it_minimises(way, seed, wrong, schedule):
    a, y, _, _ = problem(seed, m=40, wrong=wrong)
    before, after = RobustLeastSquares(*way, schedule, iterations=30).fit(a, y).objective_.T
    assert (after <= before * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_c_steps_never_raise_the_trimmed_sum_and_end(seed):
    """With one k throughout, what a step ends with the next begins with: the whole sequence falls."""
    a, y, _, _ = problem(seed)
    fitted = RobustLeastSquares("sorted", 0.6).fit(a, y)
    sums = fitted.objective_.ravel()
    assert (np.diff(sums) <= 1e-9 * sums[0]).all() and fitted.n_iter_ < 30
    d = np.linalg.norm(y - a @ fitted.x_, axis=1)
    assert set(np.flatnonzero(fitted.kept_)) == set(np.argsort(d)[:60])  # a fixed point: sorting again changes nothing


@pytest.mark.parametrize("loss, keep", WAYS)
def test_what_is_fitted_and_what_it_says_of_itself(loss, keep):
    a, y, x, bad = problem(1)
    fitted = RobustLeastSquares(loss, keep).fit(a, y)
    error = np.linalg.norm(fitted.x_ - x)
    plain = np.linalg.norm(RobustLeastSquares("l2").fit(a, y).x_ - x)
    if loss == "l2":
        assert fitted.n_iter_ == 1 and fitted.kept_.all() and fitted.keep_ == 1
        np.testing.assert_allclose(fitted.x_, np.linalg.lstsq(a.reshape(-1, 4), y.ravel(), rcond=None)[0])
        return
    assert error < 0.3 * plain
    assert fitted.weight_[bad].mean() < 0.5 * fitted.weight_[~bad].mean()
    assert fitted.keep_ == np.mean(fitted.weight_ > 0) and len(fitted.objective_) == fitted.n_iter_
    d = np.linalg.norm(y - a @ fitted.x_, axis=1)
    assert fitted.centre_ == pytest.approx(np.median(d), rel=1e-4)
    assert fitted.scale_ == pytest.approx(1.4826 * np.median(np.abs(d - np.median(d))), rel=1e-3)
    if loss == "sorted":
        assert fitted.keep_ == 0.6 and not fitted.kept_[bad].any()


def test_averages_are_the_mean_and_the_median():
    points = np.random.default_rng(3).normal(size=(31, 2)) * [1, 5]
    np.testing.assert_allclose(RobustLeastSquares("l2").average(points), points.mean(axis=0))
    median = RobustLeastSquares("l1", iterations=5000, tolerance=1e-13).average(points)
    np.testing.assert_allclose(median, weiszfeld(points), atol=1e-6)


def test_a_graduated_schedule_leaves_bad_starts():
    """80 % of the measurements wrong: trimming at once from the L2 solution is often caught where it began."""
    found = {"plain": 0, "graduated": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, x = rng.normal(size=(60, 2, 4)), rng.normal(size=4)
        y = a @ x + 0.05 * rng.normal(size=(60, 2))
        y[:48] = 3 * rng.normal(size=(48, 2))
        for schedule in found:
            found[schedule] += np.linalg.norm(RobustLeastSquares("sorted", 0.17, schedule).fit(a, y).x_ - x) < 0.1
    assert found["graduated"] >= found["plain"] + 4


@pytest.mark.parametrize("loss", M_ESTIMATORS)
def test_a_schedule_ends_where_the_loss_itself_is_minimised(loss):
    a, y, _, _ = problem(4)
    plain, slow = (RobustLeastSquares(loss, schedule=s).fit(a, y) for s in ("plain", "graduated"))
    np.testing.assert_allclose(slow.x_, plain.x_, atol=1e-5)
    assert slow.n_iter_ >= 10


@pytest.mark.parametrize(
    "options, message",
    [
        (("posterior",), "choose one of l2"),
        (("l3",), "choose one of l2"),
        (("sorted",), "fraction to keep"),
        (("sorted", 0.0), "above 0"),
        (("sorted", 1.5), "at most 1"),
        (("huber", 0.5), "other losses take none"),
        (("l1", None, "slow"), "plain, graduated"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        RobustLeastSquares(*options)


@pytest.mark.parametrize("a, y", [(np.ones((3, 2)), np.ones((3, 2))), (np.ones((3, 2, 1)), np.ones((3, 1))),
                                  (np.ones((0, 2, 1)), np.ones((0, 2))), (np.full((1, 1, 1), np.nan), np.ones((1, 1)))])
def test_shapes_that_do_not_fit(a, y):
    with pytest.raises(UserError, match=r"\(m, k, n\)"):
        RobustLeastSquares().fit(a, y)
