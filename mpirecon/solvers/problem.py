"""What a run was asked, and what with: nothing of it changes once it is set up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from mpirecon.backend import get_backend
from mpirecon.backend.bands import Bands
from mpirecon.backend.protocol import Backend
from mpirecon.backend.warm import compile_once
from mpirecon.errors import UserError
from mpirecon.io.given_weights import GivenWeights, given_array, read_weights
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.devices import numbers_of
from mpirecon.model.symmetry import point_group
from mpirecon.operators.fourier import interpolation_for
from mpirecon.operators.symmetry import Symmetry
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.pages import worth_huge_pages
from mpirecon.parallel.placement import Placement, place_ranks
from mpirecon.parallel.threads import available_cores, default_memory, default_threads
from mpirecon.robust.distances import Distance
from mpirecon.robust.returned import LARGEST_WEIGHT, SMALLEST_WEIGHT
from mpirecon.search.warm import steps as search_steps
from mpirecon.solvers.config import Config
from mpirecon.solvers.connect import connect
from mpirecon.solvers.first_checks import refuse_limit
from mpirecon.solvers.mask import agree_on_mask, make_mask, mask_in_words
from mpirecon.solvers.normalise import OFF
from mpirecon.solvers.slab_data import ParticleSlab, folds_of_groups, groups_and_families
from mpirecon.solvers.speeds import rank_shares
from mpirecon.solvers.timing import Timings
from mpirecon.validate.masks import SoftMask

#: shells 0 and 1 hold offsets and gradients of the background rather than the particle
_LOWEST_SCORE_SHELL = 2

#: processes that compile kernels, where one rank has so many cores: each begins with most of a second of imports
_MOST_COMPILING = 4


@dataclass(frozen=True, eq=False)
class Problem:
    """A reconstruction that is set up on the ranks of a communicator.

    Attributes
    ----------
    comm, file, config, log, console, timings
        as the run was given them; the Config is in force for this file
    distance : Distance
    given : GivenWeights or None
        weights that the particles were given
    slab : ParticleSlab
        this rank's particles
    groups : (m,) int64 or None
        number of each one's group (--group-by)
    parted : str or None
        what is wrong with half sets that part groups
    placement : Placement
    neighbours : int
        ranks of this host
    backend : Backend
    transport : str or None
    mask : SoftMask
        that particles are scored in
    symmetry : Symmetry
    """

    comm: Communicator
    file: ParticleFile
    config: Config
    log: object
    console: object
    timings: Timings
    distance: Distance
    given: GivenWeights | None
    slab: ParticleSlab
    groups: np.ndarray | None
    parted: str | None
    placement: Placement
    neighbours: int
    backend: Backend
    transport: str | None
    mask: SoftMask
    symmetry: Symmetry

    @classmethod
    def of(cls, comm: Communicator, file: ParticleFile, config: Config, log, console, timings: Timings,
           weights=None) -> Problem:
        """Set a run up; collective. Raises UserError, on all ranks, for what a user can mend.

        weights : (m,) float, of all particles, in place of what ``config.weights`` names
        """
        given = _given_weights(comm, file, config, weights)
        relative = None if given is None else given.relative
        with together(comm):
            present = True if relative is None else relative > 0
            settled = config.settled(file, present).plain() if comm.rank == 0 else None
        config = replace(config, **comm.bcast(settled))
        neighbours = comm.allgather(comm.hostname).count(comm.hostname)
        threads = _threads(config, neighbours)
        slab, groups, parted = _particles(comm, file, config, relative, threads)
        if given is not None:
            console.say(f"  {given.sentence()}")
        if parted:
            console.warn(parted)  # at once, for the run may be long, and in the report
        placement = place_ranks(comm, "cpu" if config.deterministic else config.backend)
        backend, mask = run_together(
            comm, lambda: (_backend(file, config, placement, neighbours, log), make_mask(file, config))
        )
        agree_on_mask(comm, config, mask)
        symmetry = Symmetry(point_group(config.symmetry))
        compile_once(
            comm, backend, slab.metadata, config.rule.searches_nearby, config.deterministic, symmetry, console.say,
            timings, config.searches,
            search_steps(config.refines, config.group_by is not None) if config.searches else (),
            helpers=min(threads, available_cores(), _MOST_COMPILING) - 1,
        )  # fmt: skip
        if (shares := rank_shares(comm, backend, log, console)) is not None:
            slab, groups, parted = _particles(comm, file, config, relative, threads, shares)
        slab.normalise(comm, config.normalise)  # kernels look at images
        transport = connect(comm, backend, placement, config.transport, log, console)
        return cls(comm, file, config, log, console, timings, config.measure, given, slab, groups,
                   parted, placement, neighbours, backend, transport, mask, symmetry)  # fmt: skip

    @property
    def threads(self) -> int:
        """Threads of this rank."""
        return _threads(self.config, self.neighbours)

    @property
    def memory(self) -> int:
        """Bytes that this rank may keep images in."""
        return _memory(self.config, self.neighbours)

    @property
    def masked_by_user(self) -> bool:
        return self.config.masked_by_file or self.config.diameter is not None

    @property
    def mask_text(self) -> str:
        """The mask that particles are scored in, in words."""
        return mask_in_words(self.file, self.config)

    def bands(self, noise_power: np.ndarray, high_pass: float | None = None) -> Bands:
        """Bands of the shells that particles are scored on;
        of those alone that are finer than `high_pass`, Å, if given."""
        lowest, highest = _scored_shells(self.file, self.config, self.backend)
        if high_pass is not None:
            lowest = min(max(lowest, int(np.ceil(self.file.box * self.file.pixel_size / high_pass))), highest)
        return self.backend.bands(noise_power, lowest, highest, self.distance.whitened)

    @property
    def used(self) -> dict:
        """What was used where an option left it to the program, by the option's name."""
        file, config, plane = self.file, self.config, self.backend.plane
        side, lowest = file.box * file.pixel_size, min(_LOWEST_SCORE_SHELL, plane.shells - 1)
        return {
            "padding": interpolation_for(file.box, config.padding)["padding"], "threads": self.threads,
            "memory": self.memory,
            "mask": self.mask_text, "max_resolution": config.max_resolution or 2 * file.pixel_size,
            "score_resolution": config.score_resolution or [side / lowest, side / (plane.shells - 1)],
            "backend": self.backend.name, "transport": self.transport, "folds": config.scoring_folds,
        }  # fmt: skip

    def starting_weights(self, weights: np.ndarray | None) -> np.ndarray | None:
        """This rank's of the starting weights of all particles."""
        if weights is None:
            return None
        weights = numbers_of(weights, "starting weights: they", flags=True, verb="are")
        if weights.shape != (len(self.file),):
            raise UserError(f"starting weights have the shape {weights.shape}, expected ({len(self.file)},): one for "
                            f"each particle of {self.file.path}")
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise UserError("starting weights must be finite and not negative, and not all 0")
        if not SMALLEST_WEIGHT <= weights.max() <= LARGEST_WEIGHT:
            raise UserError(f"starting weights are up to {weights.max():g}; the largest must be between "
                            f"{SMALLEST_WEIGHT:g} and {LARGEST_WEIGHT:g}, and that of a typical particle about 1")
        return weights[self.slab.start : self.slab.stop]


