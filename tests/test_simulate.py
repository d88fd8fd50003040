"""Simulated particle files: every number that was asked for is measured in the file."""

import json
import math

import h5py
import numpy as np
import pytest
from conftest import radial_power
from sources import blobs, explicit_ctf, write_pdb

import mpirecon.simulation.dataset as dataset
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model import Pose
from mpirecon.model.pose import angular_distance
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.draws import draw_particles
from mpirecon.simulation.phantom import phantom
from mpirecon.simulation.settings import SimulationSettings

# ---------------------------------------------------------------- the file


def make(path, box=32, volume=None, **settings):
    """Simulate the phantom into `path`; returns (images float64, every dataset, result)."""
    volume = phantom(box) if volume is None else volume
    settings = SimulationSettings(**{"particles": 40, **settings})
    result = dataset.simulate(volume, 4.0, settings, path, overwrite=True)
    with h5py.File(path) as file:
        data = {name: file[name][:] for name in file}
    return data.pop("images").astype(np.float64), data, result


@pytest.mark.parametrize("box", [32, 33])
def test_signal_to_noise_is_the_one_asked_for(tmp_path, box):
    """Signal: the same seed without noise, which changes nothing else. Noise: what the noisy file has more."""
    common = dict(particles=700, scale_cv=0.3, seed=3)
    signal, _, _ = make(tmp_path / "clean.h5", box, snr=math.inf, **common)
    noisy, data, result = make(tmp_path / "noisy.h5", box, snr=0.05, noise_cv=0.25, **common)
    noise = noisy - signal
    measured = signal.var(axis=(1, 2)).mean() / noise.var(axis=(1, 2)).mean()
    assert measured == pytest.approx(0.05, rel=0.08)  # 256 calibration and 700 measured particles with scale cv 0.3
    sigma = noise.std(axis=(1, 2))
    np.testing.assert_allclose(sigma, data["true_sigma"], rtol=5 / np.sqrt(2 * box**2))
    assert sigma.mean() == pytest.approx(result.noise_sigma, rel=0.04)
    assert sigma.std() / sigma.mean() == pytest.approx(0.25, abs=0.03)
    assert abs(noise.mean()) < 5 * result.noise_sigma / np.sqrt(noise.size)
    shells = np.mean([radial_power(n / s) for n, s in zip(noise, data["true_sigma"])], axis=0)
    np.testing.assert_allclose(shells[1:], 1, atol=0.06)


def test_contrast_spreads_but_the_file_does_not_say(tmp_path):
    plain, _, _ = make(tmp_path / "a.h5", snr=math.inf)
    scaled, data, _ = make(tmp_path / "b.h5", snr=math.inf, scale_cv=0.2)
    factors = np.sum(plain * scaled, axis=(1, 2)) / np.sum(plain**2, axis=(1, 2))
    np.testing.assert_allclose(factors, data["true_scale"], rtol=1e-5)
    assert np.ptp(factors) > 0.2 and (data["ctf"]["scale"] == 1).all()


def test_particles_depend_neither_on_the_batch_nor_on_their_number(tmp_path, monkeypatch):
    options = dict(snr=0.1, noise_cv=0.1, scale_cv=0.1, junk_rate=0.2, error_rate=0.3)
    whole, whole_data, _ = make(tmp_path / "a.h5", particles=40, **options)
    monkeypatch.setattr(dataset, "BATCH_PIXELS", 7 * 32**2)
    part, part_data, _ = make(tmp_path / "b.h5", particles=23, **options)
    np.testing.assert_array_equal(part, whole[:23])
    for name, values in part_data.items():
        np.testing.assert_array_equal(values, whole_data[name][:23], err_msg=name)
    other, _, _ = make(tmp_path / "c.h5", particles=23, seed=2, **options)
    assert abs(np.corrcoef(other.ravel(), part.ravel())[0, 1]) < 0.2


def test_an_option_changes_nothing_else(tmp_path):
    clean, data, _ = make(tmp_path / "a.h5", snr=math.inf)
    for change in (dict(error_rate=0.5), dict(halves="alternate"), dict(noise_cv=0.5)):
        images, other, _ = make(tmp_path / "b.h5", **{"snr": math.inf, **change})
        np.testing.assert_array_equal(images, clean)
        np.testing.assert_array_equal(other["ctf"], data["ctf"])


