"""What --overwrite does not replace: files of another kind than the command writes, and those of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mpirecon as mr
from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_files, atomic_path
from mpirecon.io.replaced import HDF5, JSON, MRC, NUMPY, OTHER, PAGE, PICTURE, STAR, kind_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, and a file of each kind beside it."""
    folder = tmp_path_factory.mktemp("replaced")
    particles = mr.simulate(mr.phantom(24, 5.0), 60, snr=0.5, seed=3).save(folder / "p.h5")
    run = mr.reconstruct(particles, folder / "run", postprocess=False).folder
    mr.export(run, star=folder / "k.star", stack=folder / "k.mrcs")
    mr.view(run / "volume.mrc", folder / "v.html")
    mr.score(run / "half1.mrc", run / "half2.mrc", particles, folder / "s.csv")
    mr.fsc(run / "half1.mrc", run / "half2.mrc").draw(folder / "f.png")
    shutil.copy(run / "summary.json", folder / "j.json")
    shutil.copy(run / "half1.mrc", folder / "h1.mrc")
    shutil.copy(run / "half2.mrc", folder / "h2.mrc")
    return folder


def test_kinds_show_in_the_first_bytes(finished, tmp_path):
    (tmp_path / "a.cs").write_bytes(b"\x93NUMPY\x01\0")
    (tmp_path / "bom.star").write_bytes(b"\xef\xbb\xbf# x\n\ndata_x\n")
    (tmp_path / "empty").touch()
    kinds = {"p.h5": HDF5, "run/particles.h5": HDF5, "h1.mrc": MRC, "k.mrcs": MRC, "k.star": STAR, "v.html": PAGE,
             "j.json": JSON, "s.csv": OTHER, "f.png": PICTURE, "gone": OTHER, ".": OTHER}
    assert {name: kind_of(finished / name) for name in kinds} == kinds
    assert [kind_of(tmp_path / name) for name in ("a.cs", "bom.star", "empty")] == [NUMPY, STAR, OTHER]


def words(folder, name, target):
    half = folder / "h1.mrc", folder / "h2.mrc"
    return [name, *{
        "view": (half[0], "-o", target), "mask": (half[0], "-o", target), "fsc": (*half, "--csv", target),
        "project": (half[0], folder / "p.h5", "-o", target), "report": (folder / "run", "-o", target),
        "logs": (folder / "run", "--csv", target), "score": (*half, folder / "p.h5", "-o", target),
        "import": (folder / "k.star", "-o", target), "simulate": ("--phantom", "--particles", "5", "-o", target),
        "export": (folder / "run", "--star", target, "--stack", folder / "n.mrcs"),
        "compare": (folder / "run", folder / "run", "-o", target),
    }[name], "--overwrite"]  # fmt: skip


WRITES = {"view": "v.html", "mask": "h.mrc", "fsc": "s.csv", "project": "h.mrc", "report": "v.html", "logs": "s.csv",
          "score": "s.csv", "import": "p.h5", "simulate": "p.h5", "export": "k.star", "compare": "v.html"}
OTHERS = {"p.h5": "p.h5", "h.mrc": "h2.mrc", "k.star": "k.star", "v.html": "v.html", "j.json": "j.json"}


