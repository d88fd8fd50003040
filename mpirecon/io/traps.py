"""What a particle table hides: warnings that the import prints instead of swallowing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mpirecon.io.particle_table import ParticleTable

_SURE = 10  # half sets by micrograph: a fair coin per particle would look so with probability below 2**-10

#: how the columns begin that RELION and cryoSPARC keep of helical segments
_HELICAL = ("rlnHelical", "filament/")


def find_traps(table: ParticleTable) -> tuple[list[str], list[str]]:
    """(notes, warnings) about half sets that share or follow something, and scores of zero."""
    return _halves_by_micrograph(table), [*_duplicates(table), *_zeros(table)]


def unapplied_symmetry(columns: Iterable[str]) -> list[str]:
    """A note where the table's columns say that its particles are segments of helices."""
    found = next((name for name in columns if name.startswith(_HELICAL)), None)
    if found is None:
        return []
    return [f"{found}: these are helical segments; helical symmetry (rise and twist) is not applied, each segment counts as a single "
            "particle of the point group"]


def _duplicates(table: ParticleTable) -> list[str]:
    """A warning when the same image is in both halves: the half maps then share noise."""
    rows = pd.DataFrame({"image": table.image, "stack": table.stack, "half": table.half})
    halves = rows[rows["half"] > 0].drop_duplicates().duplicated(["image", "stack"])
    if not halves.any():
        return []
    row = int(halves.index[halves][0])
    warning = (f"{int(halves.sum())} images are in both half sets (first: {table.describe(row)}); the half maps share "
               "their noise and the FSC will be too good")
    return [warning]


def _halves_by_micrograph(table: ParticleTable) -> list[str]:
    """A note when the file's half sets were drawn by micrograph, not by particle."""
    if table.micrograph is None or not (table.half > 0).any():
        return []
    rows = pd.DataFrame({"micrograph": table.micrograph, "half": table.half})[table.half > 0]
    kinds = rows.groupby("micrograph")["half"].agg(["nunique", "size"])
    if (kinds["nunique"] > 1).any() or len(kinds) < 2 or int((kinds["size"] - 1).sum()) < _SURE:
        return []
    note = (f"half sets are by micrograph: the particles of each of the {len(kinds)} micrographs are in one half "
            f"({table.half_label})")
    return [note]


def _zeros(table: ParticleTable) -> list[str]:
    """Warnings about columns in which some particles have a zero that says that they were never scored."""
    warnings = []
    for name, values in table.scores.items():
        zero = values == 0
        if zero.any() and not zero.all():
            row = int(np.flatnonzero(zero)[0])
            warnings.append(
                f"{name} is 0 for {int(zero.sum())} of {len(table)} particles (first: {table.place(row)}); were they "
                "ever aligned?"
            )
    zero = table.ctf["scale"] == 0
    if zero.any():
        warnings.append(f"the CTF's scale is 0 for {int(zero.sum())} of {len(table)} particles: they say nothing of "
                        f"the map (first: {table.place(int(np.flatnonzero(zero)[0]))})")
    return warnings
