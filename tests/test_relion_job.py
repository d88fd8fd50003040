"""A reconstruction as an External job: every ending leaves what RELION asks for, and RELION's own programs take what it made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
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
    words = ["simulate", "--phantom", "--particles", "120", "--box", "24", "--pixel-size", "8", "--snr", "0.5", "-o", source]
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
    write_map(home / "MaskCreate/job011/mask.mrc", np.clip((9 - np.sqrt(x**2 + y**2 + z**2)) / 3, 0, 1), 8.0, overwrite=False)
    source.unlink()
    return home


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def start(*words) -> subprocess.Popen:
    """The job, as RELION starts it."""
    environment = _clean_environment(**_SMALL_MACHINE)
    command = [sys.executable, "-m", "mpirecon", "relion", "--o", f"{JOB}/", *map(str, words)]
    with open(JOB / "run.out", "a") as out, open(JOB / "run.err", "a") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, env=environment)


def run(*words) -> int:
    return start(*words).wait(timeout=120)


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
    assert run(*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--in_3dref", "ref.mrc", "--iterations", 2, "--controls", "Yes",
               "--log_particles", "last", "--half_precision", "No", "--j", 2, "--pipeline_control", f"{JOB}/") == 0, said()
    assert markers() == {SUCCESS} and (JOB / SUCCESS).stat().st_size == 0
    (nodes,) = read_star(JOB / NODES).values()
    # every column that 3.1 (numbers) or 4 and 5 (labels) look for; paths start from the project
    found = {name: (int(kind), label) for name, kind, label in zip(nodes["rlnPipeLineNodeName"], nodes["rlnPipeLineNodeType"],
                                                                   nodes["rlnPipeLineNodeTypeLabel"])}
    particles, half = (3, "ParticleGroupMetadata.star.relion"), (10, "DensityMap.mrc.halfmap")
    assert found == {
        "External/job001/particles.star": particles, "External/job001/discarded.star": particles,
        "External/job001/run_half1_class001_unfil.mrc": half, "External/job001/run_half2_class001_unfil.mrc": half,
        "External/job001/run_class001.mrc": (6, "DensityMap.mrc"), "External/job001/run_sharpened.mrc": (11, "DensityMap.mrc"),
        "External/job001/mask.mrc": (7, "Mask3D.mrc"),
    }
    assert set(nodes["rlnPipeLineNodeTypeLabelDepth"]) == {"1"} and all(Path(name).is_file() for name in found)
    kept, discarded = (read_star(JOB / name)["particles"] for name in ("particles.star", "discarded.star"))
    assert len(kept) == 84 and len(discarded) == 36
    assert not set(kept["rlnImageName"]) & set(discarded["rlnImageName"]) and all(name.endswith("@Extract/job009/a.mrcs") for name in kept["rlnImageName"])
    assert (np.array(kept["rlnParticleFigureOfMerit"].tolist(), float) > 0).all()
    for half, name in ((1, "run_half1_class001_unfil.mrc"), (2, "run_half2_class001_unfil.mrc")):
        np.testing.assert_array_equal(mrcfile.read(JOB / name), mrcfile.read(JOB / "run" / f"half{half}.mrc"))
    command = next(line for line in said().splitlines() if " reconstruct " in line)  # Yes and No, and _ for -
    assert " --log-particles last --controls " in command and "--half" not in command and " --threads 2 " in command
    assert "</html>" in (JOB / "report.html").read_text()
    assert "--in_3dref ref.mrc is not used" in said() and (project / "Refine3D/job010/run_data.star").read_bytes() == before

    # continued with the same: nothing is reconstructed again; with other options, it is
    (JOB / "particles.star").unlink()
    again = [*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--iterations", 2, "--controls", "Yes", "--log_particles", "last"]
    assert run(*again) == 0 and markers() == {SUCCESS} and said().count("iteration 2/2:") == 1
    assert len(read_star(JOB / "particles.star")["particles"]) == 84
    assert run("--in_parts", "Refine3D/job010/run_data.star", "--loss", "l2", "--no-postprocess") == 0
    assert markers() == {SUCCESS} and len(read_star(JOB / "particles.star")["particles"]) == 120
    (nodes,) = read_star(JOB / NODES).values()  # nobody is discarded, and no mask was made: what was of the run before is gone
    assert len(nodes) == 4 and not (JOB / "run_sharpened.mrc").exists() and "External/job001/discarded.star" not in set(nodes["rlnPipeLineNodeName"])


@pytest.mark.parametrize(("words", "message"), [
    (["--in_parts", "none.star"], "File 'none.star' does not exist"),
    ([], "Missing option '--in_parts'"),
    ([*OPTIONS, "--lss", "l2"], "No such option '--lss'"),
    ([*OPTIONS, "a", "value"], "unexpected extra arguments"),
    ([*OPTIONS, "--mask", "Extract/job009/a.mrcs"], "a map must be a cube"),
    ([*OPTIONS, "--in_mask", "MaskCreate/job011/mask.mrc", "--mask", "auto"], "both say what the mask is"),
])
def test_bad_input_leaves_failure(project, words, message):
    (JOB / SUCCESS).touch()  # of an earlier end
    assert run(*words) in (1, 2)
    assert markers() == {FAILURE} and message in said() and "Traceback" not in said()
    assert not (JOB / NODES).exists()


def test_what_the_job_reads_is_not_replaced_by_what_it_writes(project):
    shutil.copy("Refine3D/job010/run_data.star", JOB / "particles.star")
    before = (JOB / "particles.star").read_bytes()
    assert run("--in_parts", JOB / "particles.star") == 1
    assert markers() == {FAILURE} and (JOB / "particles.star").read_bytes() == before and "would replace what it is made from" in said()


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


def test_a_killed_job_is_told_as_failed_and_can_be_continued(project):
    words = [*OPTIONS, "--iterations", 40]
    job = start(*words)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    job.kill()
    job.wait()
    wait_for(lambda: markers())
    assert markers() == {FAILURE}
    assert not processes_with("mpirecon reconstruct")  # before the marker was left: nobody holds the folder
    assert run(*words) == 0 and markers() == {SUCCESS}, said()


def test_a_killed_reconstruction_is_told_as_failed(project):
    job = start(*OPTIONS, "--iterations", 40)
    wait_for((JOB / "run" / "checkpoint.h5").exists, job)
    worker = next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if p.read_text().rpartition(")")[2].split()[1] == str(job.pid)
                  and b"\0reconstruct\0" in (p.parent / "cmdline").read_bytes())
    os.kill(worker, signal.SIGKILL)
    assert job.wait(timeout=60) == 1 and markers() == {FAILURE} and "was killed (SIGKILL" in said()


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


@pytest.mark.skipif(shutil.which("relion_pipeliner") is None, reason="needs relion_pipeliner: apt-get install relion")
def test_relion_runs_the_template_and_postprocess_takes_its_half_maps(project, cli):
    template = cli("relion", "--job-star").stdout
    assert "_rlnJobType " in template and "_rlnJobTypeLabel" in template  # 3.1's, and 4's and 5's
    launcher = project / "start.sh"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m mpirecon "$@"\n')
    launcher.chmod(0o755)
    job = template.replace('"mpirecon relion"', '"./start.sh relion"').replace("param1_value posterior", "param1_value l2")
    Path("job.star").write_text(job.replace("nr_threads 4", "nr_threads 1").replace('in_mask ""', "in_mask MaskCreate/job011/mask.mrc"))
    Path("default_pipeline.star").write_text("\n# version 30001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 12\n\n")
    environment = _clean_environment(**_SMALL_MACHINE)

    def relion(*words):
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr

    relion("relion_pipeliner", "--addJobFromStar", "job.star")
    relion("relion_pipeliner", "--RunJobs", "External/job012/", "--schedule", "once", "--sec_wait_after", 0)
    job = Path("External/job012")
    assert (job / SUCCESS).exists(), (job / "run.err").read_text()
    pipeline = read_star("default_pipeline.star")
    status = pipeline["pipeline_processes"].set_index("rlnPipeLineProcessName")["rlnPipeLineProcessStatus"]
    assert status["External/job012/"] == "2"  # finished
    outputs = set(pipeline["pipeline_output_edges"]["rlnPipeLineEdgeToNode"])
    assert outputs == set(next(iter(read_star(job / NODES).values()))["rlnPipeLineNodeName"]) and len(outputs) >= 5
    inputs = set(pipeline["pipeline_input_edges"]["rlnPipeLineEdgeFromNode"])
    assert inputs == {"Refine3D/job010/run_data.star", "MaskCreate/job011/mask.mrc"}
    Path("PostProcess/job013").mkdir(parents=True)
    relion("relion_postprocess", "--i", job / "run_half1_class001_unfil.mrc", "--mask", job / "mask.mrc", "--o", "PostProcess/job013/postprocess")
    assert Path("PostProcess/job013/postprocess.star").exists()
