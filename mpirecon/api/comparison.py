"""Two runs beside each other, from scripts."""

from __future__ import annotations

import os
from pathlib import Path

from mpirecon.api.result import Result
from mpirecon.kinds import AnyPath, checked, of_kind
from mpirecon.report import comparison as runs
from mpirecon.report.comparison_page import comparison_page, sentences, write_comparison


class Comparison(runs.Comparison):
    """As `mpirecon.compare` makes it: a comparison that can write its page and shows itself in a notebook."""

    @checked
    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write one self-contained HTML page; UserError when `path` exists, without `overwrite`, or is a file that one
        of the runs left or was made from."""
        return write_comparison(self, path, overwrite)

    def __repr__(self) -> str:
        return "\n".join(sentences(self))

    def _repr_html_(self) -> str:
        return comparison_page(self)


@checked
def compare(run1, run2, *, particles1: str | os.PathLike | None = None,
            particles2: str | os.PathLike | None = None) -> Comparison:
    """Set two finished runs beside each other.

    Parameters
    ----------
    run1, run2 : Result, or path
        finished runs, or their folders
    particles1, particles2 : path, optional
        the runs' particle files, where they were moved

    Returns
    -------
    Comparison
        ``between`` (FSC between the maps), ``counts`` (kept by both, by the first or second alone, by neither),
        ``matched`` (rows of the particles that both had), ``wrong``, ``correlation`` of the scores, ``settings`` that
        differ, ``notes``, ``as_dict()`` and
        ``write(path)``. Particles are matched by cryoSPARC's uid or the image's name where the particle files differ,
        not by their row

    Raises
    ------
    UserError
        where a folder holds no finished run, or a particle file that was given is not that of the run.
    """
    folders = tuple(run.folder if isinstance(run, Result) else Path(of_kind(run, AnyPath | Result, name))
                    for run, name in ((run1, "run1="), (run2, "run2=")))
    made = runs.compare_runs(folders, (particles1, particles2))
    return Comparison(made.runs, made.between, made.matched, made.settings, made.notes, made.particles)
