"""What is made of a finished run's folder, and of maps: files for other programs, and pages to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpirecon.api.arguments import console_of, is_path
from mpirecon.api.path import SelectionPath
from mpirecon.api.result import Result
from mpirecon.errors import UserError, spoken
from mpirecon.io.atomic import refuse_existing
from mpirecon.io.replaced import PAGE
from mpirecon.io.inputs import given
from mpirecon.kinds import AnyPath, checked

if TYPE_CHECKING:
    from mpirecon.io.export import ExportReport

#: voxels of a side that a page may show
_SIZES = 16, 256


def folder_of(run: str | os.PathLike | Result | SelectionPath) -> Path:
    """The folder of a finished run or path that was given as such, or by its folder."""
    return run.folder if isinstance(run, (Result, SelectionPath)) else Path(run)


@checked
def export(
    run: AnyPath | Result | SelectionPath, *,
    star: str | os.PathLike | None = None, cs: str | os.PathLike | None = None,
    discarded: str | os.PathLike | None = None, stack: str | os.PathLike | None = None,
    particles: str | os.PathLike | None = None, poses: str = "original", step: float | None = None,
    coordinates: str | None = None, mtf: str | os.PathLike | Sequence[tuple[int | None, str | os.PathLike]] = (),
    overwrite: bool = False, verbose: bool | int = False,
) -> ExportReport:
    """Write the particles of a finished run or path as files for RELION and cryoSPARC.

    Parameters
    ----------
    run : path, Result or SelectionPath
        finished run or path, or its folder
    star, cs : path, optional
        files of the kept particles; cs : where they came from a .cs file
    discarded : path, optional
        file of the particles that were not kept, .star or .cs by its name
    stack : path, optional
        .mrcs for the images of all these particles, which the files then point to; needed after ``simulate``
    particles : path, optional
        the run's particle file, where it was moved
    poses : {"original", "used"}
        with simulated errors: the poses and defoci before them, or those that the run used
    step : float, optional
        of a path: the fraction whose particles count as kept; the best step's when left out
    coordinates : {"as-stored", "flipped"}, optional
        of particles of a .cs file: write their coordinates on RELION's micrographs, too
    mtf : sequence of (int or None, path)
        MTF files to name in the optics table, of one optics group or of all; or the path of one for all
    overwrite : bool
        replace files that exist
    verbose : bool or int
        show how far writing images is

    Returns
    -------
    ExportReport
        ``files``, of (path, what it holds), ``notes``, and ``warnings`` of what other programs would get wrong

    Raises
    ------
    UserError
        when the folder is no finished run, its particle file is gone or another one, a file exists, or a format cannot
        hold these particles; then none is written.
    """
    from mpirecon.io.export import ExportOptions, export_run  # slow to load, and a page needs none

    run, console = folder_of(run), console_of(None, verbose)
    mtf = ((None, mtf),) if is_path(mtf) else tuple(mtf)
    options = ExportOptions(star, discarded, cs, stack, particles, poses, step, coordinates, mtf, overwrite)
    made = export_run(run, options, lambda total: console.progress(total, "writing images"))
    return replace(made, notes=[spoken(note) for note in made.notes], warnings=[spoken(text) for text in made.warnings])


@checked
def write_report(
    run: AnyPath | Result | SelectionPath, output: AnyPath | None = None, *, overwrite: bool = False
) -> Path:
    """Write the report of a finished run or path again: one page with everything in it.

    Parameters
    ----------
    run : path, Result or SelectionPath
        the run, or its folder
    output : path, optional
        the page; the folder's own ``report.html``, which is replaced, when left out
    overwrite : bool
        replace `output`

    Returns
    -------
    Path
        the page

    Raises
    ------
    UserError
        when the folder is no finished run, or `output` exists or was read by the run.
    """
    from mpirecon.io.run_kinds import PATH
    from mpirecon.io.run_inputs import run_inputs
    from mpirecon.io.run_output import read_summary
    from mpirecon.io.unfinished import state_of
    from mpirecon.report import html, path_page

    run = folder_of(run)
    summary = read_summary(run)
    if output is not None:
        own = run / "report.html"
        refuse_existing(output, overwrite, (read for read in run_inputs(run) if read.path != own),
                        writes=PAGE, own=run)
    if (state := state_of(run)) is not None:
        console_of(None, False).warn(
            f"the report is of the run that finished before. {state[0].upper()}{state[1:]}"
        )
    write = path_page.write_path_page if summary.get("kind") == PATH.kind else html.write_report
    return write(run, summary, target=output, overwrite=overwrite or output is None)


@checked
def view(
    volume: AnyPath, output: AnyPath | None = None, *, size: int = 96, level: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows a map without a network: slices, a surface to turn, projections.

    Parameters
    ----------
    volume : path
        map (MRC)
    output : path, optional
        the page; the map's name with the ending .html when left out
    size : int
        voxels of a side in the page at most; a larger map is coarsened
    level : float, optional
        density of the surface first shown; well above the solvent when left out
    overwrite : bool
        replace a page that exists

    Returns
    -------
    Path
        the page

    Raises
    ------
    UserError
        when the map cannot be read, the page exists, or the size is not within 16 to 256.
    """
    from mpirecon.io.mrc import read_map
    from mpirecon.report.viewer import write_view

    if not _SIZES[0] <= size <= _SIZES[1]:
        raise UserError(f"size {size}: a page shows {_SIZES[0]} to {_SIZES[1]} voxels of a side")
    source = Path(volume)
    target = source.with_suffix(".html") if output is None else Path(output)
    refuse_existing(target, overwrite, given(map=source), writes=PAGE)
    read = read_map(source)
    write_view(read.array, read.pixel_size, source.name, target, size=size, level=level, overwrite=overwrite)
    return target
