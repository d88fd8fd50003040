"""Shifts that are in another unit, of another sign or other axes than the images have them: told with the option that
helps, and no other set is spoken ill of.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from test_reconstruct_relion import export

from mpirecon.cli import run
from mpirecon.io.export_simulated import axes_of, changed
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.reading import SHIFT_AXES, parse_unit
from mpirecon.io.star import read_star, write_star
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.simulation.phantom import phantom
from mpirecon.validate.conventions import POSES, conventions
from mpirecon.validate.low_slices import LowSlices
from mpirecon.validate.shift_conventions import ShiftSample

BOX, PIXEL = 32, 3.0


@lru_cache(maxsize=None)
def simulated(*words) -> bytes:
    """The particle file that the command makes."""
    with tempfile.TemporaryDirectory() as folder:
        assert run(["simulate", *words, "-o", f"{folder}/p.h5"]) == 0
        return Path(folder, "p.h5").read_bytes()


def simulate(path, *options, m=400, pixel=PIXEL):
    options = {"--snr": 0.1, "--shift-sigma": 2.5 * pixel, **dict(zip(options[::2], options[1::2]))}
    given = [str(part) for pair in options.items() for part in pair if part is not None]
    made = f"--phantom --box {BOX} --pixel-size {pixel} --particles {m} --seed 4 -q".split()
    Path(path).write_bytes(simulated(*made, *given))
    return path


def first_record(particles, *options):
    """What the first iteration of a run has of shifts, and the run's warnings of them."""
    out = Path(particles).with_suffix(".run")
    assert run(["reconstruct", str(particles), "-o", str(out), "--no-postprocess", "--overwrite", "-q", *options]) == 0
    summary = json.loads((out / "summary.json").read_text())
    return summary["iterations"][0].get("shifts"), [text for text in summary["warnings"] if "shifts" in text]


def change_shifts(particles, change):
    with h5py.File(particles, "r+") as file:
        file["shift"][:] = change(file["shift"][:])


def slices_by_definition(volume, last, matrices):
    n = len(volume)
    z, y, x = np.indices(volume.shape) - n // 2
    ky, kx = np.meshgrid(np.arange(-last, last + 1), np.arange(last + 1), indexing="ij")
    k = matrices[:, 0, :, None, None] * kx + matrices[:, 1, :, None, None] * ky  # x, y, z
    phase = np.einsum("mcij,cp->mijp", k, np.stack([part.ravel() for part in (x, y, z)]))
    return np.exp(-2j * np.pi / n * phase) @ volume.ravel()


@pytest.mark.parametrize("n", [16, 17])
def test_low_slices_are_those_of_the_map(n):
    volume = phantom(n).astype(np.float32)
    rng = np.random.default_rng(1)
    matrices = np.stack([np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(5)])
    found, wanted = LowSlices(volume, 4).at(matrices), slices_by_definition(volume.astype(float), 4, matrices)
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_conventions_are_distinguished_where_they_differ():
    for pixel, count in ((1.0, 1 + 2 + 1 + 21), (1.005, 25), (2.0, 25), (4.0, 1 + 4 + 1 + 35)):
        known = conventions(pixel)
        assert len(known) == count and known[0].words == "as given" and len({c.words for c in known}) == count
        assert {c.words for c in known if c.factor == 0} == {"all 0"}
    assert all(np.array_equal(np.abs(m) @ [1, 1], [1, 1]) for m in SHIFT_AXES.values()) and len(SHIFT_AXES) == 8


