"""What CuPy and CUDA's libraries can do wrong, and what the program makes of it; with a stand-in for CuPy."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from adjoint import random_like
from conftest import MPI_PROGRAMS
from test_cuda_backend import TESTS, fake_cupy, fake_environment, needs_compiler  # noqa: F401 - fixtures
from test_cuda_commands import gpu_check

from mpirecon.backend import get_backend
from mpirecon.backend.gpu import Gpu
from mpirecon.errors import UserError
from mpirecon.parallel import cuda_support
from mpirecon.parallel.agree import as_user_error
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.gpus import device_facts, try_out
from mpirecon.parallel.launcher import without_launcher
from mpirecon.parallel.placement import place_ranks
from mpirecon.parallel.transport import StagedTransport
from mpirecon.solvers.references import References
from mpirecon.solvers.timing import Timings


def broken(error):
    def function(*_, **__):
        raise error

    return function


def test_a_cupy_without_cudas_libraries_is_no_gpu_that_works(fake_cupy, monkeypatch):  # noqa: F811
    cupy = fake_cupy()
    assert place_ranks(SerialCommunicator(), "auto").backend == "cuda"
    try_out.cache_clear()
    monkeypatch.setattr(cupy.fft, "rfft", broken(ImportError("libcufft.so.12: cannot open shared object file")))
    found = place_ranks(SerialCommunicator(), "auto")
    assert found.backend == "cpu" and "libcufft.so.12" in found.reason
    with pytest.raises(UserError, match=r"libcufft\.so\.12.*pip install 'mpirecon\[cuda12\]'.*--backend cpu"):
        place_ranks(SerialCommunicator(), "cuda")
    try_out.cache_clear()
    monkeypatch.setattr(cupy.fft, "rfft", lambda a: cupy.zeros(5, np.complex64))
    assert "sum of 0 … 7 as 0" in place_ranks(SerialCommunicator(), "auto").reason
    try_out.cache_clear()


def test_a_host_may_be_called_shared(fake_cupy):  # noqa: F811
    fake_cupy()
    comm = SerialCommunicator()
    comm.hostname = "gpu-shared-03"
    found = place_ranks(comm, "cuda")
    assert "gpu-shared-03" in found.lines[0] and found.warning == "" and found.one_gpu_a_rank


def test_a_uuid_that_cupy_cut_short_is_not_reported(fake_cupy, monkeypatch):  # noqa: F811
    cupy = fake_cupy()
    known = cupy.cuda.runtime.getDeviceProperties(0)
    for raw, told in ((bytes(range(1, 17)), "GPU-01020304-0506-0708-090a-0b0c0d0e0f10"),
                      (b"\1\2\3", "GPU at 0000:00:00.0")):
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device, raw=raw: known | {"uuid": raw})
        assert device_facts(cupy, 0)["uuid"] == told


def test_memory_that_ran_out_is_reported_whichever_library_says_so(fake_cupy):  # noqa: F811
    cupy, gpu = fake_cupy(), Gpu(0)
    said = [
        RuntimeError("CUFFT_ALLOC_FAILED"),
        cupy.cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
    ]
    for error in said:
        assert gpu.ran_out(error) and "the GPU ran out of memory" in str(as_user_error(error))
    assert gpu.ran_out(cupy.cuda.memory.OutOfMemoryError(4000, 0))
    other = RuntimeError("CUFFT_INVALID_PLAN")
    assert not gpu.ran_out(other) and as_user_error(other) is None


def test_staged_sums_are_counted_once(fake_cupy, monkeypatch):  # noqa: F811
    fake_cupy()
    comm, counted = SerialCommunicator(), []
    monkeypatch.setattr(comm, "count", counted.append)
    transport = StagedTransport(comm, Gpu(0))
    for length in (10, 20, 5):  # the buffer grows, and is used again
        array = transport.gpu.to_device(np.arange(length), np.float32)
        np.testing.assert_array_equal(transport.allreduce(array).get(), np.arange(length))
    assert counted == [40, 80, 20]


@needs_compiler
def test_a_solution_for_which_the_device_lacks_memory_is_made_on_the_host(fake_cupy, monkeypatch):  # noqa: F811
    cupy, box = fake_cupy(), 12
    backends = [get_backend(name, box, 2.0) for name in ("cpu", "cuda")]
    p = backends[0].projection.padded
    folded = np.abs(random_like((p, p, p // 2 + 1, 3), np.float32, 1)) + 0.1
    expected, equations = (backend.normal_equations(folded) for backend in backends)
    ridge = expected.ridge()
    # while there is enough
    np.testing.assert_allclose(equations.direct(ridge), expected.direct(ridge), rtol=1e-4, atol=1e-6)
    monkeypatch.setitem(cupy.SETTINGS, "memory", cupy.MEMORY.used + folded.nbytes)
    volume, residuals = equations.solve(ridge, 3)
    again, known = expected.solve(ridge, 3)
    np.testing.assert_array_equal(volume, again)
    assert residuals == known


@pytest.mark.parametrize("n", [2, 3])
def test_an_nccl_that_fails_is_reported_and_another_way_taken(mpirun, n):
    result = mpirun(n, ["-m", "mpi4py", MPI_PROGRAMS / "nccl_trouble.py"], env=fake_environment(devices=n), timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_trial_keeps_the_settings_of_mpi_and_loses_the_launcher():
    kept = {"OMPI_MCA_opal_cuda_support": "1", "OMPI_MCA_pml": "ucx", "MV2_USE_CUDA": "1",
            "MPICH_GPU_SUPPORT_ENABLED": "1", "HOME": "/h"}
    lost = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_ess": "env", "PMIX_RANK": "0", "MV2_COMM_WORLD_RANK": "1",
            "SLURM_PROCID": "0"}
    assert without_launcher(kept | lost) == kept


def test_the_trial_can_be_left_out(monkeypatch):
    monkeypatch.setattr(cuda_support, "TRIAL", "raise SystemExit('no second process may use this GPU')")
    assert cuda_support.trial(0) == (False, "a trial failed: no second process may use this GPU")
    monkeypatch.setenv(cuda_support.TRUST, "1")
    assert cuda_support.trial(0) == (True, "")


def test_a_reference_is_let_go_before_the_next_is_made():
    class Grid:
        alive = most = 0

        def __init__(self) -> None:
            Grid.alive += 1
            Grid.most = max(Grid.most, Grid.alive)

        def __del__(self) -> None:
            Grid.alive -= 1

    class Backend:
        made, can = [], frozenset()

        def reference(self, volume):
            self.made.append(volume)
            return Grid()

    class Maps:
        box = 4

        def get(self, made_of):
            return made_of

    references = References(Backend(), Maps(), Timings())
    for wanted in (("a", "b"), ("b", "c"), ("c", "b"), ("d",), ("e", "f")):
        references.bring(*wanted)
        gc.collect()
        assert all(isinstance(references.grid(made_of), Grid) for made_of in wanted)
    assert Grid.most == 2 and Backend.made == list("abcdef")


def test_gpu_check_sums_over_two_gpus_where_there_are_two(tmp_path):
    result, report = gpu_check(tmp_path, "--only", "transports", devices=2)
    found = report["transports"]
    assert (result.returncode == 0 and found["ranks"] == 2 and found["right"]
            and found["bit_for_bit"]), result.stdout + result.stderr
    assert found["staged"]["seconds"] > 0 and found["nccl"]["seconds"] > 0


def test_gpu_check_fails_where_a_transport_does(tmp_path):
    result, report = gpu_check(tmp_path, "--only", "transports", memory=1000)  # bytes
    assert (result.returncode == 1 and report["transports"]["failed"]
            and "OutOfMemoryError" in report["transports"]["staged"]["text"])


def test_the_kernels_own_tests_can_run_through_cupy():
    """As gpu_check runs them on a GPU."""
    chosen = ("tests/test_cuda_kernels.py", "tests/test_cuda_grids.py", "-k", "project or radial or powers", "-q")
    result = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen], cwd=TESTS.parent,
                            capture_output=True,
                            text=True, env={**os.environ, **fake_environment(),
                                            "MPIRECON_KERNELS_ON": "gpu"})  # fmt: skip
    assert result.returncode == 0 and "passed" in result.stdout, result.stdout
    broken = ("import on_gpu, numpy as np; on_gpu.launch('project', 1, 64, (np.zeros(2),), "
              "__import__('test_cuda_kernels').small(4, 1), 0)")
    result = subprocess.run([sys.executable, "-c", broken], cwd=TESTS, capture_output=True, text=True,
                            env={**os.environ, **fake_environment()})
    assert result.returncode and "takes" in result.stderr
