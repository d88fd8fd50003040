"""Export: nothing of the source is lost, weights and scores are added, and RELION reads what comes out."""

from __future__ import annotations

import json
import shutil
import subprocess

import mrcfile
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import OPTICS, make, pixels, run, table
from test_cryosparc import make as make_cs
from test_cryosparc import run as import_cs
from test_real_data import SETS, STACKS

from mpirecon.io.cryosparc import read_cryosparc
from mpirecon.io.cs_file import read_cs
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.relion import read_relion
from mpirecon.io.run_output import write_summary
from mpirecon.io.star import read_star, write_star
from exporting import KEPT, export, finish, refused

needs_relion = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="needs relion_reconstruct")


def same_particles(a, b, rows=slice(None)):
    """Two particle files (the first: its `rows`) hold the same poses, CTFs, half sets and images."""
    with ParticleFile(a) as one, ParticleFile(b) as two:
        x, y = one.metadata(), two.metadata()
        np.testing.assert_allclose(x.pose.matrices()[rows], y.pose.matrices(), atol=1e-7)
        np.testing.assert_allclose(x.pose.shift[rows], y.pose.shift, atol=1e-6)
        for name in x.ctf.dtype.names:
            np.testing.assert_allclose(x.ctf[name][rows], y.ctf[name], rtol=1e-6)
        for name in ("half", "optics_group"):
            np.testing.assert_array_equal(getattr(x, name)[rows], getattr(y, name))
        optics = one.aberrations(), two.aberrations()
        assert (optics[0] is None) == (optics[1] is None)
        if optics[0] is not None:
            for name in ("magnification", "odd", "even", "mtf"):
                first, second = (getattr(o, name)[o.rows(p.optics_group)] for o, p in zip(optics, (x, y)))
                np.testing.assert_allclose(first[rows], second, rtol=1e-6, atol=1e-12)
        assert one.pixel_size == pytest.approx(two.pixel_size, rel=1e-9) and x.ctf_premultiplied == y.ctf_premultiplied
        np.testing.assert_array_equal(one.images(slice(None))[rows], two.images(slice(None)))


def test_aberrations_survive(tmp_path):
    """STAR to STAR, .cs to .cs, and .cs to STAR, where beam tilt becomes Zernike coefficients."""
    optics = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [2, 1],
              "rlnBeamTiltX": [0.31, 0], "rlnOddZernike": ["[0.1,0,-3.25]", "[]"],
              "rlnEvenZernike": ["[0,1.5,0,2]", "[0.5]"],
              "rlnMagMat00": [1.01, 1], "rlnMagMat01": [0.002, 0], "rlnMagMat10": [0.003, 0], "rlnMagMat11": [0.98, 1]}
    (tmp_path / "star").mkdir()
    file, _ = run(make(tmp_path / "star", table(rlnOpticsGroup=[1, 2] * 4), optics))
    folder = finish(file.path, tmp_path / "run1")
    export(folder, "--star", tmp_path / "star" / "kept.star")
    again, _ = run(tmp_path / "star" / "kept.star", output=tmp_path / "star.h5")
    same_particles(file.path, again.path, KEPT)
    tilt, matrix = np.zeros((8, 2), "f4"), np.zeros((8, 4), "f4")
    tilt[4:], matrix[1:3] = (700.0, -300.0), (0.01, -0.02, 0.005, 0.003)
    path = make_cs(tmp_path, ctf__tilt_A=tilt, ctf__anisomag=matrix, ctf__exp_group_id=np.zeros(8, "u4"),
                   ctf__tetra_A=np.full((8, 4), 3000, "f4"))
    file, _ = import_cs(path, "--cs-aberrations", "all")
    assert file.aberrations().odd.any() and file.aberrations().even.any()
    folder = finish(file.path, tmp_path / "run2")
    export(folder, "--cs", tmp_path / "kept.cs")
    again, _ = import_cs(tmp_path / "kept.cs", "--cs-aberrations", "all", output=tmp_path / "cs.h5")
    same_particles(file.path, again.path, KEPT)
    export(folder, "--star", tmp_path / "kept.star")
    same_particles(file.path, run(tmp_path / "kept.star", output=tmp_path / "both.h5")[0].path, KEPT)


# --- STAR ---------------------------------------------------------------------------------------------------------


