"""--loss l2 compares a sample of a large set with its maps:
the same maps, the same losses but for chance, one pass less."""

import json

import h5py
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.backend.cpu import CpuBackend
from mpirecon.cli import run
from mpirecon.io.particle_file import ParticleFile
from mpirecon.solvers import config
from mpirecon.solvers.passes import Engine

COUNT, BOX = 300, 24
COMPARED = ("distance", "score", "sigma", "scale")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(config, "SAMPLE", 60)


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "particles.h5"
    assert run(["simulate", "--phantom", "--particles", str(COUNT), "--box", str(BOX), "--pixel-size", "5", "--snr",
                "0.04", "-q", "-o", str(path)]) == 0
    return path


@pytest.fixture
def visits(monkeypatch):
    """How many particles each pass compares."""
    counts, real = [], Engine.statistics

    def statistics(self, maps, bands, rows=None, **options):
        counts.append(len(self.slab) if rows is None else int(rows.sum()))
        return real(self, maps, bands, rows, **options)

    monkeypatch.setattr(Engine, "statistics", statistics)
    return counts


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("options", [(), ("--solver", "gradient", "--iterations", "3"), ("--deterministic",),
                                     ("--iterations", "2")])
def test_a_sample_says_what_all_say(particles, tmp_path, visits, options):
    for name, more in (("some", ()), ("all", ("--particle-scores",))):
        assert run(["reconstruct", str(particles), "-o", str(tmp_path / name), "-q", *options, *more]) == 0
        assert len(visits) > 1 and (set(visits) == {COUNT} if more else max(visits) < 0.35 * COUNT)
        visits.clear()
    some, everybody = (summary(tmp_path / name)["iterations"][-1] for name in ("some", "all"))
    assert (everybody["scored"] == everybody["valid"] == some["valid"] == some["kept"] == COUNT
            and 35 < some["scored"] < 90)
    for loss in ("loss", "loss_l2", "loss_heldout", "loss_l2_heldout"):
        assert some[loss] == pytest.approx(everybody[loss], rel=0.03) and some[loss] != everybody[loss]
    with h5py.File(tmp_path / "some" / "particles.h5") as one, h5py.File(tmp_path / "all" / "particles.h5") as other:
        scored = np.isfinite(one["distance"][:])
        assert scored.sum() == some["scored"] and np.isfinite(other["distance"][:]).all()
        for name in COMPARED:
            np.testing.assert_array_equal(np.isfinite(one[name][:]), scored)
        np.testing.assert_allclose(one["scale"][scored], other["scale"][scored], rtol=1e-6)
        assert (one["weight"][:] == 1).all() and one["kept"][:].all()
    for volume in ("half1", "half2", "volume"):
        assert (tmp_path / "some" / f"{volume}.mrc").read_bytes()[1024:] == (
            tmp_path / "all" / f"{volume}.mrc"
        ).read_bytes()[1024:]


def losses(folder):
    last = summary(folder)["iterations"][-1]
    return [last[name] for name in ("loss", "loss_l2", "loss_heldout", "loss_l2_heldout", "loss_of_nothing")]


@pytest.mark.parametrize("options", [(), ("--symmetry", "C2"), ("--distance", "raw", "--max-resolution", "12"),
                                     ("--iterations", "2", "--normalise", "off")], ids=" ".join)
def test_sums_say_the_losses_of_all_particles(particles, tmp_path, options):
    for name, more in (("some", ()), ("all", ("--particle-scores",))):
        assert run(["reconstruct", str(particles), "-o", str(tmp_path / name), "-q", *options, *more]) == 0
    for name in ("some", "all"):
        last = summary(tmp_path / name)["iterations"][-1]
        assert last["losses_of"] == COUNT and (last["scored"] < COUNT) == (name == "some")
    np.testing.assert_allclose(losses(tmp_path / "some"), losses(tmp_path / "all"), rtol=2e-3)


