"""particles.h5: what is written reads back, damage is named, and a failed write leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest

from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model import ParticleSet, Pose, make_ctf

N, M = 8, 300


def particles(m=M, box=N, truth=False, **fields) -> ParticleSet:
    rng = np.random.default_rng(3)
    ctf = make_ctf(m, voltage_kv=300.0, defocus_u=rng.uniform(5e3, 2e4, m), defocus_v=1e4, cs_mm=2.7)
    return ParticleSet(
        box=box, pixel_size=1.5, pose=Pose(rng.normal(size=(m, 4)), rng.normal(size=(m, 2))), ctf=ctf,
        half=rng.integers(1, 3, m), optics_group=rng.integers(1, 9, m),
        pose_error=rng.random(m) < 0.3 if truth else None,
        true_quaternion=rng.normal(size=(m, 4)) if truth else None, **fields,
    )


def pixels(m=M, box=N) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(m, box, box)).astype(np.float32)


def write(path, m=M, box=N, dtype="float32", truth=False, overwrite=False, **options):
    with ParticleWriter(path, m, box, 1.5, overwrite=overwrite, dtype=dtype, **options) as writer:
        writer.write_images(0, pixels(m, box)[: m // 3])
        writer.write_images(m // 3, pixels(m, box)[m // 3 :])
        writer.write_metadata(particles(m, box, truth))
    return path


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, dtype, truth):
    path = write(tmp_path / "p.h5", dtype=dtype, truth=truth, ctf_premultiplied=True, contrast="black")
    wanted = particles(truth=truth)
    with ParticleFile(path) as file:
        assert (file.box, file.pixel_size, len(file), file.has_truth) == (N, 1.5, M, truth)
        assert (file.metadata().pose_error is not None) == truth
        assert file.attributes["ctf_premultiplied"] and file.attributes["contrast"] == "black"
        images = file.images(slice(None))
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, pixels().astype(dtype))
        np.testing.assert_array_equal(file.halves(), wanted.half)
        for start, stop in [(0, M), (7, 19), (M - 1, M), (5, 5)]:
            found = file.metadata(start, stop)
            np.testing.assert_array_equal(found.ids, np.arange(start, stop))
            np.testing.assert_allclose(found.pose.quaternion, wanted.pose.quaternion[start:stop], rtol=1e-15)
            np.testing.assert_array_equal(found.pose.shift, wanted.pose.shift[start:stop])
            np.testing.assert_array_equal(found.ctf, wanted.ctf[start:stop])
            np.testing.assert_array_equal(found.optics_group, wanted.optics_group[start:stop])
            assert found.ctf_premultiplied is True and found.contrast == "black"
            if truth:
                np.testing.assert_array_equal(found.pose_error, wanted.pose_error[start:stop])
                np.testing.assert_array_equal(found.true_quaternion, wanted.true_quaternion[start:stop])


@pytest.mark.parametrize("box", [8, 300])  # many images in a chunk, one image in a chunk
@pytest.mark.parametrize("rows", [[], [0], [0, 1, 2], [3, 3, 9], [0, 5, 6, 11], list(range(0, 12, 2)), [11]])
def test_any_sorted_rows(tmp_path, box, rows):
    path = write(tmp_path / "p.h5", 12, box)
    with ParticleFile(path) as file:
        np.testing.assert_array_equal(file.images(np.array(rows, int)), pixels(12, box)[rows])


def test_rows_far_apart_do_not_read_what_lies_between(tmp_path):
    path = write(tmp_path / "p.h5", 3000, N)
    with ParticleFile(path) as file:
        chunk = file.stored.chunks[0]
        assert 3000 > 2 * chunk
        assert file.stored.runs(np.array([0, 1, 2999])) == [(0, 2), (2, 3)]
        assert file.stored.runs(np.array([chunk - 1, chunk])) == [(0, 2)]
        np.testing.assert_array_equal(file.images(np.array([0, 1, 2999])), pixels(3000, N)[[0, 1, 2999]])
        np.testing.assert_array_equal(file.images(slice(5, 3000, 500)), pixels(3000, N)[5:3000:500])
        for rows in ([-1], [3000], [5, 4]):
            with pytest.raises(ValueError, match="sorted and within 0 to 2999"):
                file.images(np.array(rows))


def test_layout_is_the_documented_one(tmp_path):
    with h5py.File(write(tmp_path / "p.h5", truth=True, provenance={"seed": 7})) as file:
        assert set(file) == {"images", "quaternion", "shift", "ctf", "half", "optics_group", "pose_error",
                             "true_quaternion"}
        assert file["images"].chunks[1:] == (N, N) and file["pose_error"].dtype == bool and file["half"].dtype == "u1"
        assert file.attrs["format"] == "mpirecon-particles" and file.attrs["version"] == 1
        assert file.attrs["provenance"] == '{"seed": 7}'


def test_source_tables_come_back_as_they_were(tmp_path):
    tables = {
        "": pd.DataFrame({"z": ["1.50", "é"], "a/b": ["", "x y"], ".": ["", ""]}, dtype=str),
        "optics": pd.DataFrame({"g": [str(i) for i in range(20000)]}, dtype=str),
        "none": pd.DataFrame({"c": []}, dtype=str),
    }
    path = write(tmp_path / "p.h5", source=("run/µ.star", tables))
    with ParticleFile(path) as file:
        name, back = file.source()
    assert name == "run/µ.star" and list(back) == list(tables)
    for key, table in tables.items():
        assert list(back[key].columns) == list(table.columns)
        assert back[key].to_numpy(object).tolist() == table.to_numpy(object).tolist()
    with ParticleFile(write(tmp_path / "q.h5")) as file:
        assert file.source() == ("", {})


def test_existing_targets_are_kept(tmp_path):
    path = write(tmp_path / "p.h5")
    before = path.read_bytes()
    with pytest.raises(UserError, match="p.h5 exists already.*--overwrite"):
        write(path)
    assert path.read_bytes() == before
    with pytest.raises(RuntimeError), ParticleWriter(path, M, N, 1.5, overwrite=True) as writer:
        writer.write_images(0, pixels())
        raise RuntimeError("the caller failed")
    assert path.read_bytes() == before
    write(path, truth=True, overwrite=True)
    with ParticleFile(path) as file:
        assert file.has_truth and file.metadata().pose_error is not None
    for target, message in [(tmp_path, "is a folder"), (tmp_path / "no" / "p.h5", "folder .*no does not exist")]:
        with pytest.raises(UserError, match=message):
            write(target)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_an_incomplete_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="write_metadata was not called"):
        with ParticleWriter(tmp_path / "p.h5", M, N, 1.5, overwrite=False) as writer:
            writer.write_images(0, pixels())
    with pytest.raises(UserError, match="no particles"):
        ParticleWriter(tmp_path / "p.h5", 0, N, 1.5, overwrite=False)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
import numpy as np
from mpirecon.errors import UserError
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model import ParticleSet, Pose, make_ctf

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
m = int(sys.argv[1])
ones = np.ones(m)
try:
    with ParticleWriter("p.h5", m, 32, 1.5, overwrite=False) as writer:
        for start in range(0, m, 10):
            writer.write_images(start, np.ones((10, 32, 32)))
        pose = Pose(np.ones((m, 4)), np.zeros((m, 2)))
        writer.write_metadata(ParticleSet(32, 1.5, pose, make_ctf(m, voltage_kv=300.0), ones, ones))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("m", [70, 100, 1000, 10000])  # it fills in the metadata, cache or images
def test_no_space_left(tmp_path, m):
    result = subprocess.run([sys.executable, "-c", FULL, str(m)], cwd=tmp_path, capture_output=True, text=True)
    assert "cannot write p.h5: the file size limit is reached" in result.stdout, result
    assert (result.returncode, result.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_too_large_for_the_disk_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="p.h5: the disk is full; .* GB are needed"):
        ParticleWriter(tmp_path / "p.h5", 10**9, 4096, 1.5, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def refuse(path, message):
    with pytest.raises(UserError, match=f"{path.name}.*{message}"):
        ParticleFile(path)


def test_files_of_another_kind_are_refused(tmp_path):
    good = write(tmp_path / "p.h5").read_bytes()
    (tmp_path / "short.h5").write_bytes(good[: len(good) // 2])
    refuse(tmp_path / "short.h5", "is truncated")
    (tmp_path / "text.h5").write_text("data_particles\n")
    refuse(tmp_path / "text.h5", "not a particle file .it is not HDF5")
    (tmp_path / "empty.h5").touch()
    refuse(tmp_path / "empty.h5", "not a particle file|cannot read")
    refuse(tmp_path / "nothing.h5", "")
    refuse(tmp_path, "is a folder")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = 1
    refuse(tmp_path / "other.h5", "attribute format is None")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.attrs.modify("version", 99), "has version 99"),
        (lambda f: f.attrs.__delitem__("contrast"), "attribute contrast is missing"),
        (lambda f: f.attrs.modify("pixel_size", 0.0), "pixel_size is 0.0"),
        (lambda f: f.__delitem__("shift"), "dataset /shift is missing"),
        (lambda f: replace(f, "half", np.ones(5, "u1")), r"/half is uint8 \(5,\), expected uint8 \(300,\)"),
        (lambda f: replace(f, "quaternion", np.ones((M, 4), "f4")), "/quaternion is float32"),
        (lambda f: replace(f, "images", np.ones((M, 4, 5), "f4")), r"/images is float32 \(300, 4, 5\)"),
        (lambda f: replace(f, "images", np.ones((M, 4, 4), "i4")), "/images is int32"),
    ],
)
def test_wrong_contents_are_refused(tmp_path, damage, message):
    path = write(tmp_path / "p.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    refuse(path, message)


def replace(file, name, values):
    del file[name]
    file[name] = values


def test_bad_values_name_file_and_rows(tmp_path):
    path = write(tmp_path / "p.h5")
    with h5py.File(path, "r+") as file:
        file["half"][17] = 3
    with ParticleFile(path) as file, pytest.raises(UserError, match=r"h5, in rows 10 to 19 .* half of particle 7 is 3"):
        file.metadata(10, 20)


def other_layout(path, **layout):
    """The same particle file, its images laid out by HDF5's defaults or as asked, as other programs may write it."""
    with h5py.File(path) as file, h5py.File(path.with_name("other.h5"), "w") as other:
        for name in file:
            if name != "images":
                file.copy(name, other)
        other.attrs.update(file.attrs)
        other.create_dataset("images", data=file["images"][:], **layout)
    return path.with_name("other.h5")


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (1, 8, 8)}, {"chunks": (5, 8, 8), "compression": "gzip"}, {"chunks": (4, 4, 8)},
               {"maxshape": (None, 8, 8)}]
)
def test_images_in_any_layout_are_read(tmp_path, layout):
    path = other_layout(write(tmp_path / "p.h5", 12, 8), **layout)
    with ParticleFile(path) as file:
        assert (file.stored.first_byte is None) == bool(layout)
        np.testing.assert_array_equal(file.images(slice(3, 11)), pixels(12, 8)[3:11])


