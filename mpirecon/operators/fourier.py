"""FFTs of volumes in a padded box that skip the zeros, and their transposes.

A volume (n, n, n) with its origin at voxel n // 2 sits in a periodic box of p ≥ 2n voxels with the origin at voxel 0.
Padding axis by axis leaves 7/12 of the one-dimensional transforms of the whole padded box. Work goes piece by piece
through arrays that fit a cache: beside the result nothing as large as the padded box need be in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpirecon.kernels import fft
from mpirecon.parallel.threads import Threads

#: bytes of a transform that are worked on at once
_CACHE = 2_000_000

#: boxes in which accuracy costs so little that it is preferred to speed
SMALL_BOX = 96

#: boxes in which a map's FFTs take milliseconds
TINY_BOX = 48


def padding_for(box: int) -> float:
    """Side of a reconstruction's Fourier grid over the box's: 2 in small boxes, else 1.5, for 0.42 of the memory."""
    return 2.0 if box <= SMALL_BOX else 1.5


def interpolation_for(box: int, padding: float | None = None) -> dict:
    """``{"padding", "taps"}`` of a box's central slices where nothing else, or a `padding`, is asked for."""
    padding = padding_for(box) if padding is None else padding
    return {"padding": padding, "taps": taps_for(box, padding)}


def taps_for(box: int, padding: float) -> int:
    """Points on an axis of a reconstruction's interpolation kernel: 4 in small boxes and on fine grids, else 3.

    Three cost half of the work, and the direct solution gains: the narrower the kernel, the less it blurs the weights
    that it divides by. Their own error, 1e-2 of a slice's sample in the box's corners,
    is far below the noise of any image.
    """
    return 4 if box <= SMALL_BOX or padding >= 2 else 3


def padded_size(box: int, factor: float = 2.0) -> int:
    """The smallest even length ≥ factor · box that has a fast FFT."""
    p = int(np.ceil(factor * box))
    while p % 2 or not _fast(p):
        p += 1
    return p


def _fast(length: int) -> bool:
    """Whether it is a product of 2, 3 and 5, as ``scipy.fft.next_fast_len`` has it for real data: a run needs this
    before the first image is read, and SciPy's FFT, which takes long to load, later."""
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


def _place(array: np.ndarray, axis: int, p: int, out: np.ndarray | None = None) -> np.ndarray:
    """Zero-pad one axis to p with its middle element (n // 2) moved to index 0; into `out`, if given."""
    n = array.shape[axis]
    o = n // 2
    if out is None:
        out = np.empty((*array.shape[:axis], p, *array.shape[axis + 1 :]), array.dtype)
    lead = (slice(None),) * axis
    out[lead + (slice(0, n - o),)] = array[lead + (slice(o, n),)]
    out[lead + (slice(n - o, p - o),)] = 0
    out[lead + (slice(p - o, p),)] = array[lead + (slice(0, o),)]
    return out


