"""What batch scripts do when they run: signals, checkpoints, the way back into the queue. Schedulers are stand-ins."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpirecon.batch import script
from mpirecon.batch.forecast import Task
from mpirecon.batch.request import Wish, plan

BASH = shutil.which("bash")

#: a mpirecon that saves a checkpoint when told to stop, as reconstruct does
STAND_IN = """#!{python}
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
with open(out.parent / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[7:]) + "\\n")
def save(*_):
    if {saves}:
        (out / "checkpoint.h5").write_text(str(time.time_ns()))
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
signal.signal(signal.SIGUSR2, save)
out.mkdir(exist_ok=True)
if "--resume" in sys.argv:
    (out / "summary.json").touch()
    sys.exit(0)
(out.parent / "ready").touch()
{meets}
time.sleep(30)
sys.exit(3)
"""

#: what may befall it: mpirun ends with 0 or another code, its checkpoint written or not, or does not end at all
SAVED = '(out / "checkpoint.h5").touch(); '
HANGS = SAVED + """
pulse = out / "logs" / ".pulse"
pulse.mkdir(parents=True)
(pulse / "ended-hostA").touch()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""

#: starts its program in the foreground and passes SIGUSR1 on, as mpirun and srun do
LAUNCHER = """#!/bin/bash
while [[ $1 != *mpirecon ]]; do shift; done
exec "$@"
"""


def programs(folder: Path, saves: bool = True, meets: str = "", sleep: str = '"$1"') -> dict[str, str]:
    """An environment whose mpirecon, launchers and queue commands are stand-ins, and whose sleep may be shorter."""
    binaries = folder / "bin"
    binaries.mkdir()
    queue = f'#!/bin/bash\necho "${{0##*/}}" "$@" >> {shlex.quote(str(folder))}/queue\n'
    contents = {
        "mpirecon": STAND_IN.format(python=sys.executable, saves=saves, meets=meets),
        "srun": LAUNCHER,
        "mpirun": LAUNCHER,
        "qsub": queue,
        "scontrol": queue,
        "sleep": f"#!/bin/bash\nexec {shutil.which('sleep')} {sleep}\n",
    }
    for name, text in contents.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {
        **kept,
        "PATH": f"{binaries}:{kept['PATH']}",
        "SLURM_JOB_ID": "7",
        "PBS_JOBID": "7",
        "PBS_O_WORKDIR": str(folder),
    }


def started_script(scheduler, folder, environment):
    resources = plan(Task(1000, 64), Wish(time="1h"))
    setup = (f"export PATH={shlex.quote(str(folder / 'bin'))}:$PATH",)
    text = script.write_script(
        script.Job(scheduler, folder / "p.h5", folder / "run", program="mpirecon", setup=setup), resources, "test"
    )
    (folder / "run.sh").write_text(text)
    process = subprocess.Popen(
        [BASH, folder / "run.sh"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return process


def wait_for(path: Path):
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path.name} did not appear")


@pytest.mark.parametrize(
    ("scheduler", "code", "queued"),
    [
        ("slurm", 0, "scontrol requeue 7"),
        ("pbs", 0, "qsub -W depend=afterany:7 {}/run.sh"),
        ("lsf", 75, None),
        ("sge", 99, None),
    ],
)
def test_signal_then_checkpoint_then_queue_then_resume(tmp_path, scheduler, code, queued):
    environment = programs(tmp_path)
    process = started_script(scheduler, tmp_path, environment)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code and "goes back into the queue" in out
    if queued:
        assert (tmp_path / "queue").read_text() == queued.format(tmp_path) + "\n"
    process = started_script(scheduler, tmp_path, environment)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "run" / "summary.json").exists()
    assert (tmp_path / "calls").read_text().splitlines() == ["", "--resume"]


@pytest.mark.parametrize(("scheduler", "code"), [("pbs", 0), ("sge", 99)])
def test_where_no_scheduler_warns_the_script_warns_itself(tmp_path, scheduler, code):
    """Five minutes before the hour is over; here, as soon as the run has begun."""
    begun = f"until [ -e {shlex.quote(str(tmp_path))}/ready ]; do {shutil.which('sleep')} 0.1; done; echo 0"
    environment = programs(tmp_path, sleep=f'"$(if [ "$1" = 3300 ]; then {begun}; else echo "$1"; fi)"')
    process = started_script(scheduler, tmp_path, environment)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code and "goes back into the queue" in out, out
    assert (tmp_path / "run" / "checkpoint.h5").exists()


def test_grid_engine_reports_an_mpirun_that_does_not_know_it_the_hosts(tmp_path):
    told = ('import os; print(open(os.environ["PRTE_MCA_prte_default_hostfile"]).read(), '
            'os.environ["PRTE_MCA_plm_ssh_agent"]); sys.exit(1)')
    environment = programs(tmp_path, meets=told)
    (tmp_path / "granted").write_text("hostA 2 all.q@hostA UNDEFINED\nhostB 2 all.q@hostB UNDEFINED\n")
    around = {"PE_HOSTFILE": str(tmp_path / "granted"), "TMPDIR": str(tmp_path)}
    out, _ = started_script("sge", tmp_path, environment | around).communicate(timeout=25)
    assert "hostA slots=2\nhostB slots=2\n" in out and "qrsh -inherit" in out, out


