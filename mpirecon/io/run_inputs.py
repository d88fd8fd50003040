"""What a finished run, and a set of particles, were made from: whatever is made of them replaces none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.file_names import as_file_name
from mpirecon.io.given_weights import weights_inputs
from mpirecon.io.inputs import Input
from mpirecon.io.particle_file import ParticleFile
from mpirecon.io.run_output import files_read, open_particles, read_summary
from mpirecon.io.run_kinds import MARKERS


def particle_inputs(path: str | os.PathLike) -> list[Input]:
    """A particle file, the stacks that it refers to, and the tables and stacks that it was imported from.
    Raises UserError when it is none."""
    with ParticleFile(path) as file:
        return [*file.inputs(), *file.origins()]


def run_inputs(folder: str | os.PathLike, particles: str | os.PathLike | None = None) -> Iterator[Input]:
    """The files of a run, and what the run was made from, as of `run_origins`."""
    yield from files_read(folder)
    yield from run_origins(folder, particles)


def run_origins(folder: str | os.PathLike, particles: str | os.PathLike | None = None) -> Iterator[Input]:
    """What a finished run was made from: its particles with their stacks and tables, mask, weights, and reference map.

    particles : the run's particle file, where it was moved

    Of a folder that holds no finished run nothing is known; what is gone is left out.
    """
    folder = Path(folder)
    for marker in MARKERS:
        summary = None
        with suppress(UserError):
            summary = read_summary(folder, marker)
        if isinstance(summary, dict):
            yield from _origins(folder, summary, particles)


def _origins(folder: Path, summary: dict, particles: str | os.PathLike | None) -> Iterator[Input]:
    about, configuration, reference = ({} if not isinstance(part, dict) else part for part in (
        summary.get(name) for name in ("particles", "configuration", "reference")
    ))
    mask = configuration.get("mask")
    named = [Input("particle file", about.get("file")), Input("mask", None if mask == "auto" else mask),
             Input("reference map", reference.get("path"))]
    weights = configuration.get("weights")
    named += weights_inputs(weights if isinstance(weights, str) else None)
    for what, name in named:
        for place in _places(folder, summary, name):
            yield Input(what, place)
    with suppress(UserError), open_particles(folder, summary, particles) as file:
        yield from [*file.inputs(), *file.origins()]


def _places(folder: Path, summary: dict, name) -> list[Path]:
    """Where a file can be that a run names: from the folder that it was started in, or moved together with the run."""
    if not name:
        return []
    name = as_file_name(os.fspath(name))
    return [Path(str(start)) / name for start in (summary.get("folder") or ".", folder.parent)]
