"""A RELION project, and External jobs of it as RELION starts them: its working folder is the project."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from command_lines import run_here
from conftest import _SMALL_MACHINE, _clean_environment

from mpirecon import cli as command_line
from mpirecon.batch.external_job import ABORT_NOW, ABORTED, FAILURE, SUCCESS
from mpirecon.io.export_tables import new_tables
from mpirecon.io.mrc import write_map, write_stack
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.star import write_star

JOB = Path("External/job001")
MARKERS = {SUCCESS, FAILURE, ABORTED, ABORT_NOW}
OPTIONS = ["--in_parts", "Refine3D/job010/run_data.star", "--loss", "sorted", "--keep", "0.7"]


def make_project(home: Path) -> Path:
    """A RELION project: particles of Extract, a table of Refine3D with paths from the project, a mask."""
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
