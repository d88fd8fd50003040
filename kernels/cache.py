"""Where compiled kernels are kept, and that a kernel works where they cannot be kept."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
from pathlib import Path

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, UserProvidedCacheLocator

#: what moves the cache
VARIABLE = "NUMBA_CACHE_DIR"

_log = logging.getLogger(__name__)


def _choose_folder() -> str:
    """Keep compiled kernels in a folder named by their sources, unless NUMBA_CACHE_DIR says where; the folder wanted.

    Numba would notice a change of a kernel's own file, not of another file's function inlined into it: after an
    upgrade it could run the old one.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    given = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""  # which would be taken for /
    caches = given if os.path.isabs(given) else os.path.join(home, ".cache")
    if not os.path.isabs(caches):
        return "a home folder"  # no HOME, and a user that the system does not know
    digest = hashlib.sha256(numba.__version__.encode())
    # an editable install has this folder elsewhere
    package = Path(sys.modules[__package__.partition(".")[0]].__file__).parent
    for source in sorted((*Path(__file__).parent.glob("*.py"), *(package / "search").glob("*.py"))):
        digest.update(source.read_bytes())
    folder = os.path.join(caches, "mpirecon", "kernels-" + digest.hexdigest()[:16])
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return folder  # a read-only home: they are kept beside the sources, or not at all
    if os.access(folder, os.W_OK):
        numba.config.CACHE_DIR = folder
    return folder


_FOLDER = _choose_folder()


def njit(function=None, *, cache: bool = False, **options):
    """``numba.njit``, whose cache may have no place, no room, or damaged files in it: the kernel is then compiled."""
    if function is None:
        return functools.partial(njit, cache=cache, **options)
    made = numba.njit(function, **options)
    if cache:
        try:
            made._cache = KernelCache(function)  # as its enable_caching() does with Numba's own
        except (OSError, RuntimeError):  # Numba finds no folder that can be written
            beside = Path(function.__code__.co_filename).parent
            warn_once(f"compiled kernels cannot be stored: neither {_FOLDER} nor {beside} can be written")
    return made


class _Places(CompileResultCacheImpl):
    """Numba's two first places: the folder that is configured, and beside the sources. Its third would be a folder
    named ~ here for a user without a home."""

    _locator_classes = [UserProvidedCacheLocator, InTreeCacheLocator]


class KernelCache(FunctionCache):
    """Numba's files of one kernel's machine code, done without where they cannot be read or written."""

    _impl_class = _Places

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            self._do_without("read", error)
        except Exception:  # of a file that was cut short: whatever pickle and LLVM make of it
            self._begin_anew()
        return None

    def save_overload(self, sig, data) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self._do_without("written", error)

    def _begin_anew(self) -> None:
        try:
            self.flush()
        except OSError as error:
            self._do_without("written", error)

    def _do_without(self, what: str, error: OSError) -> None:
        self.disable()
        warn_once(f"compiled kernels cannot be {what} in {self.cache_path} ({_reason(error)})")


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


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
