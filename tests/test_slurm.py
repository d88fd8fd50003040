"""Jobs made by ``mpirecon job slurm``, under a real Slurm of one node that tools/slurm_local starts."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
TOOL = CHECKOUT / "tools" / "slurm_local"
PATIENCE = 240  # a first run compiles the kernels

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="needs root: slurmd starts jobs in their owners' names"),
    pytest.mark.skipif(
        not all(shutil.which(p) or Path("/usr/sbin", p).exists() for p in ("slurmctld", "slurmd", "munged", "sbatch")),
        reason="needs Slurm: apt-get install slurm-wlm munge libpmix-dev",
    ),
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py"),
    pytest.mark.xdist_group("slurm"),
]


def environment(**more) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI_COMM", "PMIX", "PRTE_"))}
    # more ranks than cores: those that wait must leave the cores to those that work
    return {**kept, "MPIRECON_SITE": os.devnull, "OMPI_MCA_mpi_yield_when_idle": "1", **more}


def daemons(state: Path) -> list[str]:
    """Command lines of processes that have to do with this Slurm."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            surroundings = (path.parent / "environ").read_bytes()
        except OSError:
            continue
        program = line.split(" ")[0].rpartition("/")[2]
        if program in ("munged", "slurmctld", "slurmd", "slurmstepd:") and str(state).encode() in surroundings:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """``slurm(command…)``: run a Slurm command, or any other, with this Slurm; demands success."""
    state = tmp_path_factory.mktemp("slurm") / "state"
    tool = [sys.executable, TOOL, "--state", state]
    started = subprocess.run([*tool, "start"], capture_output=True, text=True, env=environment(), timeout=PATIENCE)
    assert started.returncode == 0, started.stderr
    name, _, value = started.stdout.removeprefix("export ").strip().partition("=")

    def call(*command, **options):
        result = subprocess.run(
            [str(c) for c in command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(**{name: value}),
            **options,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def start(*command):
        """The command, running, as a process; what it prints is dropped."""
        words = [str(c) for c in command]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env=environment(**{name: value}))

    call.tool, call.state, call.start = tool, state, start
    yield call
    subprocess.run([*tool, "stop"], env=environment(), timeout=PATIENCE, check=True)
    assert not state.exists() and daemons(state) == []


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("particles") / "some particles.h5"
    made = cli("simulate", "--phantom", "--particles", 60, "--box", 32, "--error-rate", 0.3, "-o", path)
    assert made.returncode == 0, made.stderr
    return path


def submit(slurm, folder: Path, particles: Path, *options) -> str:
    """Make a job, submit it, wait for its end; what it printed."""
    text = slurm(
        sys.executable, "-m", "mpirecon", "job", "slurm", particles, "-o", folder / "run", "--name", "trial", *options
    )
    (folder / "run.sh").write_text(text)
    slurm("sbatch", "--wait", "run.sh", cwd=folder)
    return next(folder.glob("trial-*.log")).read_text()


def first_lines(folder: Path) -> list[dict]:
    return [json.loads(path.open().readline()) for path in sorted((folder / "run" / "logs").glob("rank*.jsonl"))]


def test_status_reports_that_it_runs_and_a_second_start_is_refused(slurm):
    assert slurm(*slurm.tool, "status").count("runs as process") == 3
    again = subprocess.run([*slurm.tool, "start"], capture_output=True, text=True, env=environment())
    assert again.returncode == 1 and "runs in" in again.stderr and "stop it first" in again.stderr


def test_job_with_srun_finishes_on_all_its_ranks(slurm, particles, tmp_path):
    log = submit(
        slurm, tmp_path, particles, "--ranks", 3, "--", "--loss", "sorted", "--keep", "0.7", "--iterations", "2"
    )
    assert "3 ranks" in log and (tmp_path / "run" / "volume.mrc").exists(), log
    starts = first_lines(tmp_path)
    assert [entry["size"] for entry in starts] == [3, 3, 3]
    for number, entry in enumerate(starts):
        assert entry["argv"][1:] == [
            "reconstruct",
            str(particles),
            "-o",
            str(tmp_path / "run"),
            "--grace",
            entry["argv"][6],
            "--loss",
            "sorted",
            "--keep",
            "0.7",
            "--iterations",
            "2",
        ]
        assert entry["environment"]["SLURM_PROCID"] == str(number)
        assert entry["environment"]["SLURM_LOCALID"] == str(entry["local_rank"])
        assert entry["environment"]["NUMBA_NUM_THREADS"] == "1" and "SLURM_STEP_ID" in entry["environment"]
    assert sorted(entry["local_rank"] for entry in starts) == [0, 1, 2]


def test_job_with_mpirun_finishes_on_all_its_ranks(slurm, particles, tmp_path):
    log = submit(
        slurm,
        tmp_path,
        particles,
        "--ranks",
        2,
        "--launcher",
        "mpirun",
        "--launcher-options",
        "--bind-to none",
        "--setup",
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    )
    assert "2 ranks" in log and (tmp_path / "run" / "volume.mrc").exists(), log
    # mpirun's ranks inherit the batch step's SLURM_LOCALID=0, which must not be taken for theirs
    assert sorted(entry["local_rank"] for entry in first_lines(tmp_path)) == [0, 1]


def test_srun_steps_check_and_errors(slurm, tmp_path):
    told = json.loads(
        slurm("srun", "-n", 3, "--mpi=pmix", sys.executable, "-m", "mpirecon", "check", "--json", "-o", tmp_path)
    )
    texts = {entry["subject"]: entry["text"] for entry in told["checks"]}
    assert told["ok"] and "started by srun" in texts["MPI"] and "sums over 3 ranks" in texts["transport"]
    # a process manager that this MPI does not know leaves each process alone: that must not become three runs
    with pytest.raises(AssertionError, match="MPI sees only one"):
        slurm("srun", "-n", 3, "--mpi=none", sys.executable, "-m", "mpirecon", "check")


def test_job_goes_back_into_the_queue_after_the_warning_and_goes_on(slurm, particles, tmp_path):
    options = ("--", "--loss", "sorted", "--keep", "0.7", "--iterations", 15)
    text = slurm(
        sys.executable, "-m", "mpirecon", "job", "slurm", particles, "-o", tmp_path / "run", "--name", "trial",
        "--ranks", 2,
        *options,
    )  # fmt: skip
    (tmp_path / "run.sh").write_text(text)
    number = re.search(r"\d+", slurm("sbatch", "run.sh", cwd=tmp_path))[0]
    wait_until(lambda: (tmp_path / "run" / "checkpoint.h5").exists())
    slurm("scancel", "--batch", "--signal=USR1", number)  # what --signal=B:USR1@… sends when time runs out
    wait_until(lambda: "goes back into the queue" in log_of(tmp_path))
    assert log_of(tmp_path).count("Stopped by SIGUSR1") == 1
    wait_until(lambda: "JobState=PENDING" in slurm("scontrol", "show", "job", number))
    # Slurm waits two minutes before it starts a requeued job; within the same second slurmd would refuse it
    slurm("scontrol", "update", f"JobId={number}", "StartTime=now+3")
    wait_until(lambda: "COMPLETED" in slurm("scontrol", "show", "job", number))
    assert "Restarts=1" in slurm("scontrol", "show", "job", number)
    said = log_of(tmp_path)
    assert said.count("iteration 1/15") == 1 and said.count("iteration 15/15") == 1, said
    assert (tmp_path / "run" / "volume.mrc").exists()
    # the second start went on where the first had stopped
    starts = [json.loads(line)["argv"] for line in (tmp_path / "run" / "logs" / "rank0001.jsonl").open()
              if '"start"' in line]
    assert ["--resume" in words for words in starts] == [False, True]


def test_a_killed_srun_leaves_a_checkpoint_that_resumes(slurm, particles, tmp_path):
    """srun answers SIGTERM by killing its tasks; what it passes on is USR1 and USR2."""
    command = ["srun", "-n", "2", "--mpi=pmix", sys.executable, "-m", "mpirecon", "reconstruct", particles, "-o",
               tmp_path / "run"]
    options = ["--loss", "sorted", "--keep", "0.7", "--iterations", "12"]
    for number, code in ((signal.SIGTERM, 137), (signal.SIGUSR1, 75)):
        with slurm.start(*command, *options, *(["--resume"] if number == signal.SIGUSR1 else [])) as srun:
            saved = tmp_path / "run" / "checkpoint.h5"
            before = saved.stat().st_mtime_ns if saved.exists() else 0
            wait_until(lambda: saved.exists() and saved.stat().st_mtime_ns != before)
            srun.send_signal(number)
            assert srun.wait(60) == code
    rest = slurm(*command, *options, "--resume")
    assert "iteration 1/12" not in rest and "iteration 12/12" in rest
    assert (tmp_path / "run" / "volume.mrc").exists()


def log_of(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("trial-*.log"))


def wait_until(condition, seconds: float = 240) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "this did not happen in time"
        time.sleep(0.2)
