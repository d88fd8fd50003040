"""Rank logs: what they record, and what joining them tells."""

import csv
import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner

from mpirecon.cli.logs import command as logs_command
from mpirecon.errors import UserError
from mpirecon.io import run_log
from mpirecon.io.log_join import count_iterations, open_logs, read_iteration, read_particle
from mpirecon.io.run_log import RankLog, launcher_environment, to_json


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_run(folder, size=3, per_rank=5, iterations=(1, 2), scope="global", particles="all", truth=True):
    """A run whose particle `i` has distance (7 i) mod m + iteration; kept below m / 2, multiples of 4 are wrong."""
    m = size * per_rank
    for rank in range(size):
        ids = np.arange(rank * per_rank, (rank + 1) * per_rank)
        with RankLog(folder / "logs", rank, f"host{rank}", size=size, particles=particles, argv=["x"]) as log:
            for iteration in iterations:
                distance = (7.0 * ids) % m + iteration
                order = np.argsort(distance)
                log.sort_record(
                    iteration, scope, "all", ids, distance, ids[order], distance[order],
                    distance[order] < m / 2, ids[order] % 4 == 0 if truth else None,
                )
    return folder


def test_start_record_reports_what_the_rank_really_got(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JWT", "hush")
    with RankLog(tmp_path, 3, "node7", size=8, local_rank=1, device="cpu", argv=["mpirecon", "reconstruct", "p.h5"]):
        pass
    start, end = read(tmp_path / "rank0003.jsonl")
    assert [start[k] for k in ("event", "rank", "size", "local_rank", "host")] == ["start", 3, 8, 1, "node7"]
    assert start["argv"] == ["mpirecon", "reconstruct", "p.h5"] and start["pid"] > 0 and start["device"] == "cpu"
    assert start["environment"]["SLURM_JOB_ID"] == "77" and "SLURM_JWT" not in start["environment"]
    assert {"mpirecon", "python", "numpy"} <= set(start["versions"])
    assert (end["event"], end["status"]) == ("end", "ok")


def test_sort_record_holds_ids_and_distances_before_and_after(tmp_path):
    with RankLog(tmp_path, particles="all") as log:
        log.sort_record(2, "batch", 5, [10, 11, 12], [3.0, 1.0, np.inf], [11, 10, 12], [1.0, 3.0, np.inf],
                        [True, True, False], [False, True, False], threshold=np.float32(3.0))
    _, counts, particles, _ = read(tmp_path / "rank0000.jsonl")
    assert [counts[k] for k in ("event", "iteration", "scope", "batch")] == ["sort", 2, "batch", 5]
    assert [counts[k] for k in ("sorted", "kept", "wrong", "wrong_kept")] == [3, 2, 1, 1]
    assert counts["threshold"] == 3.0
    assert particles["ids_before"] == [10, 11, 12] and particles["distances_before"] == [3.0, 1.0, "inf"]
    assert particles["ids_after"] == [11, 10, 12] and particles["distances_after"] == [1.0, 3.0, "inf"]
    assert particles["kept_after"] == [1, 1, 0] and particles["pose_error_after"] == [0, 1, 0]


@pytest.mark.parametrize(("particles", "expected"), [("none", []), ("last", [2]), ("all", [1, 2])])
def test_log_particles_bounds_what_is_listed(tmp_path, particles, expected):
    write_run(tmp_path, size=1, particles=particles)
    records = read(tmp_path / "logs" / "rank0000.jsonl")
    assert [r["iteration"] for r in records if r["event"] == "sort_particles"] == expected
    assert [r["iteration"] for r in records if r["event"] == "sort"] == [1, 2]


def test_a_sort_must_leave_the_same_particles(tmp_path):
    with RankLog(tmp_path) as log:
        with pytest.raises(ValueError, match="same 2"):
            log.sort_record(1, "global", 0, [1, 2], [0, 0], [1, 3], [0, 0], [1, 1])
        with pytest.raises(ValueError, match="kept_after"):
            log.sort_record(1, "global", 0, [1, 2], [0, 0], [1, 2], [0, 0], [1])


def test_it_is_standard_logging_and_stays_out_of_the_terminal(tmp_path, capsys):
    logger = logging.getLogger("mpirecon")
    before = (logger.level, logger.propagate, list(logger.handlers))
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)
    try:
        with RankLog(tmp_path, 0) as log, RankLog(tmp_path, 1):
            logging.getLogger("mpirecon.solvers").warning("careful with %s", "that")
            log.event("note", answer=np.int64(42))
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr().err == ""
    assert (logger.level, logger.propagate, logger.handlers) == before
    _, message, note, _ = read(tmp_path / "rank0000.jsonl")
    assert (message["event"], message["level"], message["text"]) == ("message", "WARNING", "careful with that")
    assert (note["event"], note["answer"]) == ("note", 42)
    assert "note" not in [r["event"] for r in read(tmp_path / "rank0001.jsonl")]  # every log its own events


