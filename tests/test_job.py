"""Batch scripts: right directives, valid bash, odd paths, what is refused, and what a script does when it runs."""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpirecon.batch import script
from mpirecon.batch.forecast import Task, memory_per_rank, seconds, wall_time
from mpirecon.batch.request import Wish, plan
from mpirecon.batch.site import read_site, site_file
from mpirecon.batch.units import clock, parse_memory, parse_time
from mpirecon.cli.job import command
from mpirecon.errors import UserError
from mpirecon.model import CTF_DTYPE

SCHEDULERS = script.SCHEDULERS
BASH = shutil.which("bash")


def particle_file(path: Path, count: int = 1000, box: int = 64) -> Path:
    """Only the shape of a particle file: h5py stores no pixel that was never written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (count, box, box), np.float32, chunks=(1, box, box))
        for name, shape, dtype in (("quaternion", (count, 4), "f8"), ("shift", (count, 2), "f8"), ("half", (count,), "u1"),
                                   ("ctf", (count,), CTF_DTYPE), ("optics_group", (count,), "i4")):
            file.create_dataset(name, shape, dtype)
        file.attrs.update(format="mpirecon-particles", version=1, pixel_size=3.0, ctf_premultiplied=False, contrast="white")
    return path


@pytest.fixture(autouse=True)
def no_site(monkeypatch, tmp_path):
    monkeypatch.delenv("MPIRECON_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))
    monkeypatch.setattr(sys, "argv", ["mpirecon", "job"])


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return particle_file(tmp_path_factory.mktemp("particles") / "particles.h5")


def job(*arguments, code=0):
    """stdout and stderr of ``mpirecon job …``."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if isinstance(result.exception, UserError):
        assert code, result.exception
        return "", str(result.exception)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


# forecasts


@pytest.mark.parametrize(
    ("box", "ranks", "options", "folds"),
    [(64, 1, [], 1), (64, 2, ["--loss", "sorted", "--keep", "0.7", "--iterations", 1], 4), (64, 2, ["--solver", "gradient", "--iterations", 2], 1), (128, 1, [], 1)],
)
def test_memory_forecast_agrees_with_runs_within_15_percent(cli, mpirun, tmp_path, box, ranks, options, folds):
    count = 400 if box < 100 else 100  # enough for a full batch of images
    cli("simulate", "--phantom", "--particles", count, "--box", box, "-o", tmp_path / "p.h5")
    arguments = ["reconstruct", tmp_path / "p.h5", "-o", tmp_path / "run", *(options or ["--iterations", 1])]
    run = cli(*arguments) if ranks == 1 else mpirun(ranks, ["-m", "mpirecon", *arguments])
    assert run.returncode == 0, run.stderr
    measured = json.loads((tmp_path / "run" / "summary.json").read_text())["peak_memory_bytes"]
    solver = "gradient" if "gradient" in options else "normal"
    forecast = memory_per_rank(Task(count, box, folds, 1, solver), ranks)
    assert forecast == pytest.approx(measured, rel=0.15)


def test_memory_of_a_rank_shrinks_with_ranks_to_what_one_solve_needs():
    task = Task(200_000, 256)
    forecast = [memory_per_rank(task, ranks) for ranks in (1, 2, 8, 64, 1000)]
    assert forecast == sorted(forecast, reverse=True)
    groups, maps, metadata = 8 * 12 * 512**2 * 257, 12 * 4 * 256**3, 200_000 * 400
    assert forecast[0] - forecast[-1] == pytest.approx(groups + maps + metadata, rel=0.02)


def test_time_forecast_falls_with_ranks_and_speed():
    task = Task(100_000, 128)
    assert seconds(task, 1) > 2 * seconds(task, 4) > 0 and seconds(task, 4) > 1.8 * seconds(task, 4, speed=2)
    assert wall_time(task, 4) % 600 == 0 and wall_time(task, 4) > 2 * seconds(task, 4)
    assert wall_time(Task(10, 16), 1) == 600


