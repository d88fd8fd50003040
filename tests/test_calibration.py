"""``forecast --calibrate``: constants of this machine, from runs that are stand-ins here but for one."""

from __future__ import annotations

import copy
import json
import math
import re
from datetime import date

import pytest
from click.testing import CliRunner
from test_particle_file import write

from mpirecon.batch.calibration import calibration, machine_file, packaged, write_calibration
from mpirecon.batch.fit import fitted, predicted
from mpirecon.batch.forecast import Task, memory_per_rank, seconds_by_phase
from mpirecon.batch.trials import TRIALS, Measured, Trial, run_trials
from mpirecon.cli import calibrating, group
from mpirecon.errors import UserError

#: runs that no trial is
OTHERS = (
    Trial(8000, 32), Trial(10_000, 64), Trial(3000, 96), Trial(4000, 128, ranks=2), Trial(10_000, 32, "sorted"),
    Trial(1000, 96, "sorted", ranks=2), Trial(5000, 64, "posterior"), Trial(1200, 128, "posterior", ranks=2),
)  # fmt: skip


#: a forecast that does not depend on what is free here
SOME = ("--particles", 900, "--box", 64, "--cores", 8, "--ram", "64G")


def machine(factors: dict[str, float], more_memory: float = 1.0) -> dict:
    """The constants of another machine: each phase's times a factor."""
    model = copy.deepcopy(packaged())
    for phase, constants in model["seconds"].items():
        model["seconds"][phase] = [factors.get(phase, factors.get("", 1.0)) * value for value in constants]
    model["memory"]["program"] *= more_memory
    return model


def stand_in(trial: Trial, model: dict) -> Measured:
    """What a trial would take on the machine of that model."""
    phases = seconds_by_phase(trial.task(), trial.ranks, threads=trial.threads, known=model)
    wall = sum(phases.values())
    del phases["rest"]
    memory = round(memory_per_rank(trial.task(), trial.ranks, trial.threads, model))
    return Measured(trial, wall, phases, memory)


