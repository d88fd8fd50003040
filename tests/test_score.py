"""`mpirecon score`: particles against given half maps, beside a run's own scores and beside the definition."""

import csv
import json

import h5py
import mrcfile
import numpy as np
import pandas as pd
import pytest
from test_weights import star_file

import mpirecon as mr
from mpirecon.io.cs_file import read_cs
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import read_star

COUNT, BOX, SIZE = 200, 24, 5.0
TOLD = ("score", "distance", "sigma", "scale")


@pytest.fixture(scope="module")
def particles():
    return mr.simulate(mr.phantom(BOX, SIZE), COUNT, snr=0.3, error_rate=0.3, seed=4)


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("options", [
    {}, {"solve_iterations": 0}, {"diameter": 80.0, "max_resolution": 14.0},
    {"distance": "correlation", "normalise": "off"},
    {"score_resolution": (60.0, 14.0), "padding": 1.5, "distance": "whitened"},
])  # fmt: skip
def test_scores_of_a_runs_own_half_maps_are_the_runs(particles, tmp_path, options):
    run = mr.reconstruct(particles, tmp_path / "run", **options)
    same = {name: value for name, value in options.items() if name != "solve_iterations"}
    found = mr.score(tmp_path / "run" / "half1.mrc", tmp_path / "run" / "half2.mrc", particles, **same)
    for name in TOLD:  # an L2 run is not held out by folds: its particles are compared with the other half's map
        np.testing.assert_allclose(found[f"{name}_other"], run.particles[name], rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(found["half"], run.particles["half"])
    assert np.median(found["score_own"]) > np.median(found["score_other"]) + 0.5  # its own half's map holds its noise
    # the map of the wrong half is told from the right one
    turned = mr.score(*run.half_maps[::-1], particles, **same)
    np.testing.assert_allclose(turned["score_own"], found["score_other"], rtol=1e-5, atol=1e-5)


def test_junk_finds_itself_in_its_own_halfs_map_alone():
    """What the command says of leaks: noise scores above 0 against the map that it is in, and 0 against the other."""
    particles = mr.simulate(mr.phantom(BOX, SIZE), 400, snr=0.1, junk_rate=0.5, seed=4)
    found, junk = mr.score(*mr.reconstruct(particles).half_maps, particles), particles.truth["junk"]
    error = 1 / np.sqrt(junk.sum())  # a score of noise has a standard deviation of 1
    assert found["score_own"][junk].mean() > 0.5 > 5 * error
    assert abs(found["score_other"][junk].mean()) < 3 * error
    assert np.median(found["score_other"][~junk]) > 4


def test_residuals_are_those_of_the_own_halfs_map(particles):
    """Against the losses that a run reports of the maps it made, which are averages over all."""
    run = mr.reconstruct(particles, solve_iterations=0)
    found, record = mr.score(*run.half_maps, particles), run.iterations[0]
    assert found["residual_own"].mean() == pytest.approx(record["loss_l2"] * record["loss_l2_of_nothing"], rel=1e-6)
    assert found["residual_other"].mean() == pytest.approx(
        record["loss_l2_heldout"] * record["loss_l2_of_nothing"], rel=1e-6
    )


def test_unfiltered_raw_residuals_are_the_definitions(particles):
    """‖y − Ax‖² over the band per sample, from projections of the masked maps in double precision."""
    maps = mr.reconstruct(particles, solve_iterations=0).half_maps
    found = mr.score(*maps, particles, filtered=False, distance="raw", normalise="off", score_resolution=(40.0, 12.0))
    from mpirecon.validate.masks import soft_sphere

    # 120 Å / 40 … 120 Å / 12
    mask, half, shells = soft_sphere(BOX, BOX / 2 - 3, 3.0), particles.metadata().half, slice(3, 11)
    from mpirecon.validate.fsc import shell_count

    count = shell_count(BOX, 2)[shells]
    expected = np.empty(COUNT)
    for which, volume in zip((1, 2), maps):
        mine = np.flatnonzero(half == which)
        model = mr.ForwardModel(particles, mine)
        power = model.residual_power(mr.Volume(volume.array * mask, SIZE))
        expected[mine] = (power[:, shells] * count).sum(axis=1) / count.sum()
    np.testing.assert_allclose(found["residual_own"], expected, rtol=2e-3)
    np.testing.assert_allclose(found["distance_own"], found["residual_own"])


def test_maps_of_another_grey_scale_are_brought_to_the_images(particles, tmp_path, cli):
    run = mr.reconstruct(particles, tmp_path / "run")
    found = mr.score(*run.half_maps, particles)
    scaled = [mr.Volume(volume.array * 250, SIZE) for volume in run.half_maps]
    for name, volume in zip(("a", "b"), scaled):
        volume.write(tmp_path / f"{name}.mrc")
    other = mr.score(*scaled, particles)
    np.testing.assert_allclose(other["score_other"], found["score_other"], rtol=1e-4, atol=1e-4)
    fitted = found["scale_other"].mean()
    np.testing.assert_allclose(other["distance_other"].mean(), found["distance_other"].mean(), atol=0.05 * abs(fitted))
    done = cli("score", tmp_path / "a.mrc", tmp_path / "b.mrc", particles.path, "-o", tmp_path / "s.csv")
    assert done.returncode == 0 and "the maps were multiplied by 0.00" in done.stdout, done.stdout + done.stderr
    inverted = [mr.Volume(-volume.array, SIZE) for volume in run.half_maps]
    assert np.median(mr.score(*inverted, particles)["score_other"]) < 0


def test_the_command_writes_the_table(particles, tmp_path, cli):
    run = mr.reconstruct(particles, tmp_path / "run", loss="sorted", keep=0.7, iterations=2, diameter=90)
    command = ["score", tmp_path / "run/half1.mrc", tmp_path / "run/half2.mrc", particles.path, "-o",
               tmp_path / "s.csv"]
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert (
        "own half's map" in done.stdout and "whoever selects by that lets the half maps see each other" in done.stdout
    )
    assert "its diameter is 90, here the default" in done.stdout and "maps without each particle's fold" in done.stdout
    found, table = mr.score(*run.half_maps, particles), rows(tmp_path / "s.csv")
    assert [int(row["id"]) for row in table] == list(range(COUNT))
    for name in found.dtype.names:
        np.testing.assert_allclose([float(row[name]) for row in table], found[name], rtol=1e-6, atol=1e-9, err_msg=name)
    again = cli(*command)
    assert again.returncode == 1 and "exists already" in again.stderr
    with pytest.raises(mr.UserError, match="s.csv exists already"):
        mr.score(*run.half_maps, particles, tmp_path / "s.csv")
    written = mr.score(tmp_path / "run/half1.mrc", tmp_path / "run/half2.mrc", particles, tmp_path / "script.csv")
    assert (tmp_path / "script.csv").read_text() == (tmp_path / "s.csv").read_text()
    assert written.about["median"]["score_own"] == np.median(written["score_own"])
    assert any("its diameter is 90" in note for note in written.about["notes"])
    told = cli(*command, "--overwrite", "--json", "--diameter", 90)
    assert json.loads(told.stdout)["particles"] == COUNT and json.loads(told.stdout)["median"]["score_own"] > 0
    # as weights of a run
    mr.reconstruct(particles, weights=f"{tmp_path / 's.csv'}:sigma_other")


def test_a_skipped_image_has_no_numbers(particles, tmp_path, cli):
    spoilt = particles.save(tmp_path / "spoilt.h5")
    with h5py.File(spoilt.path, "r+") as file:
        file["images"][4] = np.nan
    maps = mr.reconstruct(particles, tmp_path / "run").folder
    command = ["score", maps / "half1.mrc", maps / "half2.mrc", spoilt.path, "-o", tmp_path / "s.csv"]
    done = cli(*command)
    assert done.returncode == 1 and "particle 4 contains NaN" in done.stderr and not (tmp_path / "s.csv").exists()
    done = cli(*command, "--skip-bad", "--json")
    assert json.loads(done.stdout)["skipped"] == 1
    table = rows(tmp_path / "s.csv")
    assert table[4]["score_own"] == table[4]["residual_other"] == "" and all(table[5].values())


@pytest.mark.parametrize("n", [3])
def test_any_number_of_ranks_gives_the_serial_table(particles, tmp_path, cli, mpirun, n):
    folder = mr.reconstruct(particles, tmp_path / "run").folder
    command = ["score", folder / "half1.mrc", folder / "half2.mrc", particles.path]
    assert cli(*command, "-o", tmp_path / "serial.csv").returncode == 0
    done = mpirun(n, ["-m", "mpirecon", *command, "-o", tmp_path / "ranks.csv"])
    assert done.returncode == 0, done.stderr
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("serial", "ranks"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_compared_is_refused_on_all_ranks(particles, tmp_path, mpirun, cli):
    folder = mr.reconstruct(particles, tmp_path / "run").folder
    mr.phantom(32, SIZE).write(tmp_path / "large.mrc")
    for name, value in (("zero", 0), ("constant", 2.5)):
        mr.Volume(np.full((BOX,) * 3, value, np.float32), SIZE).write(tmp_path / f"{name}.mrc")
    with mrcfile.new(tmp_path / "nan.mrc", np.full((BOX,) * 3, np.nan, np.float32)) as file:
        file.voxel_size = SIZE
    for name, words in (("large", "has a box of 32 pixels"), ("zero", "zero.mrc is constant"),
                        ("constant", "constant.mrc is constant"), ("nan", "NaN")):
        with pytest.raises(mr.UserError, match=words):
            mr.score(folder / "half1.mrc", tmp_path / f"{name}.mrc", particles)
    done = mpirun(2, ["-m", "mpirecon", "score", folder / "half1.mrc", tmp_path / "large.mrc", particles.path, "-o",
                      tmp_path / "s.csv"])
    assert done.returncode == 1 and done.stderr.count("has a box of 32 pixels") == 1 and "Traceback" not in done.stderr
    for option, words in (("--star", "were not imported"), ("--cs", "did not come from a .cs file")):
        done = cli("score", folder / "half1.mrc", folder / "half2.mrc", particles.path, "-o", tmp_path / "s.csv",
                   option, tmp_path / "t")
        assert done.returncode == 1 and words in done.stderr and not (tmp_path / "s.csv").exists()


def test_scores_become_columns_of_the_imported_table(particles, tmp_path, cli):
    path = star_file(tmp_path, particles, ["1"] * COUNT)
    folder = mr.reconstruct(path, tmp_path / "run").folder
    done = cli("score", folder / "half1.mrc", folder / "half2.mrc", path, "-o", tmp_path / "s.csv", "--star",
               tmp_path / "s.star")
    assert done.returncode == 0, done.stderr
    table, source, numbers = read_star(tmp_path / "s.star"), read_star(tmp_path / "set.star"), rows(tmp_path / "s.csv")
    for name in source["particles"]:
        assert list(table["particles"][name]) == list(source["particles"][name]), name
    assert list(table["optics"]) == list(source["optics"])
    added = [name for name in table["particles"] if name not in source["particles"]]
    assert added == [f"mpirecon{name}{which}" for which in ("Own", "Other")
                     for name in ("Score", "Distance", "Residual", "Scale", "Sigma")]
    np.testing.assert_allclose(table["particles"]["mpireconScoreOther"].astype(float),
                               [float(row["score_other"]) for row in numbers])
    assert numbers[11]["rlnImageName"] == "12@set.mrcs"
    # the table is that of the particles, whatever happens to their order
    again = mr.read_star(tmp_path / "s.star", tmp_path).metadata().pose
    np.testing.assert_allclose(again.matrices(), particles.metadata().pose.matrices(), atol=1e-6)


def test_scores_become_fields_of_the_cs_file(tmp_path, cli):
    from test_cryosparc import make

    source = make(tmp_path, images=np.random.default_rng(0).normal(size=(8, 24, 24)).astype("f4"),
                  blob__shape=np.full((8, 2), 24, "u4"))
    path = tmp_path / "p.h5"
    mr.read_cs(source, tmp_path).save(path)
    folder = mr.reconstruct(path, tmp_path / "run", postprocess=False).folder
    done = cli("score", folder / "half1.mrc", folder / "half2.mrc", path, "-o", tmp_path / "s.csv", "--cs",
               tmp_path / "s.cs")
    assert done.returncode == 0, done.stderr
    given, made = read_cs(source), read_cs(tmp_path / "s.cs")
    for name in given.dtype.names:
        np.testing.assert_array_equal(made[name], given[name])
    table = rows(tmp_path / "s.csv")
    assert [row["uid"] for row in table] == [str(uid) for uid in given["uid"].tolist()]
    np.testing.assert_allclose(made["mpirecon/score_own"], [float(row["score_own"]) for row in table], rtol=1e-6)
    with ParticleFile(path) as file:
        assert len(file) == len(made)


REPRODUCED = [
    f"{name}_{which}" for which in ("own", "other") for name in ("score", "distance", "residual", "scale", "sigma")
]


@pytest.mark.parametrize("options", [
    {"loss": "l2"}, {"loss": "sorted", "keep": 0.7, "iterations": 2}, {"loss": "l1", "iterations": 2},
    {"loss": "huber", "iterations": 2},
    {"loss": "posterior", "iterations": 2, "distance": "correlation"}, {"solver": "gradient", "iterations": 2},
    {"loss": "sorted", "keep": 0.7,
     "iterations": 2, "solver": "gradient", "batch_size": 100, "normalise": "off", "diameter": 90.0, "mask": "auto"},
])  # fmt: skip
def test_every_run_can_hold_what_score_finds_of_its_half_maps(particles, tmp_path, options):
    run = mr.reconstruct(particles, tmp_path / "run", half_map_scores=True, postprocess=False,
                         **options) if "mask" not in options else \
        mr.reconstruct(particles, tmp_path / "run", half_map_scores=True, **options)
    same = {name: options[name] for name in ("distance", "normalise", "diameter") if name in options}
    found = mr.score(tmp_path / "run" / "half1.mrc", tmp_path / "run" / "half2.mrc", particles, **same)
    for name in REPRODUCED:
        np.testing.assert_allclose(run.particles[name], found[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_weights_and_groups_are_reproduced_as_in_the_run(particles, tmp_path, cli, mpirun):
    path = star_file(tmp_path, particles, [f"{0 if row % 7 == 0 else 1 + row % 3}" for row in range(COUNT)])
    weight = np.array([0 if row % 7 == 0 else 1 + row % 3 for row in range(COUNT)], float)
    command = ["reconstruct", tmp_path / "set.star", "-o", tmp_path / "run", "--loss", "posterior", "--iterations", 2,
               "--half-map-scores",
               "--weights", f"{tmp_path / 'w.csv'}:w", "--no-postprocess", "-q"]
    (tmp_path / "w.csv").write_text("id,w\n" + "".join(f"{row},{value}\n" for row, value in enumerate(weight)))
    done = mpirun(2, ["-m", "mpirecon", *command])
    assert done.returncode == 0, done.stderr
    run = mr.Result(tmp_path / "run")
    maps = [tmp_path / "run" / f"half{half}.mrc" for half in (1, 2)]
    with_weights = ["--weights", f"{tmp_path / 'w.csv'}:w"]
    # straight from the table
    done = cli("score", *maps, tmp_path / "set.star", "-o", tmp_path / "s.csv", *with_weights)
    assert (done.returncode == 0 and "score_own in" in done.stdout
            and "differ by at most" in done.stdout), done.stdout + done.stderr
    table = rows(tmp_path / "s.csv")
    for name in REPRODUCED:
        found = np.array([float(row[name] or "nan") for row in table])
        np.testing.assert_allclose(run.particles[name], found, rtol=1e-5, atol=1e-6, err_msg=name)
        assert (np.isnan(found) == (weight == 0)).all()
    # without them it is told, and the spectra are others
    done = cli("score", *maps, path, "-o", tmp_path / "t.csv")
    assert "its weights is" in done.stdout and done.returncode == 0
    by_script = mr.score(*maps, path, weights=weight)
    np.testing.assert_allclose(by_script["score_own"], run.particles["score_own"], rtol=1e-5, atol=1e-6)
    done = cli("score", *maps, path, "-o", tmp_path / "u.csv", "--pixel-size", 3)
    assert done.returncode == 1 and "--pixel-size" in done.stderr and "particle file" in done.stderr
