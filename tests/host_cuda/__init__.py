"""Runs the project's CUDA sources on this host's processor, compiled by g++ under shim.hpp.
For tests, not for speed."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

SHIM = Path(__file__).with_name("shim.hpp")

#: letter of shim.hpp → dtype of the argument; capital letters are pointers to it, X to anything
_SCALARS = {"f": np.float32, "d": np.float64, "i": np.int32, "q": np.int64}
_POINTED = {
    "F": ("float32",), "D": ("float64",), "I": ("int32",), "Q": ("int64",), "C": ("complex64",), "V": ("float32",),
}  # fmt: skip


class CompileError(Exception):
    """What the compiler said."""


def compiler() -> str | None:
    """The C++ compiler there is, if any."""
    return shutil.which(os.environ.get("CXX", "g++"))


@lru_cache(maxsize=None)
def compile_source(source: str) -> HostModule:
    """The kernels of a source text. Compiled once: the library is kept in the temporary folder, named by its text."""
    program = compiler()
    if program is None:
        raise CompileError("needs a C++ compiler: install g++")
    # a kernel's extern shared array is one buffer here, and inline PTX is for the chip
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = reinterpret_cast<\1*>(host::shared_memory());",
                  source)
    names = re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\(', text)
    text = f'#include "{SHIM}"\n{text}\n' + "".join(f"HOST_KERNEL({name})\n" for name in names)
    # a multiply and an add are one operation only where the source says fmaf: compensated sums rely on it
    flags = ["-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE"]
    digest = hashlib.sha256("\0".join([text, SHIM.read_text(), program, *flags]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"mpirecon-host-cuda-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        _compile(program, flags, text, folder, library)
    return HostModule(ctypes.CDLL(str(library)), names)


def _compile(program: str, flags: list[str], text: str, folder: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        source, built = Path(work) / "kernels.cpp", Path(work) / "kernels.so"
        source.write_text(text)
        result = subprocess.run([program, *flags, "-o", built, source], capture_output=True, text=True)
        if result.returncode:
            raise CompileError(result.stderr)
        os.replace(built, library)


class HostModule:
    """Compiled kernels by name."""

    def __init__(self, library: ctypes.CDLL, names: list[str]) -> None:
        self._library, self.names = library, names

    def signature(self, name: str) -> str:
        function = getattr(self._library, f"signature_{name}")
        function.restype = ctypes.c_char_p
        return function().decode()

    def launch(self, name: str, grid: int, block: int, arguments: tuple, backwards: bool = False) -> None:
        """Run a kernel. Arguments are checked as a GPU would not: right number, right type, C-contiguous arrays."""
        if name not in self.names:
            raise KeyError(name)
        signature = self.signature(name)
        if len(signature) != len(arguments):
            raise TypeError(f"{name} takes {len(signature)} arguments, got {len(arguments)}")
        held = [_argument(name, i, letter, value) for i, (letter, value) in enumerate(zip(signature, arguments))]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.cast(ctypes.pointer(h), ctypes.c_void_p) for h in held))
        if not (1 <= block <= 1024 and 1 <= grid < 2**31):
            raise ValueError(f"{name}: invalid launch of {grid} blocks of {block} threads")
        getattr(self._library, f"launch_{name}")(ctypes.c_uint(grid), ctypes.c_uint(block), pointers, int(backwards))


def _argument(name: str, i: int, letter: str, value):
    what = f"{name}, argument {i}"
    if letter in _SCALARS:
        if not isinstance(value, np.generic) or value.dtype != _SCALARS[letter]:
            raise TypeError(f"{what}: expected {np.dtype(_SCALARS[letter])}, got "
                            f"{getattr(value, 'dtype', type(value))}")
        return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
    if value is None or (isinstance(value, np.intp) and value == 0):
        return ctypes.c_void_p(None)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what}: expected an array, got {type(value).__name__}")
    if not value.flags.c_contiguous:
        raise ValueError(f"{what}: array of shape {value.shape} is not C-contiguous")
    if letter in _POINTED and str(value.dtype) not in _POINTED[letter]:
        raise TypeError(f"{what}: expected an array of {' or '.join(_POINTED[letter])}, got {value.dtype}")
    return ctypes.c_void_p(value.ctypes.data)
