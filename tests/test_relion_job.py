"""A reconstruction as an External job: every ending leaves what RELION asks for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from relion_jobs import JOB, OPTIONS, make_project, markers, processes_with, run, said, start, wait_for

from mpirecon.batch.external_job import ABORT_NOW, ABORTED, FAILURE, NODES, SUCCESS, ExternalJob
from mpirecon.io.mrc import write_map
from mpirecon.io.star import read_star


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("made"))


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


def test_what_no_run_has_made_in_the_folder_of_the_run_is_not_replaced(project, cli, capfd):
    mine = JOB / "run" / "mask.mrc"
    mine.parent.mkdir(parents=True)
    shutil.copy("MaskCreate/job011/mask.mrc", mine)
    before = mine.read_bytes()
    done = cli("relion", "--o", f"{JOB}/", *OPTIONS, "--iterations", 1, "--overwrite")
    assert done.returncode == 1 and mine.read_bytes() == before and sorted(os.listdir(mine.parent)) == ["mask.mrc"]
    said_there = "run holds mask.mrc, which a reconstruction would replace, and no reconstruction wrote"
    assert said_there in capfd.readouterr().err


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
