"""The mask that particles are scored in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import Communicator
from mpirecon.solvers.config import Config
from mpirecon.validate.masks import SoftMask, check_mask

#: width of the spherical mask's edge, pixels
_MASK_EDGE = 4.0


def make_mask(file: ParticleFile, config: Config) -> SoftMask:
    """The user's mask, or a soft sphere: of the given diameter, or as large as the box allows."""
    if config.masked_by_file:
        mask = read_map(config.mask)
        if mask.box != file.box or abs(mask.pixel_size / file.pixel_size - 1) > 1e-3:
            todo = "make a mask of that size"
            if mask.box == file.box and config.mask_name is not None:
                todo = f"its box is right: give it as mpirecon.Volume(array, {file.pixel_size:g})"
            elif mask.box == file.box:
                todo = (
                    "its box is right, so perhaps only the pixel size in its header is wrong: relion_image_handler --i "
                    f"{config.mask} --o mask_right.mrc --force_header_angpix {file.pixel_size:g} sets it"
                )
            header = ", in its header," if config.mask_name is None else ""
            raise UserError(
                f"{config.mask_called}: the mask has box {mask.box} and{header} pixels of {mask.pixel_size:g} Å; "
                f"{file.path} has box {file.box} and pixels of {file.pixel_size:g} Å; {todo}"
            )
        return SoftMask.of(check_mask(np.asarray(mask.array, np.float32), config.mask_called))
    edge = min(_MASK_EDGE, file.box / 8)
    largest = file.box / 2 - edge
    radius = largest if config.diameter is None else config.diameter / 2 / file.pixel_size
    if not 0 < radius <= largest + 1e-6:
        raise UserError(f"--diameter {config.diameter:g} Å: with its soft edge the mask must fit the box; at most "
                        f"{2 * largest * file.pixel_size:.4g} Å")
    return SoftMask(file.box, radius, edge)


def mask_in_words(file: ParticleFile, config: Config) -> str:
    if config.masked_by_file:
        return config.mask_name or Path(config.mask).name
    edge = min(_MASK_EDGE, file.box / 8)
    diameter = config.diameter or 2 * (file.box / 2 - edge) * file.pixel_size
    largest = "" if config.diameter else ", the largest that the box holds,"
    return f"sphere of {diameter:.4g} Å{largest} with a soft edge of {edge:.3g} pixels"


def agree_on_mask(comm: Communicator, config: Config, mask: SoftMask) -> None:
    """A mask file that is replaced while the ranks read it must not cut each one's maps in its own way. Collective."""
    if config.masked_by_file and len(set(comm.allgather(mask.digest()))) > 1:
        raise UserError(f"{config.mask_called} is not the same mask on all ranks: it was replaced while they read it, "
                        "or the hosts' copies differ; start again when nothing writes to it")
