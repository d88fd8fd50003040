"""A rank's particles: metadata in memory, images read batch by batch from its slab of the particle file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.kernels.background import check_pixels
from mpirecon.model.components import joined
from mpirecon.model.particles import ParticleSet
from mpirecon.model.pose import Pose, view_order
from mpirecon.operators.background import Levels
from mpirecon.parallel.comm import Communicator
from mpirecon.parallel.slab import shared_slab
from mpirecon.solvers.normalise import Normaliser

#: bytes of images, their transforms and CTFs that are held at a time, at most, and for each thread: one is no faster
#: with more, many share larger batches better; images of a batch, at least if there is room, and at most
BATCH_BYTES, _FOR_A_THREAD, _ENOUGH, _LONGEST = 64e6, 16e6, 64, 512

Group = tuple[int, int]


def batch_length(box: int, threads: int = 1) -> int:
    """How many images of a side of `box` pixels are worked on at a time."""
    per_image = 20 * box**2
    enough = max(_ENOUGH, threads * _FOR_A_THREAD / per_image)
    return int(min(max(1, BATCH_BYTES / per_image), enough, _LONGEST))


def _hash(ids: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 of (seed, id), (m,) uint64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return z ^ (z >> np.uint64(31))


def fold_of(ids: np.ndarray, seed: int, folds: int) -> np.ndarray:
    """Fold 0 … folds − 1 of each particle id, a hash of (seed, id) alone; (m,) int64."""
    return (_hash(ids, seed) % np.uint64(folds)).astype(np.int64)


def uniform_hash(ids: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) of each particle id, from a hash of (seed, id) alone; (m,) float64."""
    return (_hash(ids, seed + 0x5EED) >> np.uint64(11)).astype(np.float64) / 2**53


def folds_of_groups(half: np.ndarray, folds: int) -> np.ndarray:
    """Fold 0 … folds − 1 of each group of rows, (groups,) int64:
    assigned in turn within each half, in the order of their names.

    half : (groups,), half set of each. Groups can be few: folds of equal size leave each map the most of them, and
        names that begin with a tilt series or micrograph give each fold a fraction of every one.
    """
    fold = np.empty(len(half), np.int64)
    for which in np.unique(half):
        members = np.flatnonzero(half == which)
        fold[members] = np.arange(len(members)) % folds
    return fold


def groups_and_families(count: int, names: np.ndarray | None, family: np.ndarray | None) -> np.ndarray:
    """(2, count) int64: the number of each row's group, and of what must be in one fold:
    groups that share a family are joined.

    names : (count,) text of the groups, None where rows are their own
    family : (count,) int64 of the particle file, or None
    """
    groups = np.arange(count) if names is None else np.unique(names, return_inverse=True)[1]
    if family is None:
        return np.stack([groups, groups])
    links = [np.stack([first[number], np.arange(count)]) for first, number in (
        np.unique(labels, return_index=True, return_inverse=True)[1:] for labels in (groups, family))]
    return np.stack([groups, np.unique(joined(count, np.concatenate(links, axis=1)), return_inverse=True)[1]])