def test_kept_and_discarded_have_every_column_as_it_was(tmp_path):
    odd = ["a b", "", "é", "0.10", "1e3", "#", "it's", "007"]
    star = make(tmp_path, table(rlnCustom=odd, rlnImageName=[f"{i + 1}@stacks/a.mrcs" for i in range(8)]))
    star.write_text(star.read_text() + "\ndata_general\n\n_rlnSomething 'x y'\n_rlnMore 0.50\n")
    file, _ = run(star)
    folder = finish(file.path, tmp_path / "out")
    text = export(folder, "--star", tmp_path / "kept.star", "--discarded", tmp_path / "rest.star")
    assert "kept.star: 6 of 8 particles" in text and "rest.star: 2 of 8 particles" in text
    source = read_star(star)
    for name, rows in (("kept", KEPT), ("rest", ~KEPT)):
        back = read_star(tmp_path / f"{name}.star")
        assert list(back) == list(source)
        for block, wanted in source.items():
            wanted = wanted[rows] if block == "particles" else wanted
            assert list(back[block].columns)[: len(wanted.columns)] == list(wanted.columns)
            assert back[block][list(wanted.columns)].to_numpy(object).tolist() == wanted.to_numpy(object).tolist()
        assert "loop_" not in (tmp_path / f"{name}.star").read_text().split("data_general")[1]
        found = back["particles"]
        ids = np.flatnonzero(rows)
        weight = found["rlnParticleFigureOfMerit"].astype(float)
        np.testing.assert_allclose(weight, (0.5 + ids / 64) * rows[ids] * (name == "kept"), rtol=1e-8)
        np.testing.assert_allclose(found["mpireconScore"].astype(float), ids / 3, rtol=1e-8)
        np.testing.assert_allclose(found["mpireconDistance"].astype(float), -ids / 7, rtol=1e-8)
        assert "mpireconPosterior" not in found
    again, _ = run(tmp_path / "kept.star", output=tmp_path / "again.h5")
    same_particles(file.path, again.path, KEPT)


words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters="\ufeff\x85"), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.dictionaries(st.from_regex(r"rlnX[A-Za-z0-9./]{1,5}", fullmatch=True),
                          st.lists(words, min_size=8, max_size=8)),
    kept=st.lists(st.booleans(), min_size=8, max_size=8).filter(any),
    half=st.lists(st.integers(0, 2), min_size=8, max_size=8),
)
def test_import_export_import_loses_nothing(tmp_path_factory, extra, kept, half):
    folder = tmp_path_factory.mktemp("trip")
    star = make(folder, table(rlnRandomSubset=half, **extra))
    file, _ = run(star)
    kept = np.array(kept)
    export(finish(file.path, folder / "out", kept), "--star", folder / "kept.star")
    again, _ = run(folder / "kept.star", output=folder / "again.h5")
    same_particles(file.path, again.path, kept)
    before, after = file.source()[1]["particles"][kept], again.source()[1]["particles"]
    for label in before.columns.drop("rlnRandomSubset"):
        assert list(before[label]) == list(after[label])
    twice = export(finish(again.path, folder / "out2", np.ones(kept.sum(), bool)), "--star", folder / "twice.star")
    assert "is kept as" not in twice
    assert list(read_star(folder / "twice.star")["particles"].columns) == list(after.columns)


def test_half_sets_drawn_at_import_are_written(tmp_path):
    file, _ = run(make(tmp_path, table(rlnRandomSubset=None)))
    text = export(finish(file.path, tmp_path / "out", np.ones(8, bool)), "--star", tmp_path / "k.star")
    assert "those drawn at import are written as rlnRandomSubset" in text
    assert read_star(tmp_path / "k.star")["particles"]["rlnRandomSubset"].astype(int).tolist() == file.halves().tolist()
    file, _ = run(make(tmp_path, table(rlnRandomSubset=["0", "1", "2", "0", "1.0", "2", "1", "2"])), "--overwrite")
    text = export(finish(file.path, tmp_path / "out", np.ones(8, bool)), "--star", tmp_path / "k.star", "--overwrite")
    assert "rlnRandomSubset was 0 for 2 particles" in text
    written = read_star(tmp_path / "k.star")["particles"]["rlnRandomSubset"].tolist()
    assert written[1:3] == ["1", "2"] and written[4] == "1.0" and np.all(np.array(written, float) == file.halves())


