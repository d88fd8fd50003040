"""The mixture on evidence as odd as files can make it:
always numbers, always probabilities, and the prior where nothing is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust.evidence import Evidence, SmallErrors
from mpirecon.robust.mixture_model import CORRECT
from mpirecon.robust.pose_mixture import PoseMixture

COMM = SerialCommunicator()


def odd_evidence(rng, m, bands):
    """Signals of any strength, right, wrong or not there,
    with empty rows and bands and numbers at the ends of what floats hold."""
    a = 10 ** rng.uniform(*np.sort(rng.uniform(-4, 4, 2)), (m, bands))
    a *= (
        10.0 ** rng.choice([0, 0, 0, -160, -310, 3, 30], (m, 1))
        * rng.choice([1, 1, 1, 0], (m, 1))
        * rng.choice([1, 1, 0], bands)
    )
    t = rng.choice([1, 0.1, 0, -1], (m, 1)) * a + rng.normal(size=(m, bands)) * rng.choice([1, 1, 0, 1e8])
    return Evidence(np.where(a > 0, t, 0.0), a)


def odd_groups(rng, m):
    kind = rng.integers(5)
    if kind == 0:
        return None
    return [np.arange(m), np.zeros(m, np.int64), rng.integers(0, 3, m), np.arange(m) // 2][kind - 1]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 6), st.sampled_from([None, None, 0.0, 0.5, 1.0]))
def test_whatever_the_evidence_probabilities_come_out(seed, m, bands, keep):
    rng = np.random.default_rng(seed)
    own, looked = odd_evidence(rng, m, bands), np.flatnonzero(rng.random(m) < rng.choice([0, 0.3, 1]))
    random = odd_evidence(rng, len(looked), bands)
    log_noise = rng.normal(0, rng.choice([0.1, 3, 30]), (m, bands)) if rng.random() < 0.5 else None
    small = None
    if rng.random() < 0.4:
        small = SmallErrors(odd_evidence(rng, m, bands), rng.normal(-5, 5, (m, 2)), rng.random((1, bands)))
    mixture, groups = PoseMixture(keep), odd_groups(rng, m)
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            mixture.fit(COMM, own, random, looked, groups, small, log_noise)
    except UserError as refused:
        assert "nothing to fit" in str(refused) or "evidence of all particles is the same" in str(refused)
        return
    found = [mixture.posterior_, mixture.score_, mixture.contrast_, mixture.contrast2_, mixture.gain_, mixture.shares_]
    assert all(np.isfinite(values).all() for values in found)
    assert 0 <= mixture.posterior_.min() and mixture.posterior_.max() <= 1
    assert mixture.shares_.sum() == pytest.approx(1) and np.isfinite([mixture.separation_, mixture.filter_]).all()
    assert 0 <= mixture.keep_interval_[0] <= mixture.keep_interval_[1] <= 1
    if groups is None and small is None:
        silent = ~own.a.any(axis=1)
        np.testing.assert_allclose(mixture.posterior_[silent], mixture.shares_[CORRECT], atol=1e-6)


@pytest.mark.parametrize("per_group, groups", [(1, 400), (2, 300), (1000, 12), (40, 1)])
def test_groups_of_any_size_are_distinguished(per_group, groups):
    """With one group there is nobody to compare it with: it is accepted if it shows the map."""
    rng = np.random.default_rng(per_group)
    wrong = np.arange(groups) % 4 == 3
    group = np.repeat(np.arange(groups), per_group)
    a = 8.0 / np.sqrt(per_group) * np.ones((len(group), 3))
    t = np.where(wrong[group], 0.05, 1.0)[:, None] * a + rng.normal(size=a.shape)
    random = Evidence(0.05 * a + rng.normal(size=a.shape), a)
    mixture = PoseMixture().fit(COMM, Evidence(t, a), random, np.arange(len(group)), group)
    assert mixture.separable_ and ((mixture.posterior_ >= 0.5) == ~wrong[group]).mean() > 0.99


def faded(share_of_wrong, seed=0, per_group=40, groups=40, strength=1.0):
    """Tilt series that fade with dose while their noise does not: against the mean map the first hold more signal than
    expected and the last less, and what the map leaves unexplained of them is taken for noise of another shape."""
    rng = np.random.default_rng(seed)
    group, dose = np.repeat(np.arange(groups), per_group), np.tile(np.arange(per_group) / per_group, groups)[:, None]
    wrong = rng.random(groups) < share_of_wrong
    a = strength * np.array([60, 45, 16, 5, 1.3, 0.3]) * rng.uniform(0.9, 1.1, (len(group), 1))
    left = np.exp(-np.array([0.15, 0.6, 1.3, 2.3, 4, 6]) * dose)
    left /= np.sqrt(np.square(left).mean(axis=0))
    log_noise = np.array([2.2, 2.4, 1.2, 0.2, 0, 0]) * (0.5 - dose) + rng.normal(0, 0.05, a.shape)
    a *= np.exp(-log_noise / 2)

    def at_random():
        return np.array([0.17, 0.04, 0.01, 0.01, 0, 0]) * a + np.sqrt(1 + 0.03 * a**2) * rng.normal(size=a.shape)

    right = left * np.exp(log_noise / 2) * a + rng.normal(size=a.shape)
    own = Evidence(np.where(wrong[group][:, None], at_random(), right), a)
    return own, Evidence(at_random(), a), group, log_noise, wrong[group]


@pytest.mark.parametrize("share_of_wrong", [0, 0.3])
@pytest.mark.parametrize("strength", [1.0, 0.3, 0.1])
def test_tilt_series_that_fade_with_dose_are_not_thought_wrong(share_of_wrong, strength):
    own, random, group, log_noise, wrong = faded(share_of_wrong, strength=strength)
    mixture = PoseMixture().fit(COMM, own, random, np.arange(len(group)), group, log_noise=log_noise)
    assert mixture.separable_ and ((mixture.posterior_ >= 0.5) == ~wrong).all()
    assert mixture.keep_ == pytest.approx(1 - np.mean(wrong), abs=0.03)


def test_where_no_particle_is_good_what_is_known_stays():
    """All particles wrong, and surely so: the fit ends, and says so."""
    rng = np.random.default_rng(3)
    a = np.full((200, 4), 40.0)
    wrong = [0.1 * a + np.sqrt(1 + 0.02 * a**2) * rng.normal(size=a.shape) for _ in range(2)]
    group = np.repeat(np.arange(5), 40)
    mixture = PoseMixture().fit(COMM, Evidence(wrong[0], a), Evidence(wrong[1], a), np.arange(200), group)
    assert mixture.posterior_.max() < 1e-3 and mixture.keep_ < 1e-3 and mixture.keep_interval_[0] == 0


def test_evidence_of_next_to_no_signal_is_none():
    sums = np.array([[[1.0, 1e-170, 5e-324], [1.0, 0.1, 1e-20], [1.0, 0.5, 4.0]]])
    found = Evidence.of(sums, np.ones((1, 3)))
    np.testing.assert_array_equal(found.a, [[0, 0, 2]])
    np.testing.assert_array_equal(found.t, [[0, 0, 0.25]])
