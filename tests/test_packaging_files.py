"""What clusters install from (packaging/) says what setup.cfg says:
this version, these dependencies, these lower bounds."""

import configparser
import contextlib
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import CHECKOUT

import mpirecon

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which the extra docs brings")

PACKAGING = CHECKOUT / "packaging"
EASYCONFIGS = sorted((PACKAGING / "easybuild").glob("*.eb"))
DEFINITIONS = sorted((PACKAGING / "apptainer").glob("*.def"))

#: what others call a dependency of ours
CONDA = {"matplotlib": "matplotlib-base"}
EASYBUILD = {"click": "Python-bundle-PyPI", "numpy": "SciPy-bundle", "pandas": "SciPy-bundle", "scipy": "SciPy-bundle"}


def required() -> dict[str, str]:
    """Name → lowest version of what setup.cfg requires; tomli only of old Pythons."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    lines = [line for line in config["options"]["install_requires"].split("\n") if line]
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)


def mpi() -> str:
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    return config["options.extras_require"]["mpi"].strip().partition(">=")[2]


def at_least(wanted: str, given: str) -> bool:
    return [int(n) for n in given.split(".")] >= [int(n) for n in wanted.split(".")]


def bounds(lines: list) -> dict[str, str]:
    return dict(re.match(r"([\w-]+) *(?:>=([\d.]+))?", line).groups() for line in lines if isinstance(line, str))


def test_conda_needs_what_setup_needs():
    recipe = yaml.safe_load((PACKAGING / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    environment = yaml.safe_load((PACKAGING / "conda" / "environment.yml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == mpirecon.__version__
    run, given = bounds(recipe["requirements"]["run"]), bounds(environment["dependencies"])
    expected = {CONDA.get(name, name): bound for name, bound in required().items()}
    assert run == expected | {"python": "3.10"}
    expected.pop("tomli")  # the environment's Python is a new one
    assert {name: given[name] for name in expected} == expected and given["mpi4py"] == mpi()
    assert (PACKAGING / "conda" / recipe["source"]["path"]).resolve() == CHECKOUT


class Recorder(types.ModuleType):
    """Stands for Spack's package language, and remembers what a recipe says in it."""

    def __init__(self) -> None:
        super().__init__("spack.package")
        self.said = []
        for name in ("license", "version", "variant", "depends_on", "maintainers"):
            setattr(self, name, lambda *a, _name=name, **k: self.said.append((_name, a, k)))
        self.default_args = lambda **k: contextlib.nullcontext()
        self.__all__ = ["license", "version", "variant", "depends_on", "maintainers", "default_args"]


def test_spack_needs_what_setup_needs(monkeypatch):
    language, python = Recorder(), types.ModuleType("spack_repo.builtin.build_systems.python")
    python.PythonPackage = object
    for name in ("spack", "spack_repo", "spack_repo.builtin", "spack_repo.builtin.build_systems"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "spack.package", language)
    monkeypatch.setitem(sys.modules, python.__name__, python)
    recipe = PACKAGING / "spack" / "spack_repo" / "mpirecon" / "packages" / "py_mpirecon" / "package.py"
    exec(compile(recipe.read_text(encoding="utf-8"), recipe, "exec"), {"__name__": "package"})
    said = [(kind, a[0]) for kind, a, _ in language.said]
    assert ("version", mpirecon.__version__) in said and ("license", "BSD-3-Clause") in said
    needs = dict(re.match(r"(?:py-)?([\w-]+)(?:@([\d.]+):)?$", what).groups() for kind,
                 what in said if kind == "depends_on")
    expected = {**required(), "mpi4py": mpi(), "python": "3.10"}
    assert {name: needs.get(name) for name in expected} == expected
    assert set(needs) - set(expected) == {"setuptools", "wheel", "cupy"}
    assert yaml.safe_load((recipe.parents[2] / "repo.yaml").read_text())["repo"]["namespace"] == recipe.parents[2].name


