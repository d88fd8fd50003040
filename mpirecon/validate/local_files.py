"""Local resolution of half maps in files: of any two beside their post-processing, or of a finished run, into its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io import folder_lock
from mpirecon.io.atomic import atomic_files, refuse_existing
from mpirecon.io.fingerprint import Fingerprint, refuse_changed
from mpirecon.io.inputs import Input
from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.run_output import read_summary, write_summary
from mpirecon.io.unfinished import state_of
from mpirecon.parallel.comm import Communicator
from mpirecon.validate.grids import check_same_grid
from mpirecon.validate.local_resolution import LocalResolution, Progress, local_resolution
from mpirecon.validate.windows import WindowOptions

#: maps that are written
LOCAL_MAPS = ("locres.mrc", "locres_filtered.mrc")


@dataclass(frozen=True)
class LocalInput:
    """What local resolution is found of: half maps and mask (n, n, n) float32, Å per voxel, and the filtered map's gain by shell."""

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
    about = comm.bcast(None if given is None else (len(given.half1), given.mask is not None, given.pixel_size, given.gain))
    box, masked, pixel_size, gain = about
    names = ("half1", "half2", "mask") if masked else ("half1", "half2")
    maps = {name: np.empty((box,) * 3, np.float32) if given is None else np.array(getattr(given, name), np.float32) for name in names}
    for volume in maps.values():
        comm.bcast_array(volume)
    return local_resolution(maps["half1"], maps["half2"], pixel_size, mask=maps.get("mask"), options=options, gain=gain, seed=seed,
                            threads=threads, comm=comm, progress=progress)  # fmt: skip


def write_local_maps(folder: Path, found: LocalResolution) -> None:
    """LOCAL_MAPS into a folder that holds neither."""
    for name, volume in zip(LOCAL_MAPS, (found.map, found.filtered)):
        write_map(folder / name, volume, found.pixel_size, overwrite=False)


class FinishedRun:
    """A finished run's half maps, whose local resolution becomes a part of its folder; for rank 0.

    Raises UserError where the folder is none of a finished run, another run is writing into it, it has a local resolution already
    (without `overwrite`), or that would replace one of `inputs`.
    """

    def __init__(self, folder: Path, overwrite: bool, inputs: list[Input]) -> None:
        self.folder, self.summary = Path(folder), read_summary(folder)
        if (state := state_of(self.folder)) is not None:
            raise UserError(f"{state}; its local resolution can be found when it is finished")
        for name in ("half1.mrc", "half2.mrc"):
            if not (self.folder / name).is_file():
                raise UserError(f"{self.folder}: {name} is missing; local resolution is found of both half maps of a run")
        for name in LOCAL_MAPS:
            refuse_existing(self.folder / name, overwrite, inputs)
        self._seen = {name: Fingerprint.of(self.folder / name) for name in ("summary.json", "half1.mrc", "half2.mrc")}

    def read(self, mask: Path | str | None, bfactor: float | None) -> LocalInput:
        """Half maps and mask: a file, the run's own mask.mrc for None (none where it made none), or "none" · bfactor : Å², by default
        the one that the run found."""
        first, second = (read_map(self.folder / name) for name in ("half1.mrc", "half2.mrc"))
        check_same_grid(first, "half1.mrc", second, "half2.mrc")
        if mask is None:
            mask = self.folder / "mask.mrc" if (self.folder / "mask.mrc").is_file() else "none"
        array = None if str(mask) == "none" else read_mask(mask, first, str(self.folder / "half1.mrc"))
        if bfactor is None:
            bfactor = (self.summary.get("postprocess") or {}).get("bfactor")
        gain = sharpening(first.box, first.pixel_size, bfactor)
        return LocalInput(first.array, second.array, array, first.pixel_size, gain)

    def add(self, found: LocalResolution) -> list[Path]:
        """Write the maps, what was found into summary.json, and the report anew; all paths."""
        from mpirecon.report.html import write_report  # above us, and slow to load

        with self._locked():
            summary = {**self.summary, "local_resolution": found.as_dict()}
            maps = {Path(name).stem: volume for name, volume in zip(LOCAL_MAPS, (found.map, found.filtered))}
            with atomic_files(self.folder) as staging:
                write_local_maps(staging, found)
                write_report(self.folder, summary, maps=maps, target=staging / "report.html")
                write_summary(staging / "summary.json", summary, self.folder)
        return [self.folder / name for name in (*LOCAL_MAPS, "summary.json", "report.html")]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other run begins in the folder meanwhile, and none has ended in it since it was read."""
        lock = folder_lock.FolderLock(self.folder)
        lock.acquire()
        try:
            for name, seen in self._seen.items():
                refuse_changed(self.folder / name, seen)
            yield
        finally:
            lock.release()


def read_mask(path, like, name: str) -> np.ndarray:
    """A mask file, (n, n, n) float32, of the grid of the map `like`, called `name`. Raises UserError where it is no mask for it."""
    mask = read_map(path)
    check_same_grid(like, name, mask, f"the mask {path}")
    return check_mask(np.asarray(mask.array, np.float32), str(path))


def check_mask(array: np.ndarray, name: str) -> np.ndarray:
    """The voxels of a mask. Raises UserError where they are none of 0 … 1, or all 0."""
    if not np.isfinite(array).all() or array.min() < -1e-3 or array.max() > 1 + 1e-3 or array.max() <= 0:
        raise UserError(f"{name}: mask values run from {array.min():g} to {array.max():g}; expected 0 … 1")
    return array
