"""MRC maps and stacks (MRC2014): reading one image costs one image, writing is atomic.

Headers are laid out by the mrcfile library. Stacks are read by position rather than through a memory map: the cost
is the same, and a file that shrinks meanwhile is an error message instead of a bus error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import machine_stamp_from_byte_order

from mpirecon.errors import UserError
from mpirecon.io.atomic import atomic_path, write_failed
from mpirecon.io.fingerprint import Fingerprint, refuse_changed
from mpirecon.io.packed import refuse_packed
from mpirecon.model.arrays import Volume

#: MRC mode → type of a pixel
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
#: beyond this a pixel is a damaged number, and its square none that float32 has
LARGEST = 1e18
#: and images whose pixels differ by less were scaled to nothing: its square is none that float32 divides by
SMALLEST = 1e-15
_MOST = 2**30  # bytes of one read; Linux ends reads at 2 GB
_MODE_OF = {"float32": 2, "float16": 12}


@dataclass(frozen=True)
class MrcHeader:
    """What mpirecon needs of an MRC header.

    shape : (sections, rows, columns); dtype with its byte order; offset of the first pixel in bytes;
    voxel_size : (x, y, z) Å, 0 where the header says nothing
    axes : which of x, y, z (1, 2, 3) columns, rows, sections are
    beyond : bytes of the file after the last pixel
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    voxel_size: tuple[float, float, float]
    axes: tuple[int, int, int]
    beyond: int = 0

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_header(path: str | os.PathLike) -> MrcHeader:
    """Read and check the header of an MRC file; nothing else of the file is read.

    Raises
    ------
    UserError
        for a missing, truncated or compressed file, one that is not MRC, or a mode other than 0, 1, 2, 6 and 12.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(HEADER_DTYPE.itemsize)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    refuse_packed(path, raw, "MRC")
    if len(raw) < HEADER_DTYPE.itemsize:
        raise UserError(f"{path} is not an MRC file, or is truncated: {size} bytes are fewer than the 1024 of a header")
    orders = (">", "<") if raw[212] == 0x11 else ("<", ">")  # the machine stamp only says which to try first
    header = next((h for h in (_parse(raw, order) for order in orders) if _plausible(h, size)), None)
    if header is None:
        raise UserError(f"{path} is not an MRC file: its first 1024 bytes are no MRC header")
    mode = int(header["mode"])
    if mode not in MODES:
        raise UserError(f"{path}: MRC mode {mode} is not supported; convert it to mode 2 (float32) or 12 (float16)")
    found = _describe(header, mode)
    if size < found.offset + found.nbytes:
        raise UserError(
            f"{path} is truncated: the header promises {found.shape[0]} sections of {found.shape[2]} x "
            f"{found.shape[1]} pixels ({found.offset + found.nbytes} bytes), the file has {size} bytes; copy it again"
        )
    return replace(found, beyond=size - found.offset - found.nbytes)


def _parse(raw: bytes, order: str) -> np.void:
    return np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]


def _plausible(header: np.void, size: int) -> bool:
    """Whether this byte order makes sense. Old files lack the MAP mark; theirs must fit the file size exactly."""
    shape = [int(header[k]) for k in ("nz", "ny", "nx")]
    mode, extended = int(header["mode"]), int(header["nsymbt"])
    if not (all(0 < n < 1 << 28 for n in shape) and 0 <= mode < 256 and extended >= 0):
        return False
    if bytes(header["map"])[:3] == b"MAP":
        return True
    pixels = int(np.prod(shape, dtype=np.float64))
    return mode in MODES and size == HEADER_DTYPE.itemsize + extended + pixels * np.dtype(MODES[mode]).itemsize


def _describe(header: np.void, mode: int) -> MrcHeader:
    cell, grid = header["cella"], [int(header[k]) for k in ("mx", "my", "mz")]
    voxel = tuple(float(cell[k]) / n if n > 0 else 0.0 for k, n in zip("xyz", grid))
    axes = tuple(int(header[k]) for k in ("mapc", "mapr", "maps"))
    order = header.dtype["nx"].byteorder
    return MrcHeader(
        shape=tuple(int(header[k]) for k in ("nz", "ny", "nx")),
        dtype=np.dtype(MODES[mode]).newbyteorder(order),
        offset=HEADER_DTYPE.itemsize + int(header["nsymbt"]),
        voxel_size=voxel,
        axes=axes if sorted(axes) == [1, 2, 3] else (1, 2, 3),
    )


class StackReader:
    """Random access to the images of an .mrcs or .mrc stack; opening reads the header only.

    Attributes
    ----------
    box : int, pixels a side
    dtype : numpy dtype of the pixels in the file
    header : MrcHeader

    Raises
    ------
    UserError
        as read_header, and when the images are not square.
    """

    def __init__(self, path: str | os.PathLike, header: MrcHeader | None = None, keep_open: bool = False) -> None:
        """header : what is known of it already; keep_open : until `close`, rather than for each reading."""
        self.path = Path(path)
        self._seen = Fingerprint.of(path) if header is None and self.path.exists() else None
        self.header = header or read_header(path)
        _, rows, columns = self.header.shape
        if rows != columns:
            raise UserError(
                f"{path}: images must be square, these are {columns} x {rows} pixels; crop or pad them first"
            )
        self.box = columns
        self.dtype = self.header.dtype
        self._file = open(self.path, "rb", buffering=0) if keep_open else None

    def __len__(self) -> int:
        return self.header.shape[0]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def refuse_changed(self) -> None:
        """Raise UserError where the file is not what it was when its header was read."""
        if self._seen is not None:
            refuse_changed(self.path, self._seen)

    def read(self, indices) -> np.ndarray:
        """Images of the 0-based `indices` (any order), (k, n, n) in the machine's byte order; runs are read at once."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.box, self.box), self.dtype.newbyteorder("="))
        order = np.argsort(indices, kind="stable")
        breaks = np.flatnonzero(np.diff(indices[order]) != 1) + 1
        with self._opened():
            for run in np.split(order, breaks):
                if len(run) and (np.diff(run) == 1).all():
                    self.read_run(int(indices[run[0]]), out[run[0] : run[-1] + 1])
                elif len(run):
                    some = np.empty((len(run), *out.shape[1:]), out.dtype)
                    self.read_run(int(indices[run[0]]), some)
                    out[run] = some
        return out

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keep the file open for several runs."""
        if self._file is not None:
            yield
            return
        try:
            with open(self.path, "rb", buffering=0) as self._file:
                yield
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        finally:
            self._file = None

    def read_run(self, first: int, out: np.ndarray) -> None:
        """Successive images from the 0-based `first` on into out (k, n, n), which is contiguous; converted where out
        has another type or byte order. The file must be open."""
        for image in (first, first + len(out) - 1):
            if not 0 <= image < len(self):
                raise UserError(f"{self.path}: image {image + 1} was requested, but the stack has {len(self)}")
        run = out if out.dtype == self.dtype else np.empty(out.shape, self.dtype)
        at = self.header.offset + first * self.box * self.box * self.dtype.itemsize
        left = memoryview(run.reshape(-1).view(np.uint8))
        try:
            while len(left) and (done := os.preadv(self._file.fileno(), [left[:_MOST]], at)):
                left, at = left[done:], at + done
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        if len(left):
            raise UserError(f"{self.path} ends before image {first + len(out)}; was it truncated while it was read?")
        if run is not out:
            out[...] = run


def read_map(path: str | os.PathLike, pixel_size: float | None = None) -> Volume:
    """Read a map as float32 V[z, y, x].

    Parameters
    ----------
    pixel_size : Å; used instead of the header's

    Raises
    ------
    UserError
        naming the file when it is not a complete MRC map, not cubic, has unequal or no pixel sizes, or is not finite.
    """
    seen = Fingerprint.of(Path(path)) if Path(path).exists() else None
    header = read_header(path)
    if len(set(header.shape)) > 1:
        raise UserError(f"{path}: a map must be a cube, this is {' x '.join(map(str, header.shape[::-1]))} voxels")
    if pixel_size is None:
        pixel_size = _isotropic(path, header.voxel_size)
    n = header.shape[0]
    voxels = np.fromfile(path, header.dtype, n**3, offset=header.offset)
    refuse_changed(path, seen)
    voxels = voxels.astype(np.float32).reshape(header.shape)
    if header.axes != (1, 2, 3):  # sections, rows, columns → z, y, x
        voxels = np.ascontiguousarray(voxels.transpose([header.axes[::-1].index(axis) for axis in (3, 2, 1)]))
    _check_voxels(path, voxels)
    return Volume(voxels, pixel_size, source=str(path))


def _check_voxels(path: str | os.PathLike, voxels: np.ndarray) -> None:
    """Raise UserError for what no map has."""
    if not np.isfinite(largest := max(-voxels.min(), voxels.max())):
        raise UserError(f"{path}: the map holds NaN or infinite voxels")
    if largest > LARGEST:
        raise UserError(f"{path}: the map holds voxels of {largest:.3g}, which no map has; it is damaged")


def _isotropic(path: str | os.PathLike, voxel_size: tuple[float, float, float]) -> float:
    if min(voxel_size) <= 0 or not np.isfinite(voxel_size).all():
        raise UserError(f"{path}: the header gives no pixel size; set one, for example with relion_image_handler "
                        "--angpix")
    if max(voxel_size) - min(voxel_size) > 1e-3 * max(voxel_size):
        raise UserError(
            f"{path}: the pixel size differs between x, y and z ({', '.join(f'{v:g}' for v in voxel_size)} Å); set one "
            "for all, for example with relion_image_handler --angpix"
        )
    return float(voxel_size[0])


def write_map(path: str | os.PathLike, array, pixel_size: float, *, overwrite: bool) -> None:
    """Write a map (or one image) as float32 MRC with origin 0, as RELION does; atomic.

    Raises
    ------
    UserError
        when the file exists and overwrite is False, a voxel is none that `read_map` takes, or writing fails; nothing is
        left behind.
    """
    array = np.ascontiguousarray(array, dtype=np.float32)
    _check_voxels(path, array)
    with atomic_path(path, overwrite) as temporary, mrcfile.new(temporary) as mrc:
        mrc.set_data(array)
        mrc.voxel_size = float(pixel_size)
        mrc.header.label[0] = "Written by mpirecon"  # mrcfile's label has the time of day: equal runs, equal files


@contextmanager
def write_stack(
    path: str | os.PathLike, box: int, pixel_size: float, *, overwrite: bool, dtype: str = "float32"
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an .mrcs stack piece by piece: ``with write_stack(...) as append: append(images)``.

    Parameters
    ----------
    box : int, pixels a side
    pixel_size : float, Å
    dtype : ``"float32"`` (mode 2) or ``"float16"`` (mode 12)

    Yields
    ------
    append(images) : adds (k, n, n) images

    Raises
    ------
    UserError
        when the file exists and overwrite is False, or writing fails; nothing is left behind.
    """
    totals = _Totals()

    with atomic_path(path, overwrite) as temporary, open(temporary, "wb") as file:

        def append(images: np.ndarray) -> None:
            images = np.ascontiguousarray(images, dtype=dtype)
            if images.shape[1:] != (box, box):
                raise ValueError(f"images of shape {images.shape} for a stack of box {box}")
            totals.add(images)
            try:
                file.write(images.data)
            except OSError as error:
                raise write_failed(path, error) from error

        file.write(bytes(HEADER_DTYPE.itemsize))
        yield append
        file.seek(0)
        file.write(_stack_header(box, pixel_size, _MODE_OF[dtype], totals).tobytes())


