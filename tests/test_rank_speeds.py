"""Ranks on hosts of different speed take particles in proportion, and the result is the one of equal parts."""

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.parallel.slab import shared_slab, slab
from mpirecon.solvers.speeds import shares_of


@pytest.mark.parametrize(("seconds", "shares"), [
    ([1.0, 1.0, 1.05], None),
    ([1.0, 2.0], [1.0, 0.5]),
    ([2.0, 1.0, 1.02], [0.5, 1.0, 1.0]),
    ([1.0, 1000.0], [1.0, 0.05]),
])
def test_shares_are_the_speeds_where_they_differ(seconds, shares):
    found = shares_of(np.array(seconds))
    assert found is None if shares is None else found == pytest.approx(shares)


@pytest.mark.parametrize("shares", [None, [1.0], [1.0, 0.5, 0.05], [0.3, 0.3, 0.3, 1.0]])
@pytest.mark.parametrize("m", [0, 1, 7, 1000])
def test_slabs_follow_each_other_and_have_their_shares(m, shares):
    size = 3 if shares is None else len(shares)
    parts = [shared_slab(m, size, rank, None if shares is None else np.array(shares)) for rank in range(size)]
    assert parts[0][0] == 0 and parts[-1][1] == m
    assert all(one[1] == other[0] and one[0] <= one[1] for one, other in zip(parts, parts[1:]))
    if shares is None:
        assert parts == [slab(m, size, rank) for rank in range(size)]
    else:
        wanted = m * np.array(shares) / np.sum(shares)
        np.testing.assert_allclose([last - first for first, last in parts], wanted, atol=1)


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    path = tmp_path_factory.mktemp("speeds") / "particles.h5"
    mr.simulate(mr.phantom(24, 6.0), 300, path, snr=0.7, error_rate=0.3, seed=2)
    return path


def test_uneven_parts_give_the_result_of_one_rank(particles, mpi_program, tmp_path):
    mpi_program(3, "speeds_program.py", particles, tmp_path)
    one = {"sorted": mr.reconstruct(mr.open(particles), tmp_path / "one", loss="sorted", keep=0.7, iterations=3),
           "rescue": mr.reconstruct(mr.open(particles), tmp_path / "rescue one", loss="posterior", poses="rescue",
                                    search_offset=0.0)}  # fmt: skip
    for name, tolerance in (("sorted", 1e-5), ("rescue", 1e-3)):
        x, y = (mrcfile.read(folder / "volume.mrc").astype(float) for folder in (one[name].folder, tmp_path / name))
        assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(x), name
        with h5py.File(tmp_path / name / "particles.h5") as table:
            np.testing.assert_array_equal(table["id"], np.arange(300))
            np.testing.assert_array_equal(table["kept"], one[name].kept)
            if name == "rescue":
                np.testing.assert_array_equal(table["pose_state"], one[name].particles["pose_state"])
