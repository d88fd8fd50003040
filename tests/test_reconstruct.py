"""The main job: reconstruct's results, its honesty, and its files, on one rank."""

import csv
import json

import h5py
import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.mrc import read_map
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere

BOX = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reconstruct")


@pytest.fixture(scope="module")
def particles(folder, cli):
    """1,000 particles, 30 % of them with a random pose, even noise."""
    path = folder / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 1000, "--box", BOX, "--pixel-size", 5, "--snr", 0.1,
                 "--error-rate", 0.3, "--seed", 3, "--truth-map", folder / "truth.mrc", "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def truth(folder, particles):
    return mrcfile.read(folder / "truth.mrc")


@pytest.fixture(scope="module")
def reconstruct(folder, particles, cli):
    """``reconstruct(name, options…)`` → (output folder, summary); each name is run once."""
    done = {}

    def call(name, *options):
        if name not in done:
            out = folder / name
            result = cli("reconstruct", particles, "-o", out, *options)
            assert result.returncode == 0, result.stderr
            done[name] = out, json.loads((out / "summary.json").read_text())
        return done[name]

    return call


@pytest.fixture(scope="module")
def sorted_run(reconstruct):
    return reconstruct("sorted", "--loss", "sorted", "--keep", 0.7, "--distance", "explained")


def mean_fsc(a, b):
    return fsc(a, b)[1 : int(0.9 * BOX / 2) + 1].mean()


def test_sorting_what_is_explained_throws_the_planted_errors_out(sorted_run):
    _, summary = sorted_run
    last = summary["iterations"][-1]
    assert last["wrong"] > 250
    assert last["kept_fraction"] == pytest.approx(0.7)
    assert last["wrong_among_kept"] / last["kept"] < 0.02
    assert summary["detection"]["wrong_share_of_kept"] < 0.02
    assert summary["detection"]["auc"] > 0.98


def test_a_map_without_the_wrong_particles_is_better(reconstruct, sorted_run, truth):
    everybody, _ = reconstruct("l2")
    chosen, _ = sorted_run
    better, worse = (mean_fsc(mrcfile.read(run / "volume.mrc"), truth) for run in (chosen, everybody))
    assert better > worse + 0.01


def test_every_iteration_reports_the_loss_the_plain_l2_and_what_held_out_particles_say(sorted_run):
    _, summary = sorted_run
    records = summary["iterations"]
    assert [r["iteration"] for r in records] == [1, 2, 3, 4, 5]
    first, last = records[0], records[-1]
    # the trimmed loss falls, as it must; the loss over all particles does not, and says what it cost
    assert last["loss"] < first["loss"]
    assert last["loss_l2"] > first["loss_l2"]
    for record in records:
        assert record["loss_heldout"] > record["loss"]
        assert record["loss_l2_heldout"] > record["loss_l2"]


def test_the_loss_of_l2_is_the_regular_l2_loss(reconstruct):
    _, summary = reconstruct("l2")
    (record,) = summary["iterations"]
    assert record["loss"] == record["loss_l2"]
    assert record["kept_fraction"] == 1


def test_the_loss_is_the_mean_residual_of_the_images(reconstruct, particles):
    """The raw L2 loss, against residuals of images that the project command makes of the half maps."""
    from mpirecon.io.particle_file import ParticleFile
    from mpirecon.operators.forward import ForwardModel
    from mpirecon.operators.half_plane import HalfPlane
    from mpirecon.operators.shift import centred_samples

    out, summary = reconstruct("raw", "--distance", "raw", "--iterations", 1, "--max-resolution", 11, "--normalise",
                               "off")
    plane = HalfPlane.of(BOX, BOX * 5 / 11 + 0.5)
    model = ForwardModel(BOX, 5, plane=plane)
    band = plane.shell >= 2
    total = power = count = 0.0
    with ParticleFile(particles) as file:
        everything = file.metadata(0, len(file))
        for half in (1, 2):
            rows = np.flatnonzero(everything.half == half)
            prepared = model.prepare(mrcfile.read(out / f"half{half}.mrc"))
            some = everything[rows]
            data = centred_samples(file.images(rows), some.pose.shift / 5, plane)
            residual = np.abs(data - model.samples(prepared, some.pose, some.ctf)) ** 2 / BOX**2
            total += (plane.multiplicity[band] * residual[:, band]).sum(dtype=float)
            power += (plane.multiplicity[band] * np.abs(data[:, band]) ** 2).sum(dtype=float) / BOX**2
            count += plane.multiplicity[band].sum() * len(rows)
    # the run's own references are filtered and masked, the half maps are not: close, not equal
    (record,) = summary["iterations"]
    assert record["loss_l2"] * record["loss_l2_of_nothing"] == pytest.approx(total / count, rel=0.03)
    # 1 is what a map of zeros leaves: all of the images' power
    assert record["loss_l2_of_nothing"] == pytest.approx(power / count, rel=1e-4)
    assert record["loss_l2"] == pytest.approx(total / power, rel=0.03)


