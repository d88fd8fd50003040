"""Which values a parameter takes, said once by its annotation: settings and arguments are checked alike.

An annotation is int, float, bool, str, a class, None, ``Literal``, ``tuple``, ``Mapping``, ``Sequence``, a union of
these, or one of the kinds below, which have a range. Numbers of NumPy count as numbers; text never does.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mpirecon.errors import UserError, in_python, option_of


@dataclass(frozen=True)
class Range:
    """Which numbers are taken: from `low` (or above it, with `above`) to `high`; infinity only where `infinite`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    infinite: bool = False

    def __contains__(self, number: float) -> bool:
        return (self.infinite or math.isfinite(number)) and self.low <= number <= self.high and not (
            self.above and number == self.low)

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f" {'above' if self.above else 'of at least'} {self.low:g}"
        return low + ("" if self.high >= 2**31 else f"{' and' if low else ' of'} at most {self.high:g}")


Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
#: a probability, or a fraction of something
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
AnyPath = Union[str, os.PathLike]

_FINITE = Range()
_TAKEN_AS_THEY_ARE = (Any, object, inspect.Parameter.empty)
_NONE = type(None)


class _Refused(Exception):
    """The value is none of a kind; the text is what is expected."""


def of_kind(value, kind, name: str):
    """The value, as Python's own number or tuple where it is one.

    Parameters
    ----------
    value : object
    kind : annotation
    name : str
        of the parameter, in the message

    Raises
    ------
    UserError
        saying what was given and what is expected.
    """
    try:
        return _converted(value, kind)
    except _Refused as refused:
        raise UserError(f"{name}{shown(value)}: expected {refused}") from None


def shown(value) -> str:
    """A value in a message: a long one, or one that has no short text, by its type."""
    if isinstance(value, numbers.Number):
        return str(value)
    text = repr(value) if isinstance(value, (str, tuple, list, dict, _NONE)) else ""
    return text if 0 < len(text) <= 80 and "\n" not in text else f"{type(value).__name__}(…)"


def checked_fields(settings) -> dict[str, Any]:
    """The values of a dataclass's fields, each of the kind that it is annotated with.

    Raises
    ------
    UserError
        naming the option.
    """
    kinds = _kinds_of_fields(type(settings))
    return {name: of_kind(getattr(settings, name), kind, f"{_called(name)} ") for name, kind in kinds.items()}


def _called(name: str) -> str:
    """A setting in a message: its option, or, where that stands for one of its values, its name."""
    option = option_of(name)
    return option if in_python(option) == name else name


def checked(function: Callable) -> Callable:
    """Check a function's arguments by its annotations before it is called; UserError naming the parameter."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*given, **named):
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # Python's own message names the function
        kinds = _kinds_of_parameters(function)
        for name in bound.arguments.keys() & kinds.keys():
            bound.arguments[name] = of_kind(bound.arguments[name], kinds[name], f"{name}=")
        return function(*bound.args, **bound.kwargs)

    return wrapper


@functools.lru_cache(maxsize=None)
def _kinds_of_fields(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in fields(settings)}


@functools.lru_cache(maxsize=None)
def _kinds_of_parameters(function: Callable) -> dict[str, Any]:
    annotations = {p.name: p.annotation for p in inspect.signature(function).parameters.values()
                   if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.annotation is not p.empty}
    # of modules that postpone the evaluation of annotations
    return {name: eval(text, function.__globals__) if isinstance(text, str) else text
            for name, text in annotations.items()}


def _converted(value, kind):
    if kind in _TAKEN_AS_THEY_ARE:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _of_several(value, get_args(kind))
    if origin is Annotated:
        return _number(value, *get_args(kind)[:2])
    if kind in (int, float):
        return _number(value, kind, _FINITE)
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise _Refused(_words(kind))
        return value
    if origin is tuple:
        return _tuple(value, get_args(kind), _words(kind))
    if kind is bool:
        if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
            raise _Refused(_words(kind))
        return bool(value)
    if origin is Sequence and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return _tuple(value, (get_args(kind)[0], ...), _words(kind))
    expected = _NONE if kind is None else origin or kind
    if not isinstance(value, expected) or (expected is Sequence and isinstance(value, (str, bytes))):
        raise _Refused(_words(kind))
    return value


def _number(value, kind: type, within: Range):
    # bool is a number to Python, and no one means it as one
    right = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, right) or value not in within:
        raise _Refused(_words(Annotated[kind, within]))
    return kind(value)


def _tuple(value, kinds: tuple, words: str) -> tuple:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _Refused(words)
    try:
        values = tuple(value)
    except TypeError:  # an array without axes
        raise _Refused(words) from None
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise _Refused(words)
    try:
        return tuple(_converted(one, kind) for one, kind in zip(values, kinds))
    except _Refused:
        raise _Refused(words) from None


def _of_several(value, kinds: tuple):
    if os.PathLike in kinds and isinstance(value, str) and not value:
        raise _Refused("a path that is not empty")
    for kind in kinds:
        try:
            return _converted(value, kind)
        except _Refused:
            continue
    words = [_words(kind) for kind in kinds if not (kind is str and os.PathLike in kinds)]
    raise _Refused(" or ".join(words))


def _words(kind) -> str:
    """What a kind is, for messages."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_WORDS[parts[0]]}{parts[1]}"
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(repr, parts[:-1])), repr(parts[-1]))))
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"{len(parts)} values, {' and '.join(_words(part) for part in parts)}"
    if origin in (tuple, Sequence):
        return f"a list or tuple, of {_words(parts[0]).removeprefix('a ')}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in parts)
    return _WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", os.PathLike: "a path",
          _NONE: "None", None: "None", Mapping: "a dict", Sequence: "a list or tuple", Callable: "a function"}
