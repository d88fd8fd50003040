"""Poses that a run found, in the origin columns of the imported table: whatever was said of these at the import."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from importing import make, run, table
from test_cryosparc import columns, save_cs
from test_cryosparc import make as make_cs

from mpirecon.io.export_found import cs_found_poses, put_found_poses
from mpirecon.io.star import read_star, write_star
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.model.pose import Pose

M = 8
READ = [(), ("--unit", "shift=pixel"), ("--unit", "shift=-A"), ("--unit", "shift=4.5"), ("--shift-axes", "y,x"),
        ("--shift-axes", "y,-x"), ("--unit", "shift=pixel", "--shift-axes", "-x,y")]


def found():
    q = [random_quaternion(particle_rng(0, i, "found")) for i in range(M)]
    return Pose(q, np.random.default_rng(1).uniform(-9, 9, (M, 2)))


@pytest.mark.parametrize("said", READ)
@pytest.mark.parametrize("there", ["zeros", "some", "pixels", "none"])
def test_found_shifts_are_read_again_as_they_were(tmp_path, said, there):
    change = {"zeros": {"rlnOriginXAngst": np.zeros(M), "rlnOriginYAngst": np.zeros(M)}, "some": {},
              "pixels": {"rlnOriginXAngst": None, "rlnOriginYAngst": None, "rlnOriginX": np.zeros(M),
                         "rlnOriginY": np.zeros(M)},
              "none": {"rlnOriginXAngst": None, "rlnOriginYAngst": None}}[there]
    star, rows = make(tmp_path, table(M, **change)), np.arange(1, M, 2)
    file = run(star, *said)[0]
    tables = {name: pd.DataFrame(one) for name, one in read_star(star).items()}
    put_found_poses(tables["particles"], file, found(), rows)
    write_star(tmp_path / "found.star", tables, overwrite=False)
    again = run(tmp_path / "found.star", *said, output=tmp_path / "again.h5")[0].metadata().pose
    np.testing.assert_allclose(again.shift[rows], found().shift[rows], atol=1e-6)
    np.testing.assert_allclose(again.matrices()[rows], found().matrices()[rows], atol=1e-6)
    others = np.arange(0, M, 2)
    np.testing.assert_allclose(again.shift[others], file.metadata().pose.shift[others], atol=1e-6)


@pytest.mark.parametrize("said", READ)
def test_found_shifts_of_a_cs_file_are_read_again_as_they_were(tmp_path, said):
    zeros = np.zeros((M, 2), "f4")
    cs, rows = make_cs(tmp_path, alignments3D__shift=zeros, alignments3D__psize_A=np.full(M, 2.5, "f4")), np.arange(3)
    file = run(cs, *said)[0]
    array = cs_found_poses(file.source_arrays()["particles"], file, found(), rows)
    assert set(columns()) <= set(array.dtype.names)
    save_cs(tmp_path / "found.cs", array)
    again = run(tmp_path / "found.cs", *said, output=tmp_path / "again.h5")[0].metadata().pose
    np.testing.assert_allclose(again.shift[rows], found().shift[rows], atol=1e-4)
    np.testing.assert_array_equal(again.shift[3:], 0)
