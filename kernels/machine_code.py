"""Kernels' machine code, kept so that later processes run it without Numba.

To import Numba and make it ready takes up to half a second, a fifth of a small set's reconstruction, and 60 MB. What it
compiles is an object file, though, which the loader of LLVM (in llvmlite, which Numba needs) makes callable. Kernels
are kept so that take whole arrays and numbers, return nothing, and need nothing of Numba while they run.

A kernel is called as Numba's own code calls it (``numba.core.callconv.CPUCallConv``): where its result and its
exception go, then the fields of each argument. What is kept was compared with that when it was compiled.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

#: numbers that a kernel takes, and what C and LLVM call each
_NUMBERS = {
    int: (ctypes.c_int64, "i64"), np.int64: (ctypes.c_int64, "i64"), np.uint64: (ctypes.c_uint64, "i64"),
    float: (ctypes.c_double, "double"), np.float64: (ctypes.c_double, "double"), np.float32: (ctypes.c_float, "float"),
    bool: (ctypes.c_bool, "i8"), np.bool_: (ctypes.c_bool, "i8"),
}  # fmt: skip
_NAMES = {kind: kind.__name__ for kind in _NUMBERS}
_BY_NAME = {kind.__name__: fields for kind, fields in _NUMBERS.items()}
_ELEMENTS = {np.dtype(name): name for name in ("b1", "i1", "u1", "i2", "i4", "i8", "u4", "u8", "f4", "f8", "c8", "c16")}

#: what a kernel may call of an array that Numba made, and of no other
_OF_ARRAYS = {"NRT_MemInfo_call_dtor"}

#: Numba's settings that change no machine code
_IRRELEVANT = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_WARNINGS")

#: Numba's own file of settings, in the folder that a program is started in
_SETTINGS_FILE = ".numba_config.yaml"

#: hexadecimal digits in the names of kernels' files
_HASH = 24

#: s after which a file that nobody has read is of a version that nobody uses
_UNUSED = 90 * 86400

_LARGEST = 2**63 - 1

_log = logging.getLogger(__name__)


def kinds(arguments: tuple) -> tuple[str, ...] | None:
    """What decides which machine code belongs to the arguments; None where none is kept for such."""
    out = []
    for value in arguments:
        kind = type(value)
        if kind is np.ndarray:
            flags, element = value.flags, _ELEMENTS.get(value.dtype)
            if element is None or not (flags.c_contiguous and flags.aligned):
                return None
            out.append(f"{element}[{value.ndim}]{'' if flags.writeable else ' read only'}")
        elif kind in _NAMES and (kind is not int or -_LARGEST <= value <= _LARGEST):
            out.append(_NAMES[kind])
        else:
            return None
    return tuple(out)


def _dimensions(kind: str) -> int | None:
    """Of an array's kind; None of a number's."""
    return int(kind.partition("[")[2].partition("]")[0]) if "[" in kind else None


def _fields(kind: str) -> list[tuple]:
    """Types of an argument's fields, C's and LLVM's."""
    n = _dimensions(kind)
    if n is None:
        return [_BY_NAME[kind]]
    pointer, whole = (ctypes.c_void_p, "pointer"), (ctypes.c_int64, "i64")
    return [pointer, pointer, whole, whole, pointer] + 2 * n * [whole]  # who owns it, size, item's size, data, …


def file_of(folder: str, name: str, facts: tuple) -> Path:
    """The file of a kernel for arguments of some kinds, on this kind of processor.

    facts : all else that decides what its machine code is
    """
    settings = sorted((name, value) for name, value in os.environ.items()
                      if name.startswith("NUMBA_") and name not in _IRRELEVANT)
    facts = (name, facts, *_platform(), settings)
    return Path(folder, f"{name.rpartition('.')[2]}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:_HASH]}.kernel")


@lru_cache
def _platform() -> tuple[str, ...]:
    """The processor, and where the functions are from that machine code calls."""
    from llvmlite import binding

    library = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else platform.platform()
    return (binding.get_default_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(),
            str(library), str(sys.implementation.cache_tag), _settings_file())


def _settings_file() -> str:
    """What it says, for Numba is not imported to be asked; "" where there is none."""
    try:
        return repr(Path(_SETTINGS_FILE).read_bytes())
    except OSError:
        return ""


def _digest(file: Path, content: bytes) -> bytes:
    """Of a file's content and of its name, which says whose it is: another kernel's is not taken for this one's."""
    return hashlib.sha256(file.name.encode() + b"\n" + content).digest()


def load(file: Path, kinds_of: tuple[str, ...], otherwise: Callable) -> Callable | None:
    """The kernel that a file holds for arguments of these kinds; None where it holds none, was damaged, or cannot be
    loaded.

    otherwise : the same by Numba, called where the kernel fails, to say why
    """
    try:
        content = file.read_bytes()
        digest, content = content[:32], content[32:]
        if _digest(file, content) != digest:
            return None
        head, _, code = content.partition(b"\n")
        head = json.loads(head)
        address = _address(head["symbol"], head["helpers"], code)
    except Exception as error:  # whatever it is, Numba can do without
        _log.debug("%s is not used: %s", file, error)
        return None
    return _callable(address, kinds_of, otherwise) if address else None


