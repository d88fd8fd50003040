"""The tables of CUDA kernels' arguments: every kernel has one, of which its parameters and checks are made."""

import re
from pathlib import Path

import host_cuda
import numpy as np
import pytest

import mpirecon.kernels
from mpirecon.kernels.arguments import Kernel, array, number, output
from mpirecon.kernels.cuda_source import Settings, cuda_source
from mpirecon.kernels.tables import KERNELS

FOLDER = Path(mpirecon.kernels.__file__).parent

#: tests/host_cuda/shim.hpp's letters of what a compiled kernel takes
LETTERS = {"float32": "f", "float64": "d", "int32": "i", "int64": "q", "complex64": "c", "float32_fours": "v",
           "int16_pairs": "x"}  # fmt: skip


def test_every_kernel_takes_what_its_table_says():
    found = {}
    for path in FOLDER.glob("*.cu"):
        head = r'extern "C" __global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?'
        found |= dict(re.findall(head + r"(\w+)\(([^)]*)\)", path.read_text()))
    assert found == {name: f"ARGUMENTS_{name}" for name in KERNELS}


@pytest.mark.skipif(host_cuda.compiler() is None, reason="needs a C++ compiler: install g++")
def test_compiled_kernels_take_what_their_tables_say():
    module = host_cuda.compile_source(cuda_source(Settings(threads=64)))
    for name, table in KERNELS.items():
        letters = [LETTERS[a.dtype] if a.shape is None else LETTERS[a.dtype].upper() for a in table.arguments]
        assert module.signature(name) == "".join(letters), name


TABLE = Kernel("shells", (
    array("values", "complex64", "images", "p", "p // 2 + 1"), number("p"), number("scale", "float32"),
    array("first", "int32", "shells + 1"), array("weight", "float32", "images", optional=True),
    output("sums", "float64", "images", "shells"),
))  # fmt: skip


def given(**other):
    return {"values": np.zeros((3, 8, 5), np.complex64), "p": 8, "scale": 2, "first": np.zeros(5, np.int32),
            "weight": None, "sums": np.zeros((3, 4))} | other  # fmt: skip


def test_the_parameter_list_is_the_tables():
    assert TABLE.parameters == (
        "const float2* values, int p, float scale, const int* first, const float* weight, double* sums"
    )


def test_arguments_are_put_in_order_and_numbers_are_of_the_tables_type():
    values = given(weight=np.ones(3, np.float32))
    found = TABLE.arranged(dict(reversed(values.items())))
    assert all(a is b for a, b in zip(found, values.values()) if isinstance(b, np.ndarray))
    assert [type(found[1]), type(found[2])] == [np.int32, np.float32] and found[1:3] == (8, 2.0)
    assert TABLE.arranged(given())[4] is None


def read_only(array_):
    array_.flags.writeable = False
    return array_


@pytest.mark.parametrize("wrong, message", [
    ({"weigth": None}, r"unknown: \['weigth'\]"),
    ({"values": np.zeros((3, 8, 5), np.complex128)}, "values is an array of complex128, expected complex64"),
    ({"first": None}, "first is None"),
    ({"values": np.zeros((3, 5, 8), np.complex64).swapaxes(1, 2)}, "values, of shape .*, is not C-contiguous"),
    ({"p": 6}, "sums has the shape|values has the shape"),
    ({"first": np.zeros(6, np.int32)}, r"sums has the shape \(3, 4\), expected \(images = 3, shells = 5\)"),
    ({"weight": np.ones(4, np.float32)}, r"weight has the shape \(4,\), expected \(images = 3\)"),
    ({"sums": np.zeros((3, 5))}, r"sums has the shape"),
    ({"sums": read_only(np.zeros((3, 4)))}, "sums is read-only, and the kernel writes into it"),
    ({"p": 8.5}, r"p is 8.5, expected a whole number \(int32\)"),
    ({"p": 8.0}, r"p is 8.0, expected a whole number"),
    ({"p": None}, "p is None, expected a whole number"),
    ({"p": 2**31}, "p is 2147483648, which int32 does not hold"),
    ({"scale": "2"}, r"scale is '2', expected a number \(float32\)"),
    ({"scale": np.ones(1)}, r"scale is array\(\[1.\]\), expected a number"),
])  # fmt: skip
def test_what_the_table_contradicts_is_refused(wrong, message):
    with pytest.raises((TypeError, ValueError), match=f"shells.*({message})"):
        TABLE.arranged(given(**wrong))


def test_a_flag_is_a_number():
    table = Kernel("flagged", (number("flag"),))
    assert [table.arranged({"flag": flag}) for flag in (True, np.False_)] == [(1,), (0,)]


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"shells takes values, p, scale, first, weight, sums; missing: \['p'\]"):
        TABLE.arranged({name: value for name, value in given().items() if name != "p"})
