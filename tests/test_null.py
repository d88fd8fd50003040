"""The null control: noise with the set's own spectra, and selections that must make no resolution of it."""

import json

import h5py
import numpy as np
import pytest
from conftest import radial_power

from mpirecon.cli import run
from mpirecon.io.particle_file import ParticleFile
from mpirecon.solvers.base import Solver
from mpirecon.solvers.passes import Engine
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere
from mpirecon.validate.null import LARGEST_MEAN, NoiseFile, assess

BOX = 32
LOSSES = {
    "l2": "", "sorted": "--keep 0.5", "l1": "", "huber": "", "posterior": "",
    "sorted, auto": "--keep auto",
    "sorted, scored inside the half": "--keep 0.5 --folds 1",
    "sorted, mini-batches": "--keep 0.5 --solver gradient --batch-size 100 --sort-scope batch",
}  # fmt: skip


def simulate(folder, *options, name="particles.h5", count="400"):
    path = folder / name
    assert run(["simulate", "--phantom", "--particles", count, "--box", str(BOX), "--pixel-size", "5", "--snr", "0.1",
                "--noise-cv", "0.3", "--error-rate", "0.3", "-o", str(path), "-q", *options]) == 0
    return path


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("null"))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_makes_resolution_of_noise(particles, tmp_path, loss, capsys):
    out = tmp_path / "out"
    assert run(["null", str(particles), "-o", str(out), "--loss", loss.partition(",")[0], *LOSSES[loss].split(),
                "--iterations", "3"]) == 0
    assert "makes no resolution" in capsys.readouterr().out
    found = json.loads((out / "null.json").read_text())
    assert found["passed"] and found["shells"] == [6, 16]
    curve = np.array(found["fsc"])
    assert found["mean_fsc"] == pytest.approx(curve[6:17].mean()) and abs(found["mean_fsc"]) <= found["limit"]
    # noise has no map: even the lowest shells agree by chance only
    assert abs(np.mean(curve[3:])) < 0.1
    assert {p.name for p in out.iterdir()} == {"null.json", "fsc.csv", "logs"}


@pytest.mark.parametrize("solver", ["normal", "gradient"])
def test_half_maps_that_do_not_agree_at_all_are_nothing_to_fail_of(particles, tmp_path, monkeypatch, solver):
    """Noise happens to agree negatively at the lowest shells: then no shell has any signal."""
    monkeypatch.setattr("mpirecon.solvers.base.ssnr_of_half", np.zeros_like)
    assert run(["null", str(particles), "-o", str(tmp_path / "out"), "--loss", "posterior", "--solver", solver,
                "--iterations", "2"]) == 0


def test_selection_by_the_other_half_is_caught(particles, tmp_path, monkeypatch, capsys):
    """Scoring half A against half B's map makes resolution: the control must say so with its exit code."""
    statistics = Engine.statistics

    def leak(*args, **options):
        _, outside, random = statistics(*args, **options)
        return outside, outside, random  # with one fold, outside is the other half

    monkeypatch.setattr(Engine, "statistics", leak)
    # references without the noise about their particle hold little of the other half's noise to leak
    monkeypatch.setattr(Solver, "focus_references", lambda solver: None)
    out = tmp_path / "out"
    options = ["--loss", "sorted", "--keep", "0.3", "--folds", "1", "--iterations", "5"]
    assert run(["null", str(particles), "-o", str(out), *options]) == 1
    assert "makes resolution out of nothing" in capsys.readouterr().out
    found = json.loads((out / "null.json").read_text())
    assert not found["passed"] and found["mean_fsc"] > found["limit"]


def test_noise_has_each_images_own_spectrum(particles):
    with ParticleFile(particles) as file:
        images, noise = file.images(slice(0, 200)), NoiseFile(file, 1).images(slice(0, 200))
    ours, theirs = (np.array([radial_power(image) for image in stack]) for stack in (noise, images))
    np.testing.assert_allclose(ours.mean(axis=0)[1:], theirs.mean(axis=0)[1:], rtol=0.15)
    level = np.log(noise.var(axis=(1, 2))), np.log(images.var(axis=(1, 2)))
    assert np.corrcoef(*level)[0, 1] > 0.95  # the levels differ by 30 % between particles
    assert abs(np.corrcoef(noise.ravel(), images.ravel())[0, 1]) < 0.01


