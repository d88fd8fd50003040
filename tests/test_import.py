"""Import of RELION sets: each image keeps its own pose and CTF, and every bad input is one clear message."""

from __future__ import annotations


import h5py
import numpy as np
import pandas as pd
import pytest
from importing import run

from mpirecon.io import import_images, importer
from mpirecon.io.star import read_star
from mpirecon.model.pose import matrix_from_quaternion
from importing import N, OPTICS, line_of, make, pixels, refused, save_stack, table


def relion_matrix(rot, tilt, psi) -> np.ndarray:
    """R(rot, tilt, psi) as a product of three turns, in RELION's sense."""
    def z(a):
        return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def y(a):
        return np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])

    rot, tilt, psi = np.radians([rot, tilt, psi])
    return z(psi) @ y(tilt) @ z(rot)


def test_poses_ctf_and_images(tmp_path):
    file, text = run(make(tmp_path))
    assert "8 particles of 6 x 6 pixels, 2.5 Å/px, float32, half sets of 4 and 4" in text
    found = file.metadata(0, 8)
    for i in range(8):
        matrix = matrix_from_quaternion(found.pose.quaternion[i])
        np.testing.assert_allclose(matrix, relion_matrix(10.0 * i, 20.0 + i, -30.0 - i), atol=1e-12)
        assert tuple(found.pose.shift[i]) == (-0.5 * i, 1.0 * i)
        assert found.ctf[i].item() == pytest.approx(
            (300, 10000 + i, 9000 + i, np.radians(45 + i), 2.7, 0.1, 0, 0, 1))
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    np.testing.assert_array_equal(found.half, [1, 2] * 4)
    assert found.pixel_size == 2.5 and not found.ctf_premultiplied and found.pose_error is None and not file.has_truth


def test_optional_ctf_columns(tmp_path):
    star = make(tmp_path, table(rlnPhaseShift=90.0, rlnCtfBfactor=50.0, rlnCtfScalefactor=0.5, rlnVoltage=200.0))
    ctf = run(star)[0].metadata(0, 8).ctf
    assert ctf["phase_shift"] == pytest.approx(np.pi / 2) and set(ctf["bfactor"]) == {50} and set(ctf["scale"]) == {0.5}
    assert set(ctf["voltage_kv"]) == {200}  # a particle's own value comes before its group's


def test_interleaved_optics_groups_keep_the_rows(tmp_path):
    """Groups 7, 2 and 40, listed out of order and interleaved in the table: no row may move."""
    groups = np.array([40, 2, 7, 2, 40, 7, 7, 2, 40, 40])
    voltage = {7: 300, 2: 200, 40: 100}
    optics = {**{label: values * 3 for label, values in OPTICS.items()}, "rlnOpticsGroup": [7, 2, 40],
              "rlnVoltage": [300, 200, 100], "rlnAmplitudeContrast": [0.07, 0.02, 0.4]}
    file, _ = run(make(tmp_path, table(10, rlnOpticsGroup=groups), optics))
    found = file.metadata(0, 10)
    np.testing.assert_array_equal(found.optics_group, groups)
    np.testing.assert_array_equal(file.images(slice(None))[:, 0, 0], np.arange(10))  # images tagged by row
    np.testing.assert_array_equal(found.ctf["defocus_u"], 10000 + np.arange(10))
    np.testing.assert_array_equal(found.pose.shift[:, 1], np.arange(10))
    np.testing.assert_array_equal(found.ctf["voltage_kv"], [voltage[g] for g in groups])
    np.testing.assert_allclose(found.ctf["amplitude_contrast"], groups / 100)


def test_rows_in_any_order_over_several_stacks(tmp_path, monkeypatch):
    monkeypatch.setattr(import_images, "BATCH_BYTES", 4 * N * N * 3)  # batches of 3 images
    names = ["5@b.mrcs", "2@a.mrcs", "1@b.mrcs", "2@b.mrcs", "1@a.mrcs", "5@b.mrcs", "3@a.mrcs", "4@b.mrcs"]
    stacks = {"a.mrcs": pixels([11, 12, 13]), "b.mrcs": pixels([21, 22, 23, 24, 25])}
    file, _ = run(make(tmp_path, table(rlnImageName=names, rlnRandomSubset=1), stacks=stacks))
    np.testing.assert_array_equal(file.images(slice(None))[:, 0, 0], [25, 12, 21, 22, 11, 25, 13, 24])


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_a_batch_holds_few_images(tmp_path, monkeypatch, chunk):
    """Memory does not grow with the stack: no read is larger than a batch."""
    monkeypatch.setattr(import_images, "BATCH_BYTES", 4 * N * N * chunk)
    sizes = []
    read = importer.StackReader.read
    monkeypatch.setattr(importer.StackReader, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    file, _ = run(make(tmp_path))
    assert max(sizes) == chunk and sum(sizes) == 8
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))