def test_a_weight_column_of_the_source_is_kept(tmp_path):
    file, _ = run(make(tmp_path, table(rlnParticleFigureOfMerit=np.arange(8) / 10)))
    text = export(finish(file.path, tmp_path / "out"), "--star", tmp_path / "k.star")
    found = read_star(tmp_path / "k.star")["particles"]
    assert "kept as mpireconSourceFigureOfMerit" in text and found["rlnParticleFigureOfMerit"].iloc[0] == "0.5"
    assert found["mpireconSourceFigureOfMerit"].tolist() == ["0.0", "0.1", "0.3", "0.5", "0.6", "0.7"]


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_planted_errors(tmp_path, kind):
    """The poses of the source by default, those of the run on demand; both say so."""
    if kind == "star":
        source = make(tmp_path)
        clean, file = run(source)[0], run(source, "--orientation-error-rate", 0.5, output=tmp_path / "bad.h5")[0]
    else:
        source = make_cs(tmp_path)
        clean, file = import_cs(source)[0], import_cs(source, "--orientation-error-rate", 0.5,
                                                      output=tmp_path / "bad.h5")[0]
    read = {"star": read_relion, "cs": read_cryosparc}
    folder, flag = finish(file.path, tmp_path / "out", np.ones(8, bool)), file.metadata().pose_error
    for target in ("star", "cs") if kind == "cs" else ("star",):
        text = export(folder, f"--{target}", tmp_path / f"o.{target}")
        assert f"{flag.sum()} wrong poses were simulated: the original ones are written" in text
        found = read[target](tmp_path / f"o.{target}").pose.matrices()
        np.testing.assert_allclose(found, clean.metadata().pose.matrices(), atol=1e-6)
        text = export(folder, f"--{target}", tmp_path / f"u.{target}", "--poses", "used")
        assert "simulated wrong poses are written, as used by the run" in text
        found = read[target](tmp_path / f"u.{target}").pose.matrices()
        np.testing.assert_allclose(found, file.metadata().pose.matrices(), atol=1e-6)
    if kind == "star":
        angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
        used, first = (read_star(p)["particles"][angles] for p in (tmp_path / "u.star", source))
        assert (used.to_numpy(str) == first.to_numpy(str))[~flag].all()  # text of all others is untouched
        flags = read_star(tmp_path / "u.star")["particles"]["mpireconPoseError"]
        assert (flags == "1").tolist() == flag.tolist()


# --- .cs ----------------------------------------------------------------------------------------------------------


def test_cs_comes_back_with_every_column(tmp_path):
    source = make_cs(tmp_path)
    file, _ = import_cs(source)
    folder = finish(file.path, tmp_path / "out")
    export(folder, "--cs", tmp_path / "kept.cs", "--discarded", tmp_path / "rest.cs", "--star", tmp_path / "kept.star")
    whole = read_cs(source)
    for name, rows in (("kept", KEPT), ("rest", ~KEPT)):
        back = read_cs(tmp_path / f"{name}.cs")
        assert back.dtype.names[: len(whole.dtype)] == whole.dtype.names
        assert all(np.array_equal(back[field], whole[field][rows]) for field in whole.dtype.names)
        np.testing.assert_allclose(back["mpirecon/score"], np.flatnonzero(rows) / 3, rtol=1e-6)
        assert back["mpirecon/weight"].any() == (name == "kept")
    for target in ("kept.cs", "kept.star"):  # the STAR file is the twin of the .cs file
        again, _ = import_cs(tmp_path / target, output=tmp_path / f"{target}.h5")
        same_particles(file.path, again.path, KEPT)
    uids = read_star(tmp_path / "kept.star")["particles"]["mpireconUid"]
    assert uids.astype("u8").tolist() == whole["uid"][KEPT].tolist()


def test_cs_micrographs_are_named_in_the_star_file(tmp_path):
    """RELION's CTF refinement goes by rlnMicrographName, its MTFs by rlnMicrographOriginalPixelSize."""
    paths = np.array([b">J1/m/a.mrc", ">J1/m/é.mrc".encode()] * 4)
    pixel = np.array([1.25, 2.5, 0.625] * 3, "f4")[:8]  # of exposure groups 0, 1, 2
    file, _ = import_cs(make_cs(tmp_path, location__micrograph_path=paths, location__micrograph_psize_A=pixel))
    export(finish(file.path, tmp_path / "out"), "--star", tmp_path / "k.star")
    tables = read_star(tmp_path / "k.star")
    wanted = np.array(["J1/m/a.mrc", "J1/m/é.mrc"] * 4)[KEPT]
    assert tables["particles"]["rlnMicrographName"].tolist() == wanted.tolist()
    assert tables["optics"]["rlnMicrographOriginalPixelSize"].tolist() == ["1.25", "2.5", "0.625"]
    mixed, _ = import_cs(make_cs(tmp_path, location__micrograph_psize_A=np.arange(1, 9).astype("f4")), "--overwrite")
    export(finish(mixed.path, tmp_path / "out"), "--star", tmp_path / "k.star", "--overwrite")
    tables = read_star(tmp_path / "k.star")
    assert "rlnMicrographOriginalPixelSize" not in tables["optics"] and "rlnMicrographName" not in tables["particles"]


