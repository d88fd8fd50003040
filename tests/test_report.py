"""report.html: one page from the files of a run, with everything in it and nothing from elsewhere."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpirecon.errors import UserError
from mpirecon.io.mrc import write_map
from mpirecon.io.run_output import read_summary, write_particle_table
from mpirecon.report.html import write_report
from mpirecon.report.particle_charts import boundary, components, histogram_chart
from mpirecon.report.pictures import png
from mpirecon.report.svg import ticks
from mpirecon.report.verdict import cautions, verdict
from mpirecon.validate.fsc_table import write_fsc_csv

BOX, PIXEL = 24, 4.0
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: text, tags, pictures, attributes that load something."""

    def __init__(self, source: str):
        super().__init__()
        self.words, self.tags, self.loads, self.open, self.balanced = [], [], [], [], True
        self.classes = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.classes += [value for name, value in attributes if name == "class"]
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def make_summary(loss="sorted", *, count=100, skipped=(), truth=True, kept=70, iterations=3, ranks=2, **changed):
    record = {"loss": 0.9, "loss_l2": 0.95, "loss_heldout": 0.92, "loss_l2_heldout": 0.97, "kept": kept,
              "valid": count - len(skipped), "kept_fraction": 0.7, "resolution_0143": 12.5, "resolution_05": 20.0}
    wrong = {"wrong": 30, "wrong_among_kept": 1} if truth else {}
    rank = {"host": "node", "device": "cpu", "particles": 50, "seconds": {"read": 0.1, "solve": 2.0},
            "traffic": {"bytes_moved": 5_000_000, "messages": 3, "seconds": 0.5}, "peak_memory_bytes": 400_000_000}
    detection = {"auc": 0.99, "f1": 0.9, "precision": 0.9, "recall": 29 / 30, "wrong": 30, "kept": kept,
                 "wrong_among_kept": 1, "wrong_share_of_kept": 1 / 70}
    return {
        "program": "mpirecon", "version": "0.1.0", "command": "mpirecon reconstruct p.h5 -o out",
        "started": "2026-01-02T03:04:05+00:00", "seconds": 12.0, "versions": {"numpy": "9.8.7"},
        "configuration": {"loss": loss, "keep": 0.7, "distance": "explained", "max_resolution": None, "mask": None},
        "particles": {"file": "p.h5", "count": count, "box": BOX, "pixel_size": PIXEL, "ctf_premultiplied": False,
                      "skipped": list(skipped)},
        "ranks": [{"rank": i, **rank} for i in range(ranks)],
        "iterations": [{"iteration": i + 1, **record, **wrong} for i in range(iterations)],
        "resolution_0143": 12.34, "resolution_05": 20.5, "resolution_0143_unmasked": 15.0, "nyquist": 2 * PIXEL,
        "kept": kept, "keep_estimate": None, "detection": detection if truth else None,
        "timings": {"read": 0.1}, "bytes_moved": 1, "peak_memory_bytes": 400_000_000, **changed,
    }  # fmt: skip


