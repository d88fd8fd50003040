"""What a reconstruction was asked to do, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from mpirecon.backend import SPACES
from mpirecon.errors import UserError
from mpirecon.kinds import Count, Natural, Positive, Seed, checked_fields
from mpirecon.model.choices import check_choice
from mpirecon.model.symmetry import point_group
from mpirecon.robust.distances import Distance
from mpirecon.robust.known_rules import rule_names, rule_of
from mpirecon.robust.rules import Rule
from mpirecon.robust.schedule import SCHEDULES
from mpirecon.robust.selection import AUTO
from mpirecon.solvers.kinds import SolverKind, solver_kind, solver_names
from mpirecon.solvers.meaning import meanings
from mpirecon.solvers.normalise import AUTO as NORMALISED
from mpirecon.solvers.normalise import NORMALISE

#: fields of a Config that are no options
OF_SCRIPTS = ("mask_name", "meant")

SORT_SCOPES = ("global", "batch")

#: where the kernels run, and how GPU arrays travel between ranks
BACKENDS, TRANSPORTS = ("auto", "cpu", "cuda"), ("auto", "cuda-aware", "staged", "nccl")

#: what becomes of the given poses
FIXED, RESCUE, REFINE = "fixed", "rescue", "refine"
POSES = (FIXED, RESCUE, REFINE)

#: with a search of poses, iterations after which there is one: all but the last of those that are added for it
SEARCHES = 2

#: particles that are compared with the maps where nothing is selected by it and comparing all was not requested: of as
#: many, losses are known to some 3e-4 of themselves
SAMPLE = 500

#: folds where none are asked for, and where a half set has fewer groups (--group-by) than this
_FOLDS, _FOLDS_OF_FEW, _FEW_GROUPS = 4, 8, 64


@dataclass(frozen=True)
class Config:
    """Options of ``mpirecon reconstruct`` that change its result.

    keep : fraction of particles that ``sorted`` keeps, in (0, 1], or "auto"
    folds : parts of each half set, each scored against the map of the others; 1 scores inside the half, None: as many
        as ``settled`` finds best
    batch_size : particles per gradient step over all ranks, 0 for all
    mask_name : what the mask is called, if not by its file: that of an array
    mask : a file, or "auto" for a sphere and, of the final map, a mask made from itself
    max_resolution : Å, finest used
    score_resolution : (coarsest, finest) Å used for distances
    diameter : Å of the spherical mask
    symmetry : point group in RELION's setting
    weights : of the particles, multiplied with those of the loss: a column of the imported table, or "FILE:COLUMN"
    schedule : "plain", "graduated" or None (graduated where the mixture decides)
    group_by : column of the imported table whose rows of one value are right or wrong together
    solve_iterations : of the conjugate gradients that refine the final maps; None: as many as the noise leaves
        something to gain from
    padding : Fourier grid over box, None: 2 in small boxes, else 1.5
    threads : of a rank, memory : bytes that it may keep images in, None: what the host has for it
    half_precision : keep them as float16
    normalise : take backgrounds and differences in gain off the images: "auto", "background" alone, or "off"
    poses : "fixed", "rescue" to search those of rejected particles, or "refine" to move those of the others as well
    search_offset : Å, how far their offsets may be off on each side, None: 5 pixels, 0: they are right
    search_sigma : degrees, standard deviation of the errors on each axis that are searched for, None: any
    particle_scores : compare every particle with the maps, also where nothing is selected by it
    meant : what loss, distance and solver mean, by option: objects that were given, completed by those that are known.
    """

    loss: str = "l2"
    keep: float | Literal["auto"] | None = None
    distance: str = "explained"
    solver: str = "normal"
    iterations: int | None = None
    folds: int | None = None
    sort_scope: str = "global"
    schedule: str | None = None
    batch_size: int = 0
    step: float = 1.0
    momentum: float = 0.3
    solve_iterations: Natural | None = None
    padding: float | None = None
    threads: Count | None = None
    memory: Natural | None = None
    half_precision: bool = False
    backend: str = "auto"
    symmetry: str = "C1"
    weights: str | None = None
    transport: str = "auto"
    space: str = "fourier"
    mask: str | None = None
    diameter: Positive | None = None
    max_resolution: Positive | None = None
    score_resolution: tuple[float, float] | None = None
    group_by: str | None = None
    normalise: str = NORMALISED
    poses: str = FIXED
    search_offset: float | None = None
    search_sigma: float | None = None
    particle_scores: bool = False
    skip_bad: bool = False
    mask_name: str | None = None
    seed: Seed = 0
    deterministic: bool = False
    meant: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        vars(self).update(checked_fields(self))
        named = {"loss": self.loss, "distance": self.distance, "solver": self.solver}
        object.__setattr__(self, "meant", meanings(named, self.meant))
        object.__setattr__(self, "symmetry", point_group(self.symmetry).name)
        check_choice("--backend", self.backend, BACKENDS)
        check_choice("--transport", self.transport, TRANSPORTS)
        check_choice("--space", self.space, SPACES)
        check_choice("--normalise", self.normalise, NORMALISE)
        if self.backend == "cpu" and self.transport != "auto":
            raise UserError(f"--transport {self.transport} is how GPU arrays travel; it needs --backend cuda")
        check_choice("--sort-scope", self.sort_scope, SORT_SCOPES)
        if self.schedule is not None:
            check_choice("--schedule", self.schedule, SCHEDULES)
        distance, rule = self.measure, self.rule
        if rule.must_keep and self.keep is None:
            raise UserError(f"--loss {self.loss} needs --keep Q, the fraction of particles to keep, e.g. --keep 0.7, "
                            f"or --keep auto")
        if self.keep not in (None, AUTO) and not 0 < self.keep <= 1:
            raise UserError(f"--keep {self.keep:g}: expected a fraction above 0 and at most 1")
        if self.space == "real" and self.mixes:
            raise UserError("--space real has no local pose search, which --loss posterior and --keep auto need; use "
                            "--space fourier, or another loss")
        if self.keep is not None and not rule.keeps:
            raise UserError(f"--keep applies to --loss {_losses('keeps')}; --loss {self.loss} weights all particles")
        if self.mixes and not distance.whitened:
            raise UserError(f"--distance {self.distance} cannot be used with --loss posterior or --keep auto, which "
                            "need whitened statistics: use explained, whitened or correlation")
        if self.keep == AUTO and self.sort_scope == "batch":
            raise UserError("--keep auto fits all particles of all ranks; use --sort-scope global, or give --keep a "
                            "share")
        if rule.length and distance.norm is None:
            raise UserError(f"--loss {self.loss} needs a distance that is a length; --distance {self.distance} is not: "
                            "use explained, whitened or raw")
        if self.score_resolution is not None and not 0 < self.score_resolution[1] < self.score_resolution[0]:
            coarse, fine = self.score_resolution
            raise UserError(f"--score-band {coarse:g}:{fine:g}: expected the coarser resolution first, in Å, e.g. "
                            "60:12")
        if self.weights is not None and not self.weights.strip():
            raise UserError("--weights: expected COLUMN of the imported table, or FILE:COLUMN")
        if self.iterations is not None and self.iterations < 1:
            raise UserError(f"--iterations {self.iterations}: at least 1 is needed")
        if self.padding is not None and not 1.25 <= self.padding <= 2:
            raise UserError(f"--padding {self.padding:g}: expected 1.25 to 2")
        if self.folds is not None and self.folds < 1:
            raise UserError(f"--folds {self.folds}: at least 1 is needed (1 scores inside the half set)")
        if self.sort_scope == "batch" and not rule.must_keep:
            raise UserError("--sort-scope batch applies to --loss sorted")
        if self.schedule == "graduated" and not rule.scores:
            raise UserError("--schedule graduated applies to robust losses; --loss l2 counts all particles alike")
        if self.group_by and not self.mixes:
            raise UserError("--group-by applies where the mixture decides: --loss posterior or --keep auto")
        self._check_search()
        if self.batch_size < 0:
            raise UserError(f"--batch-size {self.batch_size}: expected 0 (all particles) or more")
        if self.batch_size and not self.solver_kind.batches:
            batched = " and ".join(name for name in solver_names() if solver_kind(name).batches)
            raise UserError(f"--batch-size applies to --solver {batched}; --solver {self.solver} uses all particles at "
                            f"once")
        if self.deterministic and (self.backend == "cuda" or self.space == "real" or self.sort_scope == "batch"):
            what = ("--backend cuda" if self.backend == "cuda" else "--space real" if self.space == "real"
                    else "--sort-scope batch")
            raise UserError(f"--deterministic cannot be had with {what}: it works on CPUs, in Fourier space, with "
                            "particles sorted over all ranks")
        if self.deterministic and self.half_precision:
            raise UserError("--deterministic cannot be had with --half-precision: which images are rounded depends on "
                            "the memory of each rank")
        if not 0 < self.step <= 2:
            raise UserError(f"--step {self.step:g}: expected above 0 and at most 2")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum {self.momentum:g}: expected 0 or more and below 1")

    def _check_search(self) -> None:
        check_choice("--poses", self.poses, POSES)
        for option, value in (("--search-offset", self.search_offset), ("--search-sigma", self.search_sigma)):
            if value is not None and not self.searches:
                raise UserError(f"{option} applies to --poses {RESCUE} and {REFINE}; --poses {FIXED} searches nothing")
        if not self.searches:
            return
        if not self.rule.mixture:
            raise UserError(f"--poses {self.poses} needs the probabilities of --loss {_losses('mixture')}; --loss "
                            f"{self.loss} gives none")
        if self.group_by and self.refines:
            raise UserError(f"--poses {self.poses} moves particle by particle, and rows of a group (--group-by "
                            f"{self.group_by}) share one orientation: use --poses {RESCUE}, which searches them "
                            "together")
        if self.folds == 1:
            raise UserError(f"--poses {self.poses} compares particles with maps that they did not build: --folds 2 or "
                            f"more")
        if self.rounds <= SEARCHES:
            raise UserError(f"--iterations {self.iterations}: --poses {self.poses} searches before the last "
                            f"{SEARCHES}; at least {SEARCHES + 1}")
        if self.search_offset is not None and not 0 <= self.search_offset < np.inf:
            raise UserError(f"--search-offset {self.search_offset:g} Å: expected 0 or more")
        if self.search_sigma is not None and not 0 < self.search_sigma <= 60:
            raise UserError(f"--search-sigma {self.search_sigma:g}: expected above 0 and at most 60 degrees; without "
                            "it all orientations are searched")

    @property
    def searches(self) -> bool:
        """Whether poses are searched."""
        return self.poses != FIXED

    @property
    def refines(self) -> bool:
        """Whether poses of particles that are accepted at the given ones are moved."""
        return self.poses == REFINE

    @property
    def rule(self) -> Rule:
        """What the loss asks of a run."""
        return self.meant["loss"].thing

    @property
    def measure(self) -> Distance:
        """What the distance of a particle from a map is."""
        return self.meant["distance"].thing

    @property
    def solver_kind(self) -> SolverKind:
        """What the solver asks of a run."""
        return self.meant["solver"].thing

    @property
    def sums_at_once(self) -> bool:
        """Whether the first maps are made of sums that need no look at the images before; units of such that do not
        depend on their order do."""
        return self.solver_kind.sums and not self.rule.scores and not self.deterministic

    @property
    def visits(self) -> int:
        """How often each particle is added to a grid or compared with one, at most."""
        return self.rounds * self.solver_kind.passes - self.sums_at_once

    def visits_once(self, particles: int, truth: bool) -> bool:
        """Whether so many images are each read once, and none is kept, but for those that are compared.
        truth : as for ``compared``"""
        return self.sums_at_once and self.rounds == 1 and self.compared(particles, truth) < particles

    @property
    def searches_nearby(self) -> bool:
        """Whether particles are compared at poses near theirs; of a group's, each would be turned in its own way."""
        return self.rule.searches_nearby and self.group_by is None

    @property
    def rounds(self) -> int:
        """Outer iterations: as asked, else as many as the solver or the loss takes; 2 more where poses are searched."""
        if self.iterations is not None:
            return self.iterations
        more = SEARCHES if self.searches else 0
        return (self.solver_kind.rounds or self.rule.rounds) + more

    def compared(self, particles: int, truth: bool) -> int:
        """How many of so many particles are compared with the maps.
        truth : whether errors were simulated, whose detection is scored"""
        return particles if self.rule.scores or self.particle_scores or truth else min(particles, SAMPLE)

    @property
    def settling(self) -> int:
        """Iterations by whose end the selection is settled."""
        return self.rounds - (SEARCHES if self.searches else 0)

    @property
    def masked_by_file(self) -> bool:
        """Whether the mask is a file's."""
        return self.mask not in (None, AUTO)

    @property
    def mixes(self) -> bool:
        """Whether the mixture decides which poses are correct."""
        return self.rule.mixture or self.keep == AUTO

    @property
    def graduated(self) -> bool:
        """Whether the selection begins relaxed: as requested, else where the mixture decides."""
        return self.mixes if self.schedule is None else self.schedule == "graduated"

    @property
    def scoring_folds(self) -> int:
        """Folds really used: L2 selects nothing,
        so its half maps can be compared with each other and no folds are needed."""
        return self.folds or _FOLDS if self.rule.scores else 1

    def settled(self, file, present: np.ndarray | bool = True) -> Config:
        """With the folds of this ParticleFile where none were asked for: more where groups are few, to leave more of
        them to score against. present : (m,) bool, particles that take part; True: all."""
        if self.folds is not None:
            return self
        few = self.group_by is not None and _fewest_groups(file, self.group_by, present) < _FEW_GROUPS
        return replace(self, folds=_FOLDS_OF_FEW if few else _FOLDS)

    @property
    def mask_called(self) -> str | None:
        """The mask as messages and reports name it."""
        return self.mask_name or self.mask

    def plain(self) -> dict:
        """All fields that are numbers and text, which can be sent to other ranks: functions cannot."""
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name != "meant"}

    def as_dict(self) -> dict:
        """What was asked for, by the options' names."""
        asked = {name: value for name, value in self.plain().items() if name not in OF_SCRIPTS}
        return asked | {"iterations": self.rounds, "schedule": SCHEDULES[self.graduated], "mask": self.mask_called}


def _fewest_groups(file, column: str, present: np.ndarray | bool) -> int:
    """Groups of rows that take part, in the half set that has fewer."""
    names, half = file.group_names(column), file.halves()
    return min(len(np.unique(names[present & (half == which)])) for which in (1, 2))


def _losses(declare: str) -> str:
    """The losses that declare something, for messages."""
    return " and ".join(name for name in rule_names() if getattr(rule_of(name), declare))
