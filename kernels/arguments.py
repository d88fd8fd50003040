"""What a CUDA kernel takes, declared once: its parameter list, the order and the checks of its launches."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass

import numpy as np

#: what an element is in CUDA, by its dtype; `int16_pairs` and `float32_fours` are several numbers side by side
_IN_CUDA = {
    "float32": "float", "float64": "double", "int32": "int", "int64": "long long", "complex64": "float2",
    "int16_pairs": "Frequency", "float32_fours": "float4",
}  # fmt: skip
_SIZE = re.compile(r"(\w+)(?: // (\d+))?(?: \+ (\d+))?")

Size = int | str


@dataclass(frozen=True)
class Argument:
    """One argument, a number where `shape` is None.

    dtype : as ``_IN_CUDA`` has them
    shape : numbers and names of sizes, "p // 2 + 1" among them; a name that is a number of the same kernel is that
        number, any other one is the same in all shapes
    written : by the kernel
    optional : may be None
    """

    name: str
    dtype: str
    shape: tuple[Size, ...] | None = None
    written: bool = False
    optional: bool = False

    @property
    def declaration(self) -> str:
        kind = _IN_CUDA[self.dtype]
        return f"{kind} {self.name}" if self.shape is None else f"{'' if self.written else 'const '}{kind}* {self.name}"


def number(name: str, dtype: str = "int32") -> Argument:
    return Argument(name, dtype)


def array(name: str, dtype: str, *shape: Size, optional: bool = False) -> Argument:
    """An array that is read."""
    return Argument(name, dtype, shape, optional=optional)


def output(name: str, dtype: str, *shape: Size) -> Argument:
    """An array that is written, or added to."""
    return Argument(name, dtype, shape, written=True)


@dataclass(frozen=True)
class Kernel:
    """A kernel's name and table of arguments.

    source : CUDA text that defines it where it is not in a file of this folder; ``ARGUMENTS_name`` is its parameter
        list
    """

    name: str
    arguments: tuple[Argument, ...]
    source: str = ""

    @property
    def parameters(self) -> str:
        """The parameter list as CUDA has it."""
        return ", ".join(argument.declaration for argument in self.arguments)

    def arranged(self, values: dict) -> tuple:
        """Values by name in the order of the table, numbers of its dtypes.

        Arrays are of any kind that has a dtype, a size and flags, host memory's or a device's.

        Raises
        ------
        TypeError
            for a name that is missing or that the table lacks, another dtype, what is no number, or no whole one, where
            one must be, or None where an array must be
        ValueError
            for an array that is not C-contiguous, that is written and read-only, or whose size the other arguments
            contradict, and for a number that its dtype does not hold
        """
        names = [argument.name for argument in self.arguments]
        if set(names) != set(values):
            missing, unknown = sorted(set(names) - set(values)), sorted(set(values) - set(names))
            raise TypeError(f"{self.name} takes {', '.join(names)}; missing: {missing}, unknown: {unknown}")
        for argument in self.arguments:
            if argument.shape is None:
                _check_number(f"{self.name}: {argument.name}", argument.dtype, values[argument.name])
        sizes = {a.name: int(values[a.name]) for a in self.arguments if a.shape is None and a.dtype.startswith("int")}
        for argument in self.arguments:
            if argument.shape is not None:
                self._check(argument, values[argument.name], sizes)
        return tuple(
            np.dtype(a.dtype).type(values[a.name]) if a.shape is None else values[a.name] for a in self.arguments
        )

    def _check(self, argument: Argument, value, sizes: dict[str, int]) -> None:
        """Check an array, and learn the size that it is the first to give."""
        what = f"{self.name}: {argument.name}"
        if value is None:
            if not argument.optional:
                raise TypeError(f"{what} is None")
            return
        dtype, _, together = argument.dtype.partition("_")
        if value.dtype != np.dtype(dtype):
            raise TypeError(f"{what} is an array of {value.dtype}, expected {dtype}")
        if not value.flags.c_contiguous:
            raise ValueError(f"{what}, of shape {value.shape}, is not C-contiguous")
        # device memory may have no such flag: it can be written
        if argument.written and not getattr(value.flags, "writeable", True):
            raise ValueError(f"{what} is read-only, and the kernel writes into it")
        known, unknown = {"": 1, "pairs": 2, "fours": 4}[together], []
        for size in argument.shape:
            found = _size(size, sizes)
            known, unknown = (known, [*unknown, size]) if found is None else (known * found, unknown)
        if len(unknown) == 1 and known and value.size % known == 0:
            name, _, more = _SIZE.fullmatch(unknown[0]).groups()
            sizes[name] = value.size // known - int(more or 0)
        elif not unknown and value.size != known or len(unknown) == 1 and known:
            each = [(size, _size(size, sizes)) for size in argument.shape]
            expected = ", ".join(f"{size}" if found in (None, size) else f"{size} = {found}" for size, found in each)
            raise ValueError(f"{what} has the shape {value.shape}, expected ({expected})")


def _check_number(what: str, dtype: str, value) -> None:
    """TypeError where a number is none, or not a whole one where that is expected; ValueError where it is too large."""
    whole = dtype.startswith("int")
    right = (numbers.Integral, np.bool_) if whole else numbers.Real  # flags are whole numbers
    if not isinstance(value, right):
        raise TypeError(f"{what} is {value!r}, expected {'a whole number' if whole else 'a number'} ({dtype})")
    if whole and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise ValueError(f"{what} is {value}, which {dtype} does not hold")


def _size(size: Size, sizes: dict[str, int]) -> int | None:
    """A size of a shape, None where its name is not known yet."""
    if isinstance(size, int):
        return size
    name, divisor, more = _SIZE.fullmatch(size).groups()
    return sizes[name] // int(divisor or 1) + int(more or 0) if name in sizes else None