def test_the_end_record_reports_an_error_and_append_goes_on(tmp_path):
    with pytest.raises(UserError), RankLog(tmp_path):
        raise UserError("bad row")
    with RankLog(tmp_path, append=True):
        pass
    assert [r.get("status") for r in read(tmp_path / "rank0000.jsonl")] == [None, "UserError: bad row", None, "ok"]


def test_a_full_disk_raises(tmp_path):
    (tmp_path / "rank0000.jsonl").symlink_to("/dev/full")
    log = RankLog(None)
    try:
        with pytest.raises(OSError, match="No space"):
            log.open(tmp_path)
    finally:
        with pytest.raises(OSError, match="No space"):
            log.close()


def test_json_values():
    assert to_json(np.float64(1 / 3)) == 0.333333333 and to_json(np.nan) is None and to_json(-np.inf) == "-inf"
    assert to_json({"a": (np.int8(3), np.bool_(True), None, b"x")}) == {"a": [3, True, None, "b'x'"]}
    assert launcher_environment({"OMPI_COMM_WORLD_RANK": "1", "HOME": "/x", "SLURM_TOKEN_X": "no"}) == {
        "OMPI_COMM_WORLD_RANK": "1"}


def test_counts_are_added_up_over_ranks(tmp_path):
    logs = open_logs(write_run(tmp_path))
    first, second = count_iterations(logs)
    assert (first.iteration, first.scope, first.sorted, first.kept) == (1, "global", 15, 7)
    assert second.kept == 6
    assert first.sorted_by_rank == {0: 5, 1: 5, 2: 5} and sum(first.kept_by_rank.values()) == 7
    assert first.wrong == 4 and first.wrong_kept == sum((7 * i) % 15 + 1 < 7.5 for i in (0, 4, 8, 12))
    assert logs.warnings == []


