"""Images whose numbers are too small, or too large, to calculate with are refused as such, wherever they are read."""

import h5py
import numpy as np
import pytest
from importing import refused, run
from test_columns import images
from test_odd_stacks import stack

import mpirecon as mr

SAID = r"a typical image have a standard deviation of .*e[-+]{}.*, outside 1e-14 … 1e\+12.* multiply all images by one"


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return mr.simulate(mr.phantom(24, 5.0), 60, tmp_path_factory.mktemp("scale") / "p.h5", snr=0.5, seed=4)


def arrays(particles, scale):
    about = particles.metadata()
    return mr.Particles(particles.images().astype("f8") * scale, about.pose, about.ctf, pixel_size=5.0, half=about.half)


@pytest.mark.in_python
@pytest.mark.parametrize("power", [-300, -30, -20, 18, 30, 300])
def test_arrays_too_small_or_large_are_refused(particles, power):
    """It was said that steps were too long, that the run's own map is damaged, or that images hold infinity."""
    with pytest.raises(mr.UserError, match="^Particles: the pixels of " + SAID.format(abs(power))):
        arrays(particles, 10.0**power)


@pytest.mark.in_python
@pytest.mark.parametrize("power", [-13, 11])
def test_a_map_scales_with_its_images(particles, power):
    first, other = (mr.reconstruct(arrays(particles, scale), loss="huber", iterations=1) for scale in (1, 10.0**power))
    expected = first.volume.array.astype("f8")
    found = other.volume.array.astype("f8") / 10.0**power
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("power", [-20, 15])
@pytest.mark.parametrize("loss", ["l2", "huber"])
def test_a_particle_file_is_refused_by_its_run(particles, tmp_path, cli, power, loss):
    particles.save(tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        pixels = file["images"][...].astype("f4") * np.float32(10.0**power)
        del file["images"]
        file["images"] = pixels
    done = cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", "--loss", loss)
    assert done.returncode == 1 and "p.h5: the pixels of a typical image have a standard deviation of" in done.stderr
    assert "multiply all images by one factor" in done.stderr


def test_stacks_are_refused_by_their_import(tmp_path):
    refused(stack(tmp_path, images() * np.float32(3e14)), SAID.format(14))


def test_one_image_too_large_is_not_all(tmp_path):
    pixels = images()
    pixels[3] *= np.float32(1e14)
    assert "standard deviation of" not in run(stack(tmp_path, pixels))[1]
