"""NumPy's transforms, in the precision of their input as cuFFT's are."""

from __future__ import annotations

import numpy as _np


def _transform(name):
    function = getattr(_np.fft, name)

    def transform(a, *arguments, **options):
        import cupy

        result = function(a._host, *arguments, **options)
        single = a.dtype.itemsize == (8 if a.dtype.kind == "c" else 4)
        kind = "c" if result.dtype.kind == "c" else "f"
        return cupy._new(result.astype(kind + str((4 if single else 8) * (2 if kind == "c" else 1))))

    return transform


def fft(a, n=None, axis=-1, norm=None):
    return _transform("fft")(a, n=n, axis=axis, norm=norm)


def ifft(a, n=None, axis=-1, norm=None):
    return _transform("ifft")(a, n=n, axis=axis, norm=norm)


def rfft(a, n=None, axis=-1, norm=None):
    return _transform("rfft")(a, n=n, axis=axis, norm=norm)


def irfft(a, n=None, axis=-1, norm=None):
    return _transform("irfft")(a, n=n, axis=axis, norm=norm)


def rfft2(a, s=None, axes=(-2, -1), norm=None):
    return _transform("rfft2")(a, s=s, axes=axes, norm=norm)


def irfft2(a, s=None, axes=(-2, -1), norm=None):
    return _transform("irfft2")(a, s=s, axes=axes, norm=norm)


def rfftn(a, s=None, axes=None, norm=None):
    return _transform("rfftn")(a, s=s, axes=axes, norm=norm)


def irfftn(a, s=None, axes=None, norm=None):
    return _transform("irfftn")(a, s=s, axes=axes if axes is not None else None if s is None else tuple(range(len(s))),
                                norm=norm)