class ParticleSlab:
    """Rows start:stop of a particle file, the ones this rank reads and no other.

    metadata : ParticleSet, as the file has it, the given poses included
    pose : Pose, as they are now; ``move`` replaces some
    given : (m,) float64, weights that the particles were given, 1 without
    present : (m,) bool, those above 0; the others are as if they were not in the file: no pass visits them
    valid : (m,) bool, False for these, and for particles whose image turned out to be bad and was skipped
    total : particles that are present, of all ranks
    shares : (ranks,) float64, of the particles; None for equal ones
    by_view : whether rows are visited in the order of their views rather than in the file's: slices that lie close
        together share cache lines of the Fourier grid.
    """

    def __init__(
        self, comm: Communicator, file: ParticleFile, folds: int, seed: int, weights: np.ndarray | None = None,
        shares: np.ndarray | None = None, threads: int = 1,
    ) -> None:
        """weights : (all particles,) float64, the same on all ranks; None: all 1 · shares : (ranks,) of particles, None
        for equal ones · threads : that work on the images"""
        self.file, self.shares = file, shares
        self.start, self.stop = shared_slab(len(file), comm.size, comm.rank, shares)
        self.metadata: ParticleSet = file.metadata(self.start, self.stop)
        self.pose: Pose = self.metadata.pose
        self.ids = self.metadata.ids
        self.fold = fold_of(self.ids, seed, folds)
        self.given = np.ones(len(self)) if weights is None else weights[self.start : self.stop]
        # which of all ranks' particles are present
        self.everywhere = None if weights is None or weights.all() else weights > 0
        self.present = self.given > 0
        self.total = len(file) if self.everywhere is None else int(self.everywhere.sum())
        self.valid = self.present.copy()
        self.by_view = False
        self.groups: list[Group] = [(half, fold) for half in (1, 2) for fold in range(folds)]
        self.normaliser: Normaliser | None = None
        self.batch_length = batch_length(file.box, threads)

    def agree_on_noise_groups(self, comm: Communicator) -> None:
        """Number the optics groups of all ranks; each has a noise spectrum of its own. Collective.

        noise_groups : int
        noise_group : (m,) int64, that of each particle, 0 …
        """
        # also of absent ones: a group without images is never asked for
        mine = np.unique(self.metadata.optics_group).tolist()
        known = sorted({group for some in comm.allgather(mine) for group in some})
        self.noise_groups = len(known)
        self.noise_group = np.searchsorted(known, self.metadata.optics_group)

    def normalise(self, comm: Communicator, mode: str) -> None:
        """From now on take backgrounds and differences in gain off the images, as Normaliser has it. Collective.

        levels : Levels, factor : (m,) float64, of the images that were read since
        """
        self.normalise_as(Normaliser.of(comm, self.file, mode, self.everywhere))

    def normalise_as(self, normaliser: Normaliser) -> None:
        """The same by a Normaliser that is there already; what was found of images is forgotten."""
        self.normaliser = normaliser
        self.levels, self.factor = Levels.empty(len(self)), np.ones(len(self))
        self._measured = np.zeros(len(self), bool)

    def move(self, rows: np.ndarray, quaternion: np.ndarray, shift: np.ndarray) -> None:
        """Give some particles other poses: whoever visits them from now on sees them there,
        and no image is read for it.

        Images are kept as the given shifts centre them, and a particle's way from there is a phase taken at each visit:
        poses may change as often as one likes, and back, without a trace.

        Parameters
        ----------
        rows : (b,) int
            local rows
        quaternion : (b, 4) float
            as in Pose
        shift : (b, 2) float
            Å, as in Pose

        Raises
        ------
        UserError
            for a pose that is none, as Pose does
        """
        checked = Pose(quaternion, shift)
        self.pose = self.pose.replaced(rows, checked.quaternion, checked.shift)

    def restore(self, valid: np.ndarray, quaternion: np.ndarray, shift: np.ndarray) -> None:
        """Which rows are valid, and the poses of all, as they were saved, to the bit."""
        self.valid = valid.copy()
        self.pose = self.pose.replaced(slice(None), quaternion, shift)

    def visit_by_view(self, by_view: bool) -> None:
        """Visit rows from now on in the order of their views, or in the file's."""
        self.by_view = by_view

    def deal(self, fold: np.ndarray) -> None:
        """Put each row into this fold (m,) int64, instead of into one drawn for it."""
        self.fold = fold

    def digest(self) -> int:
        """A hash of what the file says of each particle (not its pixels), summed over this rank's rows modulo 2⁶⁴."""
        about, rows = self.metadata, self.ids.astype(np.uint64)
        ctf = (about.ctf[name] for name in about.ctf.dtype.names)
        for column in (*about.pose.quaternion.T, *about.pose.shift.T, *ctf, about.half, about.optics_group):
            rows = _hash(rows ^ np.ascontiguousarray(column, np.float64).view(np.uint64), 0)
        return int(rows.sum(dtype=np.uint64))

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def here(self) -> int:
        """Particles of this rank that are present."""
        return int(self.present.sum())

    def rows(self, group: Group) -> np.ndarray:
        """Local row numbers of a group, in the order they are visited in, which does not change when poses do."""
        half, fold = group
        rows = np.flatnonzero((self.metadata.half == half) & (self.fold == fold) & self.present)
        return rows[view_order(self.metadata.pose.quaternion[rows])] if self.by_view else rows

    def order(self) -> np.ndarray:
        """All local rows, group by group, as they are visited, then those that are not; (m,) int64."""
        return np.concatenate([*(self.rows(group) for group in self.groups), np.flatnonzero(~self.present)])

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """`rows` in pieces that fit the batch memory."""
        for first in range(0, len(rows), self.batch_length):
            yield rows[first : first + self.batch_length]

    def images(self, rows: np.ndarray, survey: Callable[[np.ndarray, np.ndarray], None] | None = None) -> np.ndarray:
        """Images of local rows, (b, n, n) float32, the particle bright, normalised where asked for;
        those known to be bad are zero.

        survey : called with the rows and the images as they were read
        """
        rank = np.argsort(rows, kind="stable")  # a file is read from its beginning to its end
        images = self.file.images(self.start + rows[rank])
        if (np.diff(rank) < 0).any():
            images[rank] = images.copy()
        if self.metadata.contrast == "black":
            images *= np.float32(-1)
        bad = ~self.valid[rows]
        if bad.any():
            images[bad] = 0
        if survey is not None:
            survey(rows, images)
        if self.normaliser is not None:
            self._normalise(rows, images)
        return images

    def _normalise(self, rows: np.ndarray, images: np.ndarray) -> None:
        """What is found of an image at its first reading is used at the next ones."""
        new = np.flatnonzero(~self._measured[rows])
        if len(new):
            self.levels[rows[new]], self.factor[rows[new]] = self.normaliser.levels(
                images if len(new) == len(rows) else images[new]
            )
            self._measured[rows[new]] = True
        self.normaliser.apply(images, self.levels[rows], self.factor[rows])

    def survey(self, rows: np.ndarray, images: np.ndarray, skip_bad: bool) -> None:
        """Find images with NaN, infinity or no contrast; mark them, or refuse the first without `skip_bad`."""
        total, varied = np.empty(len(images)), np.empty(len(images), bool)
        check_pixels(images.reshape(len(images), -1), total, varied)
        finite = np.isfinite(total)
        bad = ~(finite & varied)
        if bad.any() and not skip_bad:
            first = int(np.flatnonzero(bad)[0])
            what = "has the same value in every pixel" if finite[first] else "contains NaN or infinity"
            raise UserError(
                f"{self.file.path}: the image of particle {self.ids[rows[first]]} {what}; use --skip-bad to leave such "
                "particles out"
            )
        self.valid[rows[bad]] = False
        images[bad] = 0