@pytest.mark.parametrize(("text", "amount"), [("64G", 64 * 2**30), ("512M", 2**29), ("1.5GB", 3 * 2**29), ("2 TiB", 2**41)])
def test_memory_amounts(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"), [("2:30:00", 9000), ("1-12:00:00", 129600), ("90m", 5400), ("2h", 7200), ("1d", 86400), ("0:10:00", 600)]
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
    tight = plan(task, Wish(cores_per_node=64, memory_per_node="32G"))
    each = memory_per_rank(task, tight.ranks)
    assert tight.ranks < 64 and tight.ranks * each <= 32 * 2**30 < (tight.ranks + 1) * memory_per_rank(task, tight.ranks + 1)
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
        ({"ranks": 16, "threads": 8, "cores_per_node": 64}, "need 128 cores, a node has 64; ask for at most 8 ranks a node"),
        ({"memory": "512G", "memory_per_node": "256G"}, "--memory 512G: the site's nodes have 256G"),
        ({"time": "48h", "max_time": "24:00:00"}, "--time 48h is above the site's limit of 24:00:00"),
        ({"ranks": 1, "memory": "100M"}, "Nodes with more memory|What fits: --memory"),
    ],
)
def test_requests_that_cannot_be_met_say_what_can(wish, message):
    with pytest.raises(UserError, match=message):
        plan(Task(1000, 128), Wish(**wish))


def test_too_little_memory_says_what_fits_and_that_does_fit():
    task = Task(1000, 128)
    wish = {"ranks": 8, "memory": "4G"}
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


# scripts

FULL = ["--nodes", 2, "--gpus", 4, "--account", "proj-1", "--partition", "gpu", "--email", "me@uni.example", "--time", "2h",
        "--modules", "gcc/12", "--modules", "openmpi", "--setup", "ulimit -c 0", "--memory", "16G"]  # fmt: skip

DIRECTIVES = {
    "slurm": """--job-name=run 1|--nodes=2|--ntasks=4|--ntasks-per-node=2|--cpus-per-task=1|--mem=16384M|--gpus-per-node=2|
        --time=2:00:00|--account=proj-1|--partition=gpu|--mail-user=me@uni.example --mail-type=END,FAIL,REQUEUE|
        --output=run_1-%j.log|--open-mode=append|--signal=B:USR1@300|--requeue""".replace("=run 1", "=run_1"),
    "pbs": """-N run_1|-l select=2:ncpus=2:mpiprocs=2:ompthreads=1:mem=16384mb:ngpus=2|-l walltime=2:00:00|-A proj-1|-q gpu|
        -M me@uni.example -m abe|-j oe|-r y""",
    "lsf": """-J run_1|-n 4|-R "span[ptile=2] affinity[core(1)] rusage[mem=16384MB]"|-gpu "num=2:mode=shared"|-W 2:00|
        -P proj-1|-q gpu|-u me@uni.example -B -N|-o run_1-%J.log|-wa USR1 -wt 5|-r|-Q "75" """,
    "sge": """-S /bin/bash|-N run_1|-pe mpi 4|-l h_rt=7200|-l s_rt=6900|-l mem_free=8192M|-l gpu=2|-P proj-1|-q gpu|
        -M me@uni.example -m bea|-cwd|-j y|-r y""",
}
MARKS = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_directives(scheduler, particles, tmp_path):
    text, said = job(scheduler, particles, "-o", tmp_path / "run 1", *FULL, "--", "--loss", "sorted", "--keep", "0.7")
    lines = text.splitlines()
    mark = MARKS[scheduler] + " "
    assert lines[0] == "#!/bin/bash"
    expected = [entry.strip() for entry in DIRECTIVES[scheduler].split("|")]
    assert [line.removeprefix(mark) for line in lines if line.startswith(mark)] == expected
    assert "forecast: " in said and "forecast" not in text and "@{" not in text
    assert "module load gcc/12 openmpi\nulimit -c 0\n" in text
    launch = next(line for line in lines if " reconstruct " in line and not line.startswith("#"))
    assert launch.startswith("srun --ntasks=4" if scheduler == "slurm" else "mpirun -n 4 mpirecon")
    assert launch.endswith('-o "$output" --loss sorted --keep 0.7 --backend cuda "${more[@]}" &')


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_not_asked_for_leaves_no_line(scheduler, particles, tmp_path):
    text, _ = job(scheduler, particles, "-o", tmp_path / "run")
    assert not re.search(r"None|account|-A |mail|-M |gpu|module|partition|-q |--nv", text.replace(str(tmp_path), ""))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scripts_are_valid_bash_and_shellcheck_finds_nothing(scheduler, particles, tmp_path):
    for options in ([], FULL, ["--container", "image.sif"]):
        text, _ = job(scheduler, particles, "-o", tmp_path / "it's a \"run\" $HOME `id`", *options)
        subprocess.run([BASH, "-n"], input=text, text=True, check=True)
        if shutil.which("shellcheck"):
            found = subprocess.run(["shellcheck", "-s", "bash", "-S", "warning", "-"], input=text, text=True, capture_output=True)
            assert found.returncode == 0, found.stdout