def test_merged_list_says_where_each_particle_was_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "PARTICLES_PER_LINE", 2)  # lists cut over several lines join again
    logs = open_logs(write_run(tmp_path))
    rows = read_iteration(logs, 2)
    assert (rows["distance"] == np.arange(15) + 2).all()  # a global sort comes in global order
    assert ((7 * rows["particle"]) % 15 + 2 == rows["distance"]).all()
    assert (rows["rank"] == rows["particle"] // 5).all() and (rows["before"] == rows["particle"] % 5).all()
    for rank in range(3):
        assert rows["after"][rows["rank"] == rank].tolist() == [0, 1, 2, 3, 4]
    assert (rows["kept"] == (rows["distance"] < 7.5)).all()
    assert (rows["pose_error"] == (rows["particle"] % 4 == 0)).all()
    one = read_particle(logs, 9)
    assert one["iteration"].tolist() == [1, 2] and one["distance"].tolist() == [4, 5]


def test_batches_of_one_name_stay_apart(tmp_path):
    with RankLog(tmp_path, particles="all") as log:
        for ids in ([0, 1], [2, 3], []):
            log.sort_record(1, "batch", "batch", ids, ids, ids, ids, [True] * len(ids))
    logs = open_logs(tmp_path)
    rows = read_iteration(logs, 1)
    assert rows["particle"].tolist() == [0, 1, 2, 3] and rows["before"].tolist() == [0, 1, 0, 1]
    assert (rows["pose_error"] == -1).all() and count_iterations(logs)[0].wrong is None


def sort(log, iteration, ids, kept):
    log.sort_record(iteration, "global", 0, ids, ids, ids, ids, kept, [False] * len(ids))


def test_sorts_of_a_part_are_not_the_runs(tmp_path):
    """As of a path's walk on noise, whose iterations have the same numbers."""
    with RankLog(tmp_path, particles="all") as log:
        sort(log, 1, [0, 1, 2], [True, True, False])
        part = log.part("noise")
        part.event("iteration", iteration=1)
        sort(part, 1, [0, 1, 2], [True, True, True])
    assert [r["part"] for r in read(tmp_path / "rank0000.jsonl") if "part" in r] == 3 * ["noise"]
    logs = open_logs(tmp_path)
    assert [(c.part, c.sorted, c.kept) for c in count_iterations(logs)] == [(None, 3, 2), ("noise", 3, 3)]
    assert read_iteration(logs, 1)["kept"].tolist() == [True, True, False] and logs.warnings == []
    lines = invoke(tmp_path).output.splitlines()
    assert lines[1].split()[2:4] == ["3", "2"] and "on noise" in lines[3] and lines[5].split()[2:4] == ["3", "3"]
    table = json.loads(invoke(tmp_path, "--json").output)
    assert [c["kept"] for c in table["iterations"]] == [2] and [c["part"] for c in table["parts"]] == ["noise"]


def test_an_iteration_that_a_resumed_run_makes_again_counts_once(tmp_path):
    for iterations in ((1, 2), (2, 3)):
        with RankLog(tmp_path, particles="all", append=True) as log:
            for iteration in iterations:
                sort(log, iteration, [0, 1], [True, iterations[0] == 1])
    logs = open_logs(tmp_path)
    assert [(c.iteration, c.sorted, c.kept) for c in count_iterations(logs)] == [(1, 2, 2), (2, 2, 1), (3, 2, 1)]
    assert read_iteration(logs, 2)["kept"].tolist() == [True, False]
    assert read_particle(logs, 1)["kept"].tolist() == [True, False, False]


def write_ranks(folder, run, size, iterations, kept, killed=False):
    for rank, ids in enumerate(np.array_split(np.arange(6), size)):
        log = RankLog(folder, rank, size=size, particles="all", append=True, run=run)
        for iteration in iterations:
            sort(log, iteration, ids, np.full(len(ids), kept))
        log.close()
        if killed:
            lines = (folder / f"rank{rank:04d}.jsonl").read_text().splitlines(keepends=True)
            (folder / f"rank{rank:04d}.jsonl").write_text("".join(lines[:-1]))


@pytest.mark.parametrize("sizes", [(2, 1), (3, 2), (1, 3), (2, 2), (3, 1, 2)])
@pytest.mark.parametrize("killed", [False, True])
def test_iterations_count_once_whatever_the_ranks_of_a_resumed_run(tmp_path, sizes, killed):
    """Each run was ended when its last iteration was logged and not saved."""
    for number, size in enumerate(sizes):
        last = number == len(sizes) - 1
        write_ranks(tmp_path, 1000 + number, size, (number + 1, number + 2), last, killed and not last)
    logs = open_logs(tmp_path)
    found = [(c.iteration, c.sorted, c.kept) for c in count_iterations(logs)]
    n = len(sizes)
    assert found == [(i, 6, 6 * (i >= n)) for i in range(1, n + 2)] and logs.warnings == []
    for iteration in range(1, n + 2):
        rows = read_iteration(logs, iteration)
        assert sorted(rows["particle"]) == list(range(6)) and (rows["kept"] == (iteration >= n)).all()
    assert len(read_particle(logs, 5)) == n + 1


def test_a_copy_of_another_ranks_log_is_left_out(tmp_path):
    write_ranks(tmp_path, 1000, 1, (1,), True)
    (tmp_path / "rank0001.jsonl").write_bytes((tmp_path / "rank0000.jsonl").read_bytes())
    logs = open_logs(tmp_path)
    assert [c.sorted for c in count_iterations(logs)] == [6]
    (warning,) = logs.warnings
    assert warning.endswith("rank0001.jsonl: is a copy of the log of rank 0, and is ignored")


def test_missing_and_cut_files_are_named(tmp_path):
    folder = write_run(tmp_path) / "logs"
    (folder / "rank0001.jsonl").unlink()
    cut = folder / "rank0002.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:5])[:-50])
    logs = open_logs(folder)
    counts = count_iterations(logs)
    read_iteration(logs, 2)
    text = "\n".join(logs.warnings)
    assert "1 of 3 ranks are missing (rank0001.jsonl)" in text
    assert "rank0002.jsonl: has no end record" in text and "rank0002.jsonl, line 5: is cut or damaged" in text
    assert counts[0].sorted == 10
    (folder / "rank0000.jsonl").write_text("nonsense\n")
    assert any("does not begin with a start record" in w for w in open_logs(folder).warnings)


def test_a_mixed_folder_is_noticed(tmp_path):
    write_run(tmp_path, size=3)
    write_run(tmp_path, size=2)
    assert any("runs on 2 and 3 ranks" in w for w in open_logs(tmp_path).warnings)


def invoke(*args):
    result = CliRunner().invoke(logs_command, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_command_prints_the_table(tmp_path):
    write_run(tmp_path)
    lines = invoke(tmp_path).output.splitlines()
    assert lines[0].split("  ")[0] == "iteration" and "wrong among kept" in lines[0]
    assert lines[1].split()[:4] == ["1", "global", "15", "7"] and "4 (26.7 %)" in lines[1] and "/5" in lines[1]
    table = json.loads(invoke(tmp_path, "--json").output)
    assert table["ranks"] == 3 and [i["kept"] for i in table["iterations"]] == [7, 6]


def test_command_lists_and_writes_particles(tmp_path):
    write_run(tmp_path, truth=False)
    assert len(invoke(tmp_path, "--iteration", "1").output.splitlines()) == 16
    assert [row["iteration"] for row in json.loads(invoke(tmp_path, "--particle", "9", "--json").output)] == [1, 2]
    for asked, number in (("1", 1), ("last", 2)):
        (row,) = json.loads(invoke(tmp_path, "--particle", "9", "--iteration", asked, "--json").output)
        assert (row["iteration"], row["particle"]) == (number, 9)
    target = tmp_path / "list.csv"
    assert "wrote" in invoke(tmp_path, "--csv", target).output
    with open(target) as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 15 and rows[0]["iteration"] == "2" and rows[0]["pose_error"] == "" and rows[0]["kept"] == "1"
    with pytest.raises(UserError, match="exists already"):
        invoke(tmp_path, "--csv", target)


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--iteration", "9"], "iteration 9 are not listed; there are those of 1, 2"),
     (["--particle", "99"], "no sort lists particle 99"),
     (["--particle", "9", "--iteration", "7"], "iteration 7 are not listed; there are those of 1, 2"),
     (["--particle", "99", "--iteration", "2"], "no sort of iteration 2 lists particle 99")],
)
def test_command_errors(tmp_path, args, message):
    write_run(tmp_path)
    with pytest.raises(UserError, match=message):
        invoke(tmp_path, *args)
    assert invoke(tmp_path, "--iteration", "x").exit_code == 2


