"""What the columns of a particle table say of rows that show one particle:
tilt images, copies of one image, one filament.

Which of them hold, and what they amount to, is found from all rows together (families.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from mpirecon.errors import UserError
from mpirecon.io.source_table import names_within
from mpirecon.io.stack_paths import parse_image_names
from mpirecon.io.text_column import text_column, to_numbers

#: STAR columns whose equal values name one particle; those of a tuple together, as far as the table has the later ones
_NAMED = (
    ("rlnTomoParticleName",), ("rlnTomoParticleId", "rlnTomoName"), ("rlnParticleName", "rlnMicrographName"),
    ("rlnHelicalTubeID", "rlnMicrographName"), ("ucsfUid",), ("ucsfParticleUid",), ("mpireconUid",),
    ("mpireconSourceUid",),
)
#: STAR columns that name images, this one or the one that it was made from
_IMAGES = ("rlnImageOriginalName", "rlnOriginalParticleName", "rlnReconstructImageName")
#: STAR columns that number either the tilt images of one particle (Warp, M, nextPYP) or the particles of a micrograph
_GROUPS = ("rlnGroupName", "rlnGroupNumber")
#: STAR columns of which every image of a tilt series has a value of its own, and every series the same ones
_SCHEME = ("rlnCtfBfactor", "rlnMicrographPreExposure", "rlnTiltIndex", "rlnTomoNominalStageTiltAngle",
           "rlnCtfScalefactor")
#: columns that only tilt images have
_TILTS = ("rlnTomoParticleName", "rlnTomoParticleId", "rlnTomoName", "rlnTiltIndex", "rlnTomoNominalStageTiltAngle")
#: what cryoSPARC calls the particle that another was made from
_PARENTS = ("src_uid", "source_uid", "src_particle_uid", "parent_uid", "particle_uid")

#: particles whose centres lie closer on a micrograph are copies of one: a recentred extraction moves the pick by whole
#: pixels and the origin back, and another refinement moves it by less than this
NEAR = 2.0  # Å

NO_FAMILY = "none"
_EMPTY = [b"", b"None", b"none", b"null", b"<NA>"]  # what programs write where they know nothing


@dataclass
class ImageNames:
    """Names of images in a column: image, stack : (m,) int64, as of a ParticleTable; stacks : paths as written. An
    image below 0 is none."""

    image: np.ndarray
    stack: np.ndarray
    stacks: list[str]

    def __getitem__(self, rows) -> ImageNames:
        return ImageNames(self.image[rows], self.stack[rows], self.stacks)


@dataclass
class Relations:
    """Of m rows. A key is an int64 that rows of one particle share; 0 says nothing.

    keys : column → (m,) keys
    parents : of these, columns with the keys of particles that rows were made from → the column that has the rows' own
    images : column → ImageNames, of images that the row's was made from
    groups : column → (m,) keys, which name a particle only if its rows are a tilt series' images
    scheme : column → (m,) float64, what shows that
    places : what → (m,) keys of places on micrographs, several of which are compared to find neighbours; these say
        nothing of the images of tilt series, in which many particles lie behind each other
    tilts : whether the table is known to hold tilt images
    """

    keys: dict[str, np.ndarray] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    images: dict[str, ImageNames] = field(default_factory=dict)
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    scheme: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, np.ndarray] = field(default_factory=dict)
    tilts: bool = False

    def __getitem__(self, rows) -> Relations:
        parts = ("keys", "images", "groups", "scheme", "places")
        return replace(self, **{part: {name: v[rows] for name, v in getattr(self, part).items()} for part in parts})


def star_relations(
    particles: pd.DataFrame, path, shift: np.ndarray, micrograph_pixel: np.ndarray, asked: Sequence[str] = ()
) -> Relations:
    """Of a RELION particle table.

    shift : (m, 2) Å, where particles sit from their picks
    micrograph_pixel : (m,) Å of the pixels that picks are counted in
    asked : columns that the user says to name particles, or ``"none"`` alone
    """
    found = Relations(tilts=any(label in particles for label in _TILTS))
    for label in asked:
        if label != NO_FAMILY:
            labels = [_label(particles, label, path), names_within(label)]
            found.keys[label] = _keys(particles, [one for one in labels if one in particles])
    if NO_FAMILY in asked:
        return found
    for first, *others in _NAMED:
        if first in particles:
            labels = [first, *(label for label in others if label in particles)]
            if first not in ("rlnHelicalTubeID", "rlnParticleName") or len(labels) > 1:
                found.keys.setdefault(" and ".join(labels), _keys(particles, labels))
    if "mpireconUid" in found.keys and "mpireconSourceUid" in found.keys:
        found.parents["mpireconSourceUid"] = "mpireconUid"
    for label in _IMAGES:
        if label in particles and (names := _image_names(particles, label)) is not None:
            found.images[label] = names
    found.groups = {label: _keys(particles, [label]) for label in _GROUPS if label in particles}
    if found.groups:
        found.scheme = {label: _numbers(particles[label]) for label in _SCHEME if label in particles}
    pick = [label for label in ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ") if label in particles]
    where = next((label for label in ("rlnMicrographName", "rlnTomoName") if label in particles), None)
    if len(pick) >= 2 and where is not None:
        picks = np.stack([_numbers(particles[label]) for label in pick], axis=1)
        found.places = places(_keys(particles, [where]), picks, shift, micrograph_pixel)
        if found.tilts and len(pick) == 3:
            found.keys["places in the tomogram"] = found.places["picks"]
    return found


def cs_relations(
    array: np.ndarray, picks: tuple[np.ndarray, np.ndarray, np.ndarray] | None, shift: np.ndarray, asked: Sequence[str],
    path
) -> Relations:
    """Of a .cs file. picks : (micrograph (m,) int64, place (m, 2) pixels, Å per pixel (m,)), or None."""
    found, names = Relations(), array.dtype.names
    for name in asked:
        if name != NO_FAMILY and (name not in names or array.dtype[name].shape):
            raise UserError(f"--family {name}: {path} has no such column with a value a row; it has {', '.join(names)}")
    wanted = [name for name in asked if name != NO_FAMILY]
    if NO_FAMILY not in asked:
        wanted += ["uid", "filament/filament_uid"]
        wanted += [name for name in names if name.split("/")[-1] in _PARENTS]
    for name in dict.fromkeys(wanted):
        if name in names and not array.dtype[name].shape:
            found.keys[name] = _numbers_as_keys(array[name])
            if name.split("/")[-1] in _PARENTS and "uid" in names:
                found.parents[name] = "uid"
    if picks is not None and NO_FAMILY not in asked:
        found.places = places(*picks[:2], shift, picks[2])
    return found


def places(micrograph: np.ndarray, pick: np.ndarray, shift: np.ndarray, pixel: np.ndarray) -> dict[str, np.ndarray]:
    """Keys of where particles were picked, and of where they are found to sit; 0 where the table has no place.

    pick : (m, 2 or 3) pixels of `pixel` (m,) Å
    shift : (m, 2) Å. The second lie in four grids of cells that are twice as wide as particles of one place may lie
        apart: two that are near share a cell of at least one of them.
    """
    unset = ~pick.any(axis=1)
    depth = np.rint(10 * pick[:, 2]).astype(np.int64) if pick.shape[1] > 2 else 0
    micrograph = _mixed(micrograph, depth)
    found = {"picks": _at(micrograph, np.rint(10 * pick[:, :2]))}
    if shift.any():
        cells = (pick[:, :2] * pixel[:, None] + shift) / (2 * NEAR)
        for x in (0.0, 0.5):
            for y in (0.0, 0.5):
                found[f"centres {x:g} {y:g}"] = _at(micrograph, np.floor(cells + (x, y)))
    for key in found.values():
        key[unset] = 0
    return found


def _at(micrograph: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(m,) key of whole numbers (m, 2) on a micrograph."""
    x, y = cell.astype(np.int64).view(np.uint64).T
    with np.errstate(over="ignore"):
        return micrograph ^ (x * np.uint64(0x9E3779B97F4A7C15) + y * np.uint64(0xC2B2AE3D27D4EB4F)).view(np.int64)


