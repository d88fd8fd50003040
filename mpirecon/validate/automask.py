"""A soft mask made from a map itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.operators.resample import linearly
from mpirecon.validate.fsc import filter_transform, lowest_frequencies
from mpirecon.validate.masks import cosine_edge, cut_to_sphere, radius_grid
from mpirecon.validate.shapes import distance_to, extent, filled, labels_of

#: the map is low-passed to this multiple of its resolution, and at least to so many Å and pixels
_LOWPASS, _LOWPASS_ANGSTROM, _LOWPASS_PIXELS = 1.5, 10.0, 3.0

#: voxels a side that a mask is made on at least, where the map has more
COARSEST = 96

#: where between solvent (0) and particle (1) the density is cut, at least and at most …
_LEVEL, _HIGHEST_LEVEL = 0.25, 0.5

#: … and between these, so many standard deviations above the solvent
_SOLVENT_SIGMA = 3.0

#: connected pieces of at least this fraction of the largest one's volume belong to the particle
_PIECE = 0.1

#: a map whose densities differ by less than this fraction of the largest is flat: float32 has no more digits
_FLAT = 3e-5

#: a mask of less than this fraction of the sphere that fits the box is none …
_SMALLEST = 2e-4

#: … nor is one with particle and solvent nearer than this, in standard deviations of the solvent; noise alone has 2.5
_CONTRAST = 3.5


@dataclass(frozen=True)
class AutoMask:
    """An automatic mask and how it was made.

    mask : (n, n, n) float32, 0 … 1
    lowpass : Å
    threshold : density of the low-passed map
    extend, edge : Å
    pieces : connected pieces it was grown from
    volume : its sum, Å³
    share : of the sphere that fits the box
    """

    mask: np.ndarray
    lowpass: float
    threshold: float
    extend: float
    edge: float
    pieces: int
    volume: float
    share: float

    def as_dict(self) -> dict:
        """The numbers, for summary.json."""
        return {name: value for name, value in vars(self).items() if name != "mask"}

    def __str__(self) -> str:
        many = f" of {self.pieces} pieces" if self.pieces > 1 else ""
        return (f"automatic{many}: density above {self.threshold:.4g} at {self.lowpass:.1f} Å, extended by "
                f"{self.extend:.1f} Å, with a soft edge of {self.edge:.1f} Å; {100 * self.share:.0f} % of the box's "
                f"sphere")


def lowpass(transform: np.ndarray, pixel_size: float, resolution: float, size: int | None = None) -> np.ndarray:
    """The map of a half transform (n, n, n // 2 + 1) with a Gaussian filter that is ½ at `resolution` Å, on a grid of
    `size` voxels a side; float32."""
    box, k = transform.shape[0], transform
    size = size or box
    if size < box:
        k = lowest_frequencies(k, size) * np.float32((size / box) ** 3)  # the density stays
    half = box * pixel_size / resolution
    filter_ = np.exp2(-((np.arange(size // 2 + 1) / half) ** 2)).astype(np.float32)
    return filter_transform(k.copy() if k is transform else k, filter_)


def _coarse(box: int, pixel_size: float, resolution: float) -> int:
    """Voxels a side that hold a map filtered to `resolution`, four to it; an even number, or the box itself."""
    size = max(COARSEST, 2 * int(np.ceil(2 * box * pixel_size / resolution)))
    return size if size < 0.8 * box else box


def automatic_mask(
    volume: np.ndarray, pixel_size: float, resolution: float | None = None, *, threshold: float | None = None,
    extend: float | None = None, edge: float | None = None, filter_to: float | None = None,
) -> AutoMask:
    """A soft mask around the particle in a map.

    The map is low-passed, cut three standard deviations above the solvent's level, but between a quarter and half of
    the way to the particle's (the two classes that Otsu's threshold separates, 1979), reduced to its large connected
    pieces without holes, extended, and given a raised-cosine edge.

    Parameters
    ----------
    volume : (n, n, n) float, particle brighter than solvent
    pixel_size : Å
    resolution : Å, of the map; by default three pixels. Sets what follows unless given:
    filter_to : Å, of the low-pass; by default 1.5 × resolution, at least 10 Å and 3 pixels
    threshold : density of the low-passed map
    extend : Å; by default half the resolution, at least 2 pixels, at most box / 16
    edge : Å; by default the resolution, at least 4 pixels, at most box / 8

    Raises
    ------
    UserError
        when nothing stands out from the solvent.
    """
    transform = fft.rfftn(np.asarray(volume, np.float32))
    return mask_of_transform(
        transform, pixel_size, resolution, threshold=threshold, extend=extend, edge=edge, filter_to=filter_to
    )


def mask_of_transform(
    transform: np.ndarray, pixel_size: float, resolution: float | None = None, *, threshold: float | None = None,
    extend: float | None = None, edge: float | None = None, filter_to: float | None = None,
) -> AutoMask:
    """As `automatic_mask`, of the map's half transform (n, n, n // 2 + 1)."""
    box = transform.shape[0]
    resolution = resolution or 3 * pixel_size
    filter_to = filter_to or max(_LOWPASS * resolution, _LOWPASS_ANGSTROM, _LOWPASS_PIXELS * pixel_size)
    extend = _bounded(resolution / 2, 2, box / 16, pixel_size) if extend is None else extend
    edge = _bounded(resolution, 4, box / 8, pixel_size) if edge is None else edge
    # a filtered map needs few voxels; its pieces and distances then cost a fraction of time and memory
    smooth = lowpass(transform, pixel_size, filter_to, _coarse(box, pixel_size, filter_to))
    del transform  # the caller may be done with it too
    size = smooth.shape[0]
    voxel = pixel_size * box / size
    visible = radius_grid(size) <= size / 2 - 1
    threshold = _threshold(smooth[visible]) if threshold is None else threshold
    inside, pieces = _large_pieces((smooth > threshold) & visible)
    if inside.sum() < max(8, _SMALLEST * visible.sum()):
        raise UserError("automatic mask: nothing in this map stands out from the solvent; give a mask, or a diameter")
    away = linearly(_distance(inside, voxel, extend + edge), box)
    mask = cosine_edge(away - np.float32(extend), edge)
    cut_to_sphere(mask, box / 2 - 3, 3)
    total = float(mask.sum(dtype=np.float64))
    return AutoMask(mask, float(filter_to), float(threshold), float(extend), float(edge), pieces,
                    total * pixel_size**3, total / (np.pi / 6 * box**3))


