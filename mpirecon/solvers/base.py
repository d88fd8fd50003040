"""What the two solvers have in common: the maps they keep, and how half maps regularise them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from mpirecon.operators.normal import NormalEquations
from mpirecon.operators.resample import linearly
from mpirecon.robust.selection import Selection
from mpirecon.solvers.config import Config
from mpirecon.solvers.groups import WHOLE, GroupStore, MapOf, MapSet, half_map, held_out_map
from mpirecon.solvers.kinds import own_digest
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.wiener import finest_compared, local_wiener, ssnr_of_half, ssnr_of_whole, wiener_filter
from mpirecon.validate.fsc import fsc_of_transforms, masked_transforms

#: what was decided about this rank's particles in an iteration, given the rows of a mini-batch (None: all)
Weigh = Callable[[np.ndarray | None], Selection]


class Solver(ABC):
    """Steps from weights to maps.

    ``references`` holds, after a step, the filtered maps that particles are compared with: each half's, and (with more
    than one fold) for each group the map of the other folds of its own half. ``fsc`` is the masked half-map FSC.
    """

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine = engine
        self.config = config
        self.references = MapSet(engine.comm, engine.box)
        self.fsc: np.ndarray | None = None
        self.compared: MapSet | None = None  # whose half maps `fsc` is of
        self._coarse_mask: np.ndarray | None = None
        self._unexplained = 1.0

    def begin(self, store: GroupStore) -> None:
        """Take the sums of the first step, made as the images were looked at first;
        asked of those whose kind declares ``sums``."""
        raise NotImplementedError(f"{type(self).__name__} takes no sums: its kind must not declare them")

    @abstractmethod
    def step(self, weigh: Weigh) -> Selection:
        """One outer iteration: new maps from particles weighted by ``weigh(rows)``. Returns what it last gave."""

    def sums_of(self, half: int, root: int) -> np.ndarray | None:
        """The sums of a half set that its map was made of, on `root`, as far as references hold frequencies;
        collective, asked of those whose kind declares ``sums``."""
        raise NotImplementedError(f"{type(self).__name__} keeps no sums: its kind must not declare them")

    @abstractmethod
    def finish(self) -> MapSet:
        """The half maps, unfiltered, and the Wiener-filtered map of all particles."""

    def note(self, unexplained: float) -> None:
        """Take note of the fraction of the images' power that the maps leave, before the final ones are made."""
        self._unexplained = unexplained

    def final_steps(self) -> dict[str, int]:
        """Steps of conjugate gradients that refined the final maps, by map; empty where there are none to take."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold beside the particles' statistics, by name, on rank 0; collective."""
        return {}

    def state_names(self) -> list[str]:
        """Names that `state` uses."""
        return []

    def restore(self, saved: dict[str, np.ndarray], iterations: int, fsc: np.ndarray) -> None:
        """Continue from a `state`, after so many iterations, with the FSC of the last half maps; collective."""
        self.fsc = fsc

    @property
    def is_own(self) -> bool:
        """Whether a script added it."""
        return own_digest(self.config.solver) is not None

    @property
    def reference_maps(self) -> list[MapOf]:
        folds = self.engine.folds
        held_out = [held_out_map(group) for group in self.engine.slab.groups] if folds > 1 else []
        return [half_map(1), half_map(2), *held_out]

    def equations(self, folded: np.ndarray) -> NormalEquations:
        return self.engine.backend.normal_equations(folded)

    def ssnr(self, made_of: MapOf) -> np.ndarray | None:
        """Signal-to-noise per shell that a map is expected to have; None before the first FSC."""
        if self.fsc is None:
            return None
        return ssnr_of_whole(self.fsc) if made_of == WHOLE else ssnr_of_half(self.fsc)

    def compare_halves(self, maps: MapSet) -> tuple[np.ndarray, np.ndarray] | None:
        """Set ``fsc`` from the two half maps, on all ranks.
        Returns what was compared: their half transforms in the mask, on rank 0."""
        if self.is_own:  # what its maps lack would not be said to be the solver's
            maps.check([half_map(1), half_map(2)], f"solver {self.config.solver}, for its half maps,")
        first, second = maps.bring(half_map(1)), maps.bring(half_map(2))
        curve = transforms = None
        if self.engine.comm.rank == 0:
            with self.engine.timings("solve"):
                transforms = masked_transforms(first, second, self.engine.masking)
                curve = fsc_of_transforms(*transforms, self.engine.box)
        self.fsc, self.compared = self.engine.comm.bcast(curve), maps
        return transforms

    def coarsen_references(self) -> int:
        """Choose the box of the references: it holds the shells that particles can be compared in.
        Returns the side of its grid."""
        box, padded = self.engine.box, self.engine.backend.projection.padded
        self.references = MapSet(self.engine.comm,
                                 self.engine.backend.coarse_box(finest_compared(ssnr_of_half(self.fsc))))
        return padded * self.references.box // box

    def filter_halves(self, transforms: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Make references of the half transforms that rank 0 has compared, which are overwritten."""
        for k, half in enumerate((1, 2)):
            volume = None
            if transforms is not None:
                with self.engine.timings("solve"):
                    volume = wiener_filter(transforms[k], self.ssnr(half_map(half)), self.references.box)
            self.references.place(half_map(half), 0, volume)

    def refer_to(self, maps: MapSet) -> None:
        """Compare the half maps among these, and make references of them,
        filtered by their FSC in the mask; collective."""
        transforms = self.compare_halves(maps)
        self.coarsen_references()
        self.filter_halves(transforms)

    def focus_references(self) -> None:
        """Take from the references the noise about the particle; collective.

        Its level is from the difference of the half maps, a number like their FSC; where it is, is taken from each map alone.
        """
        if not self.config.rule.scores:  # selects nothing
            return
        references, folds, mask = self.references, self.engine.folds, self.reference_mask
        difference = references.get(half_map(1)) - references.get(half_map(2))
        with self.engine.timings("solve"):
            noise = float(np.einsum("zyx,zyx,zyx->", mask, difference, difference, dtype=np.float64) / 2 / mask.sum())
            del difference
            for made_of in self.reference_maps:
                volume = references.owned(made_of)
                if volume is not None:
                    fewer = 1.0 if made_of.without is None else folds / (folds - 1)
                    volume = local_wiener(volume, noise * fewer, self.ssnr(made_of), mask)
                references.place(made_of, references.owner(made_of), volume)

    @property
    def reference_mask(self) -> np.ndarray:
        """The mask in the references' box."""
        if self.references.box == self.engine.box:
            return self.engine.mask
        if self._coarse_mask is None or len(self._coarse_mask) != self.references.box:
            self._coarse_mask = linearly(self.engine.mask, self.references.box)
        return self._coarse_mask

    def solve(
        self, into: MapSet, store: GroupStore, maps: list[MapOf], solve, last: bool = False, side: int | None = None
    ) -> None:
        with self.engine.timings("solve"):
            into.solve(store, maps, solve, last, side)
