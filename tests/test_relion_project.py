"""RELION 3.1 runs reconstructions as jobs of its pipeline: how each ends is what it then shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import _SMALL_MACHINE, _clean_environment
from relion_jobs import make_project, wait_for

from mpirecon.batch.external_job import ABORT_NOW, NODES, SUCCESS
from mpirecon.io.star import read_star


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("made"))


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
