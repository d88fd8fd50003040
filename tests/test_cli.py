"""How commands end, alone and on several ranks; shared options; what the console says where."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
import tqdm
from click.testing import CliRunner

from mpirecon.cli import COMMANDS, options, runs_on_all_ranks
from mpirecon.errors import UserError
from mpirecon.parallel import console

TROUBLE = Path(__file__).parent / "mpi" / "trouble.py"
BAD_ROW = "row 7 of particles.star is bad; mend it"


def ours(stderr: str) -> str:
    """stderr without what mpirun adds when ranks fail: blocks between lines of dashes, its libraries' errors and
    warnings, and stray null characters."""
    kept, inside = [], False
    for line in stderr.replace("\0", "").splitlines():
        if line.startswith("-----"):
            inside = not inside
        elif not inside and line.strip() and not (line.startswith("[warn] Epoll") or "PMIX ERROR" in line):
            kept.append(line)
    return "\n".join(kept)


@pytest.fixture
def trouble(mpirun):
    def call(n, *args):
        return mpirun(n, [TROUBLE, *args], timeout=60)

    return call


def test_success_is_reported_once(trouble):
    result = trouble(2, "trouble", "--verbose")
    assert (result.returncode, result.stdout) == (0, "fine on 2\n")
    assert sorted(ours(result.stderr).splitlines()) == ["Warning: careful", "[rank 0] detailed", "[rank 1] detailed"]


@pytest.mark.parametrize(
    ("kind", "rank", "expected"),
    [
        ("user", None, [f"Error: {BAD_ROW}"]),
        ("agreed", 1, [f"Error: rank 1 on host HOST: {BAD_ROW}"]),
        ("user", 1, [f"Error: rank 1 on host HOST: {BAD_ROW}"]),  # rank 0 waits in an allreduce
        ("missing-file", 0, ["Error: rank 0 on host HOST: /nowhere/particles.h5: no such file or directory"]),
    ],
)
def test_errors_end_all_ranks_with_one_message(trouble, kind, rank, expected):
    result = trouble(3, "trouble", "--kind", kind, *([] if rank is None else ["--rank", rank]))
    assert result.returncode == 1 and result.stdout == ""
    assert ours(result.stderr).splitlines() == [line.replace("HOST", socket.gethostname()) for line in expected]


@pytest.mark.parametrize("kind", ["defect", "defect-agreed"])
def test_a_defect_on_one_rank_shows_its_traceback_and_ends_all(trouble, kind):
    result = trouble(2, "trouble", "--kind", kind, "--rank", "1")
    assert result.returncode == 1
    lines = ours(result.stderr).splitlines()
    assert all(line.startswith("[rank 1 ") for line in lines) and sum("Traceback" in line for line in lines) == 1
    assert any("KeyError: 'a defect'" in line for line in lines) and "please report" in lines[-1]


def test_exit_code_and_usage_errors_are_those_of_all_ranks(trouble):
    assert trouble(2, "trouble", "--kind", "exit").returncode == 3
    result = trouble(2, "trouble", "--kind", "nonsense")
    assert result.returncode == 2
    assert ours(result.stderr).count("Error: Invalid value for '--kind': 'nonsense'") == 1


def test_serial_commands_run_on_rank_0_only(trouble):
    result = trouble(3, "alone")
    assert (result.returncode, result.stdout, ours(result.stderr)) == (0, "fine alone\n", "")
    result = trouble(3, "alone", "--kind", "user")
    assert (result.returncode, ours(result.stderr)) == (1, f"Error: {BAD_ROW}")
    result = trouble(2, "trouble", "--help")
    assert result.returncode == 0 and result.stdout.count("Usage:") == 1


def test_endings_without_mpirun():
    def call(*args, **env):
        command = [sys.executable, TROUBLE, *args]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})

    assert call("trouble").stdout == "fine on 1\n"
    result = call("trouble", "--kind", "user")
    assert (result.returncode, result.stderr) == (1, f"Error: {BAD_ROW}\n")
    assert "Traceback" in call("trouble", "--kind", "user", MPIRECON_TRACEBACK="1").stderr
    result = call("trouble", "--kind", "defect")
    assert result.returncode == 1 and "Traceback" in result.stderr and "please report" in result.stderr
    assert call("trouble", "--kind", "exit").returncode == 3
    result = call("nonsense")
    assert result.returncode == 2 and "No such command 'nonsense'" in result.stderr
    assert call("trouble", "--quiet").stdout == ""


def test_several_processes_without_mpi_say_so_once():
    # a launcher's word without a launcher: each process is alone, so MPI sees one
    env = {**os.environ, "PMI_SIZE": "2", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    results = [
        subprocess.run([sys.executable, TROUBLE, "trouble"], capture_output=True, text=True, env={**env, "PMI_RANK": r})
        for r in "01"
    ]
    assert [r.returncode for r in results] == [1, 1]
    assert results[0].stderr.startswith("Error: mpiexec (PMI) started 2 processes") and results[1].stderr == ""


def test_help_imports_no_numpy(cli):
    """Imports of that size in --help make a cluster's login node crawl."""
    result = cli("--help")
    assert result.returncode == 0 and all(name in result.stdout for name in COMMANDS)
    code = "import sys, mpirecon.cli as c; c.run(['-h']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_which_command_lines_run_on_all_ranks():
    assert runs_on_all_ranks(["reconstruct", "p.h5", "-o", "out"])
    assert not runs_on_all_ranks(["reconstruct", "-h"]) and not runs_on_all_ranks(["logs", "reconstruct"])
    assert not runs_on_all_ranks([]) and not runs_on_all_ranks(["nonsense"])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (options.FRACTION, {"0.7": 0.7, "1": 1.0}, ["0", "1.2", "nan", "most"]),
        (options.RATE, {"0": 0.0, "1": 1.0}, ["-0.1", "inf"]),
        (options.POSITIVE, {"3.5": 3.5}, ["0", "inf"]),
        (options.ErrorKind(), {"random": None, "small:10": 10.0}, ["small", "small:", "small:x", "small:0", "large:3"]),
    ],
)
def test_parameter_types(kind, good, bad):
    for text, value in good.items():
        assert kind.convert(text, None, None) == value
    for text in bad:
        with pytest.raises(click.BadParameter, match="expected"):
            kind.convert(text, None, None)


