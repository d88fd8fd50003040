"""Kernels' machine code that later processes run without Numba: the same results, or Numba's where it cannot be."""

import ast
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mpirecon.kernels
from mpirecon.kernels import machine_code
from mpirecon.kernels.cache import njit

SOURCE = """
import numpy as np
from mpirecon.kernels.cache import njit

@njit(cache=True, nogil=True)
def add(values, by, times, which, more, out):
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = values[i, j] * times + by + (more if which else 0)

@njit(cache=True)
def sums(values, out):
    some = np.zeros(values.shape[1])
    for i in range(values.shape[0]):
        some += values[i]
    out[:] = some

@njit(cache=True)
def total(values):
    return values.sum()

def made(times):
    @njit(cache=True)
    def kernel(out):
        out[:] = times
    return kernel

@njit(cache=True)
def late(out, limit):
    if limit > 1:
        raise ValueError("too much")
    out[:] = limit
"""
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import one
{code}
print("numba" in sys.modules)
"""
ADD = """
out = np.zeros((2, 3), np.float32)
one.add(np.arange(6, dtype=np.float32).reshape(2, 3), 0.5, 2, True, np.uint64(7), out)
print(out.ravel().tolist())
"""
ADDED = "[7.5, 9.5, 11.5, 13.5, 15.5, 17.5]"


def printed(folder, cache, code, **environment):
    """What the code prints, in a process of its own; last whether Numba was loaded."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(folder=str(folder), code=code)],
                          capture_output=True, text=True,
                          env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def run(tmp_path):
    """``run(code)``: what it prints, in a process of its own with this test's cache; last whether Numba was loaded."""
    (tmp_path / "one.py").write_text(SOURCE)
    return functools.partial(printed, tmp_path, tmp_path / "c")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with the source, to which Numba's files are bound, and with what a process has kept of ADD."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "one.py").write_text(SOURCE)
    assert printed(folder, folder / "c", ADD) == [ADDED, "True"]
    return folder


@pytest.fixture
def run_again(source, tmp_path):
    """As ``run``, after another process has run ADD with this test's cache."""
    shutil.copytree(source / "c", tmp_path / "c")
    return functools.partial(printed, source, tmp_path / "c")


def test_numba_is_needed_once(run):
    assert run(ADD) == [ADDED, "True"]
    assert run(ADD) == [ADDED, "False"]


def test_variants_are_counted_whoever_compiled_them(run):
    code = "print(one.add.variants)" + ADD + "print(one.add.variants)" + ADD
    code += "one.add(np.ones((2, 3)), 0.5, 2, True, np.uint64(7), out)\nprint(one.add.variants)"
    assert run(code) == ["0", ADDED, "1", ADDED, "2", "True"]
    assert run(code) == ["0", ADDED, "1", ADDED, "2", "False"]
    assert run(code + "\none.add(np.ones((2, 6))[:, ::2], 1.0, 2, True, 0, out)\nprint(one.add.variants)")[-2] == "3"


def test_numba_can_follow_and_kernels_can_follow_numba(run_again):
    """In one process, in either order."""
    compiled = "print(float(one.total(np.ones(5))))"
    assert run_again(ADD + compiled + ADD) == [ADDED, "5.0", ADDED, "True"]
    assert run_again(compiled + ADD) == ["5.0", ADDED, "True"]


def test_arguments_of_other_kinds_are_no_mistake(run):
    """Whatever was kept for others: strides, order, type, no elements, read only."""
    others = ("values[:, ::2]", "np.asfortranarray(values)", "values.astype('f8')", "values[:0]",
              "values.astype('>f4')[:0].astype('f4')", "np.broadcast_to(values[0], (2, 6))")
    code = (f"values = np.arange(12, dtype=np.float32).reshape(2, 6)\n"
            f"for given in (values, {', '.join(others)}):\n    out = np.zeros(given.shape)\n"
            "    one.add(given, 1.0, 3, False, 0, out)\n    assert (out == given * 3 + 1).all(), (given, out)\n")
    for _ in range(2):
        assert run(code) == ["True"]


def test_an_integer_beyond_int64_is_no_negative_one(run):
    code = "out = np.zeros(1); k = one.made(1)\none.late(out, {})\nprint(out[0])\n"
    run(code.format(-5))
    assert run(code.format(-5)) == ["-5.0", "False"]
    said = run("out = np.zeros(1)\ntry:\n    one.late(out, 2**64 - 5)\nexcept ValueError as error:\n    print(error)")
    assert said == ["too much", "True"]


def test_kernels_of_one_maker_are_told_apart(run):
    code = "out = np.zeros(1)\nfor k in (3, 4):\n    one.made(k)(out); print(out[0])\n"
    assert run(code) == ["3.0", "4.0", "True"]
    assert run(code) == ["3.0", "4.0", "False"]
    assert run(code.replace("(3, 4)", "(5, 3)")) == ["5.0", "3.0", "True"]


