"""cryoSPARC .cs files: conventions against independent computations, passthrough files, and every bad input."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from importing import N, pixels, run, save_stack
from scipy.spatial.transform import Rotation

import mpirecon as mr
from mpirecon.cli.import_ import command
from mpirecon.errors import UserError
from mpirecon.io.cryosparc import read_cryosparc
from mpirecon.io.cs_file import read_cs, with_columns
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.relion import read_relion
from mpirecon.model.aberrations import even_order, odd_order, tilt_coefficients, zernike_sum
from mpirecon.model.optics import electron_wavelength
from mpirecon.solvers.controls import micrographs

M = 8


def columns(m=M, **changes) -> dict[str, np.ndarray]:
    """Columns of a refinement's particles, in the types cryoSPARC writes; a change to None drops the column."""
    row, rng = np.arange(m), np.random.default_rng(3)
    found = {
        "uid": rng.integers(1, 2**63, m, dtype=np.uint64),
        "blob/path": np.array([b">J1/imported/a.mrcs"] * m), "blob/idx": row.astype("u4"),
        "blob/shape": np.full((m, 2), N, "u4"), "blob/psize_A": np.full(m, 2.5, "f4"), "blob/sign": np.ones(m, "f4"),
        "ctf/type": np.array([b"imported"] * m), "ctf/exp_group_id": (row % 3).astype("u4"),
        "ctf/accel_kv": np.full(m, 300, "f4"), "ctf/cs_mm": np.full(m, 2.7, "f4"),
        "ctf/amp_contrast": np.full(m, 0.1, "f4"), "ctf/df1_A": (1e4 + row).astype("f4"),
        "ctf/df2_A": (9e3 + row).astype("f4"), "ctf/df_angle_rad": (0.1 * row).astype("f4"),
        "ctf/phase_shift_rad": np.full(m, 0.25, "f4"), "ctf/scale": np.full(m, 0.5, "f4"),
        "ctf/bfactor": np.full(m, 20, "f4"),
        "ctf/tilt_A": np.zeros((m, 2), "f4"), "ctf/tetra_A": np.zeros((m, 4), "f4"),
        "ctf/anisomag": np.zeros((m, 4), "f4"),
        "alignments3D/split": (row % 2).astype("u4"), "alignments3D/shift": rng.normal(0, 3, (m, 2)).astype("f4"),
        "alignments3D/pose": rng.normal(0, 1.5, (m, 3)).astype("f4"), "alignments3D/psize_A": np.full(m, 5.0, "f4"),
        "alignments3D/cross_cor": (1.0 + row).astype("f4"),
    }
    found.update({name.replace("__", "/"): value for name, value in changes.items()})
    return {name: value for name, value in found.items() if value is not None}


def save_cs(path, found):
    """Write columns (or a structured array) as a .cs file."""
    if isinstance(found, dict):
        array = np.empty(len(next(iter(found.values()))), [(k, v.dtype, v.shape[1:]) for k, v in found.items()])
        for name, values in found.items():
            array[name] = values
        found = array
    with open(path, "wb") as file:
        np.save(file, found)
    return path


def make(tmp_path, images=None, **changes):
    save_stack(tmp_path / "J1" / "imported" / "a.mrcs", pixels(range(M)) if images is None else images)
    return save_cs(tmp_path / "p.cs", columns(**changes))


def rotation_matrix(vector) -> np.ndarray:
    """exp([w]x) by SciPy, transposed: the R of csparc2star and cryoDRGN."""
    return Rotation.from_rotvec(np.asarray(vector, np.float64)).as_matrix().swapaxes(-1, -2)


