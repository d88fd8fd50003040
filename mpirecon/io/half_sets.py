"""Half sets at import: those of the table, or drawn so that what shows one particle stays together;
and what is wrong with them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mpirecon.io.families import Families
from mpirecon.io.particle_table import ParticleTable
from mpirecon.model.draws import random_halves, uniform_draws

_EVEN = (0.4, 0.6)  # fraction of zeros between which halves of 0 and 1 are counted from 0
_UNEVEN = 0.25  # of all rows: a half set with less is no measure of the other
_SURE = 10  # half sets by micrograph: a fair coin per particle would look so with probability below 2**-10
NEW_HALVES = "--new-halves draws new ones"


def half_sets(
    table: ParticleTable, families: Families, seed: int, redraw: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """(half sets (m,) uint8, notes, warnings) of all rows.

    redraw : the table's own are not used; else rows without one join their family, or are drawn with it
    """
    given, warnings = (np.zeros_like(table.half), []) if redraw else _from_zero(table)
    unset = given == 0
    notes = _by_micrograph(table, given)
    if not unset.any():
        return given, notes, [*warnings, *_parted(table, families, given), *_uneven(given, table.half_label)]
    first, family = np.unique(families.number, return_inverse=True)
    half = np.zeros(len(first), np.uint8)
    known = np.flatnonzero(~unset)[::-1]  # the first row of a family speaks for it
    half[family[known]] = given[known]
    draw = np.flatnonzero(half == 0)
    sizes = np.bincount(family, minlength=len(first))
    half[draw] = _drawn(
        seed, table.numbers[first[draw]], sizes[draw], np.bincount(half, weights=sizes, minlength=3)[1:3]
    )
    out = np.where(unset, half[family], given)
    why = "--new-halves" if redraw else f"{table.half_label} is missing or not set"
    notes = [f"half sets of {int(unset.sum())} of {len(table)} images were drawn with seed {seed} ({why})"
             + (f"; images of one particle{_by(families)} stay together ({len(first)} particles)"
                if len(first) < len(table) else ""),
             *notes]
    if len(first) == 1:
        warnings.append(f"all {len(table)} images show one particle{_by(families)}, so there are no two half sets; if "
                        "it is not so, import with --family none")
    return out, notes, [*warnings, *_parted(table, families, given), *_uneven(out, table.half_label)]


def _by(families: Families) -> str:
    return f" (by {', '.join(families.by)})" if families.by else ""


def _drawn(seed: int, numbers: np.ndarray, sizes: np.ndarray, already: np.ndarray) -> np.ndarray:
    """(f,) half set of each family: a fair coin, unless it leaves a half with too little,
    as it may do with few families.

    numbers : what the draws go by
    sizes : rows of each
    already : (2,) rows that are in either half. Few families are assigned to the smaller half, larger ones first.
    """
    half = random_halves(seed, numbers)
    rows = already + [sizes[half == which].sum() for which in (1, 2)]
    if rows.min() >= _UNEVEN * rows.sum() or already.any():
        return half
    rows = already.copy()
    for family in np.lexsort([uniform_draws(seed, numbers, "half"), -sizes]):
        half[family] = 1 + int(rows[1] < rows[0])
        rows[half[family] - 1] += sizes[family]
    return half


def _from_zero(table: ParticleTable) -> tuple[np.ndarray, list[str]]:
    """The table's half sets; where they are 0 and 1, about as many of each, as counted from 0."""
    zero, share = table.half == 0, float((table.half == 0).mean())
    if not zero.any() or (table.half == 2).any() or zero.all():
        return table.half, []
    if _EVEN[0] <= share <= _EVEN[1] and len(table) > 1:
        return table.half + np.uint8(1), [f"{table.half_label} is 0 for {int(zero.sum())} and 1 for "
                                          f"{int((~zero).sum())} images, and never 2: they are taken as half sets "
                                          f"counted from 0; {NEW_HALVES}"]
    return table.half, [f"{table.half_label} is 0 for {int(zero.sum())} of {len(table)} images and never 2: 0 is taken "
                        f"as not set, and those images are drawn; {NEW_HALVES} for all"]


def _parted(table: ParticleTable, families: Families, given: np.ndarray) -> list[str]:
    """Warnings of images and of families that the table puts into both half sets:
    the half maps then know each other."""
    rows = np.flatnonzero(given)
    if not len(rows) or not families.any:
        return []
    known = pd.DataFrame({"image": families.image[rows], "family": families.number[rows], "half": given[rows]},
                         index=rows)
    once = known.drop_duplicates(["image", "half"])
    again = once.index[once.duplicated("image")]
    warnings = []
    if len(again):
        warnings.append(f"{len(again)} images are in both half sets (first: {table.describe(int(again[0]))}); the half "
                        f"maps share their noise and the FSC will be too good; {NEW_HALVES} that keep them together")
    mixed = known.groupby("family")["half"].nunique()
    parted = known[known["family"].isin(mixed.index[mixed > 1])]
    said = set(known.loc[again, "family"].tolist())
    others = parted[~parted["family"].isin(said)]
    if len(others):
        row = int(others.index[0])
        warnings.append(
            f"{others['family'].nunique()} particles{_by(families)} have rows in both half sets ({len(others)} of "
            f"{len(table)} rows; first: {table.place(row)}); the half maps know each other and the FSC will be too "
            f"good; {NEW_HALVES} that keep each particle's rows together"
        )
    return warnings


def _uneven(half: np.ndarray, label: str) -> list[str]:
    """A warning where one half set has few of the rows; an empty one is reported by the import."""
    counts = np.bincount(half, minlength=3)[1:3]
    if not counts.all() or counts.min() >= _UNEVEN * counts.sum():
        return []
    return [f"the half sets have {counts[0]} and {counts[1]} images ({label}): the map of the smaller one limits the "
            f"FSC; {NEW_HALVES}"]


def _by_micrograph(table: ParticleTable, half: np.ndarray) -> list[str]:
    """A note when the file's half sets were drawn by micrograph, not by particle."""
    if table.micrograph is None or not (half > 0).any():
        return []
    rows = pd.DataFrame({"micrograph": table.micrograph, "half": half})[half > 0]
    kinds = rows.groupby("micrograph")["half"].agg(["nunique", "size"])
    if (kinds["nunique"] > 1).any() or len(kinds) < 2 or int((kinds["size"] - 1).sum()) < _SURE:
        return []
    note = (f"half sets are by micrograph: the particles of each of the {len(kinds)} micrographs are in one half "
            f"({table.half_label})")
    return [note]