WRONG = {
    "multiplied by the pixel size": lambda shift: shift / PIXEL,
    "divided by the pixel size": lambda shift: shift * PIXEL,
    "with the other sign": lambda shift: -shift,
    "with x and y exchanged": lambda shift: shift[:, ::-1],
    "with the other sign of y": lambda shift: shift * [1, -1],
    "half as long": lambda shift: 2 * shift,
    "with x and y exchanged and the other sign of x, multiplied by the pixel size": lambda shift: (
        shift[:, ::-1] * [1, -1] / PIXEL
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_other_shifts_are_found_out(tmp_path, words, capsys):
    particles = simulate(tmp_path / "p.h5", "--error-rate", 0.3)
    change_shifts(particles, WRONG[words])
    found, warnings = first_record(particles)
    assert found["better"] == words and len(warnings) == 1 and f"with shifts {words} they predict" in warnings[0]
    assert "was not imported from a table" in warnings[0]
    assert (
        warnings[0] in capsys.readouterr().err
        and "images contradict the shifts" in (tmp_path / "p.run/report.html").read_text()
    )


RIGHT = {
    "as they are": (),
    "wrong poses": ("--error-rate", 0.3),
    "centred": ("--shift-sigma", 0),
    "tiny": ("--shift-sigma", 0.6),
    "noisy": ("--snr", 0.01),
    "clean": ("--snr", "inf"),
    "junk": ("--junk-rate", 0.5, "--error-rate", 0.3),
    "nothing": ("--junk-rate", 1.0),
    "lost shifts of a third": ("--shift-sigma", 0.6, "--offset-error-rate", 0.3, "--offset-error", 15),
    "small errors": ("--error-rate", 1.0, "--error-kind", "small:5", "--offset-error", 2),
    "one direction": ("--preferred-views", 0.9),
    "premultiplied": ("--ctf-premultiply", None),
    "flipped": ("--ctf-phase-flip", None),
    "no angle is right": ("--error-rate", 1.0),
}


@pytest.mark.parametrize("what", RIGHT)
def test_no_false_alarm(tmp_path, what):
    found, warnings = first_record(simulate(tmp_path / "p.h5", *RIGHT[what]))
    assert found["better"] is None and not warnings and found["warning"] is None and found["part"] is None


@pytest.mark.parametrize("pixel", [0.9, 1.0, 1.03, 1.2])
def test_no_false_alarm_where_pixels_are_about_1_angstrom(tmp_path, pixel):
    particles = simulate(tmp_path / "p.h5", pixel=pixel)
    assert first_record(particles)[0]["better"] is None
    change_shifts(particles, lambda shift: -shift)
    assert first_record(particles)[0]["better"] == "with the other sign"


@pytest.mark.parametrize("options", [("--ctf-premultiply", None), ("--ctf-phase-flip", None)])
def test_whatever_was_done_to_the_images(tmp_path, options):
    particles = simulate(tmp_path / "p.h5", *options)
    change_shifts(particles, lambda shift: shift[:, ::-1])
    assert first_record(particles, "--loss", "posterior")[0]["better"] == "with x and y exchanged"


def test_rotations_of_the_inverse_sense(tmp_path):
    particles = simulate(tmp_path / "p.h5", "--error-rate", 0.3, "--shift-sigma", 0)
    with h5py.File(particles, "r+") as file:
        file["quaternion"][:] *= [1, -1, -1, -1]
    found, warnings = first_record(particles)
    assert (
        found["better"] == "that are the inverse ones"
        and "write them the other way round" in found["warning"]
        and not warnings[1:]
    )


ANGLES = {
    "with Rot and Psi exchanged": lambda rot, tilt, psi: (psi, tilt, rot),
    "with the other sign of Rot": lambda rot, tilt, psi: (-rot, tilt, psi),
    "with the other sign of Psi": lambda rot, tilt, psi: (rot, tilt, -psi),
    "with the other sign of Rot and Psi": lambda rot, tilt, psi: (-rot, -tilt, -psi),
    "with a Psi that is 90 degrees more or less": lambda rot, tilt, psi: (rot + 90, tilt, psi - 90),  # ZXZ
    "with a Tilt that is counted from the equator": lambda rot, tilt, psi: (rot, 90 - tilt, psi),
}


@pytest.mark.parametrize("words", ANGLES)
def test_euler_angles_of_another_convention(tmp_path, words):
    particles = simulate(tmp_path / "p.h5", "--error-rate", 0.2)
    with h5py.File(particles, "r+") as file:
        given = Pose(file["quaternion"][:], file["shift"][:])
        file["quaternion"][:] = Pose.from_euler(*ANGLES[words](*given.euler().T)).quaternion
    found, warnings = first_record(particles)
    assert found["better"] == words and not warnings[1:]
    assert f"with rotations {words} they predict" in found["warning"] and "Rz(Psi) Ry(Tilt) Rz(Rot)" in found["warning"]


def test_the_hand_and_a_turn_of_the_map_are_no_contradiction(tmp_path):
    particles = simulate(tmp_path / "p.h5")
    with h5py.File(particles, "r+") as file:
        rot, tilt, psi = Pose(file["quaternion"][:], file["shift"][:]).euler().T
        file["quaternion"][:] = Pose.from_euler(rot + 90, tilt, psi + 180).quaternion
    assert first_record(particles)[0]["better"] is None


@pytest.mark.parametrize("words, turn, sigma", [
    ("turned by 90 degrees", lambda images: np.roll(np.rot90(images, axes=(1, 2)), 1, axis=1), 7),
    ("with rows and columns exchanged", lambda images: images.transpose(0, 2, 1), 0),
    ("upside down", lambda images: images[:, ::-1], 0), ("upside down", lambda images: images[:, ::-1], 7),
    ("with rows and columns exchanged", lambda images: images.transpose(0, 2, 1), 7),
])  # fmt: skip
def test_images_in_other_axes_than_their_poses(tmp_path, words, turn, sigma):
    particles = simulate(tmp_path / "p.h5", "--shift-sigma", sigma)
    with h5py.File(particles, "r+") as file:
        images = np.ascontiguousarray(turn(file["images"][:]))
        # the particle sits about pixel n // 2, which a turned image has elsewhere
        file["images"][:] = np.roll(images, 1, axis=1) if words == "upside down" else images
    found, _ = first_record(particles)
    assert found["better"] == words and "the images contradict the poses" in found["warning"]


@pytest.mark.parametrize("x, y, snr", [(1, 0, 0.1), (1, 1, 0.1), (-5, 4, 0.1), (0, 3, 0.02)])
def test_images_about_another_pixel(tmp_path, x, y, snr):
    particles = simulate(tmp_path / "p.h5", "--snr", snr, "--error-rate", 0.2)
    with h5py.File(particles, "r+") as file:
        file["images"][:] = np.roll(file["images"][:], (y, x), axis=(1, 2))
    found, warnings = first_record(particles)
    assert found["better"] == f"moved by {x} pixels along x and {y} along y" and not warnings[1:]
    assert f"add {0 - PIXEL * x:g} and {0 - PIXEL * y:g} Å to rlnOriginXAngst and rlnOriginYAngst" in found["warning"]


PARTS = {
    "with the other sign": lambda shift: -shift,
    "with x and y exchanged": lambda shift: shift[:, ::-1],
    "multiplied by the pixel size": lambda shift: shift / PIXEL,
}


@pytest.mark.parametrize("words", PARTS)
@pytest.mark.parametrize("by", ["rows", "optics group"])
def test_other_shifts_of_a_part_of_the_particles(tmp_path, words, by):
    particles = simulate(tmp_path / "p.h5")
    part = np.arange(400) < 120 if by == "rows" else np.random.default_rng(1).random(400) < 0.35
    with h5py.File(particles, "r+") as file:
        shift = file["shift"][:]
        file["shift"][:] = np.where(part[:, None], PARTS[words](shift), shift)
        if by == "optics group":
            file["optics_group"][:] = np.where(part, 7, 2)
    found, warnings = first_record(particles)
    which = found["part"]["particles"]
    assert found["better"] is None and found["part"]["better"] == words and not warnings[1:]
    assert which.startswith("optics group 7" if by == "optics group" else "particles ")
    assert by == "optics group" or int(which.split()[1]) < 10 and int(which.split()[3]) < 120
    assert f"the images of {which} contradict their shifts" in found["warning"]


def test_a_table_of_which_a_part_is_otherwise(tables):
    part = np.arange(400)[:, None] < 120
    star = tables(lambda origin: (ANGST, np.where(part, -origin, origin)))
    warnings = first_record(imported(star))[1]
    assert f"of these rows of {star} are so, import them apart (--select) with --unit shift=-A" in warnings[0]


def test_few_particles_say_nothing(tmp_path):
    particles = simulate(tmp_path / "p.h5", m=40)
    change_shifts(particles, lambda shift: -shift)
    assert first_record(particles) == (None, [])


# tables, and the options that help


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """``tables(change)`` → a STAR file whose origins, in pixels and in Å,
    are what `change` makes of the right ones, (label, values) …
    """
    folder = tmp_path_factory.mktemp("shifts")
    simulate(folder / "p.h5")
    export(folder / "p.h5", folder / "p.star", folder / "s.mrcs")

    def make(change) -> Path:
        found = read_star(folder / "p.star")
        particles = found["particles"].copy()
        origin = np.stack([pd.to_numeric(particles.pop(f"rlnOrigin{axis}Angst")) for axis in "XY"], axis=1)
        labels, values = change(origin)
        for label, column in zip(labels, values.T):
            particles[label] = column
        write_star(folder / "changed.star", {**found, "particles": particles}, overwrite=True)
        return folder / "changed.star"

    make.right = folder / "p.star"
    return make


ANGST, PIXELS = ("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY")
TABLES = {
    "--unit shift=pixel": lambda o: (ANGST, o / PIXEL),
    "--unit shift=A": lambda o: (PIXELS, o),
    "--unit shift=-A": lambda o: (ANGST, -o),
    "--unit shift=-pixel": lambda o: (PIXELS, -o / PIXEL),
    "--shift-axes=y,x": lambda o: (PIXELS, o[:, ::-1] / PIXEL),
    "--unit shift=0.5": lambda o: (ANGST, 2 * o),
    "--unit shift=pixel --shift-axes=x,-y": lambda o: (ANGST, o * [1, -1] / PIXEL),
}


def imported(star, *options):
    out = star.with_suffix(".h5")
    assert run(["import", str(star), "-o", str(out), "--overwrite", "-q", *options]) == 0
    return out


@pytest.mark.parametrize("option", TABLES)
def test_the_option_that_is_named_puts_a_table_right(tables, option):
    with ParticleFile(imported(tables.right)) as file:
        wanted = file.metadata().pose.shift
    star = tables(TABLES[option])
    warnings = first_record(imported(star))[1]
    assert len(warnings) == 1 and f"If the shifts of {star} are so, import it again with {option}" in warnings[0]
    with ParticleFile(imported(star, *option.split())) as file:
        np.testing.assert_allclose(file.metadata().pose.shift, wanted, atol=1e-4)
    if option == "--unit shift=pixel":  # the others are the same shifts
        assert first_record(star.with_suffix(".h5"))[1] == []


def test_an_option_that_was_wrong_itself(tables):
    """What is named goes from what was given, and a table may be reconstructed from as it is."""
    star = tables(lambda origin: (ANGST, origin))
    warnings = first_record(imported(star, "--unit", "shift=-pixel", "--shift-axes", "y,x"))[1]
    assert "again with --unit shift=A and without --shift-axes" in warnings[0]
    assert "again without --shift-axes" in first_record(star, "--shift-axes=-x,-y")[1][0]


def test_shifts_of_a_cs_file(tmp_path):
    import test_cryosparc as cs

    shift = np.random.default_rng(3).uniform(-9, 9, (8, 2))
    changes = {
        "blob__shape": np.full((8, 2), 64, "u4"),
        "alignments3D__shift": shift.astype("f4"),
        "alignments3D__psize_A": np.full(8, 5.0, "f4"),
    }
    cs.save_cs(tmp_path / "p.cs", cs.columns(8, **changes))
    from importing import save_stack

    save_stack(
        tmp_path / "J1" / "imported" / "a.mrcs", np.random.default_rng(1).standard_normal((8, 64, 64)).astype("f4")
    )
    for options, wanted in (
        ((), -5 * shift),
        (("--unit", "shift=-A"), shift),
        (("--unit", "shift=2.5"), -2.5 * shift),
        (("--unit", "shift=0"), 0 * shift),
        (("--shift-axes", "y,x"), -5 * shift[:, ::-1]),
    ):
        assert run(["import", str(tmp_path / "p.cs"), "-o", str(tmp_path / "p.h5"), "--overwrite", "-q", *options]) == 0
        with ParticleFile(tmp_path / "p.h5") as file:
            np.testing.assert_allclose(file.metadata().pose.shift, wanted, atol=1e-5)


def test_units_of_shifts():
    assert (
        parse_unit("shift=-px") == ("shift", "-pixel")
        and parse_unit("shift=1.5") == ("shift", "1.5")
        and parse_unit("shift=0")[1] == "0"
    )
    for text in ("shift=nan", "shift=inf", "shift=foot", "voltage=2", "angles=-degree"):
        with pytest.raises(ValueError, match="expected QUANTITY=UNIT"):
            parse_unit(text)


def test_ranks_agree(tmp_path, mpirun):
    particles = simulate(tmp_path / "p.h5")
    change_shifts(particles, lambda shift: -shift)
    one, (warning,) = first_record(particles)
    done = mpirun(3, ["-m", "mpirecon", "reconstruct", particles, "-o", tmp_path / "three", "--no-postprocess", "-q"])
    assert done.returncode == 0 and warning in done.stderr
    three = json.loads((tmp_path / "three" / "summary.json").read_text())["iterations"][0]["shifts"]
    assert three["particles"] == one["particles"] and three["better"] == one["better"]
    for a, b in zip(one["compared"], three["compared"]):
        assert a["correlation"] == pytest.approx(b["correlation"], abs=1e-4)


def test_a_resumed_run_reports_it_too(tmp_path):
    from mpirecon.solvers.shift_check import shift_warnings

    assert shift_warnings([{"shifts": {"warning": "so"}}, {}, {"shifts": {"warning": None}}]) == ["so"]


def test_exports_know_which_column_has_which_axis():
    rng = np.random.default_rng(2)
    shift, more = rng.uniform(-9, 9, (20, 2)), rng.uniform(-1, 1, (20, 2))
    group = np.ones(20, int)
    for columns, order in (
        (shift / -3, (0, 1)),
        (shift[:, ::-1] / -3, (1, 0)),
        (np.zeros((20, 2)), (0, 1)),
        (more, (0, 1)),
    ):
        assert axes_of(columns, shift) == order
    np.testing.assert_allclose(
        changed(shift[:, 1] / -3, shift[:, 1], shift[:, 1] + more[:, 1], group, -1.0), (shift + more)[:, 1] / -3
    )
    # numbers that the import took for 0 (--unit shift=0)
    np.testing.assert_allclose(changed(shift[:, 0], np.zeros(20), more[:, 0], group, -3.0), more[:, 0] / -3)


def test_no_false_alarm_of_real_images(shared_data, tmp_path):
    star = shared_data / "ribo70s_real" / "particles.star"
    assert run(["import", str(star), "-o", str(tmp_path / "p.h5"), "--data-dir", str(star.parent), "-q"]) == 0
    assert first_record(tmp_path / "p.h5")[1] == []


def test_a_sample_without_images_says_nothing():
    found = ShiftSample(SerialCommunicator(), BOX, PIXEL, 8, False, False).decided(POSES)
    assert found.particles == 0 and found.better is None
