"""Kernels that Numba compiles when they are first called, where they are kept, and that they work where they cannot be.

Numba itself is imported then, too, unless the kernel's machine code was kept (``machine_code``).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

from mpirecon.errors import UserError
from mpirecon.kernels import machine_code

#: what moves the cache
VARIABLE = "NUMBA_CACHE_DIR"

#: what has Numba compile nothing
DISABLED = "NUMBA_DISABLE_JIT"

_log = logging.getLogger(__name__)


@functools.lru_cache
def _folder() -> tuple[str, bool]:
    """The folder that compiled kernels belong in, named by their sources unless NUMBA_CACHE_DIR says where, and whether
    it can be used.

    Numba would notice a change of a kernel's own file, not of another file's function inlined into it: after an
    upgrade it could run the old one.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE], True
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""  # which would be taken for /
    caches = given if os.path.isabs(given) else os.path.join(home, ".cache")
    if not os.path.isabs(caches):
        return "a home folder", False  # no HOME, and a user that the system does not know
    folder = os.path.join(caches, "mpirecon", "kernels-" + _sources()[:16])
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return folder, False  # a read-only home: they are kept beside the sources, or not at all
    return folder, os.access(folder, os.W_OK)


@functools.lru_cache
def _sources() -> str:
    """A digest of Numba's version and of all files that kernels are written in."""
    digest = hashlib.sha256(Path(find_spec("numba").origin).with_name("_version.py").read_bytes())
    # an editable install has this folder elsewhere
    package = Path(sys.modules[__package__.partition(".")[0]].__file__).parent
    for source in sorted((*Path(__file__).parent.glob("*.py"), *(package / "search").glob("*.py"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def kept_in() -> str:
    """The folder that compiled kernels are kept in; "" where Numba looks for another."""
    folder, usable = _folder()
    return folder if usable else ""


class Later:
    """Something of Numba's that is made when it is first used; then it is in all respects what was made."""

    _one_at_a_time = threading.RLock()

    def __init__(self, make: Callable[[], Callable]) -> None:
        self._make, self._made = make, None

    @property
    def made(self) -> Callable:
        if self._made is None:
            with self._one_at_a_time:
                self._made = self._made or self._make()
        return self._made

    def __call__(self, *arguments, **named):
        return self.made(*arguments, **named)

    def __getattr__(self, name: str):
        if name.startswith("__"):  # which inspect and copy look for
            raise AttributeError(name)
        return getattr(self.made, name)


def later(module: str, *names: str) -> tuple[Later, ...]:
    """Things of a module that imports Numba, for kernels to use."""
    return tuple(Later(lambda name=name: getattr(import_module(module), name)) for name in names)


def njit(function=None, *, cache: bool = False, **options):
    """``numba.njit``, whose cache may have no place, no room, or damaged files in it: the kernel is then compiled."""
    if function is None:
        return functools.partial(njit, cache=cache, **options)
    make = functools.partial(_compiled, function, cache, options)
    return functools.update_wrapper(Kernel(make, function, options) if cache else Later(make), function)


@functools.lru_cache(maxsize=None)
def _digest(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:  # typed in, or in an archive
        return ""


def _bytecode(code: CodeType) -> tuple:
    """What a function does, wherever it is written."""
    return (code.co_code, code.co_names, code.co_varnames,
            [_bytecode(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts])


class Kernel(Later):
    """A kernel that is kept: each kind of arguments has its machine code, Numba's where no other was found."""

    def __init__(self, make: Callable[[], Callable], function, options: dict) -> None:
        super().__init__(make)
        self._function, self._options, self._found = function, options, {}
        # now: files may have changed when it is compiled
        self._source = _sources(), _digest(function.__code__.co_filename)

    def __call__(self, *arguments, **named):
        if named:
            return super().__call__(*arguments, **named)
        kinds = machine_code.kinds(arguments)
        found = self._found.get(kinds)
        return found(*arguments) if found else self._first(kinds, arguments)

    def _first(self, kinds: tuple[str, ...] | None, arguments: tuple):
        """Call it, with arguments of these kinds for the first time."""
        if kinds is None or not (folder := kept_in()) or (facts := self._facts()) is None:
            return self.made(*arguments)
        file = machine_code.file_of(folder, self._function.__qualname__, (facts, kinds))
        with self._one_at_a_time:
            if kinds not in self._found:
                self._found[kinds] = machine_code.load(file, kinds, super().__call__) or self.made
        kernel = self._found[kinds]
        result = kernel(*arguments)
        if kernel is self._made:
            machine_code.keep(file, kernel, arguments, kinds)
        return result

    @property
    def variants(self) -> int:
        """For how many kinds of arguments this process has its machine code, compiled or kept by another."""
        kept = sum(found is not self._made for found in self._found.values())
        return kept + (len(self._made.signatures) if self._made else 0)

    def _facts(self) -> tuple | None:
        """All that decides what it does but for its arguments; None where that is not known."""
        try:
            cells = [cell.cell_contents for cell in self._function.__closure__ or ()]
        except ValueError:
            return None
        if not all(value is None or isinstance(value, (bool, int, float, str)) for value in cells):
            return None
        options = sorted((name, sorted(v) if isinstance(v, set) else v) for name, v in self._options.items())
        return self._source, self._function.__module__, _bytecode(self._function.__code__), cells, options


def refuse_disabled() -> None:
    """Raise UserError where the environment has Numba compile nothing: Python cannot run the kernels."""
    text = os.environ.get(DISABLED, "")
    with suppress(ValueError):  # which Numba takes for 0
        if not int(text):
            return
        raise UserError(f"{DISABLED}={text}: Numba compiles nothing, and mpirecon's kernels are of no use uncompiled: "
                        f"unset {DISABLED}")


def _compiled(function, cache: bool, options: dict):
    refuse_disabled()
    import numba

    from mpirecon.kernels.kept_files import KernelCache

    if numba.config.DISABLE_JIT:
        raise UserError("Numba is configured to compile nothing (disable_jit in .numba_config.yaml, or "
                        "numba.config.DISABLE_JIT), and mpirecon's kernels are of no use uncompiled: take it out")

    if folder := kept_in():
        numba.config.CACHE_DIR = folder
    found = function.__globals__  # in which Numba looks for kernels that this one calls, and knows none but its own
    for name in _names(function.__code__):
        if isinstance(found.get(name), Later):
            found[name] = found[name].made
    made = numba.njit(function, **options)
    if cache:
        try:
            made._cache = KernelCache(function)  # as its enable_caching() does with Numba's own
        except (OSError, RuntimeError):  # Numba finds no folder that can be written
            beside = Path(function.__code__.co_filename).parent
            warn_once(f"compiled kernels cannot be stored: neither {_folder()[0]} nor {beside} can be written")
    return made


def _names(code: CodeType) -> Iterator[str]:
    """All that a function may look for in its module."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


class _Warned:
    """What went wrong first in this process, as it was reported."""

    fact: str | None = None


def kept() -> bool:
    """Whether compiled kernels have been kept so far, as far as is known."""
    return _Warned.fact is None


def warn_once(fact: str) -> None:
    """Log one warning a process, whatever else fails alike."""
    if _Warned.fact is None:
        _Warned.fact = fact
        _log.warning("%s; they are compiled at each start, which takes up to half a minute. Set %s to a folder that "
                     "can be written and has 100 MB free", fact, VARIABLE)


def reason_of(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
