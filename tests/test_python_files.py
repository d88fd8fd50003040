"""Files that scripts name, and words that they give: what is refused, and what is written."""

import h5py
import numpy as np
import pytest
from test_python_interface import particles, result  # noqa: F401 (fixtures)

import mpirecon as mr
from mpirecon.io.optics_table import read_mtf

pytestmark = pytest.mark.in_python


def test_maps_without_numbers_are_no_constant_ones(particles, tmp_path):
    """Nor is a folder of the system's a full disk."""
    array = mr.phantom(particles.box, particles.pixel_size).to_numpy().copy()
    good = mr.Volume(array, particles.pixel_size)
    bad = mr.Volume(np.where(array == array.max(), np.nan, array).astype(np.float32), particles.pixel_size)
    for call in (lambda: mr.fsc(good, bad), lambda: mr.simulate(bad, 10),
                 lambda: mr.reconstruct(particles, mask=bad)):
        with pytest.raises(mr.UserError, match=r"no finite numbers \(NaN or infinite\)"):
            call()
    with pytest.raises(mr.UserError, match="second map: the map is constant"):
        mr.fsc(good, mr.Volume(np.zeros_like(array), particles.pixel_size))
    with pytest.raises(mr.UserError, match="cannot write /proc/x.h5: no such file or directory"):
        mr.simulate(good, 10, path="/proc/x.h5")


@pytest.mark.parametrize("read", [mr.read_star, mr.read_cs])
def test_a_folder_is_no_table(result, tmp_path, monkeypatch, read):
    """The number of an open file was taken for its name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mr.UserError, match=rf"^{result.folder} is a folder; a table of particles \(.star or .cs\)"):
        read(result.folder)
    with pytest.raises(mr.UserError, match="path='': expected a path that is not empty"):
        read("")
    with pytest.raises(mr.UserError, match="path='': expected a path that is not empty"):
        mr.read_map("")
    with pytest.raises(mr.UserError, match=f"^{tmp_path} is a folder; a STAR file"):
        read_mtf(tmp_path)


def test_files_of_its_own_are_called_what_they_are(particles, result, cli):
    path = particles.path
    with pytest.raises(mr.UserError, match=f"^{path} is no STAR file: it is a particle file .*mpirecon.open"):
        mr.read_star(path)
    done = cli("fsc", path, path)
    assert done.returncode == 1 and "is no MRC file: it is a particle file" in " ".join(done.stderr.split())
    with pytest.raises(mr.UserError, match="it is the particle table of a run"):
        mr.read_map(result.folder / "particles.h5")
    table = result.folder / "particles.h5"
    with pytest.raises(mr.UserError, match=f"^{table} is not a particle file: it is the particle table of a run .*"
                       "mpirecon export writes its particles"):
        mr.open(table)
    for words in (("reconstruct", table, "-o", path.parent / "again"), ("forecast", table)):
        done = cli(*words)
        assert done.returncode == 1 and "it is the particle table of a run" in " ".join(done.stderr.split())
    with h5py.File(path.parent / "other.h5", "w"):
        pass
    with pytest.raises(mr.UserError, match="other.h5 is a HDF5 file"):
        mr.read_map(path.parent / "other.h5")


def test_maps_are_written_that_can_be_read(tmp_path):
    for value, words in ((np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (1e30, "which no map has")):
        array = np.zeros((8, 8, 8), np.float32)
        array[1, 2, 3] = value
        with pytest.raises(mr.UserError, match=f"v.mrc: the map holds .*{words}"):
            mr.Volume(array, 2.0).write(tmp_path / "v.mrc")
    for ending in (".gz", ".bz2", ".XZ"):
        with pytest.raises(mr.UserError, match=f"leave {ending.lower()} out of the name"):
            mr.Volume(np.ones((8, 8, 8)), 2.0).write(tmp_path / f"v.mrc{ending}")
        with pytest.raises(mr.UserError, match=f"leave {ending.lower()} out of the name"):
            mr.simulate(mr.phantom(16), 4, tmp_path / f"p.h5{ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "words"), [
    ({"backend": "gpu"}, "backend gpu: choose one of auto, cpu, cuda"),
    ({"backend": None}, "backend=None: expected text"),
    ({"transport": "fast"}, "transport fast: choose one of"), ({"log_particles": "some"}, "log_particles some"),
    ({"log_particles": ""}, "choose one of none, last, all"),
])
def test_words_that_no_option_takes_are_refused(particles, option, words):
    with pytest.raises(mr.UserError, match=words):
        mr.reconstruct(particles, iterations=1, **option)


@pytest.mark.parametrize(("option", "words"), [
    ({"dtype": "int8"}, "dtype int8: choose one of auto, float32, float16"), ({"contrast": ""}, "contrast : choose"),
    ({"rescale": "all"}, "rescale 'all': expected 'common'"), ({"select": "x"}, "select 'x': expected COLUMN=VALUES"),
])
def test_words_that_no_import_takes_are_refused(tmp_path, option, words):
    with pytest.raises(mr.UserError, match=words):
        mr.read_star(tmp_path / "p.star", **option)