def _mixed(key: np.ndarray, more) -> np.ndarray:
    """A key of both, (m,) int64."""
    with np.errstate(over="ignore"):
        mixed = key.astype(np.int64).view(np.uint64) ^ (key.view(np.uint64) >> np.uint64(29))
        more = np.asarray(more).astype(np.int64).view(np.uint64)
        return (mixed * np.uint64(0x9E3779B97F4A7C15) ^ more * np.uint64(0xBF58476D1CE4E5B9)).view(np.int64)


def _keys(particles: pd.DataFrame, labels: list[str]) -> np.ndarray:
    """(m,) key of each combination of values: hashes, the same on all ranks; 0 where the first is empty or ``None``."""
    column = text_column(particles[labels[0]])
    key = column.hashes()
    for label in labels[1:]:
        key = _mixed(key, text_column(particles[label]).hashes())
    key[np.isin(column.cells, _EMPTY)] = 0
    return key


def _numbers(column: pd.Series) -> np.ndarray:
    """(m,) float64; 0 for what is no number, as nothing is said then."""
    return np.nan_to_num(to_numbers(column), nan=0.0, posinf=0.0, neginf=0.0)


def _label(particles: pd.DataFrame, name: str, path) -> str:
    found = next((label for label in (name, f"rln{name}", name.lstrip("_")) if label in particles), None)
    if found is None:
        raise UserError(f"--family {name}: {path} has no such column; it has {', '.join(map(str, particles.columns))}")
    return found


def _image_names(particles: pd.DataFrame, label: str) -> ImageNames | None:
    """The images that a column names (image −1: none is, or only the micrograph is);
    None where some value is no such name."""
    column = particles[label]
    unknown = np.isin(text_column(column).cells, _EMPTY)
    if "rlnMicrographName" in particles:
        unknown |= text_column(column).hashes() == text_column(particles["rlnMicrographName"]).hashes()
    named = np.flatnonzero(~unknown)
    out = ImageNames(np.full(len(column), -1), np.zeros(len(column), np.int64), [""])
    try:
        out.image[named], stack, stacks = parse_image_names(column.iloc[named])
    except UserError:
        return None
    if len(named):
        out.stack[named], out.stacks = stack, stacks
    return out


def _numbers_as_keys(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.int64)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return 1 + pd.factorize(values)[0].astype(np.int64)
