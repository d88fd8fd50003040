"""Grey pictures of maps as PNG within the page: central slices and projections."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np

from mpirecon.report.svg import ticks

#: pixels of a picture's side at most; larger maps are averaged down
_LARGEST = 320

#: the plane that each axis leaves: (across, up)
_PLANES = {0: ("x", "y"), 1: ("x", "z"), 2: ("y", "z")}


def png(image: np.ndarray) -> bytes:
    """An (h, w) uint8 array, or in colour (h, w, 3), as a PNG file."""
    height, width = image.shape[:2]
    rows = np.zeros((height, image.size // height + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = image.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
            + chunk(b"IEND", b""))


def grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 from black at `low` to white at `high`, with y upwards, averaged down where it is large."""
    step = -(-image.shape[0] // _LARGEST)
    if step > 1:
        n = image.shape[0] // step * step
        image = image[:n, :n].reshape(n // step, step, n // step, step).mean(axis=(1, 3))
    scaled = (image - low) / max(high - low, 1e-30)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)[::-1]


def slices(volume: np.ndarray) -> list[np.ndarray]:
    """The three central slices, (n, n) each, for axes z, y, x."""
    return [np.take(volume, volume.shape[axis] // 2, axis=axis) for axis in range(3)]


def projections(volume: np.ndarray) -> list[np.ndarray]:
    """The three sums along axes z, y, x."""
    return [volume.sum(axis=axis, dtype=np.float32) for axis in range(3)]


def map_panel(volume: np.ndarray, pixel_size: float, name: str) -> str:
    """Slices in one row and projections below, each row on one grey scale, with a scale bar."""
    volume = np.asarray(volume)
    rows = [_row(slices(volume), pixel_size, f"{name}, central slice"),
            _row(projections(volume), pixel_size, f"{name}, projection")]
    return f'<div class="maps">{"".join(rows)}</div>'


def row_of_pictures(images: list[np.ndarray], pixel_size: float, name: str) -> str:
    """Three pictures side by side as HTML that needs no style sheet, for a notebook."""
    low, high = grey_range(images)
    extent = images[0].shape[0] * pixel_size
    return row_of_pngs([grey(image, low, high) for image in images], f"{name}, {extent:.4g} Å a side")


def row_of_pngs(pictures: list[np.ndarray], words: str) -> str:
    """As `row_of_pictures`, of pictures (h, w) or (h, w, 3) uint8."""
    cells = []
    for picture, (across, up) in zip(pictures, _PLANES.values()):
        data = base64.b64encode(png(picture)).decode()
        cells.append(f'<img alt="central slice {across}{up}" title="{across}{up}" width="180" '
                     f'src="data:image/png;base64,{data}">')
    return f"<div>{''.join(cells)}<br><small>{escape(words)}</small></div>"


def grey_range(images: list[np.ndarray]) -> tuple[float, float]:
    """Values that are black and white in a row of pictures."""
    low, high = np.percentile(np.stack(images), (0.5, 99.7))
    return float(low), float(high)


def _row(images: list[np.ndarray], pixel_size: float, what: str) -> str:
    low, high = grey_range(images)
    return row([grey(image, low, high) for image in images], pixel_size, images[0].shape[0], what)


def row(pictures: list[np.ndarray], pixel_size: float, box: int, what: str) -> str:
    """Three pictures, (h, w) or (h, w, 3) uint8, of planes of `box` voxels, with a scale bar."""
    extent = box * pixel_size
    bar = max((v for v in ticks(0, extent / 3, 3) if v > 0), default=extent / 4)
    cells = []
    for picture, (across, up) in zip(pictures, _PLANES.values()):
        data = base64.b64encode(png(picture)).decode()
        cells.append(
            f'<div class="map"><img alt="{escape(f"{what} {across}{up}")}" src="data:image/png;base64,{data}">'
            f'<i style="width:{100 * bar / extent:.1f}%"><b>{bar:g} Å</b></i><span>{across}{up}</span></div>'
        )
    return "".join(cells)
