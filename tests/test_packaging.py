"""Both kinds of installation work, from any directory; and setup.cfg lists every package there is."""

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = ("jobs", "kernels", "mpirecon", "LICENSE", "README.md", "pyproject.toml", "setup.cfg")


def copy_checkout(target: Path) -> Path:
    """The sources alone: a build must not leave its files in the checkout, nor find old ones there."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=ignore)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target


def make_environment(folder: Path) -> Path:
    """A fresh virtual environment with links to the dependencies this one has; returns its bin folder."""
    venv.create(folder, with_pip=False, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    there = next((folder / "lib").glob("python*/site-packages"))
    for entry in here.iterdir():
        if "mpirecon" not in entry.name.lower() and entry.suffix != ".pth" and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    return folder / "bin"


def run(*command, cwd) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{command} in {cwd}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module", params=["regular", "editable"])
def installed(request, tmp_path_factory):
    """(kind, bin folder, checkout it was installed from)."""
    folder = tmp_path_factory.mktemp(request.param)
    checkout = copy_checkout(folder / "checkout")
    binaries = make_environment(folder / "env")
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "-q"]
    editable = ["-e"] if request.param == "editable" else []
    command = [str(c) for c in (*pip, "--no-deps", "--ignore-installed", *editable, checkout)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if "No matching distribution found for setuptools" in result.stdout + result.stderr:
        pytest.skip("building needs setuptools from a package index, which is out of reach")
    assert result.returncode == 0, result.stdout + result.stderr
    return request.param, binaries, checkout


@pytest.mark.parametrize("where", ["elsewhere", "checkout"])
def test_installed_package_works_from_any_directory(installed, tmp_path, where):
    # in the checkout the local mpirecon/ hides an installed one, so its kernels must be found there too
    kind, binaries, checkout = installed
    cwd = checkout if where == "checkout" else tmp_path
    assert run(binaries / "mpirecon", "--version", cwd=cwd).startswith("mpirecon, version")
    assert "reconstruct" in run(binaries / "python", "-m", "mpirecon", "--help", cwd=cwd)
    assert "--loss" in run(binaries / "mpirecon", "reconstruct", "--help", cwd=cwd)
    code = "import mpirecon, mpirecon.kernels as k; print(mpirecon.__file__); print(k.__file__)"
    package, kernels = run(binaries / "python", "-c", code, cwd=cwd).splitlines()
    from_checkout = kind == "editable" or where == "checkout"
    for path in (package, kernels):
        assert Path(path).resolve().is_relative_to(checkout) == from_checkout, path


@pytest.mark.parametrize("folder", ["kernels", "jobs"])
def test_every_kernel_and_job_file_is_installed(installed, tmp_path, folder):
    _, binaries, checkout = installed
    code = f"import importlib.resources as r; print(*sorted(f.name for f in r.files('mpirecon.{folder}').iterdir()))"
    there = set(run(binaries / "python", "-c", code, cwd=tmp_path).split()) - {"__pycache__"}
    assert there == {path.name for path in (checkout / folder).iterdir()} - {"__pycache__"}


def test_setup_lists_every_package():
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    present = {
        ".".join(path.parent.relative_to(CHECKOUT).parts) for path in (CHECKOUT / "mpirecon").rglob("__init__.py")
    }
    assert listed == present | {"mpirecon.jobs", "mpirecon.kernels"}
