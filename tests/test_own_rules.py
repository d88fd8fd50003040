"""What rules, losses and distances of one's own decide and return is checked: no nonsense makes a map."""

import re

import numpy as np
import pytest
from particle_statistics import random_statistics

import mpirecon as mr
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.distances import EXPLAINED
from mpirecon.robust.known_rules import add_rule, decide, sorting_score
from mpirecon.robust.rules import Case, Rule
from mpirecon.robust.selection import Selection

pytestmark = pytest.mark.in_python

M = 100
FAST = {"iterations": 1, "folds": 2, "solve_iterations": 0, "postprocess": False}


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(16, 5.0), M, snr=0.5, error_rate=0.2, seed=3)


class Odd(Rule):
    """Keeps all, but for what a test says."""

    name = "odd"

    def __init__(self, value=1.0, **columns):
        self.columns, self.returned = columns, value

    def decide(self, case):
        m = len(case.valid)
        found = {"weight": np.ones(m), "kept": np.ones(m, bool), "distance": sorting_score(case)}
        return Selection(**{**found, **{name: make(m) for name, make in self.columns.items()}})

    def value(self, comm, d, selection, valid, given):
        return self.returned


class Nothing(Odd):
    """Decides nothing."""

    def decide(self, case):
        return None


def refused(particles, rule, said):
    add_rule(rule)
    with pytest.raises(mr.UserError, match=said):
        mr.reconstruct(particles, loss="odd", **FAST)


def but_first(value):
    """Ones, and another value first."""
    return lambda m: np.r_[value, np.ones(m - 1)]


@pytest.mark.parametrize("column, make, said", [
    ("weight", but_first(np.nan), "for weight, returned nan for 1 of 100 particles; weights must be finite and not"),
    ("weight", but_first(-1), "for weight, returned -1 for 1 of 100"),
    ("weight", but_first(np.inf), "for weight, returned inf"),
    ("weight", np.zeros, "returned 0 for 100 of 100 particles; particles that are kept need a weight"),
    ("weight", lambda m: np.ones(3), r"for weight, returned an array of float64 of shape \(3,\); expected numbers"),
    ("weight", lambda m: None, "for weight, returned NoneType"),
    ("weight", lambda m: np.ma.masked_less(np.arange(float(m)), 5), "returned a masked array"),
    ("kept", lambda m: np.zeros(m, bool), "keeps none of 100 particles"),
    ("kept", lambda m: np.ones(m + 1, bool), r"for kept, returned an array of bool of shape \(101,\)"),
    ("kept", lambda m: None, "for kept, returned NoneType"),
    ("kept", but_first(7), "for kept, returned 7 .*expected True or False"),
    ("distance", but_first(np.nan), "for distance, returned nan"),
    ("distance", lambda m: None, "for distance, returned NoneType"),
    ("contrast", but_first(np.nan), "for contrast, returned nan"),
    ("posterior", lambda m: np.ones(2), "for posterior, returned an array"),
    ("attenuation", np.ones, "attenuation is ndarray; expected an Attenuation or None"),
])  # fmt: skip
def test_what_a_rule_decides_is_checked(particles, column, make, said):
    refused(particles, Odd(**{column: make}), "loss odd: its rule's decide.*" + said)


def test_a_rule_decides_a_selection_that_weighs_something(particles):
    refused(particles, Nothing(), "decide returned NoneType; expected a Selection")
    refused(particles, Odd(weight=np.zeros, kept=lambda m: np.zeros(m, bool)), "gave the weight 0 to all 100 particles")


def uniform(value):
    return lambda m: np.full(m, value)


def test_weights_are_such_that_single_precision_holds_their_sums(particles):
    for value in (1e-300, 9e-21, 2e20, 1e300):
        said = re.escape(f"weights of up to {value:g}; the largest must be between 1e-20 and 1e+20")
        refused(particles, Odd(weight=uniform(value)), f"loss odd: its rule's decide returned {said}")
    for value in (1e-20, 1e20):  # as any other weight does
        add_rule(Odd(weight=uniform(value)))
        found = mr.reconstruct(particles, loss="odd", **{**FAST, "iterations": 2}).volume.array
        add_rule(Odd())
        expected = mr.reconstruct(particles, loss="odd", **{**FAST, "iterations": 2}).volume.array
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    with pytest.raises(mr.UserError, match=r"loss steep: the function returned weights of up to .*; the largest must"):
        mr.reconstruct(particles, loss=steep, **FAST)
    with pytest.raises(mr.UserError, match=r"starting weights are up to 1e-300; the largest must be between 1e-20"):
        mr.reconstruct(particles, start_weights=np.full(M, 1e-300), loss="odd", **FAST)


def steep(d):
    """One particle counts more than all others together, by more than numbers hold."""
    return np.where(d == d.max(), 1e250, 1.0)


