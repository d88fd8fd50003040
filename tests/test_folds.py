"""How many folds a half set is divided into where nobody says, and who must be in one."""

import json
import runpy
import shutil

import h5py
import numpy as np
import pytest

from mpirecon.solvers.config import Config
from mpirecon.solvers.slab_data import groups_and_families


class Grouped:
    """A particle file of so many groups in each half set, three rows each."""

    def __init__(self, *groups):
        self._half = np.repeat([1, 2], [3 * g for g in groups])
        self._name = np.concatenate([np.repeat([f"{half}/{g}" for g in range(count)], 3) for half,
                                     count in enumerate(groups)])

    def group_names(self, name):
        assert name == "particle"
        return self._name

    def halves(self):
        return self._half


@pytest.mark.parametrize(("groups", "folds"), [((20, 20), 8), ((63, 400), 8), ((400, 63), 8), ((64, 64), 4),
                                               ((400, 500), 4)])
def test_few_groups_have_more_folds(groups, folds):
    config = Config(loss="posterior", group_by="particle")
    assert config.folds is None and config.settled(Grouped(*groups)).scoring_folds == folds
    asked = Config(loss="posterior", group_by="particle", folds=3)
    assert asked.settled(Grouped(*groups)) is asked


def test_without_groups_there_are_four():
    assert Config(loss="posterior").settled(None).folds == Config(loss="posterior").scoring_folds == 4
    assert Config(loss="l2").settled(None).scoring_folds == 1


def test_groups_that_share_a_family_are_in_one_fold():
    rng = np.random.default_rng(3)
    names, family = rng.integers(0, 12, 60).astype(str), rng.integers(0, 40, 60)
    groups, joint = groups_and_families(60, names, family)
    np.testing.assert_array_equal(groups, np.unique(names, return_inverse=True)[1])
    for labels in (names, family):
        assert all(len(set(joint[labels == label])) == 1 for label in labels)
    np.testing.assert_array_equal(groups_and_families(60, names, None), [groups, groups])
    alone, joint = groups_and_families(60, None, family)
    np.testing.assert_array_equal(alone, np.arange(60))
    assert len(set(joint)) == len(set(family)) and set(joint) == set(range(len(set(family))))


def with_families(source, path, family):
    """The particle file with this dataset beside the others."""
    shutil.copy(source, path)
    with h5py.File(path, "a") as file:
        file["family"] = family
    return path


@pytest.mark.parametrize("group_by", [False, True])
def test_copies_of_one_image_are_in_one_fold(cli, mpi_program, tmp_path, monkeypatch, group_by):
    """Each image three times under names of its own: on any number of ranks no copy sits in another fold."""
    options = ["--phantom", "--particles", 60, "--box", 16, "--pixel-size", 8, "--snr", 0.5, "--seed", 2]
    assert cli("simulate", *options, "-o", tmp_path / "s.h5").returncode == 0
    family = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file["half"][:] = 1 + family % 2
        if group_by:  # groups of the table join families
            table = file.create_group("source/table_000")
            table.attrs.update(name="particles", rows=60, columns=["rlnName"])
            table["rlnName"] = np.array([f"g{i // 4}" for i in family], "S4").astype(h5py.string_dtype("utf-8", 4))
            file["source"].attrs["path"] = "p.star"
    path = with_families(tmp_path / "s.h5", tmp_path / "f.h5", family)
    program = tmp_path / "folds.py"
    program.write_text(f"""
import sys
import numpy as np
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import get_communicator
from mpirecon.parallel.console import Console
from mpirecon.solvers.config import Config
from mpirecon.solvers.run import Reconstruction

class NoLog:
    def event(self, *_, **__): pass

comm = get_communicator()
with ParticleFile(sys.argv[1]) as file:
    config = Config(loss='posterior', folds=2, group_by={'rlnName' if group_by else None!r})
    run = Reconstruction(comm, file, config, NoLog(), Console(comm, quiet=True))
    fold = comm.gather(run.slab.fold)
    if comm.rank == 0: np.save(sys.argv[2], np.concatenate(fold))
""")
    monkeypatch.setattr("sys.argv", [str(program), str(path), str(tmp_path / "1.npy")])
    runpy.run_path(str(program))
    mpi_program(3, program, path, tmp_path / "3.npy")
    folds = {ranks: np.load(tmp_path / f"{ranks}.npy") for ranks in (1, 3)}
    np.testing.assert_array_equal(folds[1], folds[3])
    assert set(folds[1]) == {0, 1}
    assert all(len(set(folds[1][family == number])) == 1 for number in family)


def test_halves_that_part_families_are_reported_and_few_families_refused(cli, tmp_path):
    options = ["--phantom", "--particles", 40, "--box", 16, "--pixel-size", 8, "--snr", 0.5, "--seed", 2]
    assert cli("simulate", *options, "-o", tmp_path / "s.h5").returncode == 0
    with h5py.File(tmp_path / "s.h5") as file:
        half = file["half"][:]
    family = np.arange(40)
    first, second = np.flatnonzero(half == 1)[0], np.flatnonzero(half == 2)[0]
    family[[first, second]] = min(first, second)
    path = with_families(tmp_path / "s.h5", tmp_path / "f.h5", family)
    done = cli("reconstruct", path, "-o", tmp_path / "out", "--no-postprocess")
    assert (done.returncode == 0 and "1 of 39 particles have rows in both half sets" in done.stderr
            and "--new-halves" in done.stderr)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sum("have rows in both half sets" in text for text in summary["warnings"]) == 1
    path = with_families(tmp_path / "s.h5", tmp_path / "g.h5", half.astype(int))
    done = cli("reconstruct", path, "-o", tmp_path / "two", "--loss", "sorted", "--keep", "0.7")
    assert done.returncode == 1 and "half set 1 has 1 particles, fewer than --folds 4" in done.stderr
    assert "Use --folds 1\n" in done.stderr
    with h5py.File(path, "a") as file:
        file["half"][:] = 1
    for loss in ((), ("--loss", "sorted", "--keep", "0.7")):  # a half set of no family needs new half sets, not folds
        done = cli("reconstruct", path, "-o", tmp_path / "two", *loss)
        assert (done.returncode == 1 and "half set 2 is empty (40 particles in all)" in done.stderr
                and "--new-halves" in done.stderr and "--folds" not in done.stderr)