def run(*arguments, code=0):
    result = CliRunner().invoke(group, ["forecast", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code
    return result


@pytest.fixture(autouse=True)
def own_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("MPIRECON_MACHINE", raising=False)
    monkeypatch.delenv("MPIRECON_SITE", raising=False)


@pytest.fixture
def slow(monkeypatch):
    """A machine whose phases are slower by different factors, and larger: what calibration runs there."""
    model = machine({"": 2.0, "accumulate": 3.0, "solve": 1.5, "rest": 4.0}, 1.25)
    monkeypatch.setattr(calibrating, "find_mpirun", lambda: "mpirun")
    monkeypatch.setattr(calibrating, "available_cores", lambda: 2)
    monkeypatch.setattr(calibrating, "run_trials", lambda trials, folder: [stand_in(t, model) for t in trials])
    return model


# the fit


def test_runs_that_were_not_measured_are_forecast(slow):
    model = fitted([stand_in(trial, slow) for trial in TRIALS], packaged())
    for trial in OTHERS:
        time, memory = predicted(trial, slow)
        assert predicted(trial, model) == (pytest.approx(time, rel=0.03), pytest.approx(memory, rel=0.01)), trial


def test_terms_that_trade_places_are_told_apart():
    """One constant of a phase alone is another: the others stay what they were."""
    other = machine({})
    other["seconds"]["accumulate"][0] *= 2
    other["seconds"]["prepare"][1] *= 3
    model = fitted([stand_in(trial, other) for trial in TRIALS], packaged())
    for trial in OTHERS:
        assert predicted(trial, model)[0] == pytest.approx(predicted(trial, other)[0], rel=0.05), trial


def test_what_no_trial_does_is_scaled_as_the_phase_is():
    three = machine({"": 3.0})
    model = fitted([stand_in(trial, three) for trial in TRIALS], packaged())
    begins = 2  # of the gradient solver's first map, which no trial makes
    assert model["seconds"]["solve"][begins] == pytest.approx(3 * packaged()["seconds"]["solve"][begins], rel=0.02)
    assert model["seconds"]["search"] == packaged()["seconds"]["search"]  # nothing is known of it


def test_a_disturbed_run_does_not_decide(slow):
    found = [stand_in(trial, slow) for trial in TRIALS]
    found[1].phases["survey"] *= 20
    model = fitted(found, packaged())
    for trial in OTHERS:
        assert predicted(trial, model)[0] == pytest.approx(predicted(trial, slow)[0], rel=0.25), trial


def test_threads_are_measured_where_they_are():
    model = machine({}) | {"threads": 0.6}
    found = [stand_in(trial, model) for trial in TRIALS]
    assert fitted(found, packaged())["threads"] == pytest.approx(0.6, abs=0.02)
    assert fitted([r for r in found if r.trial.threads == 1], packaged())["threads"] == packaged()["threads"]


# trials


def test_a_trial_is_a_run_of_its_own(tmp_path):
    trial = Trial(60, 16, "sorted", options={"iterations": 1})
    (run,) = run_trials([trial], tmp_path, times=1)
    assert {"read", "accumulate", "statistics", "solve"} <= run.phases.keys() and "setup" not in run.phases
    assert run.wall > sum(run.phases.values()) > 0 and run.memory > 50e6
    assert Measured.of_dict(json.loads(json.dumps(run.as_dict()))) == run
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5"]


def test_a_trial_that_fails_says_what_the_program_said(tmp_path):
    with pytest.raises(UserError, match=r"(?s)a trial run failed: .* reconstruct .*'--iterations': 0 is out"):
        list(run_trials([Trial(60, 16, options={"iterations": 0})], tmp_path, times=1))


# the command


def test_one_command_and_forecasts_are_of_this_machine(slow, tmp_path):
    before = run("--particles", 9000, "--box", 64, "--loss", "posterior")
    assert "not calibrated on this machine; mpirecon forecast --calibrate" in before.stdout
    result = run("--calibrate")
    assert result.stderr.count(" of 9: ") == 9
    path = tmp_path / "settings" / "mpirecon" / "machine.json"
    kept = json.loads(path.read_text())
    assert kept["date"] == date.today().isoformat() and kept["host"] and kept["cpu"]
    assert f"wrote {path}; forecasts read it" in result.stdout
    label = f"calibrated on {kept['host']} ({kept['cpu']}), {kept['date']}"
    assert label in result.stdout
    after = run("--particles", 9000, "--box", 64, "--loss", "posterior")
    assert label in after.stdout and "not calibrated" not in after.stdout


def test_the_constants_are_used(slow):
    def asked() -> dict:
        return json.loads(run("--particles", 9000, "--box", 64, "--loss", "posterior", "--json").stdout)

    plain = asked()
    run("--calibrate")
    here = asked()
    assert plain["calibrated"] is None and here["calibrated"]["date"] == date.today().isoformat()
    for row, other in zip(here["rows"][:1], plain["rows"][:1]):
        assert 1.7 < row["seconds"] / other["seconds"] < 3.5
        # the program is a quarter larger there
        assert row["memory_per_rank"] > other["memory_per_rank"] + 0.23 * packaged()["memory"]["program"]


def test_jobs_and_dry_runs_go_by_it_and_say_so(slow, tmp_path):
    particles = write(tmp_path / "p.h5", 40, 24)

    def said() -> tuple[str, str]:
        job = CliRunner().invoke(group, ["job", "slurm", str(particles), "-o", str(tmp_path / "r")])
        dry = CliRunner().invoke(group, ["reconstruct", str(particles), "-o", str(tmp_path / "r"), "--dry-run"])
        assert job.exit_code == dry.exit_code == 0
        return job.stderr, dry.stdout

    job, dry = said()
    assert job.rstrip().endswith("not calibrated on this machine; mpirecon forecast --calibrate")
    assert "not calibrated on this machine; mpirecon forecast --calibrate" in dry
    run("--calibrate")
    later_job, later_dry = said()
    label = str(calibration())
    assert label.startswith("calibrated on ") and label in later_job and label in later_dry
    before, after = (float(re.search(r"time: about ([\d.]+) s", text)[1]) for text in (dry, later_dry))
    assert after > 2 * before  # most of which is "rest"


def test_another_file(slow, tmp_path, monkeypatch):
    path, other = tmp_path / "node.json", tmp_path / "particles.h5"
    other.write_bytes(b"\x89HDF images")
    with pytest.raises(UserError, match="particles.h5 exists already and is not a calibration"):
        run("--calibrate", other)
    assert other.read_bytes() == b"\x89HDF images"
    assert f"MPIRECON_MACHINE={path}" in run("--calibrate", path).stdout
    assert calibration().host is None
    monkeypatch.setenv("MPIRECON_MACHINE", str(path))
    assert calibration().host and calibration().model == json.loads(path.read_text())["model"]
    monkeypatch.setenv("MPIRECON_MACHINE", "")
    assert machine_file() is None and calibration().model == packaged()
    with pytest.raises(UserError, match="MPIRECON_MACHINE is empty"):
        run("--calibrate")
    told = json.loads(run("--calibrate", path, "--json").stdout)
    assert told["file"] == str(path) and told["model"] == json.loads(path.read_text())["model"]


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"format": "mpirecon-machine"}', "\x00\x01",
    '{"format": "mpirecon-machine", "host": "a", "cpu": "b", "date": "c", "model": {"seconds": 3}}',
])  # fmt: skip
def test_a_damaged_calibration_is_reported_and_not_used(text):
    wanted = run(*SOME)
    path = machine_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    damaged(path, wanted)