NAMES = st.text(string.ascii_letters + string.digits + " '\"$`\\;&|<>()[]{}*?!#~%@+=:,.-äé☃", min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, scheduler=st.sampled_from(SCHEDULERS))
def test_odd_paths_reach_the_command_as_they_are(tmp_path, name, scheduler):
    # behind a letter: a path that begins with a dash is an option to every program
    source, output = tmp_path / f"p{name}.h5", tmp_path / f"o{name}"
    resources = plan(Task(1000, 64), Wish())
    text = script.write_script(script.Job(scheduler, source, output, ("--mask", name)), resources, "mpirecon job")
    line = next(line for line in text.splitlines() if " reconstruct " in line)
    line = line[line.index(" reconstruct ") :].removesuffix(' "${more[@]}" &')
    shell = f"output={shlex.quote(str(output))}; printf '%s\\0' {line}"
    shown = subprocess.run([BASH, "-c", shell], capture_output=True, text=True, check=True).stdout
    assert shown.split("\0") == ["reconstruct", str(source), "-o", str(output), "--mask", name, ""]
    assert f"output={shlex.quote(str(output))}\n" in text
    subprocess.run([BASH, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", ["a\nb", "a\n#BSUB -P other", "a\tb", "a\x7fb"])
def test_control_characters_in_paths_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="control character"):
        script.write_script(script.Job("lsf", tmp_path / "p.h5", tmp_path / name), plan(Task(10, 32), Wish()), "")


def test_bad_words_in_directives_are_refused(particles, tmp_path):
    for option in ("--account", "--partition", "--email", "--name"):
        _, said = job("slurm", particles, "-o", tmp_path / "run", option, "two words", code=1)
        assert said.startswith(f"{option} 'two words': expected letters, digits")


def test_containers(particles, tmp_path):
    text, _ = job("slurm", particles, "-o", tmp_path / "run", "--container", "/images/m p.sif", "--gpus", 2)
    assert f"apptainer exec --nv --bind {particles.parent} --bind {tmp_path} '/images/m p.sif' mpirecon reconstruct" in text
    assert "export PATH" not in text
    (tmp_path / "a:b").mkdir()
    _, said = job("slurm", particles, "-o", tmp_path / "a:b" / "run", "--container", "x.sif", code=1)
    assert "containers cannot be given a folder with ':'" in said


def test_launchers(particles, tmp_path):
    out = ["-o", tmp_path / "run"]
    text, _ = job("slurm", particles, *out, "--launcher", "mpirun", "--threads", 4, "--launcher-options", "--mca x 'y z'")
    assert "mpirun -n 4 --mca x 'y z' mpirecon" in text
    assert "mpirun -n 4 --bind-to none mpirecon" in job("pbs", particles, *out, "--threads", 4)[0]
    assert "srun --ntasks=4 --ntasks-per-node=4 --cpus-per-task=1 --kill-on-bad-exit=1 --mpi=pmi2 mpirecon" in job(
        "slurm", particles, *out, "--mpi", "pmi2")[0]  # fmt: skip
    assert "srun belongs to Slurm" in job("pbs", particles, *out, "--launcher", "srun", code=1)[1]


def test_reconstruct_options_are_read_before_the_job_waits_in_a_queue(particles, tmp_path):
    out = tmp_path / "run"
    assert "No such option" in job("slurm", particles, "-o", out, "--", "--los", "l2", code=2)[1]
    assert "sorted needs --keep" in job("slurm", particles, "-o", out, "--", "--loss", "sorted", code=1)[1]
    assert "give particles and output folder before --" in job("slurm", particles, "-o", out, "--", "-o", "x", code=1)[1]
    assert "only options that" in job("slurm", particles, "-o", out, "--", "--help", code=1)[1]
    assert "does not exist" in job("slurm", tmp_path / "nothing.h5", "-o", out, code=2)[1]
    out.mkdir()
    (out / "volume.mrc").touch()
    assert "exists already" in job("slurm", particles, "-o", out, code=1)[1]
    assert "more=(--overwrite)\n" in job("slurm", particles, "-o", out, "--", "--overwrite")[0]
    (out / "checkpoint.h5").touch()
    assert "more=()\n" in job("slurm", particles, "-o", out)[0]
    assert "checkpoint of an unfinished run" in job("slurm", particles, "-o", out, "--", "--overwrite", code=1)[1]


def test_folds_and_iterations_count_in_the_forecast(particles, tmp_path):
    def memory(*options):
        text, _ = job("slurm", particle_file(tmp_path / "big.h5", 1000, 256), "-o", tmp_path / "run", "--ranks", 1, "--", *options)
        return int(re.search(r"--mem=(\d+)M", text)[1])

    sorted_ = ("--loss", "sorted", "--keep", "0.7")
    assert memory() < memory(*sorted_, "--folds", 2) < memory(*sorted_)


def test_forecast_longer_than_the_time_is_warned_of(tmp_path):
    big = particle_file(tmp_path / "big.h5", 1_000_000, 128)
    assert "the forecast is longer than --time" in job("slurm", big, "-o", tmp_path / "run", "--time", "10m")[1]
    assert "Warning" not in job("slurm", big, "-o", tmp_path / "run")[1]


# the site's file


def test_site_defaults_and_what_overrules_them(particles, tmp_path, monkeypatch):
    site = tmp_path / "site.toml"
    site.write_text('account = "a"\npartition = "cpu"\nmodules = ["m1", "m2"]\ncores_per_node = 2\nlauncher = "mpiexec"\n'
                    '[gpu]\npartition = "gpu"\nmodules = ["cuda"]\n')
    monkeypatch.setenv("MPIRECON_SITE", str(site))
    text, _ = job("slurm", particles, "-o", tmp_path / "run")
    assert "--account=a\n" in text and "--partition=cpu\n" in text and "module load m1 m2\n" in text and "mpiexec -n 2" in text
    text, _ = job("slurm", particles, "-o", tmp_path / "run", "--account", "b", "--gpus", 1)
    assert "--account=b\n" in text and "--partition=gpu\n" in text and "module load cuda\n" in text
    monkeypatch.setenv("MPIRECON_SITE", str(tmp_path / "other.toml"))
    assert "cannot read the site's defaults" in job("slurm", particles, "-o", tmp_path / "run", code=1)[1]
    text, _ = job("slurm", particles, "-o", tmp_path / "run", "--site", site)
    assert "--account=a\n" in text


def test_usual_place_of_the_site_file(tmp_path):
    place = tmp_path / ".config" / "mpirecon" / "site.toml"
    assert site_file({"HOME": str(tmp_path)}) is None
    place.parent.mkdir(parents=True)
    place.touch()
    assert site_file({"HOME": str(tmp_path)}) == place and read_site(place) == {}
    assert site_file({"HOME": str(tmp_path), "MPIRECON_SITE": "/x"}) == Path("/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount = 'x'", "unknown key acount; did you mean account?"),
        ("nonsense = 1", "unknown key nonsense; expected account, "),
        ("modules = 'gcc'", "modules is 'gcc', expected a list of texts"),
        ("modules = [1]", "expected a list of texts"),
        ("cores_per_node = '64'", "expected a positive whole number"),
        ("cores_per_node = 0", "expected a positive whole number"),
        ("speed = true", "expected a positive number"),
        ("gpu = 4", "gpu is 4, expected a table"),
        ("account = ", "cannot read the site's defaults"),
    ],
)
def test_bad_site_files_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(UserError, match="site.toml: ") as caught:
        read_site(tmp_path / "site.toml")
    assert message in str(caught.value)


