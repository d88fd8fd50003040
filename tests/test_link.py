"""Particle files that refer to their stacks read like copies, and refuse stacks that are not what they were."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
from importing import N, make, pixels, run, table

from mpirecon.errors import UserError
from mpirecon.io import linked
from mpirecon.io.particle_file import ParticleFile


def mixed(tmp_path, m=30):
    """Rows in disorder over stacks of every type of pixel and both byte orders."""
    kinds = ["<f4", ">f4", "i1", "<i2", ">u2", "f2"]
    stacks = {f"stacks/{i}.mrcs": pixels(range(m), kind) for i, kind in enumerate(kinds)}
    rng = np.random.default_rng(2)
    names = [f"{i + 1}@{name}" for i, name in zip(rng.permutation(m), rng.choice(list(stacks), m))]
    star = make(tmp_path, table(m, rlnImageName=names), stacks=stacks)
    with mrcfile.mmap(tmp_path / "stacks/1.mrcs") as mrc:
        assert mrc.data.dtype == ">f4"  # what is tested below is in the file
    return star


@pytest.mark.parametrize("pieces", [2_000, 3])
def test_links_read_like_copies(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(linked, "MOST_PIECES", pieces)
    star = mixed(tmp_path)
    with run(star)[0] as copied, run(star, "--link", output=tmp_path / "linked.h5")[0] as links:
        assert links.linked and not copied.linked and (links.box, len(links)) == (N, 30)
        wanted = copied.images(slice(0, 30))
        np.testing.assert_array_equal(links.images(slice(0, 30)), wanted)
        np.testing.assert_array_equal(links.images(slice(7, 23)), wanted[7:23])
        rows = np.array([0, 3, 4, 5, 17, 17, 29])
        np.testing.assert_array_equal(links.images(rows), wanted[rows])
        np.testing.assert_array_equal(links.images(slice(1, 30, 4)), wanted[1::4])
        assert links.images(slice(0, 0)).shape == (0, N, N)
        np.testing.assert_array_equal(links.metadata().pose.quaternion, copied.metadata().pose.quaternion)
    with h5py.File(tmp_path / "linked.h5") as file:
        assert ("images" in file) == (pieces > 30)  # other programs find them too, unless they are in too many places
        if pieces > 30:
            np.testing.assert_array_equal(file["images"][:], wanted)
    assert os.path.getsize(tmp_path / "linked.h5") < 300_000


def test_float16_stacks_stay_float16(tmp_path):
    star = make(tmp_path, stacks={"stacks/a.mrcs": pixels(range(8), "f2")})
    with run(star, "--link")[0] as file, h5py.File(tmp_path / "out.h5") as raw:
        assert raw["images"].dtype == np.float16
        np.testing.assert_array_equal(file.images(slice(0, 8)), pixels(range(8)))


def test_few_stacks_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(linked, "MOST_OPEN", 1)
    with run(mixed(tmp_path), "--link")[0] as file:
        whole = file.images(slice(0, 30))
        np.testing.assert_array_equal(file.images(np.arange(30)), whole)
        opened = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
        assert sum(path.startswith(str(tmp_path.resolve() / "stacks")) for path in opened) == 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda stack: stack.unlink(), r"refers to the stack .*stacks/a.mrcs, which does not exist; put it back"),
        (lambda stack: stack.write_bytes(stack.read_bytes() + b"x"),
         r"a.mrcs, which has changed .* it has \d+ bytes, and had \d+"),
        (lambda stack: os.utime(stack), r"a.mrcs, which has changed since the import: it was written again"),
    ],
)
def test_stacks_that_are_not_what_they_were_are_refused(tmp_path, harm, message):
    star = make(tmp_path)
    with run(star, "--link")[0] as file:
        harm(tmp_path / "stacks" / "a.mrcs")
        with pytest.raises(UserError, match=message):
            file.images(slice(0, 2))


def test_a_stack_cut_while_it_is_read_is_named(tmp_path):
    with run(make(tmp_path), "--link")[0] as file:
        file.images(slice(0, 1))
        os.truncate(tmp_path / "stacks" / "a.mrcs", 1024 + 3 * N * N * 4)
        with pytest.raises(UserError, match=r"a.mrcs ends before image 5"):
            file.images(slice(4, 5))


def test_a_project_may_move_as_a_whole(tmp_path):
    (tmp_path / "old").mkdir()
    star = make(tmp_path / "old")
    wanted = run(star, "--link")[0].images(slice(0, 8))
    shutil.move(tmp_path / "old", tmp_path / "new")
    with ParticleFile(tmp_path / "new" / "out.h5") as file:
        np.testing.assert_array_equal(file.images(slice(0, 8)), wanted)


def test_bad_images_are_left_out_where_they_are_asked_for(tmp_path):
    images = pixels(range(8))
    images[3] = np.nan
    star = make(tmp_path, stacks={"stacks/a.mrcs": images})
    with run(star, "--link", "--skip-bad", "--max-bad", 0.2)[0] as file:
        np.testing.assert_array_equal(file.images(slice(0, 7)), np.delete(images, 3, 0))
    file, printed = run(star, "--link", output=tmp_path / "all.h5")
    assert len(file) == 8 and "only a sample of them was checked" in printed


def test_another_type_is_refused(tmp_path):
    with pytest.raises(UserError, match="--dtype float16 with --link: linked images keep the type of their stacks"):
        run(make(tmp_path), "--link", "--dtype", "float16")


def test_damaged_links_are_refused(tmp_path):
    run(make(tmp_path), "--link")[0].close()
    with h5py.File(tmp_path / "out.h5", "a") as file:
        del file["link/changed"]
    with pytest.raises(UserError, match="/link is damaged or incomplete"):
        ParticleFile(tmp_path / "out.h5")


def test_ranks_link_and_reconstruct_as_copies_do(cli, mpirun, tmp_path):
    """The maps of linked particles, imported by several ranks, are bit for bit those of copied ones."""
    assert cli("simulate", "--phantom", "--particles", 40, "--box", 16, "--snr", 1, "-o",
               tmp_path / "p.h5").returncode == 0
    empty = tmp_path / "run"
    assert cli("reconstruct", tmp_path / "p.h5", "-o", empty).returncode == 0
    exported = cli("export", empty, "--star", tmp_path / "p.star", "--stack", tmp_path / "p.mrcs")
    assert exported.returncode == 0, exported.stderr
    assert mpirun(3, ["-m", "mpirecon", "import", tmp_path / "p.star", "--link", "-o",
                      tmp_path / "links.h5"]).returncode == 0
    assert cli("import", tmp_path / "p.star", "-o", tmp_path / "copies.h5").returncode == 0
    for name in ("links", "copies"):
        done = mpirun(2, ["-m", "mpirecon", "reconstruct", tmp_path / f"{name}.h5", "-o", tmp_path / name])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "links/volume.mrc").read_bytes() == (tmp_path / "copies/volume.mrc").read_bytes()
