"""Tables that lack what a reconstruction needs, or say of their rows or images what the numbers do not."""

from __future__ import annotations

import numpy as np
import pytest
import test_cryosparc as cs
from importing import OPTICS, line_of, make, refused, run, table
from test_columns import M, N, cryosparc, images, star, views

# ------------------------------------------------------------ poses


def test_poses_that_were_never_found(tmp_path):
    none = np.arange(M) % 3 == 1
    changes = {
        label: np.where(none, 0, views()[label])
        for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    }
    path = star(tmp_path, **changes)
    assert (f"are exactly 0 for 13 of 40 particles, the shift too for 13 of them (first: {tmp_path}/p.star, line "
            f"{line_of(path, '000002@')}); were they ever aligned?") in run(path)[1]
    poses = cs.columns(M)["alignments3D/pose"]
    poses[none] = 0
    assert (
        "alignments3D/pose is exactly 0 for 13 of 40 particles"
        in run(cryosparc(tmp_path, alignments3D__pose=poses), "--overwrite")[1]
    )
    poses[none] = (0.3, -0.2, 1.0)
    assert (
        "13 of 40 particles have the very same pose (first:"
        in run(cryosparc(tmp_path, alignments3D__pose=poses), "--overwrite")[1]
    )


def test_one_view_makes_no_map(tmp_path):
    words = "all 40 particles are seen from one direction, as after a 2-D classification; no 3-D map"
    refused(star(tmp_path, rlnAngleRot=0, rlnAngleTilt=0), words)
    refused(star(tmp_path, rlnAngleRot=0, rlnAngleTilt=0, rlnAnglePsi=0), words)
    refused(star(tmp_path, rlnAngleRot=30, rlnAngleTilt=70), "all 40 particles are seen from one direction; no 3-D map")
    in_plane = np.zeros((M, 3), "f4")
    in_plane[:, 2] = np.linspace(-3, 3, M)
    refused(cryosparc(tmp_path, alignments3D__pose=in_plane), words)
    assert "Warning" not in run(star(tmp_path, rlnAngleTilt=90))[1]  # a filament: all of Fourier space is there
    near = run(star(tmp_path, rlnAngleTilt=45 + views()["rlnAngleTilt"] / 30, rlnAngleRot=views()["rlnAngleRot"] / 30),
               "--overwrite")[1]
    assert "all 40 particles are seen from nearly one direction" in near


# ------------------------------------------------------------ what rows are


def test_subtomograms_are_refused_by_that_name(tmp_path):
    words = "subtomograms are not supported, only 2-D images"
    refused(star(tmp_path, rlnCtfImage="c.mrc"), words)
    for label in ("rlnOriginZ", "rlnOriginZAngst"):
        refused(star(tmp_path, **{label: 1.5}), f"{label} is not zero.*{words}")
        run(star(tmp_path, **{label: 0.0}), "--overwrite")
    for prefix in ("", "1@"):
        stacks = {f"sub/{i}.mrc": images(12, 12) for i in range(3)}
        particles = table(3, rlnImageName=[prefix + name for name in stacks])
        path = make(tmp_path, particles, {**OPTICS, "rlnImageSize": [12]}, stacks)
        refused(path, f"0.mrc is a volume of 12 x 12 x 12 voxels, and so is that of each of the 3 rows; {words}")
    single = {f"one/{i}.mrc": images(1, 12) for i in range(3)}
    run(make(tmp_path, table(3, rlnImageName=list(single)), {**OPTICS, "rlnImageSize": [12]}, single), "--overwrite")


@pytest.mark.parametrize("column, word", [("movie_blob/path", "movies"), ("micrograph_blob/path", "micrographs"),
                                          ("map/path", "volumes"),
                                          ("location/center_x_frac", "picks on micrographs")])  # fmt: skip
def test_files_of_other_jobs_are_named(tmp_path, column, word):
    path = cs.save_cs(tmp_path / "p.cs", {"uid": np.arange(1, 4, dtype=np.uint64), column: np.array([b"x"] * 3)})
    refused(path, f"names no images .*: its rows are {word} ")


# ------------------------------------------------------------ what the table does not say


