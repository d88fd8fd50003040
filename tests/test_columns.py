"""Columns that cannot be what they seem: refused or reported with counts, the first row and the option that helps,
whose use gives what was meant."""

from __future__ import annotations

import numpy as np
import pytest
import test_cryosparc as cs
from importing import OPTICS, line_of, make, refused, run, save_stack, table

from mpirecon.errors import UserError
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.reading import UNITS, Reading, parse_unit

M = 40
N = 24


def images(m=M, n=N) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((m, n, n)).astype("f4")


def views(m=M) -> dict:
    """Poses all over the sphere, and defoci that a microscope has."""
    rng = np.random.default_rng(2)
    return {"rlnAngleRot": rng.uniform(-180, 180, m), "rlnAngleTilt": np.degrees(np.arccos(rng.uniform(-1, 1, m))),
            "rlnAnglePsi": rng.uniform(-180, 180, m), "rlnDefocusU": rng.uniform(8000, 20000, m),
            "rlnDefocusV": rng.uniform(8000, 20000, m),
            "rlnDefocusAngle": rng.uniform(0, 180, m), "rlnOriginXAngst": rng.uniform(-9, 9, m),
            "rlnOriginYAngst": rng.uniform(-9, 9, m)}


def star(tmp_path, optics=None, stacks=None, **changes):
    particles = table(M, **{**views(), **changes})
    return make(tmp_path, particles, {**OPTICS, "rlnImageSize": [N], **(optics or {})},
                stacks or {"stacks/a.mrcs": images()})


def cryosparc(tmp_path, **changes):
    save_stack(tmp_path / "J1" / "imported" / "a.mrcs", images())
    shift = cs.columns(M)["alignments3D/shift"] / 4
    return cs.save_cs(
        tmp_path / "p.cs", cs.columns(M, blob__shape=np.full((M, 2), N, "u4"), alignments3D__shift=shift, **changes)
    )


def same_particles(one, other):
    a, b = one.metadata(), other.metadata()
    np.testing.assert_allclose(a.pose.matrices(), b.pose.matrices(), atol=1e-6)
    np.testing.assert_allclose(a.pose.shift, b.pose.shift, atol=1e-5)
    for field in a.ctf.dtype.names:
        np.testing.assert_allclose(a.ctf[field], b.ctf[field], rtol=1e-5, atol=1e-6, err_msg=field)
    assert a.pixel_size == pytest.approx(b.pixel_size)


def test_a_good_table_is_silent(tmp_path):
    for path in (star(tmp_path), cryosparc(tmp_path)):
        assert "Warning" not in run(path, "--overwrite")[1]


# ------------------------------------------------------------ pixel sizes and shifts


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf, 1e4])
def test_a_refinements_pixel_that_cannot_be(tmp_path, size):
    sizes = np.full(M, 5.0, "f4")
    sizes[7:] = size
    path = cryosparc(tmp_path, alignments3D__psize_A=sizes)
    refused(
        path,
        r"p.cs, row 7: alignments3D/psize_A, .* is .* Å where the images have 2.5 Å \(33 such rows of 40\); "
        ".*--unit shift=pixel",
    )
    raw = cs.columns(M)["alignments3D/shift"].astype(float) / 4
    np.testing.assert_allclose(run(path, "--unit", "shift=pixel")[0].metadata().pose.shift, -2.5 * raw)
    np.testing.assert_allclose(run(path, "--unit", "shift=A", "--overwrite")[0].metadata().pose.shift, -raw)


@pytest.mark.parametrize("size, words", [(0.0, "expected a positive number"), (-2.5, "expected a positive number"),
                                         (np.nan, "finite numbers"),
                                         (1e-10, "outside 0.05 … 200 Å"),
                                         (2500.0, "outside 0.05 … 200 Å")])  # fmt: skip
