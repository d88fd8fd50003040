"""Projection against sums over voxels and a CTF written out, and the project command."""

import itertools
import os

import h5py
import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sources import blobs, explicit_ctf

import mpirecon as mr
from mpirecon.cli import run
from mpirecon.io.mrc import StackReader, write_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.particle_writer import ParticleWriter
from mpirecon.model import ParticleSet, Pose, make_ctf

PIXEL_SIZE = 2.0


def axis_aligned():
    """The 24 rotations that map axes onto axes."""
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), axes] = signs
            if np.linalg.det(matrix) > 0:
                yield matrix


def line_integral(volume, rotation):
    """I(x, y) = Σ_z V(Rᵀ(x, y, z)) about voxel n // 2, for R that maps axes onto axes; float64."""
    n = len(volume)
    reach = np.arange(-((n - 1) // 2), (n - 1) // 2 + 1)
    z, y, x = np.meshgrid(reach, reach, reach, indexing="ij")
    vx, vy, vz = np.rint(np.tensordot(rotation.T, np.stack([x, y, z]), 1)).astype(int) + n // 2
    image = np.zeros((n, n))
    inside = slice(n // 2 + reach[0], n // 2 + reach[-1] + 1)
    image[inside, inside] = volume[vz, vy, vx].sum(axis=0)
    return image


def quaternions(matrices):
    xyzw = Rotation.from_matrix(list(matrices)).as_quat()
    return xyzw[:, [3, 0, 1, 2]]


def write_particles(path, box, shift_pixels, **options):
    """A particle file with the 24 axis-aligned poses, whole-pixel shifts and astigmatic CTFs; blank images."""
    m = 24
    ctf = make_ctf(
        m, voltage_kv=200, defocus_u=8000 + 300 * np.arange(m), defocus_v=7500.0, astigmatism=0.7, cs_mm=2.0,
        amplitude_contrast=0.07, phase_shift=0.4, bfactor=30.0, scale=np.linspace(0.8, 1.2, m),
    )
    particles = ParticleSet(
        box=box, pixel_size=PIXEL_SIZE, pose=Pose(quaternions(axis_aligned()), PIXEL_SIZE * shift_pixels), ctf=ctf,
        half=1 + np.arange(m) % 2, optics_group=np.ones(m), **options,
    )
    with ParticleWriter(path, m, box, PIXEL_SIZE, overwrite=True, **options) as writer:
        writer.write_metadata(particles)
        writer.write_images(0, np.zeros((m, box, box), "f4"))
    return particles


def expected_images(volume, particles, use_ctf=True, ctf_times=1):
    """Line integral, whole-pixel shift and CTF in float64, without any interpolation."""
    box = particles.box
    k = np.fft.fftfreq(box, PIXEL_SIZE)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    below_nyquist = np.hypot(kx, ky) < 0.5 / PIXEL_SIZE - 1e-9
    for rotation, shift, ctf in zip(axis_aligned(), particles.pose.shift, particles.ctf):
        dx, dy = np.rint(shift / PIXEL_SIZE).astype(int)
        transform = np.fft.fft2(np.roll(line_integral(volume, rotation), (dy, dx), (0, 1))) * below_nyquist
        if use_ctf:
            transform = transform * explicit_ctf(ctf, kx, ky) ** ctf_times
        yield np.fft.ifft2(transform).real


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """``command(words…)`` runs ``mpirecon project words…`` in an empty folder → (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run(["project", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def files(tmp_path, monkeypatch):
    """map.mrc and particles.h5 of box 32 in the working folder; returns (volume, particles)."""
    monkeypatch.chdir(tmp_path)
    return write_files(32)


def write_files(box, **options):
    volume = blobs(box, PIXEL_SIZE)
    write_map("map.mrc", volume, PIXEL_SIZE, overwrite=True)
    shift = np.random.default_rng(0).integers(-2, 3, (24, 2))
    return volume, write_particles("particles.h5", box, shift, **options)


def read_stack(path="stack.mrcs"):
    reader = StackReader(path)
    return reader.read(np.arange(len(reader)))


@pytest.mark.parametrize("box", [40, 41])
def test_images_are_line_integrals_shifted_and_modulated(command, box):
    volume, particles = write_files(box)
    code, out, err = command("map.mrc", "particles.h5", "-o", "stack.mrcs")
    assert (code, err) == (0, "") and "wrote stack.mrcs: 24 images, rows 0 to 23 of particles.h5" in out
    images = read_stack()
    for image, expected in zip(images, expected_images(volume, particles)):
        # what is left is the tail of the Gaussians that the box cuts off
        np.testing.assert_allclose(image, expected, atol=1e-4 * np.abs(expected).max())
    command("map.mrc", "particles.h5", "-o", "plain.mrcs", "--no-ctf")
    for image, expected in zip(read_stack("plain.mrcs"), expected_images(volume, particles, use_ctf=False)):
        np.testing.assert_allclose(image, expected, atol=1e-4 * np.abs(expected).max())


def test_the_stack_is_an_mrc_file_with_the_particles_pixel_size(command, files):
    assert command("map.mrc", "particles.h5", "-o", "stack.mrcs")[0] == 0
    with mrcfile.open("stack.mrcs") as mrc:
        assert mrc.data.shape == (24, 32, 32) and mrc.data.dtype == np.float32
        assert float(mrc.voxel_size.x) == pytest.approx(PIXEL_SIZE) and mrc.is_image_stack()


def test_a_name_of_another_kind_of_file_is_refused(command, files):
    for name in ("x.star", "y.txt", "x.h5", "x"):
        code, _, err = command("map.mrc", "particles.h5", "-o", name)
        assert code == 1 and f"-o {name}: a stack of images (MRC) is written, so the name must end in .mrcs" in err
        assert not os.path.exists(name)
    code, out, _ = command("map.mrc", "particles.h5", "-o", "x.mrc")
    assert code == 0 and "RELION takes x.mrc for a map" in out and len(read_stack("x.mrc")) == 24
    assert "for a map" not in command("map.mrc", "particles.h5", "-o", "x.MRCS")[1]


@pytest.mark.in_python
def test_a_script_names_a_stack_as_such_too(files):
    model = mr.ForwardModel(mr.open("particles.h5"))
    with pytest.raises(mr.UserError, match="x.star: a stack of images"):
        model.write("map.mrc", "x.star")


def test_images_compare_with_those_of_a_premultiplied_file(command, tmp_path):
    volume, particles = write_files(40, ctf_premultiplied=True)
    _, out, _ = command("map.mrc", "particles.h5", "-o", "stack.mrcs")
    assert "CTF applied twice" in out
    for image, expected in zip(read_stack(), expected_images(volume, particles, ctf_times=2)):
        np.testing.assert_allclose(image, expected, atol=1e-4 * np.abs(expected).max())


def test_images_compare_with_those_of_a_file_with_black_protein(command, tmp_path):
    volume, particles = write_files(40, contrast="black")
    assert command("map.mrc", "particles.h5", "-o", "stack.mrcs")[0] == 0
    for image, expected in zip(read_stack(), expected_images(volume, particles)):
        np.testing.assert_allclose(image, -expected, atol=1e-4 * np.abs(expected).max())


def test_rows_and_batches_choose_the_same_images(command, files, monkeypatch):
    command("map.mrc", "particles.h5", "-o", "stack.mrcs")
    whole = read_stack()
    monkeypatch.setattr("mpirecon.api.forward.BATCH_PIXELS", 5 * 32**2)
    for text, rows in (("3:17", slice(3, 17)), (":2", slice(2)), ("20:", slice(20, None)), ("20:99", slice(20, None))):
        code, out, _ = command("map.mrc", "particles.h5", "-o", "part.mrcs", "--rows", text, "--overwrite")
        assert code == 0
        np.testing.assert_array_equal(read_stack("part.mrcs"), whole[rows])


def test_images_of_a_simulated_file_are_its_signal(command):
    run("simulate --phantom --box 24 --particles 6 --snr inf -o p.h5 --truth-map t.mrc -q".split())
    assert command("t.mrc", "p.h5", "-o", "stack.mrcs")[0] == 0
    with ParticleFile("p.h5") as file:
        expected = file.images(slice(0, 6))
    np.testing.assert_allclose(read_stack(), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "words, said",
    [
        (["missing.mrc", "particles.h5"], ["missing.mrc"]),
        (["map.mrc", "missing.h5"], ["missing.h5"]),
        (["particles.h5", "particles.h5"], ["particles.h5 is no MRC file", "a particle file of"]),
        (["map.mrc", "map.mrc"], ["map.mrc", "not a particle file"]),
        (["large.mrc", "particles.h5"], ["box of 36", "32"]),
        (["coarse.mrc", "particles.h5"], ["3 Å", "2 Å", "rescale"]),
        (["map.mrc", "particles.h5", "--rows", "7:7"], ["none of the 24 particles", "0 to 23"]),
        (["map.mrc", "particles.h5", "--rows", "24:"], ["none of the 24 particles"]),
        (["map.mrc", "particles.h5", "--rows", "5"], ["--rows", "A:B"]),
        (["map.mrc", "particles.h5", "--rows=-3:"], ["--rows", "A:B"]),
        (["map.mrc", "truncated.h5"], ["truncated.h5"]),
        (["map.mrc"], ["PARTICLES"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_stack(command, files, tmp_path, words, said):
    write_map("large.mrc", np.zeros((36, 36, 36)), PIXEL_SIZE, overwrite=True)
    write_map("coarse.mrc", np.zeros((32, 32, 32)), 3.0, overwrite=True)
    (tmp_path / "truncated.h5").write_bytes((tmp_path / "particles.h5").read_bytes()[:5000])
    code, out, err = command(*words, "-o", "stack.mrcs")
    assert code in (1, 2) and out == "" and "Traceback" not in err
    for text in said:
        assert text in err
    assert not list(tmp_path.glob("*stack.mrcs*"))


def test_an_existing_stack_is_kept_unless_asked_otherwise(command, files, tmp_path):
    (tmp_path / "stack.mrcs").write_text("mine")
    code, _, err = command("map.mrc", "particles.h5", "-o", "stack.mrcs")
    assert code == 1 and "stack.mrcs exists already" in err and (tmp_path / "stack.mrcs").read_text() == "mine"
    assert command("map.mrc", "particles.h5", "-o", "stack.mrcs", "--overwrite", "-q") == (0, "", "")


def test_pixel_sizes_may_differ_by_rounding(command, files):
    with h5py.File("particles.h5", "r+") as file:
        file.attrs["pixel_size"] = PIXEL_SIZE * 1.0005
    assert command("map.mrc", "particles.h5", "-o", "stack.mrcs")[0] == 0
