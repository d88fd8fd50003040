"""A run beside the map that its particles were refined against: hand, contrast, box and pixel size."""

import json

import numpy as np
import pytest

import mpirecon as mr
from mpirecon.model.arrays import Volume
from mpirecon.validate.against_reference import compare_with_reference
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere

BOX, SIZE = 24, 5.0


@pytest.fixture(scope="module")
def truth():
    return mr.phantom(BOX, SIZE).array


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(BOX, SIZE), 200, snr=0.5, seed=4)


def mirrored(array, axis):
    """x → −x about the origin voxel, by its definition."""
    index = (-(np.arange(BOX) - BOX // 2) + BOX // 2) % BOX
    return np.take(array, index, axis)


def found(array, reference, size=SIZE, resolution=12.0):
    return compare_with_reference(array, SIZE, Volume(np.ascontiguousarray(reference, np.float32), size), "ref.mrc",
                                  soft_sphere(BOX, 8, 4), resolution)


def test_what_is_reported_a_reference(truth):
    noisy = truth + np.float32(0.3 * truth.std()) * np.random.default_rng(1).standard_normal(
        truth.shape, dtype=np.float32
    )
    same = found(noisy, truth)
    assert same.correlation > 0.9 > same.mirrored and not same.warnings
    np.testing.assert_allclose(same.fsc, fsc(noisy, truth, soft_sphere(BOX, 8, 4)), atol=1e-5)
    for axis in (0, 1, 2):
        (told,) = found(noisy, mirrored(truth, axis)).warnings
        assert "its hand was inverted" in told
    (told,) = found(noisy, -truth).warnings
    assert "the opposite contrast" in told
    hand, contrast = found(noisy, -mirrored(truth, 1)).warnings
    assert "hand was inverted" in hand and "opposite contrast" in contrast
    (told,) = found(noisy, np.random.default_rng(2).standard_normal(truth.shape)).warnings
    assert "are not alike" in told
    for other, words in ((found(noisy, truth, size=5.2), "pixels of 5.2 Å"),
                         (found(noisy, truth[2:-2, 2:-2, 2:-2]), "a box of 20 pixels"),
                         (found(noisy, 0 * truth), "is constant"), (found(noisy, 0 * truth + 3), "is constant")):
        assert (other.correlation is None and other.fsc is None and words in other.warnings[0]
                and "not compared" in other.warnings[0])


def test_a_run_reports_its_reference(particles, truth, tmp_path, cli):
    reference = tmp_path / "ref.mrc"
    mr.Volume(truth, SIZE).write(reference)
    run = mr.reconstruct(particles, tmp_path / "run", reference=reference, postprocess=False)
    told = run.summary["reference"]
    assert told["correlation"] > 0.9 and told["file"] == "ref.mrc" and not told["warnings"]
    halves = (run.half_maps[0].array + run.half_maps[1].array) / 2
    table = np.genfromtxt(run.folder / "fsc.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["fsc_reference"], fsc(halves, truth, soft_sphere(BOX, BOX / 2 - 3, 3)), atol=2e-3)
    page = run.report.read_text()
    assert ("<h2>Beside the reference</h2>" in page and "low-passed to the map" in page
            and "with the reference, in the scoring mask" in page)
    # it changes nothing of the map
    np.testing.assert_array_equal(mr.reconstruct(particles, postprocess=False).volume.array, run.volume.array)

    mr.Volume(-truth, SIZE).write(tmp_path / "dark.mrc")
    done = cli("reconstruct", particles.path, "-o", tmp_path / "dark", "--reference", tmp_path / "dark.mrc",
               "--no-postprocess")
    assert done.returncode == 0 and "has the opposite contrast" in done.stderr, done.stderr
    assert "opposite contrast" in " ".join(json.loads((tmp_path / "dark" / "summary.json").read_text())["warnings"])
    (tmp_path / "text.mrc").write_text("no map")
    done = cli("reconstruct", particles.path, "-o", tmp_path / "none", "--reference", tmp_path / "text.mrc")
    assert (done.returncode == 1 and "text.mrc" in done.stderr and "Traceback" not in done.stderr
            and not (tmp_path / "none").exists())
    before = (tmp_path / "dark" / "volume.mrc").read_bytes()
    done = cli("reconstruct", particles.path, "-o", tmp_path / "dark", "--overwrite", "--reference",
               tmp_path / "dark" / "volume.mrc")
    assert done.returncode == 1 and "is the reference that this run reads" in done.stderr
    assert (tmp_path / "dark" / "volume.mrc").read_bytes() == before
