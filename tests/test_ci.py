"""What continuous integration is told: that all tests passed, or that some did not."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
#: commands that .ci/run looks for, and would install
PROGRAMS = ["relion_project", "slurmctld", "munged", "chromium", "g++", "shellcheck", "apt-get", "id"]

#: stands in for tools/test; the two parts are known by their arguments
STAND_IN = """#!/bin/sh
case "$*" in
    *--version*) exit 0 ;;
    *--ignore=*) echo computing; exit {computing} ;;
    *) sleep {seconds}; echo waiting; exit {waiting} ;;
esac
"""


@pytest.mark.parametrize("computing, waiting, seconds, expected", [
    (0, 0, 0, 0), (0, 0, 0.3, 0), (1, 0, 0, 1), (1, 0, 0.3, 1), (0, 1, 0, 1), (0, 1, 0.3, 1), (3, 1, 0, 1)])
def test_it_succeeds_where_both_parts_do(tmp_path, computing, waiting, seconds, expected):
    for folder in (".ci", "tools", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(CHECKOUT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "tools" / "test").write_text(STAND_IN.format(computing=computing, waiting=waiting, seconds=seconds))
    for program in PROGRAMS:
        (tmp_path / "bin" / program).write_text("#!/bin/sh\nexit 0\n")
    for script in [tmp_path / "tools" / "test", *(tmp_path / "bin").iterdir()]:
        script.chmod(0o755)
    run = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                         env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert run.returncode == expected, run.stderr
    assert {"computing", "waiting"} <= set(run.stdout.split())
