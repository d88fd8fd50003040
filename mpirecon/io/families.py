"""Families: rows that show one particle, by everything that the table and its stacks say of it.

Copies of an image share its noise, and images of one particle its pose and its errors: a family belongs into one half
set and into one fold of it, or maps that should not know each other do.

Two rows are of one family when any of these is the same for both, and when a chain of such rows joins them:

- the image: the file it lies in (device and inode, whatever its path is written like) and its section there;
- the image it was made from (rlnImageOriginalName, rlnOriginalParticleName, rlnReconstructImageName), as is or as
  another row's;
- a column that names particles (relations.py), of STAR and .cs files;
- the place on the micrograph: the pick, or the refined centre within 2 Å;
- rlnGroupName or rlnGroupNumber, where its rows are tilt images and not the particles of a micrograph. Each image of a
  tilt series has an exposure of its own, and all series have the same ones: equal values (rlnCtfBfactor, which Warp and
  M set to −4 times the dose, or another column that distinguishes tilts) within groups are then far fewer than if they
  were assigned to the rows by chance. The particles of a micrograph have a value in common, or values by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mpirecon.io.particle_table import ParticleTable
from mpirecon.model.components import joined
from mpirecon.parallel.comm import Communicator, together

_EXPECTED = 3.0  # pairs of equal values by chance, from which their absence shows tilt series
_MANY = 100.0  # from which having fewer than most of them shows it
_FEW = 0.6
_ENOUGH = 200_000  # rows, of whole groups, that are looked at


@dataclass
class Families:
    """Of all rows of a table, on rank 0.

    number : (m,) int64, the first row of each row's family
    image : (m,) int64, key of the image that each row shows
    by : what joins them beyond the image: columns, places
    """

    number: np.ndarray
    image: np.ndarray
    by: list[str]

    @property
    def first(self) -> np.ndarray:
        """(f,) rows, the first of each family."""
        return np.flatnonzero(self.number == np.arange(len(self.number)))

    @property
    def any(self) -> bool:
        """Whether some family has more than a row."""
        return bool((self.number != np.arange(len(self.number))).any())


def find_families(comm: Communicator, table: ParticleTable, files: dict[str, int]) -> Families | None:
    """The families of all rows, on rank 0; None elsewhere. Collective.

    table : this rank's rows
    files : stack as written → number of its file, stack_paths.same_files
    """
    total, found = table.total or len(table), table.relations

    def collect(values: np.ndarray) -> np.ndarray | None:
        return comm.gather_slabs(np.ascontiguousarray(values), total)

    def image_keys(names) -> np.ndarray | None:
        number = np.array([files[stack] for stack in names.stacks], np.int64)
        return collect(np.where(names.image < 0, 0, number[names.stack] << 32 | names.image))

    image = image_keys(table)
    links: list[np.ndarray] = []
    by = []
    with together(comm):
        if comm.rank == 0:
            links.append(pairs(image))
    for label in _agreed(comm, found.images):
        origin = image_keys(found.images[label])
        with together(comm):
            if comm.rank == 0:
                new = pairs(origin), _across(image, origin)
                _add(links, by, label, np.concatenate(new, axis=1))
    own: dict[str, np.ndarray | None] = {}
    for label in _agreed(comm, found.keys):
        key = collect(found.keys[label])
        if label in found.parents.values():
            own[label] = key
        with together(comm):
            if comm.rank == 0:
                _add(links, by, label, pairs(key))
                if found.parents.get(label) in own:
                    _add(links, by, label, _across(own[found.parents[label]], key))
    tilts = found.tilts
    schemes = {label: collect(found.scheme[label]) for label in _agreed(comm, found.scheme)}
    for label in _agreed(comm, found.groups):
        group = collect(found.groups[label])
        with together(comm):
            if comm.rank == 0 and any(tilt_series(group, scheme, image) for scheme in schemes.values()):
                tilts = True
                _add(links, by, f"{label} (the images of a tilt series)", pairs(group))
    del schemes
    tilts = comm.bcast(tilts)
    for label in _agreed(comm, {} if tilts else found.places):
        key = collect(found.places[label])
        with together(comm):
            known = np.zeros(0) if comm.rank else key[key != 0]
            if (known != known[:1]).any():  # else all have one place, which says nothing
                _add(links, by, "places on the micrograph", pairs(key))
    families = None
    with together(comm):
        if comm.rank == 0:
            families = Families(joined(total, np.concatenate(links, axis=1)), image, list(dict.fromkeys(by)))
    return families


def _agreed(comm: Communicator, columns: dict) -> list[str]:
    """The columns that all ranks have, in one order."""
    return [label for label in columns if label in set.intersection(*map(set, comm.allgather(list(columns))))] \
        if comm.size > 1 else list(columns)


def _add(links: list[np.ndarray], by: list[str], label: str, new: np.ndarray) -> None:
    if new.shape[1]:
        links.append(new)
        by.append(label)


def pairs(key: np.ndarray) -> np.ndarray:
    """(2, k) rows that have one key, each with the first that has it; key : (m,) int64, 0 is none."""
    ordered = np.sort(key)
    if not ((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)).any():
        return np.zeros((2, 0), np.int64)
    several = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)]
    codes = pd.Index(several).unique().get_indexer(key)
    rows = np.flatnonzero(codes >= 0)
    codes = codes[rows]
    first = np.full(codes.max() + 1, len(key))
    np.minimum.at(first, codes, rows)
    found = np.stack([first[codes], rows])
    return found[:, found[0] != found[1]]


def _across(key: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2, k): each row whose key in `other` is that of some row in `key`, with the first such row."""
    index = pd.Series(np.arange(len(key)), index=key)
    index = index[~index.index.duplicated()]
    rows = index.reindex(other).to_numpy()
    there = np.flatnonzero(np.isfinite(rows) & (other != 0))
    found = np.stack([rows[there].astype(np.int64), there])
    return found[:, found[0] != found[1]]


def tilt_series(group: np.ndarray, value: np.ndarray, image: np.ndarray) -> bool:
    """Whether the rows of each group are tilt images: of different values, which recur from group to group.

    group : (m,) keys
    value : (m,) float64, such as the exposure
    image : (m,) keys; rows of one group and image count once

    The pairs of rows of one group that have equal values are compared with how many there would be if the values were
    assigned by chance: Σ_g n_g(n_g − 1)/2 · Σ_v c_v(c_v − 1) / (m(m − 1)).
    Of a large table a part of the groups is looked at.
    """
    some = (group % max(1, len(group) // _ENOUGH) == 0) & (group != 0)  # keys are hashes: any groups
    rows = pd.DataFrame({"group": group[some], "value": value[some], "image": image[some]}).drop_duplicates()
    sizes = rows["group"].value_counts().to_numpy(np.float64)
    if len(sizes) < 2:
        return False
    alike = rows["value"].value_counts().to_numpy(np.float64)
    expected = (sizes * (sizes - 1) / 2).sum() * (alike * (alike - 1)).sum() / (len(rows) * (len(rows) - 1))
    same = rows.groupby(["group", "value"], sort=False).size().to_numpy(np.float64)
    equal = (same * (same - 1) / 2).sum()
    return bool(expected >= _EXPECTED and (equal == 0 or (expected >= _MANY and equal <= _FEW * expected)))
