"""A stand-in for CuPy where there is no GPU: for tests only. Arrays are NumPy's, kernels are run by tests/host_cuda.

It has what mpirecon uses of CuPy and nothing else, with CuPy's signatures (tests/test_fake_cupy.py compares them with
the real package where that is installed). Like the real one it refuses to turn a device array into a host array
unasked.

FAKE_CUPY, in the environment, holds settings as JSON: "devices", "memory" (bytes of each), "driver", "error" (what
asking for devices raises), "import_error".
"""

from __future__ import annotations

import json
import operator
import os

import numpy as _np

SETTINGS = {"devices": 1, "memory": 2**30, "driver": 13000, "error": None, "import_error": None,
            **json.loads(os.environ.get("FAKE_CUPY", "{}"))}  # fmt: skip
if SETTINGS["import_error"]:
    raise ImportError(SETTINGS["import_error"])

__version__ = "14.2.0"


class ndarray:
    """A device array. `_host` is its memory, which code under test must not touch."""

    __array_ufunc__ = None  # NumPy scalars leave arithmetic to us

    def __init__(self, shape, dtype=float, _host=None) -> None:
        if _host is None:
            MEMORY.take(_np.prod(shape, dtype=_np.int64) * _np.dtype(dtype).itemsize)
            _host = _np.empty(shape, dtype)
            if _host.dtype.kind in "fc":
                _host.fill(_np.nan)  # fresh memory is anything but zero
            self._owned = _Owned(_host.nbytes)
        self._host = _host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
                        "array explicitly.")

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    ndim = property(lambda self: self._host.ndim)
    flags = property(lambda self: self._host.flags)
    real = property(lambda self: _wrap(self._host.real, self))
    imag = property(lambda self: _wrap(self._host.imag, self))
    T = property(lambda self: _wrap(self._host.T, self))

    @property
    def data(self):
        return _Pointer(self._host.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        return {**self._host.__array_interface__, "version": 3, "stream": None}

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self._host.__dlpack__() if max_version is None else self._host.__dlpack__(max_version=max_version)

    def __dlpack_device__(self):
        return 2, 0

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is not None:
            out[...] = self._host
            return out
        return _np.array(self._host, order=order)

    def set(self, arr, stream=None):
        if not isinstance(arr, _np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"set: expected {self.dtype} {self.shape}, got {getattr(arr, 'dtype', type(arr))}")
        self._host[...] = arr

    def reshape(self, *shape, order="C"):
        return _wrap(self._host.reshape(*shape, order=order), self)

    def transpose(self, *axes):
        return _wrap(self._host.transpose(*axes), self)

    def view(self, dtype=None):
        return _wrap(self._host.view(dtype), self)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return _new(self._host.astype(dtype))

    def copy(self, order="C"):
        return _new(self._host.copy())

    def conj(self):
        return _new(self._host.conj())

    def take(self, indices, axis=None, out=None):
        return _new(self._host.take(indices._host, axis=axis))

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return _new(_np.asarray(self._host.sum(axis=axis, dtype=dtype)))

    def max(self, axis=None, out=None, keepdims=False):
        return _new(self._host.max(axis=axis, keepdims=keepdims))

    def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
        return _new(self._host.argmax(axis=axis))

    def fill(self, value):
        self._host.fill(value)

    def __len__(self):
        return len(self._host)

    def __float__(self):
        return float(self._host)

    def __getitem__(self, key):
        return _wrap(self._host[_key(key)], self)

    def __setitem__(self, key, value):
        self._host[_key(key)] = value._host if isinstance(value, ndarray) else _scalar(value)


def _key(key):
    if isinstance(key, _np.ndarray) or (isinstance(key, tuple) and any(isinstance(k, _np.ndarray) for k in key)):
        raise TypeError("index with device arrays, not with NumPy's")
    return key._host if isinstance(key, ndarray) else key


def _scalar(value):
    if isinstance(value, _np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _binary(name):
    function = getattr(operator, name)

    def forward(self, other):
        return _new(function(self._host, other._host if isinstance(other, ndarray) else _scalar(other)))

    def backward(self, other):
        return _new(function(_scalar(other), self._host))

    def in_place(self, other):
        self._host[...] = function(self._host, other._host if isinstance(other, ndarray) else _scalar(other))
        return self

    return forward, backward, in_place


for _name in ("add", "sub", "mul", "truediv", "matmul"):
    for _prefix, _method in zip(("", "r", "i"), _binary(_name)):
        setattr(ndarray, f"__{_prefix}{_name}__", _method)
ndarray.__lt__ = lambda self, other: _new(self._host < _scalar(other))
ndarray.__neg__ = lambda self: _new(-self._host)


class _Pointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class _Owned:
    """Gives memory back to the pretended device when the last array that uses it goes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __del__(self) -> None:
        MEMORY.used -= self.nbytes


class _Memory:
    """The memory of the pretended device."""

    def __init__(self) -> None:
        self.used = self.peak = 0

    def take(self, nbytes: int) -> None:
        if self.used + nbytes > SETTINGS["memory"]:
            from cupy.cuda.memory import OutOfMemoryError

            raise OutOfMemoryError(int(nbytes), self.used)
        self.used += int(nbytes)
        self.peak = max(self.peak, self.used)


MEMORY = _Memory()


def _wrap(host, base: ndarray) -> ndarray:
    out = ndarray.__new__(ndarray)
    out._host, out._base = _np.asarray(host), base
    return out


def _new(host) -> ndarray:
    host = _np.asarray(host)
    out = ndarray(host.shape, host.dtype)
    out._host[...] = host
    return out


def empty(shape, dtype=float, order="C"):
    return ndarray(shape if isinstance(shape, tuple) else (shape,), dtype)


def zeros(shape, dtype=float, order="C"):
    out = empty(shape, dtype)
    out._host.fill(0)
    return out


def ones(shape, dtype=float, order="C"):
    out = empty(shape, dtype)
    out._host.fill(1)
    return out


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    return _new(_np.asarray(a, dtype))


def ascontiguousarray(a, dtype=None):
    return a if a.flags.c_contiguous and dtype in (None, a.dtype) else _new(_np.ascontiguousarray(a._host, dtype))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else _np.asarray(a)


def matmul(x1, x2, /, out=None):
    if out is None:
        return x1 @ x2
    _np.matmul(x1._host, x2._host, out=out._host)
    return out


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return _new(_np.concatenate([a._host for a in tup], axis=axis))


def from_dlpack(array, *, device=None, copy=None):
    if isinstance(array, ndarray):
        return _wrap(array._host, array)
    return _wrap(_np.from_dlpack(_HostDlpack(array)), array)


class _HostDlpack:
    def __init__(self, array) -> None:
        self._array = array

    def __dlpack__(self, **_):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return 1, 0


class RawModule:
    """Compiled by g++ when a kernel is first asked for."""

    #: run blocks and threads in the opposite order: results that depend on it are races
    backwards = bool(os.environ.get("FAKE_CUPY_BACKWARDS"))

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", translate_cucomplex=False,
                 enable_cooperative_groups=False, name_expressions=None, jitify=None) -> None:  # fmt: skip
        if not isinstance(options, tuple) or not isinstance(code, str):
            raise TypeError("code must be text, options a tuple")
        self._code = code

    def get_function(self, name):
        import host_cuda

        from cupy.cuda.compiler import CompileException

        try:
            module = host_cuda.compile_source(self._code)
        except host_cuda.CompileError as error:
            raise CompileException(str(error), self._code, name, ()) from error
        if name not in module.names:
            raise ValueError(f"no kernel {name}")
        return _Function(module, name)


class _Function:
    def __init__(self, module, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        held = tuple(_argument(a) for a in args)
        self._module.launch(self._name, *grid, *block, held, backwards=RawModule.backwards)


def _argument(value):
    if isinstance(value, ndarray):
        return value._host
    if not isinstance(value, _np.generic):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


from cupy import cuda, fft  # noqa: E402, F401


def get_default_memory_pool():
    return cuda.memory._pool


def get_default_pinned_memory_pool():
    return cuda.pinned_memory._pool
