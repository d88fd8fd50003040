"""Errors planted on purpose, in simulated and imported particles:
as large and as many as asked for, the truth kept and scored."""

import json

import h5py
import numpy as np
import pytest
from exporting import export, finish
from importing import make, table
from importing import run as run_import
from sources import explicit_ctf
from test_cryosparc import make as make_cs
from test_cryosparc import run as import_cs
from test_import_mpi import same

import mpirecon
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import read_star
from mpirecon.model import Pose
from mpirecon.model.pose import angular_distance
from mpirecon.model.simulated_errors import of_other_hand
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
    np.testing.assert_allclose(double.pose.shift - double.true_shift, 2 * (whole.pose.shift - whole.true_shift),
                               atol=1e-12)


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
    assert (
        f"simulated errors: {count} wrong poses ({100 * count / 60:.1f} %) ({count} in orientation, {count} in offset)"
        in text
    )


def test_groups_are_wrong_together_by_offsets_of_their_own(tmp_path):
    star = make(tmp_path, table(60, rlnTomoParticleName=[f"p{i // 3}" for i in range(60)]))
    found = run_import(star, "--offset-error", 5, "--offset-error-rate", 0.4, "--error-by",
                       "rlnTomoParticleName")[0].metadata()
    by_group = found.planted_offset.reshape(20, 3)
    assert (by_group == by_group[:, :1]).all() and 0 < by_group.mean() < 1
    added = (found.pose.shift - found.true_shift)[found.planted_offset]
    assert len(np.unique(np.round(added, 6), axis=0)) == len(added)


def test_old_names_of_the_options_still_work(tmp_path):
    new = ("--orientation-error-rate", "0.5", "--orientation-error", "10")
    old = ("--error-rate", "0.5", "--error-kind", "small:10")
    for name, words in (("new", new), ("old", old)):
        assert run(["simulate", "--phantom", "--box", "16", "--particles", "30", *words, "-q", "-o",
                    str(tmp_path / f"{name}.h5")]) == 0
    one, other = (ParticleFile(tmp_path / f"{name}.h5").metadata() for name in ("new", "old"))
    np.testing.assert_array_equal(one.pose.quaternion, other.pose.quaternion)
    assert one.pose_error.any()


