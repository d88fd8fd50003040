"""Commands on the CUDA backend, and what a user can do wrong with it; with a stand-in for CuPy."""

import importlib
import json
import os
import subprocess
import sys

import h5py
import mrcfile
import numpy as np
import pytest
from test_cuda_backend import TESTS, fake_cupy, fake_environment, needs_compiler  # noqa: F401 (a fixture)

# ---------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def particle_file(cli, tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 120, "--box", 16, "--pixel-size", 6, "--snr", 0.3,
                 "--error-rate", 0.2,
                 "--seed", 3, "-o", path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return path


def outcome(folder):
    """Maps, statistics of each particle and summary of a run."""
    maps = {name: mrcfile.read(folder / f"{name}.mrc").astype(np.float64) for name in ("half1", "half2", "volume")}
    with h5py.File(folder / "particles.h5") as file:
        columns = {name: file[name][()] for name in ("distance", "score", "weight", "sigma", "scale")}
    return maps, columns, json.loads((folder / "summary.json").read_text())


def assert_same_run(first, second):
    maps, columns, summary = first
    other_maps, other_columns, other = second
    for name, volume in maps.items():
        assert np.linalg.norm(other_maps[name] - volume) <= 1e-4 * np.linalg.norm(volume), name
    for name, values in columns.items():
        np.testing.assert_allclose(other_columns[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max(),
                                   err_msg=name)
    for mine, its in zip(summary["iterations"], other["iterations"], strict=True):
        assert mine["loss_l2"] == pytest.approx(its["loss_l2"], rel=1e-5) and mine["kept"] == its["kept"]


RUNS = {
    "sorted": ["--padding", "1.5", "--loss", "sorted", "--keep", "0.8", "--iterations", "2", "--folds", "2"],
    "gradient": ["--solver", "gradient", "--iterations", "2", "--batch-size", "60"],
}


@needs_compiler
@pytest.mark.parametrize("kind", RUNS)
def test_reconstruct_on_cuda_is_that_on_cpu(kind, cli, mpirun, particle_file, tmp_path, fake_cupy):  # noqa: F811
    fake_cupy()
    common = ["reconstruct", particle_file, *RUNS[kind], "--no-postprocess", "-q"]
    result = cli(*common, "-o", tmp_path / "cpu", "--backend", "cpu")
    assert result.returncode == 0, result.stderr
    result = cli(*common, "-o", tmp_path / "cuda", "--backend", "cuda")
    assert result.returncode == 0, result.stderr
    expected, found = outcome(tmp_path / "cpu"), outcome(tmp_path / "cuda")
    assert_same_run(expected, found)
    assert found[2]["ranks"][0]["gpu"] == "Fake GPU" and found[2]["transport"] is None
    if kind == "gradient":
        return
    # two ranks on the one GPU there is, short of memory: streamed and staged
    environment = fake_environment(memory=60 * 2**20)
    result = mpirun(2, ["-m", "mpirecon", *common, "-o", tmp_path / "two", "--backend", "cuda"], env=environment,
                    timeout=200)
    assert result.returncode == 0, result.stderr
    assert "ranks share a GPU" in result.stderr
    two = outcome(tmp_path / "two")
    assert_same_run(expected, two)
    assert two[2]["transport"] == "staged" and len({rank["device"] for rank in two[2]["ranks"]}) == 1


# ---------------------------------------------------------------- what a user can do wrong


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"error": "cudaErrorNoDevice: no CUDA-capable device is detected"},
         ["no CUDA device is visible", "--backend cpu"]),
        ({"devices": 0}, ["no CUDA device is visible", "nvidia-smi"]),
        ({"error": "cudaErrorInsufficientDriver: CUDA driver version is insufficient", "driver": 12020},
         ["driver knows CUDA 12.2", "built for CUDA 13.0", "update the driver", "mpirecon[cuda12]"]),
        ({"error": "cudaErrorInsufficientDriver: CUDA driver version is insufficient", "driver": 0},
         ["no CUDA driver works"]),
        ({"import_error": "libcublas.so.12: cannot open shared object file"},
         ["cannot be imported", "libcublas", "mpirecon[cuda"]),
        ({"memory": 2**20}, ["1 MB free for this rank", "box 16 needs at least", "--backend cpu"]),
    ],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_reported_with_the_remedy(
    settings, said, cli, particle_file, tmp_path, fake_cupy,  # noqa: F811
):
    fake_cupy(**settings)
    result = cli("reconstruct", particle_file, "-o", tmp_path / "run", "--backend", "cuda")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")
