"""Transports of device arrays and the placement of ranks on GPUs, with a stand-in for CuPy."""

import json
import sys

import pytest
from conftest import MPI_PROGRAMS
from test_cuda_backend import fake_environment

from mpirecon.parallel import cuda_support
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.placement import place_ranks


@pytest.mark.parametrize("n", [2, 3])
def test_every_transport_sums_as_the_communicator_does(mpirun, n):
    environment = fake_environment(devices=n)
    result = mpirun(n, ["-m", "mpi4py", MPI_PROGRAMS / "transports.py"], env=environment, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout.strip().splitlines()[-1])
    assert [line.partition(" → ")[0] for line in told["lines"]] == [f"rank {rank}" for rank in range(n)]
    assert len({line.rpartition(" → ")[2] for line in told["lines"]}) == n and told["warning"] == ""


def test_ranks_that_share_a_gpu(mpirun):
    result = mpirun(2, ["-m", "mpi4py", MPI_PROGRAMS / "shared_gpu.py"], env=fake_environment(), timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("variable, value, said", [("MPICH_GPU_SUPPORT_ENABLED", "1", True),
                                                   ("MV2_USE_CUDA", "0", False)])
def test_mpis_that_a_variable_sets(monkeypatch, variable, value, said):
    monkeypatch.setattr(cuda_support, "loaded_library", object)
    assert cuda_support.what_mpi_says() == (None, "it does not say")
    monkeypatch.setenv(variable, value)
    assert cuda_support.what_mpi_says() == (said, f"{variable}={value}")


def test_mpis_that_answer(monkeypatch):
    class OpenMpi:
        MPIX_Query_cuda_support = staticmethod(lambda: 1)

    class Mpich:
        @staticmethod
        def MPIX_GPU_query_support(kind, answer):
            answer._obj.value = 1 - kind
            return 0

    for library, name in ((OpenMpi, "MPIX_Query_cuda_support"), (Mpich, "MPIX_GPU_query_support")):
        monkeypatch.setattr(cuda_support, "loaded_library", library)
        assert cuda_support.what_mpi_says() == (True, f"{name} says yes")


def test_the_mpi_of_this_process_is_found(mpirun):
    program = "from mpi4py import MPI; from mpirecon.parallel.cuda_support import what_mpi_says; print(what_mpi_says())"
    result = mpirun(1, ["-c", program])
    assert result.returncode == 0 and "says no" in result.stdout, result.stdout + result.stderr


def test_cpus_are_taken_without_looking_for_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert place_ranks(SerialCommunicator(), "cpu").backend == "cpu"
    auto = place_ranks(SerialCommunicator(), "auto")
    assert auto.backend == "cpu" and "CuPy" in auto.reason
