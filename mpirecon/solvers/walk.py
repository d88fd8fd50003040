"""Maps of nested selections, one after another, from images that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.stopping import StopSignals
from mpirecon.robust.nested import Members, high_pass_of
from mpirecon.robust.particle_noise import particle_sigma
from mpirecon.robust.selection import AUTO, Selection
from mpirecon.solvers.config import Config
from mpirecon.solvers.controls import micrographs
from mpirecon.solvers.groups import WHOLE, MapSet, half_map
from mpirecon.solvers.normal import NormalSolver
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.path_options import PathOptions
from mpirecon.solvers.run import Reconstruction
from mpirecon.solvers.slab_data import groups_and_families
from mpirecon.validate.automask import mask_of_transform
from mpirecon.validate.fsc import crossing, fsc_of_transforms
from mpirecon.validate.selection_bias import contrast_left_out

#: FSC of the half maps down to which a high-pass moves: finer, particles have nothing to be scored by
_SCORED_TO = 0.5


@dataclass
class Walked:
    """How far a walk has come. Arrays are of all particles of the file, on rank 0 alone.

    steps : a record of each step that is done
    distance : (m,) float64, by which the next selection is made, smaller is better
    kept_to : (m,) float64, the smallest fraction yet that the particle is kept in, 0 where it is in none
    found : the first scores of each particle: distance, sigma, yp, pp
    unexplained : fraction of the images' power not in the map
    """

    steps: list[dict] = field(default_factory=list)
    distance: np.ndarray | None = None
    kept_to: np.ndarray | None = None
    found: dict[str, np.ndarray] = field(default_factory=dict)
    unexplained: float = 1.0


class Walk:
    """The steps of a path over the particles of a file; everything is collective.

    After ``prepare``, ``step(number)`` makes selection number 0, 1 … and the half maps of it,
    of all of its particles alike.
    """

    def __init__(
        self, comm: Communicator, file: ParticleFile, config: Config, options: PathOptions, log, console,
        start: float | None = None,
        stop: StopSignals | None = None, weights: np.ndarray | None = None, mask: np.ndarray | None = None,
    ) -> None:
        """start : when the program began, Unix time · weights : (m,), in place of what ``config.weights`` names · mask
        : that selections are compared in, on rank 0, in place of the one that particles are scored in"""
        self.comm, self.file, self.options, self.console, self.log = comm, file, options, console, log
        config = replace(config, particle_scores=True)  # steps are made of them
        self.run = Reconstruction(comm, file, config, log, console, began=start, weights=weights, stop=stop)
        self.walked = Walked()
        self._mask, self._mask_text, self.mask_note = mask, None, None
        self.members = self._all_members()  # on rank 0, None elsewhere
        self.fractions = self._fractions()

    def prepare(self, walked: Walked | None = None) -> None:
        """Look at the images and, of a walk by one first run, make that run; or continue from what was walked."""
        run = self.run
        if walked is None and not self.options.rescores:
            for _ in run.iterations():
                pass
            chosen = run.final_selection()
            self._keep_scores(run.state.scores.held_out, np.where(chosen.contradicts, np.inf, chosen.distance),
                              run.unexplained())
            run.solver.forget()
        else:
            run.prepare()
        if walked is not None:
            self.walked = walked
        self._alike = NormalSolver(self.engine, replace(run.config, loss="l2", keep=None, schedule=None, group_by=None))
        self._scoring = NormalSolver(self.engine, run.config)  # whose references particles are scored against
        self._note()
        self.members = self._all_members()  # without the images that were found to be bad
        self._fractions(self.fractions)

    @property
    def engine(self) -> Engine:
        return self.run.engine

    # the mask that selections are compared in

    @property
    def mask(self) -> np.ndarray:
        """(n, n, n), on rank 0; the one that particles are scored in,
        but for one that was made of the map of all of them."""
        return self.engine.mask if self._mask is None else self._mask

    @property
    def mask_text(self) -> str:
        """The mask in words, on rank 0."""
        return self._mask_text or self.run.problem.mask_text

    @property
    def own_mask(self) -> dict[str, np.ndarray]:
        """The mask that was made of the map of all particles, by name; empty where there is none."""
        return {} if self._mask is None else {"mask": self._mask}

    def measure_in(self, mask: np.ndarray, text: str) -> None:
        """Compare selections in this mask from now on; on rank 0."""
        self._mask, self._mask_text = mask, text

    def look_for_mask(self, halves: tuple[np.ndarray, np.ndarray]) -> None:
        """Where an automatic mask is asked for, make it of all particles' half maps, for all steps; on rank 0."""
        if self.run.config.mask != AUTO:
            return
        transforms, box, size = [np.fft.rfftn(half) for half in halves], self.file.box, self.file.pixel_size
        try:
            made = mask_of_transform(
                sum(transforms) / 2, size, crossing(fsc_of_transforms(*transforms, box), 0.143, box, size)
            )
        except UserError as error:
            self.mask_note = f"--mask auto: {error}; selections are compared in the {self.mask_text} instead"
            return
        self.measure_in(made.mask, str(made))

    def _note(self) -> None:
        unexplained = self.comm.bcast(self.walked.unexplained)
        for solver in (self._alike, self._scoring):
            solver.note(unexplained)

    def _fractions(self, asked: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """What is kept, from 1 down: as asked for, else what leaves enough particles."""
        found = asked or self.options.steps
        with together(self.comm):
            if self.comm.rank == 0 and found is None:
                found = self.members.enough(self.options.fractions)
            elif self.comm.rank == 0:
                for fraction in found:
                    self.members.refuse_few(fraction)
        return self.comm.bcast(found)

    def _all_members(self) -> Members | None:
        slab, column = self.run.slab, self.run.config.group_by
        half, valid = (self.comm.gather_slabs(np.ascontiguousarray(v), len(self.file))
                       for v in (slab.metadata.half, slab.valid))

        def made() -> Members | None:
            if self.comm.rank:
                return None
            names = None if column is None else self.file.group_names(column)
            return Members(half, valid, groups_and_families(len(self.file), names, None)[0])

        return run_together(self.comm, made)

    @property
    def used(self) -> dict:
        """What was used where an option left it to the program, by the option's name."""
        found = self.run.used
        return (
            found
            if self.run.config.solve_iterations is not None
            else {**found, "solve_iterations": self._alike.final_steps()}
        )

    # steps

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The half maps of selection `number`, on rank 0;
        scores its particles where the next is to be made of new scores."""
        walked, fraction = self.walked, self.fractions[number]
        kept = None
        with together(self.comm):
            if self.comm.rank == 0:
                within = self.kept(self.fractions[number - 1]) if number else self.members.valid
                kept = self.members.best(walked.distance, fraction, within) if number else within
        rows = self._mine(kept)
        scores = self.options.rescores and number + 1 < len(self.fractions)
        solver = self._scoring if scores else self._alike
        label, work = self._label(number), 1 + scores
        with self.engine.pace.showing(work * len(self.file), label, mine=work * len(rows)):
            solver.step(lambda _: Selection.of_all(rows))
            if scores:
                self._score(solver, rows, number)
        halves = self._halves(solver)
        if self.comm.rank == 0:
            kept_to = np.zeros(len(self.file)) if walked.kept_to is None else walked.kept_to
            walked.kept_to = np.where(kept, fraction, kept_to)
        return halves

    def at_random(self, fraction: float, draw: int) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray | None]:
        """The half maps of as many particles drawn at random, and (m,) bool, which those are; on rank 0, else None."""
        kept = self.members.at_random(fraction, self.run.config.seed, draw) if self.comm.rank == 0 else None
        rows = self._mine(kept)
        label = f"{100 * fraction:.3g} % at random"
        with self.engine.pace.showing(len(self.file), label, mine=len(rows)):
            self._alike.step(lambda _: Selection.of_all(rows))
        return self._halves(self._alike), kept

    def maps(self, fraction: float) -> dict[str, np.ndarray] | None:
        """Half maps and filtered map of a selection that was made, by name, on rank 0."""
        kept = self.kept(fraction)
        rows = self._mine(kept)
        with self.engine.pace.showing(len(self.file), f"maps of {100 * fraction:.3g} %", mine=len(rows)):
            self._alike.step(lambda _: Selection.of_all(rows))
        maps = self._alike.finish()
        found = {
            name: maps.take(which)
            for name, which in (("half1", half_map(1)), ("half2", half_map(2)), ("volume", WHOLE))
        }
        return found if self.comm.rank == 0 else None

    def kept(self, fraction: float) -> np.ndarray | None:
        """(m,) bool, the particles of a selection, on rank 0."""
        if self.comm.rank:
            return None
        return (self.walked.kept_to > 0) & (self.walked.kept_to <= fraction + 1e-12)

    def _label(self, number: int) -> str:
        return f"step {number + 1} of {len(self.fractions)}"

    def _halves(self, solver: NormalSolver) -> tuple[np.ndarray, np.ndarray] | None:
        maps: MapSet = solver.finish(whole=False)
        first, second = (maps.take(half_map(half)) for half in (1, 2))
        return (first, second) if self.comm.rank == 0 else None

    def _mine(self, kept: np.ndarray | None) -> np.ndarray:
        """This rank's part of (m,) bool that rank 0 has."""
        whole = np.empty(len(self.file), np.uint8) if kept is None else kept.astype(np.uint8)
        slab = self.run.slab
        return self.comm.bcast_array(whole)[slab.start : slab.stop].astype(bool)

    # scores

    def _score(self, solver: NormalSolver, rows: np.ndarray, number: int) -> None:
        """Compare the particles of a selection with maps that they did not build:
        the other folds' of their own half."""
        statistics = self.engine.statistics(
            solver.references, self.run.bands(self._high_pass(solver, number)), rows, in_sample=False
        )[1]
        distance = self.run.distances(statistics, rows)
        if number == 0:
            sums = self.comm.allreduce(statistics.sums[rows].sum(axis=(0, 1)))
            left = float((sums[0] - 2 * sums[1] + sums[2]) / max(sums[0], np.finfo(np.float64).tiny))
            self._keep_scores(statistics, distance, left)
            self._note()
            return
        whole = self.comm.gather_slabs(np.ascontiguousarray(distance), len(self.file))
        if self.comm.rank == 0:
            self.walked.distance = whole

    def _high_pass(self, solver: NormalSolver, number: int) -> float | None:
        """Å above which particles are scored at this step;
        no finer than the half maps agree, for there is nothing to score by."""
        if self.options.schedule != "sieve":
            return None
        asked = high_pass_of(number, len(self.fractions) - 1, self.options.high_pass)
        return max(asked, crossing(solver.fsc, _SCORED_TO, self.file.box, self.file.pixel_size)
                   or 2 * self.file.pixel_size)

    def _keep_scores(self, statistics, distance: np.ndarray, unexplained: float) -> None:
        """The first scores of all particles, on rank 0."""
        slab = self.run.slab
        sigma = particle_sigma(self.comm, statistics, slab.valid)
        local = {"distance": distance, "sigma": sigma, "yp": statistics.yp, "pp": statistics.pp}
        found = {name: self.comm.gather_slabs(np.ascontiguousarray(np.where(slab.valid, v, np.nan)), len(self.file))
                 for name, v in local.items()}
        if self.comm.rank == 0:
            self.walked.found = found
            self.walked.distance = np.where(np.isnan(found["distance"]), np.inf, found["distance"])
            self.walked.unexplained = unexplained

    def columns(self, fraction: float) -> dict[str, np.ndarray]:
        """What is known of every particle of the file, on rank 0:
        ``kept`` in a selection, and what controls look at."""
        found, about = self.walked.found, self.file.metadata()
        valid, ctf, config = self.members.valid, about.ctf, self.run.config
        columns = {
            "kept": self.kept(fraction), "valid": valid, "small": np.zeros(len(valid), bool), "sigma": found["sigma"],
            "yp": found["yp"],
            "pp": found["pp"], "defocus": (ctf["defocus_u"] + ctf["defocus_v"]) / 2, "ctf_scale": ctf["scale"],
            "optics groups": about.optics_group, "quaternion": about.pose.quaternion,
        }
        if config.group_by is not None:
            columns["group"] = self.members.unit
        places = micrographs(self.file)
        return columns if places is None else {**columns, "micrographs": places[0]}

    def about(self, fraction: float) -> dict:
        """What is known of a selection beside its maps, on rank 0: ``wrong_share``, simulated errors among the kept
        (None where none are known), and ``contrast_left_out``, of the map in those left out over that in those kept."""
        kept, valid, found = self.kept(fraction), self.members.valid, self.walked.found
        wrong = self.file.metadata().pose_error
        contrast = contrast_left_out(kept[valid], found["yp"][valid], found["pp"][valid]) if found else None
        return {"wrong_share": None if wrong is None else float(wrong[kept].mean()), "contrast_left_out": contrast}
