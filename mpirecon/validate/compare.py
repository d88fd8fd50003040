"""Two maps against each other: curves and crossings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.inputs import Input
from mpirecon.kinds import checked
from mpirecon.model.arrays import Volume
from mpirecon.validate.automask import automatic_mask
from mpirecon.validate.directional import ConicalFSC, conical_fsc
from mpirecon.validate.fsc import THRESHOLDS, crossing, fsc
from mpirecon.validate.fsc_table import write_fsc_csv
from mpirecon.validate.grids import check_same_grid, refuse_blank
from mpirecon.validate.map_warnings import mask_warnings, same_map_warning
from mpirecon.validate.masks import check_mask
from mpirecon.validate.randomised import phase_randomised_fsc
from mpirecon.validate.solvent_level import level_warning

LABELS = {
    "fsc": "unmasked", "fsc_masked": "masked", "fsc_randomised": "masked, random phases",
    "fsc_true": "corrected for the mask",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """FSC curves of two maps, (box // 2 + 1,) float64 each.

    curves : ``"fsc"``; with a mask ``"fsc_masked"``; with random phases ``"fsc_randomised"`` and ``"fsc_true"``
    mask : where it comes from
    cones : FSC by direction, when asked for
    randomised_from : Å
    warnings : of maps that are one or stand on a level, and of the mask
    files : those that were compared, which no table or figure of them replaces
    """

    first: str
    second: str
    box: int
    pixel_size: float
    curves: dict[str, np.ndarray]
    mask: str | None = None
    cones: ConicalFSC | None = None
    randomised_from: float | None = None
    warnings: tuple[str, ...] = ()
    files: tuple[Input, ...] = ()

    @property
    def best(self) -> str:
        """The curve to read the resolution from: corrected, else masked, else bare."""
        return next(name for name in ("fsc_true", "fsc_masked", "fsc") if name in self.curves)

    def resolution(self, name: str, threshold: float) -> float | None:
        """Å where a curve falls below the threshold, None when it never does."""
        return crossing(self.curves[name], threshold, self.box, self.pixel_size)

    def lines(self) -> list[str]:
        """The crossings in words, one line a curve."""
        out = [f"mask: {self.mask}"] if self.mask else []
        for name in self.curves:
            if name == "fsc_randomised":
                from_ = f"from {self.randomised_from:.1f} Å on" if self.randomised_from else "of no shell"
                out.append(f"{LABELS[name]} {from_}: mean FSC {self._beyond():.3f} there is an artefact of the mask")
                continue
            texts = [f"FSC {t:g} at {self._in_words(self.resolution(name, t))}" for t in THRESHOLDS]
            out.append(f"{LABELS[name]}: {', '.join(texts)}")
        if self.cones is not None:
            c = self.cones.as_dict()
            out.append(f"in cones of {c['half_angle']:g}°: FSC 0.143 between {c['best']:.2f} and {c['worst']:.2f} Å, "
                       f"median {c['median']:.2f} Å; sphericity {c['sphericity']:.3f}")
        return out

    @checked
    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the curves as a table (CSV): shell, resolution (Å), and a column for each.

        Raises UserError when the file exists (without `overwrite`), is one of those compared, or cannot be written.
        """
        refuse_existing(path, overwrite, self.files)
        write_fsc_csv(path, self.curves, self.box, self.pixel_size, overwrite=overwrite)

    def _beyond(self) -> float:
        if not self.randomised_from:
            return 0.0
        first = round(self.box * self.pixel_size / self.randomised_from) + 2
        beyond = self.curves["fsc_randomised"][first:]
        return float(beyond.mean()) if beyond.size else 0.0

    def _in_words(self, resolution: float | None) -> str:
        nyquist = self.box * self.pixel_size / (self.box // 2)
        return f"{resolution:.2f} Å" if resolution else f"{nyquist:.2f} Å or better (never falls below it)"

    def as_dict(self) -> dict:
        """Everything for JSON; a crossing that does not happen is None."""
        crossings = {
            f"{name}_{str(t).replace('.', '')}": self.resolution(name, t)
            for name in self.curves if name != "fsc_randomised" for t in THRESHOLDS
        }  # fmt: skip
        curves = {name: curve.tolist() for name, curve in self.curves.items()}
        maps = {"maps": [self.first, self.second], "box": self.box, "pixel_size": self.pixel_size}
        more = {"mask": self.mask} if self.mask else {}
        if "fsc_randomised" in self.curves:
            more["randomised_from"] = self.randomised_from
        if self.cones is not None:
            more["cones"] = self.cones.as_dict()
        return {**maps, "resolution": crossings, **curves, **more}


def compare_maps(a: Volume, b: Volume, mask: Volume | str | None = None, *, names: Sequence[str],
                 files: Sequence[Input] = (), randomise: bool = False, cones: bool = False,
                 seed: int = 1) -> Comparison:
    """FSC of two maps of one grid, also within a mask when one is given; it must share box and pixel size.

    mask : or "auto" for one made of the mean of the maps
    names : of the two maps and the mask, for messages; files : those of them that are files
    randomise : also correct for the mask by random phases, drawn for `seed`
    cones : also by direction, in the mask when there is one

    Raises
    ------
    UserError
        naming what does not fit.
    """
    first, second, _ = names
    for volume, name in ((a, first), (b, second)):
        refuse_blank(volume.array, name)
    box, pixel_size = a.box, a.pixel_size
    curves = {"fsc": fsc(a.array, b.array)}
    array, text = _mask(mask, a, b, names, crossing(curves["fsc"], 0.143, box, pixel_size))
    shell = None
    if randomise and array is None:
        raise UserError("--phase-randomise measures what a mask adds: give one with --mask FILE, or --mask auto")
    if randomise:
        found = phase_randomised_fsc(a.array, b.array, array, seed=seed, unmasked=curves["fsc"])
        curves |= {"fsc_masked": found.masked, "fsc_randomised": found.randomised, "fsc_true": found.true}
        shell = found.shell
    elif array is not None:
        curves["fsc_masked"] = fsc(a.array, b.array, array)
    return Comparison(
        first, second, box, pixel_size, curves, text,
        conical_fsc(a.array, b.array, pixel_size, array) if cones else None,
        box * pixel_size / shell if shell else None,
        (*filter(None, [same_map_warning(a.array, b.array), level_warning(a.array, b.array, array)]),
         *mask_warnings(array, text)), tuple(files),
    )  # fmt: skip


def _mask(mask, a, b, names: Sequence[str], resolution: float | None) -> tuple[np.ndarray | None, str | None]:
    """The mask's voxels and where they come from."""
    if mask is None:
        return None, None
    if isinstance(mask, str):
        made = automatic_mask((a.array + b.array) / 2, a.pixel_size, resolution)
        return made.mask, str(made)
    first, _, name = names
    check_same_grid(a, first, mask, name if name == "the mask" else f"the mask {name}")
    return check_mask(mask.to_numpy(), name), name


def distinct_names(first: str, second: str) -> tuple[str, str]:
    """The names of two files, with as many of their folders as it takes to distinguish them."""
    parts = [Path(path).resolve().parts for path in (first, second)]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(*(reversed(p) for p in parts)))
    needed = 1 + sum(1 for _ in same)
    return tuple("/".join(p[-needed:]) for p in parts)