@pytest.mark.parametrize(
    ("columns", "pixel_size"),
    [
        ({"rlnMagnification": 20000.0, "rlnDetectorPixelSize": 5.0}, 2.5),
        ({"rlnPixelSize": 1.25}, 1.25),
        ({"rlnPixelSize": 2.5, "rlnMagnification": 20000.0, "rlnDetectorPixelSize": 5.0}, 2.5),
    ],
)
def test_relion_30_tables(tmp_path, columns, pixel_size):
    """Shifts in pixels, CTF per particle, no optics table, block data_images."""
    row = np.arange(8)
    particles = table(
        rlnOriginXAngst=None, rlnOriginYAngst=None, rlnOpticsGroup=None, rlnOriginX=1.0 * row, rlnOriginY=-2.0 * row,
        rlnVoltage=300.0, rlnSphericalAberration=2.7, rlnAmplitudeContrast=0.1, **columns,
    )
    star = make(tmp_path, particles, optics=None)
    star.write_text(star.read_text().replace("data_particles", "data_images"))
    file, _ = run(star)
    assert file.pixel_size == pytest.approx(pixel_size)
    shift = file.metadata(0, 8).pose.shift
    np.testing.assert_allclose(shift, np.stack([-row, 2 * row], axis=1) * pixel_size, atol=1e-12)
    np.testing.assert_array_equal(file.metadata(0, 8).optics_group, np.ones(8))


def test_without_origins_particles_are_centred_and_reported(tmp_path):
    file, text = run(make(tmp_path, table(rlnOriginXAngst=None, rlnOriginYAngst=None)))
    assert not file.metadata(0, 8).pose.shift.any() and "taken as centred" in text


def test_options_supply_what_is_missing(tmp_path):
    optics = {label: OPTICS[label] for label in ("rlnOpticsGroup",)}
    star = make(tmp_path, optics=optics)
    options = ["--voltage", 120, "--cs", 1.5, "--amplitude-contrast", 0.2, "--pixel-size", 3.5]
    file, text = run(star, *options)
    ctf = file.metadata(0, 8).ctf[0]
    assert (ctf["voltage_kv"], ctf["cs_mm"], ctf["amplitude_contrast"], file.pixel_size) == (120, 1.5, 0.2, 3.5)
    assert "instead of" not in text
    message = refused(star, "rlnVoltage, rlnSphericalAberration, rlnAmplitudeContrast", *options[6:])
    assert "--voltage, --cs, --amplitude-contrast" in message
    refused(star, "no pixel size .* give --pixel-size", *options[:6])
    file, text = run(make(tmp_path), "--pixel-size", 3, "--overwrite")
    assert file.pixel_size == 3 and "--pixel-size 3 is used instead of rlnImagePixelSize" in text


@pytest.mark.parametrize(("dtype", "stored"),
                         [("f2", "float16"), ("f4", "float32"), ("i2", "float32"), ("i1", "float32")])
def test_image_types(tmp_path, dtype, stored):
    star = make(tmp_path, stacks={"stacks/a.mrcs": pixels(range(8), dtype)})
    with h5py.File(run(star)[0].path) as file:
        assert file["images"].dtype == stored
        np.testing.assert_array_equal(file["images"][:], pixels(range(8)))
    other = "float32" if stored == "float16" else "float16"
    with h5py.File(run(star, "--dtype", other, "--overwrite")[0].path) as file:
        assert file["images"].dtype == other


def test_mixed_image_types_become_float32(tmp_path):
    stacks = {"a.mrcs": pixels(range(4), "f2"), "b.mrcs": pixels(range(4, 8)) + 0.1}
    names = [f"{i % 4 + 1}@{'ab'[i // 4]}.mrcs" for i in range(8)]
    file, text = run(make(tmp_path, table(rlnImageName=names), stacks=stacks))
    assert "float32" in text
    np.testing.assert_array_equal(file.images(np.array([0, 7])), [stacks["a.mrcs"][0], stacks["b.mrcs"][3]])


