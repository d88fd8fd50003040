"""``mpirecon view``: a page about a map, and slices in the terminal."""

import re

import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.io.mrc import write_map
from mpirecon.report.viewer import coarsened, surface_level, terminal_view, write_view

PIXEL = 2.5


def ball(n=40, at=(4, 0, -6)):
    """A ball off the centre, at (z, y, x) voxels from it, in weak noise."""
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    noise = 0.05 * np.random.default_rng(1).standard_normal((n,) * 3)
    return np.float32((((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2) < (n / 6) ** 2) + noise)


#: what the page shows: does the surface's canvas hold anything, and where is the brightest point of each slice?
LOOK = """
window.addEventListener("load", function () { window.requestAnimationFrame(function () {
  var surface = document.getElementById("surface"), flat = document.createElement("canvas"), told = {errors: window.failed};
  flat.width = flat.height = 90;
  var paint = flat.getContext("2d");
  paint.drawImage(surface, 0, 0, 90, 90);
  var seen = paint.getImageData(0, 0, 90, 90).data, count = 0;
  for (var i = 3; i < seen.length; i += 4) { if (seen[i] > 128) { count += 1; } }
  told.covered = count / 8100;
  told.note = document.getElementById("note").textContent;
  told.level = document.getElementById("leveltext").textContent;
  document.getElementById("r0").value = 24;
  document.getElementById("r0").dispatchEvent(new Event("input"));
  told.moved = document.getElementById("t0").textContent;
  var slice = document.getElementById("s0"), n = slice.width, data = slice.getContext("2d").getImageData(0, 0, n, n).data;
  var sum = 0, across = 0, up = 0;
  for (var v = 0; v < n; v += 1) { for (var u = 0; u < n; u += 1) {
    var bright = data[4 * (v * n + u)] > 128 ? 1 : 0;
    sum += bright; across += bright * u; up += bright * (n - 1 - v);
  } }
  told.centre = [across / sum - n / 2, up / sum - n / 2];
  told.wide = document.documentElement.scrollWidth <= window.innerWidth;
  window.tell(told);
}); });
"""


def test_the_page_shows_surface_and_slices(tmp_path, browser):
    page = write_view(ball(), PIXEL, "ball.mrc", tmp_path / "v.html")
    # without a graphics card a surface of full size takes long
    page.write_text(page.read_text().replace('width="900" height="900"', 'width="150" height="150"'))
    told = browser(page, LOOK, 1200, 900)
    assert told["errors"] == [] and told["wide"]
    if "no WebGL" not in told["note"]:
        assert 0.02 < told["covered"] < 0.4
    assert told["moved"] == "z = 10.0 Å"
    assert told["centre"] == pytest.approx([-6, 0], abs=1.0)  # x to the right, y upwards


def test_the_page_needs_nothing_else_and_is_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_map("big.mrc", ball(130), PIXEL, overwrite=False)
    assert run(["view", "big.mrc", "-q"]) == 0
    source = (tmp_path / "big.html").read_text(encoding="utf-8")
    assert len(source) < 2_000_000 and "coarsened to 96 voxels" in source
    outside = re.sub(r'base64,[^"]*"', "", source)
    assert not re.search(r"https?:|@import|url\(|fetch\(|src=\"[^d]", outside)
    assert run(["view", "big.mrc", "-q"]) == 1  # exists
    assert run(["view", "big.mrc", "-q", "--overwrite", "--size", "32"]) == 0
    assert len((tmp_path / "big.html").read_text(encoding="utf-8")) < len(source)
    assert run(["view", "big.mrc", "--terminal", "--open"]) == 1


def test_names_are_escaped(tmp_path):
    page = write_view(ball(24), PIXEL, "<script>alert(1)</script>", tmp_path / "v.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page


def test_coarsening_keeps_low_frequencies_and_the_scale():
    n, m = 48, 32
    x = 2 * np.pi * np.arange(n) / n
    wave = np.broadcast_to(2 + np.cos(3 * x), (n,) * 3).astype(np.float32)
    small = coarsened(wave, m)
    expected = 2 + np.cos(3 * 2 * np.pi * np.arange(m) / m)
    np.testing.assert_allclose(small, np.broadcast_to(expected, (m,) * 3), atol=1e-4)
    assert coarsened(wave, 64) is wave


def test_the_first_surface_is_around_the_particle():
    volume = ball()
    inside = volume > surface_level(volume)
    assert 0.5 * (4 / 3 * np.pi * (40 / 6) ** 3) < inside.sum() < 1.2 * (4 / 3 * np.pi * (40 / 6) ** 3)


def test_terminal_pictures(tmp_path, capsys):
    write_map(tmp_path / "b.mrc", ball(), PIXEL, overwrite=False)
    assert run(["view", str(tmp_path / "b.mrc"), "--terminal"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "@" in out and "projections xy" in out and "100 Å across" in out
    assert not (tmp_path / "b.html").exists()
    rows = [line for line in terminal_view(ball(at=(0, 8, -8)), PIXEL, colour=False, columns=100).splitlines()][1:]
    bright = [(i, line[:32].find("@")) for i, line in enumerate(rows[:16]) if "@" in line[:32]]
    assert bright and all(i < 8 and 0 <= at < 16 for i, at in bright)  # +y is up, −x is left
    assert "\x1b[38;5;" in terminal_view(ball(), PIXEL, colour=True, columns=60)


@pytest.mark.parametrize("n", [16, 33, 50])
def test_terminal_pictures_of_any_size(n):
    for colour in (True, False):
        assert terminal_view(ball(n, (0, 0, 0)), PIXEL, colour=colour, columns=40)
    assert terminal_view(np.zeros((n,) * 3, np.float32), PIXEL, colour=False)
