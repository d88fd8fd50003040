"""Local resolution of half maps that one rank has read, and its maps in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.io.mrc import read_map, write_map
from mpirecon.parallel.comm import Communicator
from mpirecon.validate.grids import check_same_grid
from mpirecon.validate.local_resolution import Progress, local_resolution
from mpirecon.validate.local_result import LocalResolution
from mpirecon.validate.masks import check_mask
from mpirecon.validate.windows import WindowOptions

#: maps that are written
LOCAL_MAPS = ("locres.mrc", "locres_filtered.mrc")


@dataclass(frozen=True)
class LocalInput:
    """What local resolution is found of: half maps and mask (n, n, n) float32, Å per voxel,
    and the filtered map's gain by shell."""

    half1: np.ndarray
    half2: np.ndarray
    mask: np.ndarray | None
    pixel_size: float
    gain: np.ndarray | None


def sharpening(box: int, pixel_size: float, bfactor: float | None, transfer: np.ndarray | None = None) -> np.ndarray:
    """What each shell is multiplied by: exp(−B k²/4) over the detector's transfer, (box // 2 + 1,)."""
    k2 = (np.arange(box // 2 + 1) / (box * pixel_size)) ** 2
    gain = np.exp(-(bfactor or 0.0) * k2 / 4)
    return gain if transfer is None else gain / transfer


def shared_local_resolution(
    comm: Communicator, given: LocalInput | None, options: WindowOptions, *, seed: int, threads: int,
    progress: Progress | None = None,
) -> LocalResolution:
    """Local resolution of what rank 0 has read; the others give None. Collective."""
    about = comm.bcast(
        None if given is None else (len(given.half1), given.mask is not None, given.pixel_size, given.gain)
    )
    box, masked, pixel_size, gain = about
    names = ("half1", "half2", "mask") if masked else ("half1", "half2")
    maps = {name: np.empty((box,) * 3, np.float32) if given is None else np.array(getattr(given, name), np.float32)
            for name in names}
    for volume in maps.values():
        comm.bcast_array(volume)
    return local_resolution(maps["half1"], maps["half2"], pixel_size, mask=maps.get("mask"), options=options, gain=gain,
                            seed=seed,
                            threads=threads, comm=comm, progress=progress)  # fmt: skip


def write_local_maps(folder: Path, found: LocalResolution) -> None:
    """LOCAL_MAPS into a folder that holds neither."""
    for name, volume in zip(LOCAL_MAPS, (found.map, found.filtered)):
        write_map(folder / name, volume, found.pixel_size, overwrite=False)


def read_mask(path, like, name: str, pixel_size: float | None = None) -> np.ndarray:
    """A mask file, (n, n, n) float32, of the grid of the map `like`, called `name`;
    pixel_size : Å, instead of that of its header. Raises UserError where it is no mask for it."""
    mask = read_map(path, pixel_size)
    check_same_grid(like, name, mask, f"the mask {path}")
    return check_mask(np.asarray(mask.array, np.float32), str(path))