def test_what_needs_numba_while_it_runs_is_not_kept(run, tmp_path):
    """Arrays of its own, and results."""
    code = "out = np.zeros(3); one.sums(np.ones((2, 3)), out); print(out[0])\nprint(one.total(np.ones(2)))"
    assert run(code) == run(code) == ["2.0", "2.0", "True"]
    assert not list((tmp_path / "c").rglob("*.kernel"))


@pytest.mark.parametrize("damage", [lambda held: b"", lambda held: held[:40], lambda held: held[:-1],
                                    lambda held: held[:500] + bytes([held[500] ^ 1]) + held[501:],
                                    lambda held: b"x" * 33], ids=["empty", "short", "cut", "changed", "other"])
def test_a_damaged_file_is_made_again(run_again, tmp_path, damage):
    file, = (tmp_path / "c").rglob("*.kernel")
    file.write_bytes(damage(whole := file.read_bytes()))
    assert run_again(ADD) == [ADDED, "True"]
    assert file.read_bytes() == whole and run_again(ADD) == [ADDED, "False"]


@pytest.mark.parametrize("environment", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "1"}])
def test_code_for_another_processor_is_another_file(run_again, tmp_path, environment):
    assert run_again(ADD, **environment) == [ADDED, "True"]
    assert len(list((tmp_path / "c").rglob("*.kernel"))) == 2 and run_again(ADD, **environment) == [ADDED, "False"]


def test_code_of_another_source_is_not_run(run, tmp_path):
    run(ADD)
    (tmp_path / "one.py").write_text(SOURCE.replace("* times + by", "* times - by * 1"))
    assert run(ADD) == ["[6.5, 8.5, 10.5, 12.5, 14.5, 16.5]", "True"]


def test_uncompiled_kernels_are_refused(run, tmp_path):
    """Most cannot be run by Python: they say it alike, whether they were compiled before or not."""
    refused = "import mpirecon.errors\ntry:" + ADD.replace("\n", "\n    ")
    refused += "\nexcept mpirecon.errors.UserError as error:\n    print(error)"
    for _ in range(2):
        said, loaded = run(refused, NUMBA_DISABLE_JIT="1")
        assert said.startswith("NUMBA_DISABLE_JIT=1") and "unset NUMBA_DISABLE_JIT" in said and loaded == "False"
        assert run(ADD, NUMBA_DISABLE_JIT="0")[0] == ADDED
    said = run("from numba import config\nconfig.DISABLE_JIT = True\n" + refused, NUMBA_OPT="2")
    assert "configured to compile nothing" in said[0]


def test_another_kernels_file_is_not_run(run, tmp_path):
    """Whole as it is: of a kernel that takes the same, and of one that takes less."""
    code = "out = np.zeros(1)\none.made(3)(out); print(out[0])\none.made(4)(out); print(out[0])\n"
    assert run(code + ADD)[:3] == ["3.0", "4.0", ADDED]
    files = sorted((tmp_path / "c").rglob("*.kernel"))
    held = [file.read_bytes() for file in files]
    assert len(files) == 3
    for turn in (1, 2):
        for file, content in zip(files, held[turn:] + held[:turn]):
            file.write_bytes(content)
        assert run(code + ADD) == ["3.0", "4.0", ADDED, "True"]
        assert [file.read_bytes() for file in files] == held


def test_settings_in_a_file_of_numbas_are_heeded(run, tmp_path, monkeypatch):
    """They decide what the machine code is, as NUMBA_OPT does."""
    monkeypatch.chdir(tmp_path)
    run(ADD)
    (tmp_path / ".numba_config.yaml").write_text("opt: 1\n")
    assert run(ADD) == [ADDED, "True"]
    assert len(list((tmp_path / "c").rglob("*.kernel"))) == 2 and run(ADD) == [ADDED, "False"]


def test_kernels_that_nobody_uses_are_removed_in_time(run, tmp_path):
    """Of the user's own files in the folder none is."""
    old, used, theirs = f"old-{24 * '0'}.kernel", f"used-{24 * '0'}.kernel", ("theirs", "their-own.kernel")
    (tmp_path / "c").mkdir()
    for name, days in ((old, 100), (used, 10), *((name, 100) for name in theirs)):
        (tmp_path / "c" / name).touch()
        os.utime(tmp_path / "c" / name, 2 * (time.time() - days * 86400,))
    run(ADD)
    left = {file.name for file in (tmp_path / "c").iterdir()}
    assert old not in left and {used, *theirs} <= left


