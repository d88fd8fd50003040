"""``reconstruct --dry-run``: it allocates and writes nothing, forecasts what runs do, and refuses what does not fit."""

from __future__ import annotations

import json
import re

import pytest

from mpirecon.batch import dry_run as module
from mpirecon.batch.dry_run import available_memory, dry_run, what_fits
from mpirecon.batch.forecast import Task, memory_per_rank, reduced_bytes
from mpirecon.errors import UserError
from mpirecon.parallel.comm import SerialCommunicator


def test_it_reports_and_writes_nothing_and_traffic_is_that_of_the_run(cli, mpirun, tmp_path):
    assert cli("simulate", "--phantom", "--particles", 60, "--box", 24, "-o", tmp_path / "p.h5").returncode == 0
    arguments = ["-m", "mpirecon", "reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", "--loss", "sorted",
                 "--keep", "0.7",
                 "--iterations", "2", "--folds", "3"]
    told = mpirun(2, [*arguments, "--dry-run"])
    assert told.returncode == 0, told.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5"]
    for word in ("60 particles, box 24, 2 iterations, 6 groups; 2 ranks", "MB per rank", "reduced between ranks",
                 "time: about"):
        assert word in told.stdout, told.stdout
    assert mpirun(2, arguments).returncode == 0
    moved = json.loads((tmp_path / "run" / "summary.json").read_text())["ranks"][0]["traffic"]["bytes_moved"]
    assert reduced_bytes(Task(60, 24, 3, 2), 2) == pytest.approx(moved, rel=0.1)


def test_what_cannot_fit_is_refused_with_what_does(monkeypatch):
    """Each choice that is offered fits, and the next larger does not."""
    task = Task(10_000, 128)
    monkeypatch.setattr(module, "available_memory", lambda: int(0.98 * memory_per_rank(task, 1)))
    with pytest.raises(UserError, match=r"left for 1 rank.* need .* What fits: ") as caught:
        dry_run(SerialCommunicator(), task)
    folds = int(re.search(r"--folds (\d+)", str(caught.value))[1])
    box = int(re.search(r"a box of (\d+)", str(caught.value))[1])
    room = module.available_memory()
    assert memory_per_rank(Task(10_000, 128, folds), 1) <= room < memory_per_rank(Task(10_000, 128, folds + 1), 1)
    assert memory_per_rank(Task(10_000, box), 1) <= room < memory_per_rank(Task(10_000, 128), 1)
    monkeypatch.setattr(module, "available_memory", lambda: int(1.02 * memory_per_rank(task, 1)))
    assert len(dry_run(SerialCommunicator(), task)) == 4


def test_fewer_ranks_a_host_or_more_hosts():
    task, hosts = Task(100_000, 256), {"a": 8, "b": 8}
    room = int(5.7 * memory_per_rank(task, 16))
    words = what_fits(task, 16, hosts, {"a": 2 * room, "b": room})
    fewer = int(re.search(r"(\d+) ranks a host", words)[1])
    assert fewer * memory_per_rank(task, 2 * fewer) <= room < (fewer + 1) * memory_per_rank(task, 2 * (fewer + 1))
    assert "16 ranks on 4 hosts" in words
    assert what_fits(task, 16, hosts, {"a": 10, "b": 10}) == "Hosts with more memory are needed"


def test_available_memory_obeys_the_tightest_limit(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   8000 kB\n")
    group = tmp_path / "cgroup"
    group.mkdir()
    assert available_memory(meminfo, group) == 8000 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    assert available_memory(meminfo, group) == 8000 * 1024
    (group / "memory.max").write_text("4096000\n")
    (group / "memory.stat").write_text("anon 4000\ninactive_file 1000\n")
    expected = 4096000 - 5000 + 1000
    assert available_memory(meminfo, group) == expected
    (group / "memory").mkdir()
