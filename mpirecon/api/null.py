"""Reconstructions from noise in scripts: what a selection makes of nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mpirecon.api.agreement import same_on_all
from mpirecon.api.arguments import as_communicator, console_of
from mpirecon.api.maps import FSC
from mpirecon.api.options import configuration, source_of
from mpirecon.api.scratch import Scratch
from mpirecon.io.named_path import NamedPath
from mpirecon.io.run_kinds import NULL
from mpirecon.io.run_output import read_summary
from mpirecon.kinds import AnyPath, checked
from mpirecon.parallel.agree import run_first, run_together


@checked
def null(
    particles, output: AnyPath | None = None, *, loss="l2", comm=None, overwrite: bool = False,
    verbose: bool | int = False, **options,
) -> NullTest:
    """Replace the images by noise and reconstruct: the half maps must not agree. Collective over `comm`.

    Each image becomes noise of its own power per shell; poses, CTFs and half sets stay. Half maps that agree
    nevertheless agree because the selection made them.

    Parameters
    ----------
    particles : Particles, or path of a particle file, of a RELION STAR file or of a cryoSPARC .cs file
        whose images are replaced
    output : path, optional
        folder, as ``mpirecon null -o`` writes it; a temporary one, gone with the NullTest, when left out
    loss : str, callable, or class of losses
        as `reconstruct` takes it
    comm : optional
        ``mpirecon.world()``, or a communicator of mpi4py; None: this process alone
    overwrite : bool
        replace an existing folder
    verbose : bool or int
        print what the command prints; 2: also what it prints with ``--verbose``
    **options
        those of `reconstruct` that change its result

    Returns
    -------
    NullTest
        the same on all ranks

    Raises
    ------
    UserError
        on all ranks, for what the caller can mend.
    """
    from mpirecon.solvers.null import run_null

    comm = as_communicator(comm)
    same_on_all(comm, output=output, loss=loss, overwrite=overwrite, **options)
    path, reading = run_together(comm, lambda: source_of(particles, options))
    scratch = Scratch(comm)
    config = configuration(particles, scratch, comm, loss=loss, **options)
    folder = scratch.path / "null" if output is None else Path(output)
    run_null(comm, path, folder, config, console_of(comm, verbose), overwrite=overwrite, reading=reading)
    summary = comm.bcast(run_first(comm, lambda: read_summary(folder, NULL.marker)))
    return NullTest(folder, _scratch=scratch if output is None else None, _summary=summary)


class NullTest:
    """What a reconstruction from noise came to, from the folder that ``null`` wrote, here or on the command line.

    Parameters
    ----------
    folder : path
        that ``mpirecon null -o`` wrote

    Attributes
    ----------
    folder : Path
    summary : dict
        null.json: configuration, verdict, one record per iteration

    Raises
    ------
    UserError
        when the folder holds no such test.
    """

    @checked
    def __init__(
        self, folder: str | os.PathLike, *, _scratch: Scratch | None = None, _summary: dict | None = None
    ) -> None:
        self._named, self._scratch = NamedPath(folder), _scratch
        self.summary = read_summary(folder, NULL.marker) if _summary is None else _summary

    @property
    def folder(self) -> Path:
        """As it was given; absolute where the current folder has changed since."""
        return self._named.path

    @property
    def passed(self) -> bool:
        """Whether the selection made no resolution."""
        return bool(self.summary["passed"])

    @property
    def mean_fsc(self) -> float:
        """Mean FSC of the half maps beyond shell 5, over the shells that ``summary`` names."""
        return float(self.summary["mean_fsc"])

    @property
    def limit(self) -> float:
        """Mean FSC beyond which a selection has made resolution, where it is also more than chance."""
        return float(self.summary["limit"])

    @property
    def fsc(self) -> FSC:
        """Of the half maps of noise, in the mask that particles are scored in."""
        about = self.summary["particles"]
        return FSC(np.array(self.summary["fsc"]), about["box"], about["pixel_size"])

    def __repr__(self) -> str:
        return f"NullTest({str(self.folder)!r}, {self.summary['verdict']})"
