"""What a user may say about an import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from mpirecon.errors import UserError
from mpirecon.io.cryosparc_optics import signs_of
from mpirecon.io.inputs import Input
from mpirecon.io.reading import SHIFT_AXES, Reading, parse_unit
from mpirecon.io.row_selection import RowOptions, parse_selection
from mpirecon.kinds import Positive, Range, Seed, Share, checked_fields
from mpirecon.model.choices import check_choice
from mpirecon.model.simulated_errors import ErrorSettings

#: what `dtype` and `contrast` can be
DTYPES, CONTRASTS = ("auto", "float32", "float16"), ("white", "black")

#: `rescale`: to the box and pixel size that most particles have
COMMON = "common"


@dataclass(frozen=True)
class ImportOptions(ErrorSettings):
    """What the user may say about an import; the fields of ErrorSettings count too.

    data_dir : folder that the stack paths are relative to; mapping : stack path as written → file;
    stack : file that holds all images; pixel_size (Å), voltage (kV), cs (mm), amplitude_contrast : see read_relion
    dtype : ``"auto"`` (float16 where all stacks are), ``"float32"`` or ``"float16"``
    contrast : ``"white"``, ``"black"``, or None for what the file says (RELION: white; cryoSPARC: blob/sign)
    passthrough : .cs files whose columns are joined to a .cs file by uid, or the path of one
    error_rate : fraction of particles that get a wrong orientation; error_degrees : by a small rotation instead of a
        random one
    error_by : column of the particle table; rows with the same value are wrong together
    rescale : None, ``"common"`` (the box and pixel size of most particles) or (box, Å): bring all images to one size
    link : refer to the stacks instead of copying their images
    cs_aberrations : which aberrations of a .cs file are corrected for, and their signs (cryosparc_optics.signs_of);
        None: all
    ignore_aberrations : as if the file named no beam tilt, higher-order aberration or magnification matrix
    select : COLUMN=VALUES of the rows to import, or (column, values), or several of them, row_selection.py; all must
        hold
    first : import at most so many rows, the first of those selected
    new_halves : draw half sets whatever the file says
    family : columns whose rows of one value show one particle, beside those that are known; ("none",): no column does
    units, shift_axes, use_ctf, ctf_premultiplied, ctf_phase_flipped : what the columns do not say, see reading.Reading
    bfactor_sign : one of plausible.BFACTOR_SIGNS; scale_defocus : by the square of --pixel-size over the table's pixel
        size
    seed : of half sets and simulated errors; skip_bad : leave NaN and constant images out, up to the fraction max_bad
    """

    data_dir: str | os.PathLike | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    stack: str | os.PathLike | None = None
    pixel_size: Positive | None = None
    voltage: Annotated[float, Range(20, 2000)] | None = None
    cs: Annotated[float, Range(-50, 50)] | None = None
    amplitude_contrast: Share | None = None
    dtype: str = "auto"
    contrast: str | None = None
    passthrough: str | os.PathLike | Sequence[str | os.PathLike] = ()
    error_rate: float = 0.0
    error_degrees: float | None = None
    error_by: str | None = None
    rescale: Literal["common"] | tuple[Annotated[int, Range(4)], Positive] | None = None
    link: bool = False
    cs_aberrations: str | None = None
    ignore_aberrations: bool = False
    select: str | Sequence[str | tuple[str, str]] = ()
    first: int | None = None
    new_halves: bool = False
    family: str | Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    shift_axes: str = "x,y"
    use_ctf: bool = True
    ctf_premultiplied: bool | None = None
    ctf_phase_flipped: bool | None = None
    bfactor_sign: str = "auto"
    scale_defocus: bool = False
    seed: Seed = 1
    skip_bad: bool = False
    max_bad: Share = 0.1
    overwrite: bool = False

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))
        one = isinstance(self.passthrough, (str, os.PathLike))
        object.__setattr__(self, "passthrough", tuple(map(Path, [self.passthrough] if one else self.passthrough)))
        for name in ("data_dir", "stack"):
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else Path(path))
        self.check_errors()
        check_choice("--dtype", self.dtype, DTYPES)
        check_choice("--contrast", self.contrast, (None, *CONTRASTS))
        self._check_texts()
        if self.defocus_error and not self.use_ctf:
            raise UserError("--defocus-error and --no-ctf exclude each other: there is no CTF whose defocus could be "
                            "wrong")
        if self.error_by is not None and not self.simulates_errors:
            raise UserError(f"--error-by {self.error_by} says which rows are wrong together; give the fraction of "
                            "wrong ones with --orientation-error-rate or another rate")

    def _check_texts(self) -> None:
        """Raise UserError where a text that is parsed later is not of its form: before anything is read."""
        try:
            if self.cs_aberrations is not None:
                signs_of(self.cs_aberrations)
        except ValueError as error:
            raise UserError(f"--cs-aberrations {error}") from error
        _ = self.reading, self.rows  # which raise it for theirs

    @property
    def orientation_errors(self) -> tuple[float, float | None]:
        return self.error_rate or 0.0, self.error_degrees

    @property
    def reading(self) -> Reading:
        try:
            units = dict(parse_unit(f"{quantity}={unit}") for quantity, unit in self.units.items())
        except ValueError as error:
            raise UserError(f"--unit {error}") from error
        if self.shift_axes not in SHIFT_AXES:
            raise UserError(f"--shift-axes {self.shift_axes}: expected one of {' '.join(SHIFT_AXES)}")
        return Reading(units, not self.use_ctf, self.ctf_premultiplied, self.ctf_phase_flipped, self.shift_axes)

    @property
    def inputs(self) -> list[Input]:
        """The files that these options name, but for the stack of images."""
        lists = (Path(values[1:]) for _, values in self.selections if values.startswith("@"))
        return [*(Input("passthrough file", path) for path in self.passthrough),
                *(Input("list of rows", path) for path in lists)]

    @property
    def selections(self) -> tuple[tuple[str, str], ...]:
        """`select` as (column, values)."""
        select = self.select
        if isinstance(select, str) or (len(select) == 2 and all(isinstance(one, str) and "=" not in one
                                                                for one in select)):
            select = [select]
        try:
            return tuple(parse_selection(one if isinstance(one, str) else "=".join(one)) for one in select)
        except (TypeError, ValueError) as error:
            raise UserError(f"--select {error}; in Python also (column, values), or several of these") from error

    @property
    def rows(self) -> RowOptions:
        """Which rows are read, and what shows one particle."""
        if self.first is not None and self.first < 1:
            raise UserError(f"--first {self.first}: at least 1 row is needed")
        family = (self.family,) if isinstance(self.family, str) else tuple(self.family)
        return RowOptions(self.selections, family, self.new_halves, self.first)

    @property
    def supplied(self) -> dict[str, float | None]:
        """What is used in place of columns."""
        return {name: getattr(self, name) for name in ("voltage", "cs", "amplitude_contrast", "pixel_size")}
