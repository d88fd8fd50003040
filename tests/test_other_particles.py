"""A run knows its particles again: what is made of it takes no other file of that name, wherever it is asked."""

import csv
import json
import os
import shutil

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import run

BOX, SIZE, COUNT = 16, 8.0, 200


def simulated(path, seed, **options):
    return mr.simulate(mr.phantom(BOX, SIZE), COUNT, path, snr=0.5, seed=seed, overwrite=True, **options)


def call(*words) -> int:
    return run([str(word) for word in words])


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Two, a and b, of which each has a particles.h5, and a run of it; ``right.star`` and ``right.mrcs``, of a's."""
    root, before = tmp_path_factory.mktemp("projects"), os.getcwd()
    for number, name in enumerate("ab"):
        (root / name).mkdir()
        os.chdir(root / name)
        simulated("particles.h5", number)
        assert not call("reconstruct", "particles.h5", "-o", "run", "--loss", "sorted", "--keep", 0.8,
                        "--no-postprocess", "-q")
        assert not call("reconstruct", "particles.h5", "-o", "../elsewhere_" + name, "--no-postprocess", "-q")
    os.chdir(root)
    assert not call("export", "a/run", "--star", "right.star", "--stack", "right.mrcs")
    os.chdir(before)
    return root


def exported(folder, monkeypatch, where, *more) -> bool:
    """Whether the run's export, asked for in a folder, is the right one."""
    monkeypatch.chdir(where)
    assert not call("export", folder, "--star", "e.star", "--stack", "e.mrcs", "--overwrite", *more)
    right = os.path.join(where, "..", "right.mrcs")
    with mrcfile.open("e.mrcs") as found, mrcfile.open(right) as wanted:
        return found.data.shape == wanted.data.shape and np.array_equal(found.data, wanted.data)


@pytest.mark.parametrize("given", ["../a/run", "absolute", "link"])
def test_the_file_of_the_run_is_found_from_another_project(projects, monkeypatch, given):
    """Which has a file of that name, count, box and pixel size."""
    if given == "link":
        (projects / "b" / "link").symlink_to("../a/run")
    folder = {"absolute": projects / "a" / "run", "link": "link"}.get(given, given)
    assert exported(folder, monkeypatch, projects / "b")


def test_a_project_that_was_moved_as_a_whole(projects, tmp_path, monkeypatch):
    shutil.copytree(projects, tmp_path / "new")
    shutil.move(tmp_path / "new" / "a", tmp_path / "new" / "c")
    summary = tmp_path / "new" / "c" / "run" / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "folder": str(tmp_path / "gone")}))
    assert exported("../c/run", monkeypatch, tmp_path / "new" / "b")


def test_a_run_in_another_folder_than_its_particles(projects, monkeypatch):
    monkeypatch.chdir(projects / "b")
    assert not call("export", projects / "elsewhere_a", "--star", "f.star", "--stack", "f.mrcs", "--overwrite")
    with mrcfile.open("f.mrcs") as found, mr.open(projects / "a" / "particles.h5").file() as wanted:
        assert np.array_equal(found.data, wanted.images(slice(0, COUNT)))


