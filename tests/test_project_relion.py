"""``mpirecon project`` against relion_project: the same sign, hand, origin, angles, shifts, CTF and scale.

In an odd box relion_project puts the origin one pixel further in x and y than in an even one (its image of a map at
angles 0, 0, 0 is not the sum of the map's sections, which test_project shows ours to be). That pixel, the same at all
poses, is taken back before odd boxes are compared.
"""

import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from mpirecon.cli import run
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star

pytestmark = pytest.mark.skipif(shutil.which("relion_project") is None, reason="needs relion_project (package relion)")

PIXEL_SIZE = 2.5
SIMULATE = (
    f"simulate --phantom --pixel-size {PIXEL_SIZE} --particles 20 --snr inf --shift-sigma 6 --defocus 0.5:2 "
    "--astigmatism 800 --phase-shift 20 -o particles.h5 --truth-map map.mrc -q"
)


def write_relion_star(particles, path):
    """The particles' poses and CTFs as RELION 3.1 reads them."""
    rot, tilt, psi = particles.pose.euler().T
    ctf = particles.ctf
    table = {
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": -particles.pose.shift[:, 0],
        "rlnOriginYAngst": -particles.pose.shift[:, 1],
        "rlnDefocusU": ctf["defocus_u"],
        "rlnDefocusV": ctf["defocus_v"],
        "rlnDefocusAngle": np.degrees(ctf["astigmatism"]),
        "rlnPhaseShift": np.degrees(ctf["phase_shift"]),
        "rlnOpticsGroup": np.ones(len(particles), int),
    }
    optics = {
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["one"], "rlnVoltage": [ctf["voltage_kv"][0]],
        "rlnSphericalAberration": [ctf["cs_mm"][0]], "rlnAmplitudeContrast": [ctf["amplitude_contrast"][0]],
        "rlnImagePixelSize": [particles.pixel_size], "rlnImageSize": [particles.box], "rlnImageDimensionality": [2],
    }
    blocks = {"optics": pd.DataFrame(optics).astype(str), "particles": pd.DataFrame(table).astype(str)}
    write_star(path, blocks, overwrite=False)


@pytest.mark.parametrize("box", [48, 49, 63, 64])
@pytest.mark.parametrize("ctf", [True, False])
def test_images_are_those_of_relion_project(tmp_path, monkeypatch, box, ctf):
    monkeypatch.chdir(tmp_path)
    assert run([*SIMULATE.split(), "--box", str(box)]) == 0
    assert run(["project", "map.mrc", "particles.h5", "-o", "ours.mrcs", "-q", *([] if ctf else ["--no-ctf"])]) == 0
    with ParticleFile("particles.h5") as file:
        write_relion_star(file.metadata(), tmp_path / "poses.star")
    relion = ["relion_project", "--i", "map.mrc", "--ang", "poses.star", "--o", "theirs", "--angpix", str(PIXEL_SIZE)]
    subprocess.run([*relion, *(["--ctf"] if ctf else [])], check=True, capture_output=True, timeout=200)
    ours, theirs = (StackReader(f"{name}.mrcs").read(np.arange(20)).astype(float) for name in ("ours", "theirs"))
    theirs = np.roll(theirs, (-(box % 2), -(box % 2)), axis=(1, 2))
    for a, b in zip(ours, theirs):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
        # RELION interpolates linearly, which costs a per cent or so of a density that fills its box
        assert math.isclose(np.vdot(a, b) / np.vdot(a, a), 1, rel_tol=0.03)
