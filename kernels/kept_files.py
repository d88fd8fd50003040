"""Numba's files of compiled kernels, as ``cache.njit`` has it keep them."""

from __future__ import annotations

from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator, UserProvidedCacheLocator

from mpirecon.kernels.cache import reason_of, warn_once


class _Places(CompileResultCacheImpl):
    """Numba's two first places: the folder that is configured, and beside the sources. Its third would be a folder
    named ~ here for a user without a home."""

    _locator_classes = [UserProvidedCacheLocator, InTreeCacheLocator]

    def __init__(self, function) -> None:
        super().__init__(function)
        #: argument types → (object file, LLVM bitcode), as this process has compiled or read it: by now another one may
        #: have replaced the file
        self.compiled: dict[tuple, tuple[bytes, bytes]] = {}

    def reduce(self, cres):
        payload = super().reduce(cres)
        self._note(cres, payload)
        return payload

    def rebuild(self, target_context, payload):
        cres = super().rebuild(target_context, payload)
        self._note(cres, payload)
        return cres

    def _note(self, cres, payload: tuple) -> None:
        (_, kind, data), *_ = payload
        if kind == "object":
            self.compiled[cres.signature.args] = data


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

    def machine_code(self, types: tuple) -> tuple[bytes, bytes] | None:
        """The object file and the LLVM bitcode of what was compiled for these arguments, once; None where there are
        none."""
        return self._impl.compiled.pop(types, None)

    def _begin_anew(self) -> None:
        try:
            self.flush()
        except OSError as error:
            self._do_without("written", error)

    def _do_without(self, what: str, error: OSError) -> None:
        self.disable()
        warn_once(f"compiled kernels cannot be {what} in {self.cache_path} ({reason_of(error)})")
