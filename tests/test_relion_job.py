"""A reconstruction as an External job: every ending leaves what RELION asks for,
and RELION's own programs take what it made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from command_lines import run_here
from conftest import _SMALL_MACHINE, _clean_environment

from mpirecon import cli as command_line
from mpirecon.batch.external_job import ABORT_NOW, ABORTED, FAILURE, NODES, SUCCESS, ExternalJob
from mpirecon.io.export_tables import new_tables
from mpirecon.io.mrc import write_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import read_star, write_star

JOB = Path("External/job001")
MARKERS = {SUCCESS, FAILURE, ABORTED, ABORT_NOW}
OPTIONS = ["--in_parts", "Refine3D/job010/run_data.star", "--loss", "sorted", "--keep", "0.7"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A RELION project: particles of Extract, a table of Refine3D with paths from the project, a mask."""
    home = tmp_path_factory.mktemp("made")
    source = home / "simulated.h5"
    words = ["simulate", "--phantom", "--particles", "120", "--box", "24", "--pixel-size", "8", "--snr", "0.5", "-o",
             source]
    assert command_line.run([*map(str, words), "-q"]) == 0
    for folder in ("Extract/job009", "Refine3D/job010", "MaskCreate/job011", JOB):
        (home / folder).mkdir(parents=True)
    with ParticleFile(source) as file:
        particles = file.metadata()
        with write_stack(home / "Extract/job009/a.mrcs", file.box, file.pixel_size, overwrite=False) as append:
            append(file.images(slice(None)))
    tables = new_tables(particles, particles.pose, [f"{i + 1:06d}@Extract/job009/a.mrcs" for i in range(120)])
    write_star(home / "Refine3D/job010/run_data.star", tables, overwrite=False)
    z, y, x = np.mgrid[:24, :24, :24] - 12
    write_map(home / "MaskCreate/job011/mask.mrc", np.clip((9 - np.sqrt(x**2 + y**2 + z**2)) / 3, 0, 1), 8.0,
              overwrite=False)
    source.unlink()
    return home


def start(*words) -> subprocess.Popen:
    """The job, as RELION starts it."""
    environment = _clean_environment(**_SMALL_MACHINE)
    command = [sys.executable, "-m", "mpirecon", "relion", "--o", f"{JOB}/", *map(str, words)]
    with open(JOB / "run.out", "a") as out, open(JOB / "run.err", "a") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, env=environment)


def run(*words) -> int:
    """The job to its end, in this process, which takes a second of a processor less; what it starts are processes."""
    with open(JOB / "run.out", "a") as out, open(JOB / "run.err", "a") as err, streams_to(out, err):
        done = run_here(["relion", "--o", f"{JOB}/", *words], _clean_environment(**_SMALL_MACHINE))
        out.write(done.stdout)
        err.write(done.stderr)
    return done.returncode


@contextlib.contextmanager
def streams_to(*files):
    """What processes that are started meanwhile write to stdout and stderr goes to these files."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    try:
        for (stream, _), file in zip(kept, files):
            os.dup2(file.fileno(), stream)
        yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)


def said() -> str:
    return (JOB / "run.out").read_text() + (JOB / "run.err").read_text()


def wait_for(condition, process=None, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, said()
        assert process is None or process.poll() is None, said()
        time.sleep(0.02)


def markers() -> set[str]:
    return MARKERS & set(os.listdir(JOB))


def processes_with(text: str) -> list[str]:
    """Command lines of running processes that name this."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if text in words and (entry.parent / "cwd").resolve() == Path.cwd():
                found.append(words)
        except OSError:
            pass
    return found