def test_wrong_poses_are_flagged_and_the_images_show_the_true_ones(tmp_path):
    volume = phantom(32)
    images, data, result = make(tmp_path / "a.h5", volume=volume, particles=200, snr=math.inf, error_rate=0.3)
    flag = data["pose_error"]
    assert result.wrong_poses == flag.sum() and abs(flag.mean() - 0.3) < 0.13
    distance = angular_distance(data["quaternion"], data["true_quaternion"])
    assert distance[~flag].max() < 1e-5 and np.median(distance[flag]) > 90
    forward = ForwardModel(32, 4.0)
    expected = forward.images(forward.prepare(volume), Pose(data["true_quaternion"], data["shift"]), data["ctf"])
    np.testing.assert_allclose(images, expected, atol=1e-4 * np.abs(expected).max())


def test_small_errors_turn_the_pose_a_little(tmp_path):
    _, data, _ = make(tmp_path / "a.h5", particles=400, box=16, snr=math.inf, error_rate=0.5, error_degrees=8.0)
    angle = angular_distance(data["quaternion"], data["true_quaternion"])[data["pose_error"]]
    assert np.sqrt(np.mean(angle**2)) == pytest.approx(8, rel=0.2) and angle.min() > 0


def test_junk_is_noise_alone_and_flagged(tmp_path):
    clean, _, _ = make(tmp_path / "clean.h5", particles=200, snr=math.inf)
    noisy, data, result = make(tmp_path / "noisy.h5", particles=200, snr=1.0, junk_rate=0.25, error_rate=0.1)
    junk = data["junk"]
    assert result.junk == junk.sum() and abs(junk.mean() - 0.25) < 0.13
    assert data["pose_error"][junk].all() and (data["true_scale"][junk] == 0).all()
    assert result.wrong_poses == (data["pose_error"] & ~junk).sum() > 0
    likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(noisy, clean)]
    assert np.abs(np.array(likeness)[junk]).max() < 0.15 < 0.3 < np.array(likeness)[~junk].min()


def test_nothing_planted_leaves_no_truth_columns(tmp_path):
    make(tmp_path / "a.h5")
    with ParticleFile(tmp_path / "a.h5") as file:
        assert not file.has_truth and file.metadata().pose_error is None


@pytest.mark.parametrize("box", [32, 33])
def test_premultiplied_images_are_the_plain_ones_times_their_ctf(tmp_path, box):
    plain, data, _ = make(tmp_path / "a.h5", box, particles=5)
    multiplied, _, _ = make(tmp_path / "b.h5", box, particles=5, ctf_premultiplied=True)
    with ParticleFile(tmp_path / "b.h5") as file:
        assert file.metadata().ctf_premultiplied
    k = np.fft.fftfreq(box, 4.0)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    inside = np.hypot(kx, ky) < 0.499 / 4.0
    for a, b, ctf in zip(plain, multiplied, data["ctf"]):
        expected = explicit_ctf(ctf, kx, ky) * np.fft.fft2(a)
        np.testing.assert_allclose(np.fft.fft2(b)[inside], expected[inside], atol=2e-5 * np.abs(expected).max())


def test_without_ctf_the_file_holds_one_that_is_one(tmp_path):
    images, data, _ = make(tmp_path / "a.h5", particles=3, snr=math.inf, use_ctf=False)
    k = np.linspace(0, 0.12, 50)
    assert all(explicit_ctf(ctf, k, 0.3 * k) == pytest.approx(1) for ctf in data["ctf"])
    forward = ForwardModel(32, 4.0)
    again = forward.images(forward.prepare(phantom(32)), Pose(data["quaternion"], data["shift"]), data["ctf"])
    np.testing.assert_allclose(again, images, atol=1e-5 * images.max())


def test_float16_rounds_and_refuses_what_it_cannot_hold(tmp_path):
    full, _, _ = make(tmp_path / "a.h5")
    half, _, _ = make(tmp_path / "b.h5", dtype="float16")
    np.testing.assert_allclose(half, full, rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="float16 cannot hold.*use --dtype float32"):
        make(tmp_path / "c.h5", volume=1e-6 * phantom(32), dtype="float16")
    assert not (tmp_path / "c.h5").exists()


