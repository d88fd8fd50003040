"""``mpirecon forecast``: without a particle file what `job` says with one, and what to start."""

from __future__ import annotations

import json
import re
import shlex

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from test_particle_file import write

import mpirecon as mr
from mpirecon.batch import rank_table as module
from mpirecon.batch.forecast import Task, memory_per_rank, seconds
from mpirecon.batch.rank_table import Node, Row, Size, choose, rank_table
from mpirecon.batch.units import memory_words, parse_time
from mpirecon.cli import group
from mpirecon.cli.reconstruct import command as reconstruct
from mpirecon.solvers.config import Config
from mpirecon.solvers.nearby_schedule import NearbySchedule

HERE = ["--cores", "8", "--ram", "64G"]


@pytest.fixture(autouse=True)
def no_site(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("MPIRECON_SITE", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


def run(*args):
    result = CliRunner().invoke(group, ["forecast", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(*args):
    return json.loads(run(*args, "--json").output)


@pytest.mark.parametrize("options", [(), ("--loss", "posterior"),
                                     ("--loss", "posterior", "--poses", "rescue", "--search-sigma", "5"),
                                     ("--loss", "sorted", "--keep", "0.7", "--folds", "3", "--symmetry", "D2"),
                                     ("--solver", "gradient", "--iterations", "4", "--max-resolution", "9", "--memory",
                                      "128M")])
def test_numbers_say_what_the_file_says_and_what_job_asks_for(tmp_path, options):
    file = write(tmp_path / "p.h5", 40, 24)
    from mpirecon.io.particle_file import ParticleFile

    with ParticleFile(file) as opened:
        pixel = opened.pixel_size
    numbers = told("--particles", 40, "--box", 24, "--pixel-size", pixel, *HERE, *options)
    assert numbers["rows"] == told(file, *HERE, *options)["rows"]
    for row in (r for r in numbers["rows"] if r["threads"] == 1):
        job = CliRunner().invoke(group, ["job", "slurm", str(file), "-o", str(tmp_path / "run"), "--ranks",
                                         str(row["ranks"]), "--", *options])
        line = re.search(r"forecast: (.*) on .*, about (.*?);", job.stderr)
        assert line[1] == memory_words(row["memory_per_rank"])
        assert 0 <= parse_time(line[2]) - row["seconds"] + 0.05 <= 1.1  # whole seconds, rounded up


def test_more_work_takes_longer_and_larger_boxes_more_memory():
    def first(*options, particles=20_000, box=128):
        row = told("--particles", particles, "--box", box, *HERE, *options)["rows"][0]
        return np.array([row["seconds"], row["memory_per_rank"]])

    plain = first()
    for other in (first(particles=40_000), first("--loss", "posterior"), first("--symmetry", "I"), first(box=192)):
        assert (other >= plain).all() and other[0] > 1.2 * plain[0]
    assert first("--read-rate", "10M")[0] > plain[0] > first("--read-rate", "2G")[0]


def brute_force(particles, box, cores, ram, options):
    """The rank numbers of the table that one node holds → seconds, from the model alone."""
    found = {}
    for ranks in sorted({1, 2, 4, 8, 16, 32, 64, cores}):
        task = Task.of(Size(particles, box), Config(**options), min(2**30, ram / (4 * ranks)))
        if ranks <= cores and ranks * memory_per_rank(task, ranks) <= ram:
            found[ranks] = seconds(task, ranks)
    return found


@pytest.mark.parametrize(("box", "cores", "ram"), [(360, 2, 24), (360, 16, 64), (256, 12, 32), (512, 32, 64),
                                                   (64, 6, 8)])
def test_the_command_to_take_is_the_fastest_that_fits(box, cores, ram):
    answer = told("--particles", 300_000, "--box", box, "--cores", cores, "--ram", f"{ram}G", "--loss", "posterior")
    words = shlex.split(answer["commands"][0])
    ranks = int(words[2]) if words[0] == "mpirun" else 1
    wanted = brute_force(300_000, box, cores, ram * 2**30, {"loss": "posterior"})
    assert wanted[ranks] <= 1.03 * min(wanted.values()) and max(wanted) > 1
    options = words[words.index("reconstruct") + 1 :]
    asked = reconstruct.make_context("reconstruct", [__file__ if w == "particles.h5" else w for w in options]).params
    assert asked["loss"] == "posterior"


def test_a_workstation_learns_that_ranks_are_faster_than_threads():
    lines = run("--particles", 300_000, "--box", 360, "--loss", "posterior", "--cores", 2, "--ram", "24G",
                "--read-rate", "2G").output.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["1", "1"], ["1", "2"], ["2", "1"]]
    text = "\n".join(lines)
    factor = float(re.search(r"2 ranks are (\d\.\d) times as fast as 1 rank of 2 threads", text)[1])
    task = Task.of(Size(300_000, 360), Config(loss="posterior"), 2**30)
    assert factor == pytest.approx(seconds(task, 1, threads=2, rate=2**31) / seconds(task, 2, rate=2**31), abs=0.06)
    assert "mpirun -n 2 mpirecon reconstruct particles.h5 -o run1 --loss posterior" in text
    assert "not modelled" in text and "job slurm" in text  # nodes were described, so more of them are thought of


def test_what_fits_nowhere_is_said_so_and_what_fits_on_more_nodes_is_a_job():
    assert "No rank fits" in run("--particles", 1000, "--box", 800, "--cores", 8, "--ram", "16G").output
    answer = told("--particles", 1_000_000, "--box", 512, "--loss", "posterior", "--cores", 4, "--ram", "10G")
    assert len(answer["commands"]) == 1
    words = shlex.split(answer["commands"][0].replace(" > run1.sh", ""))
    assert words[:3] == ["mpirecon", "job", "slurm"] and words[-3:] == ["--", "--loss", "posterior"]
    nodes, ranks = (int(words[words.index(option) + 1]) for option in ("--nodes", "--ranks"))
    row = next(r for r in answer["rows"] if r["ranks"] == ranks and r["threads"] == 1)
    assert nodes == row["nodes"] and ranks % nodes == 0 and ranks // nodes <= 4
    assert ranks // nodes * row["memory_per_rank"] <= 10 * 2**30


def test_rows_of_nodes_hold_their_ranks():
    node = Node(6, 40 * 2**30)
    for row in rank_table(lambda kept: Task(200_000, 360, kept=kept), node, 2):
        if row.nodes:
            here = row.ranks // row.nodes
            assert here * row.threads <= node.cores and here * row.memory <= node.memory and row.ranks % row.nodes == 0
    assert choose([Row(1, 1, 10.0, 1.0, None)]) == (None, None)
    assert choose([Row(1, 1, 10.0, 1.0, 1), Row(2, 1, 9.9, 1.0, 1)])[0].ranks == 1  # no more ranks than it is worth
    assert module.MOST_RANKS == 1024


@pytest.mark.parametrize(("args", "message"), [
    ((), "give a particle file, or --particles N and --box N"),
    (("--particles", 5), "give a particle file, or --particles N and --box N"),
    (("--particles", 5, "--box", 32, "--max-resolution", 8), "give --pixel-size too"),
    (("--particles", 5, "--box", 32, "--loss", "posterior", "--group-by", "x"), "give that, or --folds"),
    (("--particles", 5, "--box", 32, "--cores", 2, "--threads", 4), "the machine has 2 cores"),
    (("--particles", 5, "--box", 32, "--loss", "sorted"), "needs --keep"),
])  # fmt: skip
def test_what_is_refused(args, message):
    from mpirecon.errors import UserError

    with pytest.raises(UserError, match=message):
        run(*args)


def test_what_the_file_says_need_not_be_given_again(tmp_path):
    from mpirecon.errors import UserError

    with pytest.raises(UserError, match="leave out --particles, --box"):
        run(write(tmp_path / "p.h5", 12, 8), "--box", 8)
    assert "box 8" in run(write(tmp_path / "q.h5", 12, 8)).output


def test_the_site_file_says_what_nodes_are(tmp_path, monkeypatch):
    site = tmp_path / "site.toml"
    site.write_text('cores_per_node = 64\nmemory_per_node = "250G"\nspeed = 2.0\n')
    monkeypatch.setenv("MPIRECON_SITE", str(site))
    answer = told("--particles", 300_000, "--box", 360, "--loss", "posterior")
    assert answer["node"] == {"cores": 64, "memory": 250 * 2**30, "speed": 2.0}
    slow = told("--particles", 300_000, "--box", 360, "--loss", "posterior", "--cores", 64, "--ram", "250G")
    assert [r["ranks"] for r in slow["rows"]] == [r["ranks"] for r in answer["rows"]]


def test_it_fits_a_narrow_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("--particles", 300_000, "--box", 360, "--loss", "posterior", *HERE).output.splitlines()
    # commands stay whole
    assert len(lines) > 12 and max(len(line) for line in lines if not line.startswith("take")) <= 60


@pytest.mark.parametrize(("rounds", "count", "wanted"), [(5, 10**6, 3.25), (5, 2000, 3.5), (5, 500, 4.0), (3, 500, 3.0),
                                                         (2, 500, 2.0), (1, 10**6, 1.0)])
def test_comparisons_at_nearby_poses_are_counted(rounds, count, wanted):
    """As many as the schedule makes of these particles."""
    schedule = NearbySchedule(rounds)
    assert schedule.most(rounds, count) == wanted
    ids = np.arange(min(count, 20_000))
    made = sum((schedule.at(ids, count, 1).mean() if n == schedule.first else 1.0)
               for n in range(1, rounds + 1) if schedule.due(n))
    assert made == pytest.approx(wanted, abs=0.05)
    task = Task.of(Size(count, 64), Config(loss="posterior", iterations=rounds), 0)
    assert task.nearby == wanted and Task.of(Size(count, 64), Config(loss="sorted", keep=0.8), 0).nearby == 0


def test_a_search_of_poses_is_forecast():
    size = Size(5000, 64, 4.9)
    plain, searching = (Task.of(size, Config(loss="posterior", poses=poses), 0) for poses in ("fixed", "rescue"))
    assert searching.rounds == plain.rounds + 2
    extra = memory_per_rank(searching, 1) - memory_per_rank(plain, 1)
    assert 50e6 < extra < 1e9
    assert seconds(searching, 1) > seconds(plain, 1) + 5000 * 2 * 0.4 * 0.01
    assert seconds(searching, 4) < seconds(searching, 1)


def test_searches_of_groups_are_forecast_by_the_images_of_a_group(tmp_path):
    """Slices are cut for each image of a group alone; control and decoys are groups, too."""
    options = {"loss": "posterior", "poses": "rescue", "folds": 4}
    single = seconds(Task.of(Size(1430, 32), Config(**options), 0), 1)
    of_36, of_2 = (seconds(Task.of(Size(1430, 32, rows=rows), Config(**options, group_by="n"), 0), 1)
                   for rows in (36, 2))
    assert single < of_2 <= of_36 and of_36 > 4 * single
    file = write(tmp_path / "p.h5", 40, 24)
    with h5py.File(file, "r+") as opened:
        table = opened.create_group("source/table_000")
        table.attrs.update(name="particles", rows=40, columns=["rlnName"])
        names = np.repeat([f"g{i:02d}" for i in range(20)], 2).astype("S3")
        table["rlnName"] = names.astype(h5py.string_dtype("utf-8", 3))
        opened["source"].attrs["path"] = "p.star"
    search, by_name = (*HERE, "--loss", "posterior", "--poses", "rescue", "--folds", 4), ("--group-by", "rlnName")
    alone, together = (told(file, *search, *more)["rows"][0] for more in ((), by_name))
    assert together["seconds"] > alone["seconds"]
    with pytest.raises(mr.UserError, match="searches the groups of --group-by, whose sizes the particle file has"):
        told("--particles", 40, "--box", 24, *search, *by_name)


def test_a_command_that_searches_is_forecast_as_one():
    set_of = ("--particles", 40000, "--box", 64, "--loss", "posterior", *HERE)
    search = ("--poses", "refine", "--search-offset", "8.0", "--search-sigma", "5.0")
    without, searched = told(*set_of), told(*set_of, *search)
    for a, b in zip(without["rows"], searched["rows"]):  # on more ranks only searches gain
        assert b["seconds"] > 1.2 * a["seconds"] and b["memory_per_rank"] > a["memory_per_rank"]
    assert " ".join(search) in searched["commands"][0]
    with pytest.raises(mr.UserError, match="--search-offset applies to --poses rescue and refine"):
        told(*set_of, *search[2:])


@pytest.mark.parametrize("name", ["-s.h5", "two words.h5"])
def test_the_command_to_take_runs_whatever_the_name_of_the_file_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "choose", lambda rows: (rows[0], next(row for row in rows if row.nodes)))
    write(tmp_path / name, 40, 24)
    here, job = (shlex.split(command.partition(" > ")[0])
                 for command in told(f"./{name}", "--cores", "2", "--ram", "64G", "--iterations", "2")["commands"])
    given = here[here.index("reconstruct") + 1:]
    assert reconstruct.make_context("reconstruct", given).params["particles"].name == name
    ran = CliRunner().invoke(group, job[1:])
    assert ran.exit_code == 0 and shlex.quote(str(tmp_path / name)) in ran.stdout, ran.output


def test_no_more_particles_than_anyone_has():
    """Their numbers are held in 64 bits."""
    assert run("--particles", 10**9, "--box", 64, *HERE).exit_code == 0
    for particles in (10**9 + 1, 2**63):
        refused = run("--particles", particles, "--box", 64, *HERE)
        assert refused.exit_code == 2 and "expected at least 1 and at most 1000000000" in refused.output
