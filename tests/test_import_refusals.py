"""Tables and stacks that cannot be imported are refused, each in one sentence that says where and why."""

from __future__ import annotations

import re

import numpy as np
import pytest
from importing import OPTICS, N, line_of, make, pixels, refused, run, save_stack, table

from mpirecon.errors import UserError

@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rlnAngleRot": None, "rlnAnglePsi": None}, "lacks rlnAngleRot, rlnAnglePsi; particles need images and poses"),
        ({"rlnImageName": None}, "lacks rlnImageName"),
        ({"rlnDefocusU": None}, "CTF columns are missing: rlnDefocusU; give a STAR file with CTF estimates, or "
         "--no-ctf where the images"),
        ({"rlnOriginYAngst": None}, "only one of rlnOriginXAngst and rlnOriginYAngst"),
        ({"rlnOpticsGroup": 3}, r"row 0: optics group 3 is not in the optics table \(groups 1\)"),
        ({"rlnAngleTilt": [1, 2, "x", 4, 5, 6, 7, 8]}, "row 2: rlnAngleTilt is 'x', expected a finite number"),
        ({"rlnDefocusU": [1, 2, 3, "nan", 5, 6, 7, 8]}, "row 3: rlnDefocusU is 'nan', expected a finite number"),
        ({"rlnDefocusU": [1, 2, 3, 4e7, 5, 6, 7, 8]},
         "row 3 .image 4@stacks/a.mrcs.: CTF defocus_u is 4e.07 Å, outside"),
        ({"rlnVoltage": [1] * 8}, "row 0 .*: CTF voltage_kv is 1 kV, outside"),
        ({"rlnRandomSubset": [1, 2, 3, 1, 2, 1, 2, 1]}, "row 2: rlnRandomSubset is 3, expected 1, 2 or 0"),
        ({"rlnOpticsGroup": 1.5}, "row 0: rlnOpticsGroup is '1.5', expected a whole number"),
        ({"rlnImageName": [f"{i}@stacks/a.mrcs" for i in range(8)]}, "row 0: image name '0@stacks/a.mrcs'.*from 1"),
        ({"rlnImageName": [f"{i + 2}@stacks/a.mrcs" for i in range(8)]},
         r"row 7: image 9 is past the end of .*a.mrcs, which has 8 images"),
        ({"rlnTomoVisibleFrames": "[1,1]"}, "many tilt images each"),
        ({"rlnTomoSubtomogramRot": 10.0}, "rlnTomoSubtomogramRot is not zero"),
        ({"rlnImageDimensionality": 3}, "subtomograms are not supported"),
        ({"rlnCtfDataAreCtfPremultiplied": [0, 0, 1, 1, 1, 1, 1, 1]},
         "row 2: rlnCtfDataAreCtfPremultiplied is 1 .* but 0"),
    ],
)
def test_bad_tables_are_refused(tmp_path, columns, message):
    star = make(tmp_path, table(**columns), stacks={"stacks/a.mrcs": pixels(range(8))})
    first = len(star.read_text().splitlines()) - 8  # a blank line ends the table
    message = re.sub(r"row (\d)", lambda match: f"line {first + int(match[1])}", message)
    assert str(star) in refused(star, message)


@pytest.mark.parametrize(
    ("optics", "message"),
    [
        ({"rlnImagePixelSize": [2.5, 2.6]},
         r"pixel size \(rlnImagePixelSize\) is 2.6 \(optics group 2\), but 2.5 .*--rescale"),
        ({"rlnImageSize": [N, 8]}, "rlnImageSize is 8 .optics group 2., but 6"),
        ({"rlnImageSize": [8, 8]}, "rlnImageSize is 8, but the images of .*a.mrcs have 6 pixels"),
        ({"rlnOpticsGroup": [1, 1]}, "the optics table has group 1 twice"),
        ({"rlnImagePixelSize": [-1, -1]}, "pixel size from rlnImagePixelSize is -1 Å"),
        ({"rlnCtfDataAreCtfPremultiplied": [0, 1]}, "rlnCtfDataAreCtfPremultiplied is 1 .optics group 2."),
        ({"rlnImageDimensionality": [3, 3]}, "subtomograms are not supported"),
        ({"rlnVoltage": ["high", 300]}, "rlnVoltage is 'high', expected a finite number"),
    ],
)
def test_contradicting_optics_groups_are_refused(tmp_path, optics, message):
    two = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [1, 2], **optics}
    refused(make(tmp_path, table(rlnOpticsGroup=[1, 2] * 4), two), message)


def test_a_group_without_particles_may_differ(tmp_path):
    optics = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [1, 2],
              "rlnImagePixelSize": [2.5, 9]}
    assert run(make(tmp_path, optics=optics))[0].pixel_size == 2.5


