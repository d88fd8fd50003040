"""What a batch script's run would refuse is refused when the script is made, in the same words; so are forecasts."""

from __future__ import annotations

import pytest
from test_job import job, no_site, particle_file  # noqa: F401 (a fixture)

import mpirecon as mr

#: options → what is said of them
REFUSED = {
    "--weights none.csv:w": "--weights none.csv:w: no such file: none.csv; expected COLUMN",
    "--weights w.csv:other": "other",
    "--weights rlnFoo": "--weights rlnFoo: ",
    "--mask p.h5": "p.h5 is no MRC file: it is a particle file",
    "--mask small.mrc": "small.mrc: the mask has box 16 and, in its header, pixels of 5 Å",
    "--reference p.h5": "p.h5 is no MRC file",
    "--max-resolution 1": "--max-resolution 1 Å is beyond Nyquist, 10 Å for p.h5",
    "--diameter 1e6": "--diameter 1e+06 Å: with its soft edge the mask must fit the box; at most 90 Å",
    "--mask auto --no-postprocess": "--mask auto makes its mask after the reconstruction",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    mr.simulate(mr.phantom(24, 5.0), 40, folder / "p.h5", snr=0.5, seed=3)
    mr.phantom(16, 5.0).write(folder / "small.mrc")
    (folder / "w.csv").write_text("w\n" + "1\n" * 40)
    return folder


@pytest.mark.parametrize("options", REFUSED)
def test_what_a_run_refuses_is_refused_before(project, cli, options):
    words = options.split()
    run = cli("reconstruct", "p.h5", "-o", "run", *words)
    assert run.returncode == 1 and REFUSED[options] in " ".join(run.stderr.split())
    dry = cli("reconstruct", "p.h5", "-o", "run", "--dry-run", *words)
    assert (dry.returncode, dry.stderr) == (1, run.stderr) and not dry.stdout
    text, said = job("slurm", "p.h5", "-o", "run", "--", *words, code=1)
    assert not text and " ".join(said.split()) in " ".join(run.stderr.split())


def test_what_it_takes_is_taken(project, cli):
    options = ["--weights", "w.csv:w", "--max-resolution", "12", "--diameter", "80", "--score-band", "60:12"]
    assert "--weights w.csv:w --max-resolution 12" in job("slurm", "p.h5", "-o", "run", "--", *options)[0]
    assert cli("reconstruct", "p.h5", "-o", "run", "--dry-run", *options).returncode == 0


def test_forecasts_know_nyquist(project, cli):
    for words, of in ((["p.h5"], "10 Å for p.h5"),
                      (["--particles", 50, "--box", 24, "--pixel-size", 5], "10 Å for --pixel-size 5")):
        done = cli("forecast", *words, "--max-resolution", 9)
        assert done.returncode == 1 and f"--max-resolution 9 Å is beyond Nyquist, {of}" in done.stderr
        assert cli("forecast", *words, "--max-resolution", 11).returncode == 0


@pytest.mark.parametrize(("options", "words"), [
    (["--threads", "3"], "--threads 3 after --: the job must ask for the cores of its ranks; give --threads before --"),
    (["--dry-run"], "--dry-run after --: such a job would compute nothing; leave it out"),
    (["--checkpoint-signal", "USR2"], "--checkpoint-signal USR2 after --: the script passes USR1 on, by which the run"),
])
@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_what_a_job_cannot_pass_on_is_refused(project, scheduler, options, words):
    text, said = job(scheduler, "p.h5", "-o", "run", "--", *options, code=1)
    assert not text and words in said


@pytest.mark.parametrize("name", ["FOO", "none", "KILL", ""])
def test_signals_are_those_that_a_run_can_meet(project, cli, name):
    """By jobs, and before a run reads anything."""
    text, said = job("slurm", "p.h5", "-o", "run", "--", "--checkpoint-signal", name, code=1)
    done = cli("reconstruct", "p.h5", "-o", "run", "--dry-run", "--checkpoint-signal", name)
    assert not text and done.returncode == 1
    for words in (said, done.stderr):
        assert "expected a name such as USR1 or TERM" in words or "expected a signal such as USR1 or TERM" in words


@pytest.mark.parametrize("text", ['--a "b c', "--a 'b", "a\\"])
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_quotes_are_closed(project, text, launcher):
    _, said = job("slurm", "p.h5", "-o", "run", "--launcher", launcher, "--launcher-options", text, code=1)
    assert said.startswith(f"--launcher-options {text!r}: expected words as for a shell, got no ")


@pytest.mark.parametrize("key", ["program", "container_command"])
def test_those_of_the_site_file_too(project, key):
    (project / "site.toml").write_text(f"{key} = \"conda run 'x\"\n")
    _, said = job("slurm", "p.h5", "-o", "run", "--container", "i.sif", "--site", "site.toml", code=1)
    assert said.startswith(f"{key} \"conda run 'x\": expected words as for a shell")