def test_a_full_disk_costs_time_alone(run, tmp_path):
    full = "import os\ndef full(*_): raise OSError(28, 'No space left')\nos.replace = full\n"
    assert run(ADD.replace("\n", "\nfrom numba import config\n", 1) + full + ADD) == [ADDED, ADDED, "True"]
    run("one.total(np.ones(1))")
    for file in (tmp_path / "c").rglob("*.kernel"):
        file.unlink()
    assert run(full + ADD) == [ADDED, "True"]
    assert not [*(tmp_path / "c").rglob("*.kernel*")]


def test_without_a_place_numba_compiles(run, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "__pycache__").touch()  # nothing is kept beside the sources either
    for _ in range(2):
        assert run(ADD, NUMBA_CACHE_DIR=str(tmp_path / "file" / "c")) == [ADDED, "True"]


def test_what_other_processes_write_meanwhile_is_not_taken_for_this_ones(run, tmp_path):
    """Numba's own files may be another's by the time that they could be read again."""
    meanwhile = """
from pathlib import Path
from mpirecon.kernels import machine_code
def after(*arguments, keep=machine_code.keep):
    for file in Path({!r}).rglob("*.nbc"):
        file.write_bytes(b"of another process")
    keep(*arguments)
machine_code.keep = after
""".format(str(tmp_path / "c"))
    assert run(meanwhile + ADD) == [ADDED, "True"]
    assert run(ADD) == [ADDED, "False"]


def test_others_may_read_what_is_kept(run, tmp_path):
    run("import os\nos.umask(0o022)\n" + ADD)
    file, = (tmp_path / "c").rglob("*.kernel")
    assert file.stat().st_mode & 0o777 == 0o644


def test_an_error_is_said_by_numba(run):
    code = ("out = np.zeros(1)\none.late(out, 1)\nprint(out[0], 'numba' in sys.modules)\n"
            "try:\n    one.late(out, 2)\nexcept ValueError as error:\n    print(error)")
    assert run(code) == ["1.0 True", "too much", "True"]
    assert run(code) == ["1.0 False", "too much", "True"]


def test_a_file_that_llvm_cannot_load_is_no_end(run_again, tmp_path):
    """Whatever is in it, if its sum is right."""
    file, = (tmp_path / "c").rglob("*.kernel")
    for content in (b"", b"{}\n", b'{"symbol": "x", "helpers": []}\n' + file.read_bytes()[32:].partition(b"\n")[2]):
        file.write_bytes(hashlib.sha256(file.name.encode() + b"\n" + content).digest() + content)
        assert run_again(ADD)[0] == ADDED


def test_kinds_tell_all_apart_that_numba_does():
    """Arrays by type, dimensions and whether they can be written; numbers by type."""
    a = np.zeros((2, 3), np.float32)
    fixed = a.copy()
    fixed.flags.writeable = False
    known = [machine_code.kinds((value,)) for value in
             (a, a[0], a.astype("f8"), a.astype("c8"), fixed, 1, 1.0, True, np.uint64(1), np.float32(1))]
    assert None not in known and len(set(known)) == len(known)
    unknown = (a[:, ::2], a.T, a.astype(">f4"), a.view(np.matrix), np.zeros(1, "i4,f4"), 2**63, -(2**63) - 1, None, "x",
               [1], (a, a), 1j, np.zeros(5, np.uint8)[1:].view(np.float32))
    assert all(machine_code.kinds((value,)) is None for value in unknown)


def test_a_kernel_that_cannot_be_called_so_is_left_to_numba(tmp_path):
    """Where what is known of its arguments is not what Numba compiled."""
    out = np.zeros(2)
    kinds = machine_code.kinds((out, 3.0))
    cases = {"other": ((out, 3.0), (kinds[0], "int")), "flat": ((out, 3.0), ("f8[2]", kinds[1])),
             "more": ((out, 3.0, 1.0), kinds), "kept": ((out, 3.0), kinds)}
    for number, (name, (given, known)) in enumerate(cases.items()):

        @njit(cache=True)
        def one(out, by):
            out[:] = by + number

        one.made(out, 3.0)  # past what keeps it
        machine_code.keep(tmp_path / name, one.made, given, known)
        assert (tmp_path / name).exists() == (name == "kept"), name


def test_no_kernel_raises():
    """It would be an error without words where Numba is not loaded."""
    folders = [Path(mpirecon.__file__).parent, *map(Path, mpirecon.kernels.__path__)]
    kernels = [function for folder in folders for path in folder.rglob("*.py")
               for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
               if isinstance(function, ast.FunctionDef)
               and any("njit" in ast.unparse(one) for one in function.decorator_list)]
    assert len(kernels) > 50
    assert not [kernel.name for kernel in kernels if any(isinstance(one, ast.Raise) for one in ast.walk(kernel))]
