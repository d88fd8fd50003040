"""Local resolution: the FSC of two half maps in soft windows all over the box (Cardone, Heymann & Steven 2013, J.
Struct. Biol. 184, 226), each corrected for its window by random phases (Chen et al.
2013), as relion_postprocess --locres does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from mpirecon.errors import UserError
from mpirecon.kernels import fft
from mpirecon.kernels.shells import correlate_shells
from mpirecon.parallel.comm import Communicator, SerialCommunicator, together
from mpirecon.parallel.threads import Threads
from mpirecon.validate.fsc import crossing, shell_count
from mpirecon.validate.guinier import figure_of_merit
from mpirecon.validate.local_result import LocalResolution
from mpirecon.validate.map_warnings import half_map_warnings
from mpirecon.validate.masks import independent_share
from mpirecon.validate.randomised import randomise_phases
from mpirecon.validate.windows import WindowOptions, Windows

#: random phases of each half map; all pairs of them are compared, so that 2 + 2 transforms give four curves
_DRAWS = 2

#: shells of the whole box above that of the random phases in which their edge still shows, as in RELION
_MARGIN = 2

#: standard deviations of chance by which the curve up to its crossing must differ from 0
_SIGNIFICANT = 3.0

#: the map of a window is weighted by its FSC up to where that falls below this, as in RELION
_NOTHING = 1e-4

#: how a loop over windows is shown: given their number, of all ranks and of this one, a context manager
Progress = Callable[[int, int], AbstractContextManager]


def local_resolution(
    half1: np.ndarray, half2: np.ndarray, pixel_size: float, *, mask: np.ndarray | None = None,
    options: WindowOptions = WindowOptions(), gain: np.ndarray | None = None, seed: int = 1, threads: int = 1,
    comm: Communicator | None = None, progress: Progress | None = None,
) -> LocalResolution:
    """The FSC of two unmasked half maps in soft spherical windows, and where it falls below the threshold. Collective.

    Each voxel's frequency is the mean of those of the windows over it, weighted by them, as in RELION. A window whose
    curve up to its crossing is no more than chance, or that ends before ``options.min_resolution``, has no resolution.

    Parameters
    ----------
    half1, half2 : (n, n, n) float
    pixel_size : Å
    mask : (n, n, n), 0 … 1; only windows that reach a voxel of it are computed, which changes nothing inside
    gain : (n // 2 + 1,) that the filtered map is multiplied by (B-factor, MTF); by default 1
    seed : of the random phases
    threads : of each rank
    comm : whose ranks share the windows, each holding the maps
    progress : called with how many windows there are, of all ranks and of this one; a context manager that gives
        something with ``update(count)``

    Raises
    ------
    UserError
        when the maps are no cubes of one size, not finite or constant, or the options make no sense for them.
    """
    began, comm = time.perf_counter(), comm or SerialCommunicator()
    with together(comm):
        pair = _checked(half1, half2, mask)
        windows = Windows.of(len(pair[0]), pixel_size, options)
        centres = windows.centres(mask)
        if not len(centres):
            where = "reaches the mask" if mask is not None else "fits the box"
            raise UserError(f"local resolution: no window of radius {windows.options.radius:.4g} Å, "
                            f"{windows.options.sampling:.4g} Å apart, {where}; take a finer sampling or a smaller "
                            "radius")
        work = _Work(windows, pair, windows.total(centres), gain, seed)
        resolution, filtered = _measured(work, centres, comm, Threads(threads), progress)
    comm.allreduce(resolution)
    comm.allreduce(filtered)
    with together(comm):
        found = _blended(windows, centres, resolution, work.total)
        reached = (work.total > 0) if mask is None else (work.total > 0) & (mask > 0)
        found[~reached] = 0
        filtered = np.divide(filtered, work.total, out=np.zeros_like(filtered), where=reached)
        if mask is not None:
            filtered *= mask
    seconds, memory = time.perf_counter() - began, work.memory(threads, mask)
    return LocalResolution(found, filtered, mask, windows, centres, resolution, half_map_warnings(*pair), seconds,
                           memory)


def _measured(
    work: _Work, centres: np.ndarray, comm: Communicator, threads: Threads, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """Å of the windows that are this rank's, 0 of the others, and their part of the filtered map; for `together`."""
    mine = np.arange(comm.rank, len(centres), comm.size)
    resolution, filtered = np.zeros(len(centres)), np.zeros_like(work.total)
    with nullcontext() if progress is None else progress(len(centres), len(mine)) as shown:
        for first in range(0, len(mine), threads.count):
            batch = mine[first : first + threads.count]
            found: dict[int, tuple] = {}
            threads.run([lambda i=i, found=found: found.update({i: work.window(centres[i])}) for i in batch])
            for i in batch:  # in the order of the windows, however many threads there are
                resolution[i], part = found[i]
                filtered[work.windows.overlap(centres[i])[0]] += part
            comm.heed()
            if shown is not None:
                shown.update(len(batch))
    return resolution, filtered


def _blended(windows: Windows, centres: np.ndarray, resolution: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Å of each voxel: the weighted mean frequency of the windows over it; 0 where there is none."""
    out, weight, worst = np.zeros_like(total), windows.weight(), windows.options.min_resolution
    for at, (there, here) in zip(resolution, map(windows.overlap, centres)):
        out[there] += weight[here] * np.float32(1 / (worst if np.isnan(at) else at))
    return np.divide(total, out, out=np.zeros_like(out), where=out > 0)


class _Work:
    """What every window needs: the half maps, copies with random phases, and how a curve is read."""

    def __init__(self, windows: Windows, pair: Sequence[np.ndarray], total: np.ndarray, gain: np.ndarray | None,
                 seed: int) -> None:
        box, self.size = windows.box, windows.size
        self.windows, self.pair, self.total = windows, pair, total
        shell = max(1, int(box * windows.pixel_size / windows.options.randomise_from))
        rng = np.random.default_rng([seed, 0x10C])
        self.random = [[randomise_phases(half, shell, rng) for _ in range(_DRAWS)] for half in pair]
        #: first shell of a window's transform that is corrected
        self.corrected = int(np.ceil((shell + _MARGIN) / box * self.size - 1e-9))
        self.weight, self.around = windows.weight(), windows.around()
        padded = np.zeros((self.size,) * 3, np.float32)
        there, here = windows.overlap((box // 2,) * 3)
        padded[tuple(slice(0, s.stop - s.start) for s in there)] = self.weight[here]
        #: independent samples of each shell
        self.samples = shell_count(self.size) * independent_share(padded)
        k2 = [np.square(fft.fftfreq(self.size, 1 / self.size)) for _ in range(2)]
        self.k = np.sqrt(k2[0][:, None, None] + k2[1][:, None] + np.arange(self.size // 2 + 1) ** 2.0).astype(
            np.float32
        )
        at = np.arange(self.size // 2 + 1) * box / self.size
        self.gain = np.ones(len(at)) if gain is None else np.interp(at, np.arange(len(gain)), gain)

    def window(self, centre: np.ndarray) -> tuple[float, np.ndarray]:
        """Å of one window, NaN where there is none, and the filtered map in it times its weight,
        where it is within the box."""
        there, here = self.windows.overlap(centre)
        piece = self.windows.piece(centre)
        weight, buffer = self.weight[here], np.zeros((self.size,) * 3, np.float32)
        place = _within(there, piece)

        total = weight.sum(dtype=np.float64)

        def transform(volume: np.ndarray) -> np.ndarray:
            seen = volume[there] * weight
            # a level that both maps have is no structure, but the window would make a ball of it, on which they agree
            seen -= weight * np.float32(seen.sum(dtype=np.float64) / total)
            buffer[place] = seen
            return fft.rfftn(buffer)

        masked = _curve(*map(transform, self.pair))
        random = [[transform(volume) for volume in copies] for copies in self.random]
        chance = np.mean([_curve(a, b) for a in random[0] for b in random[1]], axis=0)
        true, s = masked.copy(), self.corrected
        n = np.minimum(chance[s:], 1 - 1e-9)
        true[s:] = (masked[s:] - n) / (1 - n)
        at = self._resolution(true)
        filtered = self._filtered(centre, np.interp(self.k, np.arange(len(true)), self._filter(true, at), right=0))
        return at, filtered[place] * weight

    def _filtered(self, centre: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """The mean of the half maps about a window times a gain for each sample, (size, size, size)."""
        there, here = self.windows.overlap(centre, self.windows.margin)
        piece, buffer = self.windows.piece(centre), np.zeros((self.size,) * 3, np.float32)
        inside = tuple(slice(max(t.start, p.start), min(t.stop, p.stop)) for t, p in zip(there, piece))
        here = tuple(slice(h.start + i.start - t.start, h.stop + i.stop - t.stop) for h, i,
                     t in zip(here, inside, there))
        np.multiply(self.pair[0][inside] + self.pair[1][inside], self.around[here] / 2,
                    out=buffer[_within(inside, piece)])
        seen = fft.rfftn(buffer)
        seen *= gain.astype(np.float32)
        return fft.irfftn(seen, s=buffer.shape)

    def _resolution(self, curve: np.ndarray) -> float:
        options, pixel_size = self.windows.options, self.windows.pixel_size
        at = crossing(curve, options.threshold, self.size, pixel_size)
        last = len(curve) - 1 if at is None else int(self.size * pixel_size / at)
        counted = self.samples[1 : last + 1]
        chance = (curve[1 : last + 1] * counted).sum() / np.sqrt(max(counted.sum(), 1e-300))
        at = 2 * pixel_size if at is None else max(at, 2 * pixel_size)
        return at if at < options.min_resolution and chance > _SIGNIFICANT else np.nan

    def _filter(self, curve: np.ndarray, at: float) -> np.ndarray:
        """What shells of the window are multiplied by:
        C_ref, faded out at its resolution, and the gain of the whole map."""
        below = np.flatnonzero(curve < _NOTHING)
        weight = figure_of_merit(curve)
        weight[0] = 1.0
        weight[max(1, below[0]) if below.size else len(curve) :] = 0
        last = self.size * self.windows.pixel_size / (self.windows.options.min_resolution if np.isnan(at) else at)
        fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((np.arange(len(curve)) - last) / 2 + 0.5, 0, 1))
        return weight * fade * self.gain

    def memory(self, threads: int, mask: np.ndarray | None) -> int:
        """Bytes of its arrays: of whole maps, and of pieces in each thread."""
        whole = len(self.pair) * (1 + _DRAWS) + 5 + (mask is not None)  # two of them while phases are made random
        return 4 * (whole * self.windows.box**3 + (1 + threads * (2 * _DRAWS + 4)) * self.size**3)


def _within(there: tuple[slice, ...], piece: tuple[slice, ...]) -> tuple[slice, ...]:
    """Where in a piece what lies `there` in the map lies."""
    return tuple(slice(t.start - p.start, t.stop - p.start) for t, p in zip(there, piece))


def _curve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FSC of two half transforms by shells; that of shell 0, which is the maps' mean, counts as 1."""
    sums = np.zeros((3, a.shape[2]))
    correlate_shells(a, b, sums)
    norm = np.sqrt(sums[1] * sums[2])
    curve = np.divide(sums[0], norm, out=np.zeros_like(norm), where=norm > 0)
    curve[0] = 1.0
    return curve


def _checked(half1, half2, mask) -> list[np.ndarray]:
    pair = [np.ascontiguousarray(half, np.float32) for half in (half1, half2)]
    for name, half in zip(("half map 1", "half map 2"), pair):
        if half.ndim != 3 or len(set(half.shape)) != 1:
            raise UserError(f"local resolution: {name} must be a cube (n, n, n), got shape {half.shape}")
        if not np.isfinite(half).all():
            raise UserError(f"local resolution: {name} holds NaN or infinite voxels")
        if not np.ptp(half) > 0:
            raise UserError(f"local resolution: {name} is constant, there is nothing to correlate")
    for name, other in (("half map 2", pair[1]), ("the mask", mask)):
        if other is not None and other.shape != pair[0].shape:
            raise UserError(f"local resolution: half map 1 has shape {pair[0].shape}, {name} {other.shape}; they must "
                            f"be the same")
    if mask is not None and not np.any(mask > 0):
        raise UserError("local resolution: the mask is zero everywhere")
    return pair