def test_gradient_descent_reaches_the_normal_equations_map(reconstruct, truth):
    normal, one = reconstruct("l2")
    gradient, two = reconstruct("gradient", "--solver", "gradient", "--iterations", 8)
    a, b = mrcfile.read(normal / "volume.mrc"), mrcfile.read(gradient / "volume.mrc")
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
    assert two["iterations"][-1]["loss_l2"] == pytest.approx(one["iterations"][-1]["loss_l2"], rel=2e-3)
    assert mean_fsc(b, truth) > mean_fsc(a, truth) - 0.01


def test_gradient_descent_sorts_mini_batches(reconstruct, truth):
    out, summary = reconstruct("batches", "--solver", "gradient", "--loss", "sorted", "--keep", 0.7, "--iterations", 3,
                               "--batch-size", 250, "--sort-scope", "batch")
    last = summary["iterations"][-1]
    assert last["kept_fraction"] == pytest.approx(0.7, abs=0.005)
    assert last["wrong_among_kept"] / last["kept"] < 0.05
    assert mean_fsc(mrcfile.read(out / "volume.mrc"), truth) > 0.8
    lines = [json.loads(line) for line in (out / "logs" / "rank0000.jsonl").read_text().splitlines()]
    sorts = [line for line in lines if line["event"] == "sort" and line["iteration"] == 3]
    assert [line["batch"] for line in sorts] == [0, 1, 2, 3]
    assert all(line["sorted"] == 250 and line["kept"] == 175 for line in sorts)


@pytest.mark.parametrize("loss", ["l1", "huber", "cauchy"])
def test_robust_losses_give_wrong_particles_less_weight(reconstruct, loss):
    out, summary = reconstruct(loss, "--loss", loss, "--iterations", 3)
    with h5py.File(out / "particles.h5") as file:
        weight, wrong = file["weight"][:], file["pose_error"][:]
    assert weight[wrong].mean() < weight[~wrong].mean()
    assert weight.min() > 0
    losses = [record["loss"] for record in summary["iterations"]]
    assert losses[-1] < losses[0]


def test_a_graduated_schedule_leaves_a_start_that_a_plain_one_is_caught_in(folder, cli):
    """80 % of 200 poses wrong: the first map tells good from wrong too badly to be followed,
    and a better one is never made."""
    path, found = folder / "few.h5", {}
    assert cli("simulate", "--phantom", "--particles", 200, "--box", BOX, "--pixel-size", 6, "--snr", 0.1,
               "--error-rate", 0.8,
               "--truth-map", folder / "few.mrc", "-o", path).returncode == 0
    for schedule in ("plain", "graduated"):
        out = folder / f"few-{schedule}"
        assert cli("reconstruct", path, "-o", out, "--loss", "posterior", "--schedule", schedule).returncode == 0
        summary = json.loads((out / "summary.json").read_text())
        found[schedule] = summary["kept"], mean_fsc(mrcfile.read(out / "volume.mrc"), mrcfile.read(folder / "few.mrc"))
    assert found["plain"][0] == 200 and found["graduated"][0] < 60
    assert found["graduated"][1] > found["plain"][1] + 0.1
    assert (
        json.loads((folder / "few-graduated" / "summary.json").read_text())["configuration"]["schedule"] == "graduated"
    )


