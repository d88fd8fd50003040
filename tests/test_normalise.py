"""Reconstructions from images with backgrounds, ramps and gains are those from the same images without,
on every path."""

import json
from contextlib import nullcontext
from dataclasses import replace

import h5py
import mrcfile
import numpy as np
import pandas as pd
import pytest
from test_background import log_normal, noise, planes
from test_cuda_backend import fake_cupy, needs_compiler  # noqa: F401 (a fixture)
from importing import refused, save_stack
from importing import run as run_import
from test_resume import Ended, EndedAfter, reconstruction

from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star
from mpirecon.operators.background import Background
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.config import Config
from mpirecon.solvers.endurance import Checkpoints, Endurance
from mpirecon.solvers.groups import WHOLE
from mpirecon.solvers.phases import run_phases
from mpirecon.validate.fsc import fsc

M, BOX = 240, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("normalise")


@pytest.fixture(scope="module")
def sets(folder):
    """``sets(name, options…, change=…)`` → a particle file whose images are those of the same options, changed."""

    def make(name, *options, change=lambda images, sigma: images, m=M, box=BOX):
        path = folder / f"{name}.h5"
        if not path.exists():
            simulate = (
                f"simulate --phantom --particles {m} --box {box} --pixel-size 6 --snr 0.2 --error-rate 0.2 --seed 8 -q"
            )
            assert run([*simulate.split(), "--truth-map", str(folder / "truth.mrc"), "--overwrite", "-o", str(path),
                        *options]) == 0
            with h5py.File(path, "r+") as file:
                images = file["images"][:].astype(float)
                changed = change(images, np.median(images[:, :3, :3].std(axis=(1, 2)))).astype("f4")
                del file["images"]
                file["images"] = changed
        return path

    return make


def messy(images, sigma, seed=1):
    """A background of up to 1000 deviations and a ramp as large, for all but a fifth of the images."""
    plane = np.random.default_rng(seed).uniform(-1000, 1000, (len(images), 3))
    plane[::5] = 0
    return images + sigma * planes(images.shape[1], plane)


def reconstruct(path, name, *options, folder=None):
    out = (folder or path.parent) / name
    assert run(["reconstruct", str(path), "-o", str(out), "--no-postprocess", "--overwrite", "-q", *options]) == 0
    return mrcfile.read(out / "volume.mrc"), json.loads((out / "summary.json").read_text())