def test_half_sets_by_seed_and_particle(tmp_path):
    names = np.repeat([f"tomo/{i}" for i in range(40)], 5)
    particles = table(200, rlnRandomSubset=None, rlnTomoParticleName=np.random.default_rng(0).permutation(names))
    star = make(tmp_path, particles)
    file, text = run(star, "--seed", 3)
    assert "half sets of 200 of 200 images were drawn with seed 3" in text and "(40 particles)" in text
    halves = pd.Series(file.halves()).groupby(particles["rlnTomoParticleName"]).nunique()
    assert set(halves) == {1} and set(file.halves()) == {1, 2}
    again = run(star, "--seed", 3, "--overwrite")[0].halves()
    np.testing.assert_array_equal(file.halves(), again)
    assert (run(star, "--seed", 4, "--overwrite")[0].halves() != again).any()


def test_a_drawn_half_depends_on_no_other_row(tmp_path):
    star = make(tmp_path, table(60, rlnRandomSubset=None))
    drawn = run(star)[0].halves()
    some = np.where(np.arange(60) % 7 == 0, 1, 0)
    again = run(make(tmp_path, table(60, rlnRandomSubset=some)), "--overwrite")[0].halves()
    np.testing.assert_array_equal(again, np.where(some == 1, 1, drawn))


def test_rows_of_half_zero_join_their_particle_or_are_drawn(tmp_path):
    particles = table(rlnRandomSubset=[0, 2, 1, 0, 0, 0, 0, 1], rlnTomoParticleName=list("aabbcccc"))
    file, text = run(make(tmp_path, particles))
    np.testing.assert_array_equal(file.halves(), [2, 2, 1, 1, 1, 1, 1, 1])
    assert "half sets of 5 of 8" in text


def test_an_image_in_both_halves_is_a_warning(tmp_path):
    names = ["1@stacks/a.mrcs", "1@stacks/a.mrcs", *[f"{i}@stacks/a.mrcs" for i in range(3, 9)]]
    _, text = run(make(tmp_path, table(rlnImageName=names)))
    assert "Warning: 1 images are in both half sets" in text
    _, text = run(make(tmp_path, table(rlnImageName=names, rlnRandomSubset=None)), "--overwrite")
    assert "both half sets" not in text  # drawn halves keep one image in one half
    _, text = run(make(tmp_path, table(rlnRandomSubset=1)), "--overwrite")
    assert "Warning: one half set is empty" in text


def test_planted_errors_keep_the_truth(tmp_path):
    star = make(tmp_path, table(200))
    clean = run(star)[0].metadata(0, 200)
    file, text = run(star, "--orientation-error-rate", 0.3, "--seed", 5, "--overwrite")
    found = file.metadata(0, 200)
    flag = found.pose_error
    assert 35 < flag.sum() < 85 and f"simulated errors: {flag.sum()} wrong poses" in text
    np.testing.assert_allclose(found.true_quaternion, clean.pose.quaternion, rtol=1e-14)
    wrong = np.abs((found.pose.quaternion * clean.pose.quaternion).sum(axis=1)) < 0.99999
    np.testing.assert_array_equal(wrong, flag)
    small = run(star, "--orientation-error-rate", 0.3, "--error-kind", "small:3", "--seed", 5,
                "--overwrite")[0].metadata(0, 200)
    np.testing.assert_array_equal(small.pose_error, flag)
    cosine = np.abs((small.pose.quaternion * clean.pose.quaternion).sum(axis=1))
    angle = 2 * np.degrees(np.arccos(np.clip(cosine, 0, 1)))
    assert 0.5 < angle[flag].mean() < 6 and angle[~flag].max() < 1e-4


