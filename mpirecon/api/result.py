"""What a finished reconstruction left, for scripts and notebooks."""

from __future__ import annotations

import csv
import os
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np

from mpirecon.api.arguments import structured
from mpirecon.api.maps import FSC, Volume, read_map
from mpirecon.api.scratch import Scratch
from mpirecon.errors import UserError, spoken
from mpirecon.io.inputs import Input
from mpirecon.io.named_path import NamedPath
from mpirecon.io.run_folder import RunFolder
from mpirecon.io.run_kinds import RECONSTRUCTION
from mpirecon.io.run_inputs import run_origins
from mpirecon.io.run_output import read_particle_table, read_summary
from mpirecon.io.run_summary import RESULT
from mpirecon.io.unfinished import UNFINISHED
from mpirecon.kinds import AnyPath, checked


#: what to do where a file of the run is not there, or not what the run wrote
_RESTORE = "copy it back from where it was moved to, or reconstruct again"


class Result:
    """A finished run, from the folder that ``reconstruct`` wrote, here or on the command line.

    Parameters
    ----------
    folder : path
        that ``mpirecon reconstruct -o`` wrote

    Attributes
    ----------
    folder : Path
    summary : dict
        summary.json: configuration, one record per iteration, resolution, timings …

    Raises
    ------
    UserError
        when the folder does not hold a finished run, or its summary.json lacks something, being of another version.
    """

    @checked
    def __init__(self, folder: AnyPath, *, _scratch: Scratch | None = None,
                 _summary: dict | None = None) -> None:
        self._named, self._scratch = NamedPath(folder), _scratch
        self.summary = read_summary(folder, needs=RESULT, kind=RECONSTRUCTION) if _summary is None else _summary

    @property
    def folder(self) -> Path:
        """As it was given; absolute where the current folder has changed since."""
        return self._named.path

    @cached_property
    def volume(self) -> Volume:
        """The filtered map of all particles."""
        return self._map("volume")

    @cached_property
    def half_maps(self) -> tuple[Volume, Volume]:
        """The two half maps, unfiltered."""
        return self._map("half1"), self._map("half2")

    @cached_property
    def mask(self) -> Volume | None:
        """The mask that was made from the map; None without post-processing. UserError where it was removed."""
        return self._map("mask") if self._wrote("mask.mrc") else None

    @cached_property
    def sharpened(self) -> Volume | None:
        """The sharpened map; None without post-processing. UserError where it was removed."""
        return self._map("sharpened") if self._wrote("sharpened.mrc") else None

    @cached_property
    def fsc(self) -> FSC:
        """Half-map FSC that the run's resolution is of."""
        return self.curve((self.summary.get("resolution_of") or {}).get("curve", "fsc"))

    @checked
    def curve(self, name: str) -> FSC:
        """A column of fsc.csv.

        Parameters
        ----------
        name : str
            ``fsc``, ``fsc_unmasked``, ``fsc_masked``, ``fsc_randomised`` or ``fsc_true``

        Returns
        -------
        FSC

        Raises
        ------
        UserError
            listing the columns, if there is no such column; where the file is damaged or not there any more.
        """
        path = self.folder / "fsc.csv"
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file, which the run wrote; {_RESTORE}") from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise _damaged(path) from error
        if not rows:
            raise _damaged(path)
        if name not in rows[0]:
            raise UserError(f"{path} has no column {name}; it has {', '.join(map(str, rows[0]))}")
        about = self.summary["particles"]
        try:
            return FSC(np.array([float(row[name]) for row in rows]), about["box"], about["pixel_size"])
        except (TypeError, ValueError) as error:
            raise _damaged(path) from error

    @property
    def resolution(self) -> float | None:
        """Å where the half-map FSC falls below 0.143; None when it never does."""
        return self.summary["resolution_0143"]

    @cached_property
    def particles(self) -> np.ndarray:
        """A structured array with a row per particle: id, half, distance, score, weight, kept, posterior, sigma, scale
        …; ``mpirecon.data_frame`` takes it. Of a set of more than 500, ``loss="l2"`` compares only some with its maps
        (``particle_scores=True``: all): distance, score, sigma and scale of the others are NaN."""
        return structured(read_particle_table(self.folder / "particles.h5"))

    @property
    def kept(self) -> np.ndarray:
        """(m,) bool, the particles that were kept."""
        return self.particles["kept"].astype(bool)

    @property
    def iterations(self) -> list[dict]:
        """A record of each iteration: loss, loss_l2, loss_heldout, kept_fraction, resolution_0143 …"""
        return self.summary["iterations"]

    @property
    def keep(self) -> float | None:
        """Estimated fraction of correct particles; None where the loss does not estimate it."""
        return self.summary["keep_estimate"]

    @property
    def detection(self) -> dict | None:
        """How well simulated errors were found: auc, f1, precision, recall; None where none are known."""
        return self.summary.get("detection")

    @property
    def warnings(self) -> list[str]:
        """What the run warned of, a sentence each."""
        return [spoken(warning) for warning in self.summary["warnings"]]

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    @checked
    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> Result:
        """Copy what the run left: its results and logs, and nothing else that lies in its folder.

        Parameters
        ----------
        folder : path
            where to
        overwrite : bool
            replace the files of an earlier run in `folder`, and no others

        Returns
        -------
        Result
            that of the copy

        Raises
        ------
        UserError
            if `folder` exists and is not empty, without `overwrite`, or lies in the run's folder; where that is not
            there any more.
        """
        target = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder, which the run wrote; copy it back from where it was moved "
                            "to, or reconstruct again")
        _refuse_nested(self.folder, target)
        read = [*run_origins(self.folder), *(Input("result", path) for path in self.folder.iterdir())]
        with RunFolder(target, RECONSTRUCTION, read, overwrite=overwrite) as place:
            if not overwrite and not place.unused:
                raise UserError(f"{target} exists and is not empty; choose another folder, or pass overwrite=True")
            place.check()
            place.begin(ranks=len(self.summary.get("ranks") or [0]))
            for log in self.folder.glob("logs/rank*.jsonl"):
                shutil.copyfile(log, place.logs / log.name)
            for name in _results_in(self.folder):
                shutil.copyfile(self.folder / name, place.staging / name)
            place.commit()
        return Result(target)

    def plot(self):
        """FSC, central slices, and where it selects the particles' scores, as a matplotlib Figure."""
        from matplotlib.figure import Figure

        table = self.particles
        columns = 2 + bool((~self.kept).any())
        figure = Figure(figsize=(4.2 * columns, 3.4), layout="constrained")
        axes = figure.subplots(1, columns)
        self.fsc.plot(axes[0])
        density = self.volume.to_numpy()
        low, high = np.percentile(density, (0.5, 99.7))
        axes[1].imshow(density[len(density) // 2], cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-30))
        axes[1].set(xticks=[], yticks=[], title=f"central slice, {self.volume.pixel_size:g} Å/px")
        if columns == 3:
            score, used = table["score"], np.isfinite(table["score"])
            bins = np.histogram_bin_edges(score[used], 40)
            for chosen, label in ((self.kept, "kept"), (~self.kept, "rejected")):
                axes[2].hist(score[used & chosen], bins, alpha=0.7, label=label)
            axes[2].set(xlabel="score", ylabel="particles")
            axes[2].legend(frameon=False)
        return figure

    def _wrote(self, name: str) -> bool:
        """Whether a file is the run's; UserError where it was, and is not there any more."""
        there = (self.folder / name).exists()
        if not there and name in self.summary.get("files", ()):
            raise UserError(f"{self.folder / name}: no such file, which the run wrote; {_RESTORE}")
        return there

    def _map(self, name: str) -> Volume:
        return read_map(self.folder / f"{name}.mrc")

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.volume._repr_html_()}"

    def __repr__(self) -> str:
        at = "beyond Nyquist" if self.resolution is None else f"{self.resolution:.2f} Å"
        return f"Result({len(self.particles)} particles, {int(self.kept.sum())} kept, FSC 0.143 at {at}, {self.folder})"


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: it does not hold the curves that the run wrote; {_RESTORE}")


def _refuse_nested(run: Path, target: Path) -> None:
    """Raise UserError where one of the folders lies where writing the other would change it."""
    own, asked = run.resolve(), target.resolve()
    if own in asked.parents:
        raise UserError(f"{target} lies in {run}, the folder of the run that is to be copied; choose a folder outside "
                        "of it")
    if {asked / UNFINISHED, asked / "logs"} & {own, *own.parents}:
        raise UserError(f"{run}, the folder of the run that is to be copied, lies in {target}, where the copy would "
                        "replace it; choose another folder")


def _results_in(folder: Path) -> list[str]:
    """The files that the run says it left, in the order in which they are copied: the marker last, when all are there.
    """
    named = read_summary(folder).get("files", RECONSTRUCTION.files)
    there = [name for name in RECONSTRUCTION.files if name in named and (folder / name).is_file()]
    return sorted(there, key=lambda name: name == RECONSTRUCTION.marker)
