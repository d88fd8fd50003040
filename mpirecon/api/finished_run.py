"""A finished run's folder, which the local resolution of its half maps is added to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io import folder_lock
from mpirecon.io.atomic import atomic_files, refuse_existing
from mpirecon.io.fingerprint import Fingerprint, refuse_changed
from mpirecon.io.inputs import Input
from mpirecon.io.mrc import read_map
from mpirecon.io.run_inputs import run_origins
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.run_output import read_summary, write_summary
from mpirecon.io.run_traces import listed_in
from mpirecon.io.unfinished import state_of
from mpirecon.report.html import write_report
from mpirecon.validate.grids import check_same_grid
from mpirecon.validate.local_files import LOCAL_MAPS, LocalInput, read_mask, sharpening, write_local_maps
from mpirecon.validate.local_result import LocalResolution


class FinishedRun:
    """A finished run's half maps, whose local resolution becomes a part of its folder; for rank 0.

    Raises UserError where the folder is none of a finished run, another run is writing into it, it has a local
    resolution already (without `overwrite`), or that would replace one of `inputs`, or what the
    run was made from.
    """

    def __init__(self, folder: Path, overwrite: bool, inputs: list[Input]) -> None:
        self.folder, self.summary = Path(folder), read_summary(folder)
        if (state := state_of(self.folder)) is not None:
            raise UserError(f"{state}; its local resolution can be found when it is finished")
        for name in ("half1.mrc", "half2.mrc"):
            if not (self.folder / name).is_file():
                raise UserError(f"{self.folder}: {name} is missing; local resolution is found of both half maps of a "
                                f"run")
        read = [*inputs, *run_origins(self.folder)]
        for name in LOCAL_MAPS:
            refuse_existing(self.folder / name, overwrite, read, own=self.folder)
        self._seen = {name: Fingerprint.of(self.folder / name) for name in ("summary.json", "half1.mrc", "half2.mrc")}

    def read(self, mask: Path | str | None, bfactor: float | None) -> LocalInput:
        """Half maps and mask: a file, the run's own mask.mrc for None (none where it made none), or "none" · bfactor :
        Å², by default the one that the run found."""
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
        """Write the maps, what was found into summary.json, and the report again; all paths."""
        with self._locked():
            summary = {**self.summary, "local_resolution": found.as_dict()}
            maps = {Path(name).stem: volume for name, volume in zip(LOCAL_MAPS, (found.map, found.filtered))}
            with atomic_files(self.folder) as staging:
                write_local_maps(staging, found)
                write_report(self.folder, summary, maps=maps, target=staging / "report.html")
                # not whatever else is in the folder: it would pass for the run's, and --overwrite replace it
                earlier = listed_in(self.folder / "summary.json", RECONSTRUCTION) or RECONSTRUCTION.files
                write_summary(staging / "summary.json", summary, [n for n in earlier if (self.folder / n).is_file()])
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