def places():
    """Columns of a .cs file: places on micrographs of 3000 rows and 4000 columns."""
    return {"location__center_x_frac": np.arange(8, dtype="f4") / 16, "location__center_y_frac": np.full(8, 0.25, "f4"),
            "location__micrograph_shape": np.tile(np.array([3000, 4000], "u4"), (8, 1))}


def test_places_on_micrographs_are_written_as_asked(tmp_path):
    file, _ = import_cs(make_cs(tmp_path, **places()))
    folder, star = finish(file.path, tmp_path / "out"), tmp_path / "k.star"
    text = export(folder, "--star", star)
    assert ("rlnCoordinateX" not in read_star(star)["particles"]
            and "--coordinates as-stored or flipped writes them" in text)
    for choice, y in (("as-stored", 750), ("flipped", 2250)):
        text = export(folder, "--star", star, "--coordinates", choice, "--overwrite")
        table_ = read_star(star)["particles"]
        np.testing.assert_allclose(table_["rlnCoordinateX"].astype(float), 250.0 * np.flatnonzero(KEPT))
        np.testing.assert_allclose(table_["rlnCoordinateY"].astype(float), y)
        assert "left out" not in text
    file, _ = import_cs(make_cs(tmp_path), "--overwrite")
    refused(finish(file.path, tmp_path / "out"), "knows no places on micrographs", "--star", tmp_path / "l.star",
            "--coordinates", "flipped")
    refused(folder, "are for STAR files", "--cs", tmp_path / "l.cs", "--coordinates", "flipped")
    (tmp_path / "star").mkdir()
    folder = finish(run(make(tmp_path / "star"))[0].path, tmp_path / "out2")
    refused(folder, "is a STAR file, whose own coordinates are written", "--star", tmp_path / "l.star", "--coordinates",
            "flipped")


def test_mtfs_are_named_group_by_group(tmp_path):
    curve = pd.DataFrame({"rlnResolutionInversePixel": [0.0, 0.5], "rlnMtfValue": [1.0, 0.4]})
    for name in ("a.star", "b.star"):
        write_star(tmp_path / name, {"": curve.astype(str)}, overwrite=False)
    mtf = [tmp_path / name for name in ("a.star", "b.star")]
    file, _ = import_cs(make_cs(tmp_path, location__micrograph_psize_A=np.full(8, 1.25, "f4")))  # groups 1, 2, 3
    folder, star = finish(file.path, tmp_path / "out"), tmp_path / "k.star"
    export(folder, "--star", star, "--mtf", mtf[0], "--mtf", f"2={mtf[1]}")
    assert read_star(star)["optics"]["rlnMtfFileName"].tolist() == [str(mtf[0]), str(mtf[1]), str(mtf[0])]
    refused(folder, "optics group 7; there are 1, 2, 3", "--star", tmp_path / "l.star", "--mtf", f"7={mtf[1]}")
    refused(folder, "every optics group or of none; 1, 3 got none", "--star", tmp_path / "l.star", "--mtf",
            f"2={mtf[1]}")
    refused(folder, "k.star is no MTF", "--star", tmp_path / "l.star", "--mtf", star)
    file, _ = import_cs(make_cs(tmp_path), "--overwrite")
    refused(finish(file.path, tmp_path / "out"), "rlnMicrographOriginalPixelSize, which is not known", "--star",
            tmp_path / "l.star",
            "--mtf", mtf[0])
    optics = {**OPTICS, "rlnMtfFileName": ["old.star"], "rlnMicrographOriginalPixelSize": [1.25]}
    (tmp_path / "star").mkdir()
    folder = finish(run(make(tmp_path / "star", optics=optics))[0].path, tmp_path / "out2")
    assert "rlnMtfFileName of 1 optics groups is replaced" in export(
        folder, "--star", star, "--mtf", mtf[0], "--overwrite"
    )
    assert read_star(star)["optics"]["rlnMtfFileName"].tolist() == [str(mtf[0])]


