"""Which shift the origin columns of an imported table hold, by what was said of them at the import."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from mpirecon.io.import_options import ImportOptions
from mpirecon.io.particle_file import ParticleFile


@dataclass(frozen=True)
class Origins:
    """axes : of the shift (0: x), that each of the two columns holds; None where that is not known
    factors : Å of that shift for 1 in each column"""

    axes: tuple[int, int] | None
    factors: tuple[float, float]

    @classmethod
    def of(cls, file: ParticleFile, own: float) -> Origins:
        """As the file was imported; own : Å that the columns count in where nothing was said of it."""
        told = import_options_of(file)
        if "shift_axes" not in told:  # an older file
            return cls(None, (-own, -own))
        reading = ImportOptions(units=told.get("units") or {}, shift_axes=told["shift_axes"]).reading
        shifts = reading.shifts(np.eye(2), own, 1.0, file.pixel_size)
        axes = np.abs(shifts).argmax(axis=1)
        if not shifts.any() or axes[0] == axes[1]:  # the columns were not to be read
            return cls(None, (-own, -own))
        return cls(tuple(axes.tolist()), tuple(shifts[(0, 1), axes].tolist()))


def import_options_of(file: ParticleFile) -> dict:
    """The options of the import that made this file; {} where none did, or it is from before they were kept."""
    return json.loads(file.attributes.get("provenance") or "{}").get("options") or {}