def test_existing_targets_are_refused(tmp_path):
    target = tmp_path / "out"
    options.refuse_existing(target, False)
    target.mkdir()
    options.refuse_existing(target, False)  # an empty folder holds nothing to lose
    (target / "volume.mrc").touch()
    with pytest.raises(UserError, match="exists already; .*--overwrite"):
        options.refuse_existing(target, False)
    options.refuse_existing(target, True)


def test_progress_is_a_few_lines_in_a_batch_log(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress(100, "scoring") as bar:
        for _ in range(100):
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert 8 <= len(lines) <= 10 and lines[0] == "scoring: 10 % (10/100) after 20 s, about 3 min 0 s left"
    assert lines[-1].startswith("scoring: done in 3 min")


def test_what_a_rank_has_done_stands_for_all(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress(20_001, "survey", mine=10_000) as bar:
        for n in (6814, 3186):
            bar.update(n)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["survey: 68 % (13629/20001) after 10 s, about 5 s left", "survey: done in 30 s"]


def test_an_iteration_says_how_long_all_will_take(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 15))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    for iteration in (1, 5):
        with console.Console().progress(400, f"iteration {iteration} of 5", mine=200, further=5 - iteration) as bar:
            bar.update(50)
    first, _, last, _ = capsys.readouterr().err.splitlines()
    assert first == "iteration 1 of 5: 25 % after 15 s, about 45 s left, 4 min 45 s of all iterations"
    assert last == "iteration 5 of 5: 25 % after 15 s, about 45 s left"


def test_short_or_quiet_work_shows_no_progress(capsys):
    for quiet in (False, True):
        with console.Console(quiet=quiet).progress(10, "quick") as bar:
            bar.update(10)
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    talk = console.Console()
    with talk.progress(10, "scoring") as bar:
        bar.update(5)
        talk.say("a line")
    captured = capsys.readouterr()
    assert "scoring:" in captured.err and "5/10" in captured.err and captured.out == "a line\n"
    with talk.progress(40, "iteration 1 of 2", mine=10, further=1) as bar:
        for _ in range(10):
            bar.update(1)
    drawn = capsys.readouterr().err
    assert "iteration 1 of 2:" in drawn and "100%" in drawn and "/40" not in drawn


def test_shared_options_reach_the_command():
    @click.command()
    @options.overwrite_option
    @options.seed_option
    @options.verbosity_options
    @options.backend_option
    @options.transport_option
    @options.json_option
    def command(**values):
        click.echo(sorted(values.items()))

    result = CliRunner().invoke(command, ["--overwrite", "--seed", "4", "-q"])
    for name, value in {"overwrite": True, "seed": 4, "quiet": True, "backend": "auto", "as_json": False}.items():
        assert str((name, value)) in result.output


def test_a_line_and_its_end_are_one_write():
    """Launchers pass on what a write brings: what comes in two pieces is torn by other ranks' lines."""
    ours_, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = "from mpirecon.parallel.console import Console; Console().warn('careful')"
    with ours_, its:
        subprocess.run([sys.executable, "-c", program], stderr=its, check=True)
        assert ours_.recv(1000) == b"Warning: careful\n"


def test_a_warning_is_printed_once(capsys):
    """One that a run gives at once, for it may be long, is not given again in the end."""
    talk = console.Console()
    for text in ("halves share images", "few particles", "halves share images"):
        talk.warn(text)
    assert capsys.readouterr().err == "Warning: halves share images\nWarning: few particles\n"
