"""What the page shows once, says only where it holds, and keeps legible on paper-wide and phone-wide screens."""

import html
import json
import re

import numpy as np
import pytest

from mpirecon.cli import run as mpirecon
from mpirecon.report.charts import cones_chart, guinier_chart
from mpirecon.report.controls import controls_section
from mpirecon.report.overview import launched
from mpirecon.report.particle_charts import against_charts, roc_chart, views_chart
from mpirecon.report.verdict import verdict


def page_of(tmp_path, *options, simulate=()):
    made = ["simulate", "--phantom", "--particles", 240, "--box", 24, "--pixel-size", 6, "--snr", 0.3, "-q", *simulate]
    assert mpirecon([*map(str, made), "-o", str(tmp_path / "p.h5")]) == 0
    assert mpirecon(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "out"), "-q", *map(str, options)]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    return (tmp_path / "out" / "report.html").read_text(encoding="utf-8"), summary


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    options = ("--loss", "sorted", "--keep", 0.6, "--iterations", 2)
    return page_of(tmp_path_factory.mktemp("selected"), *options, simulate=("--error-rate", 0.2, "--noise-cv", 0.2))


def test_no_histogram_is_drawn_twice(plain, tmp_path):
    blind, summary = page_of(tmp_path, "--loss", "sorted", "--keep", "auto", "--iterations", 2,
                             simulate=("--snr", 0.0005))
    assert not summary["iterations"][-1]["mixture"]["separable"]
    for source in (plain[0], blind):
        assert (
            source.count('aria-label="Histogram of score"') == source.count('aria-label="Histogram of distance"') == 1
        )
    assert "Weights run" not in blind


def test_nothing_refers_to_what_is_not_there(plain, selected):
    assert "selection below test" not in plain[0] and "Controls of the selection" not in plain[0]
    assert "selection below test" in selected[0] and "Controls of the selection" in selected[0]
    assert ("before the selection" in selected[0] and "view, before" not in plain[0]
            and "particles per view<" in plain[0])
    assert "Score against defocus and contrast<" in plain[0]  # noise is even, and there are no micrographs
    assert "Score against defocus, noise and contrast<" in selected[0]


def test_correct_particles_that_were_left_out_are_in_the_first_sentence(selected):
    summary = selected[1]
    found = summary["detection"]
    lost = 240 - found["wrong"] - found["kept"] + found["wrong_among_kept"]
    assert lost > 40 and f"and {lost} of {240 - found['wrong']} correct particles were rejected." in verdict(summary)
    assert html.escape(verdict(summary)) in selected[0]


def test_controls_show_from_which_value_they_are_warned_of(selected):
    summary = selected[1]
    assert set(summary["selection_limits"]) == set(summary["selection_bias"])
    section = controls_section(summary)
    assert "warning threshold" in section and f"±{summary['selection_limits']['sigma']:.2f}" in section
    few = {**summary, "selection_limits": {**summary["selection_limits"], "sigma": 0.43}}
    assert "±0.43" in controls_section(few)
    assert controls_section({**summary, "selection_limits": None})  # of a run before they were recorded


def test_the_configuration_shows_what_was_used(plain):
    source, summary = plain
    used = summary["used"]
    assert used["padding"] == 2 and used["threads"] >= 1 and used["folds"] == 1 and used["max_resolution"] == 12
    assert set(used["solve_iterations"]) == {"half maps", "map of all"}
    for words in ("2 (automatic)", "12 Å (automatic)", used["mask"], "cpu (automatic)",
                  f"half maps {used['solve_iterations']['half maps']}"):
        assert words in source, words


def test_the_command_has_its_launcher_and_the_page_its_place(plain, tmp_path):
    source, summary = plain
    assert re.search(r"The run is in /.*/out\. Ranks", source) and "mpirecon view /" in source
    assert launched(summary) == summary["command"]
    many = {**summary, "ranks": summary["ranks"] * 3, "command": "mpirecon reconstruct p.h5", "environment": {}}
    assert launched(many) == "mpirun -n 3 mpirecon reconstruct p.h5"
    assert launched({**many, "environment": {"SLURM_STEP_ID": "0"}}) == "srun -n 3 mpirecon reconstruct p.h5"
    assert launched({**many,
                     "environment": {"SLURM_STEP_ID": "0", "OMPI_COMM_WORLD_SIZE": "3"}}).startswith("mpirun -n 3 ")


