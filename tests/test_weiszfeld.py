"""Averages of points: L2 is the mean, L1 the median."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

import mpirecon
from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.losses import (
    L2,
)
from mpirecon.robust.weiszfeld import weiszfeld

COMM = SerialCommunicator()


#: multiples of 1/8 in a range: points may coincide, and none are nearly so
COORDINATE = st.integers(-800, 800).map(lambda i: i / 8)


def points_of(dimensions, least=1, most=12):
    return st.integers(least, most).flatmap(lambda m: arrays(np.float64, (m, dimensions), elements=COORDINATE))


def total_distance(x, points, weights=None):
    d = np.linalg.norm(points - x, axis=1)
    return float(d.sum() if weights is None else weights @ d)


@settings(max_examples=100, deadline=None)
@given(points_of(3))
def test_the_l2_average_is_the_mean(points):
    """The loss l2 weighs all alike, so its IRLS step x ← Σwy/Σw is the mean; nothing nearby has a smaller Σd²."""
    d = np.linalg.norm(points, axis=1)
    average = np.average(points, axis=0, weights=L2().weight(d))
    np.testing.assert_allclose(average, points.mean(axis=0))
    loss = L2().rho(np.linalg.norm(points - average, axis=1)).sum()
    for step in 0.1 * np.vstack([np.eye(3), -np.eye(3)]):
        assert L2().rho(np.linalg.norm(points - average - step, axis=1)).sum() > loss


@settings(max_examples=100, deadline=None)
@given(st.lists(COORDINATE, min_size=1, max_size=15).filter(lambda v: len(v) % 2), st.booleans())
def test_the_l1_average_of_numbers_is_their_median(values, as_column):
    points = np.array(values)
    spread = np.ptp(points)
    x = weiszfeld(points[:, None] if as_column else points, iterations=20000)
    assert x.shape == ((1,) if as_column else ())
    # near a point with neighbours on one side the iteration is slow; its loss is what counts
    best = np.abs(points - np.median(points)).sum()
    assert np.abs(points - x).sum() <= best + 1e-6 * spread + 1e-300


@settings(max_examples=100, deadline=None)
@given(st.lists(COORDINATE, min_size=2, max_size=14).filter(lambda v: len(v) % 2 == 0))
def test_an_even_number_of_numbers_has_any_median_between_the_middle_two(values):
    points = np.sort(values)
    x = weiszfeld(points, iterations=20000)
    assert np.abs(points - x).sum() <= np.abs(points - np.median(points)).sum() + 1e-6 * np.ptp(points) + 1e-300


@settings(max_examples=60, deadline=None)
@given(points_of(2, least=3), st.integers(0, 10**6))
def test_the_geometric_median_has_the_smallest_sum_of_distances(points, seed):
    weights = np.random.default_rng(seed).uniform(0.2, 2, len(points))
    x = weiszfeld(points, weights, iterations=20000)
    starts = [points.mean(axis=0), *points]  # the loss has kinks at the points, so they are candidates themselves
    best = min(total_distance(s, points, weights) for s in starts)
    best = min(best, minimize(total_distance, starts[0], (points, weights), method="Nelder-Mead",
                              options=dict(xatol=1e-9, fatol=1e-12, maxiter=4000)).fun)
    assert total_distance(x, points, weights) <= best * (1 + 1e-6) + 1e-12


def test_an_outlier_drags_the_mean_and_not_the_median():
    points = np.random.default_rng(1).normal(size=(100, 3))
    dirty = np.vstack([points, np.full((30, 3), 1e4)])
    assert np.linalg.norm(dirty.mean(axis=0)) > 1e3
    assert np.linalg.norm(weiszfeld(dirty) - weiszfeld(points)) < 1
    further = np.vstack([points, np.full((30, 3), 1e8)])  # the median sees where they lie, not how far
    np.testing.assert_allclose(weiszfeld(further), weiszfeld(dirty), atol=1e-2)


def test_a_start_on_a_point_is_left_when_it_is_no_median():
    """The mean, where the iteration starts, is a point here: 1/d is infinite there."""
    points = np.array([[0.0, 0], [10, 0], [-4, 3], [-4, -3], [-2, 0]])
    assert (points.mean(axis=0) == points[0]).all()
    x = weiszfeld(points)
    assert np.isfinite(x).all()
    best = minimize(total_distance, [-1.5, 0.0], (points,), method="Nelder-Mead", options=dict(xatol=1e-9, fatol=1e-13))
    assert total_distance(x, points) == pytest.approx(best.fun, rel=1e-7)


def test_a_start_on_a_point_stays_when_it_is_the_median():
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    np.testing.assert_allclose(weiszfeld(square), [0, 0], atol=1e-12)
    heavy = np.array([[0.0, 0], [2, 0], [-1, 1], [-1, -1]])  # the others pull, but less than it weighs
    np.testing.assert_array_equal(weiszfeld(heavy, [3.0, 1, 1, 1], iterations=1), [0, 0])


def test_points_that_coincide_are_their_own_median():
    np.testing.assert_array_equal(weiszfeld(np.full((4, 2), 7.0)), [7, 7])
    np.testing.assert_array_equal(weiszfeld(np.array([[3.0, 4.0]])), [3, 4])


def test_weights_count_points():
    points = np.random.default_rng(2).normal(size=(6, 2))
    weights = np.array([1.0, 2, 3, 1, 0, 2])
    np.testing.assert_allclose(weiszfeld(points, weights), weiszfeld(np.repeat(points, weights.astype(int), axis=0)),
                               atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(points_of(2, least=3), st.floats(0.01, 100), COORDINATE)
def test_the_median_moves_and_scales_with_its_points(points, factor, shift):
    assert mpirecon.weiszfeld is weiszfeld
    a, b = weiszfeld(points, iterations=20000), weiszfeld(factor * points + shift, iterations=20000)
    moved = factor * points + shift
    assert total_distance(b, moved) == pytest.approx(total_distance(factor * a + shift, moved), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "points, weights, message",
    [
        (np.zeros((0, 2)), None, "m ≥ 1"),
        (np.zeros((2, 2, 2)), None, r"got \(2, 2, 2\)"),
        ([[1.0, np.nan]], None, "finite"),
        ([[1.0, np.inf]], None, "finite"),
        (np.zeros((3, 2)), [1.0, 1], "3 finite, non-negative weights"),
        (np.zeros((2, 2)), [1.0, -1], "non-negative"),
        (np.zeros((2, 2)), [0.0, 0], "not all zero"),
        (np.zeros((2, 2)), [np.nan, 1], "weights"),
        (np.zeros((2, 2)), [np.inf, 1], "weights"),
    ],
)
def test_weiszfeld_refuses(points, weights, message):
    with pytest.raises(UserError, match=message):
        weiszfeld(points, weights)
