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
    refuse_beyond_nyquist(config, file.pixel_size, file.path)
    make_mask(file, config)
    if config.weights is not None:
        read_weights(file, config.weights)
    if reference is not None:
        read_map(reference)


def refuse_beyond_nyquist(config: Config, pixel_size: float, of: str | Path) -> None:
    """Raise UserError where a finer resolution is asked for than the pixels of a set hold. of : what says their size"""
    if config.max_resolution is not None and config.max_resolution < 2 * pixel_size:
        raise UserError(f"--max-resolution {config.max_resolution:g} Å is beyond Nyquist, {2 * pixel_size:g} Å for "
                        f"{of}")
