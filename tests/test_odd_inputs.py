"""Tables and images of which a part is not what the rest is:
reported with counts, where the map would be wrong without a word.
"""

from __future__ import annotations

import numpy as np
import pytest
from importing import refused
from importing import run as run_import
from scipy.spatial.transform import Rotation
from test_columns import M, cryosparc, star, views
from test_image_kind import KINDS, MADE, evidence
from test_normalise import noise, star_of

HALF = np.arange(M) < M // 2


def part(values, factor):
    return np.where(HALF, values * factor, values)


def said(path, *options):
    return run_import(path, "--overwrite", *options)[1]


def near(values):
    """V within a few hundred Å of U, as a lens has it."""
    return values + np.linspace(-300, 300, M)


U = views()["rlnDefocusU"]


@pytest.mark.parametrize("u, v", [(U, U / 10), (U / 1e4, U), (U, 0 * U), (U, U / 1e4)])
def test_u_and_v_that_no_lens_has(tmp_path, u, v):
    for path in (
        star(tmp_path, rlnDefocusU=u, rlnDefocusV=v),
        cryosparc(tmp_path, ctf__df1_A=u.astype("f4"), ctf__df2_A=v.astype("f4")),
    ):
        text = said(path)
        assert (
            f"differ by more than their mean for {M} of {M} particles" in text
            and "Mend that column, or leave it out" in text
        )


def test_u_below_v_is_a_note_and_no_warning(tmp_path):
    for path in (
        star(tmp_path, rlnDefocusU=U, rlnDefocusV=near(U)),
        cryosparc(tmp_path, ctf__df1_A=U.astype("f4"), ctf__df2_A=near(U).astype("f4")),
    ):
        text = said(path)
        assert (
            "Warning" not in text and f"for {M // 2} of {M} particles: the angle of the astigmatism is that of" in text
        )


def test_defoci_of_which_a_part_is_in_nm(tmp_path):
    both = part(U, 0.1)
    for path in (
        star(tmp_path, rlnDefocusU=both, rlnDefocusV=both),
        cryosparc(tmp_path, ctf__df1_A=both.astype("f4"), ctf__df2_A=both.astype("f4")),
    ):
        assert f"the defocus of {M // 2} of {M} particles is about" in said(path) and "--unit defocus=nm" in said(path)
    wide = np.linspace(2000, 40000, M)  # a set from close to focus to far from it
    assert "Warning" not in said(star(tmp_path, rlnDefocusU=wide, rlnDefocusV=wide))


NEGATIVE = "negative for 40 of 40"
UNITS = [("nm", 0.1, "nearly all defoci are below 5000 Å"), ("-A", -1, NEGATIVE), ("-nm", -0.1, NEGATIVE)]


@pytest.mark.parametrize("unit, factor, words", UNITS)
def test_defoci_of_cryosparc_in_other_units(tmp_path, unit, factor, words):
    path = cryosparc(tmp_path, ctf__df1_A=(factor * U).astype("f4"), ctf__df2_A=(factor * U).astype("f4"))
    assert words in said(path) and "Warning" not in said(path, "--unit", f"defocus={unit}")


def test_most_defoci_close_to_focus(tmp_path):
    u = np.linspace(2500, 6500, M)
    assert "most defoci are below 5000 Å (2500 to 6500)" in said(star(tmp_path, rlnDefocusU=u, rlnDefocusV=u))