def test_noise_depends_on_seed_and_particle_alone(particles):
    with ParticleFile(particles) as file:
        noise = NoiseFile(file, 1)
        some = noise.images(np.array([3, 7, 250]))
        np.testing.assert_array_equal(some, noise.images(slice(0, 400))[[3, 7, 250]])
        assert abs(np.corrcoef(some.ravel(), NoiseFile(file, 2).images(np.array([3, 7, 250])).ravel())[0, 1]) < 0.1
        assert file.has_truth and not noise.has_truth
        assert noise.metadata().pose_error is None and noise.metadata().true_quaternion is None
        np.testing.assert_array_equal(noise.metadata(2, 9).ctf, file.metadata(2, 9).ctf)
        assert len(noise) == len(file) and noise.box == file.box and noise.halves().shape == (400,)


def test_premultiplied_noise_vanishes_where_its_ctf_does(tmp_path):
    path = simulate(tmp_path, "--ctf-premultiply", count="200")
    with ParticleFile(path) as file:
        noisy = NoiseFile(file, 1)
        ctf = noisy.ctf_of(np.arange(200))
        power = np.abs(np.fft.rfft2(noisy.images(slice(0, 200)), norm="ortho")) ** 2
        theirs = np.abs(np.fft.rfft2(file.images(slice(0, 200)), norm="ortho")) ** 2
        np.testing.assert_array_equal(noisy.ctf_of(np.array([5, 9])), ctf[[5, 9]])
    weak = np.abs(ctf) < 0.05
    assert power[weak].mean() < 0.01 * power.mean()
    assert power.mean() == pytest.approx(theirs.mean(), rel=0.1)
    options = ["--loss", "sorted", "--keep", "0.5", "--iterations", "2"]
    assert run(["null", str(path), "-o", str(tmp_path / "out"), *options]) == 0


def test_bad_images_are_treated_as_in_a_run(tmp_path, capsys):
    path = simulate(tmp_path, count="60")
    with h5py.File(path, "r+") as file:
        file["images"][7, 3, 4] = np.nan
    assert run(["null", str(path), "-o", str(tmp_path / "a")]) == 1
    assert "particle 7" in capsys.readouterr().err
    assert run(["null", str(path), "-o", str(tmp_path / "b"), "--skip-bad"]) == 0


def test_an_existing_folder_is_refused(particles, tmp_path, capsys):
    (tmp_path / "null.json").write_text("{}")
    assert run(["null", str(particles), "-o", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_chance_is_what_independent_noise_gives():
    mask, rng, means = soft_sphere(BOX, BOX / 2 - 4, 4), np.random.default_rng(1), []
    squared = np.square(mask, dtype=float)
    for _ in range(40):
        a, b = rng.normal(size=(2, BOX, BOX, BOX)).astype(np.float32)
        verdict = assess(fsc(a, b, mask), fsc(a, b), BOX, squared.mean() ** 2 / np.square(squared).mean())
        means.append(verdict.mean)
    assert verdict.chance == pytest.approx(np.std(means), rel=0.35)
    assert assess(np.zeros(65), np.zeros(65), 128, 0.5).limit == LARGEST_MEAN


def test_the_help_has_the_verdicts_limits(cli):
    text = " ".join(cli("null", "--help").stdout.split())
    assert f"outside ±{LARGEST_MEAN:g}, or in small boxes outside three times what chance gives" in text


def test_ranks_share_one_verdict(mpirun, particles, tmp_path):
    command = ["-m", "mpirecon", "null", particles, "--loss", "sorted", "--keep", "0.5", "--iterations", "2"]
    result = mpirun(3, [*command, "-o", tmp_path / "three"])
    assert result.returncode == 0, result.stderr
    assert run([*map(str, command[2:]), "-o", str(tmp_path / "one"), "-q"]) == 0
    one, three = (json.loads((tmp_path / name / "null.json").read_text()) for name in ("one", "three"))
    assert one["mean_fsc"] == pytest.approx(three["mean_fsc"], abs=1e-4)
