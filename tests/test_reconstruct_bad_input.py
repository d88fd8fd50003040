"""What reconstruct refuses: one clear message, a non-zero exit code, nothing that looks finished."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest

from mpirecon.io.mrc import write_map


@pytest.fixture(scope="module")
def good(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("bad") / "good.h5"
    result = cli("simulate", "--phantom", "--particles", 40, "--box", 16, "--pixel-size", 8, "--snr", 1, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture
def particles(good, tmp_path):
    return shutil.copy(good, tmp_path / "particles.h5")


@pytest.fixture
def refuse(cli, tmp_path):
    """``refuse(path, options, parts…)``: reconstruct must end with a message that holds the parts."""

    def call(path, options, *parts, code=1):
        result = cli("reconstruct", path, "-o", tmp_path / "out", *options)
        assert result.returncode == code, result.stderr
        assert result.stderr.count("Error:") == 1 and "Traceback" not in result.stderr, result.stderr
        text = " ".join(result.stderr.split())
        for part in parts:
            assert part in text, result.stderr
        assert not (tmp_path / "out" / "summary.json").exists()
        assert not list(tmp_path.glob("out/*.mrc"))

    return call


@pytest.mark.parametrize(
    "options, parts, code",
    [
        (("--loss", "best"), ("'best' is not one of",), 2),
        (("--loss", "sorted"), ("--keep",), 1),
        (("--loss", "sorted", "--keep", "1.5"), ("--keep", "at most 1"), 2),
        (("--loss", "sorted", "--keep", "0"), ("--keep", "above 0"), 2),
        (("--keep", "0.5"), ("--keep applies to --loss sorted",), 1),
        (("--loss", "l1", "--distance", "correlation"), ("is not", "explained"), 1),
        (("--loss", "tukey", "--distance", "correlation"), ("is not", "explained"), 1),
        (("--loss", "posterior", "--distance", "raw"), ("--distance raw cannot be used", "whitened", "use explained"),
         1),
        (("--loss", "sorted", "--keep", "auto", "--distance", "raw"), ("--distance raw cannot be used",), 1),
        (("--loss", "sorted", "--keep", "auto", "--sort-scope", "batch"), ("--keep auto fits all particles",), 1),
        (("--loss", "huber", "--keep", "0.5"), ("--keep applies to", "huber weights all"), 1),
        (("--loss", "huber", "--folds", "30"), ("half set", "fewer than --folds 30", "or fewer, or --loss l2"), 1),
        (("--folds", "0"), ("--folds",), 2),
        (("--loss", "sorted", "--keep", "nan"), ("--keep", "out of range"), 2),
        (("--iterations", "0"), ("--iterations",), 2),
        (("--symmetry", "E7"), ("E7", "C1, C2", "D1, D2", "I3, I4"), 1),
        (("--backend", "cuda"), ("--backend cuda", "--backend cpu"), 1),
        (("--max-resolution", "3"), ("Nyquist", "16 Å"), 1),
        (("--max-resolution", "1000"), ("--max-resolution 1000 Å is coarser than the box", "give at most 128 Å"), 1),
        (("--diameter", "500"), ("--diameter 500", "at most"), 1),
        (("--score-band", "10:60"), ("coarser resolution first",), 2),
        (("--score-band", "fine"), ("60:12",), 2),
        (("--score-band", "20:19.9"), ("no Fourier shell",), 1),
        (("--batch-size", "10"), ("--solver gradient",), 1),
        (("--sort-scope", "batch"), ("--loss sorted",), 1),
        (("--schedule", "graduated"), ("--schedule graduated applies to robust losses",), 1),
        (("--momentum", "1", "--solver", "gradient"), ("--momentum 1", "below 1"), 1),
        (("--no-such-option",), ("No such option",), 2),
    ],
)
def test_option_values(refuse, good, options, parts, code):
    refuse(good, options, *parts, code=code)


def test_a_file_that_is_no_hdf5(refuse, tmp_path):
    path = tmp_path / "stack.mrcs"
    path.write_bytes(b"\0" * 2048)
    refuse(path, (), "stack.mrcs")


def test_an_hdf5_file_of_something_else(refuse, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    refuse(tmp_path / "other.h5", (), "other.h5")


def test_a_truncated_particle_file(refuse, particles):
    with open(particles, "r+b") as file:
        file.truncate(20_000)
    refuse(particles, (), "particles.h5")


def test_an_empty_half_set(refuse, particles):
    with h5py.File(particles, "r+") as file:
        file["half"][...] = 1
    refuse(particles, (), "half set 2 is empty", "particles.h5")


@pytest.mark.parametrize("value", [np.nan, np.inf, "constant"])
def test_an_image_without_information(refuse, particles, value):
    with h5py.File(particles, "r+") as file:
        if value == "constant":
            file["images"][7] = 2.5
        else:
            file["images"][7, 0, 0] = value
    refuse(particles, (), "particle 7", "same value" if value == "constant" else "NaN or infinity", "--skip-bad")


def test_every_image_bad(refuse, particles):
    with h5py.File(particles, "r+") as file:
        file["images"][...] = np.nan
    refuse(particles, ("--skip-bad",), "half set 1", "no good image")


def test_a_quaternion_of_nothing(refuse, particles):
    with h5py.File(particles, "r+") as file:
        file["quaternion"][11] = 0
    refuse(particles, (), "11")


def test_a_ctf_out_of_reason(refuse, particles):
    with h5py.File(particles, "r+") as file:
        ctf = file["ctf"][:]
        ctf["defocus_u"][3] = 9e9
        file["ctf"][...] = ctf
    refuse(particles, (), "3", "defocus_u")


def test_a_corrupt_chunk(refuse, particles):
    with h5py.File(particles, "r+") as file:
        images = file["images"][:]
        del file["images"]
        stored = file.create_dataset("images", data=images, chunks=(8, 16, 16), fletcher32=True)
        offset = stored.id.get_chunk_info(2).byte_offset
    with open(particles, "r+b") as file:
        file.seek(offset + 100)
        file.write(b"\xff" * 16)
    refuse(particles, (), "particles.h5")


def test_a_mask_of_another_size(refuse, good, tmp_path):
    write_map(tmp_path / "mask.mrc", np.ones((20, 20, 20), np.float32), 8.0, overwrite=False)
    refuse(good, ("--mask", tmp_path / "mask.mrc"), "mask.mrc", "box 20", "box 16")


def test_a_mask_that_is_no_mask(refuse, good, tmp_path):
    write_map(tmp_path / "mask.mrc", np.full((16, 16, 16), 7, np.float32), 8.0, overwrite=False)
    refuse(good, ("--mask", tmp_path / "mask.mrc"), "mask.mrc", "0 … 1")


def test_an_output_that_is_a_file(cli, good, tmp_path):
    (tmp_path / "out").write_text("something")
    result = cli("reconstruct", good, "-o", tmp_path / "out")
    assert result.returncode == 1 and "not a folder" in result.stderr
    assert (tmp_path / "out").read_text() == "something"


def test_an_overwritten_run_that_fails_leaves_the_earlier_results(cli, good, particles, tmp_path):
    out = tmp_path / "out"
    assert cli("reconstruct", good, "-o", out, "--quiet").returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with h5py.File(particles, "r+") as file:
        file["images"][7, 0, 0] = np.nan
    assert cli("reconstruct", particles, "-o", out, "--overwrite").returncode == 1
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_while_the_maps_are_written(mpirun, cli, small_disk, tmp_path):
    path = tmp_path / "particles.h5"
    cli("simulate", "--phantom", "--particles", 40, "--box", 32, "--pixel-size", 5, "--snr", 1, "-o", path)
    result = mpirun(2, ["-m", "mpirecon", "reconstruct", path, "-o", small_disk / "out"])
    assert result.returncode == 1
    assert result.stderr.count("Error:") == 1 and "disk is full" in result.stderr and "Traceback" not in result.stderr
    assert not (small_disk / "out" / "summary.json").exists()
    for left in (small_disk / "out").glob("*.mrc"):
        assert left.stat().st_size == 1024 + 4 * 32**3, f"{left.name} is cut short"
