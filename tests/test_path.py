"""Paths of nested selections: who is in which, what their maps are worth, and what is said of it."""

import csv
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.export_tables import new_tables
from mpirecon.io.mrc import write_stack
from mpirecon.io.log_join import count_iterations, open_logs
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star
from mpirecon.robust.nested import (
    Members,
    checked_fractions,
    default_fractions,
    high_pass_of,
)
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.references import References

COUNT, BOX = 700, 32


def simulate(folder, error_rate, count=COUNT, box=BOX):
    path = folder / "particles.h5"
    assert run(["simulate", "--phantom", "--particles", str(count), "--box", str(box), "--pixel-size", "4", "--snr",
                "0.08", "--noise-cv",
                "0.15", "--error-rate", str(error_rate), "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("wrong"), 0.3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("clean"), 0)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """For what does not depend on how good the maps are."""
    return simulate(tmp_path_factory.mktemp("few"), 0.3, count=200, box=24)


@pytest.fixture(scope="module")
def walked(particles, tmp_path_factory):
    out = tmp_path_factory.mktemp("path") / "out"
    assert run(["path", str(particles), "-o", str(out), "--random-draws", "2", "-q"]) == 0
    return mr.SelectionPath(out)


# what it says


def test_the_best_step_is_the_fraction_of_correct_particles(walked, particles):
    correct = 1 - ParticleFile(particles).metadata().pose_error.mean()
    assert abs(walked.best - correct) <= 0.1 and abs(walked.verdict["best_resolution"] - correct) <= 0.1
    assert walked.pays and walked.sentence.startswith(f"It pays to keep the best-scored {100 * walked.best:.3g} %")
    assert walked.verdict["gain"] > walked.verdict["limit"] > 0
    wrong = [step["wrong_share"] for step in walked.summary["steps"]]
    assert wrong[0] == pytest.approx(1 - correct) and wrong[-1] < 0.02 and (np.diff(wrong) <= 0.01).all()


@pytest.mark.parametrize("schedule", ["once", "rescore", "sieve"])
def test_on_a_clean_set_nothing_is_gained(clean, schedule):
    options = {"loss": "l2"} if schedule == "once" else {}
    found = mr.path(clean, schedule=schedule, steps=(0.9, 0.8, 0.6, 0.4), null=False, **options)
    assert not found.pays and found.sentence.startswith("Nothing is gained")


@pytest.mark.parametrize("schedule", ["rescore", "sieve"])
def test_particles_scored_anew_leave_out_the_wrong_ones(particles, schedule):
    found = mr.path(particles, schedule=schedule, steps=(0.9, 0.8, 0.7, 0.6), null=False)
    assert found.pays and found.best in (0.6, 0.7, 0.8)
    wrong = ParticleFile(particles).metadata().pose_error
    assert wrong[found.kept(0.7)].mean() < (0.05 if schedule == "rescore" else 0.12)


def test_the_best_resolution_of_a_sieve_is_no_smaller_selection(particles):
    """It looks at high frequencies alone, and the place where single curves cross 0.143 draws it to half of the correct
    ones."""
    found = mr.path(particles, schedule="sieve", steps=(0.8, 0.64, 0.512, 0.41, 0.328), null=False)
    assert found.verdict["best_resolution"] in (0.8, 0.64,
                                                0.512) and found.summary["steps"][0]["resolution_fitted"] is not None


# tables, weights, a mask of their own


def test_a_table_is_walked_as_the_particle_file_made_of_it(few, tmp_path, capsys):
    star = tmp_path / "set.star"
    with ParticleFile(few) as file:
        particles = file.metadata()
        with write_stack(tmp_path / "set.mrcs", file.box, file.pixel_size, overwrite=False) as append:
            append(file.images(slice(None)))
    tables = new_tables(particles, particles.pose, [f"{i + 1:06d}@set.mrcs" for i in range(len(particles.half))])
    write_star(star, tables, overwrite=False)
    words = ["--loss", "l2", "--steps", "0.8,0.6", "--no-null", "--deterministic"]
    assert run(["path", str(star), "-o", str(tmp_path / "out"), "--select", "row=0:149", *words]) == 0
    said = capsys.readouterr().out
    assert "150 particles" in said and "linked.h5" in {entry.name for entry in (tmp_path / "out").iterdir()}
    found = mr.SelectionPath(tmp_path / "out")
    assert found.summary["particles"]["file"].endswith("linked.h5") and len(found.particles) == 150
    again = mr.path(star, loss="l2", steps=(0.8, 0.6), null=False, deterministic=True, select=["row=0:149"])
    assert (again.particles["kept_to"] == found.particles["kept_to"]).all()
    assert run(["export", str(tmp_path / "out"), "--star", str(tmp_path / "kept.star")]) == 0
    assert run(["path", str(few), "-o", str(tmp_path / "no"), "--pixel-size", "3"]) == 1
    assert "--pixel-size" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_weights_are_those_of_all_maps_and_0_is_not_being_there(few, tmp_path):
    count = len(ParticleFile(few))
    weight = np.where(np.arange(count) % 9 == 0, 0.0, 1.0)
    found = mr.path(few, loss="l2", steps=(0.7,), weights=weight)
    assert found.summary["weights"]["zero"] == (weight == 0).sum() and found.summary["null"]["passed"]
    assert found.summary["steps"][0]["particles"] == (weight > 0).sum() and not found.kept(1.0)[weight == 0].any()
    np.testing.assert_array_equal(found.particles["given_weight"], weight)
    double = mr.path(few, loss="l2", steps=(0.7,), null=False, weights=np.where(np.arange(count) % 2, 5.0, 0.5))
    plain = mr.path(few, loss="l2", steps=(0.7,), null=False)
    assert abs(double.summary["steps"][0]["mean_fsc"] - plain.summary["steps"][0]["mean_fsc"]) > 1e-4
    assert double.summary["steps"][0]["particles"] == count
    (tmp_path / "w.csv").write_text("id,w\n" + "".join(f"{row},{value}\n" for row, value in enumerate(weight)))
    assert run(["path", str(few), "-o", str(tmp_path / "out"), "--loss", "l2", "--steps", "0.7", "--no-null",
                "--weights", f"{tmp_path / 'w.csv'}:w", "-q"]) == 0
    assert (mr.SelectionPath(tmp_path / "out").kept(1.0) == found.kept(1.0)).all()


def test_an_automatic_mask_is_of_all_particles_and_for_all_steps(particles, tmp_path):
    found = mr.path(particles, tmp_path / "out", loss="l2", steps=(0.7,), null=False, mask="auto")
    mask = mr.read_map(tmp_path / "out" / "mask.mrc").array
    assert (0.01 < mask.mean() < 0.5 and found.summary["mask"] == str(found.summary["mask"])
            and "automatic" in found.summary["mask"])
    from mpirecon.validate.fsc import fsc

    best = found.summary["steps"][[s["fraction"] for s in found.summary["steps"]].index(found.best)]
    np.testing.assert_allclose(fsc(*(half.array for half in found.half_maps), mask), best["fsc"], atol=2e-3)
    sphere = mr.path(particles, loss="l2", steps=(0.7,), null=False)
    assert found.summary["steps"][0]["mean_fsc"] > sphere.summary["steps"][0]["mean_fsc"] + 0.02  # less solvent
    assert (found.particles["kept_to"] == sphere.particles["kept_to"]).all()  # it scores nobody


# who is in which


def test_selections_are_nested_and_cut_each_half_by_itself(walked, particles):
    half, before = ParticleFile(particles).halves(), np.ones(COUNT, bool)
    for step in walked.summary["steps"]:
        kept = walked.kept(step["fraction"])
        assert not (kept & ~before).any() and kept.sum() == step["particles"]
        for which in (1, 2):
            assert (kept & (half == which)).sum() == round(step["fraction"] * (half == which).sum())
        before = kept
    with pytest.raises(UserError, match="0.55 is no step"):
        walked.kept(0.55)


def test_the_best_scored_are_those_of_the_smallest_distances(walked):
    table = walked.particles
    for half in (1, 2):
        mine = table["half"] == half
        kept = walked.kept(0.4)
        assert table["distance"][mine & kept].max() <= table["distance"][mine & ~kept].min()


def test_members_against_a_plain_definition():
    rng = np.random.default_rng(3)
    m = 400
    half, valid = rng.integers(1, 3, m).astype(np.uint8), rng.random(m) > 0.1
    members, distance = Members(half, valid, np.arange(m)), rng.normal(size=m)
    within = members.best(distance, 0.8, valid)
    kept = members.best(distance[::-1].copy(), 0.5, within)
    for which in (1, 2):
        pool = [i for i in range(m) if within[i] and valid[i] and half[i] == which]
        count = round(0.5 * sum(valid[i] and half[i] == which for i in range(m)))
        assert set(np.flatnonzero(kept & (half == which))) == set(sorted(pool, key=lambda i: distance[::-1][i])[:count])
    lots = [members.at_random(q, 1, draw) for q in (0.8, 0.5) for draw in (0, 1)]
    assert [lot.sum() for lot in lots] == [within.sum()] * 2 + [kept.sum()] * 2 and not (lots[0] & ~valid).any()
    assert (lots[0] != lots[1]).any() and (lots[2] & ~lots[0]).any()  # draws of their own, not nested in each other


def test_rows_of_one_unit_are_kept_together():
    unit, half = np.repeat(np.arange(100), 3), np.repeat(np.tile([1, 2], 50), 3)
    distance = np.random.default_rng(0).normal(size=300)
    members = Members(half, np.ones(300, bool), unit)
    for kept in (members.best(distance, 0.6, np.ones(300, bool)), members.at_random(0.6, 1, 0)):
        assert kept.sum() == 180 and (kept.reshape(100, 3).std(axis=1) == 0).all()
    best = members.best(distance, 0.6, np.ones(300, bool)).reshape(100, 3)[:, 0]
    mean = distance.reshape(100, 3).mean(axis=1)
    assert mean[best][::1].size == 60 and mean[::2][best[::2]].max() <= mean[::2][~best[::2]].min()


def test_fractions_and_high_pass_of_a_sieve_are_cryosieves():
    assert default_fractions("once") == pytest.approx(np.arange(10, 0, -1) / 10)
    assert default_fractions("sieve")[-1] == pytest.approx(0.107, abs=5e-4) and len(default_fractions("sieve")) == 11
    inverse = [1 / high_pass_of(k, 10, (50, 3)) for k in range(10)]
    assert (inverse[0] == pytest.approx(1 / 50) and inverse[-1] == pytest.approx(1 / 3)
            and np.ptp(np.diff(inverse)) < 1e-12)
    assert checked_fractions([0.5, 0.9]) == (1.0, 0.9, 0.5)


def test_a_sieve_scores_above_its_high_pass(particles, monkeypatch):
    shells, statistics = [], Engine.statistics

    def watched(engine, maps, bands, *args, **options):
        used = engine.backend.plane.shell[bands.band >= 0]
        shells.append((used.min(), used.max()))
        return statistics(engine, maps, bands, *args, **options)

    monkeypatch.setattr(Engine, "statistics", watched)
    mr.path(particles, schedule="sieve", high_pass=(64, 16), steps=(0.9, 0.8, 0.7, 0.6), null=False)
    assert [low for low, _ in shells] == [2, 4, 6, 8]  # linear in 1/Å, of 128 Å a side
    assert {high for _, high in shells} == {BOX // 2}


# the maps of a step


def test_a_step_is_the_l2_reconstruction_of_its_particles(walked, particles):
    for fraction in (1.0, 0.6):
        alone = mr.reconstruct(particles, loss="l2", start_weights=walked.kept(fraction).astype(float),
                               postprocess=False)
        np.testing.assert_allclose(walked.fsc(fraction).values, alone.fsc.values, atol=2e-3)
    best = mr.reconstruct(particles, loss="l2", start_weights=walked.kept().astype(float), postprocess=False)
    for ours, theirs in zip((walked.volume, *walked.half_maps), (best.volume, *best.half_maps)):
        assert mr.fsc(ours, theirs).values[1:14].min() > 0.999


def test_fsc_to_all_is_that_of_the_mean_half_maps(walked):
    steps = walked.summary["steps"]
    assert steps[0]["fsc_to_all"] == pytest.approx(1, abs=1e-6)
    values = [step["fsc_to_all"] for step in steps]
    assert (np.diff(values) < 0).all() and 0.3 < values[-1] < 0.9


# scores that leak, and noise


@pytest.mark.parametrize("schedule", ["once", "rescore", "sieve"])
def test_no_particle_is_scored_by_a_map_that_it_built(few, schedule, monkeypatch):
    """Of all scores only those against the other folds of the own half set are used:
    the others are made nonsense here."""
    options = {"loss": "l2"} if schedule == "once" else {}
    found = mr.path(few, schedule=schedule, steps=(0.8, 0.6), null=False, deterministic=True, **options)
    compare = References.compare

    def spoilt(references, wanted, batch, *args, **more):
        values = compare(references, wanted, batch, *args, **more)
        held_out = [made_of.without is not None and len(made_of.halves) == 1 for made_of in wanted]
        return [value if honest else np.full_like(value, 1.0) for value, honest in zip(values, held_out)]

    monkeypatch.setattr(References, "compare", spoilt)
    again = mr.path(few, schedule=schedule, steps=(0.8, 0.6), null=False, deterministic=True, **options)
    assert (found.particles["kept_to"] == again.particles["kept_to"]).all()


def test_noise_gets_no_resolution_and_a_leak_is_reported(walked, particles, tmp_path, monkeypatch, capsys):
    null = walked.summary["null"]
    assert null["passed"] and len(null["steps"]) == 10 and not walked.warnings
    assert max(abs(step["mean_fsc"]) for step in null["steps"]) <= null["steps"][0]["limit"]
    statistics = Engine.statistics

    def leak(engine, maps, bands, rows=None, **options):  # against the other half's map, as without folds
        engine = replace(engine, folds=1)  # it is frozen
        groups = engine.slab.groups
        engine.slab.fold, fold = np.zeros_like(engine.slab.fold), engine.slab.fold
        try:
            return statistics(engine, maps, bands, rows, in_sample=False)
        finally:
            engine.slab.groups, engine.slab.fold = groups, fold

    monkeypatch.setattr(Engine, "statistics", leak)
    monkeypatch.setattr("mpirecon.solvers.base.Solver.focus_references", lambda solver: None)
    out = tmp_path / "leak"
    assert run(["path", str(particles), "-o", str(out), "--schedule", "rescore", "--steps", "0.7,0.35,0.15",
                "-q"]) == 0
    found = json.loads((out / "summary.json").read_text())
    assert not found["null"]["passed"] and "makes resolution out of nothing" in found["warnings"][0]
    assert "makes resolution out of nothing" in capsys.readouterr().err


def test_scores_need_folds(few, tmp_path, capsys):
    assert run(["path", str(few), "-o", str(tmp_path / "out"), "--folds", "1"]) == 1
    assert "maps that they built" in capsys.readouterr().err and not (tmp_path / "out").exists()


# files


def test_what_a_path_leaves(walked):
    names = {"summary.json", "path.csv", "fsc.csv", "views.csv", "volume.mrc", "half1.mrc", "half2.mrc", "particles.h5",
             "report.html", "logs"}
    assert {entry.name for entry in walked.folder.iterdir()} == names
    with open(walked.folder / "path.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["score"] * 10 + ["random"] * 18
    for row, step in zip(rows, [*walked.summary["steps"], *walked.summary["random"]]):
        assert float(row["mean_fsc"]) == pytest.approx(step["mean_fsc"], rel=1e-5)
        assert int(row["particles"]) == step["particles"]
    sizes = {row["fraction"]: row["particles"] for row in rows if row["chosen"] == "score"}
    assert all(sizes[row["fraction"]] == row["particles"] for row in rows)
    assert len(walked.table) == 28 and walked.table["resolution_0143"][0] == pytest.approx(
        walked.summary["steps"][0]["resolution_0143"], rel=1e-5
    )
    with h5py.File(walked.folder / "particles.h5") as file:
        assert (file["kept"][:].astype(bool) == walked.kept()).all() and (file["weight"][:] == file["kept"][:]).all()
    assert len(walked.plot().axes) == 4


def test_sorts_on_noise_are_not_counted_among_the_paths_own(walked, particles):
    counts = count_iterations(open_logs(walked.folder))
    wrong = int(ParticleFile(particles).metadata().pose_error.sum())
    assert {(c.part, c.sorted, c.wrong) for c in counts} == {(None, COUNT, wrong), ("noise", COUNT, None)}


def test_the_page_stands_alone_and_is_written_anew(walked, capsys):
    page = walked.report.read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "") and walked.sentence in page
    for title in ("Resolution", "FSC to the map of all particles", "Directions", "The same on pure noise",
                  "Steps and random discards"):
        assert f"<h2>{title}</h2>" in page
    assert walked.summary["null"]["sentence"] in page
    assert run(["report", str(walked.folder)]) == 0
    assert walked.report.read_text() == page


def test_each_step_can_be_exported_and_imported(walked, tmp_path, capsys):
    out, star = str(walked.folder), str(tmp_path / "all.star")
    assert run(["export", out, "--step", "1", "--star", star, "--stack", str(tmp_path / "all.mrcs")]) == 0
    assert run(["import", star, "--select", "mpireconKeptTo=:0.5", "-o", str(tmp_path / "half.h5")]) == 0
    assert len(ParticleFile(tmp_path / "half.h5")) == walked.kept(0.5).sum()
    with ParticleFile(tmp_path / "half.h5") as file, ParticleFile(walked.summary["particles"]["file"]) as all_of_them:
        np.testing.assert_allclose(file.images(slice(None)), all_of_them.images(np.flatnonzero(walked.kept(0.5))),
                                   rtol=1e-6)
    assert run(["export", out, "--star", str(tmp_path / "best.star"), "--discarded", str(tmp_path / "rest.star"),
                "--stack",
                str(tmp_path / "some.mrcs")]) == 0
    assert f"best.star: {walked.kept().sum()} of {COUNT} particles" in capsys.readouterr().out
    assert run(["export", out, "--step", "0.55", "--star", str(tmp_path / "no.star"), "--stack",
                str(tmp_path / "no.mrcs")]) == 1
    assert "has the steps 1, 0.9, 0.8" in capsys.readouterr().err
