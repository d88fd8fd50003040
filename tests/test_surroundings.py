"""Hard simulated data: coloured noise, neighbours, backgrounds, a second conformation, preferred views;
each as asked for, by itself."""

import math

import h5py
import numpy as np
import pytest

import mpirecon
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.mrc import write_map
from mpirecon.model import Pose
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.dataset import simulate
from mpirecon.simulation.draws import draw_particles
from mpirecon.simulation.phantom import phantom
from mpirecon.simulation.settings import SimulationSettings

BOX = 32


def written(path, second=None, box=BOX, **settings):
    """Simulate the phantom; returns (images float64, datasets, result)."""
    settings = SimulationSettings(**{"particles": 60, "snr": 0.1, **settings})
    result = simulate(phantom(box), 4.0, settings, path, second=second, overwrite=True)
    with h5py.File(path) as file:
        data = {name: file[name][:] for name in file}
    return data.pop("images").astype(np.float64), data, result


@pytest.mark.parametrize("angle", [20.0, 60.0])
def test_preferred_views_fill_a_cap_evenly(angle):
    m = 4000
    settings = SimulationSettings(particles=m, preferred_views=0.8, preferred_angle=angle, error_rate=0.1)
    drawn = draw_particles(settings, BOX, 4.0, np.arange(m))
    cosine = drawn.true_pose.matrices()[:, 2, 2]  # viewing axis along z
    edge = math.cos(math.radians(angle))
    cap = (1 - edge) / 2
    expected = 0.8 + 0.2 * cap
    assert abs((cosine >= edge).mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / m)
    inside = np.sort((cosine[cosine >= edge] - edge) / (1 - edge))  # cos θ is uniform where views are even
    assert np.abs(inside - (np.arange(len(inside)) + 0.5) / len(inside)).max() < 1.95 / math.sqrt(len(inside))
    rot, _, psi = drawn.true_pose.euler()[cosine >= edge].T
    for turn in (rot, psi):
        assert abs(np.exp(1j * np.radians(turn)).mean()) < 4 / math.sqrt(len(turn))
    np.testing.assert_array_equal(drawn.particles.true_quaternion, drawn.true_pose.quaternion)
    plain = draw_particles(SimulationSettings(particles=m), BOX, 4.0, np.arange(m))
    same = (drawn.true_pose.quaternion == plain.true_pose.quaternion).all(axis=1)
    assert abs(same.mean() - 0.2) < 0.03


@pytest.mark.parametrize("box", [32, 33])
def test_coloured_noise_has_the_spectrum_of_its_micrograph_and_the_variance_asked_for(tmp_path, box):
    options = dict(particles=400, snr=1e-3, box=box, micrographs=4, seed=2)
    clean, _, _ = written(tmp_path / "clean.h5", **{**options, "snr": math.inf})
    images, data, result = written(tmp_path / "noisy.h5", noise_colour=1.5, **options)
    noise = images - clean
    np.testing.assert_array_equal(data["true_micrograph"], np.arange(400) % 4)
    k = np.fft.fftfreq(box, 1 / box)
    radius = np.hypot(*np.meshgrid(k, k))
    exponents = []
    for micrograph in range(4):
        rows = data["true_micrograph"] == micrograph
        exponent, = np.unique(data["true_noise_colour"][rows])
        exponents.append(exponent)
        power = (np.abs(np.fft.fft2(noise[rows])) ** 2).mean(axis=0)
        expected = (1 + 0.2 / (np.maximum(radius, 1) / (box / 2))) ** (2 * exponent)
        expected *= result.noise_sigma**2 * box**4 / expected.sum()
        for low, high in ((1, 3), (3, 6), (6, 10), (10, 16), (16, 24)):
            ring = (radius >= low) & (radius < high)
            assert power[ring].mean() == pytest.approx(expected[ring].mean(), rel=6 / math.sqrt(100 * ring.sum() / 2))
    assert len(set(exponents)) == 4 and 0 <= min(exponents) and max(exponents) < 1.5
    assert noise.std() == pytest.approx(result.noise_sigma, rel=0.03)


def test_neighbours_are_other_views_cut_off_at_the_box(tmp_path):
    options = dict(snr=math.inf, shift_sigma=0.0)
    clean, before, _ = written(tmp_path / "clean.h5", **options)
    images, data, _ = written(tmp_path / "n.h5", neighbour_rate=0.4, **options)
    there, added = data["neighbour"], images - clean
    assert 10 < there.sum() < 40 and np.abs(added[~there]).max() == 0
    np.testing.assert_array_equal(data["quaternion"], before["quaternion"])
    x = np.arange(BOX) - BOX // 2
    for image in added[there]:
        total = np.abs(image).sum()
        assert total > 0
        centre = np.array([(np.abs(image).sum(axis=axis) * x).sum() / total for axis in (0, 1)])
        assert np.hypot(*centre) > 0.2 * BOX  # it lies at the edge, and none of it comes in on the other side
        along = (x[None, :] * centre[0] + x[:, None] * centre[1]) / np.hypot(*centre)
        assert np.abs(image[along < -0.45 * BOX]).sum() < 0.02 * total


