"""Weights that particles are given (`reconstruct --weights`):
multiplied with those of every loss, and 0 is not being there."""

import json
import shutil
from functools import lru_cache

import h5py
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.given_weights import read_weights
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.config import Config
from mpirecon.solvers.normalise import Normaliser

COUNT, LEFT = 200, 230  # particles that take part, and those with whoever is given weight 0

LOSSES = {
    "l2": {},
    "sorted": {"loss": "sorted", "keep": 0.7, "iterations": 3},
    "huber": {"loss": "huber", "iterations": 2},
    "posterior": {"loss": "posterior", "iterations": 4},
    "auto": {"loss": "sorted", "keep": "auto", "iterations": 2, "folds": 2},
    "gradient": {"loss": "sorted", "keep": 0.7, "solver": "gradient", "iterations": 3},
    "mini-batches": {"loss": "sorted", "keep": 0.7, "solver": "gradient", "iterations": 2, "batch_size": 60,
                     "sort_scope": "batch"},
    "deterministic": {"loss": "sorted", "keep": 0.7, "iterations": 2, "deterministic": True},
}


@pytest.fixture(scope="module")
def larger():
    return mr.simulate(mr.phantom(24, 5.0), LEFT, snr=0.3, error_rate=0.2, junk_rate=0.05, seed=4)


@pytest.fixture(scope="module")
def smaller(larger, tmp_path_factory):
    """The first particles of the set alone."""
    return part_of(larger, np.arange(COUNT), tmp_path_factory.mktemp("part") / "smaller.h5")


def part_of(particles, rows, path):
    """A particle file with these rows, in their order, however often each."""
    with h5py.File(particles.path) as given, h5py.File(path, "w") as made:
        made.attrs.update(given.attrs)
        for name in set(given) - {"source"}:
            made[name] = given[name][...][rows]
    return mr.open(path)


def difference(a, b):
    return np.linalg.norm(a.volume.array - b.volume.array) / np.linalg.norm(b.volume.array)


@pytest.fixture
def few_random_poses(monkeypatch):
    """Of a part of the particles, as of large sets."""
    monkeypatch.setattr("mpirecon.solvers.scoring.RANDOM_POSES", (40, 40))


