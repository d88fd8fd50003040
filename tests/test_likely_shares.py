"""The interval of the fraction of correct poses is that of a look at all fractions, though few are looked at."""

import numpy as np
import pytest

from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.likely_shares import likely_shares


def by_all(score: np.ndarray, once: np.ndarray, grid: np.ndarray) -> tuple[float, float]:
    """By the definition: fractions whose log likelihood is within 1.92 of the largest."""
    likelihood = np.array([once @ np.logaddexp(np.log(g) + score, np.log(1 - g)) for g in grid[1:-1]])
    ends = [once @ (score if g else np.zeros_like(score)) for g in (0, 1)]  # nobody correct, everybody
    likelihood = np.concatenate([ends[:1], likelihood, ends[1:]])
    inside = grid[likelihood >= likelihood.max() - 1.92]
    return inside.min(), inside.max()


def shares_about(best: float) -> np.ndarray:
    """The fractions among which the interval's ends are."""
    grid = np.unique(np.concatenate([np.linspace(0.001, 0.999, 200), best + np.linspace(-0.03, 0.03, 121)]))
    return np.concatenate([[0.0], grid[(grid > 0) & (grid < 1)], [1.0]])


@pytest.mark.parametrize("count", [1, 7, 60, 1500, 20_000])
@pytest.mark.parametrize("good", [0.0, 0.02, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("apart", [0.5, 3.0, 12.0])
def test_few_looks_find_what_all_do(count, good, apart):
    rng = np.random.default_rng(count)
    right = rng.random(count) < good
    score = apart * (np.where(right, apart, -apart) / 2 + rng.standard_normal(count))
    once = rng.choice([0.5, 1.0], count)
    found = likely_shares(SerialCommunicator(), score, once, good)
    assert found == pytest.approx(by_all(score, once, shares_about(good)), abs=1e-12)


def test_the_best_fraction_may_be_far_from_where_it_was_thought():
    score = np.where(np.arange(4000) < 1000, 8.0, -8.0)
    found = likely_shares(SerialCommunicator(), score, np.ones(4000), 0.9)
    assert found == by_all(score, np.ones(4000), shares_about(0.9))