def test_success_leaves_what_relion_takes(project):
    before = (project / "Refine3D/job010/run_data.star").read_bytes()
    assert run(*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--in_3dref", "ref.mrc", "--iterations", 2,
               "--controls", "Yes",
               "--log_particles", "last", "--half_precision", "No", "--j", 2, "--pipeline_control",
               f"{JOB}/") == 0, said()
    assert markers() == {SUCCESS} and (JOB / SUCCESS).stat().st_size == 0
    (nodes,) = read_star(JOB / NODES).values()
    # every column that 3.1 (numbers) or 4 and 5 (labels) look for; paths start from the project
    found = {
        name: (int(kind), label)
        for name, kind, label in zip(
            nodes["rlnPipeLineNodeName"], nodes["rlnPipeLineNodeType"], nodes["rlnPipeLineNodeTypeLabel"]
        )
    }
    particles, half = (3, "ParticleGroupMetadata.star.relion"), (10, "DensityMap.mrc.halfmap")
    assert found == {
        "External/job001/particles.star": particles,
        "External/job001/discarded.star": particles,
        "External/job001/run_half1_class001_unfil.mrc": half,
        "External/job001/run_half2_class001_unfil.mrc": half,
        "External/job001/run_class001.mrc": (6, "DensityMap.mrc"),
        "External/job001/run_sharpened.mrc": (11, "DensityMap.mrc"),
        "External/job001/mask.mrc": (7, "Mask3D.mrc"),
    }
    assert set(nodes["rlnPipeLineNodeTypeLabelDepth"]) == {"1"} and all(Path(name).is_file() for name in found)
    kept, discarded = (read_star(JOB / name)["particles"] for name in ("particles.star", "discarded.star"))
    assert len(kept) == 84 and len(discarded) == 36
    assert (not set(kept["rlnImageName"]) & set(discarded["rlnImageName"])
            and all(name.endswith("@Extract/job009/a.mrcs") for name in kept["rlnImageName"]))
    assert (np.array(kept["rlnParticleFigureOfMerit"].tolist(), float) > 0).all()
    for half, name in ((1, "run_half1_class001_unfil.mrc"), (2, "run_half2_class001_unfil.mrc")):
        np.testing.assert_array_equal(mrcfile.read(JOB / name), mrcfile.read(JOB / "run" / f"half{half}.mrc"))
    command = next(line for line in said().splitlines() if " reconstruct " in line)  # Yes and No, and _ for -
    assert " --log-particles last --controls " in command and "--half" not in command and " --threads 2 " in command
    assert "</html>" in (JOB / "report.html").read_text()
    assert (
        "--in_3dref ref.mrc is not used" in said()
        and (project / "Refine3D/job010/run_data.star").read_bytes() == before
    )

    # continued with the same: nothing is reconstructed again; with other options, it is
    (JOB / "particles.star").unlink()
    again = [*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--iterations", 2, "--controls", "Yes",
             "--log_particles", "last"]
    assert run(*again) == 0 and markers() == {SUCCESS} and said().count("iteration 2/2:") == 1
    assert len(read_star(JOB / "particles.star")["particles"]) == 84
    assert run("--in_parts", "Refine3D/job010/run_data.star", "--loss", "l2", "--no-postprocess") == 0
    assert markers() == {SUCCESS} and len(read_star(JOB / "particles.star")["particles"]) == 120
    # nobody is discarded, and no mask was made: what was of the run before is gone
    (nodes,) = read_star(JOB / NODES).values()
    assert (len(nodes) == 4 and not (JOB / "run_sharpened.mrc").exists()
            and "External/job001/discarded.star" not in set(nodes["rlnPipeLineNodeName"]))