def test_own_template(particles, tmp_path):
    template, site = tmp_path / "mine.sh", tmp_path / "site.toml"
    site.write_text(f'template = "{template}"')
    template.write_text("#!/bin/bash\n#SPECIAL -n @{ranks}\n#SPECIAL -a @{account}\nrestarted() { false; }\n@{body}")
    text, _ = job("slurm", particles, "-o", tmp_path / "run", "--site", site)
    assert text.startswith("#!/bin/bash\n#SPECIAL -n 4\nrestarted() { false; }\nexport ") and "reconstruct" in text
    template.write_text("@{rank}")
    said = job("slurm", particles, "-o", tmp_path / "run", "--site", site, code=1)[1]
    assert "the template has @{rank}; the values there are: account, " in said
    template.unlink()
    assert "cannot read the site's template" in job("slurm", particles, "-o", tmp_path / "run", "--site", site, code=1)[1]


# what the scripts do: a stand-in for mpirecon that saves a checkpoint on SIGUSR1, as reconstruct is to do

STAND_IN = """#!{python}
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
with open(out.parent / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[5:]) + "\\n")
def save(*_):
    if {saves}:
        (out / "checkpoint.h5").write_text(str(time.time_ns()))
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
out.mkdir(exist_ok=True)
if "--resume" in sys.argv:
    (out / "volume.mrc").touch()
    sys.exit(0)
(out.parent / "ready").touch()
time.sleep(30)
sys.exit(3)
"""