def test_mtf_columns_survive_and_are_read_again(tmp_path):
    for name, fall in (("a.star", 0.5), ("b.star", 0.9)):
        curve = pd.DataFrame({"rlnResolutionInversePixel": [0.0, 0.5], "rlnMtfValue": [1.0, fall]})
        write_star(tmp_path / name, {"": curve.astype(str)}, overwrite=False)
    optics = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [1, 2],
              "rlnMtfFileName": ["a.star", "b.star"], "rlnMicrographOriginalPixelSize": [1.25, 1.25]}
    file, text = run(make(tmp_path, table(rlnOpticsGroup=[1, 2] * 4), optics))
    assert "the detector's MTF" in text and file.aberrations().mtf.any()
    export(finish(file.path, tmp_path / "out"), "--star", tmp_path / "kept.star")
    same_particles(file.path, run(tmp_path / "kept.star", output=tmp_path / "again.h5")[0].path, KEPT)


def test_the_symmetry_of_the_run_is_reported(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out")
    assert "--sym" not in export(folder, "--star", tmp_path / "k.star")
    summary = json.loads((folder / "summary.json").read_text())
    write_summary(folder / "summary.json", {**summary, "configuration": {"symmetry": "D7"}})
    assert "relion_reconstruct needs --sym D7" in export(folder, "--star", tmp_path / "k.star", "--overwrite")


def test_cs_halves_drawn_at_import_and_stack(tmp_path):
    images = -pixels(range(8))
    file, _ = import_cs(make_cs(tmp_path, images, alignments3D__split=None, blob__sign=np.full(8, -1, "f4")))
    folder = finish(file.path, tmp_path / "out")
    (tmp_path / "sub").mkdir()
    star = tmp_path / "sub" / "k.star"
    text = export(folder, "--cs", tmp_path / "k.cs", "--star", star, "--stack", tmp_path / "k.mrcs")
    assert "k.mrcs: 6 images" in text and "the stack has them negated" in text
    assert "written as alignments3D/split" in text
    for target in (tmp_path / "k.cs", star):
        again, _ = import_cs(target, "--overwrite", output=tmp_path / "again.h5")
        np.testing.assert_array_equal(again.images(slice(None)), -images[KEPT])
        np.testing.assert_array_equal(again.halves(), file.halves()[KEPT])
        assert again.metadata().contrast == "white"


def test_a_star_source_makes_no_cs(tmp_path):
    folder = finish(run(make(tmp_path))[0].path, tmp_path / "out")
    refused(folder, "k.cs: the particles did not come from a .cs file; export --star", "--cs", tmp_path / "k.cs")
    refused(folder, "d.cs: the particles did not come", "--discarded", tmp_path / "d.cs")


# --- simulations and RELION ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A particle file of 200 phantom images with 20 % planted errors."""
    from mpirecon.cli.simulate import command as simulate

    path = tmp_path_factory.mktemp("simulated") / "p.h5"
    args = ["--phantom", "--box", 24, "--pixel-size", 6, "--particles", 200, "--snr", 0.5, "--error-rate", 0.2]
    result = CliRunner().invoke(simulate, [*map(str, args), "-o", str(path), "--seed", "3"])
    assert result.exit_code == 0, result.output
    return path


def test_a_simulation_is_exported_with_its_images(simulated, tmp_path):
    folder = finish(simulated, tmp_path / "out")
    refused(folder, "p.h5 was not imported, so its images are in no stack; give --stack", "--star", tmp_path / "k.star")
    text = export(folder, "--star", tmp_path / "k.star", "--stack", tmp_path / "k.mrcs", "--poses", "used")
    assert "k.mrcs: 150 images" in text
    again, _ = run(tmp_path / "k.star")
    kept = np.resize(KEPT, 200)
    same_particles(simulated, again.path, kept)
    export(folder, "--star", tmp_path / "t.star", "--discarded", tmp_path / "d.star", "--stack", tmp_path / "all.mrcs")
    with ParticleFile(simulated) as file:
        true = file.metadata()
        found, rest = read_relion(tmp_path / "t.star"), read_relion(tmp_path / "d.star")
        q = np.abs((found.pose.quaternion * true.true_quaternion[kept]).sum(axis=1))
        np.testing.assert_allclose(q, 1, atol=1e-9)
        with mrcfile.open(tmp_path / "all.mrcs") as mrc:
            np.testing.assert_array_equal(mrc.data[rest.image], file.images(np.flatnonzero(~kept)))
            assert mrc.voxel_size.x == pytest.approx(6) and mrc.data.dtype == np.float32


def relion_map(star, *args) -> np.ndarray:
    """The map that relion_reconstruct makes of a STAR file, run in its folder."""
    out = star.with_suffix(".mrc")
    done = subprocess.run(["relion_reconstruct", "--i", star.name, "--o", out.name, "--ctf", *args], cwd=star.parent,
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    with mrcfile.open(out) as mrc:
        return mrc.data.astype(np.float64)


@needs_relion
def test_relion_reads_the_export_and_its_weights(simulated, tmp_path):
    """A weight of 0 removes a particle, equal weights change nothing, and unequal ones change the map."""
    kept = np.resize(KEPT, 200)
    weight = np.where(kept, 1.0, 0.0)
    folder = finish(simulated, tmp_path / "out", weight=weight)
    stack = ["--stack", tmp_path / "all.mrcs", "--overwrite"]
    export(folder, "--star", tmp_path / "kept.star", "--discarded", tmp_path / "rest.star", *stack)
    tables, rest = read_star(tmp_path / "kept.star"), read_star(tmp_path / "rest.star")
    both = {**tables, "particles": pd.concat([tables["particles"], rest["particles"]])}
    write_star(tmp_path / "both.star", both, overwrite=True)
    plain = relion_map(tmp_path / "kept.star")
    assert plain.std() > 0
    np.testing.assert_allclose(relion_map(tmp_path / "kept.star", "--fom_weighting"), plain, atol=1e-5 * plain.std())
    all_weighted = relion_map(tmp_path / "both.star", "--fom_weighting")
    np.testing.assert_allclose(all_weighted, plain, atol=1e-3 * plain.std())
    assert np.abs(relion_map(tmp_path / "both.star") - plain).max() > 0.1 * plain.std()
    finish(simulated, tmp_path / "out", weight=np.where(kept, 0.1 + (np.arange(200) % 5), 0.0))
    export(folder, "--star", tmp_path / "soft.star", *stack)
    soft = relion_map(tmp_path / "soft.star", "--fom_weighting")
    assert np.abs(soft - plain).max() > 0.05 * plain.std() and np.corrcoef(soft.ravel(), plain.ravel())[0, 1] > 0.8


@needs_relion
def test_relion_reads_cryosparc_stacks_named_mrc(tmp_path):
    source = make_cs(tmp_path)
    (tmp_path / "J1/imported/a.mrcs").rename(tmp_path / "J1/imported/a.mrc")
    array = read_cs(source)
    array["blob/path"] = b">J1/imported/a.mrc"
    with open(source, "wb") as file:
        np.save(file, array)
    file, _ = import_cs(source)
    export(finish(file.path, tmp_path / "out"), "--star", tmp_path / "k.star")
    assert read_star(tmp_path / "k.star")["particles"]["rlnImageName"].iloc[0] == "000001@J1/imported/a.mrc:mrcs"
    assert np.isfinite(relion_map(tmp_path / "k.star")).all()
    same_particles(file.path, run(tmp_path / "k.star", output=tmp_path / "again.h5")[0].path, KEPT)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.filterwarnings("ignore:Map ID string not found", "ignore:Unrecognised machine stamp")
def test_real_sets_lose_nothing(shared_data, tmp_path, name):
    star = shared_data / name
    stack = star.parent / STACKS[name]
    first, again = tmp_path / "a.h5", tmp_path / "b.h5"
    m = import_particles(star, first, ImportOptions(stack=stack)).particles
    folder, kept = finish(first, tmp_path / "out"), np.resize(KEPT, m)
    export(folder, "--star", tmp_path / "k.star", "--discarded", tmp_path / "d.star")
    import_particles(tmp_path / "k.star", again, ImportOptions(stack=stack))
    same_particles(first, again, kept)
    source = read_star(star)
    back = {n: read_star(tmp_path / f"{n}.star") for n in "kd"}
    for block, wanted in source.items():
        for n, rows in (("k", kept), ("d", ~kept)):
            rows = rows if "rlnImageName" in wanted else slice(None)
            found = back[n][block][list(wanted.columns.drop("rlnParticleFigureOfMerit", errors="ignore"))]
            assert found.to_numpy(object).tolist() == wanted[found.columns][rows].to_numpy(object).tolist()
    if shutil.which("relion_reconstruct") and name.startswith("ribo"):
        shutil.copy(stack, tmp_path / "particles.mrcs")
        assert relion_map(tmp_path / "k.star", "--fom_weighting").std() > 0
