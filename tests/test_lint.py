"""Names that are used are defined, in branches that no test takes too; names that are defined are used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def test_every_name_is_known_and_used():
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("needs ruff: pip install ruff")
    tools = [path for path in (CHECKOUT / "tools").iterdir() if path.is_file() and "python" in path.open().readline()]
    command = [ruff, "check", "--isolated", "--no-cache", "--select", "F,E9", "--ignore", "F811", "--output-format",
               "concise"]
    folders = [CHECKOUT / name for name in ("mpirecon", "kernels", "tests")]
    found = subprocess.run([*command, *folders, *tools], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
