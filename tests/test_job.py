"""Batch scripts: right directives, valid bash, odd paths, what is refused, the site's defaults."""

import re
import shlex
import shutil
import string
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpirecon.batch import script
from mpirecon.batch.forecast import Task
from mpirecon.batch.request import Wish, plan
from mpirecon.batch.site import read_site, site_file
from mpirecon.cli.job import command
from mpirecon.errors import UserError
from mpirecon.model import CTF_DTYPE

SCHEDULERS = command.params[0].type.choices
BASH = shutil.which("bash")


def particle_file(path: Path, count: int = 1000, box: int = 64) -> Path:
    """Only the shape of a particle file: h5py stores no pixel that was never written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (count, box, box), np.float32, chunks=(1, box, box))
        for name, shape, dtype in (
            ("quaternion", (count, 4), "f8"),
            ("shift", (count, 2), "f8"),
            ("half", (count,), "u1"),
            ("ctf", (count,), CTF_DTYPE),
            ("optics_group", (count,), "i4"),
        ):
            file.create_dataset(name, shape, dtype)
        file.attrs.update(
            format="mpirecon-particles", version=1, pixel_size=3.0, ctf_premultiplied=False, contrast="white"
        )
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


# scripts

FULL = [
    "--nodes",
    2,
    "--gpus",
    4,
    "--account",
    "proj-1",
    "--partition",
    "gpu",
    "--email",
    "me@uni.example",
    "--time",
    "2h",
    "--modules",
    "gcc/12",
    "--modules",
    "openmpi",
    "--setup",
    "ulimit -c 0",
    "--memory",
    "16G",
]

DIRECTIVES = {
    "slurm": """--job-name=run_1|--nodes=2|--ntasks=4|--ntasks-per-node=2|--cpus-per-task=1|
        --mem=16384M|--gpus-per-node=2|--time=2:00:00|--account=proj-1|--partition=gpu|
        --mail-user=me@uni.example --mail-type=END,FAIL,REQUEUE|
        --output=run_1-%j.log|--open-mode=append|--signal=B:USR1@300|--requeue""",
    "pbs": """-N run_1|-l select=2:ncpus=2:mpiprocs=2:ompthreads=1:mem=16384mb:ngpus=2|-l walltime=2:00:00|
        -A proj-1|-q gpu|-M me@uni.example -m abe|-j oe|-r y""",
    "lsf": """-J run_1|-n 4|-R "span[ptile=2] affinity[core(1)] rusage[mem=16384MB]"|-gpu "num=2:mode=shared"|-W 2:00|
        -P proj-1|-q gpu|-u me@uni.example -B -N|-o run_1-%J.log|-wa USR1 -wt 5|-r|-Q "75" """,
    "sge": """-S /bin/bash|-N run_1|-pe mpi 4|-l h_rt=7200|-l mem_free=8192M|-l gpu=2|-P proj-1|-q gpu|
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
    assert launch.endswith('-o "$output" --grace 240 --loss sorted --keep 0.7 --backend cuda "${more[@]}" &')


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_not_asked_for_leaves_no_line(scheduler, particles, tmp_path):
    text, _ = job(scheduler, particles, "-o", tmp_path / "run")
    assert not re.search(r"None|account|-A |mail|-M |gpu|module|partition|-q |--nv", text.replace(str(tmp_path), ""))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scripts_are_valid_bash_and_shellcheck_finds_nothing(scheduler, particles, tmp_path):
    for options in ([], FULL, ["--container", "image.sif"]):
        text, _ = job(scheduler, particles, "-o", tmp_path / 'it\'s a "run" $HOME `id`', *options)
        subprocess.run([BASH, "-n"], input=text, text=True, check=True)
        if shutil.which("shellcheck"):
            found = subprocess.run(
                ["shellcheck", "-s", "bash", "-S", "warning", "-"], input=text, text=True, capture_output=True
            )
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
    assert shown.split("\0") == ["reconstruct", str(source), "-o", str(output), "--grace", "160", "--mask", name, ""]
    assert f"output={shlex.quote(str(output))}\n" in text
    subprocess.run([BASH, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_names_that_begin_with_a_dash(particles, tmp_path, monkeypatch, scheduler):
    monkeypatch.chdir(tmp_path)
    Path("-s.h5").symlink_to(particles)
    text, _ = job(scheduler, "./-s.h5", "-o", "./-run")
    assert f" reconstruct {tmp_path}/-s.h5 -o " in text and f"output={tmp_path}/-run\n" in text


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
    assert (
        f"apptainer exec --nv --bind {particles.parent} --bind {tmp_path} '/images/m p.sif' mpirecon reconstruct"
        in text
    )
    assert "export PATH" not in text
    (tmp_path / "a:b").mkdir()
    _, said = job("slurm", particles, "-o", tmp_path / "a:b" / "run", "--container", "x.sif", code=1)
    assert "containers cannot be given a folder with ':'" in said


def test_launchers(particles, tmp_path):
    out = ["-o", tmp_path / "run"]
    text, _ = job(
        "slurm", particles, *out, "--launcher", "mpirun", "--threads", 4, "--launcher-options", "--mca x 'y z'"
    )
    assert "mpirun -n 4 --mca x 'y z' mpirecon" in text
    assert "mpirun -n 4 --bind-to none mpirecon" in job("pbs", particles, *out, "--threads", 4)[0]
    assert (
        "srun --ntasks=4 --ntasks-per-node=4 --cpus-per-task=1 --kill-on-bad-exit=1 --mpi=pmi2 mpirecon"
        in job("slurm", particles, *out, "--mpi", "pmi2")[0]
    )
    carried = 'export OMPI_MCA_mca_base_env_list="PATH;OMP_NUM_THREADS;'
    assert carried in text and carried not in job("slurm", particles, *out)[0]
    assert carried not in job("pbs", particles, *out, "--launcher-options", "-x LD_LIBRARY_PATH")[0]
    assert "srun belongs to Slurm" in job("pbs", particles, *out, "--launcher", "srun", code=1)[1]


def test_reconstruct_options_are_read_before_the_job_waits_in_a_queue(particles, tmp_path):
    out = tmp_path / "run"
    assert "No such option" in job("slurm", particles, "-o", out, "--", "--los", "l2", code=2)[1]
    assert "sorted needs --keep" in job("slurm", particles, "-o", out, "--", "--loss", "sorted", code=1)[1]
    assert (
        "give particles and output folder before --" in job("slurm", particles, "-o", out, "--", "-o", "x", code=1)[1]
    )
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
        text, _ = job(
            "slurm", particle_file(tmp_path / "big.h5", 1000, 256), "-o", tmp_path / "run", "--ranks", 1, "--", *options
        )
        return int(re.search(r"--mem=(\d+)M", text)[1])

    sorted_ = ("--loss", "sorted", "--keep", "0.7")
    assert memory() < memory(*sorted_, "--folds", 2) < memory(*sorted_)


def test_forecast_longer_than_the_time_is_warned_of(tmp_path):
    big = particle_file(tmp_path / "big.h5", 1_000_000, 128)
    assert "the forecast is longer than --time" in job("slurm", big, "-o", tmp_path / "run", "--time", "5m",
                                                       "--", "--particle-scores")[1]
    assert "Warning" not in job("slurm", big, "-o", tmp_path / "run")[1]


# the site's file


def test_site_defaults_and_what_overrules_them(particles, tmp_path, monkeypatch):
    site = tmp_path / "site.toml"
    site.write_text(
        'account = "a"\npartition = "cpu"\nmodules = ["m1", "m2"]\n'
        'cores_per_node = 2\nlauncher = "mpiexec"\n'
        '[gpu]\npartition = "gpu"\nmodules = ["cuda"]\n'
    )
    monkeypatch.setenv("MPIRECON_SITE", str(site))
    text, _ = job("slurm", particles, "-o", tmp_path / "run")
    assert (
        "--account=a\n" in text
        and "--partition=cpu\n" in text
        and "module load m1 m2\n" in text
        and "mpiexec -n 2" in text
    )
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
    assert (
        "cannot read the site's template" in job("slurm", particles, "-o", tmp_path / "run", "--site", site, code=1)[1]
    )


def test_what_a_search_of_poses_costs_is_in_the_forecast(tmp_path):
    set_of = particle_file(tmp_path / "p.h5", 200_000, 64)
    words = "slurm", set_of, "-o", tmp_path / "run", "--", "--loss", "posterior"
    told = [job(*words, *more)[1] for more in ((), ("--poses", "rescue"))]
    hours = [re.search(r"about (\d+):(\d+):(\d+)", text) for text in told]
    fixed, rescue = (3600 * int(found[1]) + 60 * int(found[2]) + int(found[3]) for found in hours)
    assert rescue > 1.3 * fixed
