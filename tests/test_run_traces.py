"""--overwrite and --resume replace what a run of the same kind left, by what it says itself, and nothing else."""

import json
import os
import shutil

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.io.mrc import write_map
from mpirecon.io.run_folder import RunFolder
from mpirecon.io.run_kinds import RECONSTRUCTION


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Particles, and a finished run of each kind."""
    folder = tmp_path_factory.mktemp("traces")
    assert run(["simulate", "--phantom", "--particles", "80", "--box", "16", "--pixel-size", "8", "--snr", "1", "-q",
                "-o", str(folder / "p.h5")]) == 0
    for kind, options in (("reconstruct", ["--no-postprocess"]), ("null", []),
                          ("path", ["--no-null", "--steps", "1,0.9", "--iterations", "1"])):
        assert run([kind, str(folder / "p.h5"), "-o", str(folder / kind), "-q", *options]) == 0
    write_map(folder / "map.mrc", np.ones((16, 16, 16), np.float32), 8.0, overwrite=False)
    return folder


def content(folder="."):
    return {os.path.join(where, name): open(os.path.join(where, name), "rb").read()
            for where, _, names in os.walk(folder) for name in names}


def again(kind, out, *options):
    """A run into a folder that is there; none of these takes long."""
    short = {"path": ["--no-null", "--steps", "1,0.9", "--iterations", "1"], "reconstruct": ["--no-postprocess"]}
    return run([kind, "p.h5", "-o", str(out), "-q", "--overwrite", *short.get(kind, []), *options])


@pytest.mark.parametrize(("kind", "name", "source"), [
    ("reconstruct", "particles.h5", "p.h5"), ("reconstruct", "mask.mrc", "map.mrc"),
    ("reconstruct", "half1.mrc", "map.mrc"), ("reconstruct", "summary.json", None), ("reconstruct", "fsc.csv", None),
    ("reconstruct", "checkpoint.h5", "p.h5"), ("reconstruct", "unfinished/volume.mrc", "map.mrc"),
    ("reconstruct", "logs/rank0000.jsonl", None),
    ("path", "particles.h5", "p.h5"), ("path", "volume.mrc", "map.mrc"), ("null", "fsc.csv", None),
    ("null", "unfinished/fsc.csv", None),
])  # fmt: skip
@pytest.mark.parametrize("beside", [False, True])
def test_what_no_run_left_is_kept(project, capsys, kind, name, source, beside):
    """Also alone in its folder, where nothing but unfinished/ and logs/ counts as an empty one."""
    path = project / "mine" / name
    path.parent.mkdir(parents=True)
    (shutil.copy(source, path) if source else path.write_text('{"mine": 1}'))
    if beside:
        (project / "mine" / "notes.txt").write_text("mine")
    before = content("mine")
    assert again(kind, "mine") == 1
    said = capsys.readouterr().err
    assert content("mine") == before
    assert f"mine holds {name}, which a" in said.replace("\n", " ") and "choose another folder for -o" in said


@pytest.mark.parametrize("there", [False, True])
def test_what_comes_into_the_folder_before_the_run_begins_is_kept(project, there):
    """Between the checks and the beginning a run reads its particles, and compiles."""
    if there:
        (project / "late").mkdir()
    with RunFolder(project / "late", RECONSTRUCTION, [], overwrite=True) as place:
        place.check()
        (project / "late").mkdir(exist_ok=True)
        shutil.copy("map.mrc", "late/mask.mrc")
        before = content("late")
        with pytest.raises(mr.UserError, match="late holds mask.mrc, which a reconstruction would replace, and no"):
            place.begin(1)
    assert content("late").items() >= before.items() and not (project / "late" / "unfinished").exists()


@pytest.mark.parametrize(("kind", "name", "source"), [
    ("reconstruct", "sharpened.mrc", "map.mrc"), ("reconstruct", "particles.h5", "p.h5"),
    ("reconstruct", "unfinished/half1.mrc", "map.mrc"),
    ("path", "mask.mrc", "map.mrc"), ("path", "particles.h5", "p.h5"),
])  # fmt: skip
def test_beside_a_finished_run_a_file_that_it_does_not_list_is_kept(project, capsys, kind, name, source):
    (project / kind / name).parent.mkdir(exist_ok=True)
    (project / kind / name).unlink(missing_ok=True)
    shutil.copy(source, project / kind / name)
    listed = json.loads((project / kind / "summary.json").read_text())["files"]
    assert (name in listed) == (name == "particles.h5")
    before = content(kind)
    assert again(kind, kind) == 1 and content(kind) == before
    assert f"{kind} holds {name}, which a" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("kind", ["reconstruct", "null", "path"])
@pytest.mark.parametrize("lost", [False, True])
def test_what_a_run_left_is_replaced(project, kind, lost):
    """Also when its marker is gone, whose logs say that it ended well."""
    (project / kind / "notes.txt").write_text("mine")
    before = set(content(kind))
    if lost:
        (project / kind / ("null.json" if kind == "null" else "summary.json")).unlink()
    assert again(kind, kind, "--seed", "9") == 0
    assert set(content(kind)) == before and not (project / kind / "unfinished").exists()


def test_a_run_that_lost_its_marker_is_replaced_however_often_that_is_broken_off(project, monkeypatch, capsys):
    """The logs by which it is known are written anew by the first that tries."""
    (project / "reconstruct" / "summary.json").unlink()
    options = ["--loss", "sorted", "--keep", "0.7", "--iterations", "2"]

    def interrupts(*_):
        raise KeyboardInterrupt

    for fails in ("mpirecon.solvers.passes.Engine.survey", "mpirecon.solvers.main.check_selection"):
        for _ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr(fails, interrupts)
                assert again("reconstruct", "reconstruct", *options) == 130
    assert run(["reconstruct", "p.h5", "-o", "reconstruct", "-q", "--no-postprocess", "--resume", *options]) == 0
    assert mr.Result("reconstruct").summary["configuration"]["loss"] == "sorted"
    assert not (project / "reconstruct" / "unfinished").exists()


def interrupted(monkeypatch, out):
    def interrupts(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mpirecon.solvers.main.check_selection", interrupts)
        assert run(["reconstruct", "p.h5", "-o", str(out), "-q", "--loss", "sorted", "--keep", "0.7", "--iterations",
                    "2"]) == 130


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_an_unfinished_run_replaces_no_file_that_came_meanwhile(project, monkeypatch, capsys, how):
    interrupted(monkeypatch, "out")
    words = ["reconstruct", "p.h5", "-o", "out", "-q", "--loss", "sorted", "--keep", "0.7", "--iterations", "2", how]
    shutil.copy("map.mrc", "out/sharpened.mrc")
    before = content("out")
    assert run(words) == 1 and content("out") == before
    assert "out holds sharpened.mrc, which a reconstruction would replace" in capsys.readouterr().err
    os.rename("out/sharpened.mrc", "out/mine.mrc")
    assert run(words) == 0 and (project / "out" / "mine.mrc").read_bytes() == (project / "map.mrc").read_bytes()


@pytest.mark.parametrize("kind", ["null", "path"])
def test_an_unfinished_run_is_not_replaced_by_one_of_another_kind(project, monkeypatch, capsys, kind):
    interrupted(monkeypatch, "out")
    before = content("out")
    assert again(kind, "out") == 1 and content("out") == before
    assert "out holds an unfinished reconstruction, which a" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_read_is_replaced_with_its_run(project, monkeypatch):
    interrupted(monkeypatch, "out")
    (project / "out" / "checkpoint.h5").write_text("damaged")
    assert again("reconstruct", "out") == 0


def test_a_mask_that_is_given_stays(project):
    os.mkdir("out")
    assert run(["mask", "reconstruct/half1.mrc", "--half", "reconstruct/half2.mrc", "-o", "out/mask.mrc", "-q"]) == 0
    before = (project / "out" / "mask.mrc").read_bytes()
    assert again("reconstruct", "out", "--mask", "out/mask.mrc") == 0
    assert (project / "out" / "mask.mrc").read_bytes() == before


def test_the_result_of_postprocess_is_not_mixed_with_a_run(project, capsys):
    assert run(["postprocess", "reconstruct/half1.mrc", "reconstruct/half2.mrc", "--mask", "map.mrc", "-o", "post",
                "-q"]) == 0
    before = content("post")
    for kind in ("reconstruct", "path", "null"):
        assert again(kind, "post") == 1 and content("post") == before
        said = capsys.readouterr().err.replace("\n", " ")
        assert "post holds " in said and "(postprocess.json beside them is that of mpirecon postprocess)" in said


def test_a_local_resolution_adds_its_maps_to_what_the_run_lists_and_no_others(project, capsys):
    shutil.copy("map.mrc", "reconstruct/sharpened.mrc")
    before = set(json.loads((project / "reconstruct" / "summary.json").read_text())["files"])
    assert run(["postprocess", "reconstruct", "--local-resolution", "--mask", "none", "-q"]) == 0
    listed = set(json.loads((project / "reconstruct" / "summary.json").read_text())["files"])
    assert listed == before | {"locres.mrc", "locres_filtered.mrc"}
    assert again("reconstruct", "reconstruct") == 1
    assert "reconstruct holds sharpened.mrc, which" in capsys.readouterr().err


def test_a_job_for_a_folder_of_others_is_refused(project, capsys):
    os.mkdir("mine")
    shutil.copy("p.h5", "mine/particles.h5")
    assert run(["job", "slurm", "p.h5", "-o", "mine", "--", "--overwrite"]) == 1
    assert "mine holds particles.h5, which a reconstruction would replace" in capsys.readouterr().err
    assert run(["job", "slurm", "p.h5", "-o", "reconstruct", "--", "--overwrite"]) == 0


@pytest.mark.in_python
def test_a_result_is_saved_over_nothing_else(project):
    os.mkdir("mine")
    shutil.copy("p.h5", "mine/particles.h5")
    before = content("mine")
    for write in (lambda: mr.Result("reconstruct").save("mine", overwrite=True),
                  lambda: mr.reconstruct(mr.open("p.h5"), "mine", overwrite=True)):
        with pytest.raises(mr.UserError, match="mine holds particles.h5, which a reconstruction would replace"):
            write()
    assert content("mine") == before
