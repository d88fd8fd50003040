"""What images say of their CTF against what a table says: premultiplied, phase-flipped and dark ones are found out at
any SNR, and nothing is said of images that are what the table says."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from test_reconstruct_relion import export

from mpirecon.cli import run
from mpirecon.io.image_kind import FLIPPED, KINDS, PREMULTIPLIED, UNTOUCHED, Evidence, ImageSample, sampled_rows
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.simulation.dataset import Simulator
from mpirecon.simulation.phantom import phantom
from mpirecon.simulation.settings import SimulationSettings

BOX, PIXEL_SIZE, M = 48, 3.5, 600
MADE = {UNTOUCHED: {}, FLIPPED: {"ctf_phase_flipped": True}, PREMULTIPLIED: {"ctf_premultiplied": True}}


@lru_cache(maxsize=None)
def simulated(m, **settings) -> list[tuple]:
    """(images, particles) of parts of a set."""
    simulator = Simulator(phantom(BOX).astype(np.float32), PIXEL_SIZE, SimulationSettings(m, seed=3, **settings))
    parts = [simulator.draw(np.arange(start, min(start + 100, m))) for start in range(0, m, 100)]
    return [(simulator.images(drawn), drawn.particles) for drawn in parts]


def evidence(told, m=M, sign=1, **settings) -> Evidence:
    """Of simulated images whose table says `told`."""
    sample = ImageSample(SerialCommunicator(), BOX, PIXEL_SIZE, told)
    for images, p in simulated(m, **settings):
        sample.add(sign * images, p.ctf, p.pose.shift, p.pose.matrices())
    return sample.evidence()


@pytest.mark.parametrize("snr", [0.005, 0.05, 1.0, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm_at_any_snr(kind, snr):
    found = evidence(kind, snr=snr, **MADE[kind])
    assert found.verdict(kind) is None and not found.inverted


def test_no_false_alarm_of_wrong_poses_junk_and_uneven_particles():
    for kind in KINDS:
        found = evidence(kind, snr=0.05, error_rate=0.4, junk_rate=0.2, noise_cv=0.4, scale_cv=0.3, bfactor=80.0,
                         **MADE[kind])
        assert found.verdict(kind) is None and not found.inverted
    found = evidence(UNTOUCHED, snr=0.05, error_rate=1.0)  # no map at all: noise alone speaks
    assert found.verdict(UNTOUCHED) is None
    assert evidence(UNTOUCHED, snr=0.05, error_rate=1.0, ctf_premultiplied=True).verdict(UNTOUCHED)[0] == PREMULTIPLIED


@pytest.mark.parametrize("snr", [0.02, 1.0, np.inf])
@pytest.mark.parametrize("told, made", [(told, made) for told in KINDS for made in KINDS if told != made])
def test_what_images_are_is_found_out(told, made, snr):
    found = evidence(told, snr=snr, **MADE[made])
    assert found.verdict(told)[0] == made


def test_few_images_say_nothing_by_their_signal():
    for made in KINDS:
        assert evidence(UNTOUCHED, m=30, snr=np.inf, **MADE[made]).verdict(UNTOUCHED) is None


@pytest.mark.parametrize("snr", [0.02, 1.0])
def test_dark_particles_are_found_out(snr):
    for kind in KINDS:
        assert evidence(kind, sign=-1, snr=snr, **MADE[kind]).inverted


def test_images_without_ctf_say_nothing():
    found = evidence(UNTOUCHED, snr=0.05, use_ctf=False)
    assert np.isnan(found.floor) and found.verdict(UNTOUCHED) is None and not found.inverted


def test_the_sample_is_the_same_on_any_number_of_ranks():
    whole = sampled_rows(5000, 64, 0, 5000)
    parts = [start + sampled_rows(5000, 64, start, 1250) for start in range(0, 5000, 1250)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(whole) == 1000 == len(np.unique(whole))
    assert len(sampled_rows(5000, 1024, 0, 5000)) == 32 and sampled_rows(7, 64, 0, 7).tolist() == list(range(7))


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """Premultiplied images, and the same turned dark, whose tables say neither."""
    folder = tmp_path_factory.mktemp("kinds")
    assert run(f"simulate --phantom --pixel-size 3.5 --box 48 --particles 400 --snr 0.1 --ctf-premultiply -q -o "
               f"{folder}/p.h5".split()) == 0
    export(folder / "p.h5", folder / "p.star", folder / "s.mrcs")
    (folder / "p.star").write_text((folder / "p.star").read_text().replace(" 2 1\n\ndata_", " 2 0\n\ndata_"))
    return folder / "p.star"


def test_the_import_says_so_and_names_the_option_that_helps(star, cli, mpirun):
    done = cli("import", star, "-o", star.parent / "a.h5")
    assert done.returncode == 0
    assert ("the images look CTF-premultiplied, and are taken as untouched: their power at the zeros of the CTF is 0 % "
            "of that beside them. If so, give --ctf-premultiplied") in done.stderr
    together = mpirun(2, ["-m", "mpirecon", "import", star, "-o", star.parent / "b.h5"])
    assert together.returncode == 0 and together.stderr == done.stderr
    linked = cli("import", star, "-o", star.parent / "c.h5", "--link", "--ctf-premultiplied")
    assert linked.returncode == 0 and "Warning" not in linked.stderr
    with ParticleFile(star.parent / "c.h5") as file:
        assert file.metadata().ctf_premultiplied
    dark = cli("import", star, "-o", star.parent / "d.h5", "--ctf-premultiplied", "--contrast", "black")
    assert "the particles look bright against their surroundings, and are taken as dark" in dark.stderr
    assert "give --contrast white" in dark.stderr


REAL = {
    "ribo70s_real/particles.star": "", "trpv1_real/trpv1_small_stack.star": "trpv1_small_stack.mrcs",
    "aspire_real/sample_particles_relion31.star": "", "relion31_real/relion31.star": "relion31.mrcs",
}


@pytest.mark.parametrize("name", REAL)
def test_no_false_alarm_of_real_images(shared_data, cli, tmp_path, name):
    star = shared_data / name
    stack = ("--stack", star.parent / REAL[name]) if REAL[name] else ("--data-dir", star.parent)
    done = cli("import", star, "-o", tmp_path / "p.h5", *stack)
    assert done.returncode == 0 and "the images look" not in done.stderr and "the particles look" not in done.stderr


def test_real_images_that_are_not_premultiplied_are_found_out(shared_data, cli, tmp_path):
    star = shared_data / "aspire_real" / "sample_particles_relion31.star"
    done = cli("import", star, "-o", tmp_path / "p.h5", "--data-dir", star.parent, "--ctf-premultiplied")
    assert "the images look untouched, and are taken as CTF-premultiplied" in done.stderr
    assert "give --no-ctf-premultiplied" in done.stderr
