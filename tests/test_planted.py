"""Errors planted on purpose, in simulated and imported particles: as large and as many as asked for, the truth kept and scored."""

import json

import h5py
import numpy as np
import pytest
from test_import import make, table
from test_import import run as run_import

from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.importer import ImportOptions
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model import Pose
from mpirecon.model.pose import angular_distance
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.dataset import simulate
from mpirecon.simulation.draws import draw_particles
from mpirecon.simulation.phantom import phantom
from mpirecon.simulation.settings import SimulationSettings


def drawn(m=2000, **settings):
    return draw_particles(SimulationSettings(particles=m, **settings), 32, 4.0, np.arange(m)).particles


def written(path, box=24, **settings):
    """Simulate the phantom; returns (images, datasets)."""
    simulate(phantom(box), 4.0, SimulationSettings(**{"particles": 60, **settings}), path, overwrite=True)
    with h5py.File(path) as file:
        data = {name: file[name][:] for name in file}
    return data.pop("images"), data


# ---------------------------------------------------------------- offsets


@pytest.mark.parametrize("rate", [None, 0.6])
def test_offset_errors_have_the_size_and_fraction_asked_for(rate):
    """Without a fraction of their own they go with the wrong orientations; with one the two are independent."""
    clean = drawn()
    p = drawn(error_rate=0.4, offset_error=5.0, offset_error_rate=rate, junk_rate=0.1)
    added = p.pose.shift - p.true_shift
    np.testing.assert_array_equal(p.true_shift, clean.pose.shift)
    moved = np.abs(added).max(axis=1) > 0
    np.testing.assert_array_equal(moved, p.planted_offset)
    fraction = 0.9 * (rate or 0.4)
    assert abs(moved.mean() - fraction) < 4 * np.sqrt(fraction / 2000)
    count = moved.sum()
    np.testing.assert_allclose(added[moved].std(axis=0), 5.0, rtol=4 / np.sqrt(2 * count))
    np.testing.assert_allclose(added[moved].mean(axis=0), 0, atol=4 * 5.0 / np.sqrt(count))
    assert abs(np.corrcoef(added[moved].T)[0, 1]) < 4 / np.sqrt(count)
    turned = angular_distance(p.pose.quaternion, p.true_quaternion) > 1e-3
    np.testing.assert_array_equal(turned, p.planted_orientation)
    if rate is None:
        np.testing.assert_array_equal(moved, turned)
    else:
        both = 0.9 * 0.4 * rate
        assert abs((moved & turned).mean() - both) < 4 * np.sqrt(both / 2000)
    junk = drawn(junk_rate=0.1).pose_error
    np.testing.assert_array_equal(p.pose_error, moved | turned | junk)
    assert not (moved | turned)[junk].any()


def test_errors_depend_on_the_particle_alone_and_change_nothing_else():
    settings = dict(error_rate=0.3, offset_error=5.0, seed=4)
    whole = drawn(300, **settings)
    some = draw_particles(SimulationSettings(particles=300, **settings), 32, 4.0, np.array([250, 7, 31])).particles
    np.testing.assert_array_equal(some.pose.shift, whole.pose.shift[[250, 7, 31]])
    np.testing.assert_array_equal(some.planted_offset, whole.planted_offset[[250, 7, 31]])
    without = drawn(300, error_rate=0.3, seed=4)
    np.testing.assert_array_equal(whole.pose.quaternion, without.pose.quaternion)
    double = drawn(300, **{**settings, "offset_error": 10.0})
    np.testing.assert_allclose(double.pose.shift - double.true_shift, 2 * (whole.pose.shift - whole.true_shift), atol=1e-12)


def test_images_show_the_true_offsets(tmp_path):
    clean, _ = written(tmp_path / "a.h5", snr=np.inf)
    images, data = written(tmp_path / "b.h5", snr=np.inf, offset_error=8.0, offset_error_rate=0.5)
    np.testing.assert_array_equal(images, clean)
    moved = data["planted_offset"]
    np.testing.assert_array_equal(data["pose_error"], moved)
    forward = ForwardModel(24, 4.0)
    told = forward.images(forward.prepare(phantom(24)), Pose(data["quaternion"], data["shift"]), data["ctf"])
    off = np.abs(told - images).max(axis=(1, 2)) > 1e-3 * images.max()
    np.testing.assert_array_equal(off, moved)


def test_import_plants_the_same_offset_errors(tmp_path):
    """One list of options, one way of drawing: row i of a table gets what particle i of a simulation gets."""
    star = make(tmp_path, table(60))
    clean = run_import(star)[0].metadata()
    file, text = run_import(star, "--orientation-error-rate", 0.4, "--offset-error", 5, "--seed", 3, "--overwrite")
    found, p = file.metadata(), drawn(60, error_rate=0.4, offset_error=5.0, seed=3)
    np.testing.assert_array_equal(found.planted_offset, p.planted_offset)
    np.testing.assert_allclose(found.pose.shift - found.true_shift, p.pose.shift - p.true_shift, atol=1e-12)
    np.testing.assert_array_equal(found.true_shift, clean.pose.shift)
    count = int(p.planted_offset.sum())
    assert f"{count} wrong poses were planted ({100 * count / 60:.1f} %) ({count} in orientation, {count} in offset)" in text


def test_groups_are_wrong_together_by_offsets_of_their_own(tmp_path):
    star = make(tmp_path, table(60, rlnTomoParticleName=[f"p{i // 3}" for i in range(60)]))
    found = run_import(star, "--offset-error", 5, "--offset-error-rate", 0.4, "--plant-by", "rlnTomoParticleName")[0].metadata()
    by_group = found.planted_offset.reshape(20, 3)
    assert (by_group == by_group[:, :1]).all() and 0 < by_group.mean() < 1
    added = (found.pose.shift - found.true_shift)[found.planted_offset]
    assert len(np.unique(np.round(added, 6), axis=0)) == len(added)