def test_a_run_without_a_selection_has_none_in_its_legend(tmp_path):
    curves = {name: np.linspace(0, 1, 5) for name in ("false_positive_rate", "recall", "precision")}
    assert "this run&#x27;s selection" in roc_chart(curves, {"recall": 0.5, "precision": 1.0,
                                                             "false_positive_rate": 0.1})
    assert "selection" not in roc_chart(curves, {})
    source, _ = page_of(tmp_path, simulate=("--error-rate", 0.2))
    assert "at the best threshold. This run rejected no particle." in source and "0.0000 at" not in source


@pytest.mark.parametrize("names", [["defocus"], ["defocus", "sigma"], ["defocus", "sigma", "scale"],
                                   ["defocus", "sigma", "scale", "micrograph"]])
def test_charts_of_a_row_have_letters_of_one_size(names):
    """What a chart's unit measures on a page of 1216 pixels:
    12 of them are a letter, beside that of a chart of half the page."""
    rng = np.random.default_rng(1)
    table = {"score": rng.random(60), "distance": rng.random(60), **{name: rng.random(60) for name in names}}
    if "micrograph" in names:
        table["micrograph"] = np.arange(60) % 5
    charts = against_charts(table)
    assert len(charts) == len(names)
    place = {1: 640, 2: 599, 3: 400, 4: 296}[len(names)]
    for source in charts.values():
        width = int(re.search(r'viewBox="0 0 (\d+) ', source)[1])
        assert 0.95 < place / width < 1.12
    table["defocus"][:] = 1.0
    assert len(against_charts(table)) == len(names) - 1  # nothing to see


def test_views_before_are_reported_only_where_there_is_an_after():
    edges = {"tilt_low": [0, 45], "tilt_high": [45, 90], "rot_low": [0, 0], "rot_high": [360, 360]}
    views = {name: np.array(v, float) for name, v in {**edges, "before": [5, 9], "after": [5, 9]}.items()}
    assert "before" not in views_chart(views) and "kept" not in views_chart(views)
    views["after"] = np.array([5.0, 3.0])
    assert "before the selection" in views_chart(views) and "3 of 9 kept" in views_chart(views)


def test_noise_beyond_the_resolution_is_no_piece_of_the_guinier_plot():
    amplitude = np.linspace(3, 1, 8)
    fit = {"inverse_d2": np.linspace(0.001, 0.02, 8).tolist(), "amplitude": amplitude.tolist(),
           "weighted": [*amplitude[:4].tolist(), None, None, *amplitude[6:].tolist()]}
    (weighted,) = re.findall(r'<path d="([^"]*)" fill="none" stroke="#0072B2"', guinier_chart(fit))
    assert weighted.count("M") == 1 and weighted.count("L") == 3


@pytest.mark.parametrize(("at", "shades", "ends"), [
    (np.linspace(6.0, 6.4, 40), 20, ("4.96 Å", "7.75 Å")), (np.linspace(24, 80, 40), 200, ("24.00 Å", "80.00 Å")),
])
def test_colours_of_directions_do_not_stretch_over_a_twentieth(at, shades, ends):
    rng = np.random.default_rng(1)
    direction = rng.standard_normal((40, 3))
    direction[:, 2] = np.abs(direction[:, 2])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    curve = np.linspace(1, 0, 13).tolist()
    cones = {"direction": direction.tolist(), "resolution": at.tolist(),
             "quantiles": dict.fromkeys(("least", "low", "median", "high", "most"), curve)}
    source = cones_chart(cones, np.array(curve), 24, 3.0)
    greens = [int(colour[3:5], 16) for colour in re.findall(r'<circle cx=[^>]*fill="(#\w{6})"', source)]
    assert len(greens) == 40 and (np.ptp(greens) < 60 if shades == 20 else np.ptp(greens) > 180)
    assert all(f"<span>{end}</span>" in source for end in ends)


# on a phone


