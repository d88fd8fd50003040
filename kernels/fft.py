"""SciPy's FFTs, with the names and arguments that ``scipy.fft`` gives them, without what it loads beside them.

Where SciPy's extension module is not what is known here, they are those of ``scipy.fft`` itself.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mpirecon.kernels.scipy_parts import part

_NORMS = {None: 0, "backward": 0, "ortho": 1, "forward": 2}

_of_thread = threading.local()


@contextmanager
def workers_of(count: int) -> Iterator[None]:
    """Meanwhile this thread's transforms use so many threads where they are not told."""
    before, _of_thread.workers = getattr(_of_thread, "workers", 1), count
    try:
        yield
    finally:
        _of_thread.workers = before


@functools.cache
def _pocketfft():
    """SciPy's extension module, tried; None where it is another than is known here."""
    found = part("scipy.fft._pocketfft.pypocketfft")
    values = np.array([[1, 2, 4, 3], [0, 1, 0, 5]], np.float32)
    try:
        half = found.r2c(values, (0, 1), True, 1, None, 1)
        back = found.c2r(half, (0, 1), 4, False, 1, None, 1)
        whole = found.c2c(values.astype(np.complex64), (1,), True, 0, None, 1)
        right = np.allclose(back, values, atol=1e-5) and np.allclose(whole.sum(axis=1), 4 * values[:, 0], atol=1e-4)
    except (AttributeError, TypeError, ValueError):
        return None
    return found if right and half.dtype == whole.dtype == np.complex64 else None


def _floating(x) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "fc" or x.dtype == np.float16:
        return x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    return x if x.dtype.isnative and x.flags.aligned else np.array(x, x.dtype.newbyteorder("="))


def _threads(workers: int | None) -> int:
    return getattr(_of_thread, "workers", 1) if workers is None else workers


def _complex(forward: bool, x, axes, norm, overwrite_x: bool, workers) -> np.ndarray:
    engine = _pocketfft()
    if engine is None:
        import scipy

        function = scipy.fft.fftn if forward else scipy.fft.ifftn
        return function(x, axes=axes, norm=norm, overwrite_x=overwrite_x, workers=_threads(workers))
    values, scale = _floating(x), _NORMS[norm]
    out = values if overwrite_x and values.dtype.kind == "c" else None
    return engine.c2c(values, axes, forward, scale if forward else 2 - scale, out, _threads(workers))


def _to_half(x, axes, norm, workers) -> np.ndarray:
    engine = _pocketfft()
    if engine is None:
        import scipy

        return scipy.fft.rfftn(x, axes=axes, norm=norm, workers=_threads(workers))
    return engine.r2c(_floating(x), axes, True, _NORMS[norm], None, _threads(workers))


def _of_half(x, axes, s, norm, workers) -> np.ndarray:
    values, engine = _floating(x), _pocketfft()
    s = tuple(values.shape[a] for a in axes[:-1]) + (2 * (values.shape[axes[-1]] - 1),) if s is None else tuple(s)
    kept = all(values.shape[a] == n for a, n in zip(axes[:-1], s)) and values.shape[axes[-1]] == s[-1] // 2 + 1
    if engine is None or not kept or values.dtype.kind != "c":
        import scipy

        return scipy.fft.irfftn(values, s=s, axes=axes, norm=norm, workers=_threads(workers))
    return engine.c2r(values, axes, s[-1], False, 2 - _NORMS[norm], None, _threads(workers))


def _all(x, axes) -> tuple[int, ...]:
    return tuple(range(np.ndim(x))) if axes is None else tuple(axes)


def fft(x, axis: int = -1, norm=None, overwrite_x: bool = False, workers: int | None = None) -> np.ndarray:
    return _complex(True, x, (axis,), norm, overwrite_x, workers)


def ifft(x, axis: int = -1, norm=None, overwrite_x: bool = False, workers: int | None = None) -> np.ndarray:
    return _complex(False, x, (axis,), norm, overwrite_x, workers)


def fftn(x, axes=None, norm=None, overwrite_x: bool = False, workers: int | None = None) -> np.ndarray:
    return _complex(True, x, _all(x, axes), norm, overwrite_x, workers)


def rfft(x, axis: int = -1, norm=None, workers: int | None = None) -> np.ndarray:
    return _to_half(x, (axis,), norm, workers)


def rfft2(x, norm=None, workers: int | None = None) -> np.ndarray:
    return _to_half(x, (-2, -1), norm, workers)


def rfftn(x, axes=None, norm=None, workers: int | None = None) -> np.ndarray:
    return _to_half(x, _all(x, axes), norm, workers)


def irfft(x, n: int | None = None, axis: int = -1, norm=None, workers: int | None = None) -> np.ndarray:
    return _of_half(x, (axis,), n if n is None else (n,), norm, workers)


def irfft2(x, s=None, norm=None, workers: int | None = None) -> np.ndarray:
    return _of_half(x, (-2, -1), s, norm, workers)


def irfftn(x, s=None, axes=None, norm=None, workers: int | None = None) -> np.ndarray:
    return _of_half(x, _all(x, axes), s, norm, workers)


def next_fast_len(target: int, real: bool = False) -> int:
    engine = _pocketfft()
    if engine is None:
        import scipy

        return scipy.fft.next_fast_len(target, real)
    return engine.good_size(target, real)


#: frequencies and orders of samples: NumPy's and SciPy's are the same
fftfreq, rfftfreq, fftshift, ifftshift = np.fft.fftfreq, np.fft.rfftfreq, np.fft.fftshift, np.fft.ifftshift
