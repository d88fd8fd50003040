"""Losses: their weights, and what they find in small problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.losses import (
    HUBER_TUNING,
    L1,
    L2,
    LOSSES,
    M_ESTIMATORS,
    MAD_TO_SIGMA,
    REDESCENDING,
    Huber,
    make_loss,
)
from mpirecon.robust.weiszfeld import weiszfeld

COMM = SerialCommunicator()


CALIBRATED = [L2(), L1(), Huber(1.7)] + [make_loss(name, 2.0, 0.3) for name in M_ESTIMATORS]


@pytest.mark.parametrize("loss", CALIBRATED, ids=str)
def test_weight_is_the_slope_of_rho_over_the_distance(loss):
    d = np.linspace(0.01, 8, 200)
    h = 1e-6
    slope = (loss.rho(d + h) - loss.rho(d - h)) / (2 * h)
    np.testing.assert_allclose(loss.weight(d), slope / d, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(loss.influence(d), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", CALIBRATED, ids=str)
def test_losses_are_finite_and_do_not_fall_with_distance(loss):
    d = np.array([0.0, 1e-300, 1e-8, 1, 1e8])
    assert np.isfinite(loss.weight(d)).all() and (np.diff(loss.rho(d)) >= 0).all()
    assert (np.diff(loss.weight(d)) <= 0).all()  # the far never count more than the near
    assert loss.rho(d)[0] == 0


def test_huber_is_l2_for_the_near_and_l1_for_the_far():
    huber, near, far = Huber(2.0), np.array([0.0, 1.0, 2.0]), np.array([3.0, 50.0])
    np.testing.assert_allclose(huber.rho(near), L2().rho(near))
    np.testing.assert_allclose(np.diff(huber.rho(far)), 2.0 * np.diff(L1().rho(far)))


def test_huber_keeps_the_bulk():
    assert make_loss("huber", 5.0, 0.4).delta == pytest.approx(5 + 1.345 * 0.4)
    assert HUBER_TUNING == 1.345


@pytest.mark.parametrize("loss", REDESCENDING)
def test_redescending_losses_keep_the_bulk_and_let_go_of_the_far(loss):
    made = make_loss(loss, 5.0, 0.4)
    near, far = np.linspace(0, 5, 20), 5 + 0.4 * np.array([10.0, 100, 1e4])
    assert (made.weight(near) == 1).all()  # the nearer half of all particles is not set back at all
    np.testing.assert_allclose(made.rho(near), L2().rho(near))
    pull = made.influence(np.concatenate([[5.0], far]))
    assert (np.diff(pull) <= 0).all() and pull[-1] < 0.01 * pull[0]
    assert made.rho(far)[-1] < 0.01 * L2().rho(far)[-1]


def test_only_tukey_gives_no_weight_at_all():
    far = np.array([5 + 0.4 * 4.69, 6.9, 1e3])
    weight = {loss: make_loss(loss, 5.0, 0.4).weight(far) for loss in REDESCENDING}
    assert not weight["tukey"].any() and make_loss("tukey", 5.0, 0.4).weight(np.array([6.86]))[0] > 0
    assert (weight["cauchy"] > 0).all() and (weight["geman-mcclure"] > 0).all()
    # near the bulk they agree: the constants say at what distance doubt begins
    near = np.array([5 + 0.4 * 1.345])
    for loss in REDESCENDING:
        assert 0.75 < make_loss(loss, 5.0, 0.4).weight(near)[0] < 0.85


@pytest.mark.parametrize("loss", REDESCENDING)
def test_tuning_constants_are_95_percent_efficient(loss):
    """Asymptotic efficiency (E ψ′)² / E ψ² at the standard Gaussian of the textbook's ψ = xW(x/c), around zero."""
    x, step = np.linspace(-12, 12, 240_001, retstep=True)
    gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    psi = x * make_loss(loss, 0.0, 1.0).weight(np.abs(x))
    efficiency = (np.sum(x * psi * gauss) * step) ** 2 / (np.sum(psi**2 * gauss) * step)  # E ψ′ = E xψ (Stein)
    assert efficiency == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("loss", REDESCENDING)
