"""What `mpirecon score` warns of: maps in the order of the other half sets, and of the other contrast. And its help."""

import numpy as np
import pytest

import mpirecon as mr

BOX, SIZE = 24, 5.0


def simulated(count=200, seed=4):
    return mr.simulate(mr.phantom(BOX, SIZE), count, snr=0.1, error_rate=0.4, seed=seed)


def warnings(first, second, particles):
    return mr.score(first, second, particles).about["warnings"]


def test_half_maps_of_a_run_in_the_other_order(tmp_path, cli):
    particles = simulated()
    run = mr.reconstruct(particles, tmp_path / "run")
    named = [tmp_path / f"run/half{half}.mrc" for half in (2, 1)]
    done = cli("score", *named, particles.path, "-o", tmp_path / "s.csv")
    assert done.returncode == 0
    assert f"{named[0]} and {named[1]} are the half maps of one run in the other order" in done.stderr
    assert "exchanged" not in cli("score", *named[::-1], particles.path, "-o", tmp_path / "right.csv").stderr
    (text,) = warnings(*run.half_maps[::-1], particles)  # which have no names: the particles tell
    assert "fit the other half's map better than their own half's" in text
    assert "Give the map of half set 1 first" in text


@pytest.mark.parametrize("options", [{}, {"loss": "sorted", "keep": 0.6}, {"loss": "posterior"}])
def test_maps_in_the_right_order_are_never_doubted(options):
    for count, seed in ((20, 0), (20, 1), (20, 2), (60, 3), (200, 4)):
        particles = simulated(count, seed)
        halves = mr.reconstruct(particles, **options).half_maps
        assert not warnings(*halves, particles), (count, seed)
        assert count < 200 or warnings(*halves[::-1], particles)


def test_maps_that_particles_are_not_in_have_no_order():
    particles = simulated()
    others = mr.reconstruct(simulated(seed=5)).half_maps
    better = mr.phantom(BOX, SIZE)
    for first, second in (others, others[::-1], (others[0], better), (better, others[0])):
        assert not warnings(first, second, particles)


def test_inverted_maps_say_nothing_of_shifts(tmp_path, cli):
    particles = mr.simulate(mr.phantom(32, 8.0), 400, snr=0.2, error_rate=0.3, offset_error=8.0, seed=1)
    dark = mr.Volume(-mr.phantom(32, 8.0).array, 8.0)
    dark.write(tmp_path / "dark.mrc")
    done = cli("score", tmp_path / "dark.mrc", tmp_path / "dark.mrc", particles.path, "-o", tmp_path / "s.csv")
    assert done.returncode == 0 and "contrast (protein bright)" in done.stderr
    assert "shifts" not in done.stderr
    run = mr.reconstruct(particles)  # maps that hold their own half's noise look worse where they are inverted
    texts = warnings(*(mr.Volume(-half.array, 8.0) for half in run.half_maps), particles)
    assert len(texts) == 1 and "contrast (protein bright)" in texts[0]
    assert np.median(mr.score(*run.half_maps, particles)["score_other"]) > 0


def test_weights_are_described_as_they_count(cli):
    text = " ".join(cli("score", "--help").stdout.split())
    assert "Particles of weight 0 count nowhere and have no numbers, all others count alike" in text
    assert "of the loss" not in text