def test_without_a_new_checkpoint_the_job_does_not_go_back(tmp_path):
    process = started_script("slurm", tmp_path, programs(tmp_path, saves=False))
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "queue" not in out and not (tmp_path / "queue").exists()


def test_after_a_lost_node_without_checkpoint_it_starts_anew(tmp_path):
    process = started_script("slurm", tmp_path, {**programs(tmp_path), "SLURM_RESTART_COUNT": "1"})
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (tmp_path / "calls").read_text() == "\n"  # reconstruct begins again by itself


#: what schedulers say of a job and of its being started again
STARTED_AGAIN = {
    "slurm": {"SLURM_JOB_ID": "{}", "SLURM_RESTART_COUNT": "1"},
    "pbs": {"PBS_JOBID": "{}.host", "PBS_ENVIRONMENT": "PBS_BATCH"},
    "lsf": {"LSB_JOBID": "{}", "LSB_RESTART": "Y"}, "sge": {"JOB_ID": "{}", "RESTARTED": "1"},
}  # fmt: skip


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("jobs") / "p.h5"
    assert cli("simulate", "--phantom", "--particles", 40, "--box", 16, "--pixel-size", 8, "-o", path).returncode == 0
    return path


@pytest.mark.parametrize("scheduler", STARTED_AGAIN)
def test_a_job_that_is_started_again_replaces_no_run_but_begins_its_own(tmp_path, particles, cli, scheduler):
    """With reconstruct itself: a run of somebody else, one that ended before its first checkpoint, one that is done."""
    (tmp_path / "p.h5").symlink_to(particles)
    kept = {name: value for name, value in programs(tmp_path).items()
            if name not in ("SLURM_JOB_ID", "PBS_JOBID") and not name.startswith(("OMPI", "PMI"))}
    (tmp_path / "bin" / "mpirecon").write_text(f'#!/bin/sh\nexec {sys.executable} -m mpirecon "$@"\n')
    summary = tmp_path / "run" / "summary.json"

    def job(number, *names):
        again = {name: value.format(number) for name, value in STARTED_AGAIN[scheduler].items()}
        again = {name: again[name] for name in names or again}
        process = started_script(scheduler, tmp_path, kept | again)
        return process.communicate(timeout=100)[0], process.returncode

    assert cli("reconstruct", particles, "-o", tmp_path / "run", "--loss", "cauchy").returncode == 0
    before = summary.read_bytes()
    said, code = job(7)
    assert code == 1 and "exists and is not empty" in said and summary.read_bytes() == before, said
    shutil.rmtree(tmp_path / "run")
    for left in ("logs", "unfinished"):
        (tmp_path / "run" / left).mkdir(parents=True)
    for left in ("logs/rank0000.jsonl", "unfinished/half1.mrc", ".lock", ".checkpoint.h5.1.tmp"):
        (tmp_path / "run" / left).write_text("{}")
    said, code = job(7)
    assert code == 0 and summary.exists(), said
    before = summary.stat()
    said, code = job(7)
    assert code == 0 and "has finished its run" in said and summary.stat() == before, said
    for others in ((77,), (7, next(iter(STARTED_AGAIN[scheduler])))):  # in an interactive job, a second run is a wish
        said, code = job(*others)
        assert code == 1 and "exists and is not empty" in said and summary.stat() == before, said


def test_a_cancelled_job_saves_its_state_and_does_not_come_back(tmp_path):
    process = started_script("slurm", tmp_path, programs(tmp_path))
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "queue" not in out and not (tmp_path / "queue").exists()
    assert (tmp_path / "run" / "checkpoint.h5").exists()


@pytest.mark.parametrize(("meets", "code", "said", "queued"), [
    (f"{SAVED}sys.exit(0)", 0, "lost", True), ("sys.exit(0)", 1, "lost", False),
    (f"{SAVED}sys.exit(14)", 0, "lost", True), ("sys.exit(14)", 14, "lost", False),
    (f"{SAVED}sys.exit(1)", 1, "", False), (HANGS, 0, "lost", True),
], ids=["0 saved", "0", "14 saved", "14", "1 saved", "hangs"])  # fmt: skip
def test_a_lost_host_is_no_success(tmp_path, meets, code, said, queued):
    """mpirun may end with 0 when it loses a host, or not end: what counts is this run's summary.json."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").touch()  # of an earlier run
    process = started_script("slurm", tmp_path, programs(tmp_path, meets=meets, sleep="0.2"))
    out, _ = process.communicate(timeout=25)
    assert (process.returncode, (tmp_path / "queue").exists()) == (code, queued), out
    assert said in out and ("goes back" in out) == queued, out


def test_a_job_that_is_cancelled_while_its_ranks_die_does_not_come_back(tmp_path):
    process = started_script("slurm", tmp_path, programs(tmp_path, meets=f"{SAVED}sys.exit(143)", sleep="1.5"))
    wait_for(tmp_path / "run" / "checkpoint.h5")
    time.sleep(0.5)  # the ranks first, then the script
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=25)
    assert process.returncode == 143 and not (tmp_path / "queue").exists(), out