def test_draws_have_the_distributions_asked_for():
    settings = SimulationSettings(
        particles=1, scale_cv=0.3, noise_cv=0.2, defocus=(5e3, 2e4), astigmatism=400.0, shift_sigma=5.0, junk_rate=0.1
    )
    drawn = draw_particles(settings, 32, 2.0, np.arange(4000))
    ctf = drawn.particles.ctf
    mean = (ctf["defocus_u"] + ctf["defocus_v"]) / 2
    assert 5e3 <= mean.min() < 5.1e3 and 1.99e4 < mean.max() <= 2e4 and abs(mean.mean() - 1.25e4) < 300
    difference = ctf["defocus_u"] - ctf["defocus_v"]
    assert difference.min() >= 0 and np.sqrt(np.mean(difference**2)) == pytest.approx(400, rel=0.05)
    assert 0 <= ctf["astigmatism"].min() and ctf["astigmatism"].max() <= np.pi
    for factor, cv in ((drawn.scale, 0.3), (drawn.noise_factor, 0.2)):
        assert factor.min() > 0 and factor.mean() == pytest.approx(1, abs=0.02)
        assert factor.std() == pytest.approx(cv, rel=0.1)
    assert abs(np.corrcoef(drawn.scale, drawn.noise_factor)[0, 1]) < 0.06
    np.testing.assert_allclose(drawn.true_pose.shift.std(axis=0), 5, rtol=0.05)
    assert abs(drawn.junk.mean() - 0.1) < 0.02
    np.testing.assert_array_equal(drawn.particles.pose.shift, drawn.true_pose.shift)


def test_the_file_says_how_it_was_made(tmp_path):
    _, _, result = make(tmp_path / "a.h5", snr=math.inf)
    with ParticleFile(tmp_path / "a.h5") as file:
        provenance = json.loads(file.attributes["provenance"])
    assert provenance["settings"]["snr"] == "inf" and provenance["settings"]["seed"] == 1
    assert provenance["noise_sigma"] == 0 and "variance" in provenance["snr_definition"]
    assert provenance["signal_variance"] == pytest.approx(result.signal_variance)


