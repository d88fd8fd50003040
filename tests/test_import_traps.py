"""Traps that a particle table or its stacks set: told by name, or read all the same."""

from __future__ import annotations

import importlib

import mrcfile
import numpy as np
import pytest
from importing import line_of, make, pixels, refused, run, table
from test_cryosparc import make as make_cs
from test_cryosparc import run as import_cs


def test_traps_of_the_table_are_reported(tmp_path):
    """Half sets by micrograph, scores of zero, a CTF of zero: none is an error, all are said."""
    names = np.repeat([f"m{i}.mrc" for i in range(8)], 5)
    half = np.repeat([1, 2], 5).tolist() * 4
    chosen = {"rlnMicrographName": names, "rlnRandomSubset": half}
    _, text = run(make(tmp_path, table(40, **chosen)))
    assert "half sets are by micrograph: the particles of each of the 8 micrographs are in one half" in text
    half[3] = 2
    _, text = run(make(tmp_path, table(40, **{**chosen, "rlnRandomSubset": half})), "--overwrite")
    assert "by micrograph" not in text and "Warning" not in text
    few = table(rlnMicrographName=[f"m{i // 2}.mrc" for i in range(8)], rlnRandomSubset=[1, 1, 2, 2] * 2)
    assert "by micrograph" not in run(make(tmp_path, few), "--overwrite")[1]  # a coin per particle may fall so
    probability = np.where(np.arange(8) % 4 == 2, 0.0, 0.5)
    _, text = run(make(tmp_path, table(rlnMaxValueProbDistribution=probability)), "--overwrite")
    line = line_of(tmp_path / "p.star", "000003@")
    assert f"rlnMaxValueProbDistribution is 0 for 2 of 8 particles (first: {tmp_path}/p.star, line {line})" in text
    _, text = run(make(tmp_path, table(rlnMaxValueProbDistribution=0.0)), "--overwrite")
    assert "Warning" not in text  # never filled in
    _, text = run(make(tmp_path, table(rlnCtfScalefactor=[1, 1, 0, 1, 1, 1, 1, 1])), "--overwrite")
    assert "the CTF's scale is 0 for 1 of 8 particles" in text
    refused(make(tmp_path, table(rlnCtfScalefactor=0.0)), "is 0 for all 8 particles", "--overwrite")


@pytest.mark.parametrize("pack", ["gzip", "bz2", "lzma"])
def test_compressed_stacks_are_refused_by_name(tmp_path, pack):
    star = make(tmp_path)
    stack = tmp_path / "stacks" / "a.mrcs"
    stack.write_bytes(importlib.import_module(pack).compress(stack.read_bytes()))
    kind = {"gzip": "gzip", "bz2": "bzip2", "lzma": "xz"}[pack]
    refused(star, f"p.star, line {line_of(star, '000001@')}: .*a.mrcs is compressed with {kind}; decompress it first")
    star.write_bytes(stack.read_bytes())
    refused(star, f"p.star is compressed with {kind}; decompress it first")


@pytest.mark.parametrize("dtype", [">f4", ">i2", "<u2"])
def test_stacks_of_any_byte_order(tmp_path, dtype):
    images = pixels(range(8), np.dtype(dtype).newbyteorder("="))
    star = make(tmp_path, stacks={"stacks/a.mrcs": images})
    stack = tmp_path / "stacks" / "a.mrcs"
    if dtype[0] == ">":
        with mrcfile.open(stack) as mrc:
            header = mrc.header.astype(mrc.header.dtype.newbyteorder(">"))
        header["machst"] = (0x11, 0x11, 0, 0)
        stack.write_bytes(header.tobytes() + images.astype(dtype).tobytes())
    np.testing.assert_array_equal(run(star)[0].images(slice(None)), images)


def test_unicode_and_blanks_in_paths_crlf_and_no_last_line_break(tmp_path):
    folder = tmp_path / "Ribosom é µ" / "lauf 1"
    folder.mkdir(parents=True)
    names = [f"{i + 1:06d}@Bilder ü/stäck 1.mrcs" for i in range(8)]
    stacks = {"Bilder ü/stäck 1.mrcs": pixels(range(8))}
    star = make(folder, table(rlnImageName=names), stacks=stacks, name="läuft.star")
    star.write_bytes(star.read_text().rstrip("\n").replace("\n", "\r\n").encode())
    file, _ = run(star, output=tmp_path / "é.h5")
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(8)))
    assert list(file.source()[1]["particles"]["rlnImageName"]) == names


@pytest.mark.parametrize("column", ["rlnHelicalTubeID", "rlnHelicalTrackLengthAngst"])
def test_helical_segments_are_reported_as_their_symmetry_is_not_applied(tmp_path, column):
    file, text = run(make(tmp_path, table(**{column: 1.0 + np.arange(8) // 4})))
    assert (len(file) == 8 and f"{column}: these are helical segments; helical symmetry" in text
            and "not applied" in text)
    assert "helical segments" not in run(make(tmp_path), "--overwrite")[1]


def test_filaments_of_cryosparc_too(tmp_path):
    path = make_cs(tmp_path, filament__filament_uid=np.arange(8, dtype="u8") // 4)
    assert "filament/filament_uid: these are helical segments" in import_cs(path)[1]
    assert "helical segments" not in import_cs(make_cs(tmp_path), "--overwrite")[1]


def test_every_rank_reports_it_once(tmp_path, mpirun):
    star = make(tmp_path, table(rlnHelicalTubeID=1 + np.arange(8) // 4))
    result = mpirun(2, ["-m", "mpirecon", "import", star, "-o", tmp_path / "two.h5"])
    assert result.returncode == 0 and result.stdout.count("helical segments") == 1, result.stderr


@pytest.mark.parametrize(("column", "within"), [("rlnHelicalTubeID", "rlnMicrographName"),
                                                ("rlnTomoParticleId", "rlnTomoName")])
def test_numbers_that_begin_again_are_of_one_micrograph_or_tomogram(tmp_path, column, within):
    """Wherever a column is asked to say which rows belong together; without the names of micrographs, it alone does."""
    number, where, rows = np.tile([1, 1, 2, 2], 10), np.repeat(np.arange(10), 4), np.arange(40) // 2
    star = make(tmp_path, table(40, **{column: number, within: [f"m{i}.mrc" for i in where]}))
    wrong = ("--orientation-error-rate", "0.5", "--error-by", column)
    for name in (column, column.removeprefix("rln"), "_" + column):
        file, _ = run(star, "--overwrite", *wrong, "--family", column, "--new-halves")
        assert len(np.unique(file.group_names(name))) == 20
    particles = file.metadata()
    assert all(len(set(file.group_names(column)[rows == i])) == 1 for i in range(20))
    np.testing.assert_array_equal(file.extra("family"), 2 * rows)
    flags = particles.pose_error.reshape(20, 2)
    assert (flags[:, 0] == flags[:, 1]).all() and flags[::2, 0].any() and not flags[::2, 0].all()
    assert (np.ptp(particles.half.reshape(20, 2), axis=1) == 0).all() and set(particles.half) == {1, 2}
    file, _ = run(make(tmp_path, table(40, **{column: number})), "--overwrite")
    assert len(np.unique(file.group_names(column))) == 2
