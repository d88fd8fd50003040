"""report.html: one page from the files of a run, with everything in it and nothing from elsewhere."""

import base64
import json
import re
import time
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest

from mpirecon.errors import UserError
from mpirecon.io.mrc import write_map
from mpirecon.io.run_output import read_summary, write_particle_table
from mpirecon.report import figures
from mpirecon.report.html import write_report
from mpirecon.report.verdict import cautions, verdict
from mpirecon.validate.fsc_table import write_fsc_csv

BOX, PIXEL = 24, 4.0
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: text, tags, pictures, attributes that load something."""

    def __init__(self, source: str):
        super().__init__()
        self.words, self.tags, self.loads, self.open, self.balanced = [], [], [], [], True
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
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
    assert "script" not in page.tags and all(load.startswith("data:image/png;base64,") for load in page.loads)
    for load in page.loads:
        assert base64.b64decode(load.partition(",")[2], validate=True).startswith(b"\x89PNG\r\n")
    return page


def test_the_page_has_every_fact_and_needs_nothing_else(tmp_path):
    page = make_page(tmp_path / "out", make_summary())
    assert page.loads and len(page.loads) == page.tags.count("img") == 4
    for fact in (
        "The half maps agree to 12.34 Å", "70 of 100 particles were kept, 1 of them (1.4 %) with a planted error",
        "30 errors were planted", "unmasked 15.00 Å", "a trimmed loss always falls", "0.95", "node", "5 MB", "400 MB",
        "mpirecon reconstruct p.h5 -o out", "numpy 9.8.7", "explained", "2026-01-02 03:04:05 UTC", "AUC 0.990",
    ):  # fmt: skip
        assert fact in page.text, fact
    source = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r'"data:image/png;base64,[^"]*"', "", source)
    assert not re.search(r"https?:|//\w|@import|url\(", outside)
    assert "$" not in outside


@pytest.mark.parametrize(
    ("summary", "said", "unsaid", "pictures"),
    [
        (make_summary(truth=False), "70 of 100 particles were kept.", "planted", 4),
        (make_summary("l2", truth=False, kept=100, iterations=1), "All 100 particles were used, alike.", "planted", 3),
        (make_summary("l2", kept=100, iterations=1), "30 of them (30.0 %) have a planted error", "were kept", 3),
        (make_summary("huber", truth=False, kept=97, skipped=[3, 4, 50]), "Weights run from 1 to 1", "planted", 4),
        (make_summary(kept=1, count=1, truth=False), "1 of 1 particles were kept", "planted", 4),
        (make_summary(ranks=40), "The 16 busiest of 40 ranks", "1 rank,", 4),
    ],
)  # fmt: skip
def test_runs_of_every_kind(tmp_path, summary, said, unsaid, pictures):
    page = make_page(tmp_path / "out", summary)
    assert said in page.text and unsaid not in page.text
    assert len(page.loads) == pictures


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (make_summary(skipped=[7]), "1 image was skipped, with NaN or without contrast: particle 7."),
        (make_summary(skipped=list(range(20)), kept=50), "20 images were skipped"),
        (make_summary(resolution_0143=None), "limited by the pixel size (8 Å)"),
        (make_summary("l2", kept=100), "the particles with planted errors are in the map"),
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


def test_everything_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    summary = make_summary(command=f"mpirecon {evil}")
    summary["particles"]["file"] = f"{evil}.h5"
    summary["configuration"]["mask"] = evil
    summary["ranks"][0]["host"] = evil
    page = make_page(tmp_path / "<b>out", summary)
    assert page.text.count(evil) == 4  # command, file, mask, host
    assert "<b>out" in page.text and "b" not in page.tags


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
    with pytest.raises(UserError, match="no such folder"):
        read_summary(tmp_path / "missing")


def test_histograms_survive_constant_values():
    figure = figures.distance_figure({"distance": np.zeros(5), "score": np.full(5, 3.0)}, "raw")
    assert figures.png_bytes(figure).startswith(b"\x89PNG")
    table = {"distance": np.full(4, np.nan), "score": np.full(4, np.nan), "pose_error": np.ones(4, bool)}
    assert figures.png_bytes(figures.distance_figure(table, "raw")).startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cli):
    """A real sorted run with planted errors and one bad image."""
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
    assert Page((run / "report.html").read_text(encoding="utf-8")).text == text
    elsewhere = tmp_path / "r.html"
    elsewhere.touch()
    result = cli("report", run, "-o", elsewhere)
    assert result.returncode == 1 and "--overwrite" in result.stderr
    assert cli("report", run, "-o", elsewhere, "--overwrite", "-q").stdout == ""
    assert elsewhere.read_text(encoding="utf-8") == (run / "report.html").read_text(encoding="utf-8")


def test_report_of_an_unfinished_run_is_refused(tmp_path, cli):
    result = cli("report", tmp_path)
    assert result.returncode == 1 and "not the folder of a finished run" in result.stderr


def test_the_page_takes_no_time(run):
    summary = read_summary(run)
    write_report(run, summary)  # matplotlib is loaded
    start = time.process_time()
    write_report(run, summary)
    assert time.process_time() - start < 1.5