def test_defocus_without_astigmatism(tmp_path):
    file, text = run(star(tmp_path, rlnDefocusV=None, rlnDefocusAngle=None))
    ctf = file.metadata().ctf
    np.testing.assert_array_equal(ctf["defocus_u"], ctf["defocus_v"])
    assert (
        not ctf["astigmatism"].any()
        and "the table has no rlnDefocusV: the defocus is rlnDefocusU in all directions" in text
    )
    file, text = run(star(tmp_path, rlnDefocusAngle=None), "--overwrite")
    most = np.abs(views()["rlnDefocusU"] - views()["rlnDefocusV"]).max()
    assert f"astigmatism of up to {most:.0f} Å is taken as if rlnDefocusU were along x" in text and "Warning" in text
    good = cs.columns(M)["ctf/df1_A"]
    file, text = run(cryosparc(tmp_path, ctf__df2_A=None, ctf__df_angle_rad=None), "--overwrite")
    np.testing.assert_array_equal(file.metadata().ctf["defocus_v"], good)
    assert "there is no ctf/df2_A" in text


def test_images_without_ctf(tmp_path):
    bare = star(tmp_path, {"rlnBeamTiltX": [1.0], "rlnBeamTiltY": [0.5]}, rlnDefocusU=None, rlnDefocusV=None,
                rlnDefocusAngle=None)
    refused(bare, "CTF columns are missing: rlnDefocusU.*--no-ctf where the images have no CTF")
    file, text = run(bare, "--no-ctf")
    assert "--no-ctf: no CTF is applied" in text and file.aberrations() is None
    from mpirecon.operators.ctf import ctf_samples
    from mpirecon.operators.half_plane import HalfPlane

    np.testing.assert_allclose(ctf_samples(file.metadata().ctf, HalfPlane.of(N), 2.5), 1, atol=1e-6)
    gone = {name.replace("/", "__"): None for name in cs.columns(M) if name.startswith("ctf/")
            and name != "ctf/exp_group_id"}
    refused(cryosparc(tmp_path, **gone), "ctf/df1_A.*--no-ctf where the images have no CTF")
    file, _ = run(cryosparc(tmp_path, **gone), "--no-ctf", "--overwrite")
    np.testing.assert_allclose(ctf_samples(file.metadata().ctf, HalfPlane.of(N), 2.5), 1, atol=1e-6)
    for other in ("--ctf-premultiplied", "--ctf-phase-flipped"):
        refused(bare, "leave one out", "--no-ctf", other)


def test_what_was_done_to_the_images(tmp_path):
    """The table's columns, and the options that speak instead of them."""
    def state(path, *options):
        p = run(path, *options, "--overwrite")[0].metadata()
        return p.ctf_premultiplied, p.ctf_phase_flipped

    flipped = star(tmp_path, {"rlnCtfDataArePhaseFlipped": [1]})
    assert state(flipped) == (False, True) and "phase-flipped" in run(flipped, "--overwrite")[1]
    assert state(flipped, "--no-ctf-phase-flipped") == (False, False)
    assert state(flipped, "--ctf-premultiplied") == (True, False)  # no sign is left
    assert state(flipped, "--no-ctf") == (False, False)
    multiplied = star(tmp_path, {"rlnCtfDataAreCtfPremultiplied": [1]})
    assert state(multiplied) == (True, False) and state(multiplied, "--no-ctf-premultiplied") == (False, False)
    assert state(multiplied, "--no-ctf-premultiplied", "--ctf-phase-flipped") == (False, True)
    for option, wanted in (("--ctf-premultiplied", (True, False)), ("--ctf-phase-flipped", (False, True))):
        assert state(star(tmp_path), option) == state(cryosparc(tmp_path), option) == wanted
    refused(star(tmp_path), "leave one out", "--ctf-premultiplied", "--ctf-phase-flipped")
    refused(star(tmp_path), "contradict each other", "--ctf-premultiplied", "--no-ctf-premultiplied")
    two = {label: values * 2 for label, values in OPTICS.items()} | {
        "rlnOpticsGroup": [1, 2],
        "rlnCtfDataArePhaseFlipped": [1, 0],
        "rlnImageSize": [N] * 2,
    }
    mixed = star(tmp_path, two, rlnOpticsGroup=1 + np.arange(M) % 2)
    refused(mixed, "rlnCtfDataArePhaseFlipped is 0 .*import the images of each value apart, or say "
            ".*--ctf-phase-flipped")