@pytest.mark.parametrize("label", ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"])
def test_one_angle_in_radians(tmp_path, label):
    text = said(star(tmp_path, **{label: np.radians(views()[label])}))
    assert f"{label} is in degrees, but is" in text and "write it in degrees" in text


def test_angles_of_which_a_part_is_in_radians(tmp_path):
    angles = {name: part(views()[name], np.pi / 180) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
    text = said(star(tmp_path, **angles))
    assert "are all within a turn in radians for" in text and "--unit angles=radian" in text
    assert "Warning" not in said(star(tmp_path))


CTFS = [
    ("rlnVoltage", 30.0, "images are taken at 80 to 300"), ("rlnVoltage", 100.0, None),
    ("rlnSphericalAberration", 0.0027, "that is a usual one in metres"), ("rlnSphericalAberration", 0.01, None),
    ("rlnSphericalAberration", 27.0, "no lens has that"), ("rlnSphericalAberration", 0.0, None),
    ("rlnAmplitudeContrast", 0.7, "0.07 to 0.1 is usual"), ("rlnAmplitudeContrast", -0.1, "0.07 to 0.1 is usual"),
    ("rlnAmplitudeContrast", 0.2, None), ("rlnCtfBfactor", 5000.0, "next to nothing of these images is left"),
    ("rlnCtfBfactor", 300.0, None),
]  # fmt: skip


@pytest.mark.parametrize("label, value, words", CTFS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_numbers_of_a_ctf_that_no_microscope_has(tmp_path, label, value, words, share):
    usual = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnCtfBfactor": 0.0}
    text = said(star(tmp_path, **{label: np.where(np.arange(M) < share * M, value, usual[label])}))
    if value == 0 and share < 1:
        words = "not so for the others: was it never filled in?"
    assert (f"{label} is {value:g}" in text and words in text) if words else "Warning" not in text


def test_astigmatism_of_which_a_part_is_in_radians(tmp_path):
    angle = np.random.default_rng(5).permutation(np.linspace(-90, 90, M))
    text = said(star(tmp_path, rlnDefocusAngle=part(angle, np.pi / 180)))
    assert "between -3.14 and 3.14 for" in text and "--unit defocus-angle=radian" in text
    for usual in (angle, np.where(HALF, 0, angle), angle / 9, np.where(HALF, angle / 60, 45 + angle / 30), angle + 90):
        assert "defocus-angle" not in said(star(tmp_path, rlnDefocusAngle=usual))


def test_phase_shifts_of_which_a_part_is_in_radians(tmp_path):
    shift = np.linspace(60, 110, M)
    text = said(star(tmp_path, rlnPhaseShift=part(shift, np.pi / 180)))
    assert f"below 6.29 for {M // 2} of {M} particles" in text and "--unit phase-shift=radian" in text
    for usual in (shift, np.where(HALF, 0, shift), np.linspace(0, 90, M)):
        assert "phase-shift" not in said(star(tmp_path, rlnPhaseShift=usual))


def test_a_particle_that_outshines_the_others(tmp_path):
    scale = np.linspace(0.5, 2, M)
    assert "Warning" not in said(star(tmp_path, rlnCtfScalefactor=scale))
    text = said(star(tmp_path, rlnCtfScalefactor=np.where(np.arange(M) == 3, 100, scale)))
    assert f"rlnCtfScalefactor is up to 100 for 1 of {M} particles" in text and "the map is made of these" in text


@pytest.mark.parametrize("label", ["rlnMaxValueProbDistribution", "rlnNormCorrection", "rlnClassNumber"])
def test_a_number_that_is_not_used_may_be_missing(tmp_path, label):
    assert "Warning" not in said(star(tmp_path, **{label: ["nan"] * M}))


@pytest.mark.parametrize("name", ["alignments3D__cross_cor", "alignments3D__alpha"])
def test_a_number_of_cryosparc_that_is_not_used_may_be_missing(tmp_path, name):
    assert "Warning" not in said(cryosparc(tmp_path, **{name: np.full(M, np.nan, "f4")}))


def test_angles_and_shifts_that_are_misread(tmp_path):
    for label in ("rlnAngleTilt", "rlnOriginXAngst"):
        values = np.where(np.arange(M) == 3, 1e9, views()[label])
        refused(star(tmp_path, **{label: values}), rf"p.star, line \d+: by {label} it is 1e\+09 .* \(1 such rows\)")
    path = cryosparc(tmp_path)
    array = np.load(path)
    array["alignments3D/shift"][3] = 1e9
    with open(path, "wb") as file:
        np.save(file, array)
    refused(path, "p.cs, row 3: by alignments3D/shift it is .* Å of the images")


@pytest.mark.parametrize("other", ["rlnAngleRot", "rlnAnglePsi"])
def test_tilts_in_the_column_of_another_angle(tmp_path, other):
    angles = views()
    text = said(star(tmp_path, **{other: angles["rlnAngleTilt"], "rlnAngleTilt": angles[other]}))
    assert f"and {other} is" in text and "were the two columns exchanged?" in text


def test_rotation_vectors_of_which_a_part_is_in_degrees(tmp_path):
    vectors = Rotation.random(M, random_state=1).as_rotvec()
    part_ = np.where(np.arange(M)[:, None] < 5, np.degrees(vectors), vectors)
    path = cryosparc(tmp_path, alignments3D__pose=part_.astype("f4"))
    assert f"5 of {M} rotation vectors (alignments3D/pose) are longer than a turn" in said(path)
    assert "longer than a turn" not in said(cryosparc(tmp_path, alignments3D__pose=vectors.astype("f4")))


@pytest.mark.parametrize("optics, told", [
    ({"rlnBeamTiltX": [50.0], "rlnBeamTiltY": [0.0]}, "odd aberrations"),
    ({"rlnBeamTiltX": [5.0], "rlnBeamTiltY": [0.0]}, None),  # far from aligned, but it is there
    ({"rlnOddZernike": ["[300,0,0,0,0,0]"]}, "odd aberrations"),
    ({"rlnOddZernike": ["[0,0,1000,0,0,0]"]}, "odd aberrations"),
    ({"rlnOddZernike": ["[31.8,-60,0,15.9,-30,2]"]}, None),
    ({"rlnEvenZernike": ["[0,0,0,0,10000,0,0,0,0]"]}, "even aberrations"),
    ({"rlnEvenZernike": ["[0.1,2,3,2,100,0,0,0,10]"]}, None),
])  # fmt: skip
def test_aberrations_that_no_lens_has(tmp_path, optics, told):
    text = said(star(tmp_path, optics))
    assert ("give --ignore-aberrations" in text) == (told is not None) and (told or "") in text.partition("Warning")[2]
    if told:
        assert "Warning" not in said(star(tmp_path, optics), "--ignore-aberrations")


def test_origins_in_pixels_that_are_not_those_in_angstrom(tmp_path):
    size = 2.5
    x, y = (views()[f"rlnOrigin{axis}Angst"] for axis in "XY")
    assert "Warning" not in said(star(tmp_path, rlnOriginX=x / size, rlnOriginY=y / size))
    assert "they are not the same shifts: those in Å are used" in said(star(tmp_path, rlnOriginX=x, rlnOriginY=y))


def test_a_hot_pixel_that_all_images_have(tmp_path):
    hot = noise(24, 60)
    hot[:, 12, 12] += 400
    assert "60 of 60 images have pixels" in run_import(star_of(tmp_path, hot))[1]
    axis = np.arange(24) - 12
    bright = noise(24, 60) + 300 * np.exp(-(axis[:, None] ** 2 + axis**2) / 8).astype(
        "f4"
    )  # a particle in next to no noise
    assert "--white_dust" not in run_import(star_of(tmp_path, bright, "b.star"), output=tmp_path / "b.h5")[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr", [0.02, 1.0])
def test_images_of_both_signs(kind, snr):
    sign = np.where(np.arange(100) % 5 < 2, -1, 1)[:, None, None]
    assert evidence(kind, sign=sign, snr=snr, **MADE[kind]).of_both_signs
    even = np.where(np.arange(100) % 2, -1, 1)[:, None, None]
    assert evidence(kind, sign=even, snr=snr, **MADE[kind]).of_both_signs


def test_particles_in_few_of_the_images_have_one_sign():
    for settings in (
        {"snr": 1.0, "junk_rate": 0.8},
        {"snr": 1.0, "scale_cv": 0.5, "noise_cv": 0.5},
        {"snr": 0.05, "error_rate": 1.0},
    ):
        assert not evidence(KINDS[0], **settings).of_both_signs
