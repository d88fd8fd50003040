"""Runs on two hosts, which tools/hosts_local makes on this machine: what they need of each other, and losing one."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from conftest import _SMALL_MACHINE, _clean_environment, find_mpirun

TOOL = Path(__file__).resolve().parent.parent / "tools" / "hosts_local"


pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py"),
    pytest.mark.xdist_group("hosts"),
]


class Hosts:
    """hostA and hostB, for as long as the tests of this file last."""

    def __init__(self) -> None:
        # cat ends with the tests, however these end, and the hosts with it
        self._tool = subprocess.Popen([TOOL, "hostA", "hostB", "--", "sh", "-c",
                                       "echo ready; env; echo .; exec cat"], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.refused = self._tool.stdout.readline() != "ready\n"
        told = dict(line.rstrip("\n").split("=", 1) for line in iter(self._tool.stdout.readline, ".\n") if "=" in line)
        self.environment = _clean_environment(**_SMALL_MACHINE) | {
            name: told[name] for name in ("HOSTS_LOCAL", "PRTE_MCA_plm_ssh_agent")
        } | {"OMPI_MCA_mca_base_env_list": "PATH;OMP_NUM_THREADS;OPENBLAS_NUM_THREADS;NUMBA_NUM_THREADS"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{self.environment['PATH']}"

    def words(self, *words) -> list[str]:
        return [str(word) for word in (TOOL, *words)]

    def do(self, *words, **environment) -> subprocess.CompletedProcess:
        """hosts_local with these words, to its end."""
        return subprocess.run(self.words(*words), env=self.environment | environment, capture_output=True, text=True,
                              timeout=120, stdin=subprocess.DEVNULL)

    def start(self, *words, **environment) -> subprocess.Popen:
        return subprocess.Popen(self.words(*words), env=self.environment | environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)

    def end(self) -> None:
        self._tool.stdin.close()
        assert self._tool.wait(30) == 0


@pytest.fixture(scope="module")
def hosts():
    if not all(map(shutil.which, ("ip", "nsenter", "unshare", "setpriv"))):
        pytest.skip("needs iproute2 and util-linux: apt-get install iproute2 util-linux")
    made = Hosts()
    if made.refused:
        pytest.skip("needs root, and to be allowed to make network namespaces")
    yield made
    made.end()
    assert not Path(made.environment["HOSTS_LOCAL"]).exists()


MPIRUN = ("on", "hostA", find_mpirun(), "-n", 4, "--host", "hostA:2,hostB:2")
LONG = ("--loss", "sorted", "--keep", "0.7", "--iterations", "2000")


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("hosts") / "particles.h5"
    made = cli("simulate", "--phantom", "--particles", 200, "--box", 24, "--pixel-size", 6, "-o", path)
    assert made.returncode == 0, made.stderr
    return path


def wait_for(path: Path, process: subprocess.Popen) -> None:
    start = time.monotonic()
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - start < 100
        time.sleep(0.05)


def errors(text: str) -> list[str]:
    return [line.strip("\0") for line in text.splitlines() if line.strip("\0").startswith("Error:")]


def test_check_on_two_hosts_and_no_colours_in_a_file(hosts, tmp_path):
    variables = f". {shlex.quote(str(TOOL.with_name('environment.sh')))}; allow_small_machine"
    tools = ("bash", "-c", f'{variables}; exec "$@"', "-")
    done = hosts.do(*MPIRUN[:2], *tools, *MPIRUN[2:], "mpirecon", "check", "-o", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 on hostA (2), hostB (2)" in done.stdout and "\x1b" not in done.stdout  # not all on the first host
    assert "hostB: 2 × 1 on" in done.stdout, done.stdout  # PATH and threads were taken there


def test_files_of_one_name_that_differ_between_hosts_are_refused(hosts, particles, tmp_path):
    other = shutil.copy(particles, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:  # of one size, number and half sets
        file["quaternion"][:] = file["quaternion"][:][::-1]
    hosts.do("on", "hostB", "mount", "--bind", other, particles)
    try:
        done = hosts.do(*MPIRUN, "mpirecon", "reconstruct", particles, "-o", tmp_path / "out")
    finally:
        hosts.do("on", "hostB", "umount", particles)
    said, = errors(done.stderr)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert f"{particles} is not the same file on rank 0 (host hostA) and on rank 2 (host hostB)" in said


def test_an_output_folder_that_hosts_do_not_share_is_refused(hosts, particles, tmp_path):
    program = "from mpirecon import cli; from mpirecon.io import shared_folder as s; s.VISIBLE = 1; cli.main()"
    (tmp_path / "out").mkdir()
    hosts.do("on", "hostB", "mount", "-t", "tmpfs", "tmpfs", tmp_path / "out")
    done = hosts.do(*MPIRUN, sys.executable, "-c", program, "reconstruct", particles, "-o", tmp_path / "out")
    on_b = hosts.do("on", "hostB", "find", tmp_path / "out")
    hosts.do("on", "hostB", "umount", tmp_path / "out")
    said, = errors(done.stderr)
    assert done.returncode == 1 and "rank 2 on host hostB and 1 more cannot see what rank 0 on host hostA wrote" in said
    assert f"{tmp_path / 'out'} is not the same folder on all hosts" in said
    assert on_b.stdout.split() == [str(tmp_path / "out")]  # nothing was begun there


def test_ranks_that_are_killed_are_named_and_the_run_goes_on_without_their_host(hosts, particles, tmp_path):
    run = hosts.start(*MPIRUN, "mpirecon", "reconstruct", particles, "-o", tmp_path / "out", *LONG)
    wait_for(tmp_path / "out" / "checkpoint.h5", run)
    started = [json.loads((tmp_path / "out" / "logs" / f"rank{rank:04d}.jsonl").open().readline()) for rank in (2, 3)]
    assert [entry["host"] for entry in started] == ["hostB", "hostB"]
    hosts.do("on", "hostB", "kill", "-9", *[entry["pid"] for entry in started])
    said, _ = run.communicate(timeout=30)
    assert run.returncode != 0, said
    assert "4 ranks (0, 1 on hostA; 2, 3 on hostB)" in said and "Error: rank 2 on host hostB is lost" in said, said
    assert "continue with the same command and --resume" in said
    done = iterations(tmp_path / "out")
    again = hosts.do("on", "hostA", find_mpirun(), "-n", 2, "--host", "hostA:2", "mpirecon", "reconstruct", particles,
                     "-o", tmp_path / "out", *LONG[:-1], done + 1, "--resume")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"iteration {done + 1}/{done + 1}" in again.stdout and f"iteration {done}/" not in again.stdout


def test_a_cable_that_is_cut_ends_the_job_and_sends_it_back_into_the_queue(hosts, particles, tmp_path, cli):
    """mpirun ends with 0, as if all had been done. (tools/host_faults loses hosts in more ways.)"""
    made = cli("job", "pbs", particles, "-o", tmp_path / "out", "--ranks", 4, "--launcher-options",
               "--host hostA:2,hostB:2", "--", *LONG, env={"MPIRECON_SITE": os.devnull})
    assert made.returncode == 0, made.stderr
    script = tmp_path / "run.sh"
    # seconds for lost hosts: fewer than nodes have
    script.write_text(made.stdout.replace("keepalive_time=15", "keepalive_time=1").replace("intvl=10", "intvl=1"))
    (tmp_path / "qsub").write_text(f'#!/bin/sh\necho "$@" > {shlex.quote(str(tmp_path))}/queue\n')
    (tmp_path / "qsub").chmod(0o755)
    around = {"PBS_O_WORKDIR": str(tmp_path), "PBS_JOBID": "7", "PATH": f"{tmp_path}:{hosts.environment['PATH']}"}
    run = hosts.start("on", "hostA", "bash", script, **around)
    wait_for(tmp_path / "out" / "checkpoint.h5", run)
    try:
        hosts.do("cut", "hostB")
        said, _ = run.communicate(timeout=40)
    finally:
        hosts.do("mend", "hostB")
        hosts.do("kill", "hostB")
    assert "lost communication with a remote daemon" in said and "on node hostB" in said, said
    assert "ranks or hosts were lost (code 0" in said and (tmp_path / "queue").exists() and run.returncode == 0, said


def iterations(folder: Path) -> int:
    with h5py.File(folder / "checkpoint.h5") as file:
        return json.loads(file.attrs["facts"])["iteration"]