def _particles(comm: Communicator, file: ParticleFile, config: Config, weights, threads: int, shares=None) -> tuple:
    """(this rank's particles, their groups, what is wrong with half sets that part groups). Collective."""
    slab = run_together(
        comm, lambda: ParticleSlab(comm, file, config.scoring_folds, config.seed, weights, shares, threads)
    )
    slab.agree_on_noise_groups(comm)
    _check_halves(comm, file, config, slab)  # groups of none say less
    return slab, *_groups(comm, file, config, slab)


def _given_weights(comm: Communicator, file: ParticleFile, config: Config, weights) -> GivenWeights | None:
    """The weights that the particles were given, the same on all ranks; None without. Rank 0 reads them. Collective."""
    found = None
    with together(comm):
        if comm.rank == 0 and (weights is not None or config.weights is not None):
            found = read_weights(file, config.weights) if weights is None else given_array(weights, file)
    if (source := comm.bcast(None if found is None else found.source)) is None:
        return None
    return GivenWeights(source, comm.bcast_array(np.empty(len(file)) if found is None else found.values))


def _threads(config: Config, neighbours: int) -> int:
    return default_threads(neighbours) if config.threads is None else config.threads


def _memory(config: Config, neighbours: int) -> int:
    return default_memory(neighbours) if config.memory is None else config.memory


def _backend(file: ParticleFile, config: Config, place: Placement, neighbours: int, log) -> Backend:
    limit = None
    if config.max_resolution is not None:
        refuse_limit(config, file.pixel_size, file.box, file.path)
        limit = file.box * file.pixel_size / config.max_resolution + 0.5
    device = {"device": place.index, "sharing": place.sharing, "log": log} if place.backend == "cuda" else {}
    on_cpu = {"half_precision": config.half_precision, "threads": _threads(config, neighbours),
              "memory": _memory(config, neighbours),
              "huge_pages": worth_huge_pages(config.visits * len(file) / neighbours)}
    backend = get_backend(
        place.backend, file.box, file.pixel_size, limit=limit, premultiplied=bool(file.attributes["ctf_premultiplied"]),
        aberrations=file.aberrations(), space=config.space, interpolation=interpolation_for(file.box, config.padding),
        on_cpu=on_cpu, level=config.normalise == OFF, **device,
    )
    _scored_shells(file, config, backend)
    return backend


