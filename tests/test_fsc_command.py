"""The fsc command: crossings, table, figure, JSON, and what it refuses."""

import csv
import json

import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.io.mrc import write_map
from mpirecon.validate.fsc import crossing, fsc
from mpirecon.validate.fsc_table import text_plot
from mpirecon.validate.masks import soft_sphere
from mpirecon.validate.solvent_level import level_warning

BOX, PIXEL_SIZE = 24, 2.5


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """a.mrc and b.mrc, alike at low resolution, and mask.mrc, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    common = np.exp(-(x**2 + (y - 3) ** 2 + 2 * z**2) / 20) * rng.standard_normal((BOX,) * 3)
    a, b = (np.float32(common + 0.05 * rng.standard_normal((BOX,) * 3)) for _ in range(2))
    mask = soft_sphere(BOX, 7, 3)
    for name, array in (("a", a), ("b", b), ("mask", mask)):
        write_map(f"{name}.mrc", array, PIXEL_SIZE, overwrite=False)
    return a, b, mask


@pytest.fixture
def command(capsys):
    """``command(words…)`` runs ``mpirecon fsc words…`` → (exit code, stdout, stderr)."""

    def call(*words):
        code = run(["fsc", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_crossings_are_those_of_the_curves(maps, command):
    a, b, mask = maps
    code, out, _ = command("a.mrc", "b.mrc", "--mask", "mask.mrc")
    assert code == 0
    for label, curve in (("unmasked", fsc(a, b)), ("masked", fsc(a, b, mask))):
        line = next(line for line in out.splitlines() if line.startswith(label))
        for threshold in (0.5, 0.143):
            resolution = crossing(curve, threshold, BOX, PIXEL_SIZE)
            assert f"FSC {threshold:g} at " + (f"{resolution:.2f} Å" if resolution else "5.00 Å or better") in line


def test_json_table_and_figure(maps, command, tmp_path):
    a, b, mask = maps
    code, out, err = command("a.mrc", "b.mrc", "--mask", "mask.mrc", "--json", "--csv", "f.csv", "--plot", "f.png")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["box"] == BOX and result["pixel_size"] == PIXEL_SIZE and result["maps"] == ["a.mrc", "b.mrc"]
    np.testing.assert_allclose(result["fsc"], fsc(a, b), atol=1e-7)
    assert result["resolution"]["fsc_masked_05"] == crossing(fsc(a, b, mask), 0.5, BOX, PIXEL_SIZE)
    with open("f.csv") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["shell", "resolution", "fsc", "fsc_masked"] and len(table) == BOX // 2 + 1
    np.testing.assert_allclose([float(row["fsc_masked"]) for row in table], fsc(a, b, mask), atol=1e-6)
    assert float(table[3]["resolution"]) == BOX * PIXEL_SIZE / 3
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name, start", [("f.svg", b"<?xml"), ("f.pdf", b"%PDF")])
def test_the_figures_format_is_its_ending(maps, command, tmp_path, name, start):
    code, out, _ = command("a.mrc", "b.mrc", "--plot", name)
    assert code == 0 and f"wrote {name}" in out and (tmp_path / name).read_bytes().startswith(start)


def test_identical_maps_never_fall(maps, command):
    code, out, _ = command("a.mrc", "a.mrc")
    assert code == 0 and "5.00 Å or better (never falls below it)" in out
    assert json.loads(command("a.mrc", "a.mrc", "--json")[1])["resolution"] == {"fsc_05": None, "fsc_0143": None}


def test_existing_targets_are_kept_unless_asked_otherwise(maps, command, tmp_path):
    for option, name in (("--csv", "f.csv"), ("--plot", "f.png")):
        (tmp_path / name).write_text("mine")
        code, _, err = command("a.mrc", "b.mrc", option, name)
        assert code == 1 and f"{name} exists already" in err and (tmp_path / name).read_text() == "mine"
        assert command("a.mrc", "b.mrc", option, name, "--overwrite", "-q") == (0, "", "")
        assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    "words, said",
    [
        (["a.mrc"], ["SECOND"]),
        (["a.mrc", "missing.mrc"], ["missing.mrc"]),
        (["a.mrc", "text.mrc"], ["text.mrc", "not an MRC file"]),
        (["a.mrc", "truncated.mrc"], ["truncated.mrc", "truncated"]),
        (["a.mrc", "nan.mrc"], ["nan.mrc", "NaN"]),
        (["a.mrc", "flat.mrc"], ["flat.mrc", "constant"]),
        (["a.mrc", "larger.mrc"], ["24 pixels", "larger.mrc 26", "crop or pad"]),
        (["a.mrc", "coarser.mrc"], ["2.5 Å", "coarser.mrc of 2.6 Å", "rescale"]),
        (["a.mrc", "b.mrc", "--mask", "larger.mrc"], ["24 pixels", "the mask larger.mrc 26"]),
        (["a.mrc", "b.mrc", "--mask", "zero.mrc"], ["zero.mrc", "zero everywhere"]),
        (["a.mrc", "b.mrc", "--plot", "f.docx"], ["f.docx", ".png"]),
        (["a.mrc", "b.mrc", "--plot", "f"], ["without an ending", ".png"]),
        (["a.mrc", "b.mrc", "--csv", "nowhere/f.csv"], ["nowhere", "does not exist"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_file(maps, command, tmp_path, words, said):
    (tmp_path / "text.mrc").write_text("text " * 500)
    (tmp_path / "truncated.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:-400])
    (tmp_path / "nan.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:-4] + np.float32("nan").tobytes())
    write_map("flat.mrc", np.ones((BOX,) * 3), PIXEL_SIZE, overwrite=False)
    write_map("zero.mrc", np.zeros((BOX,) * 3), PIXEL_SIZE, overwrite=False)
    write_map("larger.mrc", np.zeros((26,) * 3), PIXEL_SIZE, overwrite=False)
    write_map("coarser.mrc", np.zeros((BOX,) * 3), 2.6, overwrite=False)
    before = set(tmp_path.iterdir())
    code, out, err = command(*words)
    assert code in (1, 2) and out == "" and "Traceback" not in err
    for text in said:
        assert text in err
    assert set(tmp_path.iterdir()) == before


def test_the_text_plot_falls_from_left_to_right():
    lines = text_plot(np.linspace(1, 0, 33), 64, 2.0, width=40).splitlines()
    stars = [line.find("*") for line in lines if "*" in line]
    assert stars == sorted(stars) and len({len(line) <= 50 for line in lines}) == 1
    assert lines[-1].split()[0] == "128" and lines[-1].endswith("4 Å")
    assert any(line.startswith(" 0.143") for line in lines) and any(line.startswith(" 0.500") for line in lines)


@pytest.mark.parametrize("level, warned", [(0.0, False), (1.0, True), (-1.0, True), (100.0, True)])
def test_a_level_of_the_solvent_that_the_mask_makes_a_shape_of_is_warned_of(level, warned, maps, command):
    """Noise on a level agrees in a mask, and in the first shells only by that."""
    rng = np.random.default_rng(1)
    first, second = (np.float32(level + rng.standard_normal((BOX,) * 3)) for _ in range(2))
    write_map("n1.mrc", first, PIXEL_SIZE, overwrite=False)
    write_map("n2.mrc", second, PIXEL_SIZE, overwrite=False)
    mask = maps[2]
    assert (fsc(first, second, mask)[1:3].min() > 0.8) == warned
    code, _, err = command("n1.mrc", "n2.mrc", "--mask", "mask.mrc")
    err = " ".join(err.split())
    assert code == 0 and ("the maps stand on a level of" in err) == warned
    assert ("Subtract the mean of its solvent from each map" in err) == warned
    assert "a level" not in command("n1.mrc", "n2.mrc")[2]


def test_levels_that_count_for_nothing_in_the_mask_are_not_warned_of(maps):
    """Nor is a part of the particle outside of the mask, nor levels of either sign, nor a mask without a solvent."""
    rng = np.random.default_rng(2)
    particle = 100 * soft_sphere(BOX, 8, 3)
    first, second = (np.float32(particle + rng.standard_normal((BOX,) * 3)) for _ in range(2))
    mask = maps[2]
    assert level_warning(first, second, mask) is None
    assert level_warning(first + 0.5, second + 0.5, mask) is None  # of the hundredfold particle
    assert level_warning(first, second, np.roll(soft_sphere(BOX, 3, 2), 4, 0)) is None
    noise = rng.standard_normal((2, BOX, BOX, BOX)).astype(np.float32)
    assert level_warning(noise[0] + 1, noise[1] - 1, mask) is None
    assert level_warning(noise[0] + 1, noise[1] + 1, np.ones_like(mask)) is None
    assert level_warning(noise[0] + 1, noise[1] + 1, None) is None
    inside = mask * noise * (mask >= 0.01)
    assert "a level of 3 and 2. The mask" in level_warning(inside[0] + 3, inside[1] + 2, mask)
