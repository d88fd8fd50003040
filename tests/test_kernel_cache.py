"""Kernels run where compiled ones have no place, no room, or were damaged;
one warning says so and what moves the cache."""

import os
import subprocess
import sys

import pytest

from mpirecon.parallel import gpus

PROGRAM = """
import logging, sys
logging.basicConfig(format="%(message)s")
from mpirecon.kernels.cache import kept, njit
sys.path.insert(0, sys.argv[1])
import one
print(one.twice(21), kept(), *(kernel.stats.cache_hits.total() for kernel in one.kernels))
"""
KERNEL = """
from mpirecon.kernels.cache import njit

@njit(cache=True)
def twice(x):
    return 2 * x

kernels = [twice]
"""
#: more than one, for files of each to be damaged in another way
OTHERS = """
@njit(cache=True)
def thrice(x):
    return 3 * x

@njit(cache=True)
def fourfold(x):
    return 4 * x

@njit(cache=True)
def fivefold(x):
    return 5 * x

kernels += [thrice, fourfold, fivefold]
for kernel in kernels[1:]:
    kernel(1)
"""


@pytest.fixture
def run(tmp_path, request):
    """``run(**environment)``: (what a kernel gives, whether it is kept, how often it was found), the warnings."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "one.py").write_text(KERNEL + getattr(request, "param", ""))
    (folder / "__pycache__").touch()  # a file where Numba would make a folder: nothing is kept beside the sources

    def call(**environment):
        env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
        done = subprocess.run([sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True,
                              env={**env, **environment})
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr.strip().splitlines()

    return call


def test_kernels_are_found_again(run, tmp_path):
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "c")) == (["42", "True", "0"], [])
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "c")) == (["42", "True", "1"], [])


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_without_a_place(run, tmp_path, variable):
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "c")
    found, warnings = run(**{variable: place})
    assert found == ["42", "False", "0"]
    assert len(warnings) == 1 and place in warnings[0] and "NUMBA_CACHE_DIR" in warnings[0]


def test_without_room(run, tmp_path):
    """A folder on a full disk: making files works, writing them does not."""
    folder = tmp_path / "c"
    run(NUMBA_CACHE_DIR=str(folder))
    for path in folder.rglob("*.nb?"):
        path.unlink()
    limit = ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); import signal; "
             "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(limit)
    found, warnings = run(NUMBA_CACHE_DIR=str(folder), PYTHONPATH=str(site))
    assert found == ["42", "False", "0"]
    assert len(warnings) == 1 and str(folder) in warnings[0] and "File too large" in warnings[0]


@pytest.mark.parametrize("run", [OTHERS], indirect=True, ids=["four kernels"])
def test_files_that_were_cut_are_made_again(run, tmp_path):
    folder = str(tmp_path / "c")
    run(NUMBA_CACHE_DIR=folder)
    for kernel, ending, length in (("twice", "nbi", 0), ("thrice", "nbi", 20), ("fourfold", "nbc", 0),
                                   ("fivefold", "nbc", 20)):
        path, = (tmp_path / "c").rglob(f"one.{kernel}-*.{ending}")
        path.write_bytes(path.read_bytes()[:length])
    assert run(NUMBA_CACHE_DIR=folder) == (["42", "True", *"0000"], [])
    assert run(NUMBA_CACHE_DIR=folder) == (["42", "True", *"1111"], [])


def test_no_folder_is_made_for_a_user_without_a_home(run, tmp_path):
    (tmp_path / "here").mkdir()
    code = ("import os; os.path.expanduser = lambda path: path; import mpirecon.kernels.cache, numba; assert not "
            "numba.config.CACHE_DIR")
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "here", env=env, check=True)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("home", ["file", "home"])
def test_cupy_keeps_kernels_in_memory_where_it_has_no_folder(monkeypatch, tmp_path, caplog, home):
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "0")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    gpus.keep_kernels.cache_clear()
    gpus.keep_kernels()
    gpus.keep_kernels.cache_clear()
    assert os.environ["CUPY_CACHE_IN_MEMORY"] == ("1" if home == "file" else "0")
    assert ("CUPY_CACHE_DIR" in caplog.text) == (home == "file")


def test_every_kernel_does_without_a_cache():
    """Numba's own decorator ends where the cache has no room."""
    from pathlib import Path

    import mpirecon
    import mpirecon.kernels

    folders = [Path(mpirecon.__file__).parent, *map(Path, mpirecon.kernels.__path__)]
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name != "cache.py"]
    assert len(files) > 100
    assert not [path.name for path in files if "from numba import njit" in path.read_text(encoding="utf-8")]