def _cropped(array: np.ndarray, axis: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The transpose of ``_place``, in its two parts: the elements before the middle one, n // 2, and the others."""
    p, o, lead = array.shape[axis], n // 2, (slice(None),) * axis
    return array[lead + (slice(p - o, p),)], array[lead + (slice(0, n - o),)]


def planes_of(volume: np.ndarray, p: int, threads: Threads | None = None, axis: np.ndarray | None = None) -> np.ndarray:
    """(n, n, n) float32 → (n, p, p//2 + 1) complex64:
    each plane's transform in the padded box, planes in the volume's order.

    axis : (n,) float32, if given what the volume is multiplied by along x, y and z
    """
    n = len(volume)
    planes = np.empty((n, p, p // 2 + 1), np.complex64)

    def transform(first: int, last: int) -> None:
        some = np.asarray(volume[first:last], np.float32)
        if axis is not None:
            some = some * (axis[first:last, None, None] * (axis[:, None] * axis))
        a = fft.rfft(_place(some, 2, p), axis=2)
        part = _place(a, 1, p, planes[first:last])
        transformed = fft.fft(part, axis=1, overwrite_x=True)
        if transformed is not part:  # it need not be in the same memory
            part[:] = transformed

    in_pieces(n, p, transform, threads)
    return planes


def volume_of(planes: np.ndarray, threads: Threads | None = None) -> np.ndarray:
    """(n, p, p//2 + 1) complex64 → (n, n, n) float32, the transpose of ``planes_of``: in the planes' own memory, which
    must be theirs alone. What is left of it is given back."""
    n, p = planes.shape[:2]
    own = planes.reshape(n, -1).view(np.float32)[:, : n * n]  # each plane's result, where its transform began

    def some(first: int, last: int) -> None:
        out, o = own[first:last].reshape(-1, n, n), n // 2
        a = fft.ifft(planes[first:last], axis=1, norm="forward")
        for rows, part in zip((slice(0, o), slice(o, n)), _cropped(a, 1, n)):
            real = fft.irfft(part, n=p, axis=2, norm="forward")
            out[:, rows, :o], out[:, rows, o:] = _cropped(real, 2, n)

    in_pieces(n, p, some, threads)
    flat = planes.reshape(-1).view(np.float32)
    for z in range(1, n):
        flat[z * n * n : (z + 1) * n * n] = own[z]
    planes.resize(-(-(n**3) // 2), refcheck=False)
    return planes.view(np.float32)[: n**3].reshape(n, n, n)


#: what is done to a piece of a spectrum: the rows ky first … last − 1, (p, last − first, p//2 + 1) complex64
Piece = Callable[[np.ndarray, int, int], None]


def read_spectrum(planes: np.ndarray, function: Piece, threads: Threads | None = None) -> None:
    """``function(spectrum, first, last)`` for each piece of the planes' transform along z;
    all of it is never in memory."""
    p = planes.shape[1]
    in_pieces(p, p, lambda first, last: function(_along_z(planes, first, last), first, last), threads)


def write_spectrum(planes: np.ndarray, function: Piece, threads: Threads | None = None) -> np.ndarray:
    """Overwrite the planes with the transform back along z of what ``function(spectrum, first, last)`` writes;
    returns them."""
    n, p = planes.shape[:2]

    def some(first: int, last: int) -> None:
        spectrum = np.empty((p, last - first, planes.shape[2]), np.complex64)
        function(spectrum, first, last)
        _back_along_z(spectrum, planes[:, first:last])

    in_pieces(p, p, some, threads)
    return planes


def change_spectrum(planes: np.ndarray, function: Piece, threads: Threads | None = None) -> np.ndarray:
    """Transform the planes along z, let ``function(spectrum, first, last)`` change that, and transform back;
    in place."""
    n, p = planes.shape[:2]

    def some(first: int, last: int) -> None:
        spectrum = _along_z(planes, first, last)
        function(spectrum, first, last)
        _back_along_z(spectrum, planes[:, first:last])

    in_pieces(p, p, some, threads)
    return planes


def _along_z(planes: np.ndarray, first: int, last: int) -> np.ndarray:
    return fft.fft(_place(planes[:, first:last], 0, planes.shape[1]), axis=0, overwrite_x=True)


def _back_along_z(spectrum: np.ndarray, out: np.ndarray) -> None:
    """out : (n, …), overwritten; the spectrum is, too"""
    n = len(out)
    spectrum = fft.ifft(spectrum, axis=0, norm="forward", overwrite_x=True)
    out[: n // 2], out[n // 2 :] = _cropped(spectrum, 0, n)


def in_pieces(length: int, p: int, function: Callable[[int, int], None], threads: Threads | None) -> None:
    """``function(first, last)`` for pieces of range(length) that fit a cache,
    the same ones whatever the number of threads."""
    step = max(1, _CACHE // (8 * p * (p // 2 + 1)))
    starts = range(0, length, step)

    def some(a: int, b: int) -> None:
        for first in starts[a:b]:
            function(first, min(first + step, length))

    (threads or Threads()).over(len(starts), some)


def transform_padded(volume: np.ndarray, p: int, threads: Threads | None = None) -> np.ndarray:
    """(n, n, n) float32 → (p, p, p//2 + 1) complex64: V̂(k) = Σ_r V(r) exp(−2πi k·r / p)."""
    half = np.empty((p, p, p // 2 + 1), np.complex64)

    def put(spectrum: np.ndarray, first: int, last: int) -> None:
        half[:, first:last] = spectrum

    read_spectrum(planes_of(volume, p, threads), put, threads)
    return half


def transform_cropped(half: np.ndarray, n: int, threads: Threads | None = None) -> np.ndarray:
    """(p, p, p//2 + 1) complex64 → (n, n, n) float32: Σ_k F(k) exp(+2πi k·r / p), the transpose of the above.

    The sum runs over the whole Friedel-symmetric grid of which `half` is a half; no division by p³.
    """
    planes = np.empty((n, *half.shape[1:]), np.complex64)

    def take(spectrum: np.ndarray, first: int, last: int) -> None:
        spectrum[:] = half[:, first:last]

    return volume_of(write_spectrum(planes, take, threads), threads)
