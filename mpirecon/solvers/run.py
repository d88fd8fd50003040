"""The reconstruction as a whole: set up, iterate, finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from mpirecon.backend.bands import Bands
from mpirecon.backend.protocol import Ability
from mpirecon.backend.store import ImageStore
from mpirecon.io.image_levels import LevelsFound
from mpirecon.io.particle_file import ParticleFile
from mpirecon.parallel.comm import Communicator, run_together
from mpirecon.parallel.select import median
from mpirecon.parallel.stopping import StopSignals
from mpirecon.robust.jointly import select_over_ranks
from mpirecon.robust.mixture_model import SMALL
from mpirecon.robust.particle_noise import NOISY, particle_sigma
from mpirecon.robust.schedule import relaxation_at
from mpirecon.robust.selection import Selection
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.base import Solver, Weigh
from mpirecon.solvers.config import Config
from mpirecon.solvers.endurance import Checkpoints
from mpirecon.solvers.fixed_poses import FixedPoses
from mpirecon.solvers.groups import MapSet
from mpirecon.solvers.nearby_schedule import NearbySchedule
from mpirecon.solvers.observers import Announcer, Observer, RankRecords
from mpirecon.solvers.own_solvers import finished, made_by, stepped
from mpirecon.solvers.pace import Pace
from mpirecon.solvers.part_maps import search_curves
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.problem import Problem
from mpirecon.solvers.record import iteration_record
from mpirecon.solvers.resume import identify
from mpirecon.solvers.scoring import Scoring
from mpirecon.solvers.searchable import check_search
from mpirecon.solvers.shift_check import check_shifts
from mpirecon.solvers.state import Outcome, Scores, State, Survey
from mpirecon.solvers.timing import Timings
from mpirecon.validate.coverage import views_of


class Reconstruction:
    """One run of ``mpirecon reconstruct`` on the ranks of `comm`; ``run()`` returns an Outcome.

    start_weights : (m,) float, of all particles, what the first map is made with; None leaves that to the loss
    weights : (m,), of all particles, in place of what ``config.weights`` names, rank 0's alone are used
    solver : of an engine and a Config, in place of that which config.solver names
    began : when the program did, Unix time, of which what has passed since is the phase "setup"; now if left out
    stop : signals to end

    ``problem`` is what was asked, ``state`` what is known so far (None before the first iteration).
    """

    def __init__(
        self, comm: Communicator, file: ParticleFile, config: Config, log, console,
        start_weights: np.ndarray | None = None, began: float | None = None, weights: np.ndarray | None = None,
        solver: Callable[[Engine, Config], Solver] | None = None, stop: StopSignals | None = None,
    ) -> None:
        timings = Timings(comm.activity.step, began)
        self.problem = p = Problem.of(comm, file, config, log, console, timings, weights)
        self.comm, self.file, self.config, self.slab = comm, file, p.config, p.slab
        self.log, self.console, self.given = log, console, p.given
        self.start = run_together(comm, lambda: p.starting_weights(start_weights))
        self.engine = Engine(
            comm, p.backend, p.slab, ImageStore(p.backend, p.slab), p.config.scoring_folds, p.mask, timings, log,
            Pace(comm, console, stop), p.config.skip_bad, p.symmetry, deterministic=p.config.deterministic,
        )  # fmt: skip
        self._make_solver = solver or p.config.solver_kind.make
        self._sums_at_once = solver is None and p.config.sums_at_once
        self.solver: Solver | None = None  # once the images were surveyed
        self.state: State | None = None
        self.scoring = Scoring(p)
        self.poses = FixedPoses(p.slab)
        if p.config.searches:
            check_search(comm, p.slab, p.config, p.groups)
        timings.fill("setup")

    def run(self, checkpoints: Checkpoints | None = None, resume: bool = False) -> Outcome:
        """All iterations; saved as `checkpoints` has it, and continued from its folder when `resume`.

        Raises StopRequested, on all ranks, after a signal that its StopSignals received.
        """
        deque(self.iterations(checkpoints, resume), maxlen=0)  # a loop's variable would hold on to the last maps
        return self.finish()

    def iterations(self, checkpoints: Checkpoints | None = None, resume: bool = False) -> Iterator[State]:
        """Make one iteration after another, each when asked for; yields what is known then. Collective, as `run` is."""
        if resume:
            self.state = checkpoints.load()
        else:
            self.state = self._survey(self._sums_at_once)
        observers = [RankRecords(self.log), *self._announcers(), *([] if checkpoints is None else [checkpoints])]
        while self.state.iteration < self.config.rounds:
            self.state = replace(self.state, maps=None)  # the next are as large: not both at once
            self.state = self._iterate(self.state)
            for observer in observers:
                observer.after(self.state)
            yield self.state

    def _announcers(self) -> list[Observer]:
        return [Announcer(self.console, self.config.rounds, self.state.records)]

    def prepare(self) -> None:
        """The first look at the images, before any iteration: bad ones, noise spectra. Collective."""
        self.state = self._survey()

    def begin(self, survey: Survey) -> None:
        """Have the solver ready for images that were surveyed, in this run or in the one that it continues."""
        self.slab.visit_by_view(survey.by_view)
        self.engine = replace(self.engine, found=survey)
        self.solver = made_by(self._make_solver, self.engine, self.config)
        if self.config.searches:
            from mpirecon.solvers.rescue import Rescue  # most runs search nothing, and load nothing that does

            self.poses = Rescue(self.engine, self.config, self.console, self.problem.threads, self.problem.groups)

    def _iterate(self, state: State) -> State:
        """One iteration: from what is known, the selection for the next maps; the maps; what is known by them."""
        number, rounds, p, first = state.iteration + 1, self.config.rounds, self.problem, not state.iteration
        passes = 2 + first * (self.config.solver_kind.begins - self._sums_at_once)
        selection, search_nearby = self._select_all(state)  # w, s of each particle
        if not self._sorts_batches:  # what this was selected by would be beside what the next will be
            self.state = state = replace(state, scores=None, selection=None)
        weigh = self._in_batches(number, selection) if self._sorts_batches else lambda rows: selection
        total, mine = self.scoring.visits(passes, int(self.poses.moved.sum()))
        with self.engine.pace.showing(total, f"iteration {number} of {rounds}", mine=mine, further=rounds - number):
            selection = stepped(self.solver, weigh)  # Σ w s Aᴴŷ and Σ w s² AᴴA, maps of halves and folds, their FSC
            # yy, yp, pp of each particle against maps that it did not build
            scores = self._score(number, search_nearby, self.scoring.sample)
        made = State(number, state.survey, self.slab.valid, self.slab.pose, search_nearby, selection,
                     self.solver.compared, self.solver.fsc, scores)  # fmt: skip
        shifts = check_shifts(self.engine, self.solver.references, self.config.seed, self.console) if first else {}
        settled = self.config.searches and number >= self.config.settling
        parts = search_curves(self, selection.kept, made.fsc) if settled else {}
        if self.poses.due(number):
            self._search(made)
        with p.timings("select"):
            return replace(made, records=(*state.records, self._record(made) | shifts | parts))

    def finish(self) -> Outcome:
        """The final maps and what is known of the particles, after the last of `iterations`. Collective."""
        self.solver.note(self.unexplained())
        again = not self.config.rule.scores and self.solver.final_steps().get("half maps", 0) > 0
        if not again:
            self._make_room()  # their memory is the solution's now
        maps = finished(self.solver)
        if again:
            self._score_refined(maps)
        held_out = self.state.scores.held_out
        sigma = particle_sigma(self.comm, held_out, self.scored)
        fsc = self.solver.fsc if self.solver.compared is maps else None
        return Outcome(maps, list(self.state.records), held_out, self.final_selection(), sigma, self.scored, fsc)

    def _make_room(self) -> None:
        self.engine.store.make_room()
        self.slab.visit_by_view(False)

    def _score_refined(self, maps: MapSet) -> None:
        """Compare the particles with the half maps as they are in the end:
        of small boxes alone, whose half maps are refined."""
        self.solver.refer_to(maps)
        total, mine = self.scoring.sample_size
        with self.engine.pace.showing(total, "final maps", mine=mine):
            self.state = replace(self.state, scores=self._score(self.state.iteration, False, self.scoring.sample))
        self._make_room()

    @cached_property
    def identity(self) -> dict:
        """What a checkpoint must agree with; the first use is collective."""
        return identify(self)

    @property
    def used(self) -> dict:
        """What was used where an option left it to the program, by the option's name."""
        asked = self.config.solve_iterations
        return self.problem.used | {"solve_iterations": self.solver.final_steps() if asked is None else asked}

    def _survey(self, sums: bool = False) -> State:
        """sums : make those of the first maps in the same visit"""
        slab = self.slab
        # where all ranks have all of their images in memory any order of visits is free
        by_view = self.comm.allreduce_scalar(int(self.engine.store.keeps_all), "min") > 0
        slab.visit_by_view(by_view)  # before the first visit, so that images are kept in that order
        once = sums and self.config.visits_once(slab.total, self.file.has_truth)
        self.engine = replace(self.engine, keeps=not once)
        with self.engine.pace.showing(slab.total, "survey", mine=slab.here):
            weight = slab.given if self.start is None else slab.given * self.start
            survey, store = self.engine.survey(weight if sums else None)
        levels = LevelsFound.of(self.comm, slab.levels[slab.valid], slab.factor[slab.valid], slab.normaliser.gains)
        self.log.event("image levels", **levels.as_dict(), normaliser=slab.normaliser.as_dict())
        self.begin(replace(survey, levels=levels, by_view=by_view))
        if store is not None:
            self.solver.begin(store)
        able = Ability.NEARBY in self.engine.backend.can and self.config.searches_nearby
        return State(0, self.engine.found, slab.valid, slab.pose, able)

    # selecting

    def _select_all(self, state: State) -> tuple[Selection, bool]:
        """Decide over all particles from the last statistics; all count when there are none yet. And whether it is
        worthwhile to look for better poses nearby."""
        # sorted batches replace what is decided batch by batch, in a resumed run from here on
        if state.scores is None or (self._sorts_batches and state.selection is None):
            return Selection.of_all(self.slab.valid, self._first_weight(state)), state.search_nearby
        if self._sorts_batches:
            return state.selection, state.search_nearby
        with self.engine.timings("select"):
            scores, search_nearby = self._after_first_search(state)
            selection = self._select(scores, self.slab.valid, self._relaxation(state.iteration + 1))
            if scores.nearby is not None:
                search_nearby = NearbySchedule.worthwhile(_small_errors(selection))
            placed = self.poses.place(selection, scores.honest(self.engine.folds))
            more = {"kept_found": int((placed.kept & ~selection.kept).sum())} if self.poses.searches else {}
            self._log_sort(state.iteration + 1, 0, self.slab.valid, selection, **more)
        return placed, search_nearby

    def _after_first_search(self, state: State) -> tuple[Scores, bool]:
        """What to select by, and whether there are small errors to look for.
        A search at some particles decides only the latter."""
        if state.scores.nearby is None or state.iteration != self.scoring.nearby_schedule.first:
            return state.scores, state.search_nearby
        seen = self._select(state.scores, self.slab.valid & self.scoring.nearby_first)
        return replace(state.scores, nearby=None), NearbySchedule.worthwhile(_small_errors(seen))

    def _in_batches(self, iteration: int, selection: Selection) -> Weigh:
        """Decides batch by batch, among the particles of the batch; of the others holds what was decided before."""
        sorts = 0

        def weigh(rows: np.ndarray) -> Selection:
            nonlocal selection, sorts
            if self.solver.fsc is not None:
                scores, batch = self._score(iteration, False, rows), self.slab.valid & rows
                with self.engine.timings("select"):
                    chosen = self._select(scores, batch, self._relaxation(iteration))
                    self._log_sort(iteration, sorts, batch, chosen)
                selection, sorts = selection.replaced(rows, chosen), sorts + 1
            return selection

        return weigh

    def _first_weight(self, state: State) -> np.ndarray | None:
        """Before there is a map, all alike; but for robust losses no image of outlying power makes the first map."""
        if self.start is not None:
            return self.start
        if not self.config.rule.scores:
            return None
        power = state.survey.power / median(self.comm, state.survey.power[self.slab.valid])
        return np.where(power > NOISY**2, 1 / np.maximum(power, NOISY**2), 1.0)

    @property
    def _sorts_batches(self) -> bool:
        return self.config.sort_scope == "batch" and bool(self.config.batch_size)

    def _relaxation(self, iteration: int) -> float:
        last = self.config.settling
        return relaxation_at(min(iteration, last), last) if self.config.graduated else 0.0

    def _select(self, scores: Scores, valid: np.ndarray, relaxation: float = 0.0,
                statistics: Statistics | None = None) -> Selection:
        """statistics : to go by instead of those that are honest"""
        config = self.config
        return select_over_ranks(
            self.comm, scores.honest(self.engine.folds) if statistics is None else statistics, self.slab.ids, valid,
            exactly=config.deterministic, loss=config.rule, distance=self.problem.distance, keep=config.keep,
            sort_scope=config.sort_scope, random_poses=scores.random_poses, groups=self.problem.groups,
            nearby=scores.nearby, relaxation=relaxation, views=self._views,
        )  # fmt: skip

    @cached_property
    def _views(self) -> np.ndarray | None:
        """(m,) int64, number of each particle's view, for the mixture; rows of one particle have one each."""
        pose, total, group = self.slab.metadata.pose, self.slab.total, self.problem.symmetry.group
        return views_of(pose.quaternion, total, group) if self.config.mixes and self.problem.groups is None else None

    def distances(self, statistics: Statistics, rows: np.ndarray) -> np.ndarray:
        """By which some rows, (m,) bool, are sorted, (m,) float64; infinite where an image contradicts the map.
        Collective."""
        chosen = self._select(self.state.scores or Scores(statistics, statistics), rows, statistics=statistics)
        return np.where(chosen.contradicts, np.inf, chosen.distance)

    def final_selection(self) -> Selection:
        """The selection that built the final map, beside the distances from that map (held out)."""
        state = self.state
        # L2 selects nothing: the distance from the other half's map may be reported
        with self.engine.timings("select"):
            final = self._select(state.scores, self.scored,
                                 statistics=None if self.config.rule.scores else state.scores.held_out)  # fmt: skip
        return replace(state.selection, distance=final.distance, mixture_=final.mixture_)

    # scoring

    @property
    def scored(self) -> np.ndarray:
        """(m,) bool, the particles whose statistics are known."""
        return self.scoring.scored

    def _score(self, iteration: int, search_nearby: bool, rows: np.ndarray | None = None) -> Scores:
        return self.scoring.score(self.engine, self.solver.references, self.poses, iteration, search_nearby, rows)

    def _search(self, state: State) -> None:
        """Look for the poses of those that the next iteration would leave out."""
        scores = state.scores
        with self.engine.timings("select"):
            chosen = self._select(scores, self.slab.valid, self._relaxation(state.iteration + 1))
        self.poses.search(chosen, state.selection.weight, scores.honest(self.engine.folds), self.solver.references,
                          state.fsc)

    def bands(self, high_pass: float | None = None) -> Bands:
        """The bands that particles are scored in;
        of those shells alone that are finer than `high_pass`, Å, if given."""
        return self.problem.bands(self.engine.found.noise_power, high_pass)

    def unexplained(self) -> float:
        """Fraction of the images' power, over all ranks, that the maps of the own half leave."""
        sums = self.comm.allreduce(self.state.scores.inside.sums[self.slab.valid].sum(axis=(0, 1)))
        return float((sums[0] - 2 * sums[1] + sums[2]) / max(sums[0], np.finfo(np.float64).tiny))

    # reports

    def _record(self, state: State) -> dict:
        chosen = state.selection
        if np.isnan(chosen.centre_) and self.config.rule.length:
            # the first iteration weighs all alike; its loss is still the one requested, calibrated afterwards
            now = self._select(state.scores, self.scored)
            chosen = replace(chosen, centre_=now.centre_, scale_=now.scale_)
        return iteration_record(self, state, chosen)

    def _log_sort(self, iteration: int, sort: int, rows: np.ndarray, chosen: Selection, **more: int) -> None:
        """What this rank sorted, before and after."""
        if not self.config.rule.scores:
            return
        mine = np.flatnonzero(rows)
        order = mine[np.argsort(chosen.distance[mine], kind="stable")]
        flags, ids = self.slab.metadata.pose_error, self.slab.ids
        self.log.sort_record(
            iteration, self.config.sort_scope, sort,
            ids[mine], chosen.distance[mine], ids[order], chosen.distance[order], chosen.kept[order],
            None if flags is None else flags[order], **more,
        )  # fmt: skip


def _small_errors(selection: Selection) -> float:
    """Fraction of the particles whose poses have small errors."""
    return float(selection.mixture_.shares_[SMALL:].sum())
