"""Aberrations, magnification and MTF of RELION's tables:
read as RELION reads them, and corrected as it corrects them."""

import shutil
import subprocess

import h5py
import numpy as np
import pandas as pd
import pytest
from importing import OPTICS, N, make, refused, run, table
from test_reconstruct_relion import compare, density

import mpirecon as mr
from mpirecon.cli import run as mpirecon
from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader, write_map, write_stack
from mpirecon.io.star import write_star
from mpirecon.model import Pose, make_ctf
from mpirecon.model.aberrations import Aberrations, tilt_coefficients
from mpirecon.model.draws import particle_rng, random_quaternion
from mpirecon.operators.forward import ForwardModel
from mpirecon.simulation.phantom import phantom


def two_groups(**optics):
    return {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [3, 1], **optics}


def test_the_optics_table_is_read(tmp_path):
    optics = two_groups(rlnBeamTiltX=[0.0, 0.5], rlnBeamTiltY=[0.0, -1.0],
                        rlnOddZernike=["[0,0,3,0,0,-4]", "[1,0,0,0,0,0]"],
                        rlnEvenZernike=["[0,1]", "[0,0,0,2]"], rlnMagMat00=[1.01, 1], rlnMagMat01=[0.02, 0],
                        rlnMagMat10=[-0.03, 0], rlnMagMat11=[0.99, 1])
    file, text = run(make(tmp_path, table(rlnOpticsGroup=[1, 3] * 4), optics))
    found = file.aberrations()
    assert found.group.tolist() == [1, 3]
    expected = tilt_coefficients([[0.5, -1.0]], [2.7], [300.0])[0] + [1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found.odd, [expected, [0, 0, 3, 0, 0, -4]], rtol=1e-12)
    np.testing.assert_array_equal(found.even, [[0, 0, 0, 2], [0, 1, 0, 0]])
    np.testing.assert_array_equal(found.magnification, [np.eye(2), [[1.01, 0.02], [-0.03, 0.99]]])
    assert "corrected for: odd aberrations (beam tilt, trefoil …) in 2 of 2 optics groups; even aberrations" in text
    assert "Warning" not in text
    both = two_groups(rlnBeamTiltX=[0, 0], rlnBeamTiltY=[0, 0], rlnOddZernike=["[0,0,3,0,0,-4]", "[1,0,0,2,0,0]"])
    file, text = run(make(tmp_path, table(rlnOpticsGroup=[1, 3] * 4), both), "--overwrite")
    assert file.aberrations().odd[0, 3] == 2 and "Warning: rlnOddZernike names coma, and rlnBeamTiltX" in text
    zero = {"rlnBeamTiltX": [0, 0], "rlnEvenZernike": ["[0,0]", "[]"], "rlnMagMat00": [1, 1]}
    file, text = run(make(tmp_path, table(rlnOpticsGroup=[1, 3] * 4), two_groups(**zero)), "--overwrite")
    assert file.aberrations() is None and text.count("\n") == 1


def test_tilt_of_particles_before_optics_groups(tmp_path):
    """RELION 3.0: each particle has its own; those that share it are one group, on any number of ranks."""
    tilt = [0.5, 0.5, 0.0, 0.0, -1.0, -1.0, 0.0, 0.5]
    old = table(rlnBeamTiltX=tilt, rlnBeamTiltY=0.25, rlnVoltage=300, rlnSphericalAberration=2.7,
                rlnAmplitudeContrast=0.1,
                rlnPixelSize=2.5, rlnOpticsGroup=None)
    file, text = run(make(tmp_path, old, optics=None))
    assert "3 groups are made" in text
    found, group = file.aberrations(), file.metadata().optics_group
    assert set(group) == {1, 2, 3}
    expected = tilt_coefficients([[t, 0.25] for t in tilt], np.full(8, 2.7), np.full(8, 300.0))
    np.testing.assert_allclose(found.odd[found.rows(group)], expected, rtol=1e-12)


