"""How much memory and time a job is expected to take, and which requests are refused with what words."""

import json
import math
import re

import pytest

from mpirecon.batch.forecast import Task, memory_per_rank, seconds, seconds_by_phase, wall_time
from mpirecon.batch.request import Wish, plan
from mpirecon.batch.units import clock, parse_memory, parse_time
from mpirecon.errors import UserError
from mpirecon.model.symmetry import point_group


@pytest.fixture(scope="module")
def compiled(cli, tmp_path_factory):
    """Kernels in Numba's cache: the very first run compiles them, which takes memory that no later run needs."""
    folder = tmp_path_factory.mktemp("compiled")
    cli("simulate", "--phantom", "--particles", 40, "--box", 16, "-o", folder / "p.h5")
    assert cli("reconstruct", folder / "p.h5", "-o", folder / "run", env={}).returncode == 0


@pytest.mark.parametrize(
    ("box", "snr", "ranks", "options", "folds", "less"),
    [
        (64, 0.1, 1, [], 1, 0.15),
        (64, 0.1, 2, ["--loss", "sorted", "--keep", "0.7", "--iterations", 1], 4, 0.15),
        (64, 0.1, 2, ["--solver", "gradient", "--iterations", 2], 1, 0.15),
        (128, "inf", 1, [], 1, 0.15),
        (128, 0.1, 1, [], 1, 0.25),  # the forecast cannot know how few frequencies the references of noisy images need
    ],
)
def test_memory_forecast_agrees_with_runs(compiled, cli, mpirun, tmp_path, box, snr, ranks, options, folds, less):
    """Within 15 %, but where the program can do with less. In processes of their own, whose peak is that of the run."""
    count = 400 if box < 100 else 100  # enough for a full batch of images
    cli("simulate", "--phantom", "--particles", count, "--box", box, "--snr", snr, "-o", tmp_path / "p.h5")
    arguments = ["reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", "--memory", "256M",
                 *(options or ["--iterations", 1])]
    run = cli(*arguments, env={}) if ranks == 1 else mpirun(ranks, ["-m", "mpirecon", *arguments], env={})
    assert run.returncode == 0, run.stderr
    measured = json.loads((tmp_path / "run" / "summary.json").read_text())["peak_memory_bytes"]
    solver = "gradient" if "gradient" in options else "normal"
    forecast = memory_per_rank(Task(count, box, folds, 1, solver, kept=2**28), ranks)
    assert (1 - less) * forecast < measured < 1.15 * forecast


def test_memory_of_a_rank_shrinks_with_ranks_to_what_one_solve_needs():
    task = Task(200_000, 256)
    forecast = [memory_per_rank(task, ranks) for ranks in (1, 2, 8, 64, 1000)]
    assert forecast == sorted(forecast, reverse=True)
    ball = 12 * 2 * math.pi / 3 * (192 + 3.5) ** 3  # of the grid of 384 points, what samples and their taps reach
    groups, maps, metadata = 8 * ball, 12 * 4 * 256**3, 200_000 * 700
    assert forecast[0] - forecast[-1] == pytest.approx(groups + maps + metadata, rel=0.02)


@pytest.mark.parametrize("symmetry, factor", [("C4", 1.5), ("O", 1.75), ("I", 3.9), ("T", 6.0), ("D7", 4.0),
                                              ("I3", 22.2)])
def test_symmetry_lengthens_the_accumulation_as_measured(symmetry, factor):
    """Factors of docs/method.md, to 1.6: poses that are left to spread, and sums of the grid over its rotations."""
    turns, copies = (len(part) for part in point_group(symmetry).split())
    plain, symmetric = (seconds_by_phase(Task(1000, 64, 1, 1, **more), 1)
                        for more in ({}, {"turns": turns, "copies": copies}))
    assert 1 / 1.6 < symmetric["accumulate"] / plain["accumulate"] / factor < 1.6
    assert {k: v for k, v in plain.items() if k != "accumulate"} == {
        k: v for k, v in symmetric.items() if k != "accumulate"
    }


def test_time_forecast_falls_with_ranks_and_speed():
    task = Task(100_000, 128)
    assert seconds(task, 1) > 2 * seconds(task, 4) > 0 and seconds(task, 4) > 1.1 * seconds(task, 4, speed=2)
    assert wall_time(task, 4) % 600 == 0 and wall_time(task, 4) > 2 * seconds(task, 4)
    assert wall_time(Task(10, 16), 1) == 600


