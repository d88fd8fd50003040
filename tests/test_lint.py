"""Names that are used are defined, in branches that no test takes too; names that are defined are used;
lines are short."""

import shutil
import subprocess
import sys
import tokenize
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


#: characters of a line, and lines of a file of the program
WIDTH, LENGTH = 120, 350


def too_long(path: Path) -> list[int]:
    """Numbers of the lines that are too long; those within strings of several lines (pages, tables, scripts) may be."""
    with path.open("rb") as file:
        within = {row for token in tokenize.tokenize(file.readline) if token.type == tokenize.STRING
                  for row in range(token.start[0], token.end[0] + 1) if token.end[0] > token.start[0]}
    lines = path.read_text(encoding="utf-8").splitlines()
    return [i for i, line in enumerate(lines, 1) if len(line) > WIDTH and i not in within and "://" not in line]


def test_files_are_not_too_long():
    files = [path for name in ("mpirecon", "kernels") for path in (CHECKOUT / name).rglob("*.py")]
    assert len(files) > 100
    lines = {str(path.relative_to(CHECKOUT)): len(path.read_bytes().splitlines()) for path in files}
    assert not {name: count for name, count in lines.items() if count > LENGTH}


def test_lines_are_not_too_long():
    files = [path for name in ("mpirecon", "kernels", "tests", "jobs") for path in (CHECKOUT / name).rglob("*.py")]
    found = {str(path.relative_to(CHECKOUT)): too_long(path) for path in files if "mpirecon/kernels" not in str(path)}
    wide = {name: lines for name, lines in found.items() if lines}
    assert not wide, f"lines of more than {WIDTH} characters: {wide}"