class _Totals:
    """Running count, extremes and power of the pixels, for the header."""

    def __init__(self) -> None:
        self.images, self.pixels, self.sum, self.squares = 0, 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, images: np.ndarray) -> None:
        if images.size:
            self.images += len(images)
            self.pixels += images.size
            self.sum += float(images.sum(dtype=np.float64))
            self.squares += float(np.square(images, dtype=np.float64).sum())
            self.low, self.high = min(self.low, float(images.min())), max(self.high, float(images.max()))


def _stack_header(box: int, pixel_size: float, mode: int, totals: _Totals) -> np.ndarray:
    header = np.zeros((), HEADER_DTYPE)
    header["nx"] = header["ny"] = header["mx"] = header["my"] = box
    header["nz"], header["mz"], header["mode"] = totals.images, 1, mode  # mz 1, ispg 0: a stack of images
    header["cella"] = (box * pixel_size, box * pixel_size, pixel_size)
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"], header["nversion"], header["nlabl"] = b"MAP ", 20141, 1
    header["machst"] = machine_stamp_from_byte_order()
    header["label"][0] = b"Written by mpirecon"
    if totals.pixels:
        mean = totals.sum / totals.pixels
        header["dmin"], header["dmax"], header["dmean"] = totals.low, totals.high, mean
        header["rms"] = np.sqrt(max(totals.squares / totals.pixels - mean * mean, 0.0))
    return header