def test_ranks_make_the_same_groups(tmp_path, mpirun):
    # none on rank 0
    old = table(rlnBeamTiltX=[0.0, 0.0, 0.0, 0.5, -1.0, -1.0, 0.25, 0.5], rlnBeamTiltY=0.0, rlnVoltage=300,
                rlnSphericalAberration=2.7, rlnAmplitudeContrast=0.1, rlnPixelSize=2.5, rlnOpticsGroup=None)
    star = make(tmp_path, old, optics=None)
    files = []
    for n in (1, 3):
        assert mpirun(n, ["-m", "mpirecon", "import", star, "-o", tmp_path / f"{n}.h5", "-q"]).returncode == 0
        files.append(h5py.File(tmp_path / f"{n}.h5"))
    for name in ("optics", "optics_group"):
        np.testing.assert_array_equal(files[0][name][:], files[1][name][:])
    assert len(files[0]["optics"]) == 4


@pytest.mark.parametrize(
    ("optics", "message"),
    [
        ({"rlnOddZernike": ["[0,0,x]"]}, r"p.star, line \d+: rlnOddZernike is '\[0,0,x\]', expected a list of numbers"),
        ({"rlnBeamTiltX": ["nan"]}, r"p.star, line \d+: rlnBeamTiltX is 'nan', expected a finite number"),
        ({"rlnMagMat00": [3.0]}, "optics group 1: the magnification matrix .* far from the identity"),
    ],
)
def test_impossible_optics_are_refused(tmp_path, optics, message):
    refused(make(tmp_path, optics={**OPTICS, **optics}), message)