def test_a_pixel_size_that_cannot_be(tmp_path, size, words):
    path = cryosparc(
        tmp_path,
        blob__psize_A=np.full(M, size, "f4"),
        alignments3D__psize_A=np.full(M, 2.5 if size != 2500 else size, "f4"),
    )
    if np.isfinite(size) and size > 1:
        refused(path, f"{words}.*--pixel-size")
        return
    assert "--pixel-size" in refused(path, words, *(() if size != 1e-10 else ("--unit", "shift=pixel")))
    same_particles(run(path, "--pixel-size", 2.5, "--unit", "shift=pixel")[0],
                   run(cryosparc(tmp_path, alignments3D__psize_A=np.full(M, 2.5, "f4")),
                       output=tmp_path / "good.h5")[0])  # fmt: skip


@pytest.mark.parametrize("dialect", ["angstroms", "pixels", "cryosparc", "binned", "no optics"])
def test_a_calibrated_pixel_size_keeps_shifts_in_pixels(tmp_path, dialect):
    """Of a refinement at 2.5 Å whose pixel turns out to be 2.75 Å; --scale-defocus keeps the CTF in pixels as well."""
    before = views()
    if dialect == "cryosparc" or dialect == "binned":
        path = cryosparc(tmp_path, alignments3D__psize_A=np.full(M, 2.5 if dialect == "cryosparc" else 5.0, "f4"))
    elif dialect == "angstroms":
        path = star(tmp_path)
    else:
        origin = {"rlnOriginX": before["rlnOriginXAngst"] / 2.5, "rlnOriginY": before["rlnOriginYAngst"] / 2.5}
        one = {label: values * M for label,
               values in OPTICS.items() if label != "rlnOpticsGroup"} | {"rlnImageSize": [N] * M}
        one = {} if dialect == "pixels" else one
        path = star(tmp_path, **origin, **one, rlnOriginXAngst=None, rlnOriginYAngst=None)
    old = run(path)[0].metadata()
    file, text = run(path, "--pixel-size", 2.75, "--overwrite")
    new = file.metadata()
    np.testing.assert_allclose(new.pose.shift / 2.75, old.pose.shift / 2.5, rtol=1e-9)
    assert (
        "the pixel is 1.1 times the table's: shifts keep their length in pixels of the images; defoci and Cs stay"
        in text
    )
    assert new.ctf.tobytes() == old.ctf.tobytes()
    file, text = run(path, "--pixel-size", 2.75, "--scale-defocus", "--overwrite")
    scaled = file.metadata().ctf
    assert "defoci are multiplied by the square of that, Cs stays" in text
    for name in ("defocus_u", "defocus_v"):
        np.testing.assert_allclose(scaled[name] / 2.75**2, old.ctf[name] / 2.5**2, rtol=1e-9)
    refused(path, "they do not differ", "--pixel-size", 2.5, "--scale-defocus")
    refused(path, "--scale-defocus scales defoci to the pixel size of --pixel-size", "--scale-defocus")


def test_shifts_without_a_pixel_size_of_the_table_are_taken_as_they_are(tmp_path):
    path = star(tmp_path, optics={"rlnImagePixelSize": None} and {"rlnImagePixelSize": [0.0]})
    file, text = run(path, "--pixel-size", 2.5)
    np.testing.assert_allclose(file.metadata().pose.shift[:, 0], -views()["rlnOriginXAngst"], atol=1e-5)
    assert "the table does not say at what pixel size rlnOriginXAngst was measured" in text


def test_headers_of_stacks_that_name_another_pixel_size(tmp_path):
    import mrcfile

    path = star(tmp_path)
    for size, told in ((3.0, True), (1.0, False), (2.51, False)):
        with mrcfile.open(tmp_path / "stacks/a.mrcs", "r+") as mrc:
            mrc.voxel_size = size
        text = run(path, "--overwrite")[1]
        assert ("the pixel size is 2.5 Å in the table, but 3 Å in the header of" in text) == told
        assert "(40 of 40 particles)" in text or not told
        assert "in the header of" not in run(path, "--overwrite", "--pixel-size", 2.5)[1]