#: starts its program in the foreground and passes SIGUSR1 on, as mpirun and srun do
LAUNCHER = """#!/bin/bash
while [[ $1 != *mpirecon ]]; do shift; done
exec "$@"
"""


def programs(folder: Path, saves: bool = True) -> dict[str, str]:
    """An environment whose mpirecon, launchers and queue commands are stand-ins."""
    binaries = folder / "bin"
    binaries.mkdir()
    queue = f'#!/bin/bash\necho "${{0##*/}}" "$@" >> {shlex.quote(str(folder))}/queue\n'
    contents = {"mpirecon": STAND_IN.format(python=sys.executable, saves=saves), "srun": LAUNCHER, "mpirun": LAUNCHER,
                "qsub": queue, "scontrol": queue}
    for name, text in contents.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {**kept, "PATH": f"{binaries}:{kept['PATH']}", "SLURM_JOB_ID": "7", "PBS_JOBID": "7", "PBS_O_WORKDIR": str(folder)}


def started_script(scheduler, folder, environment):
    resources = plan(Task(1000, 64), Wish(time="1h"))
    setup = (f"export PATH={shlex.quote(str(folder / 'bin'))}:$PATH",)
    text = script.write_script(
        script.Job(scheduler, folder / "p.h5", folder / "run", program="mpirecon", setup=setup), resources, "test"
    )
    (folder / "run.sh").write_text(text)
    process = subprocess.Popen([BASH, folder / "run.sh"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)  # fmt: skip
    return process


def wait_for(path: Path):
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path.name} did not appear")


@pytest.mark.parametrize(
    ("scheduler", "code", "queued"),
    [("slurm", 0, "scontrol requeue 7"), ("pbs", 0, "qsub -W depend=afterany:7 {}/run.sh"), ("lsf", 75, None), ("sge", 99, None)],
)
def test_signal_then_checkpoint_then_queue_then_resume(tmp_path, scheduler, code, queued):
    environment = programs(tmp_path)
    process = started_script(scheduler, tmp_path, environment)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == code and "goes back into the queue" in out
    if queued:
        assert (tmp_path / "queue").read_text() == queued.format(tmp_path) + "\n"
    process = started_script(scheduler, tmp_path, environment)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and (tmp_path / "run" / "volume.mrc").exists()
    assert (tmp_path / "calls").read_text().splitlines() == ["", "--resume"]


def test_without_a_new_checkpoint_the_job_does_not_go_back(tmp_path):
    process = started_script("slurm", tmp_path, programs(tmp_path, saves=False))
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75 and "queue" not in out and not (tmp_path / "queue").exists()


def test_after_a_lost_node_without_checkpoint_it_starts_anew(tmp_path):
    process = started_script("slurm", tmp_path, {**programs(tmp_path), "SLURM_RESTART_COUNT": "1"})
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "calls").read_text() == "--overwrite\n"
