"""Two half-map files as relion_postprocess takes them:
mask, corrected FSC, B-factor and sharpened map, into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError, spoken
from mpirecon.io.atomic import atomic_files, refuse_existing
from mpirecon.io.run_kinds import CHECKPOINT
from mpirecon.io.inputs import Input
from mpirecon.io.mrc import read_map, write_map
from mpirecon.io.optics_table import read_mtf
from mpirecon.report.local_resolution import page
from mpirecon.validate.compare import Comparison
from mpirecon.validate.fsc import fsc
from mpirecon.validate.fsc_table import write_fsc_csv
from mpirecon.validate.grids import check_same_grid, refuse_blank
from mpirecon.validate.local_files import LOCAL_MAPS, LocalInput, read_mask, sharpening, write_local_maps
from mpirecon.validate.local_result import LocalResolution
from mpirecon.validate.map_warnings import half_map_warnings, mask_warnings
from mpirecon.validate.postprocess import Postprocessed, postprocess
from mpirecon.validate.solvent_level import level_warning

#: what is written into the folder
FILES = ("sharpened.mrc", "sharpened_masked.mrc", "mask.mrc", "fsc.csv", "postprocess.json")

#: and with the local resolution
LOCAL_FILES = (*LOCAL_MAPS, "locres.html")


@dataclass(frozen=True)
class HalfMaps:
    """What was made of two half maps: found, and the curves in words and for JSON.

    halves : (n, n, n) each
    bfactor, mtf : as they were given
    transfer : of the MTF, by shell
    masked : False where no mask was wanted
    local : the local resolution, where it was found
    """

    found: Postprocessed
    comparison: Comparison
    halves: tuple[np.ndarray, np.ndarray]
    bfactor: float | None
    mtf: str | None
    transfer: np.ndarray | None
    masked: bool
    local: LocalResolution | None = None

    def local_input(self) -> LocalInput:
        """What the local resolution is found of."""
        bfactor = self.found.guinier.bfactor if self.bfactor is None else self.bfactor
        size = self.comparison.pixel_size
        return LocalInput(*self.halves, self.found.mask if self.masked else None, size,
                          sharpening(self.comparison.box, size, bfactor, self.transfer))

    def with_local(self, local: LocalResolution) -> HalfMaps:
        """The same, and the local resolution."""
        return replace(self, local=local)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings."""
        found = (*self.comparison.warnings, *(() if self.local is None else self.local.warnings))
        return tuple(map(spoken, dict.fromkeys(found)))

    def lines(self) -> list[str]:
        """What a user wants to read, a line each."""
        fit, said = self.found.guinier, self.comparison.lines()
        if self.mtf is not None:
            said.append(f"divided by the detector's MTF in {self.mtf}")
        if fit.bfactor is not None:
            said.append(f"B-factor {fit.bfactor:.1f} Å², fitted from {fit.used[0]:.1f} to {fit.used[1]:.2f} Å")
        else:
            said.append(fit.note)
        if self.bfactor is not None:
            said.append(f"sharpened by the {self.bfactor:g} Å² that were given")
        elif fit.bfactor is None:
            said.append("the map is weighted by its FSC, not sharpened")
        return said + (self.local.lines() if self.local is not None else [])

    def as_dict(self) -> dict:
        """For postprocess.json, and for --json."""
        box, pixel_size = self.comparison.box, self.comparison.pixel_size
        about = {"maps": [self.comparison.first, self.comparison.second], "box": box, "pixel_size": pixel_size}
        given = {"bfactor_given": self.bfactor, "mtf": self.mtf}
        local = {} if self.local is None else {"local_resolution": self.local.as_dict()}
        return {**about, **self.found.as_dict(box, pixel_size), **given, **local}


