"""``mpirecon check``: what it finds alone and on three ranks, and how it judges what cannot be made to happen here."""

import json
import os
import threading

import pytest

from mpirecon.batch import checks, probes
from mpirecon.batch.checks import FAIL, OK, WARN
from mpirecon.cli.check import time_limit
from mpirecon.parallel.comm import SerialCommunicator


def rank(number=0, host="a", local=None, cores=(0, 1), threads=1, **more):
    facts = {
        "rank": number, "host": host, "local_rank": number if local is None else local, "cores": list(cores),
        "host_cores": 8, "threads": threads, "gpus": {"uuids": [], "cupy": None}, "hdf5_parallel": False,
        "numba_cache": {"folder": "/cache", "error": None}, "versions": {"numpy": "2.0", "hdf5": "1.14"},
    }  # fmt: skip
    return {**facts, **more}


def statuses(text: str) -> dict[str, str]:
    return {entry["subject"]: entry["status"] for entry in json.loads(text)["checks"]}


SUBJECTS = ["MPI", "ranks", "versions", "threads", "HDF5", "kernel cache", "GPUs", "transport", "clocks"]


def test_alone(cli, tmp_path):
    result = cli("check", "-o", tmp_path / "new" / "run", env={"NUMBA_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert [line[6:19].rstrip() for line in lines] == [*SUBJECTS, "output"]
    assert "no launcher, one rank" in lines[0] and "one rank, nothing to send" in lines[7]
    assert list(tmp_path.iterdir()) == []  # nothing was made, and nothing is left


def test_uncompiled_kernels_are_a_finding(cli):
    result = cli("check", "--json", env={"NUMBA_DISABLE_JIT": "1"})
    line, = (entry for entry in json.loads(result.stdout)["checks"] if entry["subject"] == "kernel cache")
    assert result.returncode == 1 and line["status"] == FAIL
    assert "NUMBA_DISABLE_JIT=1" in line["text"] and line["todo"] == "unset NUMBA_DISABLE_JIT"


def test_on_three_ranks(mpirun, tmp_path):
    result = mpirun(3, ["-m", "mpirecon", "check", "--json", "-o", tmp_path])
    assert result.returncode == 0, result.stderr
    found = statuses(result.stdout)
    assert list(found) == [*SUBJECTS, "output"]
    assert all(found[subject] == OK for subject in found if subject != "threads")
    told = json.loads(result.stdout)
    assert [entry["rank"] for entry in told["ranks"]] == [0, 1, 2] and told["ok"] is True
    assert sorted(entry["local_rank"] for entry in told["ranks"]) == [0, 1, 2]
    texts = {entry["subject"]: entry["text"] for entry in told["checks"]}
    assert "started by Open MPI mpirun" in texts["MPI"] or "started by mpiexec" in texts["MPI"]
    assert (
        "sums over 3 ranks in host memory are right" in texts["transport"] and "every rank can write" in texts["output"]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [1, 3])
def test_a_folder_that_cannot_be_written_fails_with_code_1(mpirun, n):
    result = mpirun(n, ["-m", "mpirecon", "check", "-o", "/proc/run"])
    assert result.returncode == 1
    line = next(line for line in result.stdout.splitlines() if "output" in line)
    assert "fail" in line and "/proc: rank 0" in line and "cannot write" in line
    assert "→ choose one that all hosts can write" in result.stdout and "Error" not in result.stderr


def test_an_mpi_that_does_not_start_is_a_warning_when_alone(cli, tmp_path):
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").write_text("")
    (broken / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    result = cli("check", "--json", env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 0 and statuses(result.stdout)["MPI"] == WARN
    assert "cannot load MPI library; only one rank will work" in result.stdout


def test_wrong_sums_are_found():
    class Wrong(SerialCommunicator):
        def _allreduce(self, part, op):
            part[-1] += part.size > 1  # a transport that loses a little of a long message

    trial = probes.transport(Wrong())
    assert trial["wrong"] == ["allreduce"]
    line = checks.assess_transport(trial, 2)
    assert line.status == FAIL and "wrong result of allreduce" in line.text and "site's MPI" in line.todo
    assert probes.transport(SerialCommunicator())["wrong"] == []


def test_threads():
    judge = checks.assess_threads
    assert judge([rank(0), rank(1)]).status == OK
    line = judge([rank(0, threads=4, cores=range(4)), rank(1, threads=4, cores=range(4))])
    assert line.status == WARN and "2 ranks may run 8 threads on 4 cores" in line.text
    assert line.todo.startswith("export NUMBA_NUM_THREADS=2")
    line = judge([rank(0, threads=4, cores=[0]), rank(1, threads=4, cores=[1])])
    assert "bound to 1 cores" in line.text and "--bind-to none" in line.todo
    assert "3 ranks on 2 cores" in judge([rank(i) for i in range(3)]).text
    # hosts are judged apart
    assert judge([rank(0, "a", threads=2), rank(1, "b", threads=2)]).status == OK
    line = judge([rank(0, "a", threads=2), rank(1, "b", threads=2), rank(2, "b", threads=2)])
    assert line.status == WARN and line.text.startswith("b: ")


def test_ranks_and_versions():
    assert checks.assess_ranks([rank(0), rank(1), rank(2, "b", 0)]) == (OK, "ranks", "3 on a (2), b (1)", "")
    assert checks.assess_ranks([rank(0), rank(1, local=0)]).status == WARN
    line = checks.assess_versions([rank(0), rank(1, "b", versions={"numpy": "1.9", "hdf5": "1.14"})])
    assert line.status == FAIL and line.text == "numpy 2.0 on rank 0, 1.9 on rank 1 (b)"


def test_gpus():
    def with_gpus(number, local, uuids=("GPU-x", "GPU-y"), cupy="13.0"):
        return rank(number, local=local, gpus={"uuids": list(uuids), "cupy": cupy})

    assert "none here" in checks.assess_gpus([rank()]).text
    line = checks.assess_gpus([with_gpus(0, 0), with_gpus(1, 1)])
    assert line == (OK, "GPUs", "rank 0 → a → GPU-x; rank 1 → a → GPU-y", "")
    assert "share one" in checks.assess_gpus([with_gpus(0, 0), with_gpus(1, 1), with_gpus(2, 2)]).text
    assert "CuPy is not installed" in checks.assess_gpus([with_gpus(0, 0, cupy=None)]).text
    line = checks.assess_gpus([with_gpus(0, 0, cupy="does not work: driver too old")])
    assert line.status == WARN and "driver too old" in line.text


def test_kernel_cache(monkeypatch):
    bad = rank(1, numba_cache={"folder": "/ro", "error": "Read-only file system"})
    line = checks.assess_cache([rank(0), bad])
    assert line.status == WARN and "rank 1 on a" in line.text and "NUMBA_CACHE_DIR" in line.todo
    # it runs without
    assert checks.assess_cache([rank(0, numba_cache={"folder": "", "error": "no folder"})]).status == WARN
    assert probes.numba_cache()["error"] is None


def test_clocks_and_files():
    assert checks.assess_clocks(0.002, 2) == (OK, "clocks", "within 2 ms", "")
    assert checks.assess_clocks(4.0, 2).status == WARN
    trial = {"folder": "/f", "errors": {}, "unseen": {}, "free": 2**40, "seconds": 1.0, "bytes": 10**7}
    assert checks.assess_files(trial).text == "/f: every rank can write, rename and read (10 MB/s flushed), 1 TB free"
    assert checks.assess_files({**trial, "free": 2**20}).status == WARN
    line = checks.assess_files({**trial, "unseen": {2: [0, 1]}})
    assert line.status == FAIL and "rank 2 does not see the files of rank 0" in line.text
    line = checks.assess_files({**trial, "errors": {1: "No space left on device", 3: "x"}})
    assert line.status == FAIL and "rank 1 and 1 more cannot write: No space left on device" in line.text


def test_a_check_that_hangs_is_ended():
    told = threading.Event()

    class Hanging(SerialCommunicator):
        def abort(self, message, code=1):
            assert "did not get through within 0.05 s" in message and code == 1
            told.set()

    with time_limit(Hanging(), 0.05):
        assert told.wait(5)
    told.clear()
    with time_limit(Hanging(), 0.05):
        pass
    assert not told.wait(0.2)


def test_gpu_facts_without_a_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes.gpu_facts()["uuids"] == []
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU-1234, Some Card'\n")
    fake.chmod(0o755)
    assert probes.gpu_facts()["uuids"] == ["GPU-1234, Some Card"]
    assert os.environ["PATH"] == str(tmp_path)
