"""A particle table in mpirecon's terms, whichever program wrote it: what the importer copies images by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.relations import Relations
from mpirecon.model.aberrations import Aberrations
from mpirecon.model.pose import Pose
from mpirecon.parallel.comm import Communicator


@dataclass
class ParticleTable:
    """m particles in the order of their file: all of them, or the slab that a rank has read.

    first : number of the first of these rows in the file; total : how many rows the file has
    path : the file; lines : (m,) int64, where each particle is; unit : what lines counts, ``"line"`` or ``"row"``
    pixel_size : Å; image_size : pixels a side, or None where the file does not say
    pixel_sizes : (m,) float64 Å, where particles may differ; pixel_size is then the first's until they are rescaled
    image_sizes : (m,) float64 pixels a side, likewise, where the file says them
    pose : Pose (shift in Å); ctf : (m,) CTF_DTYPE
    rows : (m,) int64, their numbers in the file where only some of its rows were selected, else None
    half : (m,) uint8, 0 where the file names none; relations : what the columns say of rows that show one particle
    optics_group : (m,) int32; ctf_premultiplied, ctf_phase_flipped : bool
    image : (m,) int64, 0-based section; stack : (m,) int64, index into stacks; stacks : paths as written
    tables : all tables of a STAR file as text; particle_block : which of them has the particles
    arrays : the structured arrays of a .cs file, (m,) each
    half_label : the column that names half sets
    contrast : what the file says of it; negate : (m,) bool, images whose sign must be turned to that, or None
    micrograph : (m,) int64, or None where the file does not say
    scores : name → (m,) float64, columns whose zeros mean something
    classes : (m,) int64, the 3-D class of each, or None; class_select : the --select that imports class {}
    aberrations : of all optics groups, or None; own : (m, ·) float64, particles' own optics: odd Zernike
    coefficients (6), even ones (any number), magnification matrix (4); or None
    mtf : optics group → (file as written, Å of the pixels that it counts in)
    calibration : (m,) float64, the pixel size that the user gave over the table's, or None
    notes, warnings : sentences for the user
    """

    path: Path
    lines: np.ndarray
    pixel_size: float
    image_size: int | None
    pose: Pose
    ctf: np.ndarray
    half: np.ndarray
    relations: Relations
    optics_group: np.ndarray
    ctf_premultiplied: bool
    image: np.ndarray
    stack: np.ndarray
    stacks: list[str]
    half_label: str
    unit: str = "line"
    first: int = 0
    total: int | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    particle_block: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    contrast: str = "white"
    negate: np.ndarray | None = None
    micrograph: np.ndarray | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None
    classes: np.ndarray | None = None
    class_select: str = ""
    aberrations: Aberrations | None = None
    own: np.ndarray | None = None
    pixel_sizes: np.ndarray | None = None
    image_sizes: np.ndarray | None = None
    mtf: dict[int, tuple[str, float]] = field(default_factory=dict)
    calibration: np.ndarray | None = None
    ctf_phase_flipped: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.image)

    def slab(self, start: int, stop: int) -> ParticleTable:
        """Rows start … stop of a whole table, as a rank reads them."""
        rows = slice(start, stop)
        pick = {
            name: getattr(self, name)[rows]
            for name in ("lines", "pose", "ctf", "half", "relations", "optics_group", "image", "stack", "negate",
                         "micrograph",
                         "own", "pixel_sizes", "image_sizes", "rows", "classes", "calibration")
            if getattr(self, name) is not None
        }
        return replace(
            self,
            **pick,
            first=start,
            total=len(self),
            arrays={name: array[rows] for name, array in self.arrays.items()},
            scores={name: values[rows] for name, values in self.scores.items()},
        )

    @property
    def numbers(self) -> np.ndarray:
        """(m,) int64, the number of each row in the file, from 0: what random draws go by."""
        return self.first + np.arange(len(self)) if self.rows is None else self.rows

    def place(self, row: int) -> str:
        """Where a row came from: file and line."""
        return f"{self.path}, {self.unit} {self.lines[row]}"

    def describe(self, row: int) -> str:
        """Where a row came from: file, line and image."""
        return f"{self.place(row)} (image {self.image[row] + 1}@{self.stacks[self.stack[row]]})"

    def source(self, rows: np.ndarray) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
        """(tables, arrays) of the file with the particles `rows`, (k,) int64, alone."""
        tables = dict(self.tables)
        if not np.array_equal(rows, np.arange(len(self))) and self.particle_block in tables:
            tables[self.particle_block] = tables[self.particle_block].iloc[rows]
        return tables, {name: array[rows] for name, array in self.arrays.items()}


def agree(comm: Communicator, table: ParticleTable) -> None:
    """Make the slabs that ranks have read parts of one table: numbers of stacks, notes and warnings are those of all.

    Raises
    ------
    UserError
        naming two lines, when what all particles must share is not the same on all ranks.
    """
    for name in ("notes", "warnings"):
        said = [text for rank in comm.allgather(getattr(table, name)) for text in rank]
        setattr(table, name, list(dict.fromkeys(said)))
    stacks = list(dict.fromkeys(stack for rank in comm.allgather(table.stacks) for stack in rank))
    number = {stack: i for i, stack in enumerate(stacks)}
    table.stack = np.array([number[stack] for stack in table.stacks], np.int64)[table.stack]
    table.stacks = stacks
    shared = {"pixel size": table.pixel_size if table.pixel_sizes is None else 1.0,
              "box size": table.image_size, "contrast": table.contrast,
              "CTF-premultiplied": table.ctf_premultiplied, "phase-flipped": table.ctf_phase_flipped}
    ranks = comm.allgather((shared, int(table.lines[0])))
    for values, line in ranks[1:]:
        for name, value in values.items():
            first = ranks[0][0][name]
            same = value == first or (name == "pixel size" and abs(value / first - 1) <= 1e-4)
            if not same:
                raise UserError(
                    f"{table.path}: the {name} is {first} from {table.unit} {ranks[0][1]} on, but {value} from "
                    f"{table.unit} {line} on; particles of one file must share it: import them apart"
                )


def gather(comm: Communicator, table: ParticleTable) -> ParticleTable | None:
    """On rank 0 the whole table as far as particles depend on each other:
    neither poses nor texts, about 50 bytes a row."""
    if comm.size == 1:
        return table

    def collect(values: np.ndarray) -> np.ndarray | None:
        return comm.gather_slabs(np.ascontiguousarray(values), table.total)

    found = {name: collect(getattr(table, name)) for name in ("lines", "half", "image", "stack")}
    found["rows"] = None if table.rows is None else collect(table.rows)
    found["micrograph"] = None if table.micrograph is None else collect(table.micrograph)
    scores = {name: collect((values != 0).astype(np.uint8)) for name, values in table.scores.items()}
    scale = collect(table.ctf["scale"])
    if comm.rank:
        return None
    return replace(table, **found, scores=scores, ctf=scale.view([("scale", np.float64)]), pose=None, first=0,
                   arrays={},
                   tables={}, negate=None, relations=Relations(), classes=None)
