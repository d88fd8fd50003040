"""Two finished runs beside each other: their FSC curves, their maps, the particles that either kept,
and what they were asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_identity import Matched, match_particles, same_rows
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.run_output import open_particles, read_summary, took_part
from mpirecon.io.run_summary import COMPARED
from mpirecon.kernels import fft
from mpirecon.report.details import setting, weights_in_words
from mpirecon.report.run_files import RunFiles, read_run_files
from mpirecon.validate.fsc import crossing, fsc, lowest_frequencies

#: which run kept a particle that both runs had
GROUPS = ("both", "first", "second", "neither")


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what not.

    Attributes
    ----------
    runs : (RunFiles, RunFiles)
        what either left
    between : dict of (n // 2 + 1,) arrays
        FSC between the maps of the two runs (the means of their half maps): ``fsc_unmasked``, and in the product of
        their masks ``fsc_masked``, on the coarser of two grids of one field of view (a binned set);
        empty where these differ
    matched : Matched or None
        the particles that both had; None where these cannot be identified
    settings : list of (name, first, second)
        options, in words, that differ
    notes : list of str
        what could not be compared, and why
    particles : (path, path)
        the runs' particle files, where they were moved; None where they were not
    """

    runs: tuple[RunFiles, RunFiles]
    between: dict[str, np.ndarray]
    matched: Matched | None
    settings: list[tuple[str, str, str]]
    notes: list[str]
    particles: tuple[Path | None, Path | None] = (None, None)

    @property
    def names(self) -> tuple[str, str]:
        """What the runs are called: their folders' names, or as much of the paths as distinguishes them."""
        parts = [Path(os.path.abspath(run.folder)).parts for run in self.runs]
        for count in range(1, max(map(len, parts)) + 1):
            first, second = (str(Path(*of[-count:])) for of in parts)
            if first != second:
                return first, second
        return f"{parts[0][-1]} (first)", f"{parts[1][-1]} (second)"  # one folder

    @property
    def group(self) -> np.ndarray | None:
        """(k,) index into GROUPS of each particle that both had."""
        if self.matched is None:
            return None
        first, second = (run.table["kept"].astype(bool)[rows] for run, rows in self._with_rows())
        return np.select([first & second, first, second], [0, 1, 2], 3)

    @property
    def counts(self) -> dict[str, int] | None:
        """Particles that were kept by both runs, by the first or the second alone, by neither;
        and those that one of them did not have."""
        if self.matched is None:
            return None
        counted = np.bincount(self.group, minlength=len(GROUPS))
        return {**{name: int(count) for name, count in zip(GROUPS, counted)},
                **{f"in_{name}_alone": len(run.table["id"]) - len(rows) for name,
                   (run, rows) in zip(GROUPS[1:3], self._with_rows())}}

    @property
    def wrong(self) -> dict[str, int] | None:
        """Of these groups, how many have a simulated error in the first run's particles; None where none are known."""
        group, table = self.group, self.runs[0].table
        if group is None or "pose_error" not in table:
            return None
        flags = table["pose_error"].astype(bool)[self.matched.first]
        return {name: int((flags & (group == number)).sum()) for number, name in enumerate(GROUPS)}

    @property
    def same_half(self) -> float | None:
        """Fraction of the particles that both had which are in the same half set."""
        halves = [run.table["half"][rows] for run, rows in self._with_rows()] if self.matched is not None else []
        return float((halves[0] == halves[1]).mean()) if halves and len(halves[0]) else None

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation of the two scores of a particle, over those that both runs scored."""
        if self.matched is None:
            return None
        first, second = self.scores
        scored = np.isfinite(first) & np.isfinite(second)
        if scored.sum() < 3 or not (np.ptp(first[scored]) > 0 and np.ptp(second[scored]) > 0):
            return None
        return float(np.corrcoef(first[scored], second[scored])[0, 1])

    @property
    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) of either run, of the particles that both had."""
        first, second = (run.table["score"][rows] for run, rows in self._with_rows())
        return first, second

    def crossing(self, threshold: float, curve: str = "fsc_unmasked") -> float | None:
        """Å where the maps of the two runs stop agreeing; None where they never do, or are not compared."""
        return crossing(self.between[curve], threshold, *self.grid) if curve in self.between else None

    @property
    def grid(self) -> tuple[int, float]:
        """(box, pixel size in Å) that the maps are compared on: the coarser."""
        return min(map(_grid, self.runs))

    def as_dict(self) -> dict:
        """For JSON."""
        curve = "fsc_masked" if "fsc_masked" in self.between else "fsc_unmasked"
        return {
            "runs": [_about(run) for run in self.runs],
            "between": {name: values.tolist() for name, values in self.between.items()} or None,
            "between_05": self.crossing(0.5, curve), "between_0143": self.crossing(0.143, curve),
            "matched_by": None if self.matched is None else self.matched.by, "particles": self.counts,
            "wrong": self.wrong,
            "same_half": self.same_half, "score_correlation": self.correlation,
            "settings": [{"name": name, "first": first, "second": second} for name, first, second in self.settings],
            "notes": self.notes,
        }  # fmt: skip

    def _with_rows(self) -> tuple[tuple[RunFiles, np.ndarray], tuple[RunFiles, np.ndarray]]:
        return (self.runs[0], self.matched.first), (self.runs[1], self.matched.second)


def _one_folder(folders: tuple[Path, Path]) -> list[str]:
    first, second = folders
    same = Path(first).resolve() == Path(second).resolve()
    return [f"{first} and {second} are one folder: this is a run beside itself"] if same else []