def test_backgrounds_are_the_planes_that_the_file_names(tmp_path):
    plain, _, _ = written(tmp_path / "a.h5", particles=400)
    images, data, result = written(tmp_path / "b.h5", particles=400, background=2.0)
    x = (np.arange(BOX) - BOX // 2) / (BOX / 2)
    level, along_x, along_y = data["true_background"].T[:, :, None, None]
    np.testing.assert_allclose(images - plain, level + along_x * x[None, None] + along_y * x[None, :, None],
                               atol=1e-4 * images.max())
    np.testing.assert_allclose(data["true_background"].std(axis=0), 2 * result.noise_sigma, rtol=0.15)


def test_a_fraction_shows_the_second_conformation(tmp_path):
    second = phantom(BOX, second=True)
    first = phantom(BOX)
    likeness = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert 0.6 < likeness < 0.98 and second.sum() == pytest.approx(first.sum(), rel=1e-3)
    images, data, _ = written(tmp_path / "p.h5", second, snr=math.inf, second_fraction=0.3, particles=200)
    which = data["conformation"]
    assert abs((which == 2).mean() - 0.3) < 0.13
    forward = ForwardModel(BOX, 4.0)
    for number, volume in ((1, first), (2, second)):
        rows = which == number
        expected = forward.images(forward.prepare(volume), Pose(data["quaternion"][rows], data["shift"][rows]),
                                  data["ctf"][rows])
        np.testing.assert_allclose(images[rows], expected, atol=1e-4 * np.abs(expected).max())


def test_all_of_it_depends_on_the_particle_alone(tmp_path):
    options = dict(noise_colour=1.0, neighbour_rate=0.5, background=1.0, second_fraction=0.3, preferred_views=0.5,
                   duplicate_rate=0.2,
                   second=phantom(BOX, second=True))
    whole, data, _ = written(tmp_path / "a.h5", particles=50, **options)
    part, some, _ = written(tmp_path / "b.h5", particles=20, **options)
    np.testing.assert_array_equal(part[:20], whole[:20])
    for name in ("conformation", "neighbour", "true_background", "true_noise_colour", "quaternion"):
        np.testing.assert_array_equal(some[name][:20], data[name][:20])
    copy = data["duplicate_of"] >= 0
    np.testing.assert_array_equal(whole[copy], whole[data["duplicate_of"][copy]])


def test_the_command_and_python_take_the_second_map(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_map("second.mrc", phantom(32, second=True), 3.0, overwrite=False)
    write_map("first.mrc", phantom(32), 3.0, overwrite=False)
    words = ["simulate", "--particles", "30", "--box", "32", "--pixel-size", "3", "--snr", "inf", "--second-fraction",
             "0.5", "-q"]
    assert run([*words, "--map", "first.mrc", "--second-map", "second.mrc", "-o", "a.h5"]) == 0
    assert run([*words, "--phantom", "-o", "b.h5"]) == 0
    with h5py.File("a.h5") as one, h5py.File("b.h5") as other:
        np.testing.assert_array_equal(one["conformation"], other["conformation"])
        likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one["images"][:], other["images"][:])]
        assert min(likeness) > 0.99  # a map loses its solvent level and its corners
    made = mpirecon.simulate(mpirecon.phantom(32, 3.0), 30, second=phantom(32, second=True), second_fraction=0.5,
                             snr=math.inf)
    with h5py.File("b.h5") as other:
        np.testing.assert_allclose(made.images(), other["images"][:], atol=1e-5 * other["images"][:].max())
        np.testing.assert_array_equal(made.truth["conformation"], other["conformation"])
    of_files = mpirecon.simulate("first.mrc", 30, "d.h5", second="second.mrc", second_fraction=0.5, snr=math.inf,
                                 truth_map="truth.mrc")
    with h5py.File("a.h5") as one:
        np.testing.assert_array_equal(of_files.images(), one["images"][:])
    assert run([*words, "--map", "first.mrc", "--second-map", "second.mrc", "--truth-map", "t.mrc", "--overwrite", "-o",
                "a.h5"]) == 0
    np.testing.assert_array_equal(mpirecon.read_map("truth.mrc").array, mpirecon.read_map("t.mrc").array)
    with pytest.raises(mpirecon.UserError, match="first.mrc is the map that this command reads"):
        mpirecon.simulate("first.mrc", 3, "first.mrc", overwrite=True)
    with pytest.raises(mpirecon.UserError, match="not both"):
        mpirecon.simulate("first.mrc", 3, model="first.cif")
    with pytest.raises(mpirecon.UserError, match="box=24 applies to files and the phantom"):
        mpirecon.simulate(mpirecon.phantom(32), 3, box=24)
    capsys.readouterr()
    assert run([*words, "--map", "first.mrc", "-o", "c.h5"]) == 1
    assert "give the second conformation with --second-map" in capsys.readouterr().err
    without = [word for word in words if word not in ("--second-fraction", "0.5")]
    assert run([*without, "--phantom", "--second-map", "second.mrc", "-o", "c.h5"]) == 1
    assert "give their fraction with --second-fraction" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(preferred_views=1.1), "--preferred-views is 1.1, expected 0 … 1"),
        (dict(preferred_angle=-1.0), "--preferred-angle is -1 degrees"),
        (dict(second_fraction=2.0), "--second-fraction is 2"),
        (dict(noise_colour=-1.0), "--noise-colour is -1"),
        (dict(micrographs=0), "--micrographs is 0"),
        (dict(neighbour_rate=float("nan")), "--neighbour-rate nan: expected a number"),
        (dict(background=1.0, snr=math.inf), "--background is in standard deviations of the noise"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        SimulationSettings(particles=5, **settings)