def test_shifts_beyond_the_images(tmp_path):
    far = views()["rlnOriginXAngst"].copy()
    far[5] = 31.0
    text = run(star(tmp_path, rlnOriginXAngst=far))[1]
    line = line_of(tmp_path / "p.star", "000006@")
    assert (
        "puts 1 of 40 particles outside their images (up to 12.4 pixels from the centre of 24; first: "
        f"{tmp_path}/p.star, line {line})"
        in text
    )
    path = star(tmp_path, rlnOriginXAngst=far + 100)
    refused(path, "puts 40 of 40 particles outside their images.*--unit shift=A or --unit shift=pixel")
    assert run(path, "--unit", "shift=A", "--overwrite")[0].metadata().pose.shift[5, 0] == pytest.approx(-131)
    near = star(tmp_path, rlnOriginXAngst=views()["rlnOriginXAngst"] / 2.5,
                rlnOriginYAngst=views()["rlnOriginYAngst"] / 2.5)
    same_particles(run(near, "--unit", "shift=pixel", "--overwrite")[0],
                   run(star(tmp_path), output=tmp_path / "good.h5")[0])


# ------------------------------------------------------------ units


def scaled(columns: dict, factor: float, *labels) -> dict:
    return {label: columns[label] * factor for label in labels}


@pytest.mark.parametrize("unit, factor, refusal", [("um", 1e-4, True), ("nm", 0.1, False), ("-A", -1.0, False),
                                                   ("-um", -1e-4, True)])
def test_defoci_in_other_units(tmp_path, unit, factor, refusal):
    path = star(tmp_path, **scaled(views(), factor, "rlnDefocusU", "rlnDefocusV"))
    if refusal:
        words = refused(path, "rlnDefocusU, rlnDefocusV are in Å, but 40 of 40 particles have less than 50 Å")
        assert "--unit defocus=um, or --unit defocus=A" in words and f"line {line_of(path, '000001@')}" in words
        assert "negative for 40 of 40" in run(path, "--unit", "defocus=A")[1] or factor > 0
    elif unit == "nm":
        assert (
            "nearly all defoci are below 5000 Å" in run(path)[1] and "--unit defocus=nm" in run(path, "--overwrite")[1]
        )
    else:
        text = run(path)[1]
        assert "the defocus is negative for 40 of 40 particles" in text and "give --unit defocus=-A" in text
    file, text = run(path, "--unit", f"defocus={unit}", "--overwrite")
    assert "Warning" not in text
    same_particles(file, run(star(tmp_path), output=tmp_path / "good.h5")[0])


def test_defoci_of_cryosparc_in_micrometres(tmp_path):
    good = cs.columns(M)
    path = cryosparc(tmp_path, ctf__df1_A=good["ctf/df1_A"] / 1e4, ctf__df2_A=good["ctf/df2_A"] / 1e4)
    refused(path, "ctf/df1_A, ctf/df2_A are in Å, but 40 of 40 .*first: .*p.cs, row 0.*--unit defocus=um")
    file, _ = run(path, "--unit", "defocus=µm")
    np.testing.assert_allclose(file.metadata().ctf["defocus_u"], good["ctf/df1_A"], rtol=1e-6)


def test_defoci_of_zero_are_reported_unless_the_ctf_is_one(tmp_path):
    u, v = views()["rlnDefocusU"].copy(), views()["rlnDefocusV"].copy()
    u[3:6] = v[3:6] = 0
    text = run(star(tmp_path, rlnDefocusU=u, rlnDefocusV=v))[1]
    assert (
        f"the defocus is 0 for 3 of 40 particles (first: {tmp_path}/p.star, line "
        f"{line_of(tmp_path / 'p.star', '000004@')})"
        in text
    )
    assert "--no-ctf" in text
    path = star(tmp_path, {"rlnSphericalAberration": [0], "rlnAmplitudeContrast": [1]}, rlnDefocusU=0, rlnDefocusV=0)
    assert "Warning" not in run(path, "--overwrite")[1]


@pytest.mark.parametrize("labels, quantity", [(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), "angles"),
                                              (("rlnDefocusAngle",), "defocus-angle"),
                                              (("rlnPhaseShift",), "phase-shift")])  # fmt: skip