def compare_runs(folders: tuple[Path, Path], particles: tuple[Path | None, Path | None] = (None, None)) -> Comparison:
    """Read two finished runs and set them beside each other.

    particles : the runs' particle files, where they were moved

    Raises
    ------
    UserError
        where a folder holds no finished run, or a particle file that was given is not that of the run.
    """
    runs = tuple(read_run_files(Path(folder), read_summary(folder, needs=COMPARED, kind=RECONSTRUCTION))
                 for folder in folders)
    matched, notes = _match(folders, runs, particles)
    between, why = _between(folders, runs)
    return Comparison(runs, between, matched, _settings(*(run.summary for run in runs)),
                      [*_one_folder(folders), *notes, *why],
                      particles)


def _match(folders, runs, given) -> tuple[Matched | None, list[str]]:
    opened, missing = [], None
    try:
        for folder, run, path in zip(folders, runs, given):
            try:
                opened.append(open_particles(Path(folder), run.summary, path))
            except UserError as error:
                if path is not None:
                    raise
                missing = missing or str(error)
        if missing is None:
            found = match_particles(*opened)
            if found is None:
                return None, ["particles cannot be matched: the particle files differ, and no uid or image name "
                              "identifies the same particles"]
            return found, ([] if len(found.first) else [f"the runs have no particle in common (by {found.by})"])
    finally:
        for file in opened:
            file.close()
    known, paths = [run.summary["particles"] for run in runs], [_whole_name(run.summary) for run in runs]
    same = [[about.get(name) for name in ("count", "rows", "images")] for about in known]
    if same[0] == same[1] and (same[0][1] or paths[0] == paths[1]) \
            and np.array_equal(runs[0].table["half"], runs[1].table["half"]):
        return same_rows(len(runs[0].table["id"]),
                         "row: both runs were of the same particles, whose file no longer exists or has changed"), []
    return None, [f"particles cannot be matched: {missing.replace('--particles FILE', '--particles1 or --particles2')}"]


def _between(folders, runs) -> tuple[dict[str, np.ndarray], list[str]]:
    grids = [_grid(run) for run in runs]
    sides = [box * size for box, size in grids]
    box = min(box for box, _ in grids)
    if abs(sides[0] / sides[1] - 1) > 1e-3 or (grids[0][0] != grids[1][0] and box % 2):
        sizes = " and ".join(f"{box} pixels of {size:g} Å" for box, size in grids)
        return {}, [f"the maps are not compared: their boxes have {sizes}"]
    missing = [f"{run.folder}/{half}.mrc" for run in runs for half in ("half1", "half2") if half not in run.maps]
    if missing:
        return {}, [f"the maps are not compared: {missing[0]} is missing"]
    first, second = (to_box((run.maps["half1"] + run.maps["half2"]) / 2, box) for run in runs)
    curves = {"fsc_unmasked": fsc(first, second)}
    masks = [Path(folder) / "mask.mrc" for folder in folders]
    if all(mask.is_file() for mask in masks):
        mask = np.multiply(*(np.clip(to_box(read_map(path).array, box), 0, 1) for path in masks))
        if mask.any():
            curves["fsc_masked"] = fsc(first, second, mask)
    notes = [] if grids[0][0] == grids[1][0] else [f"the maps are compared on the coarser grid, {min(grids)[0]} pixels "
                                                   f"of {min(grids)[1]:g} Å: the other has {max(grids)[0]} of "
                                                   f"{max(grids)[1]:g} Å in the same field of view"]
    return curves, notes


def _grid(run: RunFiles) -> tuple[int, float]:
    return run.summary["particles"]["box"], run.summary["particles"]["pixel_size"]


def to_box(volume: np.ndarray, box: int) -> np.ndarray:
    """A map on a coarser grid of the same field of view: its lower frequencies alone."""
    if len(volume) == box:
        return volume
    return fft.irfftn(lowest_frequencies(fft.rfftn(volume), box),
                            s=(box,) * 3).astype(np.float32) * (box / len(volume)) ** 3


def _settings(first: Mapping, second: Mapping) -> list[tuple[str, str, str]]:
    """(name, of the first, of the second) of what was asked or used and differs, in words."""
    found = []
    asked = [summary["configuration"] for summary in (first, second)]
    for name in dict.fromkeys([*asked[0], *asked[1]]):
        if name == "weights":
            words = [weights_in_words(summary.get("weights")) for summary in (first, second)]
        else:
            words = [setting(name, options.get(name), (summary.get("used") or {}).get(name))
                     for options, summary in zip(asked, (first, second))]
        if words[0] != words[1]:
            found.append((name.replace("_", " "), *words))
    alike = all(first["particles"].get(name) == second["particles"].get(name) for name in ("rows", "images"))
    for name, of in (("particle file", lambda s: s["particles"]["file"] if alike else _whole_name(s)),
                     ("particles", lambda s: f"{s['particles']['count']:,}"),
                     ("version", lambda s: s["version"]), ("ranks", lambda s: str(len(s["ranks"])))):
        if of(first) != of(second):
            found.append((name, str(of(first)), str(of(second))))
    return found


def _whole_name(summary: dict) -> str:
    """Of the particle file, from the root."""
    return os.path.normpath(os.path.join(summary.get("folder") or "", summary["particles"]["file"]))


def _about(run: RunFiles) -> dict:
    summary = run.summary
    return {
        "folder": str(run.folder), "resolution_0143": summary["resolution_0143"],
        "resolution_05": summary["resolution_05"],
        "particles": summary["particles"]["count"], "took_part": int(took_part(run.table).sum()),
        "kept": summary["kept"],
        "keep_estimate": summary["keep_estimate"], "warnings": len(summary["warnings"]),
    }  # fmt: skip