def test_a_file_of_before_kinds_were_distinguished_is_read_and_scored(tmp_path):
    written(tmp_path / "p.h5", error_rate=0.4, snr=0.5)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["planted_orientation"]
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "out"), "--loss", "sorted", "--keep", "0.6",
                "-q"]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["detection"]
    row, = found["by_kind"]
    assert row["kind"] == "orientation" and row["count"] == found["wrong"]
    assert row["auc"] == pytest.approx(found["auc"]) and row["precision"] == pytest.approx(found["precision"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(offset_error=-1.0), "--offset-error is -1 Å, expected 0 … 50000 Å"),
        (dict(offset_error=float("nan")), "--offset-error nan: expected a number"),
        (dict(offset_error=5.0, offset_error_rate=1.5), "--offset-error-rate is 1.5, expected 0 … 1"),
        (dict(offset_error_rate=0.5), "give the size of the error with --offset-error"),
        (dict(defocus_error=-5.0), "--defocus-error is -5 Å, expected 0"),
        (dict(defocus_error=5.0, defocus_error_kind="uniform"), "--defocus-error-kind is 'uniform', expected "
         "'gaussian' or 'fixed'"),
        (dict(defocus_error_rate=0.5), "give the size of the error with --defocus-error"),
        (dict(inverted_hand_rate=2.0), "--inverted-hand-rate is 2, expected 0 … 1"),
        (dict(duplicate_rate=-0.1), "--duplicate-rate is -0.1, expected 0 … 1"),
        (dict(offset_error=5.0), "give the fraction of particles with --offset-error-rate"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    """Alike from the command line of both commands, and from Python."""
    with pytest.raises(UserError, match=said):
        SimulationSettings(particles=5, **settings)
    with pytest.raises(UserError, match=said):
        ImportOptions(**settings)


def test_a_defocus_error_needs_a_ctf():
    for make_settings in (lambda: SimulationSettings(particles=5, defocus_error=9.0, use_ctf=False),
                          lambda: ImportOptions(defocus_error=9.0, use_ctf=False)):
        with pytest.raises(UserError, match="--defocus-error and --no-ctf exclude each other"):
            make_settings()


# ---------------------------------------------------------------- defocus


@pytest.mark.parametrize("kind", ["gaussian", "fixed"])
def test_defocus_errors_have_the_size_and_fraction_asked_for(kind):
    clean = drawn()
    p = drawn(defocus_error=1000.0, defocus_error_kind=kind, defocus_error_rate=0.3)
    added = p.ctf["defocus_u"] - p.true_defocus[:, 0]
    np.testing.assert_array_equal(p.true_defocus, np.column_stack([clean.ctf["defocus_u"], clean.ctf["defocus_v"]]))
    np.testing.assert_allclose(p.ctf["defocus_v"] - p.true_defocus[:, 1], added, atol=1e-9)
    wrong = np.abs(added) > 0
    np.testing.assert_array_equal(wrong, p.planted_defocus)
    assert abs(wrong.mean() - 0.3) < 0.05 and not p.pose_error.any()
    if kind == "fixed":
        np.testing.assert_allclose(added[wrong], 1000, atol=1e-9)
    else:
        assert added[wrong].std() == pytest.approx(1000,
                                                   rel=4 / np.sqrt(2 * wrong.sum())) and abs(added[wrong].mean()) < 170
    assert drawn(defocus_error=-500.0, defocus_error_kind="fixed").planted_defocus.all()


def test_images_show_the_true_defocus_and_are_multiplied_by_the_given_one(tmp_path):
    """As those of a program that estimated it wrongly."""
    settings = dict(snr=np.inf, particles=5, defocus_error=2000.0)
    clean, data = written(tmp_path / "a.h5", snr=np.inf, particles=5)
    images, spoilt = written(tmp_path / "b.h5", **settings)
    np.testing.assert_array_equal(images, clean)
    multiplied, _ = written(tmp_path / "c.h5", ctf_premultiplied=True, **settings)
    k = np.fft.fftfreq(24, 4.0)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    inside = np.hypot(kx, ky) < 0.499 / 4.0
    for one, other, given, true in zip(images, multiplied, spoilt["ctf"], data["ctf"]):
        expected = explicit_ctf(given, kx, ky) * np.fft.fft2(one)
        np.testing.assert_allclose(np.fft.fft2(other)[inside], expected[inside], atol=1e-4 * np.abs(expected).max())
        assert abs(given["defocus_u"] - true["defocus_u"]) > 1


# ---------------------------------------------------------------- hand


def test_poses_of_the_other_hand_project_the_mirrored_map_to_the_same_images():
    forward = ForwardModel(33, 4.0)  # an odd box has its mirror image on its own voxels
    volume, p = phantom(33), drawn(20)
    other = Pose(of_other_hand(p.pose.quaternion), p.pose.shift)
    there = forward.images(forward.prepare(volume), p.pose, p.ctf)
    mirrored = np.ascontiguousarray(volume[::-1, ::-1, ::-1])
    again = forward.images(forward.prepare(mirrored), other, p.ctf)
    np.testing.assert_allclose(again, there, atol=1e-4 * np.abs(there).max())
    rot, tilt, psi = (other.euler() - p.pose.euler()).T
    turn = np.exp(1j * np.radians(np.stack([rot, tilt, psi])))
    np.testing.assert_allclose(turn, np.array([1, 1, -1])[:, None] * np.ones(20), atol=1e-9)


def test_a_set_of_poses_of_the_other_hand_gives_the_mirrored_map(tmp_path):
    common = dict(particles=300, box=25, snr=5.0)
    written(tmp_path / "right.h5", **common)
    written(tmp_path / "left.h5", **common, inverted_hand_rate=1.0)
    maps = {}
    for name in ("right", "left"):
        assert run(["reconstruct", str(tmp_path / f"{name}.h5"), "-o", str(tmp_path / name), "--loss", "l2", "-q"]) == 0
        maps[name] = read_map(tmp_path / name / "volume.mrc").array
    mirrored = maps["right"][::-1, ::-1, ::-1]
    assert np.corrcoef(maps["left"].ravel(), mirrored.ravel())[0, 1] > 0.999
    assert np.corrcoef(maps["left"].ravel(), maps["right"].ravel())[0, 1] < 0.95
    row, = json.loads((tmp_path / "left" / "summary.json").read_text())["detection"]["by_kind"]
    assert (row["kind"], row["count"], row["weight"], row["auc"]) == ("hand", 300, 1.0, None)
    assert "the map is the mirror image" in (tmp_path / "left" / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- duplicates


def test_duplicates_are_the_same_images_in_the_other_half(tmp_path):
    clean, before = written(tmp_path / "a.h5", snr=0.1, noise_cv=0.2)
    images, data = written(tmp_path / "b.h5", snr=0.1, noise_cv=0.2, duplicate_rate=0.3)
    copy = data["duplicate_of"] >= 0
    assert not copy[:60].any() and copy[60:].all() and 8 < copy.sum() < 30
    np.testing.assert_array_equal(images[:60], clean)
    of = data["duplicate_of"][copy]
    np.testing.assert_array_equal(images[copy], images[of])
    np.testing.assert_allclose(data["quaternion"][:60], before["quaternion"], rtol=1e-14)
    np.testing.assert_allclose(data["quaternion"][copy], data["quaternion"][of], rtol=1e-14)
    for name in ("shift", "ctf", "true_sigma"):
        np.testing.assert_array_equal(data[name][:60], before[name])
        np.testing.assert_array_equal(data[name][copy], data[name][of])
    np.testing.assert_array_equal(data["half"][copy], 3 - data["half"][of])
    np.testing.assert_array_equal(data["family"], np.append(np.arange(60), of))


@pytest.mark.parametrize("link", [False, True])
def test_import_adds_duplicates_behind_their_particles(tmp_path, link):
    star = make(tmp_path, table(60))
    clean = run_import(star)[0]
    file, text = run_import(star, "--duplicate-rate", 0.3, "--overwrite", *["--link"] * link)
    found, m = file.metadata(), len(file)
    copy = np.flatnonzero(found.duplicate_of >= 0)
    assert len(copy) == m - 60 > 5 and f"simulated errors: {len(copy)} added as copies in the other half set" in text
    np.testing.assert_array_equal(found.duplicate_of[copy], copy - 1)
    original = np.setdiff1d(np.arange(m), copy)
    np.testing.assert_array_equal(file.images(original), clean.images(slice(None)))
    np.testing.assert_array_equal(file.images(copy), file.images(copy - 1))
    np.testing.assert_array_equal(found.half[original], clean.halves())
    np.testing.assert_array_equal(found.half[copy], 3 - found.half[copy - 1])
    np.testing.assert_array_equal(file.extra("family")[copy], file.extra("family")[copy - 1])
    names = file.source_column("rlnImageName")
    assert (names[copy] == names[copy - 1]).all() and len(names) == m


def test_duplicates_raise_the_fsc_of_the_half_maps_and_are_reported(tmp_path):
    """Pure noise, so that all agreement is the duplicates';
    the correlation predicted from the weights is the one measured."""
    images, data = written(tmp_path / "p.h5", particles=600, snr=1e-4, duplicate_rate=0.3)
    out = tmp_path / "out"
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(out), "--loss", "l2", "-q"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    row, = summary["detection"]["by_kind"]
    copies = (data["duplicate_of"] >= 0).sum()
    in_half = np.bincount(data["half"])[1:]
    assert row["kind"] == "duplicate" and row["pairs"] == copies == row["count"]
    assert row["shared_noise"] == pytest.approx(copies / np.sqrt(in_half.prod()))
    curve = np.genfromtxt(out / "fsc.csv", delimiter=",", names=True)["fsc_unmasked"]
    assert curve[3:11].mean() == pytest.approx(row["shared_noise"], abs=0.06) and row["shared_noise"] > 0.4
    parted = [text for text in summary["warnings"] if "rows in both half sets" in text]
    assert len(parted) == 1 and f"{copies} of 600 particles" in parted[0] and "duplicates were simulated" in parted[0]
    assert "which inflates the FSC" in (out / "report.html").read_text(encoding="utf-8")


def test_duplicates_and_errors_of_an_import_are_the_same_on_any_number_of_ranks(cli, mpirun, tmp_path):
    star = make(tmp_path, table(40, rlnRandomSubset=None))
    words = ["import", star, "--duplicate-rate", "0.3", "--orientation-error-rate", "0.3", "--offset-error", "4",
             "--defocus-error", "900",
             "--inverted-hand-rate", "0.2"]
    alone = cli(*words, "-o", tmp_path / "alone.h5")
    together = mpirun(3, ["-m", "mpirecon", *words, "-o", tmp_path / "together.h5"])
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    assert together.stdout.replace("together.h5", "alone.h5") == alone.stdout
    assert same(tmp_path / "together.h5", tmp_path / "alone.h5")


# ---------------------------------------------------------------- export


ERRORS = ("--orientation-error-rate", 0.5, "--offset-error", 4, "--offset-error-rate", 0.4, "--defocus-error", 700,
          "--defocus-error-rate", 0.5)


def source_in_pixels(folder):
    return make(folder, table(20, rlnOriginXAngst=None, rlnOriginYAngst=None, rlnOriginX=np.arange(20) * 0.2,
                              rlnOriginY=np.zeros(20)))


@pytest.mark.parametrize("source", [lambda folder: make(folder, table(20)), source_in_pixels, make_cs],
                         ids=["Å", "pixels", "cs"])
def test_an_export_has_the_true_or_the_planted_values_in_the_units_of_the_source(tmp_path, source):
    source = source(tmp_path)
    kind = source.suffix[1:]
    importer = import_cs if kind == "cs" else run_import
    clean = importer(source)[0].metadata()
    file, _ = importer(source, *ERRORS, output=tmp_path / "bad.h5")
    bad = file.metadata()
    m = len(bad)
    flags = {
        name: getattr(bad, name) for name in ("pose_error", "planted_orientation", "planted_offset", "planted_defocus")
    }
    assert all(0 < rows.sum() < m for rows in flags.values())
    folder = finish(file.path, tmp_path / "out", np.ones(m, bool))
    with h5py.File(folder / "particles.h5", "r+") as run_table:
        for name in ("planted_orientation", "planted_offset", "planted_defocus"):
            run_table[name] = flags[name]
    text = export(folder, f"--{kind}", tmp_path / f"original.{kind}")
    count = int(flags["planted_defocus"].sum())
    assert (
        f"{flags['pose_error'].sum()} wrong poses and {count} wrong defoci were simulated: the original ones are "
        "written"
        in text
    )
    text = export(folder, f"--{kind}", tmp_path / f"used.{kind}", "--poses", "used")
    assert f"and {count} simulated wrong defoci are written, as used by the run" in text
    for name, wanted in (("original", clean), ("used", bad)):
        found = importer(tmp_path / f"{name}.{kind}", "--data-dir", tmp_path,
                         output=tmp_path / f"{name}.h5")[0].metadata()
        np.testing.assert_allclose(found.pose.matrices(), wanted.pose.matrices(), atol=1e-6)
        np.testing.assert_allclose(found.pose.shift, wanted.pose.shift, atol=2e-6)
        for field in ("defocus_u", "defocus_v"):
            np.testing.assert_allclose(found.ctf[field], wanted.ctf[field], atol=2e-3)
    if kind == "cs":
        told = np.load(tmp_path / "used.cs")
        np.testing.assert_allclose(told["mpirecon/true_shift_A"], clean.pose.shift, rtol=1e-6)
        np.testing.assert_allclose(told["mpirecon/true_df1_A"], clean.ctf["defocus_u"], rtol=1e-6)
        np.testing.assert_array_equal(told["mpirecon/planted_offset"], flags["planted_offset"])
        return
    told, first = read_star(tmp_path / "used.star")["particles"], read_star(source)["particles"]
    np.testing.assert_allclose(-told["mpireconTrueOriginXAngst"].astype(float), clean.pose.shift[:, 0], atol=1e-9)
    np.testing.assert_allclose(told["mpireconTrueDefocusU"].astype(float), clean.ctf["defocus_u"], atol=1e-6)
    np.testing.assert_array_equal(told["mpireconPlantedDefocus"] == "1", flags["planted_defocus"])
    for labels, rows in ((("rlnAngleRot", "rlnAngleTilt"), "planted_orientation"),
                         (("rlnDefocusU",), "planted_defocus")):
        for label in labels:  # the text of all others is untouched
            np.testing.assert_array_equal(told[label].to_numpy(str) != first[label].to_numpy(str), flags[rows])
    assert "mpireconTrueDefocusU" not in read_star(tmp_path / "original.star")["particles"]


# ---------------------------------------------------------------- from Python


def test_python_takes_the_same_errors_and_keeps_the_flags_of_new_poses(tmp_path):
    errors = dict(error_rate=0.5, offset_error=20.0, inverted_hand_rate=0.3)
    p = mpirecon.simulate(mpirecon.phantom(16, 3.0), 40, snr=1.0, **errors)
    assert {"planted_orientation", "planted_offset", "planted_hand", "true_shift"} <= set(p.truth)
    rows = np.flatnonzero(p.truth["pose_error"])
    found = np.zeros(len(rows), [("id", "i8"), ("quaternion", "f8", 4), ("shift", "f8", 2)])
    found["id"], found["quaternion"], found["shift"] = (
        rows,
        p.truth["true_quaternion"][rows],
        p.truth["true_shift"][rows],
    )
    found["shift"][0] += 30.0  # still wrong, in its offset alone
    now = p.with_poses(found).truth
    assert not (now["planted_orientation"] | now["planted_hand"]).any()
    np.testing.assert_array_equal(np.flatnonzero(now["pose_error"]), rows[:1])
    np.testing.assert_array_equal(np.flatnonzero(now["planted_offset"]), rows[:1])
    star = make(tmp_path, table(40))
    imported = mpirecon.read_star(star, tmp_path, **errors)
    np.testing.assert_array_equal(imported.truth["planted_offset"], p.truth["planted_offset"])
    np.testing.assert_array_equal(imported.truth["planted_hand"], p.truth["planted_hand"])