def test_a_missing_cupy_is_reported_with_the_remedy(cli, particle_file, tmp_path):
    result = cli("reconstruct", particle_file, "-o", tmp_path / "run", "--backend", "cuda")
    assert result.returncode == 1 and "needs CuPy, which is not installed" in result.stderr
    assert "pip install 'mpirecon[cuda12]'" in result.stderr and "Traceback" not in result.stderr


def test_auto_goes_on_without_gpus_and_logs_why(cli, particle_file, tmp_path, fake_cupy):  # noqa: F811
    fake_cupy(devices=0)
    result = cli("reconstruct", particle_file, "-o", tmp_path / "run", "--no-postprocess")
    assert result.returncode == 0, result.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "logs" / "rank0000.jsonl").read_text().splitlines()]
    assert any("no CUDA device is visible" in str(line) for line in log)


def test_a_transport_without_gpus_is_refused(cli, particle_file, tmp_path, fake_cupy):  # noqa: F811
    fake_cupy(devices=0)
    for options in (["--backend", "cpu"], []):
        result = cli("reconstruct", particle_file, "-o", tmp_path / "run", "--transport", "nccl", *options)
        assert result.returncode == 1 and "--transport nccl is how GPU arrays travel" in result.stderr


def test_real_space_and_the_posterior_do_not_go_together(cli, particle_file, tmp_path):
    result = cli("reconstruct", particle_file, "-o", tmp_path / "run", "--space", "real", "--loss", "posterior")
    assert result.returncode == 1 and "--space real has no local pose search" in result.stderr


# ---------------------------------------------------------------- check, and the tool for machines with a GPU


def test_check_reports_driver_device_and_what_mpi_says(mpirun):
    result = mpirun(2, ["-m", "mpirecon", "check", "--json"], env=fake_environment(devices=2, driver=12040))
    assert result.returncode == 0, result.stderr
    line = next(entry for entry in json.loads(result.stdout)["checks"] if entry["subject"] == "GPUs")
    assert line["status"] == "ok" and "rank 1 → " in line["text"] and "GPU-01010101" in line["text"]
    assert ("driver CUDA 12.4, CuPy 14.2.0 for CUDA 13.0" in line["text"]
            and "MPIX_Query_cuda_support says no" in line["text"])


def test_check_reports_why_a_gpu_cannot_be_used(cli, fake_cupy):  # noqa: F811
    fake_cupy(error="cudaErrorInsufficientDriver: too old", driver=11080)
    result = cli("check", "--json")
    told = json.loads(result.stdout)["ranks"][0]["gpus"]["cupy"]
    assert result.returncode == 0 and "driver knows CUDA 11.8" in told and "update the driver" in told


def gpu_check(tmp_path, *arguments, **settings):
    tool = TESTS.parent / "tools" / "gpu_check"
    environment = {**os.environ, **fake_environment(**settings)}
    command = [sys.executable, tool, "-o", tmp_path / "out", "--tiny", "--boxes", "12", "--repeats", "1", *arguments]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=300)
    return result, json.loads((tmp_path / "out" / "report.json").read_text())


@needs_compiler
def test_gpu_check_measures_and_prints_a_table(tmp_path):
    result, report = gpu_check(tmp_path, "--only", "environment", "throughput", "transports")
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["environment"]["name"] == "Fake GPU" and report["transports"]["bit_for_bit"] is True
    part = report["throughput:12"]
    assert part["samples"] < part["grid_points_touched"] < 64 * part["samples"]
    rows = [line for line in result.stdout.splitlines() if line.startswith("| 12 |")]
    assert [row.split(" | ")[1] for row in rows] == ["statistics", "backprojection", "whole L2 pass"]
    assert (tmp_path / "out" / "table.md").read_text().strip() in result.stdout


def test_no_part_of_gpu_check_is_lost_by_the_failure_of_another(tmp_path):
    result, report = gpu_check(tmp_path, "--only", "environment", "throughput", "cryodrgn",
                               error="cudaErrorNoDevice: none")
    assert result.returncode == 1
    assert report["environment"]["failed"] and report["throughput:12"]["failed"] and "note" in report["cryodrgn"]
    assert "no CUDA device is visible" in report["environment"]["text"] and "| 12 | failed" in result.stdout
