"""Where scripts keep files: temporary ones go with what made them, copies hold what a run left, names keep leading
where they led."""

from __future__ import annotations

import os
import shutil

import pytest

import mpirecon as mr

pytestmark = pytest.mark.in_python

BOX, SIZE = 24, 5.0


def content(folder):
    """Every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Particles, and a run of them."""
    folder = tmp_path_factory.mktemp("places")
    particles = mr.simulate(mr.phantom(BOX, SIZE), 100, folder / "p.h5", snr=0.5, seed=4)
    mr.reconstruct(particles, folder / "run", postprocess=False)
    return folder


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_temporary_files_outlive_forked_children(made):
    stored = mr.open(made / "p.h5")
    about = stored.metadata()
    particles = mr.Particles(stored.images(), about.pose, about.ctf, pixel_size=SIZE, half=about.half)
    result = mr.reconstruct(particles, postprocess=False)
    child = os.fork()
    if child == 0:
        del particles, result
        os._exit(0)
    os.waitpid(child, 0)
    assert len(particles.images()) == 100 and result.volume.box == BOX
    folders = particles.path.parent, result.folder
    del particles, result
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("name", ["copy", "logs", "a/b/copy", "../link/copy"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_is_not_copied_into_itself(project, name, overwrite):
    (project / "link").symlink_to("run")
    before = content(project)
    with pytest.raises(mr.UserError, match=f"^run/{name} lies in run, the folder of the run .*; choose a folder"):
        mr.Result("run").save(f"run/{name}", overwrite=overwrite)
    assert content(project) == before


@pytest.mark.parametrize("inner", ["unfinished", "logs", "logs/deep"])
def test_nor_over_itself(project, inner):
    shutil.copytree("run", f"out/{inner}")
    before = content(project)
    with pytest.raises(mr.UserError, match=f"^out/{inner}, .*, lies in out, where the copy would replace it"):
        mr.Result(f"out/{inner}").save("out", overwrite=True)
    assert content(project) == before


def test_a_copy_holds_what_the_run_left(project, cli):
    run, wanted = project / "run", content(project / "run")
    mr.view(run / "volume.mrc")
    (run / "mine").mkdir()
    (run / "logs" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        copy = mr.Result("run").save("copy", overwrite=overwrite)
        assert content(project / "copy") == wanted and set(os.listdir("copy")) == set(os.listdir("run")) - {
            "volume.html", "mine"}
    assert copy.volume.box == BOX
    opened = mr.Result("run")
    assert cli("postprocess", run, "--local-resolution").returncode == 0
    assert opened.save("with").folder.joinpath("locres.mrc").read_bytes() == (run / "locres.mrc").read_bytes()
    assert not (project / "with" / "unfinished").exists()


@pytest.fixture
def elsewhere(project, tmp_path):
    """A function that goes to a folder in which other files have the same names."""
    other = tmp_path / "other"
    other.mkdir()
    mr.simulate(mr.phantom(BOX, SIZE), 60, other / "p.h5", snr=0.5, seed=5)
    mr.reconstruct(other / "p.h5", other / "run", postprocess=False)
    return lambda: os.chdir(other)


def test_objects_keep_leading_where_they_led(project, elsewhere):
    particles, result = mr.open("p.h5"), mr.Result("run")
    assert (str(particles.path), str(result.folder)) == ("p.h5", "run")
    elsewhere()
    assert len(result.kept) == 100 and result.report == project / "run" / "report.html"
    assert result.volume.to_numpy().tobytes() == mr.read_map(project / "run" / "volume.mrc").to_numpy().tobytes()
    assert len(particles.images()) == 100 and particles.path == project / "p.h5"
    assert mr.reconstruct(particles, postprocess=False).summary["particles"]["file"] == str(project / "p.h5")
    os.chdir(project)
    assert (str(particles.path), str(result.folder)) == ("p.h5", "run")


def test_a_stepped_run_is_written_where_it_was_checked(project, elsewhere, tmp_path):
    steps = mr.Reconstruction(mr.open("p.h5"), "stepped", loss="huber", iterations=2)
    elsewhere()
    before = content(tmp_path / "other")
    assert [state.iteration for state in steps] == [1, 2]
    result = steps.result(postprocess=False)
    assert result.folder == project / "stepped" and len(result.kept) == 100 and content(tmp_path / "other") == before
    assert mr.Result(project / "stepped").summary["particles"]["file"] == str(project / "p.h5")


def test_paths_and_null_runs_keep_their_folders(project, elsewhere):
    walked = mr.path("p.h5", "path", steps=(1, 0.8), random_draws=1)
    test = mr.null("p.h5", "null", loss="sorted", keep=0.8)
    elsewhere()
    assert walked.folder == project / "path" and walked.volume.box == BOX
    assert test.folder == project / "null"
