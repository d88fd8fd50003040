"""Fractions of right particles that differ between views: found where they do, and nothing is changed where they do
not."""

import h5py
import numpy as np
import pytest
from evidence import draw

import mpirecon as mr
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.robust import pose_mixture
from mpirecon.robust.mixture_model import CORRECT
from mpirecon.robust.pose_mixture import PoseMixture
from mpirecon.robust.view_shares import shares_by_view
from mpirecon.validate.coverage import MOST_BINS, views_of
from mpirecon.validate.detection import auc

COMM = SerialCommunicator()


def logistic(x):
    return 1 / (1 + np.exp(-x))


def drawn_odds(share_of, view, apart, rng):
    """Flags of the right ones, and logarithmic odds from one fraction and evidence whose Gaussians are so far apart."""
    right = rng.random(len(view)) < share_of[view]
    evidence = apart * (rng.normal(size=len(view)) + apart * (right - 0.5))
    return right, evidence + np.log(right.mean() / (1 - right.mean()))


@pytest.mark.parametrize("apart", [1.5, 3.0, 8.0])
def test_views_that_are_alike_change_nothing(apart):
    rng = np.random.default_rng(0)
    for _ in range(100):
        view = rng.integers(0, 50, 3000)
        _, odds = drawn_odds(np.full(50, 0.7), view, apart, rng)
        assert shares_by_view(COMM, odds, view) is None


@pytest.mark.parametrize("apart", [2.0, 3.0])
def test_probabilities_are_right_in_each_kind_of_view(apart):
    """Many right ones in a few views, wrong ones everywhere."""
    rng = np.random.default_rng(1)
    few = rng.random(20_000) < 0.55
    view = np.where(few, rng.integers(0, 5, 20_000), rng.integers(5, 50, 20_000))
    share_of = np.where(np.arange(50) < 5, 0.95, 0.3)
    right, odds = drawn_odds(share_of, view, apart, rng)
    more = shares_by_view(COMM, odds, view)
    p = logistic(odds + more)
    for rows in (few, ~few):
        assert p[rows].mean() == pytest.approx(right[rows].mean(), abs=0.015)
        for low in (0.1, 0.3, 0.5, 0.7):
            some = rows & (p >= low) & (p < low + 0.2)
            assert right[some].mean() == pytest.approx(p[some].mean(), abs=4 * np.sqrt(0.25 / some.sum()) + 0.02)
    exact = np.log(share_of / (1 - share_of))[view] - np.log(right.mean() / (1 - right.mean()))
    best, found, before = (auc(-(odds + by), ~right) for by in (exact, more, 0))
    assert best - 0.002 < found and before < found - 0.005


def test_what_a_few_particles_say_of_their_view_is_drawn_to_what_all_say():
    rng = np.random.default_rng(2)
    view = np.concatenate([rng.integers(0, 40, 4000), np.repeat([40], 3)])
    share_of = np.append(rng.beta(7, 3, 40), 1.0)
    right, odds = drawn_odds(share_of, view, 20.0, rng)
    of_view = logistic(shares_by_view(COMM, odds, view) + np.log(right.mean() / (1 - right.mean())))
    assert right[-3:].all() and right.mean() < of_view[-1] < 0.85
    assert np.abs(of_view[:4000] - share_of[view[:4000]]).mean() < 0.05


@pytest.mark.parametrize("odds", [[], [700.0, 650.0, 700.0], [-700.0, -650.0, -700.0]])
def test_where_all_are_alike_there_is_nothing_to_say(odds):
    assert shares_by_view(COMM, np.array(odds), np.arange(len(odds))) is None


def test_the_mixture_is_reported():
    drawn = draw(8000, 0.4, strength=4.5, seed=3)
    rng, rows, good = np.random.default_rng(3), np.arange(8000), drawn.kind == CORRECT
    mixture = PoseMixture().fit(COMM, drawn.own, drawn.random, rows)
    before = mixture.posterior_, mixture.score_
    mixture.share_by_view(rng.integers(0, 50, 8000))
    assert (mixture.posterior_, mixture.score_) == before  # the same arrays
    mixture.share_by_view(np.where(good, rng.integers(0, 10, 8000), rng.integers(0, 50, 8000)))
    assert auc(-mixture.score_, ~good) > auc(-before[1], ~good) + 0.01
    assert np.square(mixture.posterior_ - good).mean() < 0.8 * np.square(before[0] - good).mean()
    order = np.argsort(mixture.score_)
    assert (np.diff(mixture.posterior_[order]) >= -1e-12).all()


def test_copies_of_a_view_and_its_mirror_image_have_one_number():
    rng = np.random.default_rng(4)
    pose = mr.Pose(rng.normal(size=(500, 4)), np.zeros((500, 2)))
    rot, tilt, psi = pose.euler().T
    numbers = views_of(pose.quaternion, 3000)
    assert len(np.unique(numbers)) == numbers.max() + 1 and 40 < numbers.max() + 1 < 60
    assert views_of(pose.quaternion, 10**6).max() < MOST_BINS and views_of(pose.quaternion, 10).max() == 5
    turned = mr.Pose.from_euler(rot + 180, 180 - tilt, psi + 77, np.zeros((500, 2)))
    np.testing.assert_array_equal(views_of(turned.quaternion, 3000), numbers)
    group = point_group("D3")
    alike = views_of(pose.quaternion, 3000, group)
    assert len(np.unique(alike)) > 10
    for copy in group.copies(pose.quaternion):
        np.testing.assert_array_equal(views_of(copy, 3000, group), alike)


def test_a_run_hands_over_the_views_of_its_poses(monkeypatch, tmp_path):
    """Not those of rows that are judged together, each of which has a view of its own."""
    seen = []
    monkeypatch.setattr(pose_mixture, "shares_by_view", lambda comm, odds, view: seen.append(view))
    made = mr.simulate(mr.phantom(24, 5.0), 120, tmp_path / "p.h5", snr=0.3, error_rate=0.3, seed=4)
    options = dict(loss="posterior", iterations=2, postprocess=False)
    views = views_of(made.metadata().pose.quaternion, 120)
    for deterministic in (False, True):
        mr.reconstruct(made, deterministic=deterministic, **options)
        assert seen
        for view in seen:
            np.testing.assert_array_equal(view, views)
        seen.clear()
    with h5py.File(tmp_path / "p.h5", "a") as file:
        table = file.create_group("source/table_000")
        table.attrs.update(name="particles", rows=120, columns=["rlnName"])
        table["rlnName"] = np.array([f"g{i // 2}" for i in range(120)], "S4").astype(h5py.string_dtype("utf-8", 4))
        file["source"].attrs["path"] = "p.star"
    mr.reconstruct(tmp_path / "p.h5", group_by="rlnName", **options)
    assert not seen
