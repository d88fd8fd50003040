"""Images that are not where their rows say, in the corners of their boxes or a row beside, are found out at any SNR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mpirecon.io.image_places import PlaceSample
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.simulation.dataset import Simulator
from mpirecon.simulation.phantom import phantom
from mpirecon.simulation.settings import SimulationSettings

BOX, PIXEL_SIZE, M = 48, 3.5, 400


@dataclass
class Rows:
    """What a particle table has of poses and CTFs."""

    ctf: np.ndarray
    pose: Pose

    def __len__(self) -> int:
        return len(self.ctf)


def warnings(change=lambda images: images, m=M, box=BOX, times=1, **settings) -> list[str]:
    """times : rows in turn that show one particle, each with noise of its own"""
    simulator = Simulator(phantom(box).astype(np.float32), PIXEL_SIZE, SimulationSettings(m, seed=3, **settings))
    drawn = simulator.draw(np.arange(m // times).repeat(times))
    sample = PlaceSample(SerialCommunicator(), box, PIXEL_SIZE, settings.get("ctf_phase_flipped", False),
                         settings.get("ctf_premultiplied", False))
    images = change(simulator.images(drawn))
    images = images if times == 1 else images + images.std() * np.random.default_rng(1).standard_normal(images.shape)
    for some in np.array_split(np.arange(m), 3):
        sample.add(images[some], Rows(drawn.particles.ctf, drawn.particles.pose), some)
    return sample.warnings()


WRONG = {
    "in the corners of the images": lambda images: np.fft.ifftshift(images, axes=(1, 2)),
    "one too small": lambda images: np.roll(images, 1, axis=0),
    "one too large": lambda images: np.roll(images, -1, axis=0),
}


@pytest.mark.parametrize("snr", [0.02, 1.0])
@pytest.mark.parametrize("words", WRONG)
def test_images_that_are_elsewhere_are_found_out(words, snr):
    for kind in ({}, {"ctf_phase_flipped": True}, {"ctf_premultiplied": True}):
        (told,) = warnings(WRONG[words], snr=snr, error_rate=0.2, **kind)
        assert words in told and "standard deviations" in told


def test_corners_of_images_of_an_odd_box():
    assert "in the corners" in warnings(WRONG["in the corners of the images"], box=45, snr=0.1)[0]


@pytest.mark.parametrize("settings", [
    {"snr": 0.005}, {"snr": np.inf}, {"error_rate": 1.0}, {"junk_rate": 1.0}, {"snr": 0.05, "error_rate": 0.5},
    {"m": 20}, {"use_ctf": False},
])  # fmt: skip
def test_no_false_alarm(settings):
    assert warnings(**settings) == []


def test_rows_that_follow_each_other_show_nearly_the_same():
    """As the images of a movie, or rows that were repeated."""
    assert warnings(times=4, snr=np.inf) == [] == warnings(times=4, snr=0.02)
