"""Images that were multiplied by the sign of their CTF:
|CTF| is modelled on every path, and the map is that of the others."""

from __future__ import annotations

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from test_aberrations import PIXEL_SIZE as ABERRATED_PIXEL
from test_aberrations_command import BOX, PIXEL_SIZE, WRONG_SIGN, M, particles, planted, tell
from test_cuda_backend import TOLERANCE, aberrations, fake_cupy, measure, needs_compiler  # noqa: F401
from test_cuda_backend import particles as random_particles
from test_cuda_kernels import f4, i4, frequencies, runs_kernels
from test_cuda_kernels import run as launch
from test_reconstruct_relion import compare, density, export, relion_reconstruct

from mpirecon.backend import get_backend
from mpirecon.cli import run
from mpirecon.errors import UserError
from mpirecon.io.mrc import StackReader
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.kernels.cuda_arguments import ctf_arguments
from mpirecon.model import make_ctf
from mpirecon.operators.aberrations import OpticsPlanes
from mpirecon.operators.ctf import ctf_coefficients, ctf_samples
from mpirecon.operators.forward import ForwardModel
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.simulation.dataset import multiply_by_ctf
from mpirecon.simulation.phantom import phantom

CTF = dict(voltage_kv=300, defocus_u=[9000.0, 20000.0, 12000.0], defocus_v=[8000.0, 21000.0, 12000.0], cs_mm=2.7,
           amplitude_contrast=0.1,
           astigmatism=[0.3, -1.0, 2.0], bfactor=[0.0, 30.0, 60.0], scale=[1.0, 0.7, -0.5])


@pytest.mark.parametrize("aberrated", [False, True])
def test_the_sign_of_the_sine_is_taken_off_and_nothing_else(aberrated):
    """Envelope, magnification and a negative scale (a particle of turned contrast) stay."""
    plane = HalfPlane.of(24)
    ctf, group = make_ctf(3, **CTF), np.array([3, 7, 3], np.int32)
    optics = OpticsPlanes.of(aberrations(), plane.kx, plane.ky, 24, ABERRATED_PIXEL) if aberrated else None
    plain, flipped = (ctf_samples(ctf, plane, ABERRATED_PIXEL, optics, group, phase_flipped=one)
                      for one in (False, True))
    assert (plain < 0).any(axis=1).all() and (plain > 0).any(axis=1).all()
    np.testing.assert_allclose(flipped, np.sign(ctf["scale"])[:, None] * np.abs(plain), atol=1e-7)


@runs_kernels
def test_the_cuda_kernel_is_the_twin():
    box, pixel_size = 32, 1.3
    plane = HalfPlane.of(box)
    ctf = make_ctf(3, **CTF)
    optics = (np.zeros((1, len(plane)), np.complex64), np.zeros((1, len(plane)), f4), np.ones((1, len(plane)), f4),
              np.zeros(3, i4))
    for flipped in (False, True):
        out = np.full((3, len(plane)), np.nan, f4)
        launch("evaluate_ctf", 3, ctf_arguments(ctf_coefficients(ctf, box, pixel_size, flipped),
                                                np.broadcast_to(np.eye(2), (3, 2, 2))),
               *optics, frequencies(plane.kx, plane.ky), i4(len(plane)), i4(3), out, threads=32)  # fmt: skip
        np.testing.assert_allclose(out, ctf_samples(ctf, plane, pixel_size, phase_flipped=flipped), atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("aberrated", [False, True])
def test_backends_agree(fake_cupy, aberrated):
    fake_cupy()
    particle_set, images = random_particles(box=12)
    options = {"interpolation": {"taps": 4, "padding": 2}, "aberrations": aberrations() if aberrated else None}
    flipped = replace(particle_set, ctf_phase_flipped=True)
    cpu, cuda = (measure(get_backend(name, 12, 2.0, **options), images, flipped, "one") for name in ("cpu", "cuda"))
    for name, expected in cpu.items():
        assert np.abs(cuda[name] - expected).max() < TOLERANCE.get(name, 3e-6) * np.abs(expected).max(), name
    other = measure(get_backend("cuda", 12, 2.0, **options), images, particle_set, "one")
    assert np.abs(other["volume"] - cuda["volume"]).max() > 0.1 * np.abs(cuda["volume"]).max()


SIMULATE = ("simulate --phantom --pixel-size 2.5 --box 32 --particles 600 --snr 1 --shift-sigma 4 --defocus 0.5:2.5 "
            "--astigmatism 600 --seed 4 -q -o ").split()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folder with the same particles untouched and phase-flipped, the latter as p.star too."""
    folder = tmp_path_factory.mktemp("flipped")
    assert run([*SIMULATE, str(folder / "plain.h5"), "--truth-map", str(folder / "truth.mrc")]) == 0
    assert run([*SIMULATE, str(folder / "flip.h5"), "--ctf-phase-flip"]) == 0
    export(folder / "flip.h5", folder / "p.star", folder / "stack.mrcs")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Folder with some of the same particles."""
    folder = tmp_path_factory.mktemp("few")
    for name, flip in (("plain", []), ("flip", ["--ctf-phase-flip"])):
        assert run([*SIMULATE, str(folder / f"{name}.h5"), *flip, "--particles", "100"]) == 0
    return folder


@pytest.mark.parametrize("options", [(), ("--space", "real", "--solver", "gradient", "--iterations", "2"),
                                     ("--loss", "posterior")])
def test_maps_and_scores_are_those_of_untouched_images(few, options):
    """A sign multiplied onto data and model alike changes no inner product. What lies at the border of an image does
    change, and so would what is taken for its background."""
    for name in ("plain", "flip"):
        assert run(["reconstruct", str(few / f"{name}.h5"), "-o", str(few / name), "-q", "--overwrite",
                    "--no-postprocess", "--normalise", "off", *options]) == 0
    one, other = (density(few / name / "volume.mrc") for name in ("plain", "flip"))
    assert np.abs(one - other).max() < 1e-3 * np.abs(one).max()


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="needs relion_reconstruct (package relion)")
def test_the_map_is_that_of_relion_with_the_same_options(sets):
    """A table that does not say so is imported with the option, and RELION is given its own."""
    assert run(["import", str(sets / "p.star"), "-o", str(sets / "told.h5"), "-q", "--overwrite",
                "--ctf-phase-flipped"]) == 0
    assert run(["reconstruct", str(sets / "told.h5"), "-o", str(sets / "told"), "-q", "--overwrite",
                "--no-postprocess"]) == 0
    ours = density(sets / "told" / "volume.mrc")
    theirs = relion_reconstruct(sets, sets / "p.star", "--ctf_phase_flipped")
    untold = relion_reconstruct(sets, sets / "p.star")
    assert compare(ours, theirs, 0.7)[0] > 0.98 and compare(ours, untold, 0.7)[0] < 0.9


