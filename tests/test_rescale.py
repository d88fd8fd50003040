"""import --rescale: images of several boxes and pixel sizes become one set, and the map is that of all of them."""

import h5py
import numpy as np
import pandas as pd
import pytest
from importing import OPTICS, make, refused, run, table
from sources import blobs
from test_reconstruct_relion import compare, density

from mpirecon.backend.cpu import CpuBackend
from mpirecon.cli import run as mpirecon
from mpirecon.io.mrc import write_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import read_star, write_star
from mpirecon.model import ParticleSet, Pose, make_ctf
from mpirecon.model.aberrations import Aberrations
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.resample import resample


def spot(n, pixel, x=3.0, y=-5.0, width=6.0):
    """An image of a Gaussian at (x, y) Å from pixel n // 2."""
    r = (np.arange(n) - n // 2) * pixel
    return np.exp(-((r[None, :] - x) ** 2 + (r[:, None] - y) ** 2) / (2 * width**2))


@pytest.mark.parametrize(("n", "inner", "box"), [(40, 40, 30), (41, 42, 27), (40, 50, 35), (40, 36, 48), (39, 39, 39)])
def test_images_are_the_same_function_on_another_grid(n, inner, box):
    pixel = 2.0
    found = resample(np.stack([spot(n, pixel), 2 * spot(n, pixel, -7, 4)]), inner, box)
    new = pixel * inner / box
    expected = np.stack([spot(box, new), 2 * spot(box, new, -7, 4)]) * inner / box  # noise keeps its variance instead
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_white_noise_keeps_its_variance():
    noise = np.random.default_rng(0).standard_normal((200, 48, 48))
    assert resample(noise, 40, 32).var() == pytest.approx(1, rel=0.1)


def mixed(tmp_path):
    """Noiseless images of one density, 500 of 40 pixels of 2.5 Å and 300 of 36 of 3.17 Å; returns the STAR file."""
    blocks = []
    for group, (box, pixel, m, seed) in enumerate(((40, 2.5, 500, 1), (36, 3.17, 300, 2)), 1):
        write_map(f"{group}.mrc", blobs(box, pixel), pixel, overwrite=True)
        assert mpirecon(f"simulate --map {group}.mrc --particles {m} --snr inf --shift-sigma 4 --seed {seed} -o "
                        f"{group}.h5 -q".split()) == 0
        with ParticleFile(f"{group}.h5") as file:
            p, images = file.metadata(), file.images(slice(None))
        with write_stack(f"s{group}.mrcs", box, pixel, overwrite=True) as append:
            append(images * (pixel / 2.5) ** 2)  # of unit noise: a pixel's signal grows with its edge
        rot, tilt, psi = p.pose.euler().T
        blocks.append(pd.DataFrame({
            "rlnImageName": [f"{i + 1:06d}@s{group}.mrcs" for i in range(m)], "rlnAngleRot": rot, "rlnAngleTilt": tilt,
            "rlnAnglePsi": psi, "rlnOriginXAngst": -p.pose.shift[:, 0], "rlnOriginYAngst": -p.pose.shift[:, 1],
            "rlnDefocusU": p.ctf["defocus_u"], "rlnDefocusV": p.ctf["defocus_v"],
            "rlnDefocusAngle": np.degrees(p.ctf["astigmatism"]), "rlnOpticsGroup": group, "rlnRandomSubset": p.half,
        }))  # fmt: skip
    ctf = p.ctf[0]
    optics = {"rlnOpticsGroup": [1, 2], "rlnVoltage": ctf["voltage_kv"], "rlnSphericalAberration": ctf["cs_mm"],
              "rlnAmplitudeContrast": ctf["amplitude_contrast"], "rlnImagePixelSize": [2.5, 3.17],
              "rlnImageSize": [40, 36]}
    write_star("p.star", {"optics": pd.DataFrame(optics).astype(str), "particles": pd.concat(blocks).astype(str)},
               overwrite=False)
    return tmp_path / "p.star"


def test_the_map_is_that_of_all_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    star = mixed(tmp_path)
    refused(star, "rlnImagePixelSize. is 3.17 .optics group 2., but 2.5 .*give --rescale common")
    file, text = run(star, "--rescale", "common", output=tmp_path / "p.h5")
    assert (file.box, file.pixel_size, len(file)) == (40, 2.5, 800)
    assert "300 images of 36 pixels of 3.17 Å are cut to 32 pixels and resampled to 40; scaled by 0.98580" in text
    np.testing.assert_allclose(file.aberrations().magnification, [np.eye(2), np.eye(2) * 2.5 / (3.17 * 32 / 40)])
    ends = file.aberrations().mtf  # the coarse images end at 15 of 20 Fourier pixels
    assert ends[0].all() and ends[1][:16].all() and not ends[1][16:].any()
    assert mpirecon("reconstruct p.h5 -o all -q".split()) == 0
    lowest, correlation, scale = compare(density("all/volume.mrc"), density("1.mrc"), 0.5)
    assert lowest > 0.999 and correlation > 0.999 and scale == pytest.approx(1, abs=0.01)
    assert mpirecon(["export", "all", "--star", "kept.star", "-q"]) == 0
    np.testing.assert_array_equal(read_star("kept.star")["particles"]["rlnOriginXAngst"],
                                  read_star("p.star")["particles"]["rlnOriginXAngst"])
    assert mpirecon(["export", "all", "--star", "k.star", "--stack", "k.mrcs", "-q"]) == 1


def test_coarse_images_do_not_damp_what_they_do_not_hold(tmp_path, monkeypatch):
    """A density of one voxel has signal to Nyquist: beyond 15 Fourier pixels it must be as strong as before them."""
    monkeypatch.chdir(tmp_path)
    box, m = 40, 600
    point = np.zeros((box,) * 3, np.float32)
    point[box // 2, box // 2, box // 2] = 1
    rng = np.random.default_rng(0)
    q = rng.standard_normal((m, 4))
    p = ParticleSet(box, 2.5, Pose(q, np.zeros((m, 2))),
                    make_ctf(m, voltage_kv=300, defocus_u=rng.uniform(4000, 9000, m), defocus_v=6000, cs_mm=2.7,
                             amplitude_contrast=0.1), np.ones(m), 1 + np.arange(m) % 2)
    model = ForwardModel(box, 2.5)
    images = model.images(model.prepare(point), p.pose, p.ctf)
    coarse = p.optics_group == 2
    images[coarse] = resample(resample(images[coarse], box, 32), 32, box)  # holds nothing beyond 15
    ends = np.ones((2, box // 2 + 2))
    ends[1, 16:] = 0
    known = Aberrations(np.array([1, 2]), np.tile(np.eye(2), (2, 1, 1)), *np.zeros((2, 2, 0)), ends)
    backend, one = CpuBackend(box, 2.5, aberrations=known), np.ones(m)
    batch, accumulator = backend.prepare(images, p), backend.accumulator()
    backend.accumulate(accumulator, batch, one, one, one)
    equations = backend.normal_equations(backend.folded(accumulator))
    found = equations.solve(equations.ridge(), 20)[0]
    power = np.abs(np.fft.fftn(found))
    radius = np.sqrt(sum(np.meshgrid(*[np.fft.fftfreq(box, 1 / box) ** 2] * 3)))
    assert power[(radius > 17) & (radius < 19)].mean() == pytest.approx(
        power[(radius > 8) & (radius < 13)].mean(), rel=0.05
    )


def test_ranks_rescale_alike(tmp_path, monkeypatch, mpirun):
    monkeypatch.chdir(tmp_path)
    star = mixed(tmp_path)
    for n in (1, 2):
        command = ["-m", "mpirecon", "import", star, "-o", f"{n}ranks.h5", "--rescale", "32:3.0", "-q"]
        assert mpirun(n, command).returncode == 0
    with h5py.File("1ranks.h5") as one, h5py.File("2ranks.h5") as two:
        for name in ("images", "shift", "optics", "optics_group"):
            np.testing.assert_array_equal(one[name][:], two[name][:])
        assert one["images"].shape == (800, 32, 32) and one.attrs["pixel_size"] == 3.0


def test_what_cannot_be_rescaled_is_refused(tmp_path):
    two = {**{label: values * 2 for label, values in OPTICS.items()}, "rlnOpticsGroup": [1, 2],
           "rlnImagePixelSize": [2.5, 2.6]}
    star = make(tmp_path, table(rlnOpticsGroup=[1, 2] * 4), two)
    refused(star, "--rescale makes other images .* --link", "--rescale", "common", "--link")
    refused(make(tmp_path, table(rlnOpticsGroup=[1, 2] * 4), {**two, "rlnImageSize": [6, 8]}),
            r"line \d+ .*the table says 8 pixels a side, the stack has 6", "--rescale", "common")
    own = table(rlnOpticsGroup=None, rlnPixelSize=[2.5, 2.6] * 4, rlnVoltage=300, rlnSphericalAberration=2.7,
                rlnAmplitudeContrast=0.1)
    refused(make(tmp_path, own, None), "optics group 1 has images of 6 pixels of 2.5 Å and of 6 pixels of 2.6 Å",
            "--rescale", "common")


def test_nearly_equal_pixels_are_only_scaled(tmp_path, shared_data):
    """RELION's set of six optics groups, of 1.24 and 1.25 Å in boxes of 196, with images of another kind."""
    tables = read_star(shared_data / "star_dialects" / "relion31.6opticsgroups.star")
    particles, rows = tables["particles"], np.arange(len(tables["particles"]))
    particles["rlnImageName"] = [f"{i + 1}@s.mrcs" for i in rows]
    images = np.random.default_rng(0).standard_normal((len(rows), 196, 196)).astype("f4")
    with write_stack(tmp_path / "s.mrcs", 196, 1.25, overwrite=True) as append:
        append(images)
    write_star(tmp_path / "p.star", tables, overwrite=False)
    file, text = run(tmp_path / "p.star", "--rescale", "common")
    assert file.pixel_size == 1.25 and "even aberrations (tetrafoil …) in 6 of 6 optics groups" in text
    np.testing.assert_array_equal(file.images(slice(None)), images)
    found, optics = file.aberrations(), tables["optics"]
    matrix = optics[[f"rlnMagMat{i}{j}" for i in (0, 1) for j in (0, 1)]].astype(float).to_numpy().reshape(-1, 2, 2)
    scale = 1.25 / optics["rlnImagePixelSize"].astype(float).to_numpy()
    np.testing.assert_allclose(found.magnification, matrix * scale[:, None, None], rtol=1e-6)