def test_the_run_folder_holds_what_the_contract_says(sorted_run, particles):
    out, summary = sorted_run
    for name in ("volume", "half1", "half2"):
        with mrcfile.open(out / f"{name}.mrc") as file:
            assert file.data.shape == (BOX,) * 3 and file.data.dtype == np.float32
            assert float(file.voxel_size.x) == pytest.approx(5)
    with open(out / "fsc.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == BOX // 2 + 1 and {"shell", "resolution", "fsc"} <= set(rows[0])
    with h5py.File(out / "particles.h5") as run, h5py.File(particles) as given:
        for name in ("id", "half", "distance", "score", "weight", "kept", "posterior", "sigma", "scale", "pose_error"):
            assert len(run[name]) == 1000, name
        np.testing.assert_array_equal(run["id"], np.arange(1000))
        np.testing.assert_array_equal(run["half"], given["half"])
        np.testing.assert_array_equal(run["pose_error"], given["pose_error"])
        assert run["kept"][:].sum() == 700 == (run["weight"][:] > 0).sum()
    for key in ("configuration", "versions", "command", "ranks", "iterations", "resolution_0143", "keep_estimate",
                "detection", "timings", "bytes_moved", "peak_memory_bytes"):
        assert key in summary, key
    assert summary["configuration"]["keep"] == 0.7
    assert (out / "logs" / "rank0000.jsonl").exists()
    assert not list(out.glob("*.tmp*")) and not list(out.glob(".*"))


def test_the_half_map_fsc_in_the_table_is_that_of_the_half_maps(sorted_run):
    out, _ = sorted_run
    with open(out / "fsc.csv", newline="") as file:
        table = np.array([float(row["fsc_unmasked"]) for row in csv.DictReader(file)])
    a, b = (mrcfile.read(out / f"half{h}.mrc") for h in (1, 2))
    np.testing.assert_allclose(table[1:], fsc(a, b)[1:], atol=2e-6)


def test_logs_say_who_was_sorted_where(sorted_run, particles):
    out, _ = sorted_run
    lines = [json.loads(line) for line in (out / "logs" / "rank0000.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if line["event"] == "sort_particles" and line["iteration"] == 5]
    assert sorted(last["ids_before"]) == sorted(last["ids_after"]) == list(range(1000))
    assert last["distances_after"] == sorted(last["distances_before"])
    assert last["kept_after"] == [1] * 700 + [0] * 300
    with h5py.File(particles) as file:
        flags = file["pose_error"][:]
    assert last["pose_error_after"] == flags[np.array(last["ids_after"])].astype(int).tolist()


def test_noiseless_images_give_the_density_back_to_scale(folder, cli):
    """3,000 particles, box 64, CTF on: what an accurate reconstruction must reach."""
    cli("simulate", "--phantom", "--particles", 3000, "--box", 64, "--pixel-size", 3, "--snr", "inf",
        "--truth-map", folder / "clean.mrc", "-o", folder / "clean.h5")
    result = cli("reconstruct", folder / "clean.h5", "-o", folder / "clean")
    assert result.returncode == 0, result.stderr
    volume, truth = mrcfile.read(folder / "clean" / "volume.mrc"), mrcfile.read(folder / "clean.mrc")
    assert fsc(volume, truth)[1 : int(0.9 * 32) + 1].min() > 0.9995
    mask = soft_sphere(64, 26, 4)
    assert np.linalg.norm((volume - truth) * mask) / np.linalg.norm(truth * mask) < 0.01
    assert (volume * truth * mask).sum() / (truth * truth * mask).sum() == pytest.approx(1, abs=3e-3)


def test_an_odd_box_and_premultiplied_images_give_the_same_density(folder, cli):
    for name, options in (("plain", ()), ("times-ctf", ("--ctf-premultiply",))):
        cli("simulate", "--phantom", "--particles", 1500, "--box", 33, "--pixel-size", 5, "--snr", "inf",
            "--truth-map", folder / "odd.mrc", "-o", folder / f"{name}.h5", "--overwrite", *options)
        result = cli("reconstruct", folder / f"{name}.h5", "-o", folder / name)
        assert result.returncode == 0, result.stderr
        volume, truth = mrcfile.read(folder / name / "volume.mrc"), mrcfile.read(folder / "odd.mrc")
        mask = soft_sphere(33, 13, 3)
        assert np.linalg.norm((volume - truth) * mask) / np.linalg.norm(truth * mask) < 0.02, name


def test_black_contrast_is_turned_white(folder, cli, particles, reconstruct):
    path = folder / "black.h5"
    path.write_bytes(particles.read_bytes())
    with h5py.File(path, "r+") as file:
        file["images"][...] = -file["images"][...]
        file.attrs["contrast"] = "black"
    assert cli("reconstruct", path, "-o", folder / "black").returncode == 0
    white, _ = reconstruct("l2")
    np.testing.assert_allclose(mrcfile.read(folder / "black" / "volume.mrc"), mrcfile.read(white / "volume.mrc"),
                               atol=1e-6)


def test_folds_of_the_own_half_score_particles_more_honestly_than_their_own_map(folder, cli):
    """On pure noise a particle fits a map that contains it; it must not fit the map of the other folds."""
    cli("simulate", "--phantom", "--particles", 200, "--box", 16, "--pixel-size", 8, "--snr", 1, "--junk-rate", 1,
        "-o", folder / "noise.h5")
    scores = {}
    for folds in (1, 4):
        out = folder / f"folds{folds}"
        result = cli("reconstruct", folder / "noise.h5", "-o", out, "--loss", "sorted", "--keep", 0.5,
                     "--folds", folds, "--iterations", 1, "--distance", "correlation")
        assert result.returncode == 0, result.stderr
        with h5py.File(out / "particles.h5") as file:
            scores[folds] = file["score"][:]
    error = scores[4].std() / np.sqrt(len(scores[4]))
    assert abs(scores[4].mean()) < 4 * error


def test_each_optics_group_has_its_own_noise_spectrum(folder, cli, particles):
    """Two detectors: the images of one are three times as bright and smoothed. Neither group may be preferred."""
    from scipy.ndimage import gaussian_filter

    path = folder / "two-groups.h5"
    path.write_bytes(particles.read_bytes())
    with h5py.File(path, "r+") as file:
        group = np.where(np.arange(1000) % 3 == 0, 7, 2)  # interleaved, numbered as it pleases
        file["optics_group"][...] = group
        images = file["images"][:]
        images[group == 7] = 3 * np.stack([gaussian_filter(image, 0.6) for image in images[group == 7]])
        file["images"][...] = images
    out = folder / "two-groups"
    result = cli("reconstruct", path, "-o", out, "--loss", "sorted", "--keep", 0.7, "--distance", "whitened",
                 "--iterations", 1)
    assert result.returncode == 0, result.stderr
    with h5py.File(out / "particles.h5") as file:
        residual = file["distance"][:]
    assert np.median(residual[group == 7]) == pytest.approx(np.median(residual[group == 2]), rel=0.15)


def test_peak_memory_is_the_runs_own_whoever_started_it(folder, cli, particles):
    held = np.ones(100_000_000)  # 0.8 GB that the starting process holds
    out = folder / "own-memory"
    assert cli("reconstruct", particles, "-o", out, env={}).returncode == 0
    assert held.all()
    assert json.loads((out / "summary.json").read_text())["peak_memory_bytes"] < 0.5e9


@pytest.mark.parametrize("options", [[], ["--diameter", "70"], ["--solver", "gradient", "--iterations", "2"],
                                     ["--solve-iterations", "0"]])
def test_the_fsc_that_is_reported_is_that_of_the_half_maps_that_are_written(options, cli, tmp_path):
    """Where a run has compared the very maps, its curve is told, and not made again."""
    box, pixel = 50, 3.0
    cli("simulate", "--phantom", "--particles", 80, "--box", box, "--pixel-size", pixel, "--snr", 0.2, "--seed", 4,
        "-o", tmp_path / "p.h5")
    result = cli("reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", "-q", "--no-postprocess", *options)
    assert result.returncode == 0, result.stderr
    first, second = (np.asarray(read_map(tmp_path / "run" / f"half{k}.mrc").array) for k in (1, 2))
    radius = 35 / pixel if "--diameter" in options else box / 2 - 4
    with open(tmp_path / "run" / "fsc.csv", newline="") as file:
        told = [float(row["fsc"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(told, fsc(first, second, soft_sphere(box, radius, 4)), atol=2e-6)


def test_a_fraction_of_correct_particles_that_is_given_is_no_estimate():
    particles = mr.simulate(mr.phantom(24, 5.0), 300, snr=0.5, error_rate=0.3, seed=1)
    given, found = (mr.reconstruct(particles, loss="posterior", iterations=2, **keep) for keep in ({"keep": 0.5}, {}))
    assert given.keep is None and 0 < found.keep < 1
    assert "fraction correct, estimated" not in (given.folder / "report.html").read_text()
