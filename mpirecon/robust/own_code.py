"""Whether a script's function, or class, is still the one that it was: a digest of what it does, as far as that can be
told.

Two functions of one name may differ in their code, their default values, the variables that they enclose, and those of
their module that they name. What libraries define is named, and not looked into. Neither are lists, dictionaries and
variables that a function itself sets: it may note things in them, and is the same function afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, type(Ellipsis))

#: modules of ours whose objects are made of what a script gives
_OURS = ("mpirecon.robust.", "mpirecon.solvers.kinds")

#: attributes of a class that say nothing of what it does
_NAMES_ALONE = ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__",
                "__static_attributes__", "__annotations__", "__annotate_func__", "__annotations_cache__",
                "_abc_impl", "__abstractmethods__")


def digest_of_code(thing) -> str:
    """A digest of a function, a class, or an object: the same in every process that runs the same script."""
    return hashlib.sha256(repr(_described(thing, [])).encode()).hexdigest()


def _described(value, within: list) -> object:
    """What tells a value from others, of plain values alone. within : whose parts are being described"""
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    known = next((number for number, one in enumerate(within) if one is value), None)
    if known is not None:
        return "within", known
    within = [*within, value]
    if isinstance(value, np.ndarray):
        held = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return "array", str(value.dtype), value.shape, hashlib.sha256(held).hexdigest()
    if isinstance(value, tuple):
        return "tuple", [_described(one, within) for one in value]
    if isinstance(value, frozenset):
        return "frozenset", sorted(repr(_described(one, within)) for one in value)
    if isinstance(value, (list, dict, set)):
        return type(value).__name__
    if isinstance(value, FunctionType):
        return _function(value, within)
    if isinstance(value, MethodType):
        return "method", _described(value.__func__, within), _described(value.__self__, within)
    if isinstance(value, functools.partial):
        return ("partial", _described(value.func, within), _described(value.args, within),
                _each(value.keywords, within))
    if isinstance(value, (staticmethod, classmethod)):
        return type(value).__name__, _described(value.__func__, within)
    if isinstance(value, property):
        return "property", [_described(one, within) for one in (value.fget, value.fset, value.fdel)]
    if isinstance(value, ModuleType):
        return "module", value.__name__
    if isinstance(value, type):
        return _class(value, within)
    if callable(value) and getattr(value, "__name__", None) and not getattr(value, "__dict__", None):
        return "built in", getattr(value, "__module__", None), value.__name__  # a ufunc, a function written in C
    looked_into = not _is_installed(type(value).__module__) or type(value).__module__.startswith(_OURS)
    held = getattr(value, "__dict__", {}) if looked_into else {}
    return "object", _described(type(value), within), _each(held, within)


def _each(held: Mapping, within: list) -> list:
    return [(name, _described(value, within)) for name, value in held.items()]


def _function(function: FunctionType, within: list) -> tuple:
    if _is_installed(function.__module__):
        return "function", function.__module__, function.__qualname__, _enclosed(function, within)
    used, stored = _names(function.__code__)
    named = {name: function.__globals__[name] for name in sorted(used - stored) if name in function.__globals__}
    return ("function", function.__name__, _code(function.__code__), _enclosed(function, within),
            _described(function.__defaults__, within), _each(function.__kwdefaults__ or {}, within),
            _each(named, within))


def _enclosed(function: FunctionType, within: list) -> list:
    found, (_, stored) = [], _names(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if name in stored:
            continue
        try:
            found.append(_described(cell.cell_contents, within))
        except ValueError:  # it is given a value later
            found.append("empty")
    return found


def _class(kind: type, within: list) -> tuple:
    if _is_installed(kind.__module__):
        return "class", kind.__module__, kind.__qualname__
    held = {name: value for name, value in sorted(vars(kind).items()) if name not in _NAMES_ALONE}
    return "class", kind.__name__, [_described(base, within) for base in kind.__bases__], _each(held, within)


def _is_installed(module: str | None) -> bool:
    """Whether a module is of mpirecon, of Python, or of a library: the same as long as nothing is installed."""
    top = (module or "").partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names or top in ("mpirecon", "builtins"):
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _code(code: CodeType) -> tuple:
    """What a function does, wherever it is written."""
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_kwonlyargcount,
            [_code(one) if isinstance(one, CodeType) else _described(one, []) for one in code.co_consts])


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """All that a function may look for outside itself; and what of it it sets."""
    import dis  # of the standard library, and most runs need none of this

    used, stored = set(code.co_names), set()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_DEREF"):
            stored.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            used, stored = (mine | theirs for mine, theirs in zip((used, stored), _names(inner)))
    return used, stored
