"""tools/wheels fills a folder; from that alone, without a network or an index,
a fresh environment gets a mpirecon that works."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import CHECKOUT
from test_packaging import copy_checkout

NO_NETWORK = ["unshare", "--net", "--map-root-user"]


def run(*command, cwd, environment=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    checkout = copy_checkout(folder / "checkout")
    shutil.copytree(CHECKOUT / "tools", checkout / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MANIFEST.in", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(CHECKOUT / name, checkout / name)
    code, said = run(sys.executable, checkout / "tools" / "wheels", folder / "wheels", "--extras", "mpi", cwd=folder)
    if "No matching distribution found" in said and "from versions: none" in said:
        pytest.skip("needs a package index, which is out of reach")
    assert code == 0, said
    assert "pip install --no-index --find-links wheels 'mpirecon[mpi]'" in said
    return folder / "wheels"


def holds_everything(wheels) -> None:
    """Whether the source distribution and the wheel have every file of the program."""
    wheel, = wheels.glob("mpirecon-*.whl")
    source, = wheels.glob("mpirecon-*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as tar:
        in_source = {name.partition("/")[2] for name in tar.getnames()}
    for folder in ("kernels", "jobs", "mpirecon/report", "mpirecon/batch"):
        for path in (CHECKOUT / folder).iterdir():
            if path.is_file() and path.suffix != ".pyc":
                assert f"{folder}/{path.name}" in in_source, path
                there = folder if folder.startswith("mpirecon") else f"mpirecon/{folder}"
                assert f"{there}/{path.name}" in in_wheel, path
    assert {"CITATION.cff", "CHANGELOG.md", "LICENSE", "README.md", "tools/wheels", "pyproject.toml"} <= in_source
    assert not any(name.startswith(("tests", "tools", "kernels", "jobs")) for name in in_wheel)


def test_a_fresh_environment_installs_from_the_folder_alone(wheels, tmp_path):
    holds_everything(wheels)  # in one test, so that workers side by side do not both download
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH", "VIRTUAL_ENV"))
    }
    environment |= {"PIP_CONFIG_FILE": os.devnull, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    alone = NO_NETWORK if run(*NO_NETWORK, "true", cwd=tmp_path)[0] == 0 else []
    code, said = run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    assert code == 0, said
    pip = [sys.executable, "-m", "pip", "--python", "env/bin/python", "install", "-q", "--no-compile", "--no-index"]
    code, said = run(*alone, *pip, "--find-links", wheels, "mpirecon[mpi]", cwd=tmp_path, environment=environment)
    assert code == 0, said
    program = tmp_path / "env" / "bin" / "mpirecon"
    code, said = run(*alone, program, "simulate", "--phantom", "--particles", 20, "--box", 16, "-o", "p.h5",
                     cwd=tmp_path,
                     environment=environment)
    assert code == 0 and (tmp_path / "p.h5").exists(), said
    code, said = run(*alone, tmp_path / "env/bin/python", "-c", "import mpirecon.kernels, mpirecon.jobs; "
                     "print(mpirecon.__file__)",
                     cwd=tmp_path, environment=environment)
    assert code == 0 and said.startswith(str(tmp_path / "env")), said


def test_an_impossible_machine_is_refused_with_what_is_missing(tmp_path):
    code, said = run(sys.executable, CHECKOUT / "tools" / "wheels", tmp_path, "--glibc", "ancient", cwd=tmp_path)
    assert code == 2 and "--glibc is ancient, expected a version such as 2.17" in said
