"""MRC files against the mrcfile library: all modes, both byte orders, old headers, and damage."""

from __future__ import annotations

import subprocess
import sys

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader, read_map, write_map, write_stack


def stack_of(tmp_path, array, name="s.mrcs", pixel_size=1.5):
    path = tmp_path / name
    with mrcfile.new(path) as mrc:
        mrc.set_data(array)
        mrc.set_image_stack()
        mrc.voxel_size = pixel_size
    return path


def images(dtype="f4", m=7, n=6):
    values = np.random.default_rng(1).integers(0, 100, (m, n, n))
    return values.astype(dtype)


@pytest.mark.parametrize(("dtype", "mode"), [("i1", 0), ("i2", 1), ("f4", 2), ("u2", 6), ("f2", 12)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_modes_and_byte_orders(tmp_path, dtype, mode, order):
    data = images(dtype).astype(np.dtype(dtype).newbyteorder(order))
    path = tmp_path / "s.mrcs"
    with mrcfile.new(path) as mrc:
        mrc.set_data(data)
        mrc.set_image_stack()
    stack = StackReader(path)
    assert (len(stack), stack.box, int(mrcfile.open(path).header.mode)) == (7, 6, mode)
    rows = [6, 0, 3, 3, 4, 5]
    np.testing.assert_array_equal(stack.read(rows), data[rows])
    assert stack.read(rows).dtype == np.dtype(dtype)
    assert stack.read([]).shape == (0, 6, 6)
    rows = [0, 2, 4, 1, 3, 5, 6]  # all images, the first and the last in their place and the others not
    np.testing.assert_array_equal(stack.read(rows), data[rows])


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    return stack_of(tmp_path_factory.mktemp("order"), images("f4"))


@given(st.lists(st.integers(0, 6), max_size=12) | st.permutations(range(7)))
def test_images_are_read_in_any_order(seven, rows):
    np.testing.assert_array_equal(StackReader(seven).read(rows), images("f4")[rows])


@pytest.mark.parametrize("stamp", [b"\x11\x11\0\0", b"\0\0\0\0"])
def test_a_big_endian_int8_file_whose_sizes_read_both_ways(tmp_path, stamp):
    """256 sections of 256 × 256: the header makes sense in either byte order, the size and stamp decide."""
    path = tmp_path / "s.mrcs"
    header = np.zeros((), mrcfile.dtypes.HEADER_DTYPE.newbyteorder(">"))
    header["nx"], header["ny"], header["nz"], header["mode"], header["map"] = 256, 256, 2, 0, b"MAP "
    raw = bytearray(header.tobytes())
    raw[212:216] = stamp
    path.write_bytes(bytes(raw) + bytes(2 * 256 * 256))
    if stamp[0]:
        assert len(StackReader(path)) == 2
    else:
        raw[208:212] = bytes(4)  # without the mark, the file size decides
        path.write_bytes(bytes(raw) + bytes(2 * 256 * 256))
        assert len(StackReader(path)) == 2


def test_old_header_without_mark_and_stamp(tmp_path):
    path = stack_of(tmp_path, images())
    raw = bytearray(path.read_bytes())
    raw[208:216] = bytes(8)
    path.write_bytes(raw)
    np.testing.assert_array_equal(StackReader(path).read([2]), images()[2:3])


def test_extended_header_is_skipped(tmp_path):
    path = tmp_path / "s.mrcs"
    with mrcfile.new(path) as mrc:
        mrc.set_data(images())
        mrc.set_extended_header(np.ones(100, "f4"))
    np.testing.assert_array_equal(StackReader(path).read([0, 6]), images()[[0, 6]])


def test_damaged_stacks_are_refused_by_name(tmp_path):
    good = stack_of(tmp_path, images()).read_bytes()
    cases = {
        "short.mrcs": (good[:-1], "truncated: the header promises 7 sections"),
        "stub.mrcs": (good[:100], "not an MRC file, or is truncated"),
        "text.mrcs": (b"data_particles\n" * 200, "not an MRC file"),
        "zero.mrcs": (bytes(5000), "not an MRC file"),
        "mode.mrcs": (good[:12] + b"\4\0\0\0" + good[16:], "MRC mode 4 is not supported"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            StackReader(tmp_path / name)
    with pytest.raises(UserError, match="nothing.mrcs: No such file"):
        StackReader(tmp_path / "nothing.mrcs")
    with pytest.raises(UserError, match="must be square, these are 4 x 6"):
        StackReader(stack_of(tmp_path, np.zeros((2, 6, 4), "f4"), "oblong.mrcs"))


def test_a_stack_cut_short_while_open_and_rows_outside(tmp_path):
    path = stack_of(tmp_path, images())
    stack = StackReader(path)
    with pytest.raises(UserError, match="image 8 was requested, but the stack has 7"):
        stack.read([7])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="ends before image 7"):
        stack.read([6])


def test_map_round_trip_and_header(tmp_path):
    path = tmp_path / "m.mrc"
    volume = np.random.default_rng(2).normal(size=(5, 5, 5))
    write_map(path, volume, 1.25, overwrite=False)
    back = read_map(path)
    np.testing.assert_array_equal(back.array, volume.astype("f4"))
    assert back.pixel_size == pytest.approx(1.25)
    assert mrcfile.validate(str(path))
    with mrcfile.open(path) as mrc:
        assert mrc.header.mode == 2 and mrc.is_volume()
        assert tuple(mrc.header.origin.item()) == (0, 0, 0) and int(mrc.header.nxstart) == 0
    with pytest.raises(UserError, match="exists already"):
        write_map(path, volume, 1.25, overwrite=False)
    write_map(path, 2 * volume, 1.25, overwrite=True)
    np.testing.assert_array_equal(read_map(path).array, (2 * volume).astype("f4"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.mrc"]


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2)])
def test_axis_order_of_the_header(tmp_path, axes):
    """axes = which of x, y, z columns, rows and sections are."""
    volume = np.arange(27, dtype="f4").reshape(3, 3, 3)  # z, y, x
    stored = np.empty_like(volume)
    for z, y, x in np.ndindex(3, 3, 3):
        at = {1: x, 2: y, 3: z}
        stored[at[axes[2]], at[axes[1]], at[axes[0]]] = volume[z, y, x]
    path = tmp_path / "m.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(stored)
        mrc.voxel_size = 2.0
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes
    np.testing.assert_array_equal(read_map(path).array, volume)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_bad_maps_are_refused(tmp_path):
    def refuse(name, array, message, voxel=1.0):
        path = tmp_path / name
        with mrcfile.new(path) as mrc:
            mrc.set_data(np.asarray(array, "f4"))
            mrc.set_volume()
            mrc.voxel_size = voxel
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            read_map(path)
        return path

    cube = np.zeros((4, 4, 4))
    refuse("oblong.mrc", np.zeros((4, 4, 5)), "must be a cube, this is 5 x 4 x 4")
    refuse("unequal.mrc", cube, "pixel size differs", voxel=(1, 1, 2))
    refuse("nan.mrc", np.where(np.arange(64).reshape(4, 4, 4) == 5, np.nan, 0), "NaN or infinite")
    path = refuse("unsized.mrc", cube, "no pixel size", voxel=0)
    assert read_map(path, 3.0).pixel_size == 3.0


@pytest.mark.parametrize(("dtype", "mode"), [("float32", 2), ("float16", 12)])
def test_stack_writer(tmp_path, dtype, mode):
    path, data = tmp_path / "out.mrcs", images("f4")
    with write_stack(path, 6, 1.5, overwrite=False, dtype=dtype) as append:
        append(data[:3])
        append(data[3:])
    if dtype == "float32":  # of float16 images mrcfile computes the deviation in float16, and finds inf
        assert mrcfile.validate(str(path))
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack() and int(mrc.header.mode) == mode
        assert mrc.voxel_size.x == pytest.approx(1.5)
        assert float(mrc.header.dmean) == pytest.approx(data.mean())
        assert float(mrc.header.rms) == pytest.approx(data.std())
        np.testing.assert_array_equal(mrc.data, data)
    np.testing.assert_array_equal(StackReader(path).read(range(7)), data)


def test_a_failed_stack_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), write_stack(tmp_path / "out.mrcs", 6, 1.5, overwrite=False) as append:
        append(images())
        raise KeyError("the caller failed")
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
import numpy as np
from mpirecon.errors import UserError
from mpirecon.io.mrc import write_map, write_stack

def map():
    write_map("o", np.ones((64, 64, 64)), 1.0, overwrite=False)

def stack():
    with write_stack("o", 64, 1.0, overwrite=False) as append:
        for _ in range(50):
            append(np.ones((1, 64, 64)))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    globals()[sys.argv[1]]()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["map", "stack"])
def test_no_space_left(tmp_path, what):
    result = subprocess.run([sys.executable, "-c", FULL, what], cwd=tmp_path, capture_output=True, text=True)
    assert "cannot write o: the file size limit is reached" in result.stdout, result
    assert result.returncode == 0 and result.stderr == ""
    assert list(tmp_path.iterdir()) == []
