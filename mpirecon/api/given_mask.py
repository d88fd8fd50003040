"""Masks that scripts give as arrays, written to a file that a run reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mpirecon.api.arguments import is_path
from mpirecon.api.maps import as_volume
from mpirecon.api.reading import open as open_particles
from mpirecon.api.scratch import Scratch
from mpirecon.io import mrc
from mpirecon.io.formats import is_table
from mpirecon.model.arrays import Volume
from mpirecon.parallel.agree import run_first, run_together
from mpirecon.parallel.comm import Communicator
from mpirecon.validate.grids import refuse_no_numbers

#: what such a mask is called
GIVEN_MASK = "given as an array"


def given_mask(mask, particles, scratch: Scratch, comm: Communicator) -> tuple[str | None, str | None]:
    """(file of a mask or another name for one, what it is called if that is none of the user's). Collective.

    particles : whose pixel size an array has
    """
    if not isinstance(mask, (Volume, np.ndarray)):
        return os.fspath(mask) if is_path(mask) else None if mask is None else str(mask), None
    made = run_together(comm, lambda: _volume(mask, particles))
    path = scratch.path / "given_mask.mrc"
    run_first(comm, lambda: mrc.write_map(path, made.to_numpy().astype(np.float32), made.pixel_size, overwrite=True))
    return str(path), GIVEN_MASK


def _volume(mask, particles) -> Volume:
    found = as_volume(mask, None if isinstance(mask, Volume) else _pixel_size(particles), "the mask")
    refuse_no_numbers(found.to_numpy(), "the mask")
    return found


def _pixel_size(particles) -> float | None:
    """None of a table's, which may be read as another."""
    if is_path(particles):
        return None if is_table(Path(particles)) else open_particles(particles).pixel_size
    return particles.pixel_size
