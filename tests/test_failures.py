"""One rank fails: the job ends soon, with one message that names rank, host and cause, and the checkpoint goes on."""

import json
import socket
import time

import h5py
import pytest

from conftest import MPI_PROGRAMS
from mpirecon.parallel.comm import SerialCommunicator
from mpirecon.parallel.watchdog import Watchdog

# the failing rank fails when it reads images: they are not kept in memory
OPTIONS = ("--loss", "sorted", "--keep", "0.7", "--iterations", "3", "--memory", "1K")
BOUND = 60  # seconds after the failure in which the job must be over
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def particles(tmp_path_factory, cli):
    path = tmp_path_factory.mktemp("failures") / "particles.h5"
    result = cli("simulate", "--phantom", "--particles", 160, "--box", 20, "--pixel-size", 7, "--snr", 0.5, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture
def failing(mpirun, particles, tmp_path):
    """``failing(kind, rank)``: a run on two ranks, one of which fails; what it printed to stderr, when it is over."""

    def call(kind, rank=1, stall=15):
        program = [MPI_PROGRAMS / "failing.py", kind, rank, tmp_path]
        result = mpirun(2, [*program, "reconstruct", particles, "-o", tmp_path / "out", *OPTIONS, "--stall-timeout",
                            stall],
                        timeout=150)
        assert result.returncode != 0
        assert time.time() - (tmp_path / "failed").stat().st_mtime < BOUND
        with h5py.File(tmp_path / "out" / "checkpoint.h5") as file:
            assert json.loads(file.attrs["facts"])["iteration"] == 1
        return result.stderr

    return call


def test_a_killed_rank_is_named_and_the_run_goes_on(failing, cli, particles, tmp_path):
    """By the rank that misses it or by the launcher, whichever is faster."""
    said = failing("killed")
    assert "rank 1" in said and HOST in said, said
    assert f"rank 1 on host {HOST} is lost" in said or "signal 9" in said, said
    assert cli("reconstruct", particles, "-o", tmp_path / "out", *OPTIONS, "--resume").returncode == 0


def test_a_rank_that_is_stopped_is_missed_by_the_next(failing):
    said = failing("stopped", rank=0)
    assert said.count("Error:") == 1 and f"rank 0 on host {HOST} has stalled: no sign of life for 15 s" in said, said


def test_a_rank_that_is_stuck_names_itself(failing):
    said = failing("stuck")
    assert said.count("Error:") == 1 and f"rank 1 on host {HOST} has stalled: no step for 15 s" in said, said
    assert "in the phase 'read'" in said


def test_a_defect_on_one_rank_ends_all_with_its_traceback(failing):
    said = failing("defect")
    assert f"[rank 1 {HOST}] KeyError: 'a defect'" in said and said.count("Traceback") == 1, said


def test_a_corrupt_chunk_met_by_one_rank(mpirun, particles, tmp_path):
    path = tmp_path / "corrupt.h5"
    with h5py.File(particles) as good, h5py.File(path, "w") as bad:
        bad.attrs.update(good.attrs)
        for name in good:
            if name != "images":
                good.copy(name, bad)
        images = bad.create_dataset("images", data=good["images"][:], chunks=(8, 20, 20), fletcher32=True)
        place = images.id.get_chunk_info(18).byte_offset  # rows 144 to 151: the second rank's
    with open(path, "r+b") as file:
        file.seek(place + 100)
        file.write(b"damage")
    result = mpirun(2, ["-m", "mpirecon", "reconstruct", path, "-o", tmp_path / "out", *OPTIONS])
    assert result.returncode == 1 and result.stderr.count("Error:") == 1 and "Traceback" not in result.stderr
    assert f"rank 1 on host {HOST}: {path}: /images" in result.stderr and "the file is damaged" in result.stderr


def test_no_space_for_the_log_of_one_rank(mpirun, particles, tmp_path):
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "logs" / "rank0001.jsonl").symlink_to("/dev/full")
    result = mpirun(2, ["-m", "mpirecon", "reconstruct", particles, "-o", tmp_path / "out", *OPTIONS, "--resume"])
    assert result.returncode == 1 and result.stderr.count("Error:") == 1 and "Traceback" not in result.stderr
    assert f"rank 1 on host {HOST}" in result.stderr and "no space left" in result.stderr, result.stderr


# the watchdog by itself


class Alone(SerialCommunicator):
    def __init__(self, size=1):
        super().__init__()
        self.size, self.said = size, []

    def allgather(self, obj):
        return [obj] * self.size

    def abort(self, message, code=1):
        self.said.append(message)


def test_waiting_and_working_are_no_stall(tmp_path):
    comm = Alone()
    with Watchdog(comm, tmp_path / "pulse", 0.3):
        with comm.activity.waiting():
            time.sleep(0.6)
        for _ in range(30):
            comm.activity.step("work")
            time.sleep(0.02)
        assert comm.said == []
        time.sleep(0.8)
        assert "rank 0" in comm.said[0] and "no step for 0.3 s, in the phase 'work'" in comm.said[0]


def test_ranks_that_wait_for_each_other_are_noticed(tmp_path):
    comm = Alone(size=2)
    (tmp_path / "pulse").mkdir()
    with Watchdog(comm, tmp_path / "pulse", 0.6):
        with comm.activity.waiting():
            for beat in range(15):
                (tmp_path / "pulse" / "rank0001").write_text(f"{beat} {'waits' if beat > 4 else 'read'}")
                time.sleep(0.1)
        assert "all ranks wait for each other" in comm.said[0]


def test_no_pulse_is_left_behind(tmp_path):
    comm = Alone()
    with Watchdog(comm, tmp_path / "pulse", 0.3):
        time.sleep(0.2)
        assert [path.name for path in (tmp_path / "pulse").iterdir()] == ["rank0000"]
    assert not (tmp_path / "pulse").exists()


def test_before_there_is_a_folder_each_rank_watches_itself(tmp_path):
    comm = Alone(size=2)
    with Watchdog(comm, None, 0.6, lambda: "; go on with --resume") as watchdog:
        for _ in range(40):  # the next rank has written no pulse for longer than the timeout, nor can it
            comm.activity.step("work")
            time.sleep(0.03)
        assert comm.said == []
        watchdog.share(tmp_path / "pulse")
        for _ in range(60):
            comm.activity.step("work")
            time.sleep(0.03)
        assert "rank 1" in comm.said[0] and comm.said[0].endswith("(--stall-timeout 0.6); go on with --resume")
    with Watchdog(Alone(), None, 0.3):
        pass
