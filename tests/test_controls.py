"""What a selection may have gone by: noise, defocus, micrographs, views; and what it threw away."""

import json

import h5py
import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mpirecon.cli import run
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.symmetry import point_group
from mpirecon.validate import coverage, selection_bias
from mpirecon.validate.discarded import Comparison
from mpirecon.validate.masks import soft_sphere

BOX = 28


def quaternions(rng, m):
    q = rng.standard_normal((m, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


# views


@pytest.mark.parametrize("count", [6, 30, 192])
def test_bins_have_equal_area_and_cover_the_half_sphere(count):
    top, cells = coverage.view_bins(count)
    assert abs(cells.sum() - count) <= 0.03 * count + 1
    np.testing.assert_allclose((top - np.append(top[1:], 0)) / cells, 1 / cells.sum())
    v = np.random.default_rng(1).standard_normal((200_000, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    where = coverage.bin_of(v, top, cells)
    counts = np.bincount(where, minlength=cells.sum())
    assert len(counts) == cells.sum()
    assert np.abs(counts / counts.mean() - 1).max() < 6 / np.sqrt(counts.mean())
    np.testing.assert_array_equal(where, coverage.bin_of(-v, top, cells))
    np.testing.assert_array_equal(coverage.bin_of(coverage.bin_centres(top, cells), top, cells), np.arange(cells.sum()))


def test_leaving_out_by_lot_thins_no_view_and_a_hole_is_found():
    rng = np.random.default_rng(2)
    for seed in range(20):
        q = quaternions(np.random.default_rng(seed), 6000)
        found = coverage.view_coverage(q, rng.random(6000) < 0.6)
        assert not found.thinned.any() and found.warning() is None
    view = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()[:, 2]
    centre = np.array([np.sin(np.radians(60)), 0, np.cos(np.radians(60))])
    hole = np.abs(view @ centre) > np.cos(np.radians(25))
    found = coverage.view_coverage(q, (rng.random(6000) < 0.6) & ~(hole & (rng.random(6000) < 0.9)))
    assert 0.04 < found.thinned.mean() < 0.15
    assert "rot 0°, tilt 6" in found.warning().replace("rot -0°", "rot 0°") or "tilt 5" in found.warning()
    numbers = found.as_dict()
    assert numbers["evenness_after"] < numbers["evenness_before"] and numbers["bins"] == len(found.before)


def test_a_view_that_lost_a_little_is_not_thinned_however_sure():
    q = np.repeat(quaternions(np.random.default_rng(8), 200), 500, axis=0)
    number = np.arange(len(q)) % 500
    kept = number < np.where(np.arange(len(q)) < len(q) // 2, 200, 300)  # 40 % and 60 %: certain, and no hole
    assert not coverage.view_coverage(q, kept).thinned.any()


def test_empty_views_are_not_thinned():
    rng = np.random.default_rng(3)
    angles = np.stack([rng.uniform(low, high, 3000) for low, high in ((0, 360), (80, 100), (0, 360))], axis=1)
    q = Rotation.from_euler("zyz", angles, degrees=True).as_quat()[:, [3, 0, 1, 2]]
    found = coverage.view_coverage(q, rng.random(3000) < 0.5)
    assert found.as_dict()["empty_before"] > 10 and not found.thinned.any()


@pytest.mark.parametrize("name", ["C1", "D7", "T"])
def test_views_of_a_symmetric_particle_count_at_all_copies(name):
    """A hole in the views of the asymmetric unit is one only where no other pose shows the same."""
    rng, group, m = np.random.default_rng(4), point_group(name), 6000
    q = quaternions(rng, m)
    view = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()[:, 2]
    centre = np.array([np.sin(np.radians(60)), 0, np.cos(np.radians(60))])
    hole = np.abs(view @ centre) > np.cos(np.radians(15))
    found = coverage.view_coverage(q, ~(hole & (rng.random(m) < 0.95)), symmetry=group)
    assert found.before.sum() == m * len(group) and found.after.sum() < found.before.sum()
    assert found.thinned.any() == (name == "C1")  # the copies' views are still there
    assert coverage.evenness(found.before) > 0.97
    orbit = np.abs(np.einsum("gij,mj->gmi", group.matrices, view) @ centre).max(axis=0) > np.cos(np.radians(15))
    found = coverage.view_coverage(q, ~(orbit & (rng.random(m) < 0.95)), symmetry=group)
    near = np.abs(np.einsum("gij,bj->gbi", group.matrices,
                            found.direction) @ centre).max(axis=0) > np.cos(np.radians(8))
    assert found.thinned[near].all() and found.there[0] >= found.there[1] > 0 and found.there[0] < m
    assert found.there[0] > 0.4 * orbit.sum() and "around rot" in found.warning()


def test_copies_of_a_view_on_the_axis_are_no_further_draws():
    """Few particles are seen along an axis, each in all its copies: those that happen to be left out are no hole."""
    group, rng = point_group("C60"), np.random.default_rng(6)
    for seed in range(20):
        q = quaternions(np.random.default_rng(seed), 400)
        assert not coverage.view_coverage(q, rng.random(400) < 0.6, symmetry=group).thinned.any()


# what being left out goes with


def test_numbers_that_decide_are_found_and_others_are_not():
    rng = np.random.default_rng(4)
    m = 2000
    kept, values = rng.random(m) < 0.7, rng.lognormal(size=m)
    innocent = selection_bias.with_number("sigma", kept, values)
    assert abs(innocent.value) < 5 * innocent.chance and not innocent.alarming
    many = [selection_bias.with_number("sigma", rng.random(m) < 0.7, values).value for _ in range(200)]
    assert np.std(many) == pytest.approx(innocent.chance, rel=0.2)
    guilty = selection_bias.with_number("sigma", values < np.quantile(values, 0.7), values)
    assert guilty.value == pytest.approx(1) and guilty.alarming
    values[0] = 1e12
    assert selection_bias.with_number("sigma", kept, values).value == pytest.approx(innocent.value, abs=0.01)
    assert selection_bias.with_number("sigma", kept, np.ones(m)) is None
    assert selection_bias.with_number("sigma", np.arange(m) < m - 5, values) is None
    (text,) = selection_bias.warnings_of([guilty, innocent], 0.1)
    assert "noise level" in text and "100 % of pairs" in text and "higher" in text


def test_groups_that_decide_are_found_and_others_are_not():
    rng = np.random.default_rng(5)
    group = rng.integers(0, 40, 2000)
    small = rng.integers(0, 300, 2000)
    groups = [group, small] * 50
    many = [selection_bias.with_group("micrographs", rng.random(2000) < 0.7, g) for g in groups]
    assert not any(a.alarming for a in many)
    share = rng.uniform(0.2, 1.0, 40)
    guilty = selection_bias.with_group("micrographs", rng.random(2000) < share[group], group)
    # the variance of the share over that of a single decision
    assert guilty.alarming
    assert guilty.value**2 == pytest.approx(share.var() / (share.mean() * (1 - share.mean())), rel=0.4)
    assert selection_bias.with_group("micrographs", group < 20, group).value == pytest.approx(1, abs=0.05)
    assert selection_bias.with_group("micrographs", rng.random(2000) < 0.7, np.zeros(2000)) is None


def test_rows_that_are_kept_together_count_once():
    """20 rows of each of 150 groups, kept by lot group by group: as single rows they would look anything but that."""
    rng = np.random.default_rng(7)
    together = np.repeat(np.arange(150), 20)
    where, values = together // 3, together + 0.0
    q = np.repeat(quaternions(rng, 150), 20, axis=0)
    naive, fair = [], []
    for _ in range(20):
        kept = (rng.random(150) < 0.7)[together]
        naive.append(selection_bias.with_group("micrographs", kept, where).alarming)
        fair.append(selection_bias.with_group("micrographs", kept, where, together).alarming)
        assert not selection_bias.with_number("defocus", kept, values, together).alarming
        assert not coverage.view_coverage(q, kept, together).thinned.any()
    assert all(naive) and not any(fair)


# maps of the discarded


def noisy(volume, rng, level):
    return tuple(volume + level * rng.standard_normal(volume.shape).astype(np.float32) for _ in range(2))


def blob(rng, n=32):
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    centres = rng.uniform(-n / 5, n / 5, (12, 3))
    return sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 6) for a, b, c in centres).astype(np.float32)


def test_the_discarded_are_distinguished():
    rng = np.random.default_rng(6)
    mask, one, other = soft_sphere(32, 12, 4), blob(rng), blob(rng)
    z, y, x = np.mgrid[:32, :32, :32] - 16
    ball = np.exp(-(x**2 + y**2 + z**2) / 60).astype(np.float32)
    hollow = 2 * np.exp(-((np.sqrt(x**2 + y**2 + z**2) - 7) ** 2) / 4).astype(np.float32)
    kept = noisy(one, rng, 0.15)
    cases = {"junk": 0 * one, "wrong": hollow, "good": one, "weak": one / 2 + ball, "other": other, "against": -one / 2}
    found = {name: Comparison.of(noisy(v, rng, 0.3), kept, kept, mask) for name, v in cases.items()}
    assert {name: c.finding for name, c in found.items()} == {
        "junk": "junk", "wrong": "junk", "good": "correct particles", "weak": "correct particles",
        "other": "something else", "against": "junk",
    }  # fmt: skip
    for name, amplitude in {"junk": 0, "wrong": 0, "good": 1, "weak": 0.5, "against": -0.5}.items():
        assert found[name].amplitude == pytest.approx(amplitude, abs=0.1), name
    assert "minor state" in found["other"].as_dict(32, 4.0)["warnings"][0]


# whole runs


def simulate(path, *options, count=700, seed=1):
    options = [*"--phantom --box 28 --pixel-size 5 --snr 0.15 --noise-cv 0.2 --scale-cv 0.2 -q".split(), *options]
    assert run(["simulate", *options, "--particles", str(count), "--seed", str(seed), "-o", str(path)]) == 0
    return path


def reconstruct(particles, out, *options):
    assert run(["reconstruct", str(particles), "-o", str(out), "-q", "--iterations", "3", *options]) == 0
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("controls") / "p.h5", "--error-rate", "0.3")


@pytest.mark.parametrize("loss", ["sorted --keep 0.7", "sorted --keep auto", "posterior"])
def test_a_selection_by_pose_gives_no_warning(particles, tmp_path, loss, capsys):
    summary = reconstruct(particles, tmp_path / "out", "--loss", *loss.split(), "--controls")
    assert summary["warnings"] == [] and "Warning" not in capsys.readouterr().err
    assert summary["kept"] < 600
    assert abs(summary["selection_bias"]["sigma"]) < 0.2 and summary["selection_bias"]["contrast_left_out"] < 0.4
    controls = summary["controls"]
    assert controls["discarded"]["looks_like"] == "junk" and abs(controls["discarded"]["amplitude"]) < 0.2
    assert controls["selection"]["mean_fsc"] > controls["random_discard"]["mean_fsc"] + 0.05
    volume = mrcfile.read(tmp_path / "out" / "discarded.mrc")
    assert volume.shape == (BOX,) * 3 and np.isfinite(volume).all()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Controls of the selection" in page and "These look like junk" in page


def test_sorting_by_noise_is_warned_of(particles, tmp_path, capsys):
    options = ("--loss", "sorted", "--keep", "0.6", "--distance", "raw", "--controls")
    summary = reconstruct(particles, tmp_path / "out", *options)
    told = capsys.readouterr().err
    assert summary["selection_bias"]["sigma"] > 0.9
    assert any("noise level" in text for text in summary["warnings"]) and "noise level" in told
    assert any("have correct poses" in text for text in summary["warnings"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "he selection correlates with the noise level" in page


def test_a_bad_micrograph_is_named(particles, tmp_path, monkeypatch):
    with h5py.File(particles) as file:
        wrong = file["pose_error"][...]
    # the wrong particles are from two of ten micrographs
    names = np.where(wrong, np.arange(700) % 2, 2 + np.arange(700) % 8).astype(str).astype(object)
    monkeypatch.setattr(ParticleFile, "source_column", lambda self, name: {"rlnMicrographName": names}[name])
    summary = reconstruct(particles, tmp_path / "out", "--loss", "sorted", "--keep", "0.7")
    assert summary["selection_bias"]["micrographs"] > 0.9
    assert any("micrographs" in text for text in summary["warnings"])


def test_a_second_state_is_no_junk(tmp_path):
    """A fifth of the particles show another object (the phantom turned over): the selection is right, but no junk."""
    path, other = simulate(tmp_path / "p.h5", "--snr", "0.5"), simulate(tmp_path / "o.h5", "--snr", "0.5")
    with h5py.File(path, "r+") as file, h5py.File(other) as turned:
        minor = np.arange(700) % 5 == 0
        q = Rotation.from_quat(turned["quaternion"][...][:, [1, 2, 3, 0]]) * Rotation.from_rotvec([0, np.pi / 2, 0.7])
        file["quaternion"][minor] = q.as_quat()[minor][:, [3, 0, 1, 2]]
    summary = reconstruct(path, tmp_path / "out", "--loss", "sorted", "--keep", "0.8", "--controls")
    assert summary["controls"]["discarded"]["looks_like"] == "something else"
    assert any("minor state" in text for text in summary["warnings"])


def test_nothing_is_checked_where_no_particle_is_left_out(particles, tmp_path):
    summary = reconstruct(particles, tmp_path / "out", "--loss", "l2", "--controls")
    assert summary["warnings"] == [] and summary["selection_bias"] is None and summary["coverage"] is None
    assert "too few" in summary["controls"]["note"] and not (tmp_path / "out" / "discarded.mrc").exists()
    assert "Controls of the selection" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_ranks_agree_on_the_controls(mpirun, particles, tmp_path):
    options = ("--loss", "sorted", "--keep", "0.7", "--controls")
    one = reconstruct(particles, tmp_path / "one", *options)
    command = ["-m", "mpirecon", "reconstruct", particles, "-o", tmp_path / "three", "--iterations", "3", *options]
    result = mpirun(3, command)
    assert result.returncode == 0, result.stderr
    three = json.loads((tmp_path / "three" / "summary.json").read_text())
    assert three["warnings"] == [] and three["coverage"] == one["coverage"]
    for name, value in one["selection_bias"].items():
        assert three["selection_bias"][name] == pytest.approx(value, abs=1e-4), name
    for name in ("selection", "random_discard", "discarded"):
        np.testing.assert_allclose(three["controls"][name]["fsc"], one["controls"][name]["fsc"], atol=1e-3)
    a, b = (mrcfile.read(tmp_path / name / "discarded.mrc") for name in ("one", "three"))
    assert np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(a)


def test_small_pose_errors_that_count_in_part_are_not_left_out():
    kept, small = np.arange(300) < 100, np.arange(300) >= 200
    yp, pp = np.where(kept, 1.0, np.where(small, 0.8, 0.1)), np.ones(300)
    assert selection_bias.contrast_left_out(kept, yp, pp, small) == pytest.approx(0.1)
    assert selection_bias.contrast_left_out(kept, yp, pp) == pytest.approx(0.45)


@pytest.mark.parametrize(("loss", "advice"), [
    (("--loss", "sorted", "--keep", "0.7"), "Keep more"),
    (("--loss", "posterior"), "If the fraction of correct particles is known, give it with --keep; --loss sorted"),
])
def test_what_to_do_against_rejected_correct_particles_is_what_the_loss_can(tmp_path, monkeypatch, loss, advice):
    monkeypatch.setattr(selection_bias, "LARGEST_CONTRAST", -np.inf)
    assert run(["simulate", "--phantom", "--particles", "500", "--box", "24", "--pixel-size", "6", "--snr", "0.5",
                "--error-rate", "0.3", "-q", "-o", str(tmp_path / "p.h5")]) == 0
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "run"), "-q", *loss]) == 0
    texts = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    (text,) = (text for text in texts if "probably have correct poses" in text)
    assert f"probably have correct poses. {advice}" in text
