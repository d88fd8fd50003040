"""How many folds a half set is divided into where nobody says."""

import numpy as np
import pytest

from mpirecon.solvers.config import Config


class Grouped:
    """A particle file of so many groups in each half set, three rows each."""

    def __init__(self, *groups):
        self._half = np.repeat([1, 2], [3 * g for g in groups])
        self._name = np.concatenate([np.repeat([f"{half}/{g}" for g in range(count)], 3) for half, count in enumerate(groups)])

    def source_column(self, name):
        assert name == "particle"
        return self._name.astype(object)

    def halves(self):
        return self._half


@pytest.mark.parametrize(("groups", "folds"), [((20, 20), 8), ((63, 400), 8), ((400, 63), 8), ((64, 64), 4), ((400, 500), 4)])
def test_few_groups_have_more_folds(groups, folds):
    config = Config(loss="posterior", group_by="particle")
    assert config.folds is None and config.settled(Grouped(*groups)).scoring_folds == folds
    asked = Config(loss="posterior", group_by="particle", folds=3)
    assert asked.settled(Grouped(*groups)) is asked


def test_without_groups_there_are_four():
    assert Config(loss="posterior").settled(None).folds == Config(loss="posterior").scoring_folds == 4
    assert Config(loss="l2").settled(None).scoring_folds == 1