def _scored_shells(file: ParticleFile, config: Config, backend: Backend) -> tuple[int, int]:
    """(lowest, highest) Fourier shell that particles are scored on."""
    last = backend.plane.shells - 1
    lowest, highest = min(_LOWEST_SCORE_SHELL, last), last
    if config.score_resolution is not None:
        coarse, fine = (file.box * file.pixel_size / r for r in config.score_resolution)
        lowest, highest = max(1, int(np.ceil(coarse))), min(highest, int(np.floor(fine)))
        if lowest > highest:
            raise UserError("--score-band holds no Fourier shell of this box; widen it")
    return lowest, highest


def digest_of(array: np.ndarray) -> str:
    """A hash of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _groups(
    comm: Communicator, file: ParticleFile, config: Config, slab: ParticleSlab
) -> tuple[np.ndarray | None, str | None]:
    """Number of each of this rank's particles' group (--group-by), (m,) int64, read by rank 0 for all; and what is
    wrong with half sets that part groups. Deals the slab's folds.

    Rows of a group are in one fold: an image of one particle would be scored by a map of its other images. So are rows
    that the import found to show one particle, whatever is asked for.
    """
    column = config.group_by
    if column is None and file.extra("family", 0, 0) is None:
        return None, None
    numbers = np.empty((2, len(file)), np.int64)
    with together(comm):
        if comm.rank == 0:
            names = None if column is None else file.group_names(column)
            numbers[:] = groups_and_families(len(file), names, file.extra("family"))
    groups, joint = comm.bcast_array(numbers)[:, slab.start : slab.stop]
    parted = None
    if (count := 1 + int(numbers[1].max())) < len(file) or column is not None:
        fold, parted = _folds_of_groups(comm, file, config, slab, joint, count)
        slab.deal(fold[joint])
    return (None if column is None else groups), parted


def _folds_of_groups(
    comm: Communicator, file: ParticleFile, config: Config, slab: ParticleSlab, groups: np.ndarray, count: int
) -> tuple[np.ndarray, str | None]:
    """Fold of each group, (count,) int64, the same on all ranks; and what is wrong where half sets part groups."""
    column, folds, parted = config.group_by, config.scoring_folds, None
    first, last = np.full(count, 3), np.zeros(count, np.int64)
    present = slab.present
    np.minimum.at(first, groups[present], slab.metadata.half[present])
    np.maximum.at(last, groups[present], slab.metadata.half[present])
    comm.allreduce(first, "min")
    comm.allreduce(last, "max")
    first = np.where(last > 0, first, 0)  # of a group that takes no part
    what, where = ("particles", str(file.path)) if column is None else ("groups", f"--group-by {column}")
    if mixed := int((first != last).sum()):
        remedy = "--new-halves" if column is None else f"--family {column} --new-halves"
        if file.has_duplicates:
            remedy += ", or without --duplicate-rate: the duplicates were simulated"
        parted = (f"{where}: {mixed} of {count} {what} have rows in both half sets, which are then not independent: "
                  f"the FSC is inflated. Import again with {remedy}")
    for half, of_half in ((1, first), (2, last)):
        if (some := int((of_half == half).sum())) < folds:
            raise UserError(f"{where}: half set {half} has {some} {what}, fewer than --folds {folds}; each fold is "
                            f"scored against the map of the others. Use --folds {_at_most(some)}")
    return folds_of_groups(first, folds), parted


def _at_most(folds: int) -> str:
    """So many folds or fewer, of which there is at least one."""
    return f"{folds} or fewer" if folds > 1 else "1"


def _check_halves(comm: Communicator, file: ParticleFile, config: Config, slab: ParticleSlab) -> None:
    counts = np.array([(slab.present & (slab.metadata.half == h)).sum() for h in (1, 2)], np.int64)
    comm.allreduce(counts)
    for half, count in zip((1, 2), counts):
        if count == 0:
            raise UserError(
                f"{file.path}: half set {half} is empty ({int(counts.sum())} particles in all); both half maps need "
                "particles. Import again with --new-halves, which draws new half sets, or add particles"
            )
        if count < config.scoring_folds:
            raise UserError(
                f"{file.path}: half set {half} has {count} particles, fewer than --folds {config.folds}; each fold is "
                f"scored against the map of the others. Use --folds {_at_most(int(counts.min()))}, or --loss l2"
            )