@pytest.mark.parametrize("path", EASYCONFIGS, ids=lambda path: path.stem)
def test_easyconfigs_need_what_setup_needs(path):
    # an easyconfig is Python that assigns; SYSTEM and templates of sources are EasyBuild's
    said = {"SYSTEM": "SYSTEM", "SOURCELOWER_TAR_GZ": "%(namelower)s-%(version)s.tar.gz"}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), said)
    cuda = next((entry[1] for entry in said["dependencies"] if entry[0] == "CUDA"), None)
    suffix = said.get("versionsuffix", "").replace("%(cudaver)s", cuda or "")
    toolchain = "-".join(said["toolchain"].values())
    assert path.name == f"{said['name']}-{said['version']}-{toolchain}{suffix}.eb"
    assert said["version"] == mpirecon.__version__
    given = {entry[0]: entry[1] for entry in said["dependencies"]}
    for name, bound in {**required(), "mpi4py": mpi()}.items():
        if name != "tomli":  # of Python 3.10
            found = given[EASYBUILD.get(name, name)]
            assert name in EASYBUILD or at_least(bound, found), f"{name} {found}, setup.cfg wants {bound}"


@pytest.mark.parametrize("path", EASYCONFIGS, ids=lambda path: path.stem)
def test_easybuild_reads_the_easyconfigs(path, tmp_path):
    """With EasyBuild's own parser and its style check, where it is installed (pip install easybuild pycodestyle)."""
    program = shutil.which("eb")
    if program is None:
        pytest.skip("needs EasyBuild: pip install easybuild pycodestyle")
    environment = {**os.environ, "EB_PYTHON": str(Path(program).with_name("python")), "EASYBUILD_PREFIX": str(tmp_path)}
    done = subprocess.run([program, "--check-style", path], capture_output=True, text=True, cwd=tmp_path,
                          env=environment)
    assert done.returncode == 0 and f"[PASS] {path}" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_apptainer_definitions(path):
    text = path.read_text(encoding="utf-8")
    header, *rest = re.split(r"^%(\w+)$", text, flags=re.MULTILINE)
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    assert set(parts) == {"files", "labels", "post", "environment", "runscript", "test", "help"}
    assert dict(line.split(": ") for line in header.split("\n") if line)["Bootstrap"] == "docker"
    assert f"image.version {mpirecon.__version__}\n" in parts["labels"]
    for source, target in (line.split() for line in parts["files"].strip().splitlines()):
        assert (CHECKOUT / source).exists() and target == f"/opt/source/{source}"
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    extras = re.search(r"pip install .*/opt/source\[([\w,]+)\]", parts["post"]).group(1).split(",")
    assert set(extras) <= set(config["options.extras_require"]) and ("cuda12" in extras) == ("cuda" in path.stem)
    for section in ("post", "environment", "runscript", "test"):
        assert subprocess.run(["bash", "-n"], input=parts[section], text=True).returncode == 0
        if shutil.which("shellcheck"):
            done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=parts[section], text=True, capture_output=True)
            assert done.returncode == 0, done.stdout
    if shutil.which("spython"):
        done = subprocess.run(["spython", "recipe", "--parser", "singularity", path], capture_output=True, text=True)
        assert done.returncode == 0 and "/opt/mpirecon/bin/pip install" in done.stdout, done.stdout + done.stderr


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == mpirecon.__version__ and citation["license"] == "BSD-3-Clause"
    if shutil.which("cffconvert"):
        done = subprocess.run(["cffconvert", "--validate", "-i", CHECKOUT / "CITATION.cff"], capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_release_checklist_names_every_file_with_the_version():
    checklist = (PACKAGING / "RELEASE.md").read_text(encoding="utf-8")
    holders = [path for path in [*PACKAGING.rglob("*"), CHECKOUT / "CITATION.cff",
                                 CHECKOUT / "mpirecon" / "__init__.py"]
               if path.is_file() and path.suffix in (".eb", ".def", ".py", ".yaml", ".cff")
               and re.search(rf"(?<![\d.]){re.escape(mpirecon.__version__)}(?![\d.])",
                             path.read_text(encoding="utf-8"))]
    assert len(holders) >= 8
    for path in holders:
        name = path.relative_to(CHECKOUT)
        assert f"`{name}`" in checklist or f"`{name.parent}/`" in checklist, (
            f"packaging/RELEASE.md does not name {name}"
        )
