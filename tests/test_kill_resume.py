"""tools/kill_resume, with fewer kills than by itself."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import _clean_environment

TOOL = Path(__file__).resolve().parent.parent / "tools" / "kill_resume"


def test_killed_runs_resume_to_the_same_bits(mpirun):
    command = [sys.executable, TOOL, "--kills", "2", "--ranks", "2", "--particles", "300", "--box", "24",
               "--iterations", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_clean_environment())
    assert done.returncode == 0 and "2 of 2 resumed to the maps" in done.stdout, done.stdout + done.stderr
    assert os.access(TOOL, os.X_OK)