def test_angles_in_radians(tmp_path, labels, quantity):
    good = views() | {"rlnPhaseShift": np.random.default_rng(0).uniform(40, 120, M)}
    path = star(tmp_path, **{**good, **scaled(good, np.pi / 180, *labels)})
    if quantity == "angles":
        refused(path, "this looks like radians. Give --unit angles=radian, or --unit angles=degree")
        assert "from nearly one direction" in run(path, "--unit", "angles=degree")[1]
    else:
        text = run(path)[1]
        assert f"{labels[0]} is taken in degrees, but is" in text and f"give --unit {quantity}=radian" in text
        assert labels[0] not in run(path, "--unit", f"{quantity}=degree", "--overwrite")[1]
    file, text = run(path, "--unit", f"{quantity}=radian", "--overwrite")
    assert "Warning" not in text
    same_particles(file, run(star(tmp_path, **good), output=tmp_path / "good.h5")[0])


def test_a_microscopes_own_astigmatism_is_not_in_radians(tmp_path):
    angle = np.random.default_rng(1).normal(4, 0.4, M)
    assert "Warning" not in run(star(tmp_path, rlnDefocusAngle=angle))[1]


def test_rotation_vectors_and_angles_in_degrees(tmp_path):
    good = cs.columns(M)
    path = cryosparc(tmp_path, alignments3D__pose=np.degrees(good["alignments3D/pose"]))
    refused(path, r"rotation vectors \(alignments3D/pose\) are longer than two turns.*--unit angles=degree")
    file, _ = run(path, "--unit", "angles=degree")
    np.testing.assert_allclose(file.metadata().pose.matrices(), cs.rotation_matrix(good["alignments3D/pose"]),
                               atol=1e-5)
    path = cryosparc(tmp_path, ctf__phase_shift_rad=np.full(M, 90, "f4"))
    refused(path, "phase_shift is 90 rad.*--unit phase-shift=degree")
    assert run(path, "--unit", "phase-shift=degree",
               "--overwrite")[0].metadata().ctf["phase_shift"] == pytest.approx(np.full(M, np.pi / 2))
    text = run(cryosparc(tmp_path, ctf__df_angle_rad=np.linspace(-90, 90, M).astype("f4")), "--overwrite")[1]
    assert "ctf/df_angle_rad is taken in radians, but is -90 to 90" in text and "--unit defocus-angle=degree" in text


@pytest.mark.parametrize("label, value, unit, wanted", [("rlnVoltage", 300000.0, "voltage=V", 300),
                                                        ("rlnAmplitudeContrast", 10.0, "amplitude-contrast=percent",
                                                         0.1)])
def test_volts_and_percent(tmp_path, label, value, unit, wanted):
    path = star(tmp_path, {label: [value]})
    refused(path, f"outside .*check the column and its unit; .*--unit {unit}")
    field = {"rlnVoltage": "voltage_kv", "rlnAmplitudeContrast": "amplitude_contrast"}[label]
    assert run(path, "--unit", unit)[0].metadata().ctf[field] == pytest.approx(np.full(M, wanted))


def test_other_ctf_values_that_no_microscope_has(tmp_path):
    refused(star(tmp_path, {"rlnSphericalAberration": [2.7e7]}), "cs_mm is .*--cs")
    assert "rlnAmplitudeContrast is 0 for 40 of 40" in run(star(tmp_path, {"rlnAmplitudeContrast": [0.0]}))[1]
    scale = np.where(np.arange(M) == 2, -1.0, 1.0)
    assert (
        "rlnCtfScalefactor is negative for 1 of 40 particles"
        in run(star(tmp_path, rlnCtfScalefactor=scale), "--overwrite")[1]
    )
    for word in ("nan", "None", "inf"):
        path = star(tmp_path, rlnDefocusU=[word if i == 3 else 9000 for i in range(M)])
        refused(path, f"line {line_of(path, '000004@')}: rlnDefocusU is '{word}', expected a finite number")
    refused(star(tmp_path, {"rlnVoltage": ["None"]}), "rlnVoltage is 'None', expected a finite number; --voltage gives "
            "one for all")
    refused(cryosparc(tmp_path, ctf__accel_kv=np.full(M, np.nan, "f4")), "ctf/accel_kv is nan.*40 such rows.*--voltage")
    refused(cryosparc(tmp_path, blob__sign=np.zeros(M, "f4")),
            r"row 0: blob/sign is 0, expected 1 .* \(40 such rows of 40\)")


