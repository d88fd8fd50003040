"""Formats of particle tables, by the ending of the name:
how each is read, and how particles of a run are written in it.

A format that is added (``add_format``) is known to import, to reconstructions of a table itself, to
``--select COLUMN=@FILE`` and, where it has a writer, to export.
What reads and writes a format is loaded when a file of it is met.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mpirecon.errors import UserError
from mpirecon.kinds import shown
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.slab import slab

if TYPE_CHECKING:
    import numpy as np

    from mpirecon.io.export import Export
    from mpirecon.io.import_options import ImportOptions
    from mpirecon.io.particle_table import ParticleTable


class TableFormat(ABC):
    """A format of particle tables.

    Attributes
    ----------
    name : str
        what a file of it is called in messages
    suffix : str
        how names of its files end, in lower case
    options : tuple of str
        fields of ImportOptions that are for it alone
    export_options : tuple of str
        fields of ExportOptions that are for it alone
    target : str
        option of a command under which a table of this format is written
    has_sign : bool
        whether its tables say of each image whether protein is dark in it
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    export_options: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = "--star"
    has_sign: ClassVar[bool] = False

    @abstractmethod
    def read(self, path: Path, comm: Communicator, options: ImportOptions) -> ParticleTable:
        """This rank's slab of the particles that the options select; collective. UserError naming file and row."""

    def settled(self, options: ImportOptions) -> ImportOptions:
        """Options as a file is to record them: with what was chosen, whatever the default comes to be."""
        return options

    def values(self, path: Path, column: str) -> list[str]:
        """The different values of a column. UserError where it has none of that name."""
        raise UserError(f"{path}: values of a {self.name} cannot be listed; give them in a text file, one a line")

    def writer(self, export: Export) -> TableWriter:
        """What writes particles of a run. UserError where this format cannot be written."""
        raise UserError(f"particles cannot be written as a {self.name}")


class TableWriter(ABC):
    """What writes particles of one export in one format."""

    def __init__(self, export: Export) -> None:
        self.export = export

    @abstractmethod
    def check(self, path: Path) -> None:
        """Raise UserError where the format cannot hold these particles."""

    @abstractmethod
    def write(self, path: Path, rows: np.ndarray, target: Path) -> None:
        """One table of the particles of `rows`, (m,) bool, to be named `path`, as `target`."""


class Star(TableFormat):
    """RELION's."""

    name, suffix, export_options = "STAR file", ".star", ("coordinates", "mtf")

    def read(self, path: Path, comm: Communicator, options: ImportOptions) -> ParticleTable:
        from mpirecon.io.relion import read_relion

        return read_relion(path, comm, options.rescale is not None, options.rows, options.reading, **options.supplied)

    def values(self, path: Path, column: str) -> list[str]:
        from mpirecon.io.row_selection import values_of_star

        return values_of_star(path, column)

    def writer(self, export: Export) -> TableWriter:
        from mpirecon.io.export_star import StarWriter

        return StarWriter(export)


class CryoSparc(TableFormat):
    """cryoSPARC's, which every rank reads whole: it is one array on the disk."""

    name, suffix, options = "cryoSPARC file", ".cs", ("passthrough", "cs_aberrations")
    target, has_sign = "--cs", True

    def read(self, path: Path, comm: Communicator, options: ImportOptions) -> ParticleTable:
        from mpirecon.io.cryosparc import read_cryosparc

        whole = run_together(comm, lambda: read_cryosparc(
            path, options.passthrough, options.rescale is not None, options.cs_aberrations, options.rows,
            options.reading, **options.supplied
        ))  # fmt: skip
        return slab_of(whole, comm)

    def settled(self, options: ImportOptions) -> ImportOptions:
        from mpirecon.io.cryosparc_optics import DEFAULT

        return replace(options, cs_aberrations="none" if options.ignore_aberrations else options.cs_aberrations
                       or DEFAULT)

    def values(self, path: Path, column: str) -> list[str]:
        from mpirecon.io.row_selection import values_of_cs

        return values_of_cs(path, column)

    def writer(self, export: Export) -> TableWriter:
        from mpirecon.io.export_cs import CsWriter

        return CsWriter(export)