@pytest.mark.parametrize("change", [
    lambda model: model["seconds"].pop("solve"), lambda model: model["seconds"]["solve"].append(1.0),
    lambda model: model["seconds"].update(read=["fast"]), lambda model: model["seconds"].update(read=[-1.0]),
    lambda model: model["seconds"].update(read=[math.nan]), lambda model: model["memory"].update(program="much"),
    lambda model: model["memory"].update(more=1), lambda model: model.update(threads=[1, 2]),
    lambda model: model.update(machine=None), lambda model: model["memory"].update(solve=1.0),
])  # fmt: skip
def test_constants_of_another_version_are_not_used(change):
    wanted = run(*SOME)
    path = machine_file()
    path.parent.mkdir(parents=True)
    model = copy.deepcopy(packaged())
    write_calibration(path, model)
    assert not run(*SOME).stderr
    change(model)
    write_calibration(path, model)
    damaged(path, wanted)


def damaged(path, wanted) -> None:
    """One warning that names the file, and the forecast of a user without one."""
    result = run(*SOME)
    assert result.stdout == wanted.stdout
    assert result.stderr.startswith(f"Warning: {path}") and len(result.stderr.splitlines()) == 1
    assert "forecast --calibrate" in result.stderr and "Traceback" not in result.stderr


def test_a_folder_in_its_place_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("MPIRECON_MACHINE", str(tmp_path))
    result = run(*SOME)
    assert "Is a directory" in result.stderr and "not calibrated" in result.stdout


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrating, "run_trials", lambda *_: pytest.fail("measured"))
    (tmp_path / "settings").write_text("in the way")
    for arguments in ((), (tmp_path / "none" / "machine.json",), (tmp_path,)):
        with pytest.raises(UserError, match="cannot write|is a folder"):
            run("--calibrate", *arguments)


@pytest.mark.parametrize(("arguments", "named"), [(("--particles", 5), "--particles"),
                                                  (("--loss", "sorted", "--keep", "0.5"), "--loss, --keep")])
def test_it_takes_nothing_else(arguments, named):
    with pytest.raises(UserError, match=f"leave out {named}"):
        run(*arguments, "--calibrate")


def test_without_a_working_mpirun_the_rest_is_measured(slow, monkeypatch):
    def trials(some, folder):
        if some[0].ranks > 1:
            raise UserError("a trial run failed: no such thing")
        return [stand_in(trial, slow) for trial in some]

    monkeypatch.setattr(calibrating, "run_trials", trials)
    result = run("--calibrate")
    assert result.stderr.count("no such thing") == 1 and "What messages take is not measured" in result.stderr
    assert calibration().model["seconds"]["reduce"] == packaged()["seconds"]["reduce"]
    assert calibration().model["seconds"]["rest"][0] > 2 * packaged()["seconds"]["rest"][0]
    monkeypatch.setattr(calibrating, "find_mpirun", lambda: None)
    assert "there is no mpirun" in run("--calibrate").stderr
    monkeypatch.setattr(calibrating, "available_cores", lambda: 1)
    assert "one core" in run("--calibrate").stderr


def test_a_run_of_one_rank_that_fails_ends_it(monkeypatch, slow):
    def trials(some, folder):
        raise UserError("a trial run failed: the disk is full")

    monkeypatch.setattr(calibrating, "run_trials", trials)
    with pytest.raises(UserError, match="the disk is full"):
        run("--calibrate")
    assert not machine_file().exists()


def test_what_a_start_on_several_ranks_takes_is_found_though_here_it_takes_nothing():
    """Another MPI may take its time; and what is known of each particle is not mistaken for a disturbance."""
    slow = machine({})
    slow["seconds"]["rest"][3] = 1.5
    found = fitted([stand_in(trial, slow) for trial in TRIALS], packaged())["seconds"]["rest"]
    assert found[3] == pytest.approx(1.5, abs=0.3)
    slow["seconds"]["rest"][2] = 8e-5  # of a few runs
    assert fitted([stand_in(trial, slow) for trial in TRIALS], packaged())["seconds"]["rest"][2] < 1e-5


def test_sums_over_rotations_take_as_much_longer_on_a_slower_machine():
    task = Task(1000, 64, 1, 1, turns=24)
    here, slow = (seconds_by_phase(task, 1, known=machine(factors))["accumulate"] for factors in ({}, {"": 3.0}))
    assert slow == pytest.approx(3 * here)
