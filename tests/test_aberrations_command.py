"""``mpirecon aberrations``: planted aberrations of either sign are told from the images,
and never from the map's own noise."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_cryosparc import columns, save_cs
from test_weights import star_file

import mpirecon as mr
from mpirecon.cli import run as mpirecon
from mpirecon.cli.aberrations import command
from mpirecon.parallel.console import Console
from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.io.star import read_star, write_star
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.aberrations import Aberrations, even_order, odd_order, tilt_coefficients, zernike_sum
from mpirecon.model.pose_state import FOUND, REFINED
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.phantom import phantom
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.phases import import_again, run_phases
from mpirecon.validate.found_aberrations import (
    ABSENT, MIXED, OTHER, RIGHT, UNDETERMINED, WRONG_SIGN, FoundAberrations,
)  # fmt: skip
from mpirecon.validate.fsc import fsc
from mpirecon.validate.phase_fit import even_basis, even_zernike, odd_basis, odd_zernike

BOX, PIXEL_SIZE, M = 40, 3.0, 800
TILT = np.array([[4.0, -2.0], [-3.0, 1.0]])


def planted():
    """Two groups: about a radian of each at 6.5 Å, and a magnification in the second."""
    odd = tilt_coefficients(TILT, np.full(2, 2.7), np.full(2, 300.0))
    odd[:, 5] += [120, -150]
    odd[:, 2] += [60, 40]
    even = np.zeros((2, 9))
    even[:, 8], even[:, 4] = [900, -700], [300, 500]
    matrix = np.array([np.eye(2), [[1.02, 0.01], [0.0, 0.98]]])
    return Aberrations(np.array([1, 2]), matrix, odd, even, np.zeros((2, 0)))


def particles():
    rng = np.random.default_rng(0)
    q = [random_quaternion(particle_rng(0, i, "aberrations command")) for i in range(M)]
    u = rng.uniform(6000, 20000, M)
    ctf = make_ctf(M, voltage_kv=300, defocus_u=u, defocus_v=u - 500, astigmatism=rng.uniform(-3, 3, M), cs_mm=2.7,
                   amplitude_contrast=0.1)
    group = (1 + np.arange(M) % 2).astype(np.int32)
    return ParticleSet(BOX, PIXEL_SIZE, Pose(q, rng.normal(0, 3, (M, 2))), ctf,
                       (1 + np.arange(M) // 2 % 2).astype(np.uint8), group)


@pytest.fixture(scope="module")
def images():
    p, true = particles(), planted()
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=true)
    clean = model.images(model.prepare(phantom(BOX).astype(np.float32)), p.pose, p.ctf, p.optics_group)
    noise = np.random.default_rng(1).normal(0, clean.std() / np.sqrt(0.3), clean.shape)
    return (clean + noise).astype(np.float32)


def reconstruct(folder, images, known, premultiplied=False, **changes):
    """A run in folder/run of these images, whose particle file says `known` of the optics."""
    p = replace(particles(), ctf_premultiplied=premultiplied, **changes)
    with ParticleWriter(folder / "p.h5", M, BOX, PIXEL_SIZE, overwrite=True, ctf_premultiplied=premultiplied) as writer:
        writer.write_images(0, images)
        writer.write_metadata(p)
        writer.write_optics(known)
    assert mpirecon(["reconstruct", str(folder / "p.h5"), "-o", str(folder / "run"), "-q", "--overwrite",
                     "--no-postprocess"]) == 0
    return folder / "run"


def tell(*args):
    result = CliRunner().invoke(command, [*map(str, args), "--json"], standalone_mode=False)
    if result.exception:
        raise result.exception
    return json.loads(result.stdout), result.return_value


def test_each_sign_is_reported(tmp_path, images):
    true = planted()
    known = replace(true, odd=true.odd * [[1, 1, -1, 1, 1, -1]], even=true.even * [[1.0], [-1.0]])
    found, code = tell(reconstruct(tmp_path, images, known))
    terms = found["terms"]
    assert code == 1 and terms["beam tilt"]["verdict"] == RIGHT and terms["trefoil"]["verdict"] == WRONG_SIGN
    for name, expected in (("beam tilt", 1), ("trefoil", -1)):
        assert abs(terms[name]["coefficient"] - expected) < 4 * terms[name]["error"] < 0.8
    for group, sign, tilt in zip(found["groups"], (1, -1), TILT):  # groups are told one by one
        by_name = {term["name"]: term for term in group["terms"]}
        assert by_name["tetrafoil"]["coefficient"] == pytest.approx(sign, abs=0.35)
        np.testing.assert_allclose(by_name["beam tilt"]["found"], tilt, atol=4 * by_name["beam tilt"]["error"])
        assert by_name["beam tilt"]["imported"] == pytest.approx(tilt.tolist(),
                                                                 rel=1e-6) and by_name["beam tilt"]["error"] < 0.6
    assert terms["tetrafoil"]["verdict"] == MIXED
    assert "tetrafoil: in optics group 2 what was imported has the wrong sign" in found["sentences"]
    assert "rlnOddZernike" in found["advice"][0]


def test_what_the_file_does_not_name_is_found_and_all_wrong_is_reported(tmp_path, images):
    true = planted()
    none = replace(true, odd=true.odd[:, :0], even=true.even[:, :0])
    found, code = tell(reconstruct(tmp_path, images, none))
    assert code == 0 and not found["terms"]
    for name in ("beam tilt", "trefoil", "tetrafoil"):
        assert f"{name}: in the images of optics groups 1, 2, where none was imported" in found["sentences"]
    assert not [text for text in found["sentences"] if "spherical" in text or "two-fold" in text]
    wrong = replace(true, odd=-true.odd, even=-true.even)
    folder = reconstruct(tmp_path, images, wrong)
    found, code = tell(folder)
    assert code == 1 and {term["verdict"] for term in found["terms"].values()} == {WRONG_SIGN}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["particles"]["optics"][0] == "odd aberrations (beam tilt, trefoil …) in 2 of 2 optics groups"
    assert "<dt>optics</dt><dd>odd aberrations" in (folder / "report.html").read_text()
    text = CliRunner().invoke(command, [str(folder)], standalone_mode=False).output
    assert "beam tilt as imported has the wrong sign: coefficient -" in text and "→ correct rlnBeamTiltX" in text


def test_noise_confirms_nothing(tmp_path):
    """A map of the own half holds the particle's noise, turned as the file says:
    compared with that, noise would agree."""
    noise = np.random.default_rng(2).normal(0, 1, (M, BOX, BOX)).astype(np.float32)
    folder = reconstruct(tmp_path, noise, planted())
    with pytest.raises(UserError, match="half maps of this run agree .*--band"):
        tell(folder)
    found, _ = tell(folder, "--band", "60:7")
    assert {term["verdict"] for term in found["terms"].values()} <= {UNDETERMINED, ABSENT}


def test_errors_are_what_they_say(tmp_path):
    """What is found where there is nothing, over its error, has a variance of 1."""
    p, true = particles(), planted()
    none = replace(true, odd=true.odd[:, :0], even=true.even[:, :0])
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=none)
    clean = model.images(model.prepare(phantom(BOX).astype(np.float32)), p.pose, p.ctf, p.optics_group)
    pulls = []
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(0, clean.std() / np.sqrt(0.05), clean.shape)
        found, _ = tell(reconstruct(tmp_path, (clean + noise).astype(np.float32), none))
        for term in (term for group in found["groups"] for term in group["terms"]):
            pulls += (np.array(term["found"]) / term["error"]).tolist()
            assert term["determined"] and term["significance"] < 4
    assert len(pulls) == 6 * 2 * 9 and 0.75 < np.std(pulls) < 1.25 and abs(np.mean(pulls)) < 0.35


def test_a_handful_of_images_shows_nothing(tmp_path, shared_data):
    """17 real images in two optics groups: fits of nine numbers to so little must not find aberrations."""
    star = shared_data / "aspire_real" / "sample_particles_relion31.star"
    assert mpirecon(["import", str(star), "-o", str(tmp_path / "p.h5"), "--rescale", "64:4.4", "-q"]) == 0
    assert mpirecon(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "run"), "-q", "--no-postprocess"]) == 0
    found, code = tell(tmp_path / "run")
    assert code == 0 and found["sentences"] == ["none were imported, and the images show none beyond the errors above"]


def relion(*command):
    """Run a program of RELION; what it prints, and that it cannot draw its log as PDF, is of no interest."""
    subprocess.run(list(map(str, command)), capture_output=True, timeout=200)


@pytest.mark.skipif(shutil.which("relion_ctf_refine") is None, reason="needs relion_ctf_refine (package relion)")
def test_ctf_refine_finds_the_same(tmp_path, monkeypatch):
    """RELION's CtfRefine on the same images and half maps: tilt, trefoil and tetrafoil within twice our errors."""
    monkeypatch.chdir(tmp_path)
    p, true = particles(), replace(planted(), magnification=np.tile(np.eye(2), (2, 1, 1)))
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=true)
    clean = model.images(model.prepare(phantom(BOX).astype(np.float32)), p.pose, p.ctf, p.optics_group)
    noise = np.random.default_rng(1).normal(0, clean.std() / np.sqrt(0.3), clean.shape)
    with write_stack("s.mrcs", BOX, PIXEL_SIZE, overwrite=True) as append:
        append((clean + noise).astype(np.float32))
    optics = {"rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["a", "b"], "rlnVoltage": 300,
              "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_SIZE, "rlnImageSize": BOX,
              "rlnImageDimensionality": 2}
    rows = {"rlnImageName": [f"{i + 1:06d}@s.mrcs" for i in range(M)],
            "rlnMicrographName": [f"{group}_{i // 100}.mrc" for i, group in enumerate(p.optics_group)],
            **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), p.pose.euler().T)),
            "rlnOriginXAngst": -p.pose.shift[:, 0], "rlnOriginYAngst": -p.pose.shift[:, 1],
            "rlnDefocusU": p.ctf["defocus_u"],
            "rlnDefocusV": p.ctf["defocus_v"], "rlnDefocusAngle": np.degrees(p.ctf["astigmatism"]),
            "rlnOpticsGroup": p.optics_group, "rlnRandomSubset": p.half}
    tables = {"optics": pd.DataFrame(optics).astype(str), "particles": pd.DataFrame(rows).astype(str)}
    write_star("p.star", tables, overwrite=True)
    assert mpirecon(["import", "p.star", "-o", "p.h5", "-q"]) == 0
    assert mpirecon(["reconstruct", "p.h5", "-o", "run", "-q"]) == 0
    found, _ = tell("run", "--star", "ours.star")
    halves = [f"x_half{half}_class001_unfil.mrc" for half in (1, 2)]
    for half, name in enumerate(halves, 1):
        shutil.copy(f"run/half{half}.mrc", name)
    relion("relion_postprocess", "--i", halves[0], "--o", "post", "--angpix", PIXEL_SIZE, "--mask", "run/mask.mrc")
    os.mkdir("theirs")
    relion("relion_ctf_refine", "--i", "p.star", "--f", "post.star", "--o", "theirs/", "--m1", halves[0], "--m2",
           halves[1],
           "--mask", "run/mask.mrc", "--angpix_ref", PIXEL_SIZE, "--fit_beamtilt", "--odd_aberr_max_n", 3,
           "--kmin_tilt", 30,
           "--fit_aberr", "--kmin_aberr", 30)
    theirs, ours = (read_star(name)["optics"] for name in ("theirs/particles_ctf_refine.star", "ours.star"))
    for row, group in enumerate(found["groups"]):
        by_name = {term["name"]: term for term in group["terms"]}
        tilt = by_name["beam tilt"]
        np.testing.assert_allclose(theirs[["rlnBeamTiltX", "rlnBeamTiltY"]].iloc[row].astype(float), tilt["found"],
                                   atol=2 * tilt["error"])
        for label, name, at in (("rlnOddZernike", "trefoil", [5, 2]), ("rlnEvenZernike", "tetrafoil", [8, 4])):
            both = [np.array(json.loads(table[label].iloc[row]))[at] for table in (theirs, ours)]
            np.testing.assert_allclose(both[0], both[1], atol=2 * by_name[name]["error"])
            np.testing.assert_allclose(both[1], by_name[name]["found"], rtol=1e-6)
    # what CtfRefine wrote is read, and what is written of it RELION reads
    assert mpirecon(["import", "theirs/particles_ctf_refine.star", "--data-dir", ".", "-o", "p.h5", "--overwrite",
                     "-q"]) == 0
    assert mpirecon(["reconstruct", "p.h5", "-o", "run", "--overwrite", "-q", "--no-postprocess"]) == 0
    found, code = tell("run", "--star", "again.star")
    assert code == 0 and {found["terms"][name]["verdict"] for name in ("beam tilt", "trefoil", "tetrafoil")} == {RIGHT}
    relion("relion_reconstruct", "--i", "again.star", "--o", "again.mrc", "--ctf", "--angpix", PIXEL_SIZE)
    agreement = fsc(read_map("again.mrc").array, read_map("run/volume.mrc").array)
    assert agreement[2 : BOX // 3].min() > 0.95


def test_premultiplied_images_show_the_odd_ones(tmp_path, images):
    p, true = particles(), planted()
    images = multiply_by_ctf(images, p.ctf, PIXEL_SIZE, true, p.optics_group)
    found, _ = tell(reconstruct(tmp_path, images, replace(true, odd=-true.odd), premultiplied=True))
    assert set(found["terms"]) == {"beam tilt", "trefoil"}
    assert {term["verdict"] for term in found["terms"].values()} == {WRONG_SIGN}


def test_ranks_agree(tmp_path, images, mpirun):
    folder = reconstruct(tmp_path, images, planted())
    ours, _ = tell(folder)
    done = mpirun(2, ["-m", "mpirecon", "aberrations", folder, "--json"])
    assert done.returncode == 0
    theirs = json.loads(done.stdout)
    for name, term in ours["terms"].items():
        assert theirs["terms"][name]["coefficient"] == pytest.approx(term["coefficient"], abs=1e-3)


def test_a_cryosparc_file_whose_signs_are_reported_by_its_images(tmp_path, capsys):
    """Images as cryoSPARC's own code would have them:
    the other sign is found out, and what is then advised is right."""
    p, rows = particles(), {"ctf/tilt_A": (80000.0, -30000.0), "ctf/trefoil_A": (90000.0, 60000.0)}
    turned = Pose(p.pose.quaternion * [1, -1, -1, -1], p.pose.shift).rotation_vectors()  # .cs files hold the transpose
    found = columns(M, alignments3D__pose=turned.astype("f4"),
                    alignments3D__shift=(-p.pose.shift / PIXEL_SIZE).astype("f4"),
                    alignments3D__psize_A=np.full(M, PIXEL_SIZE, "f4"), alignments3D__split=(p.half - 1).astype("u4"))
    found |= {"ctf/phase_shift_rad": np.zeros(M, "f4"), "ctf/bfactor": np.zeros(M, "f4"), "ctf/scale": np.ones(M, "f4")}
    found |= {"ctf/df1_A": p.ctf["defocus_u"], "ctf/df2_A": p.ctf["defocus_v"],
              "ctf/df_angle_rad": p.ctf["astigmatism"]}
    found |= {"ctf/exp_group_id": np.zeros(M, "u4"), "blob/psize_A": np.full(M, PIXEL_SIZE, "f4")}
    found |= {"blob/shape": np.full((M, 2), BOX, "u4"), "blob/path": np.array([b"a.mrcs"] * M)}
    found |= {name: np.tile(np.array(values, "f4"), (M, 1)) for name, values in rows.items()}
    save_cs(tmp_path / "p.cs", found)
    for round_, choice in enumerate(("all", "csparc2star", "all")):
        if round_ == 1:  # the first import told what lens these columns are
            with ParticleFile(tmp_path / "p.h5") as file:
                told, model = file.metadata(), ForwardModel(BOX, PIXEL_SIZE, aberrations=file.aberrations())
            clean = model.images(model.prepare(phantom(BOX).astype(np.float32)), told.pose, told.ctf, told.optics_group)
            images = clean + np.random.default_rng(1).normal(0, clean.std() / np.sqrt(0.3), clean.shape)
        with write_stack(tmp_path / "a.mrcs", BOX, PIXEL_SIZE, overwrite=True) as append:
            append((images if round_ else np.random.default_rng(0).normal(0, 1, (M, BOX, BOX))).astype(np.float32))
        command_line = ["import", str(tmp_path / "p.cs"), "-o", str(tmp_path / "p.h5"), "--cs-aberrations", choice]
        assert mpirecon([*command_line, "--overwrite", "-q"]) == 0
        if round_:
            command_line = ["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "run"), "-q", "--overwrite"]
            assert mpirecon([*command_line, "--no-postprocess"]) == 0
            result, code = tell(tmp_path / "run")
            verdicts = {name: term["verdict"] for name, term in result["terms"].items()}
            assert code == 2 - round_
            assert verdicts == ({"beam tilt": WRONG_SIGN} if code else {"beam tilt": RIGHT, "trefoil": RIGHT})
            if code:
                assert mpirecon(["aberrations", str(tmp_path / "run"), "--star", str(tmp_path / "refined.star")]) == 1
                assert "refined.star: all particles, with what was found in their optics" in capsys.readouterr().out
            assert result["advice"] == (
                ["import again with --cs-aberrations=all, and reconstruct again"] if code else []
            )

    assert mpirecon(["import", str(tmp_path / "p.cs"), "-o", str(tmp_path / "q.h5"), "--cs-aberrations", "tilt",
                     "-q"]) == 0
    assert mpirecon(["reconstruct", str(tmp_path / "q.h5"), "-o", str(tmp_path / "run"), "-q", "--overwrite",
                     "--no-postprocess"]) == 0
    result, code = tell(tmp_path / "run")
    assert (code == 0 and "--cs-aberrations=tilt,trefoil, and" in result["advice"][0]
            and "ctf/trefoil_A of" in result["advice"][0])
    refined = tmp_path / "refined.star"  # what the run with the wrong sign found, and from there once more
    with ParticleFile(tmp_path / "p.h5") as file:
        wanted = file.aberrations()
    for target in (tmp_path / "once.star", tmp_path / "twice.star"):
        assert mpirecon(["import", str(refined), "-o", str(tmp_path / "s.h5"), "--overwrite", "-q"]) == 0
        command_line = ["reconstruct", str(tmp_path / "s.h5"), "-o", str(tmp_path / "star"), "-q", "--overwrite"]
        assert mpirecon([*command_line, "--no-postprocess"]) == 0
        result, code = tell(tmp_path / "star", "--star", target)
        assert code == 0 and {result["terms"][name]["verdict"] for name in ("beam tilt", "trefoil")} == {RIGHT}
        with ParticleFile(tmp_path / "s.h5") as file:
            found = file.aberrations()
        error = result["groups"][0]["terms"][1]["error"]
        np.testing.assert_allclose(found.odd[0, [2, 5]], wanted.odd[0, [2, 5]], atol=5 * error)
        refined = target


@pytest.mark.parametrize(
    ("verdicts", "before", "after"),
    [
        ({"beam tilt": WRONG_SIGN}, {"tilt": -1}, "--cs-aberrations=all,"),
        ({"beam tilt": WRONG_SIGN}, {"tilt": -1, "trefoil": 1}, "--cs-aberrations=tilt,trefoil,"),
        ({"beam tilt": RIGHT, "trefoil": WRONG_SIGN}, dict.fromkeys(("tilt", "trefoil"), 1),
         "--cs-aberrations=tilt,-trefoil,"),
        ({"beam tilt": WRONG_SIGN, "trefoil": WRONG_SIGN, "tetrafoil": UNDETERMINED},
         dict.fromkeys(("tilt", "trefoil", "tetrafoil", "shift"), 1),
         "--cs-aberrations=-tilt,-trefoil,tetrafoil,-shift,"),
        ({"beam tilt": ABSENT}, {"tilt": 1, "shift": 1}, "--cs-aberrations=none,"),
        ({"beam tilt": WRONG_SIGN}, {"tilt": 1}, "--cs-aberrations=csparc2star,"),
        ({"tetrafoil": WRONG_SIGN, "two-fold of fourth order": WRONG_SIGN}, {"tetrafoil": 1},
         "--cs-aberrations=-tetrafoil,"),
        ({"tetrafoil": WRONG_SIGN, "two-fold of fourth order": RIGHT}, {"tetrafoil": 1}, "--star FILE writes"),
        ({"beam tilt": OTHER}, {"tilt": 1}, "--star FILE writes"),
    ],
)
def test_the_option_of_import_that_would_be_right(verdicts, before, after):
    assert after in import_again(verdicts, before)


def test_what_is_fitted_becomes_zernike_coefficients():
    x, y = np.random.default_rng(0).normal(0, 0.1, (2, 40))
    odd, even, edge = np.arange(1.0, 7), np.arange(1.0, 10), 0.2
    phi = zernike_sum(odd_zernike(odd, edge), odd_order, x, y)
    np.testing.assert_allclose(phi, odd @ odd_basis(x / edge, y / edge), rtol=1e-9)
    delta = -zernike_sum(even_zernike(even, edge), even_order, x, y)
    np.testing.assert_allclose(delta, even @ even_basis(x / edge, y / edge), rtol=1e-9)


def test_only_what_is_beyond_doubt_is_written(tmp_path, images):
    """A group of noise keeps what was imported."""
    true = planted()
    mixed = images.copy()
    mixed[1::2] = np.random.default_rng(3).normal(0, images.std(), mixed[1::2].shape)
    folder = reconstruct(tmp_path, mixed, replace(true, odd=-true.odd))
    found = run_phases(SerialCommunicator(), folder, Console(quiet=True))
    refined = found.refined(replace(true, odd=-true.odd))
    assert np.abs(refined.odd[0] - true.odd[0])[2:].max() < 60 and np.abs(refined.odd[0] + true.odd[0]).max() > 150
    np.testing.assert_allclose(refined.odd[1], -true.odd[1])
    assert found.informative == [1]
    with pytest.raises(UserError, match="were not imported, so that no STAR file"):
        tell(folder, "--star", tmp_path / "r.star")


def test_images_are_compared_at_the_poses_that_the_run_used(tmp_path, images):
    """Half of the given poses are another particle's; the run has found all of them, as its table says."""
    true, given, wrong = planted(), particles(), np.arange(M) % 4 < 2
    folder = reconstruct(tmp_path, images, true)
    right, _ = tell(folder)
    spoilt = given.pose.quaternion.copy()
    spoilt[wrong], shift = np.roll(spoilt[wrong], 4, axis=0), np.where(wrong[:, None], 9.0, given.pose.shift)
    with ParticleWriter(tmp_path / "p.h5", M, BOX, PIXEL_SIZE, overwrite=True) as writer:
        writer.write_images(0, images)
        writer.write_metadata(replace(given, pose=Pose(spoilt, shift)))
        writer.write_optics(true)
    about = json.loads((folder / "summary.json").read_text())
    with ParticleFile(tmp_path / "p.h5") as file:  # as if the run had begun with these
        about["particles"] |= file.identity()
    (folder / "summary.json").write_text(json.dumps(about))
    assert tell(folder)[0] == right


def test_the_command_says_where_nothing_significant_was_found(tmp_path, capsys):
    particles = mr.simulate(mr.phantom(24, 5.0), 200, snr=0.3, seed=4)
    mr.reconstruct(star_file(tmp_path, particles, [1] * 200), tmp_path / "run")
    assert mpirecon(["aberrations", str(tmp_path / "run"), "--star", str(tmp_path / "same.star")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "same.star: all particles, with their aberrations as they were imported: nothing significant was" in said
    given, same = (read_star(tmp_path / f"{name}.star")["optics"] for name in ("set", "same"))
    assert list(given.columns) == list(same.columns)


def test_poses_that_the_run_found_are_written_with_the_aberrations(tmp_path, capsys):
    particles = mr.simulate(mr.phantom(24, 5.0), 200, snr=0.3, seed=4)
    mr.reconstruct(star_file(tmp_path, particles, [1] * 200), tmp_path / "run")
    with h5py.File(tmp_path / "run" / "particles.h5", "r+") as file:
        given = file["shift"][:]
        found = Pose(np.roll(file["quaternion"][:], 1, axis=0), given + 5.0)
        state = np.zeros(200, "u1")
        state[[3, 7]] = REFINED, FOUND
        file["quaternion"][[3, 7]], file["shift"][[3, 7]] = found.quaternion[[3, 7]], found.shift[[3, 7]]
        file.pop("pose_state", None)
        file["pose_state"] = state
    assert mpirecon(["aberrations", str(tmp_path / "run"), "--star", str(tmp_path / "new.star")]) in (0, 1)
    assert "new.star: 2 poses are those that the run found" in " ".join(capsys.readouterr().out.split())
    new, old = (read_star(tmp_path / f"{name}.star")["particles"] for name in ("new", "set"))
    angles = np.stack([new[f"rlnAngle{name}"].astype(float) for name in ("Rot", "Tilt", "Psi")], axis=1)
    origin = np.stack([new[f"rlnOrigin{axis}Angst"].astype(float) for axis in "XY"], axis=1)
    wanted = np.where(state[:, None] > 0, found.shift, given)
    turned = Pose.from_euler(*angles.T).quaternion[[3, 7]]
    np.testing.assert_allclose(np.abs(np.sum(turned * found.quaternion[[3, 7]], axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(-origin, wanted, atol=1e-3)
    assert new["mpireconGivenAngleRot"].notna().all()
    assert np.flatnonzero(new["rlnAngleRot"].array != old["rlnAngleRot"].array).tolist() == [3, 7]


def test_verdicts_are_about_the_nearest():
    shares = {"beam tilt": (0.9, 0.05), "trefoil": (0.5, 0.05), "tetrafoil": (-1.0, 0.4)}
    found = FoundAberrations([], (30.0, 4.0), False, shares)
    assert (
        found.verdicts() == {"beam tilt": RIGHT, "trefoil": OTHER, "tetrafoil": UNDETERMINED} and not found.contradicted
    )


def test_folders_that_are_no_run_are_refused(tmp_path, images):
    with pytest.raises(UserError, match="no such folder"):
        tell(tmp_path / "nothing")
    folder = reconstruct(tmp_path, images, planted())
    with pytest.raises(UserError, match="Fourier samples: too few"):
        tell(folder, "--band", "12.1:11.9")
    with pytest.raises(UserError, match="from 1000 to 900 Å .* give a wider --band, to 30 Å or finer"):
        tell(folder, "--band", "1000:900")
    (folder / "half2.mrc").unlink()
    with pytest.raises(UserError, match="half2.mrc is missing"):
        tell(folder)
