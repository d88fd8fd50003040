"""The column of an imported table by which several rows show one particle, as tilt images do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile

#: columns whose values name a particle: of tomograms (RELION 4 and 5), of extraction, and of Warp and M,
#: which use the group's name
_COLUMNS = ("rlnTomoParticleName", "rlnTomoParticleId", "rlnOriginalParticleName", "rlnGroupName")


@dataclass(frozen=True)
class Family:
    """Rows that one value of a column has in common.

    column : str
    count : values that there are
    rows : of the typical value
    """

    column: str
    count: int
    rows: int


def family_column(file: ParticleFile) -> Family | None:
    """The first column of the imported table whose values are particles with several rows each;
    None where there is none.

    No two rows of a particle may be of one micrograph (tilt images are each of their own): elsewhere rlnGroupName, too,
    names groups of different particles.
    """
    places = _column(file, "rlnMicrographName")
    for name in _COLUMNS:
        values = _column(file, name)
        if values is None:
            continue
        _, number, rows = np.unique(values, return_inverse=True, return_counts=True)
        typical = int(np.median(rows))
        if len(rows) > 1 and typical > 1 and (places is None or _all_differ(number, places)):
            return Family(name, len(rows), typical)
    return None


def _all_differ(number: np.ndarray, places: np.ndarray) -> bool:
    """Whether no place comes twice for one number."""
    _, place = np.unique(places, return_inverse=True)
    return len(np.unique(number.astype(np.int64) * (1 + place.max()) + place)) == len(number)


def _column(file: ParticleFile, name: str) -> np.ndarray | None:
    try:
        return file.source_column(name).astype(str)
    except UserError:
        return None
