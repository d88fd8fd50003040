"""``mpirecon postprocess --local-resolution`` and ``mpirecon.local_resolution``: what they write, show and refuse."""

import json
import re

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map, write_map
from mpirecon.validate.local_resolution import local_resolution
from mpirecon.validate.masks import soft_sphere
from mpirecon.validate.windows import WindowOptions, Windows
from test_local_resolution import PIXEL, agreeing_to, noise, two_regions


def test_ranks_share_the_windows(mpirun, tmp_path):
    a, b = two_regions(48, 16.0, 8.0)
    for name, array in (("a", a), ("b", b)):
        write_map(tmp_path / f"{name}.mrc", array, PIXEL, overwrite=True)
    done = mpirun(2, ["-m", "mpirecon", "postprocess", "a.mrc", "b.mrc", "-o", "two", "--mask", "none", "--bfactor", 0,
                      "--locres"],
                  cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("wrote ") == 1
    alone = local_resolution(a, b, PIXEL)
    for name, one in (("locres", alone.map), ("locres_filtered", alone.filtered)):
        two = np.asarray(read_map(tmp_path / "two" / f"{name}.mrc").array)
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    done = mpirun(2, ["-m", "mpirecon", "postprocess", "a.mrc", "b.mrc", "-o", "no", "--mask", "none", "--locres",
                      "--locres-sampling", "1"],
                  cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("nearer to each other than "
                                                      "voxels") == 1 and not (tmp_path / "no").exists()


@pytest.fixture()
def half_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = two_regions(48, 16.0, 8.0)
    ball = soft_sphere(48, 12, 4)
    for name, array in (("a", a * ball + 0.3 * noise(48, 7)), ("b", b * ball + 0.3 * noise(48, 8)),
                        ("flat", np.zeros_like(a))):
        write_map(f"{name}.mrc", array, PIXEL, overwrite=True)
    write_map("mask.mrc", soft_sphere(48, 12, 4), PIXEL, overwrite=True)
    return tmp_path


def command(capsys, *words):
    code = run([str(w) for w in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_writes_maps_and_a_page(half_maps, capsys):
    words = ["postprocess", "a.mrc", "b.mrc", "-o", "post", "--mask", "mask.mrc", "--bfactor", "-50"]
    code, out, err = command(capsys, *words, "--local-resolution", "--json")
    assert code == 0, err
    told = json.loads(out)["local_resolution"]
    assert told == json.loads((half_maps / "post/postprocess.json").read_text())["local_resolution"]
    local, filtered = (read_map(f"post/{name}.mrc") for name in ("locres", "locres_filtered"))
    bare = mr.local_resolution("a.mrc", "b.mrc", "mask.mrc", bfactor=-50)
    np.testing.assert_allclose(local.array, bare.volume.array, rtol=1e-5)
    np.testing.assert_allclose(filtered.array, bare.filtered.array, atol=1e-5)
    assert told["median"] == pytest.approx(bare.median) and told["masked"] and sum(told["histogram"]["voxels"]) > 1000
    page = (half_maps / "post/locres.html").read_text()
    assert (page.count("data:image/png") == 6 and "Histogram of the local resolution" in page
            and f"{told['median']:.2f} Å" in page)
    code, _, err = command(capsys, *words, "--local-resolution")
    assert code == 1 and "exists already" in err
    # of other half maps, or another mask, nothing stays that would pass for theirs
    code, out, _ = command(capsys, *words, "--overwrite")
    assert code == 0 and not (half_maps / "post/locres.mrc").exists() and not (half_maps / "post/locres.html").exists()
    code, out, _ = command(capsys, *words[:5], "--mask", "none", "--overwrite")
    assert code == 0 and "mask: none" in out and sorted(p.name for p in (half_maps / "post").iterdir()) == [
        "fsc.csv", "postprocess.json", "sharpened.mrc"]


def test_half_maps_that_are_one_map_are_warned_of(half_maps, capsys):
    for words in (["--locres"], ["--overwrite"]):
        code, _, err = command(capsys, "postprocess", "a.mrc", "a.mrc", "-o", "post", "--mask", "mask.mrc", *words)
        assert code == 0 and err.count("the two half maps are the same map") == 1, err


def test_half_maps_that_were_masked_are_warned_of(half_maps, capsys):
    for name in ("a", "b"):
        write_map(f"m{name}.mrc", read_map(f"{name}.mrc").array * soft_sphere(48, 8, 4), PIXEL, overwrite=True)
    code, _, err = command(capsys, "postprocess", "ma.mrc", "mb.mrc", "-o", "post", "--mask", "mask.mrc")
    assert code == 0 and err.count("they were masked") == 1, err


def test_a_page_about_nothing_but_noise(half_maps, capsys):
    for name, seed in (("n1", 0), ("n2", 1)):
        write_map(f"{name}.mrc", noise(48, seed), PIXEL, overwrite=True)
    code, _, err = command(capsys, "postprocess", "n1.mrc", "n2.mrc", "-o", "post", "--locres")
    assert code == 1 and "--mask none" in err
    code, out, err = command(capsys, "postprocess", "n1.mrc", "n2.mrc", "-o", "post", "--locres", "--mask", "none")
    assert code == 0 and "local resolution: none in the box: the half maps agree in no window" in out, err
    assert "no local resolution could be determined" in (half_maps / "post/locres.html").read_text()
    values = np.unique(read_map("post/locres.mrc").array)
    assert values == pytest.approx([0, 50], rel=1e-4) or (values[0] == 0 and values[1:] == pytest.approx(50, rel=1e-4))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mrc", "-o", "out"], "a.mrc is one half map: give the other one too"),
        (["a.mrc", "b.mrc"], "-o FOLDER"),
        ([".", "b.mrc", "-o", "out"], r"\. is a folder"),
        (["."], "-o FOLDER"),
        ([".", "--locres"], "no summary.json"),
        ([".", "--locres", "--lowpass", "5"], "--lowpass: only the local resolution is added to the folder of a run"),
        (["flat.mrc", "b.mrc", "-o", "out", "--locres"], "flat.mrc: the map is constant"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-sampling", "1"], "nearer to each other than voxels"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-maskrad", "60"], "does not fit a box of 96 Å"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-minres", "3"], "finer than Nyquist, 4 Å"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-randomize-at", "97"], "longer than the box, 96 Å"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-maskrad", "2", "--locres-edgwidth", "2"],
         "reach 2 voxels"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-maskrad", "5", "--locres-edgwidth", "5"],
         "leave gaps between them"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres", "--locres-threshold", "1"], "threshold of 1 makes no sense"),
        (["a.mrc", "b.mrc", "-o", "out", "--locres-sampling", "20"],
         "--locres-sampling has no effect without --local-resolution: give that too"),
        ([".", "-o", "out", "--locres-threshold", "0.143"], "--locres-threshold has no effect"),
    ],
)
def test_what_is_refused(half_maps, capsys, words, message):
    code, _, err = command(capsys, "postprocess", *words, *([] if "flat.mrc" in words else ["--mask", "mask.mrc"]))
    assert code == 1 and re.search(message, err.replace("\n", " ")), err
    assert err.count("Error") == 1 and not (half_maps / "out").exists()


def test_too_many_windows_are_refused():
    with pytest.raises(UserError, match="some .* windows in this box"):
        Windows.of(512, 1.0, WindowOptions(2.0, 2.0, 4.0))


def test_what_the_function_refuses():
    a = noise(32, 0)
    for words, message in (((a, a * 0), "half map 2 is constant"), ((a, a[:16, :16, :16]), "a box of 32"),
                           ((a, a, a * 0), "mask values run"),
                           ((a, np.where(a > 3, np.nan, a)), "NaN")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            mr.local_resolution(*words, pixel_size=PIXEL)
    for options in ({"sampling": -1.0}, {"threshold": 2.0}, {"threads": 0}, {"edge": float("nan")}):
        with pytest.raises(UserError):
            mr.local_resolution(a, noise(32, 1), pixel_size=PIXEL, **options)
    found = mr.local_resolution(*agreeing_to(32, 12.0), pixel_size=PIXEL)
    assert "data:image/png" in found._repr_html_() and found.volume.pixel_size == PIXEL and 9 < found.median < 15


def test_a_finished_run_shows_its_local_resolution(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("simulate --phantom --particles 400 --box 32 --pixel-size 4 --snr 0.5 -o p.h5 -q".split()) == 0
    assert run("reconstruct p.h5 -o run1 -q".split()) == 0
    before = (tmp_path / "run1/report.html").read_text()
    assert "Local resolution" not in before
    code, out, err = command(capsys, "postprocess", "run1", "--local-resolution")
    assert code == 0 and "wrote run1: locres.mrc, locres_filtered.mrc, summary.json, report.html" in out, err
    summary = json.loads((tmp_path / "run1/summary.json").read_text())
    assert summary["local_resolution"]["median"] > 8 and {"locres.mrc", "report.html",
                                                          "half1.mrc"} <= set(summary["files"])
    mask = np.asarray(read_map("run1/mask.mrc").array)
    assert np.array_equal(np.asarray(read_map("run1/locres.mrc").array) > 0, mask > 0)
    page = (tmp_path / "run1/report.html").read_text()
    assert "<h2>Local resolution</h2>" in page and "Histogram of the local resolution" in page
    assert run(["report", "run1", "-q"]) == 0 and (tmp_path / "run1/report.html").read_text() == page
    code, _, err = command(capsys, "postprocess", "run1", "--local-resolution")
    assert code == 1 and "run1/locres.mrc exists already" in err
    assert command(capsys, "postprocess", "run1", "--local-resolution", "--overwrite", "--mask", "none")[0] == 0
    assert not json.loads((tmp_path / "run1/summary.json").read_text())["local_resolution"]["masked"]
    # its half maps, post-processed anew
    code, out, _ = command(capsys, "postprocess", "run1", "-o", "post", "--locres")
    assert code == 0 and (tmp_path / "post/sharpened.mrc").exists()
    # another run in its place: no local resolution of maps that are gone
    assert run("reconstruct p.h5 -o run1 --overwrite --seed 2 -q".split()) == 0
    assert not (tmp_path / "run1/locres.mrc").exists() and not (tmp_path / "run1/locres_filtered.mrc").exists()
    assert "Local resolution" not in (tmp_path / "run1/report.html").read_text()
