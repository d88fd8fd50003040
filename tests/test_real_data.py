"""Real particle sets of several programs and RELION versions: they import, with the right meaning."""

from __future__ import annotations

import json
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.parallel.console import Console
from mpirecon.errors import UserError
from mpirecon.io.import_options import ImportOptions
from mpirecon.io.importer import import_particles
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.relion import read_relion
from mpirecon.io.run_log import RankLog
from mpirecon.io.star import read_star
from mpirecon.model.pose import matrix_from_quaternion
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.solvers.config import Config
from mpirecon.solvers.run import Reconstruction
from mpirecon.validate.fsc import fsc

#: file → (particles, pixel size, voltages, half set 1)
SETS = {
    "ribo70s_real/particles.star": (1430, 12.0, {300}, 715),
    "trpv1_real/trpv1_small_stack.star": (10, 4.88, {300}, 5),
    "aspire_real/sample_particles_relion30.star": (17, 5e4 / 37369.207031, {200, 300}, 10),
    "aspire_real/sample_particles_relion31.star": (17, 1.4, {200, 300}, 10),
    "relion31_real/relion31.star": (5, 2.806, {300}, 5),
}
STACKS = {
    "ribo70s_real/particles.star": "particles.mrcs", "trpv1_real/trpv1_small_stack.star": "trpv1_small_stack.mrcs",
    "aspire_real/sample_particles_relion30.star": "sample.mrcs", "relion31_real/relion31.star": "relion31.mrcs",
    "aspire_real/sample_particles_relion31.star": "sample.mrcs",
}
#: metadata without stacks → (particles, pixel size)
DIALECTS = {"relion14_8915.star": (8915, 14e4 / 39548), "relion30_3796.star": (3796, 5e4 / 37369.207031),
            "relion5.star": (17, 0.89)}


def naive_table(path) -> dict[str, list[str]]:
    """The last loop of a STAR file, by nothing but str.split."""
    labels, rows = [], []
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("data_"):
            labels, rows = [], []
        elif line.startswith("_"):
            labels.append(words[0][1:])
        elif labels and len(words) > 1 and not line.startswith("#"):
            rows.append(words)
    return {label: [row[i] for row in rows] for i, label in enumerate(labels)}