def postprocess_files(
    first, second, mask=None, *, bfactor: float | None = None, lowpass: float | None = None, mtf=None,
    mtf_pixel_size: float | None = None, pixel_size: float | None = None, seed: int = 1,
) -> HalfMaps:
    """Mask, corrected FSC, cones, B-factor and sharpened map of two unmasked half maps (MRC).

    mask : a file, "none", or None for one made of their mean · bfactor (Å², negative), lowpass (Å) : instead of what is
        found
    mtf : STAR file of the detector's transfer, of pixels of `mtf_pixel_size` Å (default: the maps')
    pixel_size : Å, instead of that of all headers, which then are not looked at

    Raises
    ------
    UserError
        naming the file that cannot be read or does not fit, or when no mask can be made.
    """
    a, b = (read_map(path, pixel_size) for path in (first, second))
    check_same_grid(a, str(first), b, str(second))
    for volume, path in ((a, first), (b, second)):
        refuse_blank(volume.array, str(path))
    box, size = a.box, a.pixel_size
    masked = str(mask) != "none"
    array = None if mask is None else (
        read_mask(mask, a, str(first), pixel_size) if masked else np.ones(a.shape, np.float32))
    transfer = None if mtf is None else _transfer(mtf, box, size, mtf_pixel_size or size)
    unmasked = fsc(a.array, b.array)
    found = postprocess(
        np.asarray(a.array), np.asarray(b.array), size, unmasked=unmasked, mask=array, mask_text=str(mask), seed=seed,
        bfactor=bfactor,
        lowpass=lowpass, mtf=transfer,
    )  # fmt: skip
    if found.fsc is None:
        raise UserError(f"{found.note}; give a mask with --mask FILE, or do without: --mask none")
    shell = found.fsc.shell
    level = level_warning(a.array, b.array, found.mask if masked else None)
    warnings = (*half_map_warnings(a.array, b.array), *([level] if level else []),
                *mask_warnings(array if masked else None, str(mask), found.randomised_at_resolution))
    comparison = Comparison(
        str(first), str(second), box, size, {"fsc": unmasked, **found.curves()}, found.mask_text, found.cones,
        box * size / shell if shell else None, warnings,
    )  # fmt: skip
    halves = (np.asarray(a.array), np.asarray(b.array))
    return HalfMaps(found, comparison, halves, bfactor, None if mtf is None else str(mtf), transfer, masked)


def _transfer(path, box: int, pixel_size: float, mtf_pixel_size: float) -> np.ndarray:
    """The MTF of each shell of the map, (box // 2 + 1,)."""
    frequency, value = read_mtf(Path(path))
    at = np.arange(box // 2 + 1) / (box * pixel_size) * mtf_pixel_size
    if at[-1] > frequency[-1] + 1e-6:
        raise UserError(f"{path} ends at {frequency[-1]:g} of its pixels' frequency, the map needs it up to "
                        f"{at[-1]:.3g}; is --mtf-pixel-size, {mtf_pixel_size:g} Å, that of the detector?")
    return np.interp(at, frequency, value)


def write_half_maps(folder, made: HalfMaps) -> list[Path]:
    """Write FILES into `folder`, and LOCAL_FILES where made, all of them or none; returns their paths.
    `refuse_targets` comes before.

    Without a mask there are no mask.mrc and sharpened_masked.mrc; those of an earlier command go.
    """
    folder, found, size = Path(folder), made.found, made.comparison.pixel_size
    maps = {"sharpened": found.sharpened}
    if made.masked:
        maps |= {"sharpened_masked": found.sharpened * found.mask, "mask": found.mask}
    with atomic_files(folder) as staging:
        for name, array in maps.items():
            write_map(staging / f"{name}.mrc", array.astype(np.float32), size, overwrite=False)
        write_fsc_csv(staging / "fsc.csv", made.comparison.curves, made.comparison.box, size, overwrite=False)
        (staging / "postprocess.json").write_text(json.dumps(made.as_dict(), indent=1), encoding="utf-8")
        if made.local is not None:
            write_local_maps(staging, made.local)
            (staging / "locres.html").write_text(local_page(made), encoding="utf-8", errors="backslashreplace")
        written = {file.name for file in staging.iterdir()}
    for name in (*FILES, *LOCAL_FILES):
        if name not in written:  # of other half maps, or of another mask: it would pass for what belongs to these
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in (*FILES, *LOCAL_FILES) if name in written]


def local_page(made: HalfMaps) -> str:
    """locres.html: the page about the local resolution of two half maps."""
    maps = dict(zip((Path(name).stem for name in LOCAL_MAPS), (made.local.map, made.local.filtered)))
    comparison = made.comparison
    return page([comparison.first, comparison.second], comparison.pixel_size, maps, made.local.as_dict(), made.lines(),
                made.warnings)


def refuse_targets(folder, overwrite: bool, inputs: Sequence[Input] = ()) -> None:
    """Raise UserError before anything is computed, where a target exists and may not be replaced,
    or is one of `inputs`."""
    if not Path(folder).is_dir():
        refuse_existing(folder, overwrite=False)  # no file of that name, and the folder to make it in is there
        return
    for name in (*FILES, *LOCAL_FILES):  # they are written, or taken away
        refuse_existing(Path(folder) / name, overwrite, inputs)
    if overwrite and any((Path(folder) / name).exists() for name in ("summary.json", CHECKPOINT)):
        raise UserError(f"{folder} is the folder of a reconstruction, which already has a map, a mask and an FSC; "
                        f"choose another folder")