def test_what_is_no_run_is_said_so(tmp_path):
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "no rankNNNN.jsonl")):
        with pytest.raises(UserError, match=message):
            invoke(folder)
    with RankLog(tmp_path):
        pass
    with pytest.raises(UserError, match="no sort was recorded"):
        invoke(tmp_path)
    write_run(tmp_path, particles="none")
    with pytest.raises(UserError, match="did not list its particles"):
        invoke(tmp_path, "--iteration", "last")


def test_a_run_that_sorts_nothing_says_so_and_is_no_error(tmp_path):
    for rank in range(2):
        with RankLog(tmp_path, rank, size=2) as log:
            log.event("iteration", iteration=1, loss=0.9)
    result = invoke(tmp_path)
    assert result.exit_code == 0 and "no particles were sorted" in result.output and "l2" in result.output
    assert json.loads(invoke(tmp_path, "--json").output)["iterations"] == []
    # what cannot be had is an error
    for asked in (("--iteration", "last"), ("--particle", "0"), ("--csv", tmp_path / "x.csv")):
        with pytest.raises(UserError, match="no sort was recorded"):
            invoke(tmp_path, *asked)
    assert not (tmp_path / "x.csv").exists()


def test_tables_fit_a_narrow_screen(tmp_path, monkeypatch):
    write_run(tmp_path)
    for columns in (60, 72):
        monkeypatch.setenv("COLUMNS", str(columns))
        for args in ((), ("--iteration", "2"), ("--particle", "9")):
            lines = invoke(tmp_path, *args).output.splitlines()
            assert lines and max(map(len, lines)) <= columns, args
    assert "particle" in lines[0] + lines[1] and "9" in "".join(lines)


def test_ranks_logs_join_to_the_same_list_on_any_number_of_ranks(mpi_program, tmp_path):
    lists = {}
    for n in (1, 3):
        mpi_program(n, "log_program.py", tmp_path / str(n))
        logs = open_logs(tmp_path / str(n))
        assert (logs.size, logs.warnings) == (n, [])
        rows = read_iteration(logs, 2)
        assert len(rows) == 23 and rows["kept"].sum() == 14
        lists[n] = rows[["particle", "distance", "kept", "pose_error"]].tolist()
    assert lists[1] == lists[3]
    starts = [read(path)[0] for path in sorted((tmp_path / "3" / "logs").iterdir())]
    assert [s["rank"] for s in starts] == [0, 1, 2] and starts[2]["environment"]["OMPI_COMM_WORLD_RANK"] == "2"