def test_a_run_of_imported_particles_loads_no_pandas_numba_or_scipy(shared_data, tmp_path):
    """Where its kernels were compiled before: they take as long to load as the whole of a small run."""
    path = shared_data / "ribo70s_real" / "particles.star"
    assert run(["import", str(path), "-o", str(tmp_path / "p.h5"), "-q"]) == 0
    program = ("import sys; from mpirecon.cli import run; code = run(sys.argv[1:]); "
               "print(code, sorted({'numba', 'pandas', 'scipy.fft', 'scipy.ndimage', 'scipy.spatial', 'scipy.special'} "
               "& set(sys.modules)))")
    command = ["reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", "-q", "--overwrite"]
    for _ in range(2):  # the first may compile
        done = subprocess.run([sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


def check_against_naive(path, pose, ctf, pixel_size, stretch=1.0):
    """Poses, shifts (of Å times `stretch`) and defoci against the angles and numbers of the naive table."""
    raw = naive_table(path)

    def number(label):
        return np.array(raw[label], float)

    rot, tilt, psi = (np.radians(number(f"rlnAngle{name}")) for name in ("Rot", "Tilt", "Psi"))
    view = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=1)
    matrices = matrix_from_quaternion(pose.quaternion)
    np.testing.assert_allclose(matrices[:, 2], view, atol=1e-9)  # third row: the viewing direction
    x_axis = np.stack([np.cos(psi) * np.cos(tilt) * np.cos(rot) - np.sin(psi) * np.sin(rot),
                       np.cos(psi) * np.cos(tilt) * np.sin(rot) + np.sin(psi) * np.cos(rot),
                       -np.cos(psi) * np.sin(tilt)], axis=1)
    np.testing.assert_allclose(matrices[:, 0], x_axis, atol=1e-9)
    if "rlnOriginXAngst" in raw:
        origin = stretch * np.stack([number("rlnOriginXAngst"), number("rlnOriginYAngst")], axis=1)
    else:
        origin = pixel_size * np.stack([number("rlnOriginX"), number("rlnOriginY")], axis=1)
    np.testing.assert_allclose(pose.shift, -origin, atol=1e-9)
    np.testing.assert_array_equal(ctf["defocus_u"], number("rlnDefocusU"))
    np.testing.assert_array_equal(ctf["defocus_v"], number("rlnDefocusV"))
    np.testing.assert_allclose(np.degrees(ctf["astigmatism"]), number("rlnDefocusAngle"), rtol=1e-12)
    return raw


@pytest.mark.parametrize("name", SETS)
@pytest.mark.filterwarnings("ignore:Map ID string not found", "ignore:Unrecognised machine stamp")
def test_real_sets_import_as_they_are(shared_data, tmp_path, name):
    star = shared_data / name
    stack = star.parent / STACKS[name]
    options = ImportOptions(stack=stack if name.startswith("trpv1") else None)
    report = import_particles(star, tmp_path / "p.h5", options)
    count, pixel_size, voltages, half1 = SETS[name]
    assert (report.particles, report.halves, report.dtype) == (count, (half1, count - half1), "float32")
    with mrcfile.mmap(stack, permissive=True) as mrc, ParticleFile(tmp_path / "p.h5") as file:
        found = file.metadata(0, count)
        raw = check_against_naive(star, found.pose, found.ctf, pixel_size)
        assert file.pixel_size == pytest.approx(pixel_size, rel=1e-6)
        assert set(found.ctf["voltage_kv"]) == voltages
        assert found.ctf_premultiplied == name.startswith("ribo")
        sections = [int(image.split("@")[0]) - 1 for image in raw["rlnImageName"]]
        np.testing.assert_array_equal(file.images(slice(None)), mrc.data[sections])
        np.testing.assert_array_equal(found.half, np.array(raw["rlnRandomSubset"], int))
        assert list(file.source()[1]["particles" if "particles" in file.source()[1] else "model_class_1"]) == list(raw)


def test_the_trpv1_stack_must_be_named(shared_data, tmp_path):
    star = shared_data / "trpv1_real" / "trpv1_small_stack.star"
    with pytest.raises(UserError, match=r"line 32: the stack ./batch_0_restacked.mrc is not there.*--stack FILE"):
        import_particles(star, tmp_path / "p.h5", ImportOptions())
    assert list(tmp_path.iterdir()) == []
    mapping = {"batch_0_restacked.mrc": star.with_name("trpv1_small_stack.mrcs")}
    report = import_particles(star, tmp_path / "p.h5", ImportOptions(mapping=mapping))
    assert report.particles == 10 and "./batch_0_restacked.mrc is read from" in " ".join(report.notes)


def test_planting_errors_on_real_particles(shared_data, tmp_path):
    star = shared_data / "ribo70s_real" / "particles.star"
    report = import_particles(star, tmp_path / "p.h5", ImportOptions(error_rate=0.3))
    assert abs(report.planted - 0.3 * 1430) < 4 * np.sqrt(1430 * 0.3 * 0.7)
    with ParticleFile(tmp_path / "p.h5") as file:
        found = file.metadata(0, 1430)
        same = np.abs((found.pose.quaternion * found.true_quaternion).sum(axis=1)) > 1 - 1e-12
        np.testing.assert_array_equal(same, ~found.pose_error)


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_without_stacks(shared_data, tmp_path, name):
    star = shared_data / "star_dialects" / name
    count, pixel_size = DIALECTS[name]
    found = read_relion(star)
    assert len(found) == count and found.pixel_size == pytest.approx(pixel_size, rel=1e-6)
    check_against_naive(star, found.pose, found.ctf, pixel_size)
    lines = star.read_text().splitlines()
    for row in (0, count // 2, count - 1):
        assert f"@{found.stacks[found.stack[row]]}" in lines[found.lines[row] - 1]
    with pytest.raises(UserError, match=rf"{name}, line {found.lines[0]}: the stack .* is not there"):
        import_particles(star, tmp_path / "p.h5", ImportOptions())
    assert list(tmp_path.iterdir()) == []


def test_six_optics_groups_of_two_pixel_sizes(shared_data):
    star = shared_data / "star_dialects" / "relion31.6opticsgroups.star"
    with pytest.raises(UserError, match="pixel size .rlnImagePixelSize. is 1.24 .optics group 5., but 1.25 .*group 6"):
        read_relion(star)
    found = read_relion(star, pixel_size=1.25)
    optics = read_star(star)["optics"].set_index("rlnOpticsGroup")
    sizes = np.array([float(optics.loc[group, "rlnImagePixelSize"]) for group in naive_table(star)["rlnOpticsGroup"]])
    raw = check_against_naive(star, found.pose, found.ctf, 1.25, 1.25 / sizes[:, None])  # as many pixels as before
    for i, group in enumerate(raw["rlnOpticsGroup"]):
        assert found.optics_group[i] == int(group)
        assert found.ctf["cs_mm"][i] == float(optics.loc[group, "rlnSphericalAberration"])
    assert found.aberrations.group.tolist() == [1, 2, 3, 4, 5, 6] and found.aberrations.odd.any(axis=1).all()
    assert "aberrations" not in " ".join(found.warnings)


def test_subtomograms_are_refused(shared_data):
    with pytest.raises(UserError, match="subtomograms are not supported"):
        read_relion(shared_data / "star_dialects" / "relion_3.1_optics2.star")


def test_errors_planted_by_particle_are_found_by_particle(shared_data, cli, tmp_path):
    """One low-dose tilt image barely shows its pose; the 37 of one ribosome do, when they are judged together."""
    import json

    star = shared_data / "ribo70s_real" / "particles.star"
    planted = ("--orientation-error-rate", 0.3, "--error-by", "rlnTomoParticleName", "--seed", 3)
    assert cli("import", star, "-o", tmp_path / "ribo.h5", *planted).returncode == 0
    with ParticleFile(tmp_path / "ribo.h5") as file:
        name, wrong = file.source_column("TomoParticleName"), file.metadata().pose_error
    for particle in np.unique(name.astype(str)):
        assert len(np.unique(wrong[name == particle])) == 1
    found = {}
    for how, options in (("alone", ()), ("together", ("--group-by", "rlnTomoParticleName"))):
        out = tmp_path / how
        result = cli("reconstruct", tmp_path / "ribo.h5", "-o", out, "--loss", "posterior", "--diameter", 270, *options)
        assert result.returncode == 0, result.stderr
        found[how] = json.loads((out / "summary.json").read_text())
    assert found["together"]["detection"]["auc"] > 0.9 > 0.8 > found["alone"]["detection"]["auc"]
    assert not found["alone"]["mixture"]["separable"] and found["alone"]["kept"] == 1430
    assert found["together"]["mixture"]["separable"]
    assert [found[how]["configuration"]["folds"] for how in ("alone", "together")] == [4, 8]


def test_images_of_one_particle_share_a_fold(shared_data, tmp_path):
    """Else a particle would be judged by a map that its own images helped to build; half sets may not share one."""
    source = shared_data / "ribo70s_real" / "particles.star"
    comm = SerialCommunicator()
    import_particles(source, tmp_path / "ribo.h5", ImportOptions())

    def slab(column, console, folds=None):
        with ParticleFile(tmp_path / "ribo.h5") as file, RankLog(tmp_path, 0) as log:
            config = Config(loss="posterior", group_by=column, folds=folds)
            return Reconstruction(comm, file, config, log, console).slab, file.source_column(column).astype(str)

    console = Console(comm, quiet=True)
    ours, name = slab("rlnTomoParticleName", console)
    for half in (1, 2):
        folds = {n: set(ours.fold[(name == n) & (ours.metadata.half == half)])
                 for n in name[ours.metadata.half == half]}
        assert all(len(of_particle) == 1 for of_particle in folds.values())
        sizes = np.bincount([next(iter(of_particle)) for of_particle in folds.values()], minlength=8)
        assert np.ptp(sizes) <= 1
    with pytest.raises(UserError, match="half set 1 has 20 groups, fewer than --folds 21"):
        slab("rlnTomoParticleName", console, folds=21)
    said = []
    console.warn = said.append
    slab("rlnMicrographName", console, folds=2)
    assert "groups have rows in both half sets" in said[0]


def test_the_real_ribosomes_agree_as_far_as_relion_makes_them_and_with_its_map(shared_data, tmp_path):
    data = shared_data / "ribo70s_real"
    import_particles(data / "particles.star", tmp_path / "ribo.h5", ImportOptions())
    assert run(["reconstruct", str(tmp_path / "ribo.h5"), "-o", str(tmp_path / "run"), "--diameter", "270", "-q"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["resolution_0143"] <= 29.5
    maps = {name: read_map(data / f"relion_reconstruct_{name}.mrc").array for name in ("half1", "half2", "full")}
    ours = [read_map(tmp_path / "run" / f"{name}.mrc").array for name in ("half1", "half2")]
    for_sure = fsc(maps["half1"], maps["half2"])[1:] > 0.5
    assert (fsc((ours[0] + ours[1]) / 2, maps["full"])[1:][for_sure] >= 0.95).all() and for_sure.sum() >= 3