def test_old_names_of_the_options_still_work(tmp_path):
    new = ("--orientation-error-rate", "0.5", "--orientation-error", "10")
    old = ("--error-rate", "0.5", "--error-kind", "small:10")
    for name, words in (("new", new), ("old", old)):
        assert run(["simulate", "--phantom", "--box", "16", "--particles", "30", *words, "-q", "-o", str(tmp_path / f"{name}.h5")]) == 0
    one, other = (ParticleFile(tmp_path / f"{name}.h5").metadata() for name in ("new", "old"))
    np.testing.assert_array_equal(one.pose.quaternion, other.pose.quaternion)
    assert one.pose_error.any()


def test_a_file_of_before_kinds_were_told_apart_is_read_and_scored(tmp_path):
    written(tmp_path / "p.h5", error_rate=0.4, snr=0.5)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["planted_orientation"]
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "out"), "--loss", "sorted", "--keep", "0.6", "-q"]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["detection"]
    row, = found["by_kind"]
    assert row["kind"] == "orientation" and row["count"] == found["wrong"]
    assert row["auc"] == pytest.approx(found["auc"]) and row["precision"] == pytest.approx(found["precision"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(offset_error=-1.0), "--offset-error is -1 Å, expected 0 … 10000 Å"),
        (dict(offset_error=float("nan")), "--offset-error is nan Å"),
        (dict(offset_error=5.0, offset_error_rate=1.5), "--offset-error-rate is 1.5, expected 0 … 1"),
        (dict(offset_error_rate=0.5), "say by how much with --offset-error"),
        (dict(offset_error=5.0), "give the fraction of particles with --offset-error-rate"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    """Alike from the command line of both commands, and from Python."""
    with pytest.raises(UserError, match=said):
        SimulationSettings(particles=5, **settings)
    with pytest.raises(UserError, match=said):
        ImportOptions(**settings)


# ---------------------------------------------------------------- scored


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    assert run(["simulate", "--phantom", "--particles", "500", "--box", "24", "--pixel-size", "6", "--snr", "0.5", "--junk-rate", "0.1",
                "--orientation-error-rate", "0.2", "--offset-error", "20", "--offset-error-rate", "0.2", "-q",
                "-o", str(folder / "p.h5")]) == 0
    assert run(["reconstruct", str(folder / "p.h5"), "-o", str(folder / "out"), "--loss", "sorted", "--keep", "0.6",
                "--iterations", "3", "-q"]) == 0
    return folder


def test_each_kind_is_scored_against_the_particles_without_error(scored):
    """By brute force: pairs counted one by one."""
    found = json.loads((scored / "out" / "summary.json").read_text())["detection"]
    with h5py.File(scored / "out" / "particles.h5") as file, h5py.File(scored / "p.h5") as truth:
        run_table = {name: file[name][...] for name in file}
        flags = {"orientation": truth["planted_orientation"][...], "offset": truth["planted_offset"][...], "junk": truth["junk"][...]}
        off = np.linalg.norm(truth["shift"][...] - truth["true_shift"][...], axis=1)
    np.testing.assert_allclose(run_table["offset_error"], off, atol=1e-12)
    errors = np.sum(list(flags.values()), axis=0)
    correct = run_table["distance"][errors == 0]
    assert [row["kind"] for row in found["by_kind"]] == list(flags)
    for row in found["by_kind"]:
        mine = flags[row["kind"]]
        far = run_table["distance"][mine][:, None]
        assert row["auc"] == pytest.approx(((far > correct).mean() + (far == correct).mean() / 2))
        left = mine & ~run_table["kept"]
        assert (row["count"], row["alone"], row["kept"]) == (mine.sum(), (mine & (errors == 1)).sum(), (mine & run_table["kept"]).sum())
        assert row["recall"] == pytest.approx(left.sum() / mine.sum())
        assert row["precision"] == pytest.approx(left.sum() / (left.sum() + ((errors == 0) & ~run_table["kept"]).sum()))
    size = {row["kind"]: (row["rms"], row["unit"]) for row in found["by_kind"]}
    assert size["offset"] == (pytest.approx(np.sqrt(np.mean(off[flags["offset"]] ** 2))), "Å") and size["junk"] == (None, None)
    assert sum(row["count"] for row in found["confusion"]) == 500
    offsets = [row for row in found["confusion"] if row["kind"] == "offset"]
    assert sum(row["count"] for row in offsets) == (flags["offset"] & ~flags["orientation"]).sum()
    assert offsets[-1]["angstrom"] == [20, None] and offsets[-1]["auc"] > 0.9


def test_the_curves_have_a_column_for_each_kind(scored):
    curves = np.genfromtxt(scored / "out" / "detection.csv", delimiter=",", names=True)
    with h5py.File(scored / "out" / "particles.h5") as file:
        distance, moved = file["distance"][...], file["planted_offset"][...]
        correct = ~(file["pose_error"][...])
    for row in curves[:: len(curves) // 20][1:]:
        threshold = distance[np.argmin(np.abs(distance - row["threshold"]))]  # printed with seven digits
        out = distance >= threshold
        assert row["recall_offset"] == pytest.approx((out & moved).sum() / moved.sum(), abs=1e-6)
        hits = (out & moved).sum()
        assert row["precision_offset"] == pytest.approx(hits / max(hits + (out & correct).sum(), 1), abs=1e-6)


def test_the_report_tells_the_kinds_apart(scored):
    page = (scored / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Planted errors, kind by kind</h2>" in page and "offset 20 Å off or more" in page


