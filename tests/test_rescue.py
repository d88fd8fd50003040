"""--poses rescue: particles whose poses were wrong are found again, within a run, and no others are accepted."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.io.relion import read_relion
from mpirecon.model.pose import Pose, angular_distance
from mpirecon.model.pose_state import FOUND, GIVEN, IN_VAIN, NOT_SEARCHED
from mpirecon.model.symmetry import point_group
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.config import Config
from mpirecon.solvers.pose_round import asks_of
from mpirecon.validate.coverage import pile_up

TRUTH = mr.phantom(24, 6.0)
OFFSET = 9.0  # Å, 1.5 pixels


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    path = tmp_path_factory.mktemp("rescue") / "particles.h5"
    return mr.simulate(TRUTH, 400, path, snr=0.7, error_rate=0.3, offset_error=OFFSET / 2, junk_rate=0.1, noise_cv=0.15,
                       seed=2)


@pytest.fixture(scope="module")
def rescued(particles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescued") / "run"
    return mr.reconstruct(particles, folder, loss="posterior", poses="rescue", search_offset=OFFSET,
                          log_particles="last")


def error(particles, q):
    return angular_distance(q, particles.truth["true_quaternion"])


def test_wrong_poses_are_found_again_and_junk_is_not(particles, rescued):
    table, true_shift = rescued.particles, particles.metadata().true_shift
    junk = particles.truth["junk"]
    wrong, found = particles.truth["pose_error"] & ~junk, table["pose_state"] == FOUND
    right = error(particles, table["quaternion"]) < 8
    assert (right & found)[wrong].mean() > 0.9
    assert right[found].mean() > 0.97 and not (found & junk).any()
    assert (table["kept"][found].all() and (table["posterior"][found] >= 0.5).all()
            and (table["weight"][found] > 0).all())
    off = np.hypot(*(table["shift"] - true_shift)[right & found].T)
    assert np.median(off) < 0.25 * OFFSET
    scatter = (table["shift"] - true_shift)[right & found] / table["offset_sigma"][right & found, None]
    assert 0.5 < np.sqrt((scatter**2).mean()) < 2
    assert 0.5 < np.median(error(particles,
                                 table["quaternion"])[right & found] / table["pose_sigma"][right & found]) < 3


def test_states_say_what_became_of_each_pose(particles, rescued):
    table = rescued.particles
    state, given = table["pose_state"], particles.table
    assert (state[table["kept"]] != IN_VAIN).all() and set(state[~table["kept"]]) <= {IN_VAIN, NOT_SEARCHED}
    assert (state == GIVEN).sum() > 200
    # what is less probable than a half is not kept, but counts at the found pose by as much
    counts = (state == IN_VAIN) & np.isfinite(table["pose_sigma"])
    posterior = table["posterior"][counts]
    assert ((posterior >= 0.1) & (posterior < 0.5) & (table["weight"][counts] > 0)).all()
    stayed = (state != FOUND) & ~counts
    np.testing.assert_allclose(table["quaternion"][stayed], given["quaternion"][stayed], rtol=1e-14)
    np.testing.assert_array_equal(table["shift"][stayed], given["shift"][stayed])
    assert np.isfinite(table["search_score"][(state == FOUND) | (state == IN_VAIN)]).all()
    assert np.isnan(table["pose_sigma"][stayed]).all()


def test_standard_deviations_are_as_wide_as_the_control_scatters(particles, rescued, monkeypatch):
    factors = rescued.summary["search"]["control"]["widening"]
    monkeypatch.setattr("mpirecon.solvers.rescue.widening", lambda squared, axes: 3.0 if axes == 3 else 5.0)
    other = mr.reconstruct(particles, loss="posterior", poses="rescue", search_offset=OFFSET)
    assert other.summary["search"]["control"]["widening"] == [3.0, 5.0]
    both = (rescued.particles["pose_state"] == FOUND) & (other.particles["pose_state"] == FOUND)
    for name, factor, wanted in zip(("pose_sigma", "offset_sigma"), factors, (3.0, 5.0)):
        ratio = other.particles[name][both] / rescued.particles[name][both]
        assert np.median(ratio) == pytest.approx(wanted / factor, rel=1e-3)


def test_doubtful_poses_count_by_their_probability(particles):
    """At half the signal there are some."""
    faint = mr.simulate(TRUTH, 400, snr=0.15, error_rate=0.4, offset_error=OFFSET / 2, noise_cv=0.15, seed=3)
    table = mr.reconstruct(faint, loss="posterior", poses="rescue", search_offset=OFFSET).particles
    counts = (table["pose_state"] == IN_VAIN) & np.isfinite(table["pose_sigma"])
    assert counts.sum() > 2 and not table["kept"][counts].any()
    assert (error(faint, table["quaternion"])[counts] < error(faint, faint.table["quaternion"])[counts]).mean() > 0.4
    np.testing.assert_allclose((table["weight"] * table["sigma"]**2)[counts], table["posterior"][counts], rtol=0.02)
    assert (table["posterior"][counts] >= 0.1).all() and (table["posterior"][counts] < 0.5).all()


def test_half_maps_of_rejected_and_of_found_particles_are_compared(rescued):
    records = [record for record in rescued.summary["iterations"] if "search_fsc" in record]
    assert [record["iteration"] for record in records] == [5, 6, 7]
    first, last = records[0]["search_fsc"], records[-1]["search_fsc"]
    assert first["found"] is None and len(last["all"]) == len(last["found"]) == len(last["rejected"]) == 13
    # the same particles, at poses that are wrong and at found ones; shell 1 is the particle's size
    shells = slice(2, 7)
    assert np.mean(last["rejected"][shells]) < 0.3 < 0.8 < np.mean(last["found"][shells]) < np.mean(last["all"][shells])
    report = (rescued.folder / "report.html").read_text()
    assert "rejected, at given poses" in report and f"{np.mean(last['found'][1:]):.3f}" in report


def test_the_map_is_better_than_that_of_rejecting(particles, rescued):
    rejecting = mr.reconstruct(particles, loss="posterior")
    assert rescued.kept.sum() > rejecting.kept.sum() + 60
    gain = mr.fsc(rescued.volume, TRUTH).values[1:].mean() - mr.fsc(rejecting.volume, TRUTH).values[1:].mean()
    assert gain > 0.005
    # the selection at given poses is that of a run that leaves them
    given = rescued.particles["pose_state"] == GIVEN
    assert (given != rejecting.kept).mean() < 0.02


def test_summary_logs_and_records_count_what_the_table_holds(particles, rescued, cli):
    table, search = rescued.particles, rescued.summary["search"]
    junk = particles.truth["junk"]
    wrong, found = particles.truth["pose_error"] & ~junk, table["pose_state"] == FOUND
    assert search["found"] == found.sum() and search["searched"] == (found | (table["pose_state"] == IN_VAIN)).sum()
    off, bad = error(particles, table["quaternion"]), search["planted"]
    assert bad["planted"] == wrong.sum() and bad["planted_accepted"] == (wrong & found).sum()
    assert bad["found_within_5_degrees"] >= (wrong & found & (off < 5)).sum()
    assert bad["accepted_and_wrong"] == (found & (junk | (off > 10))).sum()
    assert search["control"]["came_back"] > 0.9 * search["control"]["searched"] > 30
    assert search["median_angle"] > 20 and search["decoys"] > 50
    records = [record["search"] for record in rescued.iterations if "search" in record]
    assert [record["iteration"] for record in rescued.iterations if "search" in record] == [5, 6]
    assert records[-1] == search
    assert rescued.iterations[-1]["wrong_among_kept"] <= 0.03 * table["kept"].sum()
    events = [json.loads(line) for line in (rescued.folder / "logs" / "rank0000.jsonl").read_text().splitlines()]
    assert [event["search"]["found"] for event in events if event["event"] == "iteration" and "search" in event] == [
        record["found"] for record in records]
    sorts = [event for event in events if event["event"] == "sort"]  # at given poses; what was found counts beside
    assert [sort["kept"] + sort["kept_found"] for sort in sorts] == [
        record["kept"] for record in rescued.iterations if record["iteration"] > 1]
    assert sorts[0]["kept_found"] == 0 < sorts[-1]["kept_found"] == found.sum()
    said = cli("logs", rescued.folder).stdout
    assert "and at found poses" in said and f"{found.sum()} ({100 * found.sum() / len(table):.1f} %)" in said
    told = json.loads(cli("logs", rescued.folder, "--json").stdout)["iterations"][-1]
    assert told["kept"] + told["kept_found"] == rescued.summary["kept"]
    # what was planted is in the given poses: found ones count as rejected there
    assert rescued.detection["recall"] > 0.97


def test_every_count_says_which_pose_it_is_of(particles, rescued):
    summary, table, junk = rescued.summary, rescued.particles, particles.truth["junk"]
    told, found = summary["detection"], table["pose_state"] == FOUND
    off = error(particles, table["quaternion"])
    assert (told["kept"] + told["at_found"] == summary["kept"]
            and told["at_found"] == found.sum() == summary["search"]["found"])
    assert told["found_again"] == (found & ~junk & (off < 5)).sum()
    assert (
        told["accepted_wrong"]
        == (found & (junk | (off > 10))).sum()
        == summary["search"]["planted"]["accepted_and_wrong"]
    )
    for name in ("kept", "at_found", "found_again", "accepted_wrong"):
        assert sum(row[name] for row in told["confusion"]) == told[name]
    page = (rescued.folder / "report.html").read_text()
    for words in ("kept at the given pose", "kept at a found pose", "recovered", "accepted and wrong",
                  "wrong or junk among kept, at the poses used",
                  f"{told['at_found']:,} at poses that were found", "Recovered poses"):
        assert words in page
    views = np.genfromtxt(rescued.folder / "views.csv", delimiter=",", names=True)
    assert views["given"].sum() == len(particles) and views["found"].sum() == found.sum()
    again = summary["found_map"]
    assert abs(again["deficit"]) < 0.1 and not [text for text in rescued.warnings if "found poses agrees" in text]
    assert min(again["between"][1:5]) > 0.8


def test_the_exported_star_makes_the_map_in_relion(particles, rescued, cli, tmp_path):
    result = cli("export", rescued.folder, "--star", tmp_path / "kept.star", "--stack", tmp_path / "kept.mrcs",
                 "--poses", "used")
    assert result.returncode == 0, result.stderr
    table, given = rescued.particles, particles.table
    kept = table["kept"]
    at_given = np.count_nonzero(table["pose_error"].astype(bool) & (table["pose_state"] != FOUND))
    assert f"{at_given} simulated wrong poses are written" in result.stdout
    star = read_relion(tmp_path / "kept.star")
    np.testing.assert_allclose(angular_distance(star.pose.quaternion, table["quaternion"][kept]), 0, atol=1e-4)
    np.testing.assert_allclose(star.pose.shift, table["shift"][kept], atol=1e-6)
    column = {name: star.tables[star.particle_block][name].to_numpy(float) for name in star.tables[star.particle_block]
              if name.startswith("mpirecon")}
    before = Pose.from_euler(*(column[f"mpireconGivenAngle{axis}"] for axis in ("Rot", "Tilt", "Psi")))
    np.testing.assert_allclose(angular_distance(before.quaternion, given["quaternion"][kept]), 0, atol=1e-4)
    np.testing.assert_allclose(-column["mpireconGivenOriginXAngst"], given["shift"][kept, 0], atol=1e-6)
    np.testing.assert_array_equal(column["mpireconPoseState"], table["pose_state"][kept])
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("needs relion_reconstruct")
    done = subprocess.run(["relion_reconstruct", "--i", "kept.star", "--o", "relion.mrc", "--ctf", "--fom_weighting"],
                          cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    both = mr.fsc(mrcfile.read(tmp_path / "relion.mrc"), rescued.volume.to_numpy(), pixel_size=6.0).values
    assert both[1:9].min() > 0.97


def test_ranks_find_the_same(mpirun, tmp_path):
    quarter = mr.phantom(20, 7.0).array
    half = quarter + np.roll(quarter[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    # D2: a quarter of the orientations
    whole = mr.Volume(half + np.roll(half[::-1, :, ::-1], (1, 1), axis=(0, 2)), 7.0)
    particles = mr.simulate(whole, 201, tmp_path / "p.h5", snr=1.0, error_rate=0.3, seed=6)
    options = dict(loss="posterior", poses="rescue", search_offset=0.0, iterations=4, symmetry="D2")
    alone = mr.reconstruct(particles, **options)
    named = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    result = mpirun(2, ["-m", "mpirecon", "reconstruct", particles.path, "-o", tmp_path / "out", *named])
    assert result.returncode == 0, result.stderr
    together = mr.Result(tmp_path / "out")
    table = together.particles
    assert (table["pose_state"] == FOUND).sum() > 30
    np.testing.assert_array_equal(table["pose_state"], alone.particles["pose_state"])
    np.testing.assert_allclose(table["posterior"], alone.particles["posterior"], atol=2e-3)
    assert angular_distance(table["quaternion"], alone.particles["quaternion"]).max() < 0.1
    x, y = together.volume.to_numpy().astype(float), alone.volume.to_numpy()
    assert np.linalg.norm(x - y) <= 1e-3 * np.linalg.norm(y)


def test_errors_of_a_known_size_are_searched_near_the_given_poses():
    particles = mr.simulate(TRUTH, 300, snr=0.7, error_rate=0.3, error_degrees=20, seed=4)
    run = mr.reconstruct(particles, loss="posterior", poses="rescue", search_offset=0, search_sigma=15)
    wrong, table = particles.truth["pose_error"], run.particles
    found = table["pose_state"] == FOUND
    assert found[wrong].mean() > 0.7 and (error(particles, table["quaternion"])[found] < 8).mean() > 0.95
    assert angular_distance(table["quaternion"], particles.table["quaternion"])[found].max() < 75


@pytest.mark.parametrize("limit", [{"search_sigma": 5.0, "search_offset": 0.0}, {"search_sigma": 5.0}])
def test_a_limit_that_does_not_hold_is_warned_of(limit):
    particles = mr.simulate(TRUTH, 300, snr=0.7, error_rate=0.3, seed=4)  # any orientation
    run = mr.reconstruct(particles, loss="posterior", poses="rescue", **limit)
    (told,) = [text for text in run.warnings if "kept ones came back" in text]
    assert "--search-sigma 5" in told and ("--search-offset 0" in told) == ("search_offset" in limit), told


def test_symmetric_premultiplied_images_of_an_odd_box_and_several_optics_groups():
    half = mr.phantom(25, 6.0).array
    both = mr.Volume(half + half[:, ::-1, ::-1], 6.0)
    simulated = mr.simulate(both, 400, snr=1.0, error_rate=0.3, ctf_premultiplied=True, seed=3)
    about = simulated.metadata()
    groups = np.where(np.arange(400) % 3 == 0, 7, 3)
    images = simulated.images() * np.where(groups == 7, 2, 1)[:, None, None].astype(np.float32)
    particles = mr.Particles(images, about.pose, about.ctf, pixel_size=6.0, half=about.half, optics_group=groups,
                             ctf_premultiplied=True)
    run = mr.reconstruct(particles, loss="posterior", poses="rescue", symmetry="C2", search_offset=0,
                         normalise="background")
    wrong, table = simulated.truth["pose_error"], run.particles
    off = point_group("C2").angular_distance(table["quaternion"], simulated.truth["true_quaternion"])
    found = table["pose_state"] == FOUND
    assert (found & (off < 10))[wrong].mean() > 0.8 and (off[found] < 10).mean() > 0.95


def test_noise_makes_no_resolution(particles, cli, tmp_path):
    result = cli("null", particles.path, "-o", tmp_path / "null", "--loss", "posterior", "--poses", "rescue")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "null" / "null.json").read_text())
    assert abs(found["mean_fsc"]) < 0.1
    searches = [record["search"] for record in found["iterations"] if "search" in record]
    assert len(searches) == 2 and all(search["found"] == 0 and search["reason"] for search in searches)


@pytest.mark.parametrize(("options", "message"), [
    ({"loss": "huber"}, "--poses rescue needs the probabilities of --loss posterior; --loss huber gives none"),
    ({"poses": "fixed", "search_offset": 5.0}, "--search-offset applies to --poses rescue"),
    ({"group_by": "rlnTomoParticleName", "poses": "refine"}, "rows of a group .* share one orientation: use --poses "
     "rescue"),
    ({"iterations": 2}, "--iterations 2: --poses rescue searches before the last 2; at least 3"),
    ({"folds": 1}, "--folds 2 or more"),
    ({"search_offset": -1.0}, "--search-offset -1 Å: expected 0 or more"),
    ({"search_sigma": 90.0}, "--search-sigma 90: expected above 0 and at most 60 degrees"),
    ({"space": "real"}, "--space real"),
    ({"poses": "local"}, "--poses local: choose one of fixed, rescue"),
])
def test_what_cannot_be_searched_is_refused(options, message):
    with pytest.raises(mr.UserError, match=message):
        Config(**{"loss": "posterior", "poses": "rescue", **options})


def test_what_these_particles_cannot_be_searched_for_is_refused(particles):
    with pytest.raises(mr.UserError, match="--search-offset 60 Å is beyond a quarter of the box, 36 Å"):
        mr.reconstruct(particles, loss="posterior", poses="rescue", search_offset=60.0)
    few = mr.simulate(TRUTH, 60, snr=1.0)
    with pytest.raises(mr.UserError, match="60 are too few for that; at least 120 are needed"):
        mr.reconstruct(few, loss="posterior", poses="rescue")


def test_found_poses_that_pile_up_in_a_view_are_warned_of():
    rng = np.random.default_rng(0)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    others, even = unit(rng.standard_normal((500, 3))), unit(rng.standard_normal((100, 3)))
    piled = unit(np.array([0, 0, 1]) + 0.05 * rng.standard_normal((40, 3)))
    one, two = np.eye(3)[None], np.stack([np.eye(3), np.diag([-1.0, -1.0, 1.0])])
    assert pile_up(even, others, one) is None and pile_up(even, others, two) is None
    assert "within 15° of one direction" in pile_up(np.concatenate([even, piled]), others, one)
    assert pile_up(piled, np.concatenate([others[:20], piled, piled]), one) is None  # the others see it from there too
    assert pile_up(even[:0], others, one) is None


def test_who_has_a_part_in_a_map_is_compared_with_that_of_other_folds():
    ids, fold, half = np.arange(6), np.array([0, 1, 2, 3, 0, 1]), np.array([1, 1, 1, 2, 2, 2])
    slab = SimpleNamespace(ids=ids, fold=fold, metadata=SimpleNamespace(half=half))
    weight = np.array([0, 1.0, 1e-6, 0.5, 0, 1.0])
    asked, control = ids != 1, ids == 5
    asks = asks_of(SerialCommunicator(), slab, asked, control, weight, np.full(6, 2.0))
    assert asks["id"].tolist() == [0, 2, 3, 4, 5] and asks["fold"].tolist() == [-1, -1, 3, -1, 1]
    assert asks["control"].tolist() == [False] * 4 + [True] and (asks["variance"] == 4).all()
    # where rows show one particle, everybody counts as having a part
    assert asks_of(SerialCommunicator(), slab, asked, control, np.ones(6), np.ones(6))["fold"].tolist() == [
        0,
        2,
        3,
        0,
        1,
    ]
