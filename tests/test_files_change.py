"""Files that change, shrink or are replaced while they are read:
one message that names the file, never a map of two sets."""

import os
import shutil

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from conftest import MPI_PROGRAMS
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io import importer
from mpirecon.io.fingerprint import Fingerprint, Seen, change_of
from mpirecon.io.mrc import StackReader, read_map, write_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import SerialCommunicator

SEVERAL = ("--loss", "sorted", "--keep", "0.7", "--iterations", "3", "--memory", "0", "-q")


def written_to(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) - 4)
        file.write(b"\x00\x00\x80\x3f")


def shrunk(path):
    os.truncate(path, os.path.getsize(path) // 2)


def replaced(path):
    shutil.copy(path, f"{path}.new")
    os.replace(f"{path}.new", path)


def removed(path):
    os.unlink(path)


CHANGES = [written_to, shrunk, replaced, removed]


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changes")
    before = os.getcwd()
    os.chdir(folder)
    for words in (["simulate", "--phantom", "--particles", "80", "--box", "20", "--pixel-size", "7", "--snr", "1", "-o",
                   "p.h5"],
                  ["reconstruct", "p.h5", "-o", "run"],
                  ["export", "run", "--star", "p.star", "--stack", "s.mrcs"]):  # fmt: skip
        assert run([*words, "-q"]) == 0
    os.chdir(before)
    return folder


@pytest.fixture
def project(ready, tmp_path, monkeypatch):
    for name in ("p.h5", "p.star", "s.mrcs"):
        shutil.copy2(ready / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def after_reads(monkeypatch, count, change, path):
    """Change a file once so many batches of images have been read."""
    read, left = ParticleFile.images, [count]

    def images(self, rows):
        found = read(self, rows)
        left[0] -= 1
        if left[0] == 0:
            change(path)
        return found

    monkeypatch.setattr(ParticleFile, "images", images)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("linked", [False, True])
def test_a_run_ends_when_its_images_change(project, monkeypatch, capsys, linked, change):
    name = "p.h5"
    if linked:
        assert run(["import", "p.star", "--link", "-o", "linked.h5", "-q"]) == 0
        name = "linked.h5"
    changing = "s.mrcs" if linked else "p.h5"
    after_reads(monkeypatch, 5, change, changing)
    assert run(["reconstruct", name, "-o", "out", *SEVERAL]) == 1
    said = capsys.readouterr().err
    assert said.count("Error:") == 1 and "Traceback" not in said and changing in said, said
    assert "changed" in said or "does not exist" in said or "truncated" in said, said
    assert not os.path.exists("out/summary.json")


def test_images_in_memory_are_of_one_set(project, monkeypatch, capsys):
    """What is read once is of one set, whatever becomes of the file then; that it is another now is told."""
    from mpirecon.solvers.run import Reconstruction

    iterations = Reconstruction.iterations

    def changes(self, *arguments):
        for state in iterations(self, *arguments):
            if state.iteration == 2:
                replaced("p.h5")
            yield state

    words = ["--loss", "sorted", "--keep", "0.7", "--iterations", "3", "-q"]
    assert run(["reconstruct", "p.h5", "-o", "whole", *words]) == 0
    monkeypatch.setattr(Reconstruction, "iterations", changes)
    capsys.readouterr()
    assert run(["reconstruct", "p.h5", "-o", "out", *words]) == 0
    assert "another file has taken its place" in capsys.readouterr().err
    assert np.array_equal(mrcfile.read("out/volume.mrc"), mrcfile.read("whole/volume.mrc"))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(("change", "code"), [
    ("touched", 0), ("copied", 0), ("one image", 1), ("other images", 1), ("other half sets", 1),
])
def test_between_checkpoint_and_resume(project, monkeypatch, capsys, change, code, linked):
    """The same particles, newly written or copied, are gone on with; others are refused, if it be one image of them."""
    name = "linked.h5" if linked else "p.h5"
    assert not linked or run(["import", "p.star", "--link", "-o", name, "-q"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr("mpirecon.solvers.main.check_selection", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(["reconstruct", name, "-o", "out", *SEVERAL]) == 130
    target = "s.mrcs" if linked and change != "other half sets" else name
    seen = os.stat(target)
    if change == "touched":
        os.utime(target)
    elif change == "copied":
        replaced(target)
    elif change == "other half sets":
        with h5py.File(name, "r+") as file:
            file["half"][7] = 3 - file["half"][7]
    elif linked:
        with mrcfile.open(target, "r+") as mrc:
            rows = slice(13, 14) if change == "one image" else slice(None)
            mrc.data[rows] = np.random.default_rng(1).standard_normal(mrc.data[rows].shape)
    else:
        with h5py.File(target, "r+") as file:
            rows = slice(13, 14) if change == "one image" else slice(None)
            file["images"][rows] = np.random.default_rng(1).standard_normal(file["images"][rows].shape)
    if linked and change != "other half sets":  # the import's record is of size and time
        os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    capsys.readouterr()
    assert run(["reconstruct", name, "-o", "out", "--resume", *SEVERAL]) == code
    said = capsys.readouterr().err
    assert code == 0 or (f"other particles than {name}" in said and said.count("Error:") == 1), said
    if change == "one image":
        assert "1 images differ, the first of particle 13" in said
    assert os.path.exists("out/summary.json") == (code == 0)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", ["s.mrcs", "p.star"])
def test_an_import_ends_when_what_it_reads_changes(project, monkeypatch, capsys, which, change):
    copy = importer.copy_images

    def changes(*arguments, **options):
        copy(*arguments, **options)
        change(which)

    monkeypatch.setattr(importer, "copy_images", changes)
    assert run(["import", "p.star", "-o", "q.h5", "-q"]) == 1
    said = capsys.readouterr().err
    assert f"{which} has changed while it was read" in said and said.count("Error:") == 1, said
    assert sorted(set(os.listdir()) - {which}) == sorted({"p.h5", "p.star", "s.mrcs"} - {which})


@pytest.mark.parametrize("words", [
    ["export", "run", "--star", "k.star", "--stack", "k.mrcs"], ["project", "run/volume.mrc", "p.h5", "-o", "k.mrcs"],
])
def test_what_is_made_of_images_that_change_is_not_written(project, monkeypatch, capsys, words):
    assert run(["reconstruct", "p.h5", "-o", "run", "-q"]) == 0
    metadata, images = ParticleFile.metadata, ParticleFile.images
    for name, read in (("metadata", metadata), ("images", images)):
        def changes(self, *arguments, read=read):
            found = read(self, *arguments)
            os.utime(self.path)
            return found

        monkeypatch.setattr(ParticleFile, name, changes)
    assert run([*words, "-q"]) == 1
    assert "p.h5 has changed " in capsys.readouterr().err and not os.path.exists("k.mrcs")


def test_a_map_that_changes_while_it_is_read(tmp_path, monkeypatch):
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8)), 2.0, overwrite=False)
    read = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda path, *a, **k: (read(path, *a, **k), os.utime(path))[0])
    with pytest.raises(UserError, match="m.mrc has changed while it was read: it was written to"):
        read_map(tmp_path / "m.mrc")


@pytest.mark.parametrize(("change", "words"), [
    (written_to, "was written to"), (shrunk, "bytes, and had"), (replaced, "another file has taken its place"),
    (removed, "no longer exists"),
])
def test_a_change_in_words(tmp_path, change, words):
    with write_stack(tmp_path / "s.mrcs", 4, 1.0, overwrite=False) as append:
        append(np.ones((3, 4, 4)))
    os.utime(tmp_path / "s.mrcs", ns=(1, 1))
    seen, stack = Fingerprint.of(tmp_path / "s.mrcs"), StackReader(tmp_path / "s.mrcs")
    assert change_of(tmp_path / "s.mrcs", seen) is None
    stack.refuse_changed()
    change(tmp_path / "s.mrcs")
    assert words in change_of(tmp_path / "s.mrcs", seen)
    with pytest.raises(UserError, match=words):
        stack.refuse_changed()


@pytest.mark.parametrize("how", ["another", "written"])
def test_a_file_that_is_replaced_beneath_open_particles(tmp_path, how):
    """What is read of it later would be of another set than its length."""
    path = tmp_path / "p.h5"
    particles = mr.simulate(mr.phantom(16), 20, path=path, seed=1)
    mr.simulate(mr.phantom(16), 12, path=tmp_path / "other.h5", seed=2)
    model = mr.ForwardModel(particles)
    if how == "another":
        os.replace(tmp_path / "other.h5", path)
    else:
        with h5py.File(path, "r+") as file:
            file["half"][:] = 3 - file["half"][:]
    for read in (particles.images, particles.metadata, lambda: particles.table, lambda: particles.column("x"),
                 lambda: particles.save(tmp_path / "copy.h5"), lambda: mr.reconstruct(particles),
                 lambda: mr.null(particles), lambda: mr.path(particles), lambda: mr.Reconstruction(particles),
                 lambda: mr.score(mr.phantom(16), mr.phantom(16), particles), lambda: mr.ForwardModel(particles),
                 lambda: model.write(mr.phantom(16), tmp_path / "stack.mrcs")):
        with pytest.raises(UserError, match="p.h5 has changed since it was opened: .*; open it again"):
            read()
    assert len(mr.open(path).images()) == (12 if how == "another" else 20)


def test_ranks_that_see_different_files(tmp_path):
    class Pair(SerialCommunicator):
        def __init__(self, other):
            super().__init__()
            self.size, self.other = 2, other

        def allgather(self, obj):
            return [obj, self.other(*obj) if len(obj) == 3 else obj]

    (tmp_path / "a").write_text("a")
    seen = Seen.now([tmp_path / "a"])
    later = [(str(tmp_path / "a"), Fingerprint(1, 2, 1, 7))]
    seen.agree(Pair(lambda host, files, digest: (host, files, digest)), "x")
    seen.agree(Pair(lambda host, files, digest: ("another host", later, digest)), "x")  # its own copy of the same
    for other in (lambda host, files, digest: (host, later, digest), lambda host, files,
                  digest: ("another host", files, "y")):
        with pytest.raises(UserError, match="not the same file on rank 0 .* and on rank 1"):
            seen.agree(Pair(other), "x")


@pytest.mark.parametrize("what", ["particles", "mask"])
def test_a_file_that_is_replaced_between_two_ranks(ready, mpirun, tmp_path, what):
    for name in ("p.h5", "s.mrcs"):
        shutil.copy2(ready / name, tmp_path / name)
    for name, width in (("mask.mrc", 6), ("other.mrc", 7)):
        mask = np.zeros((20, 20, 20))
        mask[width:-width, width:-width, width:-width] = 1
        write_map(tmp_path / name, mask, 7.0, overwrite=False)
    result = mpirun(2, [MPI_PROGRAMS / "replaced.py", what, tmp_path, "reconstruct", tmp_path / "p.h5", "-o",
                        tmp_path / "out", "--mask",
                        tmp_path / "mask.mrc"])
    assert (result.returncode == 1 and result.stderr.count("Error:") == 1
            and "Traceback" not in result.stderr), result.stderr
    assert ("p.h5 is not the same file" if what == "particles" else "mask.mrc is not the same mask") in result.stderr
    assert not (tmp_path / "out").exists()
