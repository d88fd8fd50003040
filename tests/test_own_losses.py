"""Losses, distances and solvers of one's own: a run keeps what it was made with, whatever bears its name later."""

import threading
from dataclasses import replace

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.robust.known_rules import add_rule, rule_of
from mpirecon.robust.losses import Loss, register
from mpirecon.robust.rules import Rule
from mpirecon.robust.selection import Selection
from mpirecon.solvers.kinds import SolverKind, add_solver, solver_kind
from mpirecon.solvers.normal import NormalSolver

pytestmark = pytest.mark.in_python

FAST = {"iterations": 2, "folds": 2, "solve_iterations": 0, "seed": 1}


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(16, 5.0), 100, snr=0.5, error_rate=0.2, seed=3)


def steep(d):
    return 1 / (1 + d**2) ** 20


def weights(run):
    return [state.weights for state in run]


def counting(calls, function=np.ones_like):
    return lambda d: calls.append(1) or function(d)


def test_two_runs_at_a_time_keep_their_own_functions(particles):
    """Both are called "own": the second is not the first's."""
    alone = weights(mr.Reconstruction(particles, loss=lambda d: steep(d), **FAST))
    calls = []
    first = mr.Reconstruction(particles, loss=lambda d: steep(d), **FAST)
    second = mr.Reconstruction(particles, loss=counting(calls), **FAST)
    assert first.config.loss == second.config.loss == "own"
    for ours, expected in zip(weights(first), alone, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not calls
    assert np.ptp(weights(second)[-1]) == 0 and calls


def test_runs_in_threads_keep_their_own_functions(particles):
    alone = {power: weights(mr.Reconstruction(particles, loss=powered(power), **FAST))[-1] for power in (2, 9, 30)}
    found = {}

    def one(power):
        found[power] = weights(mr.Reconstruction(particles, loss=powered(power), **FAST))[-1]

    threads = [threading.Thread(target=one, args=(power,)) for power in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for power, expected in alone.items():
        np.testing.assert_allclose(found[power], expected, rtol=1e-6)


def powered(power):
    return lambda d: 1 / (1 + d**power)


def test_a_registered_loss_is_not_what_a_run_was_given(particles):
    theirs, given, later = [], [], []
    register("mine", counting(theirs))

    def mine(d):
        return counting(given)(d)

    mr.reconstruct(particles, loss=mine, postprocess=False, **FAST)
    assert given and not theirs
    run = mr.Reconstruction(particles, loss="mine", **FAST)
    register("mine", counting(later))
    run.result(postprocess=False)
    assert theirs and not later, "the run was made before another was registered"
    mr.reconstruct(particles, loss="mine", postprocess=False, **FAST)
    assert later


def test_runs_keep_their_own_distances(particles):
    def distance(calls):
        return mr.distances.Distance("near", True, lambda s, sigma, typical: calls.append(1) or s.residual, None)

    first, second, third = [], [], []
    asked = {"loss": "sorted", "keep": 0.7, **FAST}
    run = mr.Reconstruction(particles, distance=distance(first), **asked)
    mr.Reconstruction(particles, distance=distance(second), **asked).result(postprocess=False)
    assert second and not first, "a distance is given again, as a notebook's cell does"
    run.result(postprocess=False)
    assert first
    assert mr.distances.register(distance(second)) == "near"
    run = mr.Reconstruction(particles, distance="near", **asked)
    kept = run.config.measure
    mr.distances.register(distance(third))
    assert run.config.measure is replace(run.config, seed=5).measure is kept
    run.result(postprocess=False)
    assert not third


def test_runs_keep_their_own_rules_and_solvers(particles):
    class Everyone(Rule):
        name = "everyone"

        def __init__(self, calls):
            self.calls = calls

        def decide(self, case):
            self.calls.append(1)
            return Selection(case.valid.astype(float), case.valid, case.statistics.residual)

        def value(self, comm, d, selection, valid, given):
            self.calls.append(2)
            return 1.0

    def kind(calls):
        return SolverKind("plain", lambda engine, config: calls.append(1) or NormalSolver(engine, config))

    first, second, made, later = [], [], [], []
    add_rule(Everyone(first))
    add_solver(kind(made))
    run = mr.Reconstruction(particles, loss="everyone", solver="plain", **FAST)
    add_rule(Everyone(second))
    kept, _ = run.config.solver_kind, add_solver(kind(later))
    assert run.config.solver_kind is replace(run.config, seed=5).solver_kind is kept
    run.result(postprocess=False)
    assert {*first} == {1, 2} and made and not second and not later
    assert rule_of("everyone").calls is second
    for name in ("normal", "gradient"):
        before = solver_kind(name)
        with pytest.raises(mr.UserError, match="built-in one of this name already; choose another"):
            add_solver(SolverKind(name, kind([]).make))
        assert solver_kind(name) is before


def test_a_loss_takes_no_rule_s_name_and_a_function_is_what_it_is(particles):
    class Taken(Rule):
        name = "taken"

        def decide(self, case):
            raise AssertionError("the function was given")

        value = decide

    add_rule(Taken())
    with pytest.raises(mr.UserError, match="loss taken: a rule that was added has this name.*choose another"):
        register("taken", steep)
    calls = []

    def taken(d):
        return counting(calls)(d)

    assert mr.reconstruct(particles, loss=taken, postprocess=False, **FAST).summary["configuration"]["loss"] == "taken"
    assert calls
    register("free", steep)
    with pytest.raises(mr.UserError, match="there is one of this name already; choose another"):
        add_rule(type("Free", (Taken,), {"name": "free"})())


@pytest.mark.parametrize("kind, name", [
    (mr.losses.L2, "l2"), (mr.losses.L1, "l1"), (mr.losses.Huber, "huber"), (mr.losses.Cauchy, "cauchy"),
    (mr.losses.Tukey, "tukey"),
])  # fmt: skip
def test_built_in_classes_are_the_losses_of_their_names(particles, kind, name):
    by_class, by_name = (mr.Reconstruction(particles, loss=loss, **FAST) for loss in (kind, name))
    assert by_class.config.loss == name
    np.testing.assert_array_equal(weights(by_class)[-1], weights(by_name)[-1])
    assert register("named", kind) == "named"
    if name != "l2":  # as a registered loss, it is one that scores
        np.testing.assert_array_equal(weights(mr.Reconstruction(particles, loss="named", **FAST))[-1],
                                      weights(mr.Reconstruction(particles, loss=name, **FAST))[-1])


def test_a_class_of_ones_own_is_made_of_centre_and_spread(particles):
    class Half(Loss):
        def __init__(self, centre, scale):
            self.centre = centre

        def weight(self, d):
            return np.where(d > self.centre, 0.5, 1.0)

        def rho(self, d):
            return d**2 / 2

    assert len(set(weights(mr.Reconstruction(particles, loss=Half, **FAST))[-1])) == 2


def test_a_refused_call_leaves_no_name_behind(particles):
    def distance(factor):
        return mr.distances.Distance("corrected", True, lambda s, sigma, typical: factor * s.residual, None)

    with pytest.raises(mr.UserError, match="keep"):
        mr.reconstruct(particles, loss="sorted", distance=distance(1), **FAST)
    done = mr.reconstruct(particles, loss="sorted", keep=0.5, distance=distance(2), postprocess=False, **FAST)
    again = mr.reconstruct(particles, loss="sorted", keep=0.5, distance=distance(1), postprocess=False, **FAST)
    np.testing.assert_allclose(done.particles["distance"], 2 * again.particles["distance"], rtol=1e-9)
    with pytest.raises(mr.UserError, match="corrected"):
        mr.reconstruct(particles, loss="sorted", keep=0.5, distance="corrected", **FAST)
    with pytest.raises(mr.UserError, match="built-in one of this name already"):
        mr.reconstruct(particles, loss="sorted", keep=0.5, **FAST,
                       distance=mr.distances.Distance("raw", True, distance(1).score, None))
