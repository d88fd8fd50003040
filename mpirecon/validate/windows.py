"""Soft spherical windows all over a map, in which its half maps are compared piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.validate.masks import cosine_edge

#: Å between windows by default, as in RELION, and at most this fraction of the box, at least so many voxels
_SAMPLING, _OF_BOX, _LEAST_STEP = 25.0, 1 / 4, 3

#: Å from which on phases are random by default, as in RELION
_RANDOMISE_FROM = 25.0

#: a window lies in a piece of the map that reaches further by this fraction, and by so many voxels at least
_MARGIN, _LEAST_MARGIN = 0.1, 2

#: voxels from its centre that a window reaches at least: smaller ones hold no shells
_LEAST_REACH = 4

#: windows of one map at most; that many in a box of 256 take a day on one core
MOST_WINDOWS = 500_000


@dataclass(frozen=True)
class WindowOptions:
    """How windows lie and what is made of their curves; lengths in Å, None for the default.

    sampling : between centres, by default 25, at most a quarter of the box and at least 3 voxels
    radius : where a window is 1, by default half the sampling
    edge : of its cosine edge, by default the sampling
    randomise_from : phases are random from here on, by default 25, at most half the box
    min_resolution : what is coarser, or nothing but chance, counts as no resolution and is this in the map
    threshold : of the FSC
    """

    sampling: float | None = None
    radius: float | None = None
    edge: float | None = None
    randomise_from: float | None = None
    min_resolution: float = 50.0
    threshold: float = 0.143


@dataclass(frozen=True)
class Windows:
    """The windows of one map; lengths in voxels.

    box, pixel_size : of the map
    step : between centres
    radius, edge : of each
    options : with all defaults settled
    """

    box: int
    pixel_size: float
    step: int
    radius: int
    edge: int
    options: WindowOptions

    @classmethod
    def of(cls, box: int, pixel_size: float, given: WindowOptions = WindowOptions()) -> Windows:
        """Those of a map. Raises UserError, in one sentence, where the options make none, or no sense."""
        extent = box * pixel_size
        sampling = max(min(_SAMPLING, _OF_BOX * extent),
                       _LEAST_STEP * pixel_size) if given.sampling is None else given.sampling
        radius = sampling / 2 if given.radius is None else given.radius
        edge = sampling if given.edge is None else given.edge
        randomise = min(_RANDOMISE_FROM, extent / 2) if given.randomise_from is None else given.randomise_from
        options = WindowOptions(sampling, radius, edge, randomise, given.min_resolution, given.threshold)
        _check(options, box, pixel_size)
        made = cls(box, pixel_size, *(_whole(length / pixel_size) for length in (sampling, radius, edge)), options)
        if made.reach < _LEAST_REACH:
            raise UserError(f"local resolution: windows of radius {radius:g} Å and edge {edge:g} Å reach {made.reach} "
                            f"voxels from their centre, and need {_LEAST_REACH}; take a larger radius or edge")
        if made.reach <= np.sqrt(3) / 2 * made.step:
            raise UserError(f"local resolution: windows {sampling:g} Å apart that reach {made.reach * pixel_size:.4g} "
                            "Å leave gaps between them; take a finer sampling, or a larger radius or edge")
        if made.radius >= box // 2:
            raise UserError(f"local resolution: a window of radius {radius:g} Å does not fit a box of {extent:.4g} Å; "
                            "take a smaller radius")
        if (count := (2 * (box // 2 - made.radius) / made.step) ** 3 * np.pi / 6) > MOST_WINDOWS:
            raise UserError(f"local resolution: a sampling of {sampling:g} Å makes some {count:,.0f} windows in this "
                            f"box, and {MOST_WINDOWS:,} are the most; take a coarser sampling")
        return made

    @property
    def reach(self) -> int:
        """Voxels from a window's centre to where it is 0."""
        return self.radius + self.edge

    @property
    def size(self) -> int:
        """Voxels a side of the piece of the map that is transformed for one window."""
        return min(self.box, fft.next_fast_len(2 * (self.reach + self.margin) + 1, real=True))

    @property
    def margin(self) -> int:
        """Voxels by which the piece reaches further than the window."""
        return max(_LEAST_MARGIN, int(np.ceil(_MARGIN * self.reach)))

    def weight(self) -> np.ndarray:
        """A window, 0 … 1, (2 reach + 1,) * 3 float32, its centre in the middle."""
        return _ball(self.reach, self.radius, self.edge)

    def around(self) -> np.ndarray:
        """1 wherever the window is not 0, and fading out over the margin, (2 (reach + margin) + 1,) * 3 float32."""
        return _ball(self.reach + self.margin, self.reach, self.margin)

    def centres(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Voxels in the middle of the windows, (m, 3) int64, (z, y, x): on a grid, as RELION's, in the sphere whose
        windows' inner parts lie within the box; with a mask (n, n, n) those that reach a voxel where it is not 0.
        """
        at = np.arange(0, self.box, self.step)
        grid = np.stack(np.meshgrid(at, at, at, indexing="ij"), axis=-1).reshape(-1, 3)
        away = np.sqrt(np.square(grid - self.box // 2).sum(axis=1))
        grid = grid[away < self.box // 2 - self.radius]
        if mask is None:
            return grid
        inside, weight = mask > 0, self.weight() > 0
        reaching = [bool((inside[there] & weight[here]).any()) for there, here in map(self.overlap, grid)]
        return grid[np.array(reaching, bool)]

    def overlap(self, centre, margin: int = 0) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where a window lies, with its margin if wanted: (in the map, in the window itself), slices; what sticks out
        of the box is left out."""
        reach = self.reach + margin
        first = [max(int(c) - reach, 0) for c in centre]
        last = [min(int(c) + reach + 1, self.box) for c in centre]
        there = tuple(slice(a, b) for a, b in zip(first, last))
        return there, tuple(slice(a - int(c) + reach, b - int(c) + reach) for a, b, c in zip(first, last, centre))

    def piece(self, centre) -> tuple[slice, ...]:
        """The cube of `size` voxels, all within the box, that holds what of a window is within the box."""
        starts = (min(max(int(c) - self.size // 2, 0), self.box - self.size) for c in centre)
        return tuple(slice(start, start + self.size) for start in starts)

    def total(self, centres: np.ndarray) -> np.ndarray:
        """The windows' sum, (n, n, n) float32."""
        out, weight = np.zeros((self.box,) * 3, np.float32), self.weight()
        for there, here in map(self.overlap, centres):
            out[there] += weight[here]
        return out


def _ball(half: int, radius: float, edge: float) -> np.ndarray:
    """A soft ball in the middle of (2 half + 1,) * 3 voxels, float32."""
    x2 = np.arange(-half, half + 1, dtype=np.float32) ** 2
    return cosine_edge(np.sqrt(x2[:, None, None] + x2[:, None] + x2) - np.float32(radius), edge)


def _whole(voxels: float) -> int:
    return int(np.floor(voxels + 0.5))


def _check(options: WindowOptions, box: int, pixel_size: float) -> None:
    """Raise UserError of the first option that makes no sense for the map."""
    nyquist, extent = 2 * pixel_size, box * pixel_size
    for name in ("sampling", "radius", "edge", "randomise_from", "min_resolution"):
        value = getattr(options, name)
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"local resolution: {_WORDS[name]} {value:g} Å makes no sense; expected a positive length")
    if not 0 < options.threshold < 1:
        raise UserError(f"local resolution: an FSC threshold of {options.threshold:g} makes no sense; expected more "
                        "than 0 and less than 1, usually 0.143 or 0.5")
    if options.sampling < pixel_size:
        raise UserError(f"local resolution: windows {options.sampling:g} Å apart are nearer to each other than voxels "
                        f"of {pixel_size:g} Å; take a coarser sampling")
    for name in ("randomise_from", "min_resolution"):
        if (value := getattr(options, name)) <= nyquist:
            raise UserError(f"local resolution: {_WORDS[name]} {value:g} Å is finer than Nyquist, {nyquist:.4g} Å; "
                            f"take a coarser one")
    if options.randomise_from > extent:
        raise UserError(f"local resolution: {_WORDS['randomise_from']} {options.randomise_from:g} Å is longer than the "
                        f"box, {extent:.4g} Å; take a finer one")


_WORDS = {
    "sampling": "a sampling of", "radius": "a window radius of", "edge": "a window edge of",
    "randomise_from": "a randomisation of phases from", "min_resolution": "a minimum resolution of",
}  # fmt: skip