def test_source_tables_are_lossless(tmp_path):
    star = make(tmp_path, table(rlnCustom=["a b", "", "é", "0.10", "1e3", "#", "it's", "007"]))
    name, tables = run(star)[0].source()
    assert name == str(star)
    for block, wanted in read_star(star).items():
        assert list(tables[block].columns) == list(wanted.columns)
        assert tables[block].to_numpy(object).tolist() == wanted.to_numpy(object).tolist()


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize("batch", [1, 5, 100])
def test_skipped_images_are_listed_and_left_out_everywhere(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(import_images, "BATCH_BYTES", 4 * N * N * batch)
    images = pixels(range(40))
    images[7, 2, 3], images[11], images[30, 0, 1] = np.nan, 4.0, np.inf
    particles = table(40, rlnRandomSubset=None)
    star = make(tmp_path, particles, stacks={"stacks/a.mrcs": images})
    whole = make(tmp_path, particles, stacks={"stacks/b.mrcs": pixels(range(40))}, name="whole.star")
    whole.write_text(whole.read_text().replace("a.mrcs", "b.mrcs"))
    complete = run(whole, "--orientation-error-rate", 0.5, output=tmp_path / "whole.h5")[0].metadata(0, 40)
    file, text = run(star, "--skip-bad", "--orientation-error-rate", 0.5)
    kept = np.setdiff1d(np.arange(40), [7, 11, 30])
    assert "37 particles" in text and "Warning: 3 bad images were skipped" in text
    for row, reason in ((7, "NaN"), (11, "is constant"), (30, "infinite")):
        assert any(f"line {line_of(star, f'{row + 1:06d}@')} (image {row + 1}@stacks/a.mrcs)" in line and reason in line
                   for line in text.split("\n"))
    np.testing.assert_array_equal(file.images(slice(None)), images[kept])
    found = file.metadata(0, 37)
    np.testing.assert_array_equal(found.ctf["defocus_u"], 10000 + kept)
    np.testing.assert_array_equal(found.half, complete.half[kept])  # what is left is as if nothing was skipped
    np.testing.assert_array_equal(found.pose_error, complete.pose_error[kept])
    assert list(file.source()[1]["particles"]["rlnImageName"]) == [f"{i + 1:06d}@stacks/a.mrcs" for i in kept]
    refused(star, r"line \d+ \(image 8@stacks/a.mrcs\) has NaN or infinite pixels; .* --skip-bad")
    refused(star, "3 of 40 images are bad, more than --max-bad 0.05", "--skip-bad", "--max-bad", 0.05)


# --- where stacks are found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place",
                         ["rel/stacks/a.mrcs", "data/stacks/a.mrcs", "stacks/a.mrcs", "data/a.mrcs", "rel/a.mrcs"])
def test_stacks_are_found(tmp_path, place):
    (tmp_path / "rel").mkdir()
    (tmp_path / "data").mkdir()
    star = make(tmp_path / "rel", stacks={f"../{place}": pixels(range(8))})
    file, text = run(star, "--data-dir", tmp_path / "data")
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    guessed = place.startswith("data") or place == "rel/a.mrcs"
    assert ("image paths were mapped: stacks/a.mrcs is read from" in text) == guessed


def test_absolute_paths(tmp_path):
    save_stack(tmp_path / "far" / "x.mrcs", pixels(range(8)))
    particles = table(rlnImageName=[f"{i + 1}@{tmp_path}/far/x.mrcs" for i in range(8)])
    file, text = run(make(tmp_path, particles, stacks={}))
    assert len(file) == 8 and "mapped" not in text


@pytest.mark.parametrize("option", [["--stack", "far/x.mrcs"], ["--map-stack", "a.mrcs=far/x.mrcs"],
                                    ["--map-stack", "stacks/a.mrcs=far/x.mrcs"]])
def test_a_stack_can_be_named(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    save_stack(tmp_path / "far" / "x.mrcs", pixels(range(8)))
    star = make(tmp_path, stacks={})
    file, text = run(star, *option)
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    assert "stacks/a.mrcs is read from far/x.mrcs" in text


def test_stacks_that_would_be_confused_are_refused(tmp_path):
    """Two folders hold stacks of one name; a guess by name would pair images with poses of others."""
    names = [f"{i % 4 + 1}@{'xy'[i // 4]}/a.mrcs" for i in range(8)]
    star = make(tmp_path, table(rlnImageName=names), stacks={"a.mrcs": pixels(range(8))})
    refused(star, "the stacks x/a.mrcs and y/a.mrcs would both be read from")
    refused(star, "--stack cannot hold all images", "--stack", tmp_path / "a.mrcs")
    distinct = [f"{i + 1}@{'xy'[i // 4]}/a.mrcs" for i in range(8)]
    star = make(tmp_path, table(rlnImageName=distinct), stacks={"a.mrcs": pixels(range(8))})
    assert len(run(star, "--stack", tmp_path / "a.mrcs")[0]) == 8


def test_the_command_line_in_a_process_of_its_own(tmp_path, cli):
    star = make(tmp_path)
    done = cli("import", star, "-o", tmp_path / "o.h5")
    assert (done.returncode, done.stderr) == (0, "") and "8 particles" in done.stdout
    (tmp_path / "stacks" / "a.mrcs").unlink()
    failed = cli("import", star, "-o", tmp_path / "q.h5")
    assert failed.returncode == 1 and failed.stdout == "" and not (tmp_path / "q.h5").exists()
    assert failed.stderr.startswith(f"Error: {star}, line ") and failed.stderr.count("\n") == 1
    unknown = cli("import", star, "-o", tmp_path / "q.h5", "--dtype", "float64")
    assert unknown.returncode == 2 and "Invalid value for '--dtype'" in unknown.stderr
    quiet = cli("import", make(tmp_path), "-o", tmp_path / "q.h5", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
