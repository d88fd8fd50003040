"""The local resolution of two half maps: its map, its numbers, and warnings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.validate.windows import Windows

#: lengths of the resolution that a window should hold: of fewer its curve scatters
_FEWEST_LENGTHS = 3.0

#: of the voxels, that are reported
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class LocalResolution:
    """What was found, and how.

    map : (n, n, n) float32, Å; ``windows.options.min_resolution`` where there is none, 0 where no window reaches or the
        mask is 0
    filtered : (n, n, n) float32, the mean of the half maps, each place filtered (and weighted by the FSC) for what is
        there, in the mask
    mask : (n, n, n) or None
    centres : (m, 3) voxels (z, y, x) of the windows
    resolution : (m,) Å of each, NaN where there is none
    of_halves : warnings about the half maps
    seconds : it took
    memory : bytes that its arrays took of each rank
    """

    map: np.ndarray
    filtered: np.ndarray
    mask: np.ndarray | None
    windows: Windows
    centres: np.ndarray
    resolution: np.ndarray
    of_halves: tuple[str, ...]
    seconds: float
    memory: int

    @property
    def pixel_size(self) -> float:
        """Å."""
        return self.windows.pixel_size

    @property
    def inside(self) -> np.ndarray:
        """Voxels that count, (n, n, n) bool:
        where the mask is at least one half, without one where a window reaches."""
        return self.map > 0 if self.mask is None else (self.mask >= 0.5) & (self.map > 0)

    @property
    def values(self) -> np.ndarray:
        """Å of the voxels inside that have a resolution, sorted."""
        values = self.map[self.inside]
        return np.sort(values[values < self._none])

    @property
    def without(self) -> float:
        """Fraction of the voxels inside that have no resolution."""
        return 1 - len(self.values) / max(int(self.inside.sum()), 1)

    @property
    def _none(self) -> float:
        return self.windows.options.min_resolution * (1 - 1e-4)

    def as_dict(self) -> dict:
        """The numbers, for JSON."""
        o, values = self.windows.options, self.values
        at = np.quantile(values, _QUANTILES).tolist() if len(values) else (None,) * len(_QUANTILES)
        counts, edges = np.histogram(values, 40, _range(values))
        return {
            **dict(zip(("best", "quartile_1", "median", "quartile_3", "worst"), at)),
            "histogram": {"edges": edges.tolist(), "voxels": counts.tolist()},
            "without_resolution": self.without, "windows": len(self.centres),
            "windows_without_resolution": int(np.isnan(self.resolution).sum()), **vars(o),
            "window_voxels": self.windows.size,
            "masked": self.mask is not None, "warnings": list(self.warnings), "seconds": self.seconds,
            "memory_bytes": self.memory,
        }  # fmt: skip

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings."""
        texts, o, values = list(self.of_halves), self.windows.options, self.values
        if len(values) and (width := 2 * o.radius + o.edge) < _FEWEST_LENGTHS * (median := float(np.median(values))):
            texts.append(f"windows of {width:.3g} Å (at half height) hold less than {_FEWEST_LENGTHS:g} lengths of the "
                        f"median local resolution, {median:.3g} Å: their curves are uncertain; larger windows (radius, "
                        "edge) give steadier values")
        return tuple(texts)

    def lines(self) -> list[str]:
        """What a user wants to read, a line each."""
        o, where = self.windows.options, "in the mask" if self.mask is not None else "in the box"
        values = self.values
        if not len(values):
            found = f"local resolution: none {where}: the half maps agree in no window"
        else:
            q = np.quantile(values, _QUANTILES)
            none = f"none in {100 * self.without:.3g} % of it, which is {o.min_resolution:g} Å in the map; of the rest "
            found = (f"local resolution {where}: {none if self.without > 0.5 else ''}median {q[2]:.2f} Å, half of it "
                     f"between {q[1]:.2f} and {q[3]:.2f} Å, 98 % between {q[0]:.2f} and {q[4]:.2f} Å (FSC "
                     f"{o.threshold:g})")
            if 0 < self.without <= 0.5:
                found += f"; {100 * self.without:.3g} % has none, and is {o.min_resolution:g} Å in the map"
        how = (f"{len(self.centres):,} windows of radius {o.radius:.4g} Å with an edge of {o.edge:.4g} Å, "
               f"{o.sampling:.4g} Å apart, took {self.seconds:.1f} s and {self.memory / 1e6:.0f} MB")
        return [found, how]


def _range(values: np.ndarray) -> tuple[float, float]:
    """What a histogram of sorted values spans: all of them, and 10 % about one that is alone."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values[0]), float(values[-1])
    return (low, high) if high > 1.1 * low else (0.95 * low, 1.05 * high)
