"""The map of found particles beside that of the kept: agreement is of signal, and another structure is told."""

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.report.verdict import right_left_out
from mpirecon.validate.coverage import view_coverage
from mpirecon.validate.detection import detection_report
from mpirecon.validate.found_map import FoundMap
from mpirecon.validate.masks import soft_sphere


def halves(volume, noise, rng):
    return tuple(volume + noise * rng.standard_normal(volume.shape) for _ in range(2))


@pytest.mark.parametrize(("noise", "other", "warned"), [(0.2, 0.0, False), (1.0, 0.0, False), (0.5, 0.9, True)])
def test_found_particles_of_another_structure_are_warned_of(noise, other, warned):
    rng, box = np.random.default_rng(3), 32
    first = mr.phantom(box, 5.0).array.astype(float)
    first /= first.std()
    second = np.roll(first[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    found = FoundMap.of(
        halves((1 - other) * first + other * second, noise, rng), halves(first, 0.3, rng), soft_sphere(box, 12.0, 3.0)
    )
    assert bool(found.warnings()) == warned
    if not warned:
        assert abs(found.deficit) < 4 * found.chance < 0.1
    told = found.as_dict(box, 5.0)
    assert len(told["between"]) == box // 2 + 1 and told["deficit"] == found.deficit


def test_tables_of_planted_errors_separate_given_from_found_poses():
    # correct: kept; wrong: found again, found wrongly, left out; junk accepted; a correct one at a found pose
    wrong = np.array([0, 0, 1, 1, 1, 1, 0], bool)
    columns = {
        "id": np.arange(7), "distance": np.arange(7.0), "posterior": np.full(7, 0.9),
        "pose_error": wrong, "skipped": np.zeros(7, bool),
        "junk": np.array([0, 0, 0, 0, 0, 1, 0], bool),
        "angular_error": np.array([0, 0, 90, 90, 90, 90, 0.0]), "weight": np.ones(7),
        "final_angular_error": np.array([0, 0, 2, 40, 90, 90, 1.0]), "pose_state": np.array([0, 0, 2, 2, 3, 2, 2]),
        "kept": np.array([1, 1, 0, 0, 0, 0, 0], bool),
    }  # fmt: skip
    report, _ = detection_report(columns)
    assert {
        name: report[name] for name in ("kept", "wrong_among_kept", "at_found", "found_again", "accepted_wrong")
    } == {"kept": 2, "wrong_among_kept": 0, "at_found": 4, "found_again": 2, "accepted_wrong": 2}
    rows = {row["kind"]: row for row in report["confusion"]}
    assert [rows["wrong"][name] for name in ("count", "kept", "at_found", "found_again", "accepted_wrong")] == [
        3,
        0,
        2,
        1,
        1,
    ]
    assert rows["junk"]["accepted_wrong"] == 1 and rows["right"]["found_again"] == 1
    assert {row["kind"]: row["at_found"] for row in report["by_kind"]} == {"orientation": 2, "junk": 1}
    summary = {"particles": {"count": 7, "skipped": []}, "detection": report}
    assert right_left_out(summary) == 0
    del columns["pose_state"]
    assert "at_found" not in detection_report(columns)[0]["confusion"][0]


def test_views_are_counted_at_given_and_at_found_poses():
    rng = np.random.default_rng(1)
    given = rng.standard_normal((400, 4))
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    used, moved, kept = given.copy(), np.arange(400) < 100, np.arange(400) < 300
    used[moved] = [1.0, 0, 0, 0]
    coverage = view_coverage(used, kept, given=given, moved=moved)
    assert coverage.given.sum() == 400 and coverage.found.sum() == coverage.found.max() == 100
    np.testing.assert_array_equal(coverage.given, view_coverage(given, kept).before)
    assert view_coverage(given, kept).found is None
