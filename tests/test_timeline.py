"""Spans of a rank's phases, from the clock to the report; and the table of views."""

import csv
import time

import numpy as np

from mpirecon.io.run_log import RankLog
from mpirecon.io.timeline import read_timelines
from mpirecon.report.charts import by_kind, timeline_chart
from mpirecon.solvers.timing import MOST_SPANS, Timings
from mpirecon.validate.coverage import view_coverage, write_views_csv


def test_spans_hold_what_the_phases_took():
    timings = Timings()
    for _ in range(3 * MOST_SPANS):
        with timings("accumulate"):
            with timings("read"):
                pass
        with timings("reduce"):
            pass
    assert len(timings.spans) <= MOST_SPANS
    for phase, seconds in timings.seconds.items():
        assert np.isclose(sum(within.get(phase, 0) for _, _, within in timings.spans), seconds)
    starts, ends = np.array([span[:2] for span in timings.spans]).T
    assert (starts[1:] >= ends[:-1]).all() and (ends > starts).all()


def test_timelines_are_read_from_the_ends_of_the_logs(tmp_path):
    for rank in range(20):
        with RankLog(tmp_path / "logs", rank, "node") as log:
            log.event("sort_particles", ids=np.arange(40000))  # long lines before
            if rank != 19:
                timings = Timings()
                with timings("solve"), timings("reduce"):
                    time.sleep(0.002)
                log.event("timeline", **timings.timeline())
    (tmp_path / "logs" / "rank0003.jsonl").write_text('{"event": "timeline", broken\n')
    found = read_timelines(tmp_path, most=20)
    assert sorted(found) == [r for r in range(19) if r != 3]
    assert len(read_timelines(tmp_path, most=4)) == 3  # 0, 6, 13; the last has none
    picture = timeline_chart(found)
    assert picture.count(">rank ") == 18 and "<title>reducing</title>" in picture
    assert read_timelines(tmp_path / "nowhere") == {}


def test_phases_that_are_not_known_count_as_computing():
    kinds = by_kind({"read": 1.0, "reduce": 2.0, "something new": 3.0, "solve": 4.0})
    assert (kinds["reading"], kinds["reducing"], kinds["computing"]) == (1.0, 2.0, 7.0)


def test_views_are_written_bin_by_bin(tmp_path):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(5000, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    kept = rng.random(5000) < 0.7
    coverage = view_coverage(q, kept)
    write_views_csv(tmp_path / "views.csv", coverage)
    with open(tmp_path / "views.csv") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert (
        len(rows) == len(coverage.before)
        and sum(r["before"] for r in rows) == 5000
        and sum(r["after"] for r in rows) == kept.sum()
    )
    areas = [(np.cos(np.radians(r["tilt_low"])) - np.cos(np.radians(r["tilt_high"]))) * (r["rot_high"] - r["rot_low"])
             for r in rows]
    np.testing.assert_allclose(areas, np.mean(areas), rtol=0.02)  # equal areas, so that the edges are the bins'
    for row, centre in zip(rows, coverage.direction):
        tilt = np.degrees(np.arccos(centre[2]))
        assert row["tilt_low"] <= tilt <= row["tilt_high"]