#: of LLVM, one for each kernel that was loaded, as long as the process lives: kernels that one maker made for other
#: taps have the same symbols
_engines = []


def _address(symbol: str, helpers: list[str], code: bytes) -> int:
    """Where a function of an object file is in memory, once that was loaded."""
    from llvmlite import binding

    if not _engines:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        end = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
        for name in helpers:
            if binding.address_of_symbol(name) is None:
                binding.add_symbol(name, end)  # never called; LLVM ends a process that lacks a name
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(symbol)


def _callable(address: int, kinds_of: tuple[str, ...], otherwise: Callable) -> Callable:
    types = [c for kind in kinds_of for c, _ in _fields(kind)]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)(address)
    arrays = [_dimensions(kind) is not None for kind in kinds_of]

    def call(*arguments) -> None:
        fields = []
        for value, array in zip(arguments, arrays):
            if array:
                fields += (None, None, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
            else:
                fields.append(value)
        nowhere = (ctypes.c_void_p * 2)()  # for no result, and no exception
        if function(ctypes.byref(nowhere, 0), ctypes.byref(nowhere, ctypes.sizeof(ctypes.c_void_p)), *fields):
            otherwise(*arguments)

    return call


def keep(file: Path, dispatcher, arguments: tuple, kinds_of: tuple[str, ...]) -> None:
    """Write what Numba has compiled for the arguments, if a process without Numba can run it.

    dispatcher : what ``numba.njit`` made, called with such arguments before
    """
    temporary = file.with_name(f"{file.name}-{uuid.uuid4().hex}")
    try:
        found = _standing_alone(dispatcher, arguments, kinds_of)
        if found is None:
            return
        symbol, code = found
        content = json.dumps({"symbol": symbol, "helpers": _helpers()}).encode() + b"\n" + code
        temporary.write_bytes(_digest(file, content) + content)
        os.replace(temporary, file)  # whole or not at all, whoever else writes it
        _remove_unused(file.parent)
    except Exception as error:  # no room, or another Numba: later processes ask Numba
        _log.debug("%s is not written: %s", file, error)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Remove kernels that nobody has read for long: in a folder that users choose, those of all versions lie."""
    for file in folder.glob(f"*-{_HASH * '[0-9a-f]'}.kernel"):  # and no file of the user's own
        with suppress(OSError):  # another process has done it
            about = file.stat()
            if time.time() - max(about.st_atime, about.st_mtime) > _UNUSED:
                file.unlink()


@lru_cache
def _helpers() -> list[str]:
    """What Numba's code may name: functions of its own, by which Python calls a kernel."""
    from numba import _helperlib
    from numba.core.runtime import _nrt_python

    return [f"numba_{name}" for name in _helperlib.c_helpers] + [f"NRT_{name}" for name in _nrt_python.c_helpers]


def _standing_alone(dispatcher, arguments: tuple, kinds_of: tuple[str, ...]) -> tuple[str, bytes] | None:
    """The symbol and the object file of what was compiled; None where it is called otherwise than ``load`` calls it, or
    calls more than the C library."""
    from numba import config, types

    from mpirecon.kernels.kept_files import KernelCache

    if config.DISABLE_JIT or config.USING_SVML:
        return None
    compiled = dispatcher.overloads.get(tuple(map(dispatcher.typeof_pyval, arguments)))
    if compiled is None or not isinstance(dispatcher._cache, KernelCache):
        return None
    stored = dispatcher._cache.machine_code(compiled.signature.args)
    if stored is None or compiled.signature.return_type != types.none:
        return None
    convention = compiled.target_context.call_conv.get_function_type(types.none, compiled.signature.args)
    wanted = ["pointer", "pointer", *(llvm for kind in kinds_of for _, llvm in _fields(kind))]
    if ["pointer" if part.is_pointer else str(part) for part in convention.args] != wanted:
        return None
    code, bitcode = stored
    symbol = compiled.fndesc.llvm_func_name
    if not all(name in _OF_ARRAYS or _in_process(name) for name in _calls(bitcode, symbol)):
        return None
    return symbol, code


def _calls(bitcode: bytes, symbol: str) -> set[str]:
    """Functions that one of a module calls, itself or through others, and that the module does not define."""
    from llvmlite import binding

    functions = {function.name: function for function in binding.parse_bitcode(bitcode).functions}
    seen, left, out = {symbol}, [symbol], set()
    while left:
        for block in functions[left.pop()].blocks:
            for instruction in block.instructions:
                if instruction.opcode not in ("call", "invoke"):
                    continue
                name = list(instruction.operands)[-1].name  # "" of an address that is found while it runs
                if name in functions and not functions[name].is_declaration:
                    left += {name} - seen
                    seen.add(name)
                elif not name.startswith("llvm."):
                    out.add(name)
    return out


def _in_process(name: str) -> bool:
    """Whether every process of Python finds a function by its name."""
    return name != "" and not name.startswith(("NRT_", "numba_")) and hasattr(ctypes.CDLL(None), name)