@pytest.mark.parametrize(
    ("text", "amount"), [("64G", 64 * 2**30), ("512M", 2**29), ("1.5GB", 3 * 2**29), ("2 TiB", 2**41)]
)
def test_memory_amounts(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2:30:00", 9000), ("1-12:00:00", 129600), ("90m", 5400), ("2h", 7200), ("1d", 86400), ("0:10:00", 600)],
)
def test_times(text, amount):
    assert parse_time(text) == amount


@pytest.mark.parametrize("text", ["", "64", "G", "-1G", "0G", "1e3G", "64 GiBB", "٣G"])
def test_bad_memory_amounts_are_refused(text):
    with pytest.raises(UserError, match="expected an amount with its unit"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["", "90", "2:30", "1:99:00", "0:00:00", "-1h", "2 weeks"])
def test_bad_times_are_refused(text):
    with pytest.raises(UserError, match="hours:minutes:seconds"):
        parse_time(text)


def test_clock():
    assert (clock(59), clock(3600), clock(90061)) == ("0:00:59", "1:00:00", "25:01:01")


# requests


def test_ranks_default_to_what_cores_and_memory_hold():
    task = Task(100_000, 128)
    assert plan(task, Wish()).ranks == 4
    assert plan(task, Wish(nodes=2, cores_per_node=16)).ranks == 32
    assert plan(task, Wish(cores_per_node=16, threads=4)).ranks == 4
    tight = plan(task, Wish(cores_per_node=64, memory_per_node="16G"))
    each = memory_per_rank(task, tight.ranks)
    assert tight.ranks < 64 and tight.ranks * each <= 16 * 2**30 < (tight.ranks + 1) * memory_per_rank(
        task, tight.ranks + 1
    )
    assert plan(task, Wish(nodes=2, gpus=8)).ranks == 8
    assert plan(Task(3, 64), Wish(cores_per_node=64)).ranks == 3


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"nodes": 4, "ranks": 10}, "--ranks 10 cannot be shared evenly by --nodes 4; ask for 8 or 12"),
        ({"nodes": 4, "ranks": 2}, "ask for 4"),
        ({"nodes": 2, "gpus": 3}, "--gpus 3 cannot be shared"),
        ({"ranks": 8, "gpus": 4}, "a GPU serves one rank"),
        ({"gpus": 8, "gpus_per_node": 4}, "ask for --nodes 2"),
        ({"ranks": 2000}, "2000 ranks for 1000 particles"),
        (
            {"ranks": 16, "threads": 8, "cores_per_node": 64},
            "need 128 cores, a node has 64; ask for at most 8 ranks a node",
        ),
        ({"memory": "512G", "memory_per_node": "256G"}, "--memory 512G: the site's nodes have 256G"),
        ({"time": "48h", "max_time": "24:00:00"}, "--time 48h is above the site's limit of 24:00:00"),
        ({"ranks": 1, "memory": "100M"}, "Nodes with more memory|What fits: --memory"),
    ],
)
def test_requests_that_cannot_be_met_say_what_can(wish, message):
    with pytest.raises(UserError, match=message):
        plan(Task(1000, 128), Wish(**wish))


@pytest.mark.parametrize("task, ranks", [(Task(1000, 32), 4), (Task(100_000, 256), 2)])
def test_a_job_has_room_for_compiling(task, ranks):
    """The first run on a kind of node holds Numba and LLVM, too, whatever the box."""
    asked = plan(task, Wish(ranks=ranks)).memory
    assert ranks * (memory_per_rank(task, ranks) + 140e6) <= asked >= 1.2 * ranks * memory_per_rank(task, ranks)


def test_too_little_memory_says_what_fits_and_that_does_fit():
    task = Task(1000, 128)
    wish = {"ranks": 8, "memory": "2100M"}
    with pytest.raises(UserError, match="8 ranks on a node need .* What fits: ") as caught:
        plan(task, Wish(**wish))
    choices = re.findall(r"--(ranks|nodes|memory) (\w+)", str(caught.value).split("What fits:")[1])
    assert {name for name, _ in choices} == {"ranks", "nodes", "memory"}
    for name, value in choices:
        plan(task, Wish(**{**wish, name: value if name == "memory" else int(value)}))
    # the next better choice would not have fitted
    ranks = int(dict(choices)["ranks"]) + 1
    with pytest.raises(UserError):
        plan(task, Wish(**{**wish, "ranks": ranks}))


def test_warning_leaves_most_of_the_time_to_work():
    assert plan(Task(10, 32), Wish(time="0:10:00")).warning == 200
    assert plan(Task(10, 32), Wish(time="10h")).warning == 300
    assert plan(Task(10, 32), Wish(time="10h", warning=900)).warning == 900