def _distance(inside: np.ndarray, voxel: float, most: float) -> np.ndarray:
    """Å of each voxel to the nearest one inside, float32;
    of those that are more than `most` Å away, about that or more."""
    margin = int(np.ceil(most / voxel)) + 2
    near = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in extent(inside))
    away = np.full(inside.shape, np.float32(most + 2 * voxel))
    away[near] = distance_to(inside[near]) * voxel
    return away


def _bounded(length: float, least: float, most: float, pixel_size: float) -> float:
    return max(least, min(most, length / pixel_size)) * pixel_size


def _threshold(density: np.ndarray) -> float:
    """Density between those of the solvent and the particle, above the solvent's noise."""
    if not np.ptp(density) > _FLAT * np.abs(density).max():
        raise UserError("automatic mask: the map is constant once it is filtered, and nothing stands out from the "
                        "solvent; give a mask, or filter it less (--lowpass)")
    cut = _otsu(density)
    solvent, particle = density[density <= cut], density[density > cut]
    level = float(np.median(solvent))
    spread = 1.4826 * float(np.median(np.abs(solvent - level)))
    bright = float(np.mean(particle)) if particle.size else level
    if not bright - level > _CONTRAST * spread:
        raise UserError("automatic mask: nothing stands out from the solvent; give a mask, or a diameter")
    return level + float(np.clip(_SOLVENT_SIGMA * spread, _LEVEL * (bright - level), _HIGHEST_LEVEL * (bright - level)))


def _otsu(values: np.ndarray) -> float:
    """The threshold that separates two classes of values best: largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middle = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middle)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _large_pieces(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """The large connected pieces without their holes, and how many they are."""
    labels, count = labels_of(inside)
    if not count:
        return inside, 0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= _PIECE * sizes.max()
    whole = large[labels]
    box = extent(whole)
    whole[box] = filled(whole[box])
    return whole, int(large.sum())