def test_every_quantity_of_every_row(tmp_path):
    cs = make(tmp_path)
    given = columns()
    file, text = run(cs)
    assert "8 particles of 6 x 6 pixels, 2.5 Å/px, float32, half sets of 4 and 4" in text and "Warning" not in text
    found = file.metadata()
    np.testing.assert_allclose(found.pose.matrices(), rotation_matrix(given["alignments3D/pose"]), atol=1e-12)
    np.testing.assert_allclose(found.pose.shift, -5.0 * given["alignments3D/shift"].astype(float), rtol=1e-12)
    np.testing.assert_array_equal(found.half, given["alignments3D/split"] + 1)
    np.testing.assert_array_equal(found.optics_group, given["ctf/exp_group_id"] + 1)
    for i in range(M):
        wanted = (300, 10000 + i, 9000 + i, 0.1 * i, 2.7, 0.1, 0.25, 20, 0.5)
        assert found.ctf[i].item() == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(M)))
    assert found.contrast == "white" and not found.ctf_premultiplied
    back = file.source_arrays()["particles"]
    assert back.dtype == read_cs(cs).dtype and back.tobytes() == read_cs(cs).tobytes()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 3), elements=st.floats(-6, 6, width=32)))
def test_rotation_vectors_of_any_length(tmp_path_factory, vectors):
    """Zero, tiny, and longer than a half turn."""
    vectors[0] *= 1e-9
    path = save_cs(tmp_path_factory.mktemp("cs") / "p.cs", columns(3, alignments3D__pose=vectors))
    np.testing.assert_allclose(read_cryosparc(path).pose.matrices(), rotation_matrix(vectors), atol=1e-9)


def test_the_star_twin_agrees(tmp_path):
    """The same particles as csparc2star would write them: Euler angles of R by SciPy, origins in Å, degrees."""
    from importing import table

    from mpirecon.io.star import write_star

    given = columns()
    angles = Rotation.from_rotvec(given["alignments3D/pose"].astype(float)).as_euler("ZYZ", degrees=True)
    origin = given["alignments3D/shift"].astype(float) * given["alignments3D/psize_A"][:, None]
    star = tmp_path / "twin.star"
    twin = table(
        M, rlnAngleRot=angles[:, 0], rlnAngleTilt=angles[:, 1], rlnAnglePsi=angles[:, 2], rlnOriginXAngst=origin[:, 0],
        rlnOriginYAngst=origin[:, 1], rlnDefocusAngle=np.degrees(given["ctf/df_angle_rad"].astype(float)),
        rlnPhaseShift=np.degrees(0.25), rlnCtfBfactor=20, rlnCtfScalefactor=0.5, rlnVoltage=300,
        rlnAmplitudeContrast=0.1, rlnSphericalAberration=2.7, rlnPixelSize=2.5,
        rlnOpticsGroup=given["ctf/exp_group_id"] + 1,
    )
    write_star(star, {"particles": twin}, overwrite=True)
    theirs, ours = read_relion(star), read_cryosparc(make(tmp_path))
    np.testing.assert_allclose(ours.pose.matrices(), theirs.pose.matrices(), atol=1e-9)
    np.testing.assert_allclose(ours.pose.shift, theirs.pose.shift, atol=1e-6)
    for name in ours.ctf.dtype.names:
        np.testing.assert_allclose(ours.ctf[name], theirs.ctf[name], rtol=1e-6)
    np.testing.assert_array_equal(ours.half, theirs.half)
    np.testing.assert_array_equal(ours.optics_group, theirs.optics_group)
    np.testing.assert_array_equal(ours.image, theirs.image)


def test_shifts_and_pixel_sizes(tmp_path):
    shift = columns()["alignments3D/shift"].astype(float)
    found = read_cryosparc(make(tmp_path, alignments3D__psize_A=None))
    np.testing.assert_allclose(found.pose.shift, -2.5 * shift, rtol=1e-6)
    assert "shifts are taken in pixels of blob/psize_A" in found.notes[0]
    found = read_cryosparc(make(tmp_path), pixel_size=2.6)  # a calibrated pixel size corrects the shifts with it
    np.testing.assert_allclose(found.pose.shift, -5.0 * 2.6 / 2.5 * shift, rtol=1e-6)
    assert found.pixel_size == 2.6 and "--pixel-size 2.6 is used instead of blob/psize_A" in found.notes[0]