STAR = Star()

_BUILT_IN: tuple[TableFormat, ...] = (STAR, CryoSparc())

#: endings of files that are something else here, whatever reads them: what is HDF5 is opened as a particle file
_TAKEN = {".h5": "particle files", ".hdf5": "particle files", ".hdf": "particle files", ".mrc": "maps and stacks",
          ".mrcs": "stacks", ".map": "maps", ".npy": "arrays"}

_FORMATS: dict[str, TableFormat] = {known.suffix: known for known in _BUILT_IN}


def add_format(table_format: TableFormat) -> str:
    """Have imports know a format by the ending of its files' names; returns that. One of one's own that had it is
    replaced. UserError for the ending of a built-in one or of files that are no tables, for one that no name has as
    `format_of` reads it, and for what is no format."""
    if not isinstance(table_format, TableFormat):
        raise UserError(f"format {shown(table_format)}: expected an instance of a subclass of TableFormat "
                        "(mpirecon.io.formats)")
    kind, suffix = type(table_format).__name__, getattr(table_format, "suffix", None)
    for what, text in (("name", getattr(table_format, "name", None)), ("suffix", suffix)):
        if not isinstance(text, str):
            raise UserError(f"format {kind}: its {what} must be text, got {shown(text)}")
    if len(suffix) < 2 or Path(f"a{suffix}").suffix.lower() != suffix:
        raise UserError(f"format {suffix!r}: no name of a file is known by this; expected a dot and what follows the "
                        "last dot of a name, in lower case, e.g. '.tsv'")
    if suffix in _TAKEN:
        raise UserError(f"format {suffix}: files that end so are {_TAKEN[suffix]}, and never read as tables; choose "
                        "another ending")
    if any(known.suffix == suffix for known in _BUILT_IN):
        raise UserError(f"format {suffix}: there is a built-in one of files that end so already; choose another")
    _FORMATS[suffix] = table_format
    return suffix


def formats() -> tuple[TableFormat, ...]:
    """All formats, those that were added last."""
    return tuple(_FORMATS.values())


def format_of(path: str | os.PathLike) -> TableFormat | None:
    """The format of a table, by its name; None where none has such files."""
    return _FORMATS.get(Path(path).suffix.lower())


def check_ending(option: str, path: str | os.PathLike | None, *, always: bool = False) -> None:
    """Raise UserError where the name of a table to be written says another format than `option` writes.

    always : a name that says none is refused, too
    """
    if path is None or not (Path(path).suffix or always):
        return
    found = format_of(path)
    if found is not None and found.target == option:
        return
    endings = " or ".join(known.suffix for known in formats() if known.target == option)
    other = "" if found is None else f"; a {found.name} is written with {found.target}"
    raise UserError(f"{option} {path}: the name must end in {endings}{other}")


def is_table(path: str | os.PathLike) -> bool:
    """Whether a file is a table of particles to be imported, by its name, and no particle file:
    those are HDF5, whatever their name."""
    import h5py  # slow to load

    return format_of(path) is not None and not (Path(path).is_file() and h5py.is_hdf5(path))


def read_table(table_format: TableFormat, path: Path, comm: Communicator, options: ImportOptions) -> ParticleTable:
    """This rank's slab of a table; UserError, on all ranks, where its format reads no such thing. Collective."""
    from mpirecon.io.particle_table import ParticleTable

    table = table_format.read(path, comm, options)
    with together(comm):
        if not isinstance(table, ParticleTable):
            raise UserError(f"{path}: read of the format {table_format.name} returned {shown(table)}; expected a "
                            "ParticleTable (mpirecon.io.particle_table)")
    return table


def slab_of(whole: ParticleTable, comm: Communicator) -> ParticleTable:
    """This rank's part of a table that every rank has read whole.
    UserError where there are more ranks than particles."""
    if len(whole) < comm.size:
        raise UserError(f"{whole.path}: {len(whole)} particles are too few for {comm.size} ranks; use {len(whole)} at "
                        f"most")
    return whole.slab(*slab(len(whole), comm.size, comm.rank))
