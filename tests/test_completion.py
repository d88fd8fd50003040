"""``mpirecon completion``: what bash is told, asked as bash asks."""

import shutil
import subprocess
import sys

import pytest

from mpirecon.cli import run
from mpirecon.cli.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "_MPIRECON_COMPLETE" in capsys.readouterr().out


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """``completed(words…)``: what bash offers for the last word."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "mpirecon"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mpirecon "$@"\n')
    program.chmod(0o755)

    def call(*words):
        listed = " ".join(f"'{word}'" for word in words)
        script = (
            f'PATH={folder}:$PATH; eval "$(mpirecon completion bash)"; complete -p mpirecon > /dev/null || exit 3; '
            f"compopt() {{ :; }}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _mpirecon_completion mpirecon; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return call


def test_bash_completes_commands_options_and_values(completed):
    assert completed("mpirecon", "rec") == ["reconstruct"]
    assert completed("mpirecon", "reconstruct", "--lo") == ["--loss", "--log-particles"]
    assert "posterior" in completed("mpirecon", "reconstruct", "--loss", "")
    assert completed("mpirecon", "reconstruct", "--mask", "au") == ["auto"]