@pytest.mark.parametrize(("sign", "contrast"), [(1, "white"), (-1, "black")])
def test_contrast_follows_the_sign(tmp_path, sign, contrast):
    cs = make(tmp_path, blob__sign=np.full(M, sign, "f4"))
    file, _ = run(cs)
    assert file.metadata().contrast == contrast
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(M)))
    assert run(cs, "--contrast", "white", "--overwrite")[0].metadata().contrast == "white"


@pytest.mark.parametrize("dtype", ["f4", "u2"])
def test_mixed_signs_become_white(tmp_path, dtype):
    sign = np.array([1, -1] * 4, "f4")
    file, text = run(make(tmp_path, pixels(range(M), dtype), blob__sign=sign))
    assert file.metadata().contrast == "white" and "blob/sign is -1 for 4 of 8 images" in text
    np.testing.assert_array_equal(file.images(slice(None)), pixels(range(M)) * sign[:, None, None])


def test_passthrough_is_joined_by_uid(tmp_path):
    whole = columns()
    moved = [name for name in whole if name.startswith("ctf/")]
    cs = make(tmp_path, **{name.replace("/", "__"): None for name in moved})
    order = np.random.default_rng(1).permutation(M)
    other = {name: whole[name][order] for name in ["uid", *moved]}
    other = {name: np.concatenate([values, values[:1]]) for name, values in other.items()}
    other["uid"][-1] = 7  # a particle that is not in the main file
    other["blob/sign"] = np.full(M + 1, -1, "f4")  # the main file's own column stays
    extra = save_cs(tmp_path / "passthrough.cs", other)
    with pytest.raises(UserError, match="columns are missing: ctf/df1_A.*--passthrough, or supply .*--voltage"):
        read_cryosparc(cs)
    one = [mr.read_cs(cs, passthrough=given).metadata().ctf for given in (str(extra), extra, [extra])]
    file, _ = run(cs, "--passthrough", extra)
    for ctf in one:  # a text is a name, not a list of letters
        np.testing.assert_array_equal(ctf, file.metadata().ctf)
    with pytest.raises(UserError, match="nosuch.cs"):
        mr.read_cs(cs, passthrough="nosuch.cs")
    reference, _ = run(make(tmp_path), output=tmp_path / "whole.h5")
    for name in ("quaternion", "shift"):
        np.testing.assert_array_equal(*(getattr(f.metadata().pose, name) for f in (file, reference)))
    np.testing.assert_array_equal(file.metadata().ctf, reference.metadata().ctf)
    assert file.metadata().contrast == "white"
    joined = file.source_arrays()["particles"]
    assert set(joined.dtype.names) == set(whole)
    for name, values in whole.items():
        np.testing.assert_array_equal(joined[name], values)


def test_a_passthrough_that_does_not_fit_is_refused(tmp_path):
    cs, whole = make(tmp_path), columns()
    fewer = save_cs(tmp_path / "fewer.cs", {"uid": whole["uid"][1:], "ctf/x": whole["blob/idx"][1:]})
    with pytest.raises(UserError, match=rf"fewer.cs lacks 1 of the 8 particles .*row 0, uid {whole['uid'][0]}"):
        read_cryosparc(cs, [fewer])
    twice = save_cs(tmp_path / "twice.cs", {"uid": np.repeat(whole["uid"], 2)})
    with pytest.raises(UserError, match="twice.cs: the uid .* occurs twice"):
        read_cryosparc(cs, [twice])
    none = save_cs(tmp_path / "none.cs", {"ctf/x": whole["uid"]})
    with pytest.raises(UserError, match="none.cs has no column uid"):
        read_cryosparc(cs, [none])
    with pytest.raises(UserError, match="--passthrough is for cryoSPARC files"):
        import_particles(tmp_path / "x.star", tmp_path / "o.h5", ImportOptions(passthrough=[none]))