def make_folder(folder, summary):
    """The files a report reads, of the run that the summary tells of."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    count, skipped = summary["particles"]["count"], summary["particles"]["skipped"]
    wrong = np.arange(count) % 10 < 3
    columns = {"distance": rng.normal(wrong * 4.0), "score": rng.normal(wrong * -4.0), "weight": np.ones(count),
               "kept": np.arange(count) < summary["kept"]}
    for name in ("distance", "score"):
        columns[name][skipped] = np.nan
    if summary["detection"] is not None:
        columns["pose_error"] = wrong
    write_particle_table(folder / "particles.h5", columns, {})
    curve = np.linspace(1, 0, BOX // 2 + 1)
    write_fsc_csv(folder / "fsc.csv", {"fsc": curve, "fsc_unmasked": curve**2}, BOX, PIXEL, overwrite=True)
    write_map(folder / "volume.mrc", rng.normal(size=(BOX,) * 3).astype(np.float32), PIXEL, overwrite=True)
    return folder


def make_page(folder, summary) -> Page:
    page = Page(write_report(make_folder(folder, summary), summary).read_text(encoding="utf-8"))
    assert page.balanced and not page.open
    assert page.tags.count("script") == 1 and all(load.startswith("data:image/png;base64,") for load in page.loads)
    for load in page.loads:
        assert base64.b64decode(load.partition(",")[2], validate=True).startswith(b"\x89PNG\r\n")
    return page


def test_the_page_has_every_fact_and_needs_nothing_else(tmp_path):
    page = make_page(tmp_path / "out", make_summary())
    assert len(page.loads) == page.tags.count("img") == 6  # three slices, three projections
    for fact in (
        "The half maps agree to 12.34 Å", "70 of 100 particles were kept, 1 of them (1.4 %) with a simulated error",
        "30 particles have one", "without mask 15.00 Å", "a trimmed loss always falls", "0.95", "node", "5 MB",
        "400 MB",
        "mpirecon reconstruct p.h5 -o out", "numpy 9.8.7", "explained", "2026-01-02 03:04:05 UTC", "AUC 0.990",
    ):  # fmt: skip
        assert fact in page.text, fact
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r'"data:image/png;base64,[^"]*"', "", source).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttp", outside)
    assert "$" not in outside


@pytest.mark.parametrize(
    ("summary", "said", "unsaid", "charts"),
    [
        (make_summary(truth=False), "70 of 100 particles were kept.", "simulated", 6),
        (make_summary("l2", truth=False, kept=100, iterations=1), "All 100 particles were used, alike.", "simulated",
         3),
        (make_summary("l2", kept=100, iterations=1), "30 of them (30.0 %) have a simulated error", "were kept", 3),
        (make_summary("huber", truth=False, kept=97, skipped=[3, 4, 50]), "Weights run from 1 to 1", "simulated", 6),
        (make_summary(kept=1, count=1, truth=False), "1 of 1 particles were kept", "simulated", 6),
        (make_summary(ranks=40), "The 16 busiest of 40 ranks", "1 rank,", 6),
    ],
)  # fmt: skip
def test_runs_of_every_kind(tmp_path, summary, said, unsaid, charts):
    page = make_page(tmp_path / "out", summary)
    assert said in page.text and unsaid not in page.text
    assert page.classes.count("chart") == charts


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (make_summary(skipped=[7]), "1 image was skipped, with NaN or without contrast: particle 7."),
        (make_summary(skipped=list(range(20)), kept=50), "20 images were skipped"),
        (make_summary(resolution_0143=None), "limited by the pixel size (8 Å)"),
        (make_summary("l2", kept=100), "those with simulated errors are in the map"),
    ],
)
def test_cautions(summary, said):
    assert any(said in text for text in cautions(summary))


def test_cautions_about_distances_and_none_without_reason():
    assert cautions(make_summary()) == []
    summary = make_summary()
    summary["configuration"]["distance"] = "raw"
    summary["detection"]["auc"] = 0.53
    raw, blind = cautions(summary)
    assert "sorts particles by their noise" in raw and "53 % of pairs (AUC 0.530)" in blind
    summary["configuration"]["max_resolution"] = 12.3
    assert "limited by --max-resolution (12.3 Å)" in cautions(summary)[0]
    assert "up to Nyquist, 8 Å" in verdict(make_summary(resolution_0143=None))


def test_right_particles_left_out_and_better_iterations_before_are_reported():
    summary = make_summary(kept=30)
    summary["detection"]["kept"] = 30  # of 70 right ones
    assert any("41 of 70 particles without a simulated error were rejected, too (58.6 %)" in t
               for t in cautions(summary))
    summary = make_summary()
    summary["iterations"][1]["resolution_0143"] = 10.0
    assert any("agreed to 10.00 Å in iteration 2 and to 12.50 Å in the last one" in text for text in cautions(summary))
    assert cautions(make_summary()) == []


def test_everything_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    summary = make_summary(command=f"mpirecon {evil}")
    summary["particles"]["file"] = f"{evil}.h5"
    summary["configuration"]["mask"] = evil
    summary["ranks"][0]["host"] = evil
    page = make_page(tmp_path / "<u>out", summary)
    assert page.text.count(evil) == 6  # title, command, file, mask, and the host of three places
    assert "<u>out" in page.text and "u" not in page.tags and "alert" not in page.tags


def test_values_that_json_has_no_number_for(tmp_path):
    summary = make_summary("l2", kept=100)
    for record in summary["iterations"]:
        record.update(loss=None, loss_heldout=None)
    assert "–" in make_page(tmp_path / "out", summary).text


def test_what_is_missing_or_broken_is_named(tmp_path):
    summary = make_summary()
    folder = make_folder(tmp_path / "out", summary)
    del summary["configuration"]["distance"]
    with pytest.raises(UserError, match=r"summary\.json or particles\.h5 is not what this version.*'distance'"):
        write_report(folder, summary)
    (folder / "fsc.csv").write_text("shell,resolution,fsc\n0,inf,spam\n")
    with pytest.raises(UserError, match=r"fsc\.csv: not a table of FSC curves"):
        write_report(folder, make_summary())
    (folder / "volume.mrc").unlink()
    with pytest.raises(UserError, match=r"volume\.mrc is missing"):
        write_report(folder, make_summary())
    assert not (folder / "report.html").exists()


def test_summary_is_read_back_or_refused(tmp_path):
    for content, message in (("{", "cannot be read as JSON"), ("[]", "not the summary of a run")):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_summary(tmp_path)
    for name, message in (("missing", "no such folder"), ("summary.json", "a file, not a folder")):
        with pytest.raises(UserError, match=message):
            read_summary(tmp_path / name)


def test_histograms_survive_constant_values():
    table = {"distance": np.zeros(5), "score": np.full(5, 3.0), "posterior": np.ones(5)}
    assert "<svg" in histogram_chart(table, "distance", "d") and "<svg" in histogram_chart(
        table, "score", "s", keep=0.5
    )
    nothing = {"distance": np.full(4, np.nan), "score": np.full(4, np.nan), "pose_error": np.ones(4, bool)}
    assert "<svg" in histogram_chart(nothing, "distance", "d")


def test_fitted_components_are_those_of_the_score():
    """Drawn from the model: about the signal to expect of each particle, which differs between them."""
    rng, m, keep = np.random.default_rng(1), 20_000, 0.6
    good, expected = rng.random(m) < keep, rng.uniform(3, 9, m)
    score = np.where(good, 1.0, 0.1) * expected + rng.normal(size=m)
    table = {"score": score, "scale": score / expected, "posterior": good.astype(float)}
    found = components(table, keep)
    assert list(found) == ["correct, as fitted (60.0 %)", "wrong, as fitted (40.0 %)"]
    edges = np.linspace(-4, 14, 61)
    for density, rows in zip(found.values(), (good, ~good)):
        observed = np.histogram(score[rows], edges)[0] / m / (edges[1] - edges[0])
        expected_there = density((edges[:-1] + edges[1:]) / 2)
        assert np.abs(observed - expected_there).max() < 0.12 * observed.max()
        assert expected_there.sum() * (edges[1] - edges[0]) == pytest.approx(rows.mean(), abs=0.01)
    assert components({"score": score}, keep) == {} and len(components(table, 1.0)) == 1


def test_a_mixture_that_distinguishes_nothing_shows_no_share(tmp_path):
    summary = make_summary("posterior", truth=False, keep_estimate=0.22,
                           mixture={"keep": 0.22, "keep_interval": [0.17, 0.27], "separable": False})
    page = make_page(tmp_path / "out", summary)
    assert ("cannot distinguish correct from incorrect particles" in page.text and "22.0 %" not in page.text
            and "are not separable" in page.text)
    assert "as fitted" not in page.text and "because correct and incorrect ones are not separable" in page.text


def test_where_groups_decide_no_score_of_an_image_is_drawn_as_the_threshold(tmp_path):
    summary = make_summary("posterior", truth=False, mixture={"keep": 0.7, "separable": True})
    alone = make_page(tmp_path / "alone", summary).text
    assert "kept →" in alone and "rejected (30)" not in alone
    summary["configuration"] = {**summary["configuration"], "group_by": "rlnTomoParticleName"}
    page = make_page(tmp_path / "groups", summary).text
    assert "kept →" not in page and "kept (70)" in page and "rejected (30)" in page
    assert ("Rows with the same rlnTomoParticleName are scored as a unit" in page
            and "Rows with the same rlnTomoParticleName have the same value" in page)
    assert "distance (log likelihood ratio, wrong over correct)" in page and "distance (explained)" not in page


def test_the_boundary_divides_kept_from_left_out():
    values, kept = np.array([3.0, 1.0, np.nan, 2.0, 4.0]), np.array([True, False, False, False, True])
    assert boundary(values, kept) == 2.5
    assert boundary(values, np.ones(5, bool)) is None


def test_ticks_are_round_and_within():
    for low, high in ((0, 1), (-3.2, 17.9), (1e-5, 3e-5), (1e6, 2.5e6)):
        at = ticks(low, high)
        assert 3 <= len(at) <= 8 and all(low <= v <= high for v in at)
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_pictures_are_png_that_another_reader_reads():
    from matplotlib.image import imread

    image = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    np.testing.assert_allclose(imread(BytesIO(png(image))) * 255, image, atol=0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cli):
    """A real sorted run with simulated errors and one bad image."""
    folder = tmp_path_factory.mktemp("report")
    result = cli("simulate", "--phantom", "--particles", 200, "--box", BOX, "--pixel-size", 6, "--snr", 0.3,
                 "--error-rate", 0.2, "-o", folder / "p.h5")  # fmt: skip
    assert result.returncode == 0, result.stderr
    with h5py.File(folder / "p.h5", "r+") as file:
        file["images"][17, 2, 2] = np.nan
    result = cli("reconstruct", folder / "p.h5", "-o", folder / "out", "--loss", "sorted", "--keep", 0.75,
                 "--iterations", 2, "--skip-bad")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "report.html" in result.stdout
    return folder / "out"


def test_reconstruct_leaves_a_report_and_the_command_writes_it_anew(run, cli, tmp_path):
    source = (run / "report.html").read_text(encoding="utf-8")
    text = Page(source).text
    summary = json.loads((run / "summary.json").read_text())
    assert verdict(summary) in text and "1 image was skipped" in text and "particle 17" in text
    (run / "report.html").unlink()
    result = cli("report", run)
    assert result.returncode == 0 and str(run / "report.html") in result.stdout
    # pictures too: maps in memory are those of the files
    assert (run / "report.html").read_text(encoding="utf-8") == source
    elsewhere = tmp_path / "r.html"
    elsewhere.touch()
    result = cli("report", run, "-o", elsewhere)
    assert result.returncode == 1 and "--overwrite" in result.stderr
    assert cli("report", run, "-o", elsewhere, "--overwrite", "-q").stdout == ""
    assert elsewhere.read_text(encoding="utf-8") == (run / "report.html").read_text(encoding="utf-8")


def test_what_a_run_leaves_is_documented(run):
    text = (
        (Path(__file__).parent.parent / "docs" / "files.md")
        .read_text(encoding="utf-8")
        .partition("## The folder of a run")[2]
    )
    summary = json.loads((run / "summary.json").read_text())
    with h5py.File(run / "particles.h5") as file:
        names = [*summary, *summary["iterations"][-1], *file, *(path.name for path in run.iterdir() if path.is_file())]
    assert not [name for name in names if f"`{name}`" not in text]


def test_report_of_an_unfinished_run_is_refused(tmp_path, cli):
    result = cli("report", tmp_path)
    assert result.returncode == 1 and "not the folder of a finished run" in result.stderr


# in a real browser

#: what a reader looks for (docs/report.md), by the mark that the page gives it
FACTS = {
    "resolution": "which resolution, in which mask", "fsc": "FSC curves", "map": "what the map looks like",
    "kept": "particles kept", "errors": "simulated errors detected, or the estimated fraction of correct particles",
    "warnings": "warnings",
    "score": "histogram with threshold", "convergence": "whether it converged",
    "where time went": "time, and where it went",
    "command": "command, versions, devices",
}  # fmt: skip

#: measures the page, hovers over its first chart, and leaves what it found as JSON
MEASURE = """
window.addEventListener("load", function () {
  var told = {facts: {}, wide: document.documentElement.scrollWidth, window: window.innerWidth, errors: window.failed,
              loaded: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).map(e => e.name)};
  document.querySelectorAll("[data-fact]").forEach(function (e) {
    told.facts[e.dataset.fact] = e.getBoundingClientRect().bottom;
  });
  told.broken = Array.from(document.images).filter(i => !i.naturalWidth).length;
  told.hovered = [];
  document.querySelectorAll("svg[data-hover]").forEach(function (svg) {
    var r = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: r.left + 0.6 * r.width, clientY: r.top + 0.5 * r.height}));
    told.hovered.push(document.getElementById("tip").innerText);
    svg.dispatchEvent(new PointerEvent("pointerleave", {}));
  });
  var chart = document.querySelector("svg[data-hover]"), box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + 20}));
  told.tip = document.getElementById("tip").innerText;
  told.seen = getComputedStyle(document.getElementById("tip")).display;
  var cut = 0;
  document.querySelectorAll("svg.chart text").forEach(function (t) {
    var r = t.getBoundingClientRect();
    if (r.left < -1 || r.right > window.innerWidth + 1) { cut += 1; }
  });
  told.cut = cut;
  window.tell(told);
});
"""


def test_ten_facts_stand_within_two_screens(run, browser, tmp_path):
    told = browser(run / "report.html", MEASURE, 1440, 900, tmp_path / "page.png")
    assert told["errors"] == [] and told["loaded"] == [] and told["broken"] == 0 and told["cut"] == 0
    assert told["wide"] <= told["window"]
    below = {fact: told["facts"].get(fact) for fact in FACTS if not told["facts"].get(fact, 1e9) <= 2 * 900}
    assert not below, f"not within two screens of 1440 x 900: {below}"
    assert len(told["hovered"]) >= 6 and len(set(told["hovered"])) == len(told["hovered"]) and all(told["hovered"])
    assert told["seen"] == "block" and "Å" in told["tip"] and "0." in told["tip"]
    from matplotlib.image import imread

    picture = imread(tmp_path / "page.png")
    assert picture.shape[:2] == (900, 1440) and picture[..., :3].std() > 0.05


def test_a_narrow_window_needs_no_sideways_scrolling(run, browser):
    told = browser(run / "report.html", MEASURE, 520, 900)
    assert told["wide"] <= told["window"] and told["errors"] == []


def test_the_list_of_ten_facts_is_documented():
    page = (Path(__file__).resolve().parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
    assert len(FACTS) == len(re.findall(r"^\d+\. ", page, flags=re.MULTILINE)) == 10


@pytest.mark.parametrize("argv, said", [
    (["/some/where/bin/mpirecon", "reconstruct", "a b.h5"], "mpirecon reconstruct 'a b.h5'"),
    (["/some/where/mpirecon/__main__.py", "null"], "python -m mpirecon null"),
    (["/some/where/mine.py", "x"], "/some/where/mine.py x"),
])  # fmt: skip
def test_the_command_can_be_typed_again(monkeypatch, argv, said):
    from mpirecon.solvers.main import about_run

    monkeypatch.setattr("sys.argv", argv)
    assert about_run(0.0)["command"] == said
