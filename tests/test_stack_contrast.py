"""Tables that name the original stacks, where protein is dark in some or all of the images, or more was said of them
at their import than the table can hold."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from exporting import KEPT, export, finish, refused
from importing import make as make_star
from importing import run
from test_cryosparc import M, make

import mpirecon as mr
from mpirecon.cli import run as mpirecon
from mpirecon.errors import UserError
from mpirecon.io.cs_file import read_cs
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import read_star

DARK, MIXED = np.full(M, -1, "f4"), np.where(np.arange(M) < M // 2, -1, 1).astype("f4")


def finished(tmp_path, *options, sign, **changes):
    """A run of particles of a .cs file with these signs."""
    file, _ = run(make(tmp_path, blob__sign=sign, **changes), "--data-dir", str(tmp_path), *options,
                  output=tmp_path / "p.h5")
    with file:
        return finish(file.path, tmp_path / "run")


@pytest.mark.parametrize("option", ["--star", "--discarded"])
@pytest.mark.parametrize("link", [(), ("--link",)])
def test_images_of_both_contrasts_are_not_named_by_a_star_file(tmp_path, option, link):
    folder = finished(tmp_path, *link, sign=MIXED)
    refused(folder, "new.star: protein is dark in the images of [13] of these [26] .* --stack FILE.mrcs", option,
            tmp_path / "new.star")


def test_a_stack_and_a_cs_file_have_them_right(tmp_path):
    """--stack writes protein bright, whatever the signs were; a .cs file keeps its signs, or has 1 beside a stack."""
    folder = finished(tmp_path, sign=MIXED)
    assert "Warning" not in export(folder, "--star", tmp_path / "k.star", "--stack", tmp_path / "k.mrcs")
    with ParticleFile(tmp_path / "p.h5") as file:
        bright = file.images(np.flatnonzero(KEPT))
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "k.mrcs"), bright)
    export(folder, "--cs", tmp_path / "k.cs")
    np.testing.assert_array_equal(read_cs(tmp_path / "k.cs")["blob/sign"], MIXED[KEPT])
    export(folder, "--cs", tmp_path / "s.cs", "--stack", tmp_path / "s.mrcs")
    assert (read_cs(tmp_path / "s.cs")["blob/sign"] == 1).all()


def test_dark_protein_is_warned_of(tmp_path):
    folder = finished(tmp_path, sign=DARK)
    said = export(folder, "--star", tmp_path / "k.star", "-q")
    assert "Warning" in said and "--stack FILE.mrcs" in said and "--contrast black" in said
    assert "Warning" not in export(folder, "--star", tmp_path / "b.star", "--stack", tmp_path / "b.mrcs")
    assert "Warning" not in export(folder, "--cs", tmp_path / "k.cs")
    assert "p.star: protein is dark" in mr.export(folder, star=tmp_path / "p.star").warnings[0]


def test_the_kept_may_be_of_one_contrast_where_all_are_not(tmp_path):
    folder = finished(tmp_path, sign=np.where(KEPT, 1, -1).astype("f4"))
    assert "Warning" not in export(folder, "--star", tmp_path / "k.star")
    assert "rest.star: protein is dark" in export(folder, "--discarded", tmp_path / "rest.star")


def test_skipped_images_leave_the_contrast_of_the_others(tmp_path):
    """All but the dark ones are skipped: they were negated, and are dark in their stack."""
    images = np.random.default_rng(0).normal(size=(M, 6, 6)).astype("f4")
    images[M // 2 :] = np.nan
    file, _ = run(make(tmp_path, images, blob__sign=MIXED), "--data-dir", str(tmp_path), "--skip-bad", "--max-bad",
                  "0.6", output=tmp_path / "p.h5")
    with file:
        folder = finish(file.path, tmp_path / "run")
    assert "Warning" in export(folder, "--star", tmp_path / "k.star")


@pytest.mark.parametrize("sign,told,dark", [(DARK, "white", False), (-DARK, "black", True)])
def test_the_users_word_comes_before_the_signs(tmp_path, sign, told, dark):
    folder = finished(tmp_path, "--contrast", told, sign=sign)
    assert ("protein is dark" in export(folder, "--star", tmp_path / "k.star")) == dark
    assert "--contrast" in export(folder, "--cs", tmp_path / "k.cs")  # whose signs are others


def test_a_star_file_imported_as_black(tmp_path):
    file, _ = run(make_star(tmp_path), "--contrast", "black")
    with file:
        folder = finish(file.path, tmp_path / "run")
    assert "protein is dark" in export(folder, "--star", tmp_path / "k.star")


def test_what_import_was_told_is_said(tmp_path):
    file, _ = run(make_star(tmp_path), "--pixel-size", "2.6", "--ignore-aberrations", "--unit", "shift=A")
    with file:
        folder = finish(file.path, tmp_path / "run")
    said = export(folder, "--star", tmp_path / "k.star")
    assert "(--pixel-size, --unit, --ignore-aberrations)" in said
    assert read_star(tmp_path / "k.star")["optics"]["rlnImagePixelSize"].tolist() == ["2.5"]


def test_what_a_new_table_holds_is_not_said(tmp_path):
    folder = finished(tmp_path, "--pixel-size", "2.6", sign=-DARK)
    assert "--pixel-size" not in export(folder, "--star", tmp_path / "k.star")
    assert read_star(tmp_path / "k.star")["optics"]["rlnImagePixelSize"].astype(float).tolist() == [2.6] * 3
    assert "(--pixel-size)" in export(folder, "--cs", tmp_path / "k.cs")


# --- other writers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(M, 24, 24)).astype("f4")


def reconstructed(tmp_path, images, sign, *options):
    source = make(tmp_path, images, blob__shape=np.full((M, 2), 24, "u4"), blob__sign=sign)
    with run(source, "--data-dir", str(tmp_path), *options, output=tmp_path / "p.h5")[0] as file:
        return mr.reconstruct(file.path, tmp_path / "run", postprocess=False).folder


def words(command, folder, star):
    if command == "aberrations":
        return [command, str(folder), "--star", str(star), "--band", "30:12", "-q"]
    return [command, str(folder / "half1.mrc"), str(folder / "half2.mrc"), str(folder.parent / "p.h5"), "-o",
            str(star.with_suffix(".csv")), "--star", str(star), "-q"]


@pytest.mark.parametrize("command", ["aberrations", "score"])
def test_other_tables_that_name_the_stacks(tmp_path, images, capsys, command):
    star = tmp_path / "new.star"
    folder = reconstructed(tmp_path, images, MIXED)
    capsys.readouterr()
    assert mpirecon(words(command, folder, star)) == 1
    said = capsys.readouterr().err
    assert f"protein is dark in the images of 4 of these {M}" in said and ("--stack" in said or "--cs" in said)
    assert not star.exists() and not star.with_suffix(".csv").exists()


@pytest.mark.parametrize("command", ["aberrations", "score"])
def test_other_tables_of_dark_protein(tmp_path, images, capsys, command):
    star = tmp_path / "new.star"
    folder = reconstructed(tmp_path, images, DARK)
    capsys.readouterr()
    mpirecon(words(command, folder, star))
    assert star.exists()
    assert "new.star: protein is dark in the images that it names" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["aberrations", "score"])
def test_no_table_gives_the_stacks_the_pixel_size_of_rescaled_images(tmp_path, images, capsys, command):
    star = tmp_path / "new.star"
    folder = reconstructed(tmp_path, images, -DARK, "--rescale", "16:3.75")
    capsys.readouterr()
    assert mpirecon(words(command, folder, star)) == 1
    assert "were rescaled at import" in capsys.readouterr().err and not star.exists()


def test_a_relion_job_refuses_both_contrasts_before_it_computes(tmp_path, images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, images, blob__shape=np.full((M, 2), 24, "u4"), blob__sign=MIXED)
    assert mpirecon(["relion", "--o", "External/job001/", "--in_parts", "p.cs"]) == 1
    assert "protein is dark in the images of 4 of these 8" in capsys.readouterr().err
    assert not (tmp_path / "External/job001/run").exists()


def test_an_all_bright_set_says_nothing(tmp_path):
    assert "Warning" not in export(finished(tmp_path, sign=-DARK), "--star", tmp_path / "k.star")
    with pytest.raises(UserError, match="name must end in"):
        export(tmp_path / "run", "--star", tmp_path / "k.cs")


@pytest.mark.parametrize("told", ["white", "black"])
def test_a_word_about_all_images_does_not_make_them_alike(tmp_path, told):
    refused(finished(tmp_path, "--contrast", told, sign=MIXED), "protein is dark in the images of 3 of these 6",
            "--star", tmp_path / "k.star")