def test_half_sets_and_planted_errors(tmp_path):
    constant = make(tmp_path, alignments3D__split=np.zeros(M, "u4"))
    file, text = run(constant, "--seed", 3, "--orientation-error-rate", 0.5)
    assert "half sets of 8 of 8 images were drawn with seed 3 (alignments3D/split is missing or not set)" in text
    assert set(file.halves()) == {1, 2} and file.metadata().pose_error.any()
    np.testing.assert_allclose(
        Rotation.from_matrix(rotation_matrix(columns()["alignments3D/pose"])).as_quat()[:, 3] ** 2,
        file.metadata().true_quaternion[:, 0] ** 2, atol=1e-9)


def test_tilt_and_magnification_make_optics_groups(tmp_path):
    tilt, matrix = np.zeros((M, 2), "f4"), np.zeros((M, 4), "f4")
    tilt[4:, 1], matrix[:2] = 2000.0, (0.01, -0.02, 0.005, 0)
    given = make(tmp_path, ctf__tilt_A=tilt, ctf__anisomag=matrix, ctf__tetra_A=np.ones((M, 4), "f4"),
                 ctf__exp_group_id=np.zeros(M, "u4"))
    file, text = run(given, "--cs-aberrations", "csparc2star")
    assert "Warning: not corrected for: ctf/tetra_A; --cs-aberrations all corrects for everything" in text
    assert "odd aberrations (beam tilt, trefoil …) in 1 of 3 optics groups; anisotropic magnification in 1 of 3" in text
    assert "Warning: ctf/tilt_A is corrected for with the sign that csparc2star gives it" in text
    found, group = file.aberrations(), file.metadata().optics_group
    row = found.rows(group)
    np.testing.assert_allclose(found.magnification[row[:2]], [[[1.01, -0.02], [0.005, 1]]] * 2, atol=1e-6)
    np.testing.assert_array_equal(found.magnification[row[2:]], [np.eye(2)] * (M - 2))
    assert not found.odd[row[:4]].any()
    angle = 1e3 * np.arcsin(2000.0 / (1e7 * file.metadata().ctf["cs_mm"][0]))
    np.testing.assert_allclose(
        found.odd[row[4:]], np.repeat(tilt_coefficients([[0, angle]], [2.7], [300.0]), 4, axis=0), rtol=1e-5
    )
    file, text = run(given, "--ignore-aberrations", "--overwrite")
    assert file.aberrations() is None and set(file.metadata().optics_group) == {1} and "are ignored" in text
    assert "ctf/tilt_A is" not in text and "Warning" not in text
    one = np.zeros(M, "u4")
    whole = np.tile(np.array([1.01, 0, 0, 1], "f4"), (M, 1))  # as other programs write it
    file, _ = run(make(tmp_path, ctf__anisomag=whole, ctf__exp_group_id=one), "--overwrite")
    np.testing.assert_allclose(file.aberrations().magnification, [[[1.01, 0], [0, 1]]], atol=1e-6)
    identity = np.tile(np.array([1, 0, 0, 1], "f4"), (M, 1))
    assert run(make(tmp_path, ctf__anisomag=identity), "--overwrite")[0].aberrations() is None
    with pytest.raises(UserError, match="p.cs, row 0: ctf/tilt_A is .*, larger than for any microscope"):
        read_cryosparc(make(tmp_path, ctf__tilt_A=np.full((M, 2), 9e7, "f4")))