@pytest.mark.parametrize("options", [("--deterministic",), ("--solver", "gradient", "--iterations", "2")], ids=" ".join)
def test_other_losses_are_the_samples(particles, tmp_path, options):
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "run"), "-q", *options]) == 0
    last = summary(tmp_path / "run")["iterations"][-1]
    assert last["losses_of"] == last["scored"] < COUNT


def test_losses_of_weighted_and_of_clean_images_are_the_samples(particles, tmp_path):
    weighted = mr.reconstruct(particles, weights=np.linspace(1, 2, COUNT))
    clean = mr.reconstruct(mr.simulate(mr.phantom(BOX, 5.0), COUNT, snr=5.0, seed=4))
    for found in (weighted, clean):
        last = found.summary["iterations"][-1]
        assert last["losses_of"] == last["scored"] < COUNT


def test_each_image_is_visited_once(particles, tmp_path, monkeypatch):
    """But for those that are compared."""
    prepared, real = [], CpuBackend.prepare

    def prepare(self, images, *about):
        prepared.append(len(images))
        return real(self, images, *about)

    monkeypatch.setattr(CpuBackend, "prepare", prepare)
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "run"), "-q", "--solve-iterations", "0"]) == 0
    assert sum(prepared) == COUNT + summary(tmp_path / "run")["iterations"][-1]["scored"] < 1.5 * COUNT


def test_ranks_draw_the_same_sample(particles, tmp_path, mpi_program):
    program = tmp_path / "few.py"
    program.write_text("import sys\nfrom unittest import mock\nfrom mpirecon.cli import run\n"
                       "with mock.patch('mpirecon.solvers.config.SAMPLE', 60): assert run(sys.argv[1:]) == 0\n")
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "one"), "-q", "--deterministic"]) == 0
    mpi_program(3, program, "reconstruct", particles, "-o", tmp_path / "three", "-q", "--deterministic")
    with h5py.File(tmp_path / "one" / "particles.h5") as one, h5py.File(tmp_path / "three" / "particles.h5") as three:
        for name in COMPARED:
            np.testing.assert_allclose(one[name][:], three[name][:], rtol=1e-6, err_msg=name)


def test_the_reader_is_reported(particles, tmp_path, capsys):
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "run")]) == 0
    scored = summary(tmp_path / "run")["iterations"][-1]["scored"]
    assert f"of {scored}, drawn at random: --particle-scores compares each" in capsys.readouterr().out
    assert f"Only a random sample of {scored} particles was compared" in (tmp_path / "run" / "report.html").read_text()
    star = tmp_path / "kept.star"
    assert run(["export", str(tmp_path / "run"), "--star", str(star), "--stack", str(tmp_path / "kept.mrcs")]) == 0
    assert f"the run compared {scored} of {COUNT} particles: the others have no scores" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--loss", "huber"), ("--loss", "sorted", "--keep", "0.8")])
def test_losses_that_select_compare_all_particles(particles, tmp_path, visits, options):
    assert run(["reconstruct", str(particles), "-o", str(tmp_path / "run"), "-q", "--iterations", "2", *options]) == 0
    assert set(visits) == {COUNT}


def test_planted_errors_are_looked_for_in_all_particles(tmp_path, visits):
    particles = mr.simulate(mr.phantom(BOX, 5.0), 200, snr=0.3, error_rate=0.3, seed=4)
    assert np.isfinite(mr.reconstruct(particles).particles["distance"]).all() and set(visits) == {200}


def test_images_upside_down_are_found_in_the_sample(tmp_path):
    particles = mr.simulate(mr.phantom(BOX, 5.0), COUNT, snr=2.0, seed=4)
    images = particles.images()
    images[::3] *= -1
    with ParticleFile(particles.path) as file:
        about = file.metadata()
    turned = mr.Particles(images, about.pose, about.ctf, pixel_size=5.0)
    told = mr.reconstruct(turned).summary["warnings"]
    assert any("compared (--particle-scores compares all)" in text and "inverted contrast" in text
               for text in told)