class Writes(Odd):
    """Writes into what it is given."""

    def __init__(self, what, in_value=False):
        super().__init__()
        self.what, self.in_value = what, in_value

    def decide(self, case):
        if not self.in_value:
            self.what(case).fill(0)
        return super().decide(case)

    def value(self, comm, d, selection, valid, given):
        if self.in_value:
            self.what((d, valid, given)).fill(0)
        return 1.0


@pytest.mark.parametrize("rule", [
    *(Writes(lambda case, name=name: getattr(case, name)) for name in ("valid", "credible", "sigma", "ids")),
    Writes(lambda case: case.statistics.sums), *(Writes(lambda given, k=k: given[k], True) for k in range(3)),
])  # fmt: skip
def test_a_rule_does_not_write_into_what_the_run_goes_on_with(particles, rule):
    add_rule(rule)
    with pytest.raises(ValueError, match="read-only"):
        mr.reconstruct(particles, loss="odd", **FAST)


def test_a_distance_does_not_either(particles):
    def writes(s, *others):
        s.sums.fill(0)

    for odd in (mr.distances.Distance("writes", True, writes, None),
                mr.distances.Distance("writes", True, lambda s, sigma, typical: s.residual, writes),
                mr.distances.Distance("writes", True, lambda s, sigma, typical: sigma.fill(1), None)):
        with pytest.raises(ValueError, match="read-only"):
            mr.reconstruct(particles, distance=odd, loss="sorted" if odd.norm is None else "l1",
                           keep=0.7 if odd.norm is None else None, **FAST)


def test_particles_that_may_not_be_selected_are_not():
    """Whatever a rule says of bad images."""
    valid = np.arange(M) > 9
    case = Case(SerialCommunicator(), random_statistics(M), np.ones(M), np.arange(M), valid, valid, EXPLAINED)
    chosen = decide(Odd(weight=lambda m: np.where(valid, 2.0, np.nan)), case)
    np.testing.assert_array_equal(chosen.weight, 2.0 * valid)
    np.testing.assert_array_equal(chosen.kept, valid)


@pytest.mark.parametrize("value, said", [
    (None, "None"), ("much", "'much'"), (np.nan, "nan"), (np.inf, "inf"), (np.ones(3), r"an array of shape \(3,\)"),
    (1j, "1j"),
])  # fmt: skip
def test_the_value_of_a_rule_is_one_finite_number(particles, value, said):
    refused(particles, Odd(value=value), f"loss odd: value returned {said}; expected one finite number")


def test_one_number_may_be_of_any_kind(particles):
    for value in (2, np.float32(2), np.array(2.0)):
        add_rule(Odd(value=value))
        assert mr.reconstruct(particles, loss="odd", **FAST).iterations[-1]["loss"] == 1.0


# what losses and distances return


def masked(values):
    return np.ma.masked_greater(values, np.median(values))


class NoNumber(mr.losses.Loss):
    """A loss whose weights are numbers and whose value is none."""

    def __init__(self, centre, scale):
        pass

    def weight(self, d):
        """All alike."""
        return np.ones_like(d)

    def rho(self, d):
        """No number."""
        return np.full_like(d, np.nan)


def test_masks_are_not_lost(particles):
    with pytest.raises(mr.UserError, match="loss masked: the function returned a masked array.*filled"):
        mr.reconstruct(particles, loss=masked, **FAST)
    for score, norm, what in ((lambda s, sigma, typical: masked(s.residual), None, "score"),
                              (lambda s, sigma, typical: s.residual, lambda s, typical: masked(s.residual), "norm")):
        with pytest.raises(mr.UserError, match=f"distance part: {what} returned a masked array"):
            mr.reconstruct(particles, distance=mr.distances.Distance("part", True, score, norm), loss="sorted",
                           keep=0.7, **FAST)


def test_rho_is_a_number(particles):
    with pytest.raises(mr.UserError, match="loss NoNumber: rho returned nan for 100 of 100 particles"):
        mr.reconstruct(particles, loss=NoNumber, **FAST)


def test_a_distance_that_returns_nonsense_is_named(particles):
    def score(s, sigma, typical):
        return s.residual

    for norm, said in ((lambda s, typical: -s.residual, "norm returned -.*norms must be finite and not negative"),
                       (lambda s, typical: s.residual * np.nan, "norm returned nan")):
        with pytest.raises(mr.UserError, match=f"distance odd: {said}"):
            mr.reconstruct(particles, loss="l1", distance=mr.distances.Distance("odd", True, score, norm), **FAST)
    nan = mr.distances.Distance("odd", True, lambda s, sigma, typical: s.residual * np.nan, None)
    with pytest.raises(mr.UserError, match="distance odd: score returned nan for 100 of 100 particles"):
        mr.reconstruct(particles, loss="sorted", keep=0.7, distance=nan, **FAST)


@pytest.mark.parametrize("how", [[], ["by messages"]])
def test_a_rule_that_fails_on_one_rank_ends_on_all(particles, mpi_program, how):
    assert "every rule ended on all ranks" in mpi_program(2, "odd_rules.py", particles.path, *how).stdout
