"""Simulated errors against the rejected particles: curves, areas, confusion by angular error."""

import csv
import json

import h5py
import numpy as np
import pytest
from scipy.integrate import trapezoid

from mpirecon.cli import run
from mpirecon.model.pose import angular_distance
from mpirecon.validate.detection import ANGLES, DetectionCurves, auc, confusion, detection_report


def drawn(m=500, seed=1, shift=1.5):
    rng = np.random.default_rng(seed)
    wrong = rng.random(m) < 0.3
    return np.round(rng.normal(shift * wrong), 1), wrong  # rounded: many ties


def test_curves_are_what_leaving_out_beyond_each_threshold_gives():
    distance, wrong = drawn()
    curves = DetectionCurves.of(distance, wrong)
    assert np.isinf(curves.threshold[0]) and curves.left_out[0] == 0 and curves.recall[0] == 0
    for i in range(1, len(curves.threshold)):
        out = distance >= curves.threshold[i]
        hits = (out & wrong).sum()
        assert curves.left_out[i] == out.sum()
        assert curves.recall[i] == hits / wrong.sum()
        assert curves.false_positive_rate[i] == (out & ~wrong).sum() / (~wrong).sum()
        assert curves.precision[i] == hits / out.sum()
        assert curves.f1[i] == pytest.approx(2 * hits / (out.sum() + wrong.sum()))
    assert curves.recall[-1] == curves.false_positive_rate[-1] == 1
    assert curves.f1[curves.best] == curves.f1.max()


def test_the_area_under_the_roc_curve_is_the_auc():
    distance, wrong = drawn()
    curves = DetectionCurves.of(distance, wrong)
    area = trapezoid(curves.recall, curves.false_positive_rate)
    assert area == pytest.approx(auc(distance, wrong), abs=1e-12)


def test_average_precision_of_perfect_and_of_drawn_lots():
    wrong = np.arange(100) < 30
    assert DetectionCurves.of(np.where(wrong, 1.0, 0.0), wrong).average_precision == 1
    assert DetectionCurves.of(np.zeros(100), wrong).average_precision == pytest.approx(0.3)


@pytest.mark.parametrize("wrong", [np.zeros(6, bool), np.ones(6, bool)])
def test_one_kind_alone(wrong):
    columns = {"distance": np.arange(6.0), "pose_error": wrong, "kept": np.arange(6) < 4, "skipped": np.zeros(6, bool),
               "posterior": np.full(6, np.nan)}
    report, _ = detection_report(columns)
    assert report["auc"] is None and len(report["confusion"]) == 1
    assert report["best_f1"] == (1.0 if wrong.any() else None)


def test_thinning_keeps_the_ends_the_best_and_the_shape():
    rng = np.random.default_rng(2)
    wrong = rng.random(50_000) < 0.3
    curves = DetectionCurves.of(rng.normal(6.0 * wrong), wrong)
    few = curves.thinned()
    assert len(few.threshold) <= 1002
    assert few.f1.max() == curves.f1.max() and few.left_out[0] == 0 and few.left_out[-1] == 50_000
    area = trapezoid(few.recall, few.false_positive_rate)
    assert area == pytest.approx(trapezoid(curves.recall, curves.false_positive_rate), abs=1e-3)


def test_confusion_counts_each_kind_once():
    rng = np.random.default_rng(3)
    m = 1000
    wrong = rng.random(m) < 0.5
    junk = wrong & (rng.random(m) < 0.2)
    angle = np.where(wrong & ~junk, rng.uniform(0, 90, m), 0)
    kept, posterior = rng.random(m) < 0.6, rng.random(m)
    rows = confusion(angle + 10.0 * junk, kept, posterior, wrong, angle, junk)
    assert [row["kind"] for row in rows] == ["right", *["wrong"] * 6, "junk"]
    assert sum(row["count"] for row in rows) == m and sum(row["kept"] for row in rows) == kept.sum()
    low, high = rows[3]["degrees"]
    mine = wrong & ~junk & (angle >= low) & (angle < high)
    assert (low, high) == (ANGLES[2], ANGLES[3]) and rows[3]["count"] == mine.sum()
    assert rows[3]["mean_posterior"] == pytest.approx(posterior[mine].mean())
    assert rows[0]["auc"] is None and rows[-1]["auc"] == 1
    rows = confusion(angle, kept, np.full(m, np.nan), wrong)
    assert [row["kind"] for row in rows] == ["right", "wrong"] and rows[1]["mean_posterior"] is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    assert run(["simulate", "--phantom", "--particles", "400", "--box", "24", "--pixel-size", "6", "--snr", "0.3",
                "--error-rate", "0.4", "--error-kind", "small:30", "--junk-rate", "0.1", "-q",
                "-o", str(folder / "p.h5")]) == 0
    assert run(["reconstruct", str(folder / "p.h5"), "-o", str(folder / "out"), "--loss", "sorted", "--keep", "0.6",
                "--iterations", "3", "-q"]) == 0
    return folder


def test_a_run_writes_what_it_found(finished):
    out = finished / "out"
    found = json.loads((out / "summary.json").read_text())["detection"]
    for name in ("auc", "f1", "precision", "recall", "wrong", "kept", "wrong_among_kept", "wrong_share_of_kept"):
        assert name in found
    assert found["best_f1"] >= found["f1"] > 0.7 and found["auc"] > 0.8
    with h5py.File(out / "particles.h5") as table, h5py.File(finished / "p.h5") as truth:
        angle = angular_distance(truth["quaternion"][...], truth["true_quaternion"][...])
        np.testing.assert_allclose(table["angular_error"], angle, atol=1e-4)
        np.testing.assert_array_equal(table["junk"], truth["junk"])
        assert sum(row["count"] for row in found["confusion"]) == 400
        assert found["confusion"][-1]["kind"] == "junk" and found["confusion"][-1]["count"] == truth["junk"][...].sum()
    seen = [row["auc"] for row in found["confusion"] if row["kind"] == "wrong"]
    assert seen[-1] > 0.98 and seen[0] < 0.8  # large errors show, small ones do not
    with open(out / "detection.csv") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["f1"]))
    assert float(best["f1"]) == pytest.approx(found["best_f1"], abs=1e-6)
    assert float(best["threshold"]) == pytest.approx(found["best_threshold"], rel=1e-5)


def test_the_report_shows_it(finished):
    page = (finished / "out" / "report.html").read_text(encoding="utf-8")
    assert ("<h2>Simulated errors detected</h2>" in page and "average precision" in page and "20–45° off" in page
            and "junk" in page)
    assert run(["report", str(finished / "out"), "-q"]) == 0
    assert (finished / "out" / "report.html").read_text(encoding="utf-8") == page


def test_nothing_is_reported_where_nothing_was_planted(tmp_path):
    assert run(["simulate", "--phantom", "--particles", "60", "--box", "24", "-q", "-o", str(tmp_path / "p.h5")]) == 0
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["detection"] is None
    assert not (tmp_path / "out" / "detection.csv").exists()
    assert "Simulated errors" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