#: in a frame as wide as a phone: how large letters are, what is cut, and where tables say that they go on
PHONE = """
window.addEventListener("load", function () {
  var frame = document.getElementById("phone"), page = frame.contentDocument, told = {letters: [], cut: [], hidden: [], errors: window.failed};
  told.wide = page.documentElement.scrollWidth;
  page.querySelectorAll("svg.chart text").forEach(function (t) {
    var svg = t.ownerSVGElement, size = parseFloat(frame.contentWindow.getComputedStyle(t).fontSize);
    told.letters.push(size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
  });
  page.querySelectorAll("label, h2, dd, p").forEach(function (e) {
    if (e.getBoundingClientRect().right > 391) { told.cut.push(e.textContent.slice(0, 40)); }
  });
  page.querySelectorAll(".scroll").forEach(function (box) {
    var hint = box.nextElementSibling, shown = frame.contentWindow.getComputedStyle(hint).display !== "none";
    if (shown !== (box.scrollWidth > box.clientWidth + 1)) { told.hidden.push(box.textContent.slice(0, 40)); }
    told.sideways = (told.sideways || 0) + shown;
  });
  window.tell(told);
});
"""


def on_a_phone(browser, source, tmp_path):
    """A browser's window is no narrower than 500 pixels; a frame is."""
    framed = ('<html><head></head><body><iframe id="phone" style="width:390px;height:4000px;border:0" '
              f'srcdoc="{html.escape(source)}"></iframe></body></html>')
    (tmp_path / "phone.html").write_text(framed, encoding="utf-8")
    return browser(tmp_path / "phone.html", PHONE, 900, 900)


def test_a_phone_shows_letters_and_where_tables_go_on(selected, browser, tmp_path):
    told = on_a_phone(browser, selected[0], tmp_path)
    assert told["errors"] == [] and told["wide"] <= 390 and told["cut"] == [] and told["hidden"] == []
    assert told["sideways"] >= 2  # iterations and ranks are wide
    assert min(told["letters"]) > 9 and max(told["letters"]) < 20


def test_the_map_page_fits_a_phone(browser, tmp_path):
    from mpirecon.report.viewer import write_view

    z, y, x = np.mgrid[:16, :16, :16] - 8
    page = write_view(np.exp(-(x**2 + y**2 + z**2) / 10.0), 3.0, "m.mrc",
                      tmp_path / "v.html").read_text(encoding="utf-8")
    assert "Upwards" not in page and page.count("x →") == 2 and page.count("z ↑") == 2
    told = on_a_phone(browser, page, tmp_path)
    assert told["wide"] <= 390 and told["cut"] == []


#: frames are drawn when they are asked for: a busy machine's browser draws them when it likes
BY_HAND = """<script>window.queue = []; window.requestAnimationFrame = function (f) { window.queue.push(f); };
window.draw = function () { window.queue.splice(0).forEach(function (f) { f(); }); };</script>"""

#: two fingers that move apart on the surface
PINCH = """
window.addEventListener("load", function () {
  var surface = document.getElementById("surface"), told = {errors: window.failed, note: document.getElementById("note").textContent};
  function covered() {
    var flat = document.createElement("canvas"), count = 0;
    flat.width = flat.height = 60;
    var paint = flat.getContext("2d");
    window.draw();
    paint.drawImage(surface, 0, 0, 60, 60);
    var seen = paint.getImageData(0, 0, 60, 60).data;
    for (var i = 3; i < seen.length; i += 4) { if (seen[i] > 128) { count += 1; } }
    return count;
  }
  function finger(kind, id, x) {
    surface.dispatchEvent(new PointerEvent(kind, {pointerId: id, clientX: x, clientY: 50}));
  }
  told.before = covered();
  finger("pointerdown", 11, 100); finger("pointerdown", 12, 140);
  finger("pointermove", 11, 90); finger("pointermove", 12, 150);
  finger("pointerup", 11, 90); finger("pointerup", 12, 150);
  told.after = covered();
  window.tell(told);
});
"""


def test_two_fingers_come_nearer(browser, tmp_path):
    from mpirecon.report.viewer import write_view

    z, y, x = np.mgrid[:24, :24, :24] - 12
    page = write_view(np.exp(-(x**2 + y**2 + z**2) / 12.0), 3.0, "m.mrc", tmp_path / "v.html")
    source = page.read_text(encoding="utf-8").replace('width="900" height="900"', 'width="60" height="60"')
    page.write_text(source.replace("<head>", f"<head>{BY_HAND}", 1), encoding="utf-8")
    told = browser(page, PINCH, 1200, 900)
    assert told["errors"] == []
    if "no WebGL" not in told["note"]:
        assert told["after"] > 1.5 * told["before"] > 0  # 1.5 times as near
