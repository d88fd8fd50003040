"""Stacks whose numbers, headers or formats are not what they seem:
told or refused with the reason, as the map would be wrong without a word."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from importing import refused, run, save_stack
from test_columns import M, N, images, star

SIGNED = np.rint(20 * images())
WIDE = np.rint(3000 * images())


def stack(tmp_path, pixels, mode=None):
    """A table of a stack of these pixels, whose header has this mode."""
    path = star(tmp_path)
    save_stack(tmp_path / "stacks" / "a.mrcs", pixels)
    if mode is not None:
        with open(tmp_path / "stacks" / "a.mrcs", "r+b") as file:
            file.seek(12)
            file.write(np.array([mode], "<i4").tobytes())
    return path


@pytest.mark.parametrize("pixels, mode, words", [
    (SIGNED.astype("i1"), 0, None),
    ((SIGNED + 128).astype("u1").view("i1"), 0, "unsigned where the stack's header says signed"),
    (WIDE.astype("i2"), 1, None), ((WIDE + 20000).astype("u2"), 6, None), ((WIDE + 40000).astype("u2"), 6, None),
    ((WIDE + 33000).astype("u2").view("i2"), 1, "unsigned where"), (WIDE.astype("i2").view("u2"), 6, "unsigned where"),
    ((20 * WIDE).astype("i8").astype("i2"), 1, "as after an overflow"),
    (np.clip(7 * WIDE, -32768, 32767).astype("i2"), 1, "they were cut off there"),
])  # fmt: skip
def test_whole_numbers_of_another_type(tmp_path, pixels, mode, words):
    text = run(stack(tmp_path, pixels, mode))[1]
    assert ("MRC mode 2" in text) == (words is not None) and (words or "") in text
    assert words is None or f"{M} of {M} images that were checked" in text


def blank(where, value=0.0, rows=slice(None)):
    """Images with one value where y, x (pixels from the middle) are so."""
    y, x = np.mgrid[:N, :N] - N // 2
    pixels = images()
    some = pixels[rows]
    some[:, where(y, x)] = value
    return pixels


@pytest.mark.parametrize("pixels, count", [
    (images(), 0), (blank(lambda y, x: y < 0), M), (blank(lambda y, x: x > 2, -1.5, slice(3)), 3),
    (blank(lambda y, x: np.hypot(x, y) > 7), 0), (np.rint(images()), 0),
    (np.rint(4 * blank(lambda y, x: y > 0)).astype("i1"), M), (blank(lambda y, x: np.abs(y) < 1), 0),
])  # fmt: skip
def test_images_of_which_a_part_is_blank(tmp_path, pixels, count):
    text = run(stack(tmp_path, pixels))[1]
    assert (f"{count} of {M} images that were checked have a blank area" in text) if count else "blank area" not in text


@pytest.mark.parametrize("scale", [0.0, 1e-16, 1e-38])
def test_images_without_contrast_are_refused(tmp_path, scale):
    refused(stack(tmp_path, images() * np.float32(scale)), "is constant|differ by less than 1e-15")


def test_images_of_tiny_numbers_are_read(tmp_path):
    assert "Warning" not in run(stack(tmp_path, images() * np.float32(1e-12)))[1]


@pytest.mark.parametrize("bytes_, told", [(0, False), (512, False), (2048, True)])
def test_a_stack_longer_than_its_header_says(tmp_path, bytes_, told):
    path = stack(tmp_path, images())
    with open(tmp_path / "stacks" / "a.mrcs", "ab") as file:
        file.write(bytes(bytes_))
    assert (f"is {bytes_} bytes longer than its header says ({M} images of {N} x {N} pixels" in run(path)[1]) == told


@pytest.mark.parametrize("start, name", [(b"II*\0", "TIFF"), (b"II+\0", "BigTIFF or EER"), (b"\x89HDF\r\n", "HDF5")])
def test_images_of_other_formats_are_named(tmp_path, start, name):
    path = star(tmp_path)
    (tmp_path / "stacks" / "a.mrcs").write_bytes(start + bytes(5000))
    refused(path, f"a.mrcs is a {name} file; images are read from MRC stacks")


def test_images_that_are_in_a_stack_twice(tmp_path, mpirun):
    again = images()
    again[M // 2 :] = again[: M // 2]
    path = stack(tmp_path, again)
    words = f"{M // 2} of {M} images have the very pixels of another one, under another name"
    assert words in run(path)[1]
    done = mpirun(3, ["-m", "mpirecon", "import", path, "-o", tmp_path / "three.h5"])
    assert done.returncode == 0 and words in done.stdout + done.stderr
    assert "very pixels" not in run(stack(tmp_path, images()), "--overwrite")[1]


def test_rows_that_repeat_an_image_are_not_reported_twice(tmp_path):
    path = star(tmp_path, rlnImageName=[f"{1 + row // 2:06d}@stacks/a.mrcs" for row in range(M)])
    text = run(path)[1]
    assert f"{M // 2} images are in both half sets" in text and "very pixels" not in text


def test_headers_are_heard_before_shifts_are_refused(tmp_path):
    path = star(tmp_path, {"rlnImagePixelSize": [0.25]}, rlnOriginXAngst=np.linspace(-9, 9, M))
    with mrcfile.mmap(tmp_path / "stacks" / "a.mrcs", "r+") as file:
        file.voxel_size = 2.5
    refused(path, "outside their images.* Moreover, the pixel size is 0.25 Å in the table, but 2.5 Å in the header")