@pytest.mark.parametrize("written", ["shuffled", "other images", "other poses", "other half sets"])
@pytest.mark.parametrize("command", ["export", "aberrations", "given", "search"])
def test_a_file_that_was_written_anew_is_refused(projects, tmp_path, monkeypatch, capsys, written, command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(projects / "a" / "run", "run")
    shutil.copy(projects / "a" / "particles.h5", "particles.h5")
    about = json.loads((tmp_path / "run/summary.json").read_text())
    (tmp_path / "run/summary.json").write_text(json.dumps({**about, "folder": str(tmp_path)}))
    with h5py.File("particles.h5", "r+") as file:
        rows = np.arange(COUNT)[::-1]
        for name in ("images", "quaternion", "shift", "ctf", "half") if written == "shuffled" else ():
            file[name][...] = file[name][...][rows]
        if written == "other images":
            file["images"][...] = file["images"][...] * 2
        if written == "other poses":
            file["shift"][...] = file["shift"][...] + 1
        if written == "other half sets":
            file["half"][...] = 3 - file["half"][...]
    if command == "search":
        if written == "other poses":  # they may be others, if the images are the same
            mr.search_poses(mr.open("particles.h5"), mr.Result("run"), rows=[0])
            return
        with pytest.raises(mr.UserError, match="is not of the particles in particles.h5: their images or half sets"):
            mr.search_poses(mr.open("particles.h5"), mr.Result("run"), rows=[0])
        return
    words = {"export": ("export", "run", "--star", "k.star"), "aberrations": ("aberrations", "run"),
             "given": ("export", "run", "--star", "k.star", "--particles", "particles.h5")}[command]
    assert call(*words) == 1
    error = capsys.readouterr().err
    what = "images" if written == "other images" else "half sets, poses or CTFs"
    assert "particles.h5 is not the particle file of the run in run" in error and f"its {what} are others" in error
    assert not (tmp_path / "k.star").exists()


def test_a_table_is_exported_without_the_stack_of_images(projects, tmp_path, monkeypatch):
    """What a run linked to may be gone by then."""
    monkeypatch.chdir(tmp_path)
    assert not call("import", projects / "right.star", "-o", "particles.h5", "--link", "-q")
    assert not call("reconstruct", "particles.h5", "-o", "run", "--no-postprocess", "-q")
    stack = projects / "right.mrcs"
    stack.rename(projects / "away.mrcs")
    try:
        assert not call("export", "run", "--star", "k.star")
    finally:
        (projects / "away.mrcs").rename(stack)


def test_the_file_that_is_gone_is_named_and_not_the_runs_own_table(projects, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    simulated("particles.h5", 5)
    assert not call("reconstruct", "particles.h5", "-o", "run", "--no-postprocess", "-q")
    os.rename("particles.h5", "moved.h5")
    capsys.readouterr()
    assert call("export", "run", "--star", "k.star") == 1
    assert "the particle file of this run, particles.h5, does not exist; was it moved?" in capsys.readouterr().err
    assert not call("export", "run", "--star", "k.star", "--stack", "k.mrcs", "--particles", "moved.h5")


def test_runs_of_files_of_one_name_are_not_matched_by_their_rows(projects, monkeypatch):
    monkeypatch.chdir(projects / "b")
    found = mr.compare("../a/run", "run")
    assert found.counts is None and "the particle files differ" in found.notes[0]
    assert ("particle file", *(str(projects / name / "particles.h5") for name in "ab")) in found.settings


def test_what_a_run_of_other_particles_says_is_no_weight(projects, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(projects / "b")
    weights = ("--weights", "../a/run/particles.h5:weight")
    assert call("reconstruct", "particles.h5", "-o", tmp_path / "r", *weights) == 1
    error = capsys.readouterr().err
    assert "is of a run of other particles, those of particles.h5" in error and "the images of" in error
    monkeypatch.chdir(projects / "a")
    shutil.copy("particles.h5", tmp_path / "same.h5")
    with h5py.File(tmp_path / "same.h5", "r+") as file:  # refined since
        file["shift"][...] = file["shift"][...] + 1
    assert not call("reconstruct", tmp_path / "same.h5", "-o", tmp_path / "s", "--no-postprocess", *weights)
    assert not call("reconstruct", "particles.h5", "-o", tmp_path / "r", "--no-postprocess", *weights)


@pytest.mark.parametrize("column", ["id", "row"])
def test_rows_by_number_that_have_names_of_others_are_refused(projects, tmp_path, monkeypatch, capsys, column):
    """As the scores of one half of a table for the other half."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(projects / "right.mrcs", "right.mrcs")
    shutil.copy(projects / "right.star", "right.star")
    for name, rows in (("one", "0:99"), ("two", "50:149")):
        assert not call("import", "right.star", "-o", f"{name}.h5", "--select", f"row={rows}", "-q")
    assert not call("score", projects / "a/run/half1.mrc", projects / "a/run/half2.mrc", "one.h5", "-o", "one.csv")
    with open("one.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, lacks in (("both", ()), ("names", ("id",)), ("numbers", ("rlnImageName",))):
        with open(f"{name}.csv", "w", newline="") as file:
            kept = [key for key in rows[0] if key not in lacks]
            writer = csv.DictWriter(file, [column if key == "id" else key for key in kept])
            writer.writeheader()
            writer.writerows({column if key == "id" else key: row[key] for key in kept} for row in rows)
    common = "-o", tmp_path / "r", "--no-postprocess", "--overwrite", "--weights"
    assert not call("reconstruct", "one.h5", *common, "both.csv:half")
    capsys.readouterr()
    assert call("reconstruct", "two.h5", *common, "both.csv:half") == 1
    error = capsys.readouterr().err
    assert f"line 2: {column} 0 has rlnImageName 1@right.mrcs, but that of two.h5 is 51@right.mrcs" in error, error
    assert f"Without its column {column}, its rows are found by rlnImageName" in error
    assert call("reconstruct", "two.h5", *common, "names.csv:half") == 1
    assert "has no particle of rlnImageName" in capsys.readouterr().err
    assert not call("reconstruct", "two.h5", *common, "numbers.csv:half")  # nothing says that they are others