def test_premultiplied_images_are_reported(tmp_path):
    file, text = run(make(tmp_path, optics={**OPTICS, "rlnCtfDataAreCtfPremultiplied": [1]}))
    assert file.metadata(0, 1).ctf_premultiplied and "CTF-premultiplied" in text


def test_what_is_not_applied_is_reported(tmp_path):
    _, text = run(make(tmp_path, table(rlnNormCorrection=0.9)))
    assert "rlnNormCorrection is not 1 everywhere" in text
    _, text = run(make(tmp_path, table(rlnNormCorrection=1.0)), "--overwrite")
    assert text.count("\n") == 1


def test_bad_stacks_are_refused(tmp_path):
    star = make(tmp_path)
    line = line_of(star, "000001@")
    stack = tmp_path / "stacks" / "a.mrcs"
    good = stack.read_bytes()
    stack.write_bytes(good[:-100])
    refused(star, rf"p.star, line {line}: .*a.mrcs is truncated: the header promises 8 sections")
    stack.write_bytes(b"not a stack" * 500)
    refused(star, rf"p.star, line {line}: .*a.mrcs is not an MRC file")
    save_stack(stack, np.zeros((8, N, N + 2), "f4"))
    refused(star, "images must be square, these are 8 x 6")
    save_stack(stack, np.zeros((8, N + 2, N + 2), "f4"))
    refused(star, "rlnImageSize is 6, but the images of .* have 8 pixels")
    stack.unlink()
    refused(star, rf"p.star, line {line}: the stack stacks/a.mrcs is not there, .* --data-dir.*--map-stack.*--stack")
    refused(star, "no image is in a stack 'b.mrcs'", "--map-stack", "b.mrcs=c.mrcs")
    refused(star, "there is no file c.mrcs .mapped from stacks/a.mrcs", "--map-stack", "a.mrcs=c.mrcs")


def test_different_boxes_are_refused(tmp_path):
    names = [f"{i % 4 + 1}@{'ab'[i // 4]}.mrcs" for i in range(8)]
    stacks = {"a.mrcs": pixels(range(4)), "b.mrcs": np.ones((4, 8, 8), "f4")}
    refused(make(tmp_path, table(rlnImageName=names), stacks=stacks), "b.mrcs has images of 8 pixels, .*a.mrcs of 6")


def test_other_bad_inputs(tmp_path):
    refused(make(tmp_path, table(0)), "the table data_particles has no particles")
    star = make(tmp_path)
    text = star.read_text()
    star.write_text(text.replace("000003@stacks/a.mrcs ", ""))
    refused(star, f"p.star, line {line_of(star, '000002@') + 1}: 10 fields in a table of 11 columns")
    star.write_text(text.replace("data_particles", "data_micrographs").replace("rlnImageName", "rlnMicrographName"))
    refused(star, "no table lists particle images .* data_optics, data_micrographs")
    star.write_text(text.replace("rlnImagePixelSize", "rlnMicrographOriginalPixelSize"))
    refused(star, "no pixel size of the images")
    star.write_bytes(bytes(1000))
    refused(star, "is not a STAR file")
    (tmp_path / "p.cs").write_bytes(b"\x93NUMPY")
    refused(tmp_path / "p.cs", "p.cs cannot be read as a .cs file: it is damaged or truncated")


def test_contradicting_pixel_sizes_are_refused(tmp_path):
    optics = {label: values for label, values in OPTICS.items() if label != "rlnImagePixelSize"}
    columns = {"rlnPixelSize": 1.0, "rlnMagnification": 20000.0, "rlnDetectorPixelSize": 5.0}
    star = make(tmp_path, table(**columns), optics)
    refused(star, "contradicting pixel sizes, 1 Å from rlnPixelSize and 2.5 Å from rlnDetectorPixelSize")
    assert run(star, "--pixel-size", 2.5)[0].pixel_size == 2.5


def test_float16_overflow_is_refused(tmp_path):
    images = pixels(range(8))
    images[5, 1, 1] = 1e5
    star = make(tmp_path, stacks={"stacks/a.mrcs": images})
    refused(star, r"image 6@stacks/a.mrcs\) has pixels beyond the range of float16", "--dtype", "float16")


def test_an_existing_output_is_kept(tmp_path):
    star = make(tmp_path)
    output = run(star)[0].path
    before = output.read_bytes()
    with pytest.raises(UserError, match="exists already.*--overwrite"):
        run(star)
    star.write_text(star.read_text().replace("stacks/a", "stacks/b"))
    with pytest.raises(UserError, match="is not there"):
        run(star, "--overwrite")
    assert output.read_bytes() == before