def test_where_all_are_alike_all_count(loss):
    made = make_loss(loss, 5.0, 0.0)
    np.testing.assert_array_equal(made.weight(np.full(3, 5.0)), 1)
    assert made.weight(np.array([6.0]))[0] < 1e-12 and np.isfinite(made.rho(np.array([0.0, 5, 6, 1e6]))).all()
    nothing = make_loss(loss, 0.0, 0.0)
    assert np.isfinite(nothing.weight(np.array([0.0, 1.0]))).all() and nothing.weight(np.zeros(1))[0] == 1


def test_the_command_line_offers_every_loss():
    from mpirecon.cli.reconstruct import LOSSES as offered

    assert tuple(offered) == LOSSES


def test_mad_is_consistent_with_the_gaussian():
    values = np.random.default_rng(3).normal(0, 2.5, 200_001)
    assert MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))) == pytest.approx(2.5, rel=0.01)


def test_unknown_losses_are_named():
    with pytest.raises(UserError, match="unknown loss 'l3'.*" + ", ".join(LOSSES)):
        make_loss("l3", 1, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(M_ESTIMATORS), st.floats(0, 5), st.floats(0.01, 2), st.integers(0, 10**6))
def test_no_reweighted_step_raises_the_loss(name, centre, scale, seed):
    """ρ is concave in d², so the weighted squares bound it from above: true from any start, for any calibration."""
    rng = np.random.default_rng(seed)
    loss = make_loss(name, centre, scale)
    points = rng.normal(size=(30, 3)) + rng.normal(0, 5, (30, 1)) * (rng.random((30, 1)) < 0.3)
    x = rng.normal(0, 3, 3)
    history = []
    for _ in range(10):
        d = np.linalg.norm(points - x, axis=1)
        history.append(loss.rho(d).sum())
        weight = loss.weight(d)
        if not weight.sum():
            break  # tukey sees nobody from here
        x = weight @ points / weight.sum()
    assert (np.diff(history) <= 1e-9 * history[0]).all()


@pytest.mark.parametrize("loss", REDESCENDING)
def test_redescending_losses_forget_what_is_far(loss):
    """From a start among the good, the outliers hardly matter or not at all; to l1 they always do."""
    points = np.random.default_rng(1).normal(size=(100, 3))
    dirty = np.vstack([points, np.full((30, 3), 50.0)])
    centre, scale = 1.6, 0.7  # of the norms of three standard normal numbers

    def average(data):
        x = np.zeros(3)
        for _ in range(200):
            weight = make_loss(loss, centre, scale).weight(np.linalg.norm(data - x, axis=1))
            x = weight @ data / weight.sum()
        return x

    drag = np.linalg.norm(average(dirty) - average(points))
    assert drag < {"cauchy": 0.1, "geman-mcclure": 1e-2}.get(loss, 1e-12)
    assert drag < 0.3 * np.linalg.norm(weiszfeld(dirty) - weiszfeld(points))


@pytest.mark.parametrize("loss", [L1(epsilon=1e-3), Huber(0.2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_reweighting_never_raises_the_loss_and_finds_the_line(loss, seed):
    """min Σρ(‖y_i − A_i x‖) by weighted least squares, 40 of 100 measurements grossly wrong."""
    rng = np.random.default_rng(seed)
    a, truth = rng.normal(size=(100, 3, 4)), rng.normal(size=4)
    y = a @ truth + 0.02 * rng.normal(size=(100, 3))
    y[:40] += rng.normal(3, 4, (40, 3))

    def norm(x):
        return np.linalg.norm(y - a @ x, axis=1)

    def solve(w):
        return np.linalg.solve(np.einsum("i,ijk,ijl->kl", w, a, a), np.einsum("i,ijk,ij->k", w, a, y))

    plain = x = solve(np.ones(100))
    history = []
    for _ in range(60):
        history.append(loss.rho(norm(x)).sum())
        x = solve(loss.weight(norm(x)))
    assert (np.diff(history) <= 1e-9 * history[0]).all()
    best = minimize(lambda v: loss.rho(norm(v)).sum(), truth, method="Powell", options=dict(xtol=1e-10, ftol=1e-14))
    assert history[-1] == pytest.approx(best.fun, rel=1e-4)
    assert np.linalg.norm(x - truth) < 0.1 * np.linalg.norm(plain - truth)
