"""What a search of poses asks of particles."""

from __future__ import annotations

import numpy as np

from mpirecon.errors import UserError

#: half the range of unknown offsets where none is given, pixels
OFFSET = 5.0

#: largest part of the box that offsets are searched in, on each side
_LARGEST = 0.25

#: groups of images that are searched in, at least
_FEWEST_GROUPS = 16


def offset_range(file, config) -> float:
    """How far particles may be off, pixels."""
    return OFFSET if config.search_offset is None else config.search_offset / file.pixel_size


def check_search(comm, slab, config, groups: np.ndarray | None) -> None:
    """Refuse what a search cannot do with these particles. Collective."""
    from mpirecon.search.acceptance import FEWEST  # every run loads this module

    file, count, offset = slab.file, slab.total, offset_range(slab.file, config)
    if offset > _LARGEST * file.box:
        raise UserError(
            f"--search-offset {offset * file.pixel_size:.4g} Å is beyond a quarter of the box, "
            f"{_LARGEST * file.box * file.pixel_size:.4g} Å for {file.path}: a particle that far off has left its image"
        )
    if count < 4 * FEWEST:
        raise UserError(
            f"{file.path}: --poses {config.poses} measures what chance finds on particles of the set, and {count} are "
            f"too few for that; at least {4 * FEWEST} are needed"
        )
    if (
        groups is not None
        and (number := 1 + comm.allreduce_scalar(int(groups.max(initial=-1)), "max")) < _FEWEST_GROUPS
    ):
        raise UserError(
            f"{file.path}: --group-by {config.group_by} makes {number} groups, too few to measure what chance finds of "
            f"one; at least {_FEWEST_GROUPS} are needed"
        )