@pytest.fixture(scope="module")
def without_weights(smaller):
    """``without_weights(name)``: the smaller set's run, made once for all tests, which have few random poses."""
    return lru_cache(lambda name: mr.reconstruct(smaller, **LOSSES[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_change_nothing(smaller, few_random_poses, without_weights, name):
    without = without_weights(name)
    equal = mr.reconstruct(smaller, weights=np.full(COUNT, 0.37), **LOSSES[name])
    np.testing.assert_array_equal(equal.volume.array, without.volume.array)
    assert equal.iterations == without.iterations
    np.testing.assert_array_equal(equal.particles["weight"], without.particles["weight"])


@pytest.mark.parametrize("name", LOSSES)
def test_a_particle_of_weight_0_is_as_if_it_were_not_there(larger, few_random_poses, without_weights, tmp_path, name):
    spoilt = larger.save(tmp_path / "spoilt.h5")
    # images that a run would refuse, or that would spoil noise, gains and scores
    with h5py.File(spoilt.path, "r+") as file:
        file["images"][COUNT] = np.nan
        file["images"][COUNT + 1 :] *= 1000
        if name != "auto":
            file["optics_group"][COUNT + 5 :] = 2
    zero = mr.reconstruct(mr.open(spoilt.path), weights=np.arange(LEFT) < COUNT, **LOSSES[name])
    absent = without_weights(name)
    assert difference(zero, absent) < 1e-6
    for a, b in zip(zero.iterations, absent.iterations, strict=True):
        # particles that are compared at other shifts are drawn by their numbers in the file
        a, b = ({k: v for k, v in record.items() if k not in ("mixture", "shifts")} for record in (a, b))
        assert a == pytest.approx(b, rel=1e-6)
    for column in ("weight", "kept", "score", "distance"):
        np.testing.assert_allclose(zero.particles[column][:COUNT], absent.particles[column], rtol=1e-4, atol=1e-5)
    assert not zero.kept[COUNT:].any() and not zero.particles["weight"][COUNT:].any()
    assert not zero.particles["skipped"].any() and zero.summary["particles"]["skipped"] == []
    assert np.isnan(zero.particles["score"][COUNT:]).all()
    assert zero.detection["auc"] == pytest.approx(absent.detection["auc"])
    assert zero.summary["weights"]["zero"] == LEFT - COUNT and zero.summary["kept"] == absent.summary["kept"]


def test_images_of_weight_0_are_not_looked_at_for_gains(tmp_path):
    particles = mr.simulate(mr.phantom(32, 5.0), 60, snr=0.3, noise_cv=0.3, seed=4)
    few = part_of(particles, np.arange(20, 60), tmp_path / "few.h5")
    found = []
    for path, present in ((particles.path, np.arange(60) >= 20), (few.path, None)):
        with ParticleFile(path) as file:
            found.append(Normaliser.of(SerialCommunicator(), file, "auto", present).gains)
    assert found[0] == found[1] is not None


def test_a_particle_of_weight_2_counts_as_two(smaller, tmp_path):
    twice = np.random.default_rng(0).random(COUNT) < 0.3
    rows = np.sort(np.concatenate([np.arange(COUNT), np.flatnonzero(twice)]))
    options = {"normalise": "off", "solve_iterations": 0}
    doubled = mr.reconstruct(part_of(smaller, rows, tmp_path / "doubled.h5"), **options)
    weighted = mr.reconstruct(smaller, weights=1.0 + twice, **options)
    assert difference(weighted, doubled) < 1e-5
    assert difference(mr.reconstruct(smaller, **options), doubled) > 1e-2
    # the loss that is minimised counts them so, the regular L2 loss does not
    at, reference = weighted.iterations[0], doubled.iterations[0]
    assert at["loss"] == pytest.approx(reference["loss"], rel=5e-3) and at["loss"] != pytest.approx(
        at["loss_l2"], rel=1e-4
    )


@pytest.mark.parametrize("name", ["sorted", "huber", "gradient", "mini-batches"])
def test_weights_are_multiplied_with_those_of_the_loss_in_every_iteration(smaller, name):
    given = np.random.default_rng(1).uniform(0.2, 1.0, COUNT)
    states = list(mr.Reconstruction(smaller, weights=given, **LOSSES[name]))
    relative = given / np.median(given)
    for state in states:
        if name in ("sorted", "gradient", "mini-batches"):  # 0 or 1 times what was given
            own = np.where(state.kept, 1.0, 0.0)
            np.testing.assert_allclose(state.weights, own * relative)
    # the last maps are those of the last weights: linear least squares knows no loss
    if name in ("sorted", "huber"):
        last = mr.reconstruct(smaller, weights=states[-1].weights, solve_iterations=0)
        ours = mr.reconstruct(smaller, weights=given, solve_iterations=0, **LOSSES[name])
        assert difference(last, ours) < 1e-5
        assert difference(mr.reconstruct(smaller, solve_iterations=0, **LOSSES[name]), ours) > 1e-3


def test_weights_are_recorded_and_shown(smaller):
    given = np.where(np.arange(COUNT) % 10 == 0, 0.0, 0.5)
    given[:2] = 1.0, 0.25
    result = mr.reconstruct(smaller, weights=given)
    used = given[given > 0]
    assert result.summary["weights"] == pytest.approx({
        "source": "an array", "smallest": 0.25, "median": 0.5, "largest": 1.0, "zero": 19,
        "effective": used.sum() ** 2 / (used**2).sum(),
    })  # fmt: skip
    np.testing.assert_array_equal(result.particles["given_weight"], given)
    page = result.report.read_text()
    assert "All 181 particles were used, with the weights of an array" in page
    assert "an array, 0.25 to 1, median 0.5, effective number 180; 19 of weight 0 are ignored" in page
    assert "given_weight" not in mr.reconstruct(smaller).particles.dtype.names


def test_weights_that_are_none_are_refused(smaller):
    for weights, words in (
        (np.ones(COUNT - 1), rf"weights have the shape \({COUNT - 1},\), expected \({COUNT},\)"),
        (np.where(np.arange(COUNT) == 7, -1.0, 1.0),
         r"weights: -1 of particle 7 is not a weight; weights must be finite and not negative"),
        (np.where(np.arange(COUNT) > 7, np.nan, 1.0),
         rf"weights: nan of particle 8 is not a weight \({COUNT - 8} such particles\)"),
        (np.r_[np.ones(9), 1e300, np.ones(COUNT - 10)],
         "weights: 1e\\+300 of particle 9 is the largest of half set ., and 1e\\+300 times the median weight"),
        (np.r_[np.ones(9), 1.5e21, np.ones(COUNT - 10)], "expected 1e-20 to 1e\\+20 times"),
        (np.zeros(COUNT), r"an array: all \d+ particles of half set 1 have weight 0; both half maps need particles"),
        (smaller.metadata().half == 1, r"an array: all \d+ particles of half set 2 have weight 0"),
        (["much"] * COUNT, "weights: they must be an array of numbers"),
    ):
        with pytest.raises(mr.UserError, match=words):
            mr.reconstruct(smaller, weights=weights)
    few = np.zeros(COUNT)
    few[[np.flatnonzero(smaller.metadata().half == half)[0] for half in (1, 2)]] = 1
    with pytest.raises(mr.UserError, match="half set 1 has 1 particles, fewer than --folds 4"):
        mr.reconstruct(smaller, weights=few, loss="huber")


# where they come from


STAR = """data_optics

loop_
_rlnOpticsGroup
_rlnImagePixelSize
_rlnImageSize
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
1 5.0 24 300 2.7 0.1

data_particles

loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnRandomSubset
_rlnOpticsGroup
_rlnParticleFigureOfMerit
"""


@pytest.fixture(scope="module")
def imported(smaller, tmp_path_factory):
    """(particle file of a STAR file with weights, the weights)."""
    folder = tmp_path_factory.mktemp("imported")
    mr.project(mr.phantom(24, 5.0), smaller)  # compiles
    given = np.round(np.random.default_rng(2).uniform(0, 1, COUNT), 6)
    given[3] = 0
    return folder, star_file(folder, smaller, [f"{w:.6f}" for w in given]), given


def star_file(folder, particles, weights, name="set", label="rlnParticleFigureOfMerit"):
    import mrcfile

    with mrcfile.new(folder / f"{name}.mrcs", overwrite=True) as stack:
        stack.set_data(particles.images())
        stack.voxel_size = 5.0
    about, lines = particles.metadata(), []
    for i, (angles, ctf) in enumerate(zip(about.pose.euler(), about.ctf)):
        x, y = -about.pose.shift[i]
        lines.append(f"{i + 1:06d}@{name}.mrcs {angles[0]:.6f} {angles[1]:.6f} {angles[2]:.6f} {x:.6f} {y:.6f} "
                     f"{ctf['defocus_u']:.2f} {ctf['defocus_v']:.2f} {np.degrees(ctf['astigmatism']):.5f} "
                     f"{about.half[i]} 1 {weights[i]}")
    (folder / f"{name}.star").write_text(STAR.replace("rlnParticleFigureOfMerit", label) + "\n".join(lines) + "\n")
    target = folder / f"{name}.h5"
    mr.read_star(folder / f"{name}.star", folder).save(target, overwrite=True)
    return target


def test_a_column_of_the_imported_table_is_the_array(imported, cli):
    folder, path, given = imported
    done = cli("reconstruct", path, "-o", folder / "run", "--weights", "rlnParticleFigureOfMerit", "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert ("weights of rlnParticleFigureOfMerit, from " in done.stdout
            and "1 particles of weight 0 are ignored" in done.stdout)
    run = mr.Result(folder / "run")
    np.testing.assert_array_equal(run.volume.array, mr.reconstruct(path, weights=given).volume.array)
    assert run.summary["configuration"]["weights"] == run.summary["weights"]["source"] == "rlnParticleFigureOfMerit"
    np.testing.assert_array_equal(run.particles["given_weight"], given)
    # without rln, as RELION users say it
    np.testing.assert_array_equal(mr.reconstruct(path, weights="ParticleFigureOfMerit").volume.array, run.volume.array)


def of_file(path, text):
    with ParticleFile(path) as file:
        return read_weights(file, text).values


def test_tables_by_particle_are_found_by_id_image_or_order(imported, tmp_path):
    folder, path, given = imported
    order = np.random.default_rng(3).permutation(COUNT)
    tables = {
        "id.csv": ["id,other,w", *(f"{i},9,{given[i]}" for i in order)],
        "row.tsv": ["row\tw", *(f"{i}\t{given[i]}" for i in order)],
        "image.csv": ["w,rlnImageName", *(f"{given[i]},{i + 1}@./set.mrcs" for i in order)],
        "order.csv": ["w", *(str(w) for w in given)],
        "spaced.csv": ["\ufeffid, w", *(f"{i}, {given[i]}" for i in order), "", ""],
    }
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.testing.assert_array_equal(of_file(path, f"{tmp_path / name}:w"), given, err_msg=name)
    run = mr.reconstruct(path, tmp_path / "run")
    np.testing.assert_array_equal(of_file(path, f"{tmp_path}/run/particles.h5:defocus"), run.particles["defocus"])


@pytest.mark.parametrize(("lines", "words"), [
    (["id,w", "0,1", "1,-2"], "{path}, line 3: w -2 is not a weight"),
    (["id,w", "0,1", "", "1,much"], "{path}, line 4: w 'much' is not a weight"),
    (["id,w", "0,1", "1,inf"], "line 3: w inf is not a weight"),
    (["id,w", "0,1", "1,"], "line 3: w '' is not a weight"),
    (["id,w", "0,1", "0,1"], r"line 3: id 0 has a weight already \(line 2\)"),
    (["id,w", "0,1", "900,1"], r"line 3: .*has no particle of id 900 \(1 such rows of 200\)"),
    (["id,w", "0,1", "1.5,1"], r"line 3: .*has no particle of id 1.5"),
    (["id,w", "0,1", "1"], "line 3: 1 values, but 2 columns"),
    (["id,v", "0,1"], "{path} has no column w; its first line names id, v"),
    (["id,w,w", "0,1,1"], "{path} has 2 columns w; each needs its own name"),
    (["v,w", "0,1"], "1 rows for the 200 particles of .*; name the particles in a column id, uid or rlnImageName"),
    (["uid,w", "0,1"], "identifies particles by uid, which .* does not have"),
    ([], "{path} has no column w; its first line names none"),
])  # fmt: skip
def test_tables_that_are_wrong_name_file_and_line(imported, tmp_path, lines, words):
    if lines and lines[0] == "id,w":  # the others are right
        lines = lines + [f"{i},1" for i in range(2 if len(lines) > 2 and "0,1" != lines[-1] else 1, COUNT)]
    path = tmp_path / "w.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(mr.UserError, match=words.format(path=path)):
        of_file(imported[1], f"{path}:w")


def test_a_particle_that_the_table_leaves_out_is_named(imported, tmp_path):
    path = tmp_path / "w.csv"
    path.write_text("id,w\n" + "".join(f"{i},1\n" for i in range(COUNT) if i not in (5, 8)))
    with pytest.raises(mr.UserError, match="has no w for 2 of the 200 particles of .*, the first of them particle 5; "
                       "give each one, 0"):
        of_file(imported[1], f"{path}:w")


def test_values_of_the_imported_table_that_are_none_name_file_and_row(imported, smaller, tmp_path):
    weights = ["0.5"] * COUNT
    weights[11] = "none"
    path = star_file(tmp_path, smaller, weights, label="rlnOwnWeight")
    with pytest.raises(mr.UserError,
                       match=rf"{path}: rlnOwnWeight of .*set.star, none, of particle 11, is not a weight"):
        of_file(path, "rlnOwnWeight")
    with pytest.raises(mr.UserError, match="there is no column rlnFigure; it has .*rlnOwnWeight.*FILE:COLUMN reads a "
                       "table"):
        of_file(path, "rlnFigure")
    with pytest.raises(mr.UserError, match="no such file: nothing.csv; expected COLUMN of the imported table, or "
                       "FILE:COLUMN"):
        of_file(path, "nothing.csv:w")
    with pytest.raises(mr.UserError, match="it was not made from a table .*FILE:COLUMN reads a table by particle"):
        of_file(smaller.path, "rlnParticleFigureOfMerit")
    with pytest.raises(mr.UserError, match="--weights: expected COLUMN"):
        Config(weights=" ")


def test_a_table_of_weights_is_kept_as_any_input(imported, cli):
    folder, path, given = imported
    run = folder / "kept"
    run.mkdir()
    (run / "fsc.csv").write_text("id,w\n" + "".join(f"{i},{w}\n" for i, w in enumerate(given)))
    before = (run / "fsc.csv").read_bytes()
    done = cli("reconstruct", path, "-o", run, "--weights", f"{run}/fsc.csv:w", "--overwrite")
    assert done.returncode == 1 and "table of weights" in done.stderr, done.stderr
    assert (run / "fsc.csv").read_bytes() == before and not (run / "volume.mrc").exists()


# ranks, checkpoints


@pytest.mark.parametrize(("n", "options"), [
    (3, ("--loss", "posterior", "--iterations", "3")),
    (2, ("--loss", "sorted", "--keep", "0.7", "--solver", "gradient", "--iterations", "2", "--batch-size", "60")),
])  # fmt: skip
def test_any_number_of_ranks_gives_the_serial_result(imported, cli, mpirun, tmp_path, n, options):
    folder, path, given = imported
    table = tmp_path / "w.csv"
    given = np.where(np.arange(COUNT) < 70, given, np.where(np.arange(COUNT) % 5 == 0, 0, given))
    table.write_text("id,w\n" + "".join(f"{i},{w}\n" for i, w in enumerate(given)))
    command = ["reconstruct", path, "--weights", f"{table}:w", "--seed", 1, *options]
    done = cli(*command, "-o", tmp_path / "serial")
    assert done.returncode == 0, done.stderr
    done = mpirun(n, ["-m", "mpirecon", *command, "-o", tmp_path / "ranks"])
    assert done.returncode == 0, done.stderr
    serial, ranks = mr.Result(tmp_path / "serial"), mr.Result(tmp_path / "ranks")
    assert difference(ranks, serial) < 1e-5
    np.testing.assert_array_equal(ranks.kept, serial.kept)
    np.testing.assert_allclose(ranks.particles["weight"], serial.particles["weight"], rtol=1e-4)


def test_all_ranks_end_with_one_message(imported, mpirun, tmp_path):
    table = tmp_path / "w.csv"
    table.write_text("id,w\n0,-1\n" + "".join(f"{i},1\n" for i in range(1, COUNT)))
    done = mpirun(2, ["-m", "mpirecon", "reconstruct", imported[1], "-o", tmp_path / "run", "--weights", f"{table}:w"])
    assert done.returncode == 1 and done.stderr.count("line 2: w -1 is not a "
                                                      "weight") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_of_its_weights(imported, cli, tmp_path):
    folder, path, given = imported
    table, other = tmp_path / "w.csv", tmp_path / "other.csv"
    table.write_text("id,w\n" + "".join(f"{i},{w}\n" for i, w in enumerate(given)))
    run = ["reconstruct", path, "-o", tmp_path / "run", "--loss", "sorted", "--keep", 0.7, "--seed", 1]
    before = mr.reconstruct(path, loss="sorted", keep=0.7, iterations=4, weights=f"{table}:w")
    interrupt(path, tmp_path / "run", f"{table}:w")
    done = cli(*run, "--iterations", 4, "--resume")
    assert done.returncode == 1 and "--weights was" in done.stderr, done.stderr
    shutil.copy(table, other)
    table.write_text("id,w\n" + "".join(f"{i},{min(w, 0.5)}\n" for i, w in enumerate(given)))
    done = cli(*run, "--iterations", 4, "--weights", f"{table}:w", "--resume")
    assert done.returncode == 1 and "made with other weights of the particles than" in done.stderr, done.stderr
    shutil.copy(other, table)
    done = cli(*run, "--iterations", 4, "--weights", f"{table}:w", "--resume")
    assert done.returncode == 0, done.stderr
    assert difference(mr.Result(tmp_path / "run"), before) < 1e-6


def interrupt(path, folder, weights):
    """Leave a run's folder as it is in the third of its iterations, with the checkpoint of the second."""
    from mpirecon.io.run_log import RankLog
    from mpirecon.parallel.console import Console
    from mpirecon.solvers.endurance import Checkpoints, Endurance
    from mpirecon.solvers.run import Reconstruction

    comm = SerialCommunicator()
    folder.mkdir()
    (folder / "unfinished").mkdir()
    config = Config(loss="sorted", keep=0.7, iterations=4, weights=weights, seed=1)
    with ParticleFile(path) as file, RankLog.for_rank(folder / "unfinished" / "logs", comm) as log:
        run = Reconstruction(comm, file, config, log, Console(comm, quiet=True))
        steps = run.iterations(Checkpoints(run, folder, Endurance()))
        for _ in range(3):
            next(steps)


def test_null_takes_weights_too(imported, cli, tmp_path):
    done = cli("null", imported[1], "-o", tmp_path / "null", "--weights", "rlnParticleFigureOfMerit")
    assert done.returncode == 0, done.stderr
    assert (
        json.loads((tmp_path / "null" / "null.json").read_text())["configuration"]["weights"]
        == "rlnParticleFigureOfMerit"
    )


def test_a_file_that_is_no_text_is_called_so(tmp_path):
    name = "half1.mrc"
    (tmp_path / name).write_bytes(b"C  C\x00\x00\x18\x00,weight\n" + bytes(2000))
    particles = mr.simulate(mr.phantom(16, 8.0), 20, tmp_path / "p.h5")
    with pytest.raises(mr.UserError, match=f"{name} is no table of text; expected a CSV file whose first line names"):
        mr.reconstruct(particles, weights=f"{tmp_path / name}:weight")