def lens(**changes):
    """Columns of one lens: 300 kV, everything there is, in Å."""
    rows = {"ctf/tilt_A": (900.0, -400.0), "ctf/trefoil_A": (500.0, 300.0), "ctf/shift_A": (3.0, -2.0),
            "ctf/tetra_A": (4000.0, -3000.0, 20000.0, 9000.0)}
    return {name.replace("/", "__"): np.tile(np.array(values, "f4"), (M, 1)) for name, values in rows.items()} | changes


def phases(tilt=0, trefoil=0, shift=0, tetrafoil=0):
    """(phase of the transform, phase added to the CTF) of `lens` at some frequencies, by the formulas of docs/files.md,
    with each term times a sign; and the frequencies."""
    x, y = np.random.default_rng(0).normal(0, 0.15, (2, 50))
    k, angle, w = np.hypot(x, y), np.arctan2(y, x), electron_wavelength(300.0)
    odd = tilt * 2 * np.pi * w**2 * (900 * x - 400 * y) * k**2 - shift * 2 * np.pi * (3 * x - 2 * y)
    odd += trefoil * 2 * np.pi / 3 * w**2 * k**3 * (500 * np.cos(3 * angle) + 300 * np.sin(3 * angle))
    two, four = (
        4000 * np.cos(2 * angle) - 3000 * np.sin(2 * angle),
        20000 * np.cos(4 * angle) + 9000 * np.sin(4 * angle),
    )
    return odd, -tetrafoil * w**3 * k**4 * (2 * np.pi * two + np.pi / 2 * four), x, y


@pytest.mark.parametrize(
    ("choice", "signs"),
    [
        (None, dict.fromkeys(("tilt", "trefoil", "shift", "tetrafoil"), 1)),
        ("all", dict.fromkeys(("tilt", "trefoil", "shift", "tetrafoil"), 1)),
        ("csparc2star", {"tilt": -1}),
        ("-tilt,trefoil", {"tilt": -1, "trefoil": 1}),
        ("shift,-tetrafoil", {"shift": 1, "tetrafoil": -1}),
    ],
)
def test_aberrations_have_the_phases_asked_for(tmp_path, choice, signs):
    file, text = run(make(tmp_path, **lens()), *(["--cs-aberrations", choice] if choice else []))
    found = file.aberrations()
    odd, even, x, y = phases(**signs)
    for row in range(len(found.group)):
        np.testing.assert_allclose(zernike_sum(found.odd[row], odd_order, x, y), odd, atol=1e-5)
        np.testing.assert_allclose(-zernike_sum(found.even[row], even_order, x, y), even, atol=1e-5)
    assert "mpirecon aberrations OUT checks" in text
    assert ("not corrected for" in text) == (choice not in (None, "all"))


def test_a_choice_of_aberrations_that_makes_no_sense_is_refused(tmp_path):
    path = make(tmp_path, **lens())
    for choice in ("coma", "tilt,tilt", "--tilt", ""):
        result = CliRunner().invoke(command, [str(path), "-o", str(tmp_path / "o.h5"), f"--cs-aberrations={choice}"])
        assert result.exit_code == 2 and "expected csparc2star, all, none, or some of tilt, trefoil" in result.output
    with pytest.raises(UserError, match="leave one out"):
        run(path, "--cs-aberrations", "all", "--ignore-aberrations")
    file, text = run(path, "--cs-aberrations", "none")
    assert (
        file.aberrations() is None and "not corrected for: ctf/tilt_A, ctf/trefoil_A, ctf/tetra_A, ctf/shift_A" in text
    )
    file, text = run(path, "--ignore-aberrations", "--overwrite")
    assert file.aberrations() is None and "Warning" not in text and "are ignored" in text


