"""``mpirecon reconstruct`` against relion_reconstruct on the same particles: the same density, hand, origin and scale.

Only even boxes: RELION 3.1 puts the origin of an odd box one pixel off (see test_project_relion). Odd boxes are
compared with the truth.
"""

import shutil
import subprocess

import numpy as np
import pytest

from mpirecon.cli import run
from mpirecon.io.mrc import read_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import soft_sphere

needs_relion = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="needs relion_reconstruct (package relion)"
)

PIXEL_SIZE = 2.5
SIMULATE = (
    f"simulate --phantom --pixel-size {PIXEL_SIZE} --particles 1500 --snr inf --shift-sigma 5 --defocus 0.5:2.5 "
    "--astigmatism 600 --phase-shift 15 --seed 4 -o particles.h5 --truth-map truth.mrc -q"
)

OPTICS = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
_rlnCtfDataAreCtfPremultiplied #9
1 opticsGroup1 {voltage:.6f} {cs:.6f} {q0:.6f} {pixel_size:.6f} {box} 2 {premultiplied:d}

data_particles

loop_
"""

COLUMNS = (
    "rlnImageName rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginXAngst rlnOriginYAngst rlnDefocusU rlnDefocusV "
    "rlnDefocusAngle rlnPhaseShift rlnRandomSubset rlnOpticsGroup"
).split()


def export(particle_file, star, stack):
    """A particle file as RELION 3.1 reads it: STAR by hand, so that only the images pass through our writers."""
    with ParticleFile(particle_file) as file:
        p = file.metadata()
        images = file.images(range(len(file)))
    with write_stack(stack, p.box, p.pixel_size, overwrite=True) as append:
        append(images)
    c, first = p.ctf, p.ctf[0]
    text = "# version 30001\n" + OPTICS.format(
        voltage=first["voltage_kv"], cs=first["cs_mm"], q0=first["amplitude_contrast"], pixel_size=p.pixel_size,
        box=p.box, premultiplied=p.ctf_premultiplied,
    )  # fmt: skip
    text += "".join(f"_{name} #{i + 1}\n" for i, name in enumerate(COLUMNS))
    for i, (rot, tilt, psi) in enumerate(p.pose.euler()):
        numbers = (rot, tilt, psi, -p.pose.shift[i, 0], -p.pose.shift[i, 1], c["defocus_u"][i], c["defocus_v"][i],
                   np.degrees(c["astigmatism"][i]), np.degrees(c["phase_shift"][i]))
        text += f"{i + 1:06d}@{stack.name} " + " ".join(f"{v:.9f}" for v in numbers) + f" {p.half[i]} 1\n"
    star.write_text(text)


def density(path):
    return np.asarray(read_map(path), np.float64)


def reconstruct(particles, out):
    assert run(["reconstruct", str(particles), "-o", str(out), "-q"]) == 0
    return density(out / "volume.mrc")


def relion_reconstruct(folder, star, *options):
    command = ["relion_reconstruct", "--i", star.name, "--o", "relion.mrc", "--ctf", "--angpix", str(PIXEL_SIZE)]
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True, timeout=200)
    return density(folder / "relion.mrc")


def compare(a, b, shells=0.9):
    """Lowest FSC up to `shells` of Nyquist, correlation over voxels and scale of a to b, inside a sphere."""
    box = a.shape[0]
    mask = soft_sphere(box, 0.42 * box, edge=3.0)
    a, b = a * mask, b * mask
    curve = fsc(a, b)[: int(shells * box / 2) + 1]
    return curve.min(), np.corrcoef(a.ravel(), b.ravel())[0, 1], np.vdot(b, a) / np.vdot(b, b)


def assert_same_map(ours, theirs):
    """Required: FSC 0.99, correlation 0.99, scale within 2 %. RELION's gridding costs it most of that, see below."""
    lowest, correlation, scale = compare(ours, theirs)
    assert lowest > 0.995 and correlation > 0.995
    assert scale == pytest.approx(1, abs=0.02)
    for other in (ours[::-1], ours[:, ::-1], ours[..., ::-1], np.roll(ours, 1, axis=2)):  # hand and origin would show
        assert compare(other, theirs)[1] < 0.98


def assert_is_the_truth(ours, truth):
    lowest, correlation, scale = compare(ours, truth)
    assert lowest > 0.9995 and correlation > 0.9999
    assert scale == pytest.approx(1, abs=0.005)


@pytest.fixture(scope="module", params=[(), ("--ctf-premultiply",)], ids=["plain", "premultiplied"])
def simulated(request, tmp_path_factory):
    """Folder with particles.h5, the same as particles.star, truth.mrc, and our map in ours/."""
    folder = tmp_path_factory.mktemp("relion")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*SIMULATE.split(), "--box", "48", *request.param]) == 0
    export(folder / "particles.h5", folder / "particles.star", folder / "stack.mrcs")
    reconstruct(folder / "particles.h5", folder / "ours")
    return folder


@needs_relion
def test_maps_are_those_of_relion_reconstruct(simulated):
    ours, truth = density(simulated / "ours" / "volume.mrc"), density(simulated / "truth.mrc")
    theirs = relion_reconstruct(simulated, simulated / "particles.star")
    assert_same_map(ours, theirs)
    assert_is_the_truth(ours, truth)
    assert np.linalg.norm(ours - truth) < np.linalg.norm(theirs - truth)


def test_imported_particles_are_those_exported(simulated):
    imported = simulated / "imported.h5"
    assert run(["import", str(simulated / "particles.star"), "-o", str(imported), "-q", "--overwrite"]) == 0
    with ParticleFile(simulated / "particles.h5") as a, ParticleFile(imported) as b:
        before, after = a.metadata(), b.metadata()
        np.testing.assert_array_equal(a.images(range(0, 1500, 97)), b.images(range(0, 1500, 97)))
    np.testing.assert_allclose(after.pose.matrices(), before.pose.matrices(), atol=1e-6)
    np.testing.assert_allclose(after.pose.shift, before.pose.shift, atol=1e-6)
    for field in before.ctf.dtype.names:
        np.testing.assert_allclose(after.ctf[field], before.ctf[field], rtol=1e-6, atol=1e-9, err_msg=field)
    np.testing.assert_array_equal(after.half, before.half)
    assert after.ctf_premultiplied == before.ctf_premultiplied
    assert (after.box, after.contrast) == (before.box, before.contrast)
    assert after.pixel_size == pytest.approx(before.pixel_size)
    ours = density(simulated / "ours" / "volume.mrc")
    again = reconstruct(imported, simulated / "again")
    assert np.linalg.norm(again - ours) < 1e-4 * np.linalg.norm(ours)


def test_odd_boxes_give_the_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run([*SIMULATE.split(), "--box", "45"]) == 0
    ours = reconstruct("particles.h5", tmp_path / "ours")
    truth = density("truth.mrc")
    assert_is_the_truth(ours, truth)
    for other in (ours[::-1], np.roll(ours, 1, axis=0)):
        assert compare(other, truth)[1] < 0.98
