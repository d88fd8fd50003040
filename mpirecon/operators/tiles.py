"""How threads share one Fourier grid: tiles of it in few colours, those of one colour too far apart to meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpirecon.kernels.gridding import first_tap
from mpirecon.kernels.tiles import make_cut, sort_runs
from mpirecon.operators.half_plane import HalfPlane
from mpirecon.parallel.threads import Threads

#: tiles of a colour for each thread, where they are cut along both axes: some hold more samples than others
_A_THREAD = 2

#: points that a slab should be wide at least,
#: so that runs of a row's samples in it are as long as those that kernels take at once
_WIDE = 16

#: grid points beside its tile where a sample may lie by rounding, on both sides
_BESIDE = 2

#: images, and samples of each, that show where slices lie
_LOOKED_AT = 64, 64


@dataclass(frozen=True)
class Slices:
    """Slices and the extended grid that they are added to.

    rotation : (m, 3, 3) float64
    ratio : padded box / box
    plane : of their samples
    shape : of the grid
    taps : points that a sample is spread to on each axis
    """

    rotation: np.ndarray
    ratio: float
    plane: HalfPlane
    shape: tuple[int, ...]
    taps: int


@dataclass(frozen=True)
class Tiles:
    """Ranges of z and y of an extended grid, for the first taps of one batch's samples.

    edges : (tiles + 1,) int64 on z, and on y, from 0 to the grid's end
    number : (tiles on z, tiles on y) int32, colour by colour
    colours : int64, the first tile of each colour, and the end
    """

    edges: tuple[np.ndarray, np.ndarray]
    number: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, slices: Slices, threads: int) -> Tiles:
        """Tiles of about as many samples each: slabs across z or y where enough of these for all threads are wide."""
        where = _first_taps(slices)
        width = [u[int(0.95 * len(u))] - u[int(0.05 * len(u))] for u in where]
        wanted = [1, 1]
        longer = int(width[1] > width[0])
        if 2 * threads * _WIDE <= width[longer]:
            wanted[longer] = 2 * threads
        else:
            wanted = [int(np.ceil(np.sqrt(4 * _A_THREAD * threads)))] * 2
        edges = [_edges(u, many, size, slices.taps + _BESIDE) for u, many, size in zip(where, wanted, slices.shape)]
        colour = np.add.outer(2 * (np.arange(len(edges[0]) - 1) % 2), np.arange(len(edges[1]) - 1) % 2)
        number = np.empty(colour.size, np.int32)
        number[np.argsort(colour.ravel(), kind="stable")] = np.arange(colour.size)
        colours = np.searchsorted(np.sort(colour.ravel()), np.arange(5))
        return cls(tuple(edges), number.reshape(colour.shape), colours)

    def shares(self, slices: Slices, threads: Threads) -> Iterator[list[np.ndarray]]:
        """Runs of the slices' samples for each thread, colour by colour;
        (n, 5) int32 each, see ``kernels/tiles.py``."""
        runs, starts, samples = self._runs(slices, threads)
        for first, stop in zip(self.colours[:-1], self.colours[1:]):
            load = samples[first:stop]
            if not load.any():
                continue
            middle = (np.cumsum(load) - load / 2) * threads.count / load.sum()
            bounds = starts[first + np.searchsorted(middle, np.arange(threads.count + 1))]
            yield [runs[a:b] for a, b in zip(bounds[:-1], bounds[1:]) if b > a]

    def _runs(self, slices: Slices, threads: Threads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All runs, sorted by tile, where each tile's begin, and how many samples it has."""
        plane, rotation = slices.plane, slices.rotation
        cut, rows = make_cut(slices.taps), plane.rows
        centre = np.array(slices.shape[:2], np.float64) // 2 - first_tap(slices.taps)[0]
        # of an image: a row crosses each edge once at most
        most = min(len(plane), 2 * (len(rows) - 1) * sum(self.number.shape))
        parts = {}  # of the images, each on a thread: its runs, and each tile's runs and samples

        def find(a: int, b: int) -> None:
            runs, counts = np.empty(((b - a) * most, 5), np.int32), np.zeros((2, self.number.size), np.int64)
            n = cut(rotation[a:b], slices.ratio, plane.kx, plane.ky, rows, centre, *self.edges, self.number, a, runs,
                    counts)
            parts[a] = runs[:n], counts

        threads.over(len(rotation), find)
        runs, counts = zip(*(parts[a] for a in sorted(parts)))
        counts = np.array(counts)
        ends = np.cumsum(counts[:, 0].T).reshape(-1, len(runs)).T  # tile by tile, in it part by part
        out, first = np.empty((ends[-1, -1], 5), np.int32), ends - counts[:, 0]
        threads.run([lambda k=k: sort_runs(runs[k], first[k].copy(), out) for k in range(len(runs))])
        return out, np.append(first[0], len(out)), counts[:, 1].sum(axis=0)


def _first_taps(slices: Slices) -> list[np.ndarray]:
    """Where the first taps of some samples lie on z, and on y, in ascending order."""
    plane, rotation = slices.plane, slices.rotation
    images, some = (np.linspace(0, many - 1, most).astype(int) for many,
                    most in zip((len(rotation), len(plane)), _LOOKED_AT))
    k = slices.ratio * np.stack([plane.kx[some], plane.ky[some]]).astype(np.float64)
    reach, beside = first_tap(slices.taps)
    x, y, z = (rotation[images, :2, axis] @ k for axis in range(3))
    found = (np.floor(np.where(x < 0, -u, u) + beside) + side // 2 - reach for u, side in zip((z, y), slices.shape))
    return [np.sort(u, axis=None) for u in found]


def _edges(where: np.ndarray, wanted: int, size: int, least: int) -> np.ndarray:
    """Edges of at most `wanted` ranges of as many samples each,
    at least so many points wide but for the first and last."""
    edges = [0]
    for cut in where[np.arange(1, wanted) * len(where) // wanted].astype(np.int64):
        if cut - edges[-1] >= least and cut < size:
            edges.append(int(cut))
    return np.array([*edges, size], np.int64)