def test_bad_images_are_skipped_with_their_rows(tmp_path):
    images = pixels(range(M))
    images[5] = 3
    cs = make(tmp_path, images)
    with pytest.raises(UserError, match=r"p.cs, row 5 \(image 6@J1/imported/a.mrcs\) is constant; .*--skip-bad"):
        run(cs)
    file, _ = run(cs, "--skip-bad", "--max-bad", 0.2)
    kept = np.delete(np.arange(M), 5)
    np.testing.assert_array_equal(file.source_arrays()["particles"], read_cs(cs)[kept])
    np.testing.assert_array_equal(file.images(slice(None)), images[kept])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blob__path": None}, "names no images .blob/path, blob/idx."),
        ({"alignments3D__pose": None}, "has no 3-D poses .*: it has no alignments; give the particles of a refinement"),
        ({"alignments3D__pose": None, "alignments_class_0__pose": np.zeros((M, 3), "f4")},
         r"poses are those of several classes \(alignments_class_0\)"),
        ({"ctf__df1_A": None}, "columns are missing: ctf/df1_A; join .*--passthrough; --no-ctf where the images have "
         "no CTF$"),
        ({"ctf__cs_mm": None}, "columns are missing: ctf/cs_mm; .*options --cs"),
        ({"blob__psize_A": np.array([2.5] * 7 + [3], "f4")}, "row 7: blob/psize_A is 3, but 2.5 in row 0"),
        ({"blob__psize_A": np.zeros(M, "f4")}, "row 0: blob/psize_A is 0, expected a positive number"),
        ({"blob__shape": np.array([[6, 6]] * 7 + [[6, 8]], "u4")}, "row 7: blob/shape is 8 x 6, but 6 in row 0"),
        ({"blob__shape": np.full((M, 2), 9, "u4")}, "row 0: blob/shape is 9, but the images of .* have 6 pixels"),
        ({"blob__idx": np.arange(1, 9, dtype="u4")}, "row 7: image 9 is past the end of .*a.mrcs, which has 8 images"),
        ({"blob__path": np.array([b">J1/imported/a.mrcs"] * 7 + [b""])}, "row 7: image 7 of ''; blob/path .* not set"),
        ({"blob__path": np.array([b"J9/b.mrcs"] * M)}, "row 0: the stack J9/b.mrcs is not there, .* the .cs file"),
        ({"alignments3D__split": np.full(M, 2, "u4")}, "row 0: alignments3D/split is 2, expected 0 or 1"),
        ({"alignments3D__pose": np.full((M, 3), np.nan, "f4")}, "row 0: alignments3D/pose is .*expected finite"),
        ({"alignments3D__pose": np.zeros(M, "f4")}, r"alignments3D/pose is float32 \(8,\), expected numbers of .*8, 3"),
        ({"ctf__df1_A": np.full(M, 1e7, "f4")}, r"row 0 \(image 1@J1.*CTF defocus_u is 1e.07 Å, outside"),
    ],
)
def test_bad_columns_are_refused(tmp_path, changes, message):
    cs = make(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        run(cs)
    assert re.search(message, str(error.value)), str(error.value)
    assert str(cs) in str(error.value) and "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data_particles\n", "not a .cs file: it is no NumPy array"),
        (b"\x94CSDAT123", "cryoSPARC's stream format"),
        (b"\x93NUMPY\x01\x00", "damaged or truncated"),
        (np.zeros((3, 3)), r"a table was expected, this is float64 \(3, 3\)"),
        (np.array([None, 1], dtype=object), "it holds Python objects"),
        (np.zeros(0, [("uid", "u8")]), "has no particles"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.cs"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with open(path, "wb") as file:
            np.save(file, content)
    with pytest.raises(UserError, match=message):
        read_cs(path)
    whole = make(tmp_path).read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="damaged or truncated"):
        read_cs(path)
    with pytest.raises(UserError, match="cannot read .*no.cs: No such file"):
        read_cs(tmp_path / "no.cs")