def test_units_are_parsed_or_explained():
    assert parse_unit("defocus=µm") == ("defocus", "um") and parse_unit("Defocus=-Å") == ("defocus", "-A")
    assert parse_unit("angles=rad") == ("angles", "radian") and parse_unit("voltage=kV") == ("voltage", "kV")
    assert Reading({"defocus": "-nm"}).factor("defocus", "A") == -10 and Reading().factor("angles", "radian") == 1
    assert set(UNITS) == {"defocus", "angles", "defocus-angle", "phase-shift", "shift", "voltage", "amplitude-contrast"}
    for text in ("defocus", "defocus=mile", "angles=-degree", "height=m", "="):
        with pytest.raises(ValueError, match="expected QUANTITY=UNIT, one of defocus=A"):
            parse_unit(text)


def test_options_of_a_script_are_checked_too(tmp_path):
    path = star(tmp_path, **scaled(views(), 1e-4, "rlnDefocusU", "rlnDefocusV"))
    import_particles(path, tmp_path / "o.h5", ImportOptions(units={"defocus": "µm"}))
    with pytest.raises(UserError, match="--unit 'defocus=mile': expected QUANTITY=UNIT"):
        import_particles(path, tmp_path / "p.h5", ImportOptions(units={"defocus": "mile"}))
    with pytest.raises(UserError, match="--bfactor-sign up: expected auto, relion, warp"):
        import_particles(path, tmp_path / "p.h5", ImportOptions(units={"defocus": "um"}, bfactor_sign="up"))


# ------------------------------------------------------------ B factors


@pytest.mark.parametrize("sign, factor", [((), -1), (("--bfactor-sign", "relion"), 1),
                                          (("--bfactor-sign", "warp"), -1)])
def test_negative_b_factors_are_the_falloff_with_exposure(tmp_path, sign, factor):
    dose = np.linspace(3, 120, M)
    file, text = run(star(tmp_path, rlnCtfBfactor=-4 * dose), *sign)
    np.testing.assert_allclose(file.metadata().ctf["bfactor"], factor * -4 * dose, rtol=1e-5)
    assert ("rlnCtfBfactor is negative for 40 of 40 particles (-480 to -12 Å²): it is taken as the "
            "falloff" in text) == (not sign)
    assert ("grows with resolution, up to 122 times at Nyquist" in text) == (factor > 0)


def test_b_factors_of_both_signs_are_relions(tmp_path):
    values = np.linspace(-20, 60, M)
    file, text = run(star(tmp_path, rlnCtfBfactor=values))
    np.testing.assert_allclose(file.metadata().ctf["bfactor"], values, atol=1e-5)
    assert "rlnCtfBfactor is negative for 10 of 40 particles (down to -20 Å²" in text and "--bfactor-sign warp" in text
    assert "Warning" not in run(star(tmp_path, rlnCtfBfactor=np.abs(values)), "--overwrite")[1]


# ------------------------------------------------------------ ranks


def test_ranks_say_what_one_rank_says(tmp_path, cli, mpirun):
    none = np.arange(M) > 30
    changes = {label: np.where(none, 0, views()[label]) for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
    u = np.where(np.arange(M) == 37, -12000, views()["rlnDefocusU"])
    path = star(tmp_path, **changes, rlnDefocusU=u, rlnCtfBfactor=-4.0 * np.arange(M),
                rlnCtfScalefactor=np.where(np.arange(M) == 38, -1, 1))
    options = ["--pixel-size", 2.75, "--scale-defocus"]
    alone = cli("import", path, "-o", tmp_path / "a.h5", *options)
    together = mpirun(2, ["-m", "mpirecon", "import", path, "-o", tmp_path / "b.h5", *map(str, options)])
    assert alone.returncode == together.returncode == 0, together.stderr
    assert together.stderr == alone.stderr and alone.stderr.count("Warning") == 4
    from mpirecon.io.particle_file import ParticleFile

    same_particles(ParticleFile(tmp_path / "a.h5"), ParticleFile(tmp_path / "b.h5"))
    um = star(tmp_path, **scaled(views(), 1e-4, "rlnDefocusU", "rlnDefocusV"))
    done = mpirun(2, ["-m", "mpirecon", "import", um, "-o", tmp_path / "c.h5"])
    assert done.returncode != 0 and "--unit defocus=um" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "c.h5").exists()