def test_mtf_is_relative_to_the_mean_of_the_groups(tmp_path):
    frequency = np.linspace(0, 0.6, 13)
    curves = {"a.star": 1 - frequency, "b.star": 1 - 1.4 * frequency}
    for name, values in curves.items():
        mtf = pd.DataFrame({"rlnResolutionInversePixel": frequency, "rlnMtfValue": values})
        write_star(tmp_path / name, {"": mtf.astype(str)}, overwrite=True)
    optics = two_groups(rlnMtfFileName=["b.star", "a.star"], rlnMicrographOriginalPixelSize=[1.25, 1.25])
    particles = table(rlnOpticsGroup=[1, 3] * 4)
    file, text = run(make(tmp_path, particles, optics))
    k = np.arange(N // 2 + 2) / (N * 2.5) * 1.25  # in pixels of the detector, half as large as the image's
    expected = np.stack([1 - k, 1 - 1.4 * k])
    np.testing.assert_allclose(file.aberrations().mtf, expected / expected.mean(axis=0), rtol=1e-9)
    assert "MTF relative to the mean of the groups in 2 of 2" in text
    held = (tmp_path / "a.star").read_bytes()
    for write in (lambda: mr.read_star(tmp_path / "p.star", output=tmp_path / "a.star", overwrite=True),
                  lambda: mr.open(file.path).save(tmp_path / "a.star", overwrite=True)):
        with pytest.raises(UserError, match="would replace what it is made from"):
            write()
    assert (tmp_path / "a.star").read_bytes() == held
    same = {**optics, "rlnMtfFileName": ["a.star", "a.star"]}
    assert run(make(tmp_path, particles, same), "--overwrite")[0].aberrations() is None
    _, text = run(make(tmp_path, particles, {**optics, "rlnMtfFileName": ["a.star", "c.star"]}), "--overwrite")
    assert "Warning: the MTFs of optics groups differ (rlnMtfFileName) and are not applied: c.star is not found" in text


def as_list(values):
    return "[" + ",".join(f"{value:.9g}" for value in values) + "]"


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="needs relion_reconstruct (package relion)")
def test_they_are_corrected_as_relion_does(tmp_path, monkeypatch):
    """Images made with our model of two groups' optics: RELION's map and ours must both be the truth."""
    monkeypatch.chdir(tmp_path)
    box, pixel_size, m = 36, 2.0, 1000
    truth = phantom(box).astype(np.float32)
    rng = np.random.default_rng(0)
    pose = Pose([random_quaternion(particle_rng(0, i, "optics")) for i in range(m)], rng.normal(0, 3, (m, 2)))
    u, group = rng.uniform(5000, 20000, m), 1 + np.arange(m) % 2
    ctf = make_ctf(m, voltage_kv=300, defocus_u=u, defocus_v=u - 700, astigmatism=rng.uniform(-3, 3, m), cs_mm=2.7,
                   amplitude_contrast=0.1)
    tilt = np.array([[2.5, -1.2], [-0.7, 0.3]])
    # RELION 3.1 overwrites the coma of a tilted group
    odd = np.array([[0.5, -1, 30, 0, 0, 20], [0, 0, -14, 0, 0, 9.0]])
    even = np.array([[0.2, 3, -2, 4, 100, -60, 40, 30, -80], [0, 0, 0, 0, -60, 0, 0, 0, 50.0]])
    matrix = np.array([[[1.02, 0.013], [-0.007, 0.97]], [[0.99, 0.01], [0.01, 1.01]]])
    table_ = Aberrations(np.array([1, 2]), matrix, odd + tilt_coefficients(tilt, np.full(2, 2.7), np.full(2, 300.0)),
                         even,
                         np.zeros((2, 0)))
    model = ForwardModel(box, pixel_size, aberrations=table_)
    with write_stack("s.mrcs", box, pixel_size, overwrite=True) as append:
        append(model.images(model.prepare(truth), pose, ctf, group))
    write_map("truth.mrc", truth, pixel_size, overwrite=True)
    optics = {"rlnOpticsGroup": [1, 2], "rlnOpticsGroupName": ["a", "b"], "rlnVoltage": 300,
              "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": pixel_size, "rlnImageSize": box,
              "rlnImageDimensionality": 2,
              "rlnBeamTiltX": tilt[:, 0], "rlnBeamTiltY": tilt[:, 1], "rlnOddZernike": list(map(as_list, odd)),
              "rlnEvenZernike": list(map(as_list, even)),
              **{f"rlnMagMat{i}{j}": matrix[:, i, j] for i in range(2) for j in range(2)}}
    rot, tilt_angle, psi = pose.euler().T
    particles = {"rlnImageName": [f"{i + 1:06d}@s.mrcs" for i in range(m)], "rlnAngleRot": rot,
                 "rlnAngleTilt": tilt_angle,
                 "rlnAnglePsi": psi, "rlnOriginXAngst": -pose.shift[:, 0], "rlnOriginYAngst": -pose.shift[:, 1],
                 "rlnDefocusU": ctf["defocus_u"], "rlnDefocusV": ctf["defocus_v"],
                 "rlnDefocusAngle": np.degrees(ctf["astigmatism"]), "rlnOpticsGroup": group,
                 "rlnRandomSubset": 1 + np.arange(m) // 2 % 2}
    write_star("p.star", {"optics": pd.DataFrame(optics).astype(str), "particles": pd.DataFrame(particles).astype(str)},
               overwrite=True)
    command = ["relion_reconstruct", "--i", "p.star", "--o", "relion.mrc", "--ctf", "--angpix", str(pixel_size)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    assert mpirecon(["import", "p.star", "-o", "p.h5", "-q"]) == 0
    assert mpirecon(["reconstruct", "p.h5", "-o", "ours", "-q"]) == 0
    theirs, ours = density("relion.mrc"), density("ours/volume.mrc")
    assert compare(theirs, truth, 0.85)[0] > 0.99
    lowest, correlation, scale = compare(ours, truth, 0.85)
    assert lowest > 0.999 and correlation > 0.999 and scale == pytest.approx(1, abs=0.01)
    assert mpirecon(["project", "truth.mrc", "p.h5", "-o", "again.mrcs", "-q"]) == 0
    images, again = (StackReader(name).read(np.arange(m)) for name in ("s.mrcs", "again.mrcs"))
    np.testing.assert_allclose(again, images, atol=1e-4 * np.abs(images).max())


def test_aberrations_can_be_left_out(tmp_path):
    optics = two_groups(rlnBeamTiltX=[0.0, 0.5], rlnOddZernike=["[0,0,3]", "[1]"], rlnMagMat00=[1.01, 1])
    star = make(tmp_path, table(rlnOpticsGroup=[1, 3] * 4), optics)
    file, text = run(star, "--ignore-aberrations")
    assert file.aberrations() is None and "magnification matrices of the file are ignored" in text
    assert "corrected for" not in text and set(file.metadata().optics_group) == {1, 3}
    _, text = run(make(tmp_path, table()), "--ignore-aberrations", "--overwrite")
    assert "--ignore-aberrations: the file names none" in text
