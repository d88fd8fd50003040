"""A run that was interrupted goes on from its checkpoint to the map it would have made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import mrcfile
import numpy as np
import pytest

RUNS = {
    "posterior": ("--loss", "posterior", "--iterations", "4"),
    "gradient": ("--solver", "gradient", "--loss", "sorted", "--keep", "0.7", "--iterations", "4", "--batch-size", "60"),
}


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("resume") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 160, "--box", 20, "--pixel-size", 7, "--snr", 0.5,
                 "--error-rate", 0.3, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


def interrupted_after(checkpoints, particles, out, *options):
    """Start a run and kill it (SIGKILL) once it has written so many checkpoints."""
    command = [sys.executable, "-m", "mpirecon", "reconstruct", particles, "-o", out, *options]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    seen, last = 0, None
    while seen < checkpoints and process.poll() is None and time.monotonic() < deadline:
        stamp = (out / "checkpoint.h5").stat().st_mtime_ns if (out / "checkpoint.h5").exists() else None
        if stamp != last:
            seen, last = seen + 1, stamp
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "checkpoint.h5").exists(), "the run ended before it could be interrupted"
    assert not (out / "summary.json").exists()


def interrupted(particles, out, name, after):
    """A run killed after an iteration; returns the iteration of its checkpoint."""
    interrupted_after(after, particles, out, *RUNS[name])
    with h5py.File(out / "checkpoint.h5") as file:
        return json.loads(file.attrs["facts"])["iteration"]


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_bits(particles, cli, tmp_path, name):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("reconstruct", particles, "-o", whole, *RUNS[name]).returncode == 0
    done = interrupted(particles, broken, name, 2)
    result = cli("reconstruct", particles, "-o", broken, *RUNS[name], "--resume")
    assert result.returncode == 0, result.stderr
    assert f"iteration {done + 1}/4" in result.stdout and f"iteration {done}/4" not in result.stdout
    for volume in ("volume", "half1", "half2"):
        np.testing.assert_array_equal(mrcfile.read(whole / f"{volume}.mrc"), mrcfile.read(broken / f"{volume}.mrc"))
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (whole, broken))
    assert a["iterations"] == b["iterations"] and len(b["iterations"]) == 4
    assert not (broken / "checkpoint.h5").exists()


def test_a_run_resumes_on_another_number_of_ranks(particles, cli, mpirun, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("reconstruct", particles, "-o", whole, *RUNS["posterior"]).returncode == 0
    interrupted(particles, broken, "posterior", 1)
    result = mpirun(3, ["-m", "mpirecon", "reconstruct", particles, "-o", broken, *RUNS["posterior"], "--resume"])
    assert result.returncode == 0, result.stderr
    x, y = (mrcfile.read(folder / "volume.mrc").astype(float) for folder in (whole, broken))
    assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(x)
    logged = (broken / "logs" / "rank0000.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "start" for line in logged) == 2, "the first run's log is kept"


def test_a_checkpoint_of_other_options_or_particles_is_refused_by_name(particles, cli, tmp_path):
    out = tmp_path / "out"
    interrupted(particles, out, "posterior", 1)
    result = cli("reconstruct", particles, "-o", out, "--loss", "huber", "--iterations", "4", "--resume")
    assert result.returncode == 1 and "loss was posterior and is huber" in result.stderr
    other = shutil.copy(particles, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        file["shift"][0] += 1
    result = cli("reconstruct", other, "-o", out, *RUNS["posterior"], "--resume")
    assert result.returncode == 1 and "other particles" in result.stderr
    result = cli("reconstruct", particles, "-o", out, *RUNS["posterior"])
    assert result.returncode == 1 and "--overwrite" in result.stderr
    (out / "checkpoint.h5").write_bytes(b"nothing of the kind")
    result = cli("reconstruct", particles, "-o", out, *RUNS["posterior"], "--resume")
    assert result.returncode == 1 and "checkpoint.h5" in result.stderr and "Traceback" not in result.stderr


def test_resume_begins_where_there_is_nothing_and_refuses_what_is_finished(particles, cli, tmp_path):
    out = tmp_path / "out"
    options = ("--loss", "sorted", "--keep", "0.7", "--iterations", "2", "--resume")
    assert cli("reconstruct", particles, "-o", out, *options).returncode == 0
    assert not (out / "checkpoint.h5").exists()
    result = cli("reconstruct", particles, "-o", out, *options)
    assert result.returncode == 1 and "finished" in result.stderr
    assert os.path.exists(out / "volume.mrc")