@pytest.mark.parametrize("name", WRITES)
def test_a_file_of_another_kind_is_kept(finished, tmp_path, cli, name):
    for other, source in OTHERS.items():
        if other == WRITES[name]:
            continue
        target = tmp_path / (Path(other).stem + (".star" if name == "export" else Path(other).suffix))
        shutil.copy(finished / source, target)
        before = target.read_bytes()
        done = cli(*words(finished, name, target))
        assert done.returncode == 1 and "which is not replaced" in done.stderr, (other, done.stderr)
        assert target.read_bytes() == before and not list(finished.glob(".*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["view", "mask", "fsc", "score"])
def test_a_file_of_the_same_kind_is_replaced(finished, tmp_path, cli, name):
    source = {"h.mrc": "h2.mrc"}.get(WRITES[name], WRITES[name])
    target = Path(shutil.copy(finished / source, tmp_path / f"old{Path(source).suffix}"))
    before = target.stat().st_ino
    done = cli(*words(finished, name, target))
    assert done.returncode == 0, done.stderr
    assert target.stat().st_ino != before


@pytest.mark.parametrize(("name", "file"), [
    ("mask", "half2.mrc"), ("mask", "volume.mrc"), ("project", "half1.mrc"), ("fsc", "fsc.csv"),
    ("view", "report.html"),
    ("fsc", "summary.json"), ("import", "particles.h5"), ("simulate", "particles.h5"), ("score", "views.csv"),
])  # fmt: skip
def test_a_file_of_a_finished_run_is_kept(finished, cli, name, file):
    target = finished / "run" / file
    before = target.read_bytes()
    done = cli(*words(finished, name, target))
    assert done.returncode == 1 and f"{file} belongs to the finished reconstruction in" in done.stderr, done.stderr
    assert target.read_bytes() == before


def test_the_run_itself_may_be_written_again(finished, tmp_path, cli):
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    for command in (("report", run), ("report", run, "-o", run / "report.html", "--overwrite"),
                    ("export", run, "--star", run / "k.star", "--stack", run / "k.mrcs", "--particles",
                     finished / "p.h5"),
                    ("mask", finished / "h1.mrc", "-o", run / "mine.mrc"),
                    ("reconstruct", finished / "k.star", "-o", run, "--overwrite", "--no-postprocess"),
                    ("reconstruct", finished / "k.star", "-o", run, "--overwrite", "--no-postprocess")):
        done = cli(*command)
        assert done.returncode == 0, done.stderr


def test_what_was_not_known_before_is_met_at_the_end(tmp_path):
    """Of commands that do not say beforehand what they write."""
    for name, start in (("a.h5", b"\x89HDF\r\n\x1a\n"), ("b.csv", b"a,b\n")):
        (tmp_path / name).write_bytes(start)
    with pytest.raises(UserError, match="a.h5 is an HDF5 file .*choose another name"):
        with atomic_path(tmp_path / "a.h5", overwrite=True) as temporary:
            temporary.write_text("<!DOCTYPE html>")
    with pytest.raises(UserError, match="a.h5 is an HDF5 file"), atomic_files(tmp_path) as staging:
        for name in ("0.csv", "a.h5"):
            (staging / name).write_text("a,b\n")
    assert (tmp_path / "a.h5").read_bytes().startswith(b"\x89HDF") and not (tmp_path / "0.csv").exists()
    with atomic_path(tmp_path / "b.csv", overwrite=True) as temporary:  # what is of no kind may become any
        temporary.write_text("<!DOCTYPE html>")


@pytest.mark.in_python
@pytest.mark.parametrize(("name", "words"), [
    ("run/half1.mrc", "belongs to the finished reconstruction in .*, and is not replaced"),
    ("k.mrcs", r"is a stack of images \(MRC\), which is not replaced by a map"),
    ("images.mrc", "is a stack of images"), ("cube.mrcs", "is a stack of images"), ("p.h5", "is an HDF5 file"),
    ("run", "is a folder"),
])
def test_a_map_of_a_script_replaces_maps_alone(finished, name, words):
    shutil.copy(finished / "k.mrcs", finished / "images.mrc")
    shutil.copy(finished / "h1.mrc", finished / "cube.mrcs")
    target = finished / name
    before = target.read_bytes() if target.is_file() else None
    with pytest.raises(UserError, match=f"{target} {words}"):
        mr.phantom(24, 5.0).write(target, overwrite=True)
    assert before is None or target.read_bytes() == before


@pytest.mark.in_python
def test_a_map_may_replace_the_file_that_it_came_from(finished, tmp_path):
    target = shutil.copy(finished / "run" / "half1.mrc", tmp_path / "half1.mrc")
    volume = mr.read_map(target)
    mr.Volume(volume.array * 2, volume.pixel_size).write(target, overwrite=True)
    assert (mr.read_map(target).array == volume.array * 2).all()


def test_a_mask_replaces_no_stack(finished, tmp_path, cli):
    target = shutil.copy(finished / "k.mrcs", tmp_path / "k.mrcs")
    done = cli("mask", finished / "h1.mrc", "-o", target, "--overwrite")
    assert done.returncode == 1 and "is a stack of images" in done.stderr