def differ(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


LOSSES = ["l2", "sorted --keep 0.8", "sorted --keep auto", "l1", "huber", "cauchy", "geman-mcclure", "welsch", "tukey",
          "posterior",
          "tukey --distance raw", "l2 --solver gradient", "sorted --keep 0.8 --solver gradient --batch-size 90",
          "l2 --half-precision", "l2 --memory 0", "l2 --deterministic", "l2 --space real",
          "l1 --max-resolution 15"]  # fmt: skip


@pytest.mark.parametrize("options", LOSSES)
def test_no_background_and_no_ramp_changes_the_map(sets, options):
    options = ["--loss", *options.split()]
    if options[1] not in ("l2", "posterior"):
        options += ["--iterations", "2"]
    plain, _ = reconstruct(sets("plain"), "a", *options)
    found, summary = reconstruct(sets("messy", change=messy), "b", *options)
    assert differ(found, plain) < (5e-3 if "--half-precision" in options else 2e-3)
    told = summary["normalisation"]
    assert told["background"]["images"] == told["ramp"]["images"] == 4 * M // 5 and told["mode"] == "auto"
    assert 300 < told["background"]["typical"] < 700 < told["background"]["largest"] < 1300


def test_before_images_were_normalised_such_a_map_was_noise(sets):
    plain, _ = reconstruct(sets("plain"), "a")
    left, summary = reconstruct(sets("messy", change=messy), "off", "--normalise", "off")
    assert abs(np.corrcoef(left.ravel(), plain.ravel())[0, 1]) < 0.3
    assert any("--normalise off" in text for text in summary["warnings"])


def test_premultiplied_images_too(sets):
    plain, _ = reconstruct(sets("pre", "--ctf-premultiply"), "a")
    found, _ = reconstruct(sets("pre messy", "--ctf-premultiply", change=messy), "b")
    # small planes are left where a CTF may have spread the particle: the map's lowest frequencies differ, and no more
    curves = [fsc(volume, mrcfile.read(sets("pre", "--ctf-premultiply").parent / "truth.mrc"))[1:]
              for volume in (found, plain)]
    assert abs(curves[0].mean() - curves[1].mean()) < 1e-3


@pytest.mark.parametrize("loss", ("l2", "posterior"))
def test_gains_and_counts(sets, folder, loss):
    """Gains of 0.1 … 10, and counts that are rounded, of all images or a part:
    the FSC with the truth is that of the images before."""
    def curve(volume):
        return fsc(volume, mrcfile.read(folder / "truth.mrc"))[1 : BOX // 2]

    def gains(images, sigma):
        return messy(images, sigma) * 10 ** np.random.default_rng(2).uniform(-1, 1, (len(images), 1, 1))

    def counts(images, sigma):
        images = images.copy()
        images[::2] = np.clip(np.rint(1000 + 40 * images[::2] / sigma), 0, 65535)
        return images

    def few(images, sigma):
        images = images.copy()
        images[::60] *= 10
        return images

    wanted = curve(reconstruct(sets("plain"), "a", "--loss", loss)[0])
    for name, change, images in (("gains", gains, 0.8 * M), ("counts", counts, 0.4 * M), ("few", few, M // 60)):
        volume, summary = reconstruct(sets(name, change=change), "b", "--loss", loss)
        assert abs(curve(volume) - wanted).max() < 0.005 and abs(curve(volume).mean() - wanted.mean()) < 1e-3, name
        assert summary["normalisation"]["gain"]["images"] >= images
        assert any("gain" in text for text in summary["warnings"])


def test_sets_that_are_normalised_get_no_warning_and_their_map_of_before(sets, folder):
    plain, summary = reconstruct(sets("plain"), "a")
    before, _ = reconstruct(sets("plain"), "b", "--normalise", "off")
    assert not any("normalised" in text or "gain" in text for text in summary["warnings"])
    assert summary["normalisation"]["gains"]["exponent"] == 0
    truth = mrcfile.read(folder / "truth.mrc")
    assert abs(fsc(plain, truth) - fsc(before, truth))[1 : BOX // 2].mean() < 1e-3


def test_dust_does_not_spoil_the_background(sets):
    def dust(images, sigma):
        images[7, :4, :5] += 1e4 * sigma
        return messy(images, sigma)

    loss = ["--loss", "posterior"]
    plain, _ = reconstruct(sets("plain"), "a", *loss)
    found, _ = reconstruct(sets("dust", change=dust), "b", *loss)
    assert differ(found, plain) < 0.1


def test_ranks_agree(sets, mpirun, tmp_path):
    path = sets("messy", change=messy)
    one, _ = reconstruct(path, "one", "--deterministic", folder=tmp_path)
    options = ["--deterministic", "--no-postprocess", "-q", "-o", tmp_path / "three"]
    result = mpirun(3, ["-m", "mpirecon", "reconstruct", path, *options])
    assert result.returncode == 0, result.stderr
    assert "192 of 240 images are not normalised" in result.stderr
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "three" / "volume.mrc"), one)


@needs_compiler
def test_on_cuda(sets, tmp_path, fake_cupy):  # noqa: F811
    fake_cupy()
    path = sets("messy small", change=messy, m=60, box=16)
    expected, _ = reconstruct(path, "cpu", folder=tmp_path)
    for space in ("fourier", "real"):
        found, summary = reconstruct(path, space, "--backend", "cuda", "--space", space, folder=tmp_path)
        wanted = (
            expected if space == "fourier" else reconstruct(path, "real-cpu", "--space", "real", folder=tmp_path)[0]
        )
        assert summary["ranks"][0]["gpu"] == "Fake GPU" and differ(found, wanted) < 1e-3


def test_noise_in_their_place_has_no_background(sets, tmp_path):
    spectra = []
    for name, change in (("plain", None), ("messy", messy)):
        path = sets(name, **({} if change is None else {"change": change}))
        assert run(["null", str(path), "-o", str(tmp_path / name), "-q"]) in (0, 1)
        spectra.append(json.loads((tmp_path / name / "null.json").read_text())["mean_fsc"])
    assert spectra[1] == pytest.approx(spectra[0], abs=1e-3)


def test_a_run_goes_on_only_as_it_was_normalised(sets, tmp_path):
    config = Config(loss="l1", iterations=3)
    with ParticleFile(sets("messy", change=messy)) as file:
        whole = reconstruction(file, config, tmp_path)
        maps = whole.run().maps
        first = reconstruction(file, config, tmp_path)
        stop = EndedAfter(first, tmp_path, Endurance())
        stop.last = 2
        with pytest.raises(Ended):
            first.run(stop)
        other = reconstruction(file, replace(config, normalise="background"), tmp_path)
        with pytest.raises(UserError, match="normalise was auto and is background"):
            other.run(Checkpoints(other, tmp_path, Endurance()), resume=True)
        second = reconstruction(file, config, tmp_path)
        resumed = second.run(Checkpoints(second, tmp_path, Endurance()), resume=True).maps
    np.testing.assert_array_equal(resumed.get(WHOLE), maps.get(WHOLE))
    assert (second.state.survey.levels == whole.state.survey.levels
            and second.slab.normaliser.gains == whole.slab.normaliser.gains)


class Quiet:
    """A console that says nothing."""

    update = staticmethod(lambda images: None)

    def progress(self, total, text):
        return nullcontext(self)


def test_phases_are_compared_without_backgrounds(sets, tmp_path):
    found = []
    for name, path in (("plain", sets("plain")), ("messy", sets("messy", change=messy))):
        reconstruct(path, name, "--loss", "posterior", folder=tmp_path)
        (group,) = run_phases(SerialCommunicator(), tmp_path / name, Quiet(), band=(60.0, 18.0)).groups
        found.append(group)
    np.testing.assert_allclose(found[1].odd, found[0].odd, atol=0.02 * np.abs(found[0].odd).max())


# import


def star_of(tmp_path, images, name="p.star"):
    """A STAR file of these images, in the pixels' own type."""
    m, n = len(images), images.shape[1]
    save_stack(tmp_path / f"{name}.mrcs", images)
    rng = np.random.default_rng(6)
    particles = {"rlnImageName": [f"{i + 1}@{name}.mrcs" for i in range(m)], "rlnAngleRot": rng.uniform(-180, 180, m),
                 "rlnAngleTilt": rng.uniform(0, 180, m), "rlnAnglePsi": rng.uniform(-180, 180, m),
                 "rlnOriginXAngst": 0.0,
                 "rlnOriginYAngst": 0.0, "rlnDefocusU": rng.uniform(9000, 20000, m), "rlnDefocusV": 9000.0,
                 "rlnDefocusAngle": 0.0,
                 "rlnOpticsGroup": 1, "rlnRandomSubset": 1 + np.arange(m) % 2}
    optics = {"rlnOpticsGroup": [1], "rlnVoltage": [300], "rlnSphericalAberration": [2.7],
              "rlnAmplitudeContrast": [0.1],
              "rlnImagePixelSize": [2.5], "rlnImageSize": [n]}
    write_star(tmp_path / name, {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(particles)}, overwrite=True)
    return tmp_path / name


@pytest.mark.parametrize("dtype", ("i1", "i2", "u2", "f4"))
@pytest.mark.parametrize("link", (False, True))
def test_import_reports_counts(tmp_path, dtype, link):
    low, step = (20, 9) if dtype == "i1" else (1000, 40)
    images = np.rint(low + step * noise(24, 50))
    images[:5] += step * planes(24, [[0, 15, 0]] * 5) if dtype != "i1" else 0
    file, text = run_import(star_of(tmp_path, images.astype(dtype)), *(["--link"] if link else []))
    assert "50 of 50 images" + (" that were checked" if link else "") + " are not normalised" in text
    assert ("5 of 50 images" in text and "have a ramp" in text) == (dtype != "i1") and "gain" not in text
    np.testing.assert_array_equal(file.images(slice(None)), images.astype(dtype))  # what is copied stays what it is


def test_import_reports_gains_and_not_of_normalised_images(tmp_path):
    assert "Warning" not in run_import(star_of(tmp_path, noise(24, 80), "a.star"))[1]
    images = noise(24, 80) * log_normal(1.0, 80)[:, None, None].astype(np.float32)
    assert "differ in gain" in run_import(star_of(tmp_path, images, "b.star"), output=tmp_path / "b.h5")[1]


def test_import_reports_dust(tmp_path):
    images = noise(24, 60) + planes(24, [[300, 40, 0]] * 60).astype(np.float32)
    images[::20, 3, 4] += 1000
    text = run_import(star_of(tmp_path, images))[1]
    assert "3 of 60 images have pixels" in text and "--white_dust" in text
    images[::20, 3, 4] -= 995  # of the noise, or of a bright particle
    assert "--white_dust" not in run_import(star_of(tmp_path, images, "b.star"), output=tmp_path / "b.h5")[1]


def test_float16_takes_the_background_off_before_it_rounds(tmp_path):
    images = noise(24, 20)
    tilted = (images + planes(24, [[20000, 1000, -3000]] * 20)).astype(np.float32)
    file, _ = run_import(star_of(tmp_path, tilted), "--dtype", "float16")
    stored = file.images(slice(None))
    # float32's own steps at 20,000 are 2e-3
    np.testing.assert_allclose(stored, Background(24).without(images), atol=4e-3)
    refused(star_of(tmp_path, images * 1e-7, "faint.star"), "differs from pixel to pixel by less than float16",
            "--dtype", "float16")


def test_rescaling_does_not_ring_at_a_ramps_edge(tmp_path):
    images = noise(24, 20)
    tilted = (images + planes(24, [[500, 900, 0]] * 20)).astype(np.float32)
    one, _ = run_import(star_of(tmp_path, images, "a.star"), "--rescale", "20:3", output=tmp_path / "a.h5")
    two, _ = run_import(star_of(tmp_path, tilted, "b.star"), "--rescale", "20:3", output=tmp_path / "b.h5")
    np.testing.assert_allclose(two.images(slice(None)), one.images(slice(None)), atol=2e-3)