@pytest.mark.parametrize(("words", "message"), [
    (["--in_parts", "none.star"], "File 'none.star' does not exist"),
    ([], "Missing option '--in_parts'"),
    ([*OPTIONS, "--lss", "l2"], "No such option '--lss'"),
    ([*OPTIONS, "a", "value"], "unexpected extra arguments"),
    ([*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--mask", "auto"], "both say what the mask is"),
])
def test_bad_input_leaves_failure(project, cli, words, message):
    (JOB / SUCCESS).touch()  # of an earlier end
    done = cli("relion", "--o", f"{JOB}/", *words)
    assert done.returncode in (1, 2)
    assert markers() == {FAILURE} and message in done.stderr and "Traceback" not in done.stderr
    assert not (JOB / NODES).exists()


def test_what_the_reconstruction_refuses_leaves_failure(project):
    (JOB / SUCCESS).touch()
    assert run(*OPTIONS, "--mask", "Extract/job009/a.mrcs") == 1
    assert markers() == {FAILURE} and "a map must be a cube" in said() and "Traceback" not in said()
    assert not (JOB / NODES).exists()


def test_a_job_whose_folder_is_a_file_says_so(project, cli):
    Path("file").write_text("kept")
    done = cli("relion", "--o", "file", *OPTIONS)
    assert done.returncode == 1 and "--o file: the folder of the job cannot be made (file exists)" in done.stderr
    assert Path("file").read_text() == "kept"


def test_names_that_options_might_be_reach_the_reconstruction_as_files(project, cli):
    shutil.copy("Refine3D/job010/run_data.star", "-p.star")
    shutil.copy("MaskCreate/job011/mask.mrc", "auto")
    words = ["--in_parts", "./-p.star", "--mask", "./auto", "--loss", "l2", "--iterations", 1]
    done = cli("relion", "--o", "./-job/", *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(Path("-job/run/summary.json").read_text())
    np.testing.assert_array_equal(mrcfile.read("-job/mask.mrc"), mrcfile.read("auto"))
    assert " reconstruct ./-p.star -o ./-job/run " in told["command"] and " --mask ./auto " in told["command"]
    assert "is finished, and was asked for the same" in cli("relion", "--o", "./-job/", *words).stdout


def test_what_the_job_reads_is_not_replaced_by_what_it_writes(project):
    shutil.copy("Refine3D/job010/run_data.star", JOB / "particles.star")
    before = (JOB / "particles.star").read_bytes()
    assert run("--in_parts", JOB / "particles.star") == 1
    assert (markers() == {FAILURE} and (JOB / "particles.star").read_bytes() == before
            and "holds particles.star, which this job would replace" in said())


@pytest.mark.parametrize("words", [OPTIONS, [*OPTIONS, "--overwrite"], [*OPTIONS, "--lss", "l2"]])
def test_what_another_job_has_made_stays_with_the_marker_of_its_end(project, cli, words):
    other = Path("Refine3D/job031")
    other.mkdir()
    made = ["run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc", "run_class001.mrc", SUCCESS, "job.star"]
    for name in made:
        (other / name).write_text(f"precious {name}")
    done = cli("relion", "--o", f"{other}/", *words)
    assert done.returncode in (1, 2) and sorted(os.listdir(other)) == sorted(made), done.stderr
    assert all((other / name).read_text() == f"precious {name}" for name in made)
    if "--lss" not in words:
        assert ("--o Refine3D/job031: the folder holds run_half1_class001_unfil.mrc, run_half2_class001_unfil.mrc, "
                "run_class001.mrc, which this job would replace" in done.stderr)


def test_what_relion_puts_into_the_folder_of_a_job_is_in_nobodys_way_but_a_run_of_the_user_is(project, cli):
    for name in ("job.star", "note.txt", "run.job", "default_pipeline.star", "job_pipeline.star"):
        (JOB / name).write_text("RELION's")
    words = ["--in_parts", "Refine3D/job010/run_data.star", "--loss", "l2", "--iterations", 1, "--no_postprocess"]
    done = cli("relion", "--o", f"{JOB}/", *words)
    assert done.returncode == 0 and markers() == {SUCCESS}, done.stderr
    assert cli("reconstruct", *words[1:2], "-o", "mine/run", "--loss", "l2", "--iterations", 1).returncode == 0
    before = (Path("mine") / "run" / "volume.mrc").read_bytes()
    for _ in range(2):  # the refused job is none that had made the run
        done = cli("relion", "--o", "mine", *words)
        assert done.returncode == 1 and "mine/run holds a finished run that no job of RELION has made" in done.stderr
    Path("mine/mask.mrc").write_text("mine")
    done = cli("relion", "--o", "mine", *words, "--overwrite")
    assert done.returncode == 1 and "--o mine: the folder holds mask.mrc, which this job would" in done.stderr
    assert (Path("mine/run/volume.mrc").read_bytes(), Path("mine/mask.mrc").read_text()) == (before, "mine")


@pytest.mark.parametrize("ranks", [1, 2])
def test_abort_saves_the_iteration_and_continuing_goes_on(project, ranks, mpirun):
    words = [*OPTIONS, "--iterations", 4, "--ranks", ranks, "--j", ranks]
    job = start(*words)
    wait_for((JOB / "run").is_dir, job)
    (JOB / ABORT_NOW).touch()  # as RELION's Abort does
    assert job.wait(timeout=90) == 75, said()
    assert markers() == {ABORTED} and (JOB / "run" / "checkpoint.h5").exists() and not (JOB / NODES).exists()
    assert not processes_with("mpirecon")
    assert run(*words) == 0, said()
    assert markers() == {SUCCESS} and (JOB / NODES).exists()
    assert "iteration 4/4:" in said() and said().count("iteration 1/4:") == 1  # none is made twice


def test_abort_before_the_job_began_is_heeded_and_one_from_before_its_last_end_is_not(project):
    (JOB / ABORT_NOW).touch()
    assert run(*OPTIONS) == 75 and markers() == {ABORTED} and not (JOB / "run").exists()
    (JOB / ABORT_NOW).touch()
    os.utime(JOB / ABORT_NOW, (1, 1))
    job = ExternalJob(JOB)
    job.begin()
    assert markers() == set()


def test_a_killed_job_is_reported_as_failed_and_can_be_continued(project):
    words = [*OPTIONS, "--iterations", 15]
    job = start(*words)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    job.kill()
    job.wait()
    wait_for(lambda: markers())
    assert markers() == {FAILURE}
    assert not processes_with("mpirecon reconstruct")  # before the marker was left: nobody holds the folder
    assert run(*words) == 0 and markers() == {SUCCESS}, said()


def test_a_killed_reconstruction_is_reported_as_failed(project):
    job = start(*OPTIONS, "--iterations", 40)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    worker = next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat")
                  if p.read_text().rpartition(")")[2].split()[1] == str(job.pid)
                  and b"\0reconstruct\0" in (p.parent / "cmdline").read_bytes())
    os.kill(worker, signal.SIGKILL)
    assert job.wait(timeout=60) == 1 and markers() == {FAILURE} and "was killed (SIGKILL" in said()


def test_a_launcher_that_loses_a_host_and_ends_with_0_is_no_success(project, monkeypatch):
    assert run(*OPTIONS) == 0 and markers() == {SUCCESS}  # an earlier run's results are there
    launcher = project / "srun"
    monkeypatch.setenv("PATH", f"{project}:{os.environ['PATH']}")
    launcher.write_text(f"#!/bin/sh\nshift 2\n\"$@\" &\nranks=$!\n"
                        f"while [ ! -e {JOB}/run/checkpoint.h5 ]; do sleep 0.1; done\n"
                        "kill -9 $ranks\nwait $ranks\nexit 0\n")
    launcher.chmod(0o755)
    words = [*OPTIONS, "--iterations", 40, "--ranks", 2, "--launcher", "srun", "--overwrite"]
    assert run(*words) == 1 and markers() == {FAILURE} and "as mpirun does when it has lost a host" in said()


def test_signals_of_a_queue_end_the_job_as_aborted(project):
    job = start(*OPTIONS, "--iterations", 40)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    job.terminate()
    assert job.wait(timeout=60) == 75 and markers() == {ABORTED}, said()


def test_other_options_are_refused_when_continuing_unless_it_is_to_start_anew(project):
    job = start(*OPTIONS, "--iterations", 40)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    (JOB / ABORT_NOW).touch()
    assert job.wait(timeout=60) == 75
    changed = ["--in_parts", "Refine3D/job010/run_data.star", "--loss", "l2"]
    assert run(*changed) == 1 and markers() == {FAILURE} and "--loss was sorted and is l2" in said()
    assert run(*changed, "--overwrite") == 0 and markers() == {SUCCESS}


def test_under_a_launcher_it_says_who_starts_the_ranks(project, mpirun):
    done = mpirun(2, ["-m", "mpirecon", "relion", "--o", JOB, *OPTIONS], cwd=project)
    assert done.returncode == 1 and "give their number with --ranks" in done.stderr and markers() == {FAILURE}


class Relion:
    """RELION 3.1 in a project with one job, of the template that comes with mpirecon."""

    JOB = Path("External/job012")

    def __init__(self, project: Path, template: str, **values) -> None:
        launcher = project / "start.sh"  # this Python's, wherever RELION looks for programs
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m mpirecon "$@"\n')
        launcher.chmod(0o755)
        for name, value in {"fn_exe": '"./start.sh relion"', "in_part": "Refine3D/job010/run_data.star",
                            "nr_threads": 1, **values}.items():
            template, count = re.subn(rf"^{name} .*$", f"{name} {value}", template, flags=re.MULTILINE)
            assert count == 1, name
        Path("job.star").write_text(template)
        Path("default_pipeline.star").write_text(
            "\n# version 30001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 12\n\n"
        )
        self.environment = _clean_environment(**_SMALL_MACHINE)
        self("relion_pipeliner", "--addJobFromStar", "job.star")

    def __call__(self, *words) -> None:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name: str) -> subprocess.Popen:
        """Run the job, or continue it, and wait for its end; `name` is of what RELION calls a schedule."""
        words = ["relion_pipeliner", "--RunJobs", f"{self.JOB}/", "--schedule", name, "--sec_wait_after", "0"]
        return subprocess.Popen(words, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def status(self) -> str:
        """Of the job, as RELION has it once it has looked: 2 finished, 3 failed, 4 aborted."""
        self("relion_pipeliner", "--check_job_completion")
        jobs = read_star("default_pipeline.star")["pipeline_processes"]
        return dict(zip(jobs["rlnPipeLineProcessName"], jobs["rlnPipeLineProcessStatus"]))[f"{self.JOB}/"]

    def edges(self, table: str, end: str) -> set[str]:
        return set(read_star("default_pipeline.star")[table][f"rlnPipeLineEdge{end}Node"])

    def process(self) -> int:
        """The job's own, which RELION has started."""
        return next(int(entry.parent.name) for entry in Path("/proc").glob("[0-9]*/cmdline")
                    if b"mpirecon\0relion\0--o\0" in entry.read_bytes() and (entry.parent / "cwd").resolve()
                    == Path.cwd())


needs_relion = pytest.mark.skipif(shutil.which("relion_pipeliner") is None,
                                  reason="needs relion_pipeliner: apt-get install relion")


@needs_relion
def test_relion_runs_the_template_and_postprocess_takes_its_half_maps(project, cli):
    template = cli("relion", "--job-star").stdout
    assert "_rlnJobType " in template and "_rlnJobTypeLabel" in template  # 3.1's, and 4's and 5's
    relion = Relion(project, template, param1_value="l2", in_mask="MaskCreate/job011/mask.mrc")
    assert relion.start("once").wait(timeout=120) == 0
    job = relion.JOB
    assert relion.status == "2" and (job / SUCCESS).exists(), (job / "run.err").read_text()
    outputs = relion.edges("pipeline_output_edges", "To")
    assert outputs == set(next(iter(read_star(job / NODES).values()))["rlnPipeLineNodeName"]) and len(outputs) == 6
    assert relion.edges("pipeline_input_edges", "From") == {"Refine3D/job010/run_data.star",
                                                            "MaskCreate/job011/mask.mrc"}
    Path("PostProcess/job013").mkdir(parents=True)
    relion("relion_postprocess", "--i", job / "run_half1_class001_unfil.mrc", "--mask", job / "mask.mrc", "--o",
           "PostProcess/job013/postprocess")
    assert Path("PostProcess/job013/postprocess.star").exists()


@needs_relion
def test_relion_reports_every_ending(project, cli):
    values = {"param1_value": "sorted", "param4_label": "keep", "param4_value": "0.7", "param5_label": "iterations",
              "param5_value": 15}
    relion = Relion(project, cli("relion", "--job-star").stdout, **values)
    stack, job = Path("Extract/job009/a.mrcs"), relion.JOB
    stack.rename("elsewhere.mrcs")
    relion.start("bad").wait(timeout=120)
    assert relion.status == "3" and "the stack Extract/job009/a.mrcs is not there" in (job / "run.err").read_text()
    Path("elsewhere.mrcs").rename(stack)
    stops = {
        "abort": (lambda: (job / ABORT_NOW).touch(), "4"),
        "kill": (lambda: os.kill(relion.process(), signal.SIGKILL), "3"),
    }
    for count, (name, (stop, told)) in enumerate(stops.items(), 1):
        running = relion.start(name)
        begun = "1 rank, loss sorted"  # what each run says before its iterations
        wait_for(lambda: (job / "run" / "checkpoint.h5").exists() and (job / "run.out").read_text().count(begun)
                 == count, running)
        stop()
        running.wait(timeout=120)
        assert relion.status == told, (job / "run.err").read_text()
    assert relion.start("go on").wait(timeout=120) == 0 and relion.status == "2", (job / "run.err").read_text()
    assert (job / "run.out").read_text().count("iteration 1/15:") == 1 and len(
        relion.edges("pipeline_output_edges", "To")
    ) == 7


def test_the_reference_of_the_form_is_compared_with_the_map(project, cli):
    words = ["--in_parts", "Refine3D/job010/run_data.star", "--loss", "l2", "--no_postprocess", "Yes"]
    assert run(*words) == 0, said()
    # the map itself, then dark on bright: the same words of another file make the job anew
    Path("Refine3D/job010/run_class001.mrc").write_bytes((JOB / "run_class001.mrc").read_bytes())
    assert run(*words, "--in_3dref", "Refine3D/job010/run_class001.mrc") == 0 and markers() == {SUCCESS}, said()
    told = json.loads((JOB / "run" / "summary.json").read_text())["reference"]
    assert (told["file"] == "run_class001.mrc" and told["correlation"] > 0.9
            and "Beside the reference" in (JOB / "report.html").read_text())
    dark = mrcfile.read(JOB / "run_class001.mrc")
    write_map(project / "Refine3D/job010/run_class001.mrc", -dark, 8.0, overwrite=True)
    assert run(*words, "--in_3dref", "Refine3D/job010/run_class001.mrc") == 0 and "opposite contrast" in said()
    write_map(project / "Refine3D/job010/run_class001.mrc", dark, 7.0, overwrite=True)
    assert run(*words, "--in_3dref",
               "Refine3D/job010/run_class001.mrc") == 0 and "has pixels of 7 Å" in said() and markers() == {SUCCESS}
    for given, told in (
        (("a.mrc", "--reference", "Refine3D/job010/run_class001.mrc"), "both say what the reference is"),
        ((f"{JOB}/run_class001.mrc",), "would replace what it is made from"),
    ):
        done = cli("relion", "--o", f"{JOB}/", *words, "--in_3dref", *given)
        assert done.returncode == 1 and told in done.stderr and markers() == {FAILURE}
