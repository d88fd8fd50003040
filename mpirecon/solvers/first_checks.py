"""What a run finds wrong with files and numbers that it was given: for forecasts and batch scripts, too."""

from __future__ import annotations

from pathlib import Path

from mpirecon.errors import UserError
from mpirecon.io.given_weights import read_weights
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.solvers.config import Config
from mpirecon.solvers.mask import make_mask


def check_given(file: ParticleFile, config: Config, reference: Path | None = None) -> None:
    """Raise UserError, as a run would, for a mask, weights, a reference map, a diameter or a resolution that is none for
    these particles."""
    refuse_limit(config, file.pixel_size, file.box, file.path)
    make_mask(file, config)
    if config.weights is not None:
        read_weights(file, config.weights)
    if reference is not None:
        read_map(reference)


def refuse_limit(config: Config, pixel_size: float, box: int, of: str | Path) -> None:
    """Raise UserError where a finer resolution is asked for than the pixels of a set hold, or a coarser one than its box
    does. of : what says their size"""
    limit, width = config.max_resolution, box * pixel_size
    if limit is not None and limit < 2 * pixel_size:
        raise UserError(f"--max-resolution {limit:g} Å is beyond Nyquist, {2 * pixel_size:g} Å for {of}")
    if limit is not None and limit > width:
        raise UserError(f"--max-resolution {limit:g} Å is coarser than the box is wide, and leaves no signal: give at "
                        f"most {width:g} Å for {of}")