def test_projections_stand_in_the_place_of_the_images(sets):
    assert run([*SIMULATE, str(sets / "clean.h5"), "--ctf-phase-flip", "--snr", "inf", "--overwrite"]) == 0
    assert run(["project", str(sets / "truth.mrc"), str(sets / "clean.h5"), "-o", str(sets / "q.mrcs"), "-q",
                "--overwrite"]) == 0
    projected = StackReader(sets / "q.mrcs").read(np.arange(50))
    with ParticleFile(sets / "clean.h5") as file:
        images = file.images(slice(0, 50))
    assert np.linalg.norm(projected - images) < 0.01 * np.linalg.norm(images)


def test_exported_tables_say_so_and_files_from_before_are_read(sets, tmp_path):
    run(["reconstruct", str(sets / "flip.h5"), "-o", str(tmp_path / "run"), "-q", "--no-postprocess"])
    assert run(["export", str(tmp_path / "run"), "--star", str(tmp_path / "e.star"), "--stack",
                str(tmp_path / "e.mrcs"), "-q"]) == 0
    assert run(["import", str(tmp_path / "e.star"), "-o", str(tmp_path / "again.h5"), "-q"]) == 0
    with ParticleFile(tmp_path / "again.h5") as file:
        assert file.metadata().ctf_phase_flipped and not file.metadata().ctf_premultiplied
    with h5py.File(tmp_path / "again.h5", "a") as file:
        del file.attrs["ctf_phase_flipped"]
    with ParticleFile(tmp_path / "again.h5") as file:
        assert not file.phase_flipped


def test_aberrations_are_measured_in_them_too(tmp_path):
    """Planted aberrations imported with the wrong sign are told from flipped images as from others."""
    p, true = particles(), planted()
    odd = replace(true, even=true.even[:, :0])
    model = ForwardModel(BOX, PIXEL_SIZE, aberrations=odd)
    clean = model.images(model.prepare(phantom(BOX).astype(np.float32)), p.pose, p.ctf, p.optics_group)
    images = clean + np.random.default_rng(1).normal(0, clean.std() / np.sqrt(0.3), clean.shape)
    images = multiply_by_ctf(images, p.ctf, PIXEL_SIZE, odd, p.optics_group, sign_only=True)
    with ParticleWriter(tmp_path / "p.h5", M, BOX, PIXEL_SIZE, overwrite=True, ctf_phase_flipped=True) as writer:
        writer.write_images(0, images.astype(np.float32))
        writer.write_metadata(replace(p, ctf_phase_flipped=True))
        writer.write_optics(replace(odd, odd=-odd.odd))
    assert run(["reconstruct", str(tmp_path / "p.h5"), "-o", str(tmp_path / "run"), "-q", "--no-postprocess"]) == 0
    found, code = tell(tmp_path / "run")
    assert code == 1 and {term["verdict"] for term in found["terms"].values()} == {WRONG_SIGN}


def test_what_excludes_each_other(tmp_path, capsys):
    with pytest.raises(UserError, match="not both"):
        replace(random_particles(box=12)[0], ctf_premultiplied=True, ctf_phase_flipped=True)
    for options in (["--ctf-premultiply"], ["--no-ctf"]):
        assert run([*SIMULATE, str(tmp_path / "x.h5"), "--ctf-phase-flip", *options]) == 1
        assert "no sign of the CTF is left to flip" in capsys.readouterr().err