def test_arrays_of_any_type_are_kept_bit_for_bit(tmp_path):
    """Text of any width, big-endian numbers, booleans, strings of length zero, names with slashes."""
    rng = np.random.default_rng(0)
    odd = {
        "u/text": np.array(["é", "", "a b"] * 3)[:M], "big": np.arange(M, dtype=">f8"), "flag": np.arange(M) % 2 == 0,
        "complex": np.full(M, 1 + 2j), "b/nul": np.array([b"a\0b"] * M), "empty": np.zeros(M, "S0"),
        "wide": rng.normal(size=(M, 2, 3)).astype("f2"),
    }
    cs = make(tmp_path)
    save_cs(cs, with_columns(read_cs(cs), odd))
    back = run(cs)[0].source_arrays()["particles"]
    assert back.dtype == read_cs(cs).dtype and back.tobytes() == read_cs(cs).tobytes()


def test_fields_are_columns_by_their_names(tmp_path):
    filament = np.arange(M, dtype="u8") // 2 + 2**63
    cs = make(tmp_path, filament__filament_uid=filament, location__micrograph_uid=filament // 2)
    file = run(cs)[0]
    np.testing.assert_array_equal(file.source_column("filament/filament_uid"), filament.astype(str))
    np.testing.assert_array_equal(file.source_column("blob/path"), [">J1/imported/a.mrcs"] * M)
    np.testing.assert_array_equal(file.source_column("ctf/scale").astype(float), [0.5] * M)
    number, names = micrographs(file)
    assert [names[i] for i in number] == (filament // 2).astype(str).tolist()
    with pytest.raises(UserError, match="alignments3D/pose is 3 numbers a row; expected a column of single values"):
        file.source_column("alignments3D/pose")
    with pytest.raises(UserError, match="no column filament; it has alignments3D/cross_cor, .*filament/filament_uid"):
        file.source_column("filament")


def test_groups_of_a_field_are_wrong_together(tmp_path):
    cs = make(tmp_path, filament__filament_uid=np.arange(M, dtype="u8") // 2)
    errors = ("--offset-error", 5, "--offset-error-rate", 0.5, "--error-by")
    planted = run(cs, *errors, "filament/filament_uid", "--seed", 2)[0].metadata().planted_offset.reshape(-1, 2)
    assert (planted[:, 0] == planted[:, 1]).all() and 0 < planted.mean() < 1
    done = CliRunner().invoke(command, [str(cs), "-o", str(tmp_path / "q.h5"), *map(str, errors), "filament"])
    assert done.exit_code and "--error-by filament: " in str(done.exception) and "it has uid, " in str(done.exception)


# --- real files ---------------------------------------------------------------------------------------------------


def test_a_real_refinement(shared_data, tmp_path):
    path = shared_data / "star_dialects" / "cryosparc_P12_J24_001_particles.cs"
    raw, found = np.load(path), read_cryosparc(path)
    assert len(found) == 2019 and found.contrast == "black" and found.image_size == 180 and found.warnings == []
    np.testing.assert_allclose(found.pose.matrices(), rotation_matrix(raw["alignments3D/pose"]), atol=1e-12)
    np.testing.assert_allclose(found.pose.shift, -2.95 * raw["alignments3D/shift"].astype(float), atol=1e-6)
    np.testing.assert_array_equal(found.ctf["defocus_u"], raw["ctf/df1_A"])
    np.testing.assert_array_equal(found.ctf["astigmatism"], raw["ctf/df_angle_rad"])
    assert found.pixel_size == pytest.approx(2.95, rel=1e-6) and np.bincount(found.half).tolist() == [0, 1010, 1009]
    assert "alignments3D/alpha" in found.notes[0]
    message = r"particles.cs, row 0: the stack J19/extract/\S+ is not there.*50 of 50 stacks"
    with pytest.raises(UserError, match=message):
        import_particles(path, tmp_path / "p.h5", ImportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_real_2d_classification_is_refused(shared_data):
    with pytest.raises(UserError, match="has no 3-D poses .*: it has 2-D alignments only"):
        read_cryosparc(shared_data / "star_dialects" / "cryosparc_J2_particles_exported.cs")