@pytest.mark.parametrize("m", [1, 1000])  # a single chunk, and many
def test_written_images_lie_in_the_file_one_after_another(tmp_path, m):
    path = write(tmp_path / "p.h5", m, 8)
    with ParticleFile(path) as file:
        first = file.stored.first_byte
        assert first % 4096 == 0 or m == 1
        assert np.fromfile(path, "f4", m * 64, offset=first).tobytes() == pixels(m, 8).tobytes()


def test_unreadable_images_name_file_and_rows(tmp_path):
    path = other_layout(write(tmp_path / "p.h5", 12, 300), chunks=(1, 300, 300))
    raw = bytearray(path.read_bytes())
    node = raw.find(b"TREE\x01")  # index of the chunks of /images
    while node >= 0:
        raw[node : node + 4] = b"XXXX"
        node = raw.find(b"TREE\x01", node)
    path.write_bytes(raw)
    with warnings.catch_warnings(), ParticleFile(path) as file:
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"other\.h5: /images, rows 4 to 6 cannot be read, the file is damaged"):
            file.images(slice(4, 7))


def test_a_file_cut_while_it_is_read_is_named(tmp_path):
    path = write(tmp_path / "p.h5", 12, 300)
    with ParticleFile(path) as file:
        os.truncate(path, 6 * 300 * 300 * 4)
        with pytest.raises(UserError, match=r"p\.h5: /images, rows 4 to 6 cannot be read, the file ends before"):
            file.images(slice(4, 7))