# ---------------------------------------------------------------- the command


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """``command(words…)`` runs ``mpirecon simulate words…`` in an empty folder → (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run(["simulate", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


SMALL = ["--phantom", "--box", 16, "--particles", 4, "-o", "p.h5"]


def test_command_writes_the_file_and_the_truth(command, tmp_path):
    code, out, err = command(
        *SMALL, "--snr", 0.2, "--error-rate", 0.5, "--error-kind", "small:10", "--junk-rate", 0.2,
        "--defocus", "0.5:1.5",
        "--phase-shift", 90, "--truth-map", "t.mrc", "--dtype", "float16", "--halves", "alternate",
    )
    assert (code, err) == (0, "")
    for text in ("wrote p.h5: 4 particles, box 16, 3 Å/px", "wrote t.mrc", "noise standard deviation"):
        assert text in out
    with ParticleFile("p.h5") as file:
        ctf = file.metadata().ctf
        assert file.pixel_size == 3 and file.halves().tolist() == [1, 2, 1, 2]
    assert ctf["phase_shift"] == pytest.approx(math.pi / 2)
    assert (4e3 < ctf["defocus_v"]).all() and (ctf["defocus_u"] < 1.6e4).all()
    np.testing.assert_array_equal(read_map("t.mrc").array, phantom(16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.h5", "t.mrc"]


def test_command_takes_a_map_with_its_own_grid_or_another(command):
    write_map("m.mrc", blobs(33, 3.0, level=1.0), 3.0, overwrite=False)
    code, out, _ = command("--map", "m.mrc", "--particles", 2, "-o", "a.h5", "--truth-map", "t.mrc")
    assert code == 0 and "solvent level 1 subtracted" in out
    np.testing.assert_allclose(read_map("t.mrc").array, blobs(33, 3.0), atol=5e-3)
    code, out, _ = command("--map", "m.mrc", "--box", 24, "--pixel-size", 3.5, "--particles", 2, "-o", "b.h5")
    assert code == 0 and "box 33 → 24, 3 → 3.5 Å/px" in out
    with ParticleFile("b.h5") as file:
        assert (file.box, file.pixel_size) == (24, 3.5)


def test_command_takes_a_model(command, tmp_path):
    write_pdb(tmp_path / "m.pdb", [("C", 0, 0, 0), ("O", 5, 3, 1), ("N", -4, 2, 6)])
    code, out, _ = command("--model", "m.pdb", "--box", 24, "--pixel-size", 2, "--particles", 2, "-o", "p.h5")
    assert code == 0 and "atomic model m.pdb, box 24" in out


def test_an_existing_file_is_kept_unless_asked_otherwise(command, tmp_path):
    (tmp_path / "p.h5").write_text("mine")
    code, _, err = command(*SMALL)
    assert code == 1 and "p.h5 exists already" in err and (tmp_path / "p.h5").read_text() == "mine"
    assert command(*SMALL, "--overwrite", "-q") == (0, "", "")
    (tmp_path / "t.mrc").write_text("mine")
    code, _, err = command(*SMALL[:-1], "q.h5", "--truth-map", "t.mrc")
    assert code == 1 and "t.mrc exists already" in err and not (tmp_path / "q.h5").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--box", 16], ["--map, --model and --phantom", "none"]),
        (["--phantom", "--map", "m.mrc"], ["--map and --phantom"]),
        (["--map", "missing.mrc"], ["missing.mrc"]),
        (["--model", "missing.cif"], ["missing.cif", "no such file"]),
        (["--model", "junk.cif"], ["junk.cif"]),
        (["--model", "empty.pdb"], ["empty.pdb", "no atoms"]),
        (["--model", "large.pdb", "--box", 32, "--pixel-size", 2], ["large.pdb", "100 Å", "--box"]),
        (["--map", "nan.mrc"], ["nan.mrc", "NaN"]),
        (["--map", "flat.mrc"], ["constant"]),
        (["--map", "text.mrc"], ["text.mrc", "not an MRC file"]),
        (["--phantom", "--box", 4], ["--box is 4", "16"]),
        (["--phantom", "--pixel-size", 0], ["--pixel-size': 0 is out of range; expected above 0"]),
        (["--phantom", "--pixel-size", "nan"], ["--pixel-size': nan is out of range; expected above 0"]),
        (["--phantom", "--particles", 0], ["--particles is 0"]),
        (["--phantom", "--snr", 0], ["--snr is 0", "inf"]),
        (["--phantom", "--snr", "nan"], ["--snr nan: expected a number"]),
        (["--phantom", "--snr", -1], ["--snr is -1"]),
        (["--phantom", "--error-rate", 1.5], ["--orientation-error-rate is 1.5", "0 … 1"]),
        (["--phantom", "--junk-rate", -0.1], ["--junk-rate is -0.1"]),
        (["--phantom", "--junk-rate", 0.1, "--snr", "inf"], ["--junk-rate", "finite --snr"]),
        (["--phantom", "--noise-cv", -1], ["--noise-cv is -1"]),
        (["--phantom", "--scale-cv", 9], ["--scale-cv is 9"]),
        (["--phantom", "--voltage", 0], ["--voltage is 0 kV"]),
        (["--phantom", "--amplitude-contrast", 2], ["--amplitude-contrast is 2"]),
        (["--phantom", "--defocus", "3:1"], ["--defocus", "above"]),
        (["--phantom", "--defocus", "a:b"], ["--defocus", "LOW:HIGH"]),
        (["--phantom", "--defocus", "10000:20000"], ["--defocus", "Å"]),
        (["--phantom", "--error-kind", "big"], ["error-kind", "small:DEG"]),
        (["--phantom", "--dtype", "int8"], ["dtype", "float16"]),
        (["--phantom", "--seed", -1], ["--seed"]),
        (["--phantom", "--no-ctf", "--ctf-premultiply"], ["exclude each other"]),
        (["--phantom", "--wrong-option"], ["--wrong-option"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_file(command, tmp_path, words, said):
    (tmp_path / "junk.cif").write_text("this is no model\n")
    (tmp_path / "empty.pdb").write_text("END\n")
    (tmp_path / "text.mrc").write_text("text " * 500)
    write_pdb(tmp_path / "large.pdb", [("C", 0, 0, 0), ("C", 200, 0, 0)])
    write_map("nan.mrc", np.ones((16, 16, 16)), 2.0, overwrite=True)
    with open("nan.mrc", "r+b") as file:
        file.seek(1024)
        file.write(np.float32("nan").tobytes())
    write_map("flat.mrc", np.ones((16, 16, 16)), 2.0, overwrite=True)
    before = set(tmp_path.iterdir())
    words = words if "--particles" in words else [*words, "--particles", 2]
    code, out, err = command(*words, "-o", "p.h5")
    assert code in (1, 2) and out == "" and "Traceback" not in err
    for text in said:
        assert text in err
    assert set(tmp_path.iterdir()) == before
