"""The reconstruction as a whole: set up, iterate, report. Reads like DESIGN section 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mpirecon.backend import get_backend
from mpirecon.backend.bands import BANDS, Bands
from mpirecon.backend.protocol import Ability
from mpirecon.backend.warm import compile_once
from mpirecon.errors import UserError
from mpirecon.io.given_weights import GivenWeights, given_array, read_weights
from mpirecon.io.image_levels import LevelsFound
from mpirecon.io.mrc import read_map
from mpirecon.io.particle_file import ParticleFile
from mpirecon.model.symmetry import point_group
from mpirecon.operators.fourier import interpolation_for
from mpirecon.operators.symmetry import Symmetry
from mpirecon.parallel.comm import Communicator, run_together, together
from mpirecon.parallel.placement import place_ranks
from mpirecon.parallel.select import median
from mpirecon.parallel.threads import default_memory, default_threads
from mpirecon.robust.distances import get_distance
from mpirecon.robust.jointly import select_jointly
from mpirecon.robust.losses import is_m_estimator
from mpirecon.robust.nearby import NearbyPoses
from mpirecon.robust.pose_mixture import SLIGHT, PoseMixture
from mpirecon.robust.schedule import mildness
from mpirecon.robust.selection import NOISY, Selection, particle_sigma, select
from mpirecon.robust.statistics import Statistics
from mpirecon.solvers.base import Solver
from mpirecon.solvers.config import Config
from mpirecon.solvers.connect import connect
from mpirecon.solvers.endurance import Checkpoints
from mpirecon.solvers.gradient import GradientSolver
from mpirecon.solvers.groups import MapSet
from mpirecon.solvers.looks import Looks
from mpirecon.solvers.loss_report import reported_losses
from mpirecon.solvers.normal import NormalSolver
from mpirecon.solvers.normalise import OFF
from mpirecon.solvers.passes import Engine
from mpirecon.solvers.rescue import FixedPoses, Rescue
from mpirecon.solvers.resume import digest_of, identify, load
from mpirecon.solvers.slab_data import (
    ParticleSlab,
    folds_of_groups,
    groups_and_families,
    uniform_hash,
)
from mpirecon.solvers.timing import Timings
from mpirecon.validate.fsc import crossing
from mpirecon.validate.masks import soft_sphere

#: shells 0 and 1 hold offsets and gradients of the background rather than the particle
_LOWEST_SCORE_SHELL = 2

#: share of the particles that are scored at random orientations as well, to measure what a wrong pose looks like, and the
#: least and most of them
_RANDOM_SHARE, _RANDOM_POSES = 0.125, (500, 5000)

#: what the losses of an iteration mean, said once
_HOW_TO_READ = ("  losses: what the map leaves of the images, where a map of nothing leaves 1; held out: of each particle, against "
                "maps made without it")

#: what makes the maps, by ``config.solver``
_SOLVERS = {"normal": NormalSolver, "gradient": GradientSolver}

#: width of the spherical mask's edge, pixels
_MASK_EDGE = 4.0


@dataclass
class Outcome:
    """What a finished run knows. Arrays over particles are this rank's slab.

    fsc : of the half maps, in the mask that particles are scored in, where it is known
    """

    maps: MapSet
    records: list[dict]
    statistics: Statistics
    selection: Selection
    sigma: np.ndarray
    fsc: np.ndarray | None = None


class Reconstruction:
    """One run of ``mpirecon reconstruct`` on the ranks of `comm`; ``run()`` returns an Outcome.

    start_weights : (m,) float, of all particles, what the first map is made with; None leaves that to the loss · weights : (m,), of
    all particles, in place of what ``config.weights`` names, rank 0's alone are looked at · solver : of an engine and a Config, in
    place of that which config.solver names · began : when the
    program did, Unix time, of which what has passed since is the phase "setup"; now if left out
    """

    def __init__(
        self, comm: Communicator, file: ParticleFile, config: Config, log, console, start_weights: np.ndarray | None = None,
        began: float | None = None, weights: np.ndarray | None = None, solver: Callable[[Engine, Config], Solver] | None = None,
    ) -> None:
        timings = Timings(comm.activity.step, began)
        self.given = _given_weights(comm, file, config, weights)
        relative = None if self.given is None else self.given.relative
        with together(comm):
            config = config.settled(file, True if relative is None else relative > 0) if comm.rank == 0 else None
        config = comm.bcast(config)
        self.comm, self.file, self.config, self.log, self.console = comm, file, config, log, console
        self.distance = get_distance(config.distance)
        self.slab = run_together(comm, lambda: ParticleSlab(comm, file, config.scoring_folds, config.seed, relative))
        self.slab.agree_on_noise_groups(comm)
        if self.given is not None:
            console.say(f"  {self.given.sentence()}")
        self.levels: LevelsFound | None = None
        self._check_halves()
        self.parted: str | None = None  # what is wrong with half sets that part groups
        self._groups = self._group_numbers()
        self.placement = place_ranks(comm, "cpu" if config.deterministic else config.backend)
        self._neighbours = comm.allgather(comm.hostname).count(comm.hostname)
        backend, mask = run_together(comm, self._set_up)
        self._agree_on_mask(mask)
        symmetry = Symmetry(point_group(config.symmetry))
        looks = config.loss == "posterior"
        compile_once(
            comm, backend, self.slab.metadata, looks, config.deterministic, symmetry, console.say, timings
        )  # fmt: skip
        self.slab.normalise(comm, config.normalise)  # kernels look at images
        self.transport = connect(comm, backend, self.placement, config.transport, log, console)
        self.engine = Engine(
            comm, backend, self.slab, config.scoring_folds, mask, timings, log, config.skip_bad, symmetry,
            deterministic=config.deterministic,
        )  # fmt: skip
        self.solver = (solver or _SOLVERS[config.solver])(self.engine, config)
        self._start = None if start_weights is None else self._checked_weights(start_weights)
        self._selection: Selection | None = None  # of the particles that built the current maps
        self._scores: Statistics | None = None  # what the next selection is made from
        self.random_poses = self.nearby = None
        self._explained = False
        able = Ability.NEARBY in backend.can and config.group_by is None and config.loss == "posterior"
        self.looks = Looks(config.settling, able)
        self.poses = Rescue(self.engine, config, console, self.threads) if config.searches else FixedPoses(self.slab)
        timings.fill("setup")

    def run(self, checkpoints: Checkpoints | None = None, resume: bool = False) -> Outcome:
        """All iterations; saved as `checkpoints` has it, and continued from its folder when `resume`.

        Raises StopRequested, on all ranks, after a signal that its engine's StopSignals received.
        """
        for _ in self.iterations(checkpoints, resume):
            pass
        return self.finish()

    def iterations(self, checkpoints: Checkpoints | None = None, resume: bool = False) -> Iterator[dict]:
        """Make one iteration after another, each when asked for; yields its record. Collective, as `run` is."""
        self.records = records = self._load(checkpoints) if resume else []
        if not records:
            self.prepare()
        for iteration in range(len(records) + 1, self.config.rounds + 1):
            records.append(self._iterate(iteration))
            self._announce(records[-1])
            if checkpoints is not None and iteration < self.config.rounds:
                checkpoints.after(iteration, records)
            yield records[-1]

    def prepare(self) -> None:
        """The first look at the images, before any iteration: bad ones, noise spectra. Collective."""
        self.slab.by_view = self._keeps_all_images()
        self.power = self._survey()

    def finish(self) -> Outcome:
        """The final maps and what is known of the particles, after the last of `iterations`. Collective."""
        self.engine.unexplained = self.unexplained()
        again = self.config.loss == "l2" and self.solver.final_steps().get("half maps", 0) > 0
        if not again:
            self.engine.backend.release_images()  # their memory is the solution's now
            self.slab.by_view = False
        maps = self.solver.finish()
        if again:
            self._score_refined(maps)
        sigma = particle_sigma(self.comm, self.held_out, self.slab.valid)
        fsc = self.solver.fsc if self.solver.compared is maps else None
        return Outcome(maps, self.records, self.held_out, self.judged(), sigma, fsc)

    def _score_refined(self, maps: MapSet) -> None:
        """Compare the particles with the half maps as they are in the end: of small boxes alone, whose half maps are refined."""
        self.solver.refer_to(maps)
        with self.console.progress(self.slab.total, "final maps", mine=self.slab.here) as self.engine.progress:
            self._score()
        self.engine.backend.release_images()
        self.slab.by_view = False

    @cached_property
    def identity(self) -> dict:
        """What a checkpoint must agree with; the first use is collective."""
        return identify(self)

    def _keeps_all_images(self) -> bool:
        """Whether all ranks have all of their images in memory, for free to visit in any order; collective."""
        return self.comm.allreduce_scalar(int(self.engine.backend.keeps_all(self.slab)), "min") > 0

    def _load(self, checkpoints: Checkpoints) -> list[dict]:
        records = load(self, checkpoints.folder)
        if len(records) >= self.config.rounds:
            raise UserError(f"the checkpoint in {checkpoints.folder} is of iteration {len(records)}, and {self.config.rounds} are asked "
                            "for; ask for more with --iterations, or start anew with --overwrite")
        checkpoints.saved = len(records)
        return records

    def _survey(self) -> np.ndarray:
        with self.console.progress(self.slab.total, "survey", mine=self.slab.here) as self.engine.progress:
            power = self.engine.survey()
        slab, valid = self.slab, self.slab.valid
        self.levels = LevelsFound.of(self.comm, slab.levels[valid], slab.factor[valid], slab.normaliser.gains)
        self.log.event("image levels", **self.levels.as_dict(), normaliser=slab.normaliser.as_dict())
        return power

    @property
    def selection(self) -> Selection:
        """What was decided about this rank's particles, of which the current maps are made."""
        return self._selection

    # one iteration

    def _iterate(self, iteration: int) -> dict:
        self._iteration, self._sorts = iteration, 0
        self._start_selection()
        passes = 2 + (iteration == 1 and self.config.solver == "gradient")
        label, further = f"iteration {iteration} of {self.config.rounds}", self.config.rounds - iteration
        moved = int(self.poses.moved.sum())  # compared at the given poses as well
        work, mine = passes * self.slab.total + self.comm.allreduce_scalar(moved), passes * self.slab.here + moved
        with self.console.progress(work, label, mine=mine, further=further) as self.engine.progress:
            self.solver.step(self._weigh)
            inside = self._score()
        if self.poses.due(iteration):
            self._search()
        with self.engine.timings("select"):
            return self._record(iteration, inside)

    def _score(self, rows: np.ndarray | None = None) -> Statistics:
        """Compare particles with the maps as they stand; what is held out is kept for the next selection."""
        random = None
        if self.config.mixes:
            # about this many particles of the whole set say what a wrong pose looks like
            m = self.slab.total
            share = min(1.0, np.clip(_RANDOM_SHARE * m, *_RANDOM_POSES) / m)
            random = uniform_hash(self.slab.ids, self.config.seed + self._iteration) < share
        inside, outside, self.random_poses = self.engine.statistics(
            self.solver.references, self.bands(), rows,
            random=random, draw=self.config.seed + self._iteration, nearby=self._start_nearby(),
            looked=self._looked_first if self._iteration == self.looks.first else None,
        )  # fmt: skip
        self.set_scores(inside, outside, self._at_given_poses(outside))
        return inside

    def _at_given_poses(self, outside: Statistics) -> Statistics:
        """What the selection goes by, whatever the poses are that now build the map."""
        moved = self.poses.moved
        if not self.comm.allreduce_scalar(int(moved.any()), "max"):
            return outside
        with self.poses.given():
            _, given, _ = self.engine.statistics(
                self.solver.references, self.bands(), moved, in_sample=False, nearby=self.nearby)
        return Statistics(np.where(moved[:, None, None], given.sums, outside.sums), outside.samples)

    def _search(self) -> None:
        """Look for the poses of those that the next iteration would leave out."""
        with self.engine.timings("select"):
            chosen = self._select(self._scores, self.slab.valid, self._mildness(self._iteration + 1))
        solver = self.solver
        self.poses.search(chosen, self._selection.weight, self._scores, solver.references, solver.fsc)

    def _start_nearby(self) -> NearbyPoses | None:
        """Room for the poses near every particle's own, where they are looked at after this iteration.

        Rows that are right or wrong together (tilt images) are turned each in its own way and show too little of it: summed
        over a group, what is found near wrong poses would outweigh the rest.
        """
        due = self.looks.due(self._iteration)
        self.nearby = NearbyPoses.empty(len(self.slab), BANDS, self.engine.backend.plane.shells) if due else None
        return self.nearby

    @property
    def _looked_first(self) -> np.ndarray:
        return self.looks.at(self.slab.ids, self.slab.total, self.config.seed)

    def _judge_looks(self) -> None:
        """From the looks of the iteration before, whether there are slight errors to look for."""
        before = self._iteration - 1
        if self.nearby is None:
            self.looks.resumed(before)
        elif before == self.looks.first:
            self.looks.found(_slight(self._select(self._scores, self.slab.valid & self._looked_first)))
            self.nearby = None

    def set_scores(self, inside: Statistics, held_out: Statistics, at_given: Statistics | None = None) -> None:
        """What the next selection is made from: held out of the own half, or within it where there are no folds; at the given
        poses, where those of now are others."""
        self.inside, self.held_out = inside, held_out
        # with a single fold there is no map of the own half without the particle; the other half's would leak
        self._scores = inside if self.engine.folds == 1 else held_out if at_given is None else at_given

    @property
    def scores(self) -> Statistics | None:
        """What the next selection is made from."""
        return self._scores

    def unexplained(self) -> float:
        """Share of the images' power, over all ranks, that the maps of the own half leave."""
        sums = self.comm.allreduce(self.inside.sums[self.slab.valid].sum(axis=(0, 1)))
        return float((sums[0] - 2 * sums[1] + sums[2]) / max(sums[0], np.finfo(np.float64).tiny))

    def _start_selection(self) -> None:
        """Decide over all particles from the last statistics; everybody counts when there are none yet."""
        # sorted batches replace what is decided batch by batch, in a resumed run from here on
        if self._scores is None or (self._sorts_batches and self._selection is None):
            self._selection = Selection.everybody(self.slab.valid, self._first_weight())
        elif not self._sorts_batches:
            with self.engine.timings("select"):
                self._judge_looks()
                chosen = self._select(self._scores, self.slab.valid, self._mildness(self._iteration))
                if self.nearby is not None:
                    self.looks.found(_slight(chosen))
                self._log_sort(None, chosen)
                self._selection = self.poses.place(chosen, self._scores)

    def _first_weight(self) -> np.ndarray | None:
        """Before there is a map, all alike; but for robust losses no image of outlying power makes the first map."""
        if self._start is not None:
            return self._start
        if self.config.loss == "l2":
            return None
        power = self.power / median(self.comm, self.power[self.slab.valid])
        return np.where(power > NOISY**2, 1 / np.maximum(power, NOISY**2), 1.0)

    @property
    def _sorts_batches(self) -> bool:
        return self.config.sort_scope == "batch" and bool(self.config.batch_size)

    def _weigh(self, rows: np.ndarray | None) -> Selection:
        """What was decided about this rank's particles; with sorted batches, decided now, among the batch it holds."""
        if self._sorts_batches and self.solver.fsc is not None:
            self._score(rows)
            with self.engine.timings("select"):
                chosen = self._select(self._scores, self.slab.valid & rows, self._mildness(self._iteration))
                self._log_sort(rows, chosen)
            for name in ("weight", "kept", "distance", "contrast", "contradicts"):
                getattr(self._selection, name)[rows] = getattr(chosen, name)[rows]
        return self._selection

    def _mildness(self, iteration: int) -> float:
        last = self.config.settling
        return mildness(min(iteration, last), last) if self.config.graduated else 0.0

    def distances(self, statistics: Statistics, rows: np.ndarray) -> np.ndarray:
        """By which some rows, (m,) bool, are sorted, (m,) float64; infinite where an image contradicts the map. Collective."""
        chosen = self._select(statistics, rows)
        return np.where(chosen.contradicts, np.inf, chosen.distance)

    def _select(self, statistics: Statistics, valid: np.ndarray, mild: float = 0.0) -> Selection:
        config = self.config
        decide = select_jointly if config.deterministic else select
        return decide(
            self.comm, statistics, self.slab.ids, valid,
            loss=config.loss, distance=self.distance, keep=config.keep, sort_scope=config.sort_scope,
            random_poses=self.random_poses, groups=self._groups, nearby=self.nearby, mild=mild,
        )  # fmt: skip

    def judged(self) -> Selection:
        """The selection that built the final map, beside the distances from that map (held out)."""
        # L2 selects nothing: its particles may be told their distance from the other half's map
        with self.engine.timings("select"):
            final = self._select(self.held_out if self.config.loss == "l2" else self._scores, self.slab.valid)
        return replace(self._selection, distance=final.distance, mixture_=final.mixture_)

    # reports

    def _record(self, iteration: int, inside: Statistics) -> dict:
        """What the maps that this iteration made leave of the images (loss_report.py), who was kept, and how far halves agree."""
        comm, config, chosen, valid = self.comm, self.config, self._selection, self.slab.valid
        if np.isnan(chosen.centre_) and is_m_estimator(config.loss):
            chosen = self._calibrated(chosen)
        file = self.file
        record = {
            "iteration": iteration,
            **reported_losses(comm, config.loss, self.distance, chosen, inside, self.held_out, valid,
                              None if self.given is None else self.slab.given),
            "kept": comm.allreduce_scalar(int(chosen.kept.sum())),
            "valid": comm.allreduce_scalar(int(valid.sum())),
            "resolution_0143": crossing(self.solver.fsc, 0.143, file.box, file.pixel_size),
            "resolution_05": crossing(self.solver.fsc, 0.5, file.box, file.pixel_size),
        }
        record["kept_fraction"] = record["kept"] / max(record["valid"], 1)
        if (wrong := self.poses.wrong()) is not None:
            wrong = wrong & valid
            record["wrong"] = comm.allreduce_scalar(int(wrong.sum()))
            record["wrong_among_kept"] = comm.allreduce_scalar(int((wrong & chosen.kept).sum()))
        if chosen.mixture_ is not None:
            record["mixture"] = describe(chosen.mixture_)
        if self.poses.due(iteration):
            record["search"] = dict(self.poses.facts)
        self.log.event("iteration", **record)
        if not np.isfinite(record["loss_l2"]):
            raise UserError(f"the loss is not finite after iteration {iteration}: the steps were too long; "
                            "try a smaller --step or --momentum, or --solver normal")
        return record

    def _calibrated(self, chosen: Selection) -> Selection:
        """The first iteration weighs everybody alike; its loss is still the one asked for, calibrated afterwards."""
        now = self._select(self._scores, self.slab.valid)
        return replace(chosen, centre_=now.centre_, scale_=now.scale_)

    def _announce(self, record: dict) -> None:
        r = record
        text = (
            f"iteration {r['iteration']}/{self.config.rounds}: loss {r['loss']:.5f}, L2 over all {r['loss_l2']:.5f}, "
            f"held out {r['loss_heldout']:.5f}, kept {100 * r['kept_fraction']:.1f} %"
        )
        if "wrong" in r:
            text += f" ({100 * r['wrong_among_kept'] / max(r['kept'], 1):.1f} % of them planted wrong)"
        resolution = r["resolution_0143"]
        self.console.say(text + (f", FSC 0.143 at {resolution:.2f} Å" if resolution else ", FSC above 0.143 throughout"))
        if not self._explained:
            self.console.say(_HOW_TO_READ)
            self._explained = True

    def _log_sort(self, rows: np.ndarray | None, chosen: Selection) -> None:
        """What this rank sorted, before and after (MISSION N9)."""
        if self.config.loss == "l2":
            return
        mine = np.flatnonzero(self.slab.valid if rows is None else self.slab.valid & rows)
        order = mine[np.argsort(chosen.distance[mine], kind="stable")]
        flags, ids = self.slab.metadata.pose_error, self.slab.ids
        self.log.sort_record(
            self._iteration, self.config.sort_scope, self._sorts,
            ids[mine], chosen.distance[mine], ids[order], chosen.distance[order], chosen.kept[order],
            None if flags is None else flags[order],
        )  # fmt: skip
        self._sorts += 1

    # set-up

    def _set_up(self):
        file, config = self.file, self.config
        limit = None
        if config.max_resolution is not None:
            if config.max_resolution < 2 * file.pixel_size:
                raise UserError(f"--max-resolution {config.max_resolution:g} Å is beyond Nyquist, "
                                f"{2 * file.pixel_size:g} Å for {file.path}")
            limit = file.box * file.pixel_size / config.max_resolution + 0.5
        place = self.placement
        device = {"device": place.index, "sharing": place.sharing, "log": self.log} if place.backend == "cuda" else {}
        backend = get_backend(
            place.backend, file.box, file.pixel_size, limit=limit, premultiplied=bool(file.attributes["ctf_premultiplied"]),
            aberrations=file.aberrations(), space=config.space, interpolation=interpolation_for(file.box, config.padding),
            on_cpu=self._share_of_host(), level=config.normalise == OFF, **device,
        )
        self._scored_shells(backend)
        return backend, self._make_mask()

    @property
    def threads(self) -> int:
        """Threads of this rank."""
        return default_threads(self._neighbours) if self.config.threads is None else self.config.threads

    @property
    def memory(self) -> int:
        """Bytes that this rank may keep images in."""
        return default_memory(self._neighbours) if self.config.memory is None else self.config.memory

    @property
    def used(self) -> dict:
        """What was used where an option left it to the program, by the option's name."""
        file, config, plane = self.file, self.config, self.engine.backend.plane
        side, lowest = file.box * file.pixel_size, min(_LOWEST_SCORE_SHELL, plane.shells - 1)
        return {
            "padding": interpolation_for(file.box, config.padding)["padding"], "threads": self.threads, "memory": self.memory,
            "mask": self.mask_text, "max_resolution": config.max_resolution or 2 * file.pixel_size,
            "score_resolution": config.score_resolution or [side / lowest, side / (plane.shells - 1)],
            "solve_iterations": self.solver.final_steps() if config.solve_iterations is None else config.solve_iterations,
            "backend": self.engine.backend.name, "transport": self.transport, "folds": config.scoring_folds,
        }  # fmt: skip

    def _share_of_host(self) -> dict:
        """How this rank uses its host's cores and memory."""
        config = self.config
        return {
            "half_precision": config.half_precision,
            "threads": self.threads,
            "memory": self.memory,
        }  # fmt: skip

    @property
    def masked_by_user(self) -> bool:
        return self.config.masked_by_file or self.config.diameter is not None

    @property
    def mask_text(self) -> str:
        """The mask that particles are scored in, in words."""
        config, file = self.config, self.file
        if config.masked_by_file:
            return Path(config.mask).name
        edge = min(_MASK_EDGE, file.box / 8)
        diameter = config.diameter or 2 * (file.box / 2 - edge) * file.pixel_size
        largest = "" if config.diameter else ", the largest that the box holds,"
        return f"sphere of {diameter:.4g} Å{largest} with a soft edge of {edge:.3g} pixels"

    def _make_mask(self) -> np.ndarray:
        """The user's mask, or a soft sphere: of the given diameter, or as large as the box allows."""
        file, config = self.file, self.config
        if config.masked_by_file:
            mask = read_map(config.mask)
            if mask.box != file.box or abs(mask.pixel_size / file.pixel_size - 1) > 1e-3:
                todo = "make a mask of that size"
                if mask.box == file.box:
                    todo = (
                        "its box is right, so perhaps only the pixel size in its header is wrong: relion_image_handler "
                        f"--i {config.mask} --o mask_right.mrc --force_header_angpix {file.pixel_size:g} sets it"
                    )
                raise UserError(
                    f"{config.mask}: the mask has box {mask.box} and, in its header, pixels of {mask.pixel_size:g} Å; "
                    f"{file.path} has box {file.box} and pixels of {file.pixel_size:g} Å; {todo}"
                )
            array = np.asarray(mask.array, np.float32)
            if array.min() < -1e-3 or array.max() > 1 + 1e-3 or array.max() <= 0:
                raise UserError(f"{config.mask}: mask values run from {array.min():g} to {array.max():g}; expected 0 … 1")
            return array
        edge = min(_MASK_EDGE, file.box / 8)
        largest = file.box / 2 - edge
        radius = largest if config.diameter is None else config.diameter / 2 / file.pixel_size
        if not 0 < radius <= largest + 1e-6:
            raise UserError(f"--diameter {config.diameter:g} Å: with its soft edge the mask must fit the box; "
                            f"at most {2 * largest * file.pixel_size:.4g} Å")
        return soft_sphere(file.box, radius, edge)

    def bands(self, high_pass: float | None = None) -> Bands:
        """The bands that particles are scored in; of those shells alone that are finer than `high_pass`, Å, if given."""
        lowest, highest = self._scored_shells(self.engine.backend)
        if high_pass is not None:
            lowest = min(max(lowest, int(np.ceil(self.file.box * self.file.pixel_size / high_pass))), highest)
        return self.engine.backend.bands(self.engine.noise_power, lowest, highest, self.distance.whitened)

    def _agree_on_mask(self, mask: np.ndarray) -> None:
        """A mask file that is replaced while the ranks read it must not cut each one's maps in its own way. Collective."""
        if self.config.masked_by_file and len(set(self.comm.allgather(digest_of(mask)))) > 1:
            raise UserError(f"{self.config.mask} is not the same mask on all ranks: it was replaced while they read it, or the hosts' "
                            "copies differ; start again when nothing writes to it")

    def _scored_shells(self, backend) -> tuple[int, int]:
        """(lowest, highest) Fourier shell that particles are scored on."""
        file, last = self.file, backend.plane.shells - 1
        lowest, highest = min(_LOWEST_SCORE_SHELL, last), last
        if self.config.score_resolution is not None:
            coarse, fine = (file.box * file.pixel_size / r for r in self.config.score_resolution)
            lowest, highest = max(1, int(np.ceil(coarse))), min(highest, int(np.floor(fine)))
            if lowest > highest:
                raise UserError("--score-band holds no Fourier shell of this box; widen it")
        return lowest, highest

    def _group_numbers(self) -> np.ndarray | None:
        """Number of each of this rank's particles' group (--group-by), (m,) int64; read by rank 0 for all. Sets folds.

        Rows of a group are in one fold: what shows one particle would judge itself by the others' map. So are rows that
        the import found to show one particle, whatever is asked for.
        """
        column = self.config.group_by
        if column is None and self.file.extra("family", 0, 0) is None:
            return None
        numbers = np.empty((2, len(self.file)), np.int64)
        with together(self.comm):
            if self.comm.rank == 0:
                names = None if column is None else self.file.source_column(column).astype(str)
                numbers[:] = groups_and_families(len(self.file), names, self.file.extra("family"))
        groups, joint = self.comm.bcast_array(numbers)[:, self.slab.start : self.slab.stop]
        if (count := 1 + int(numbers[1].max())) < len(self.file) or column is not None:
            self.slab.fold = self._folds_of_groups(joint, count)[joint]
        return None if column is None else groups

    def _folds_of_groups(self, groups: np.ndarray, count: int) -> np.ndarray:
        """Fold of each group, (count,) int64, the same on all ranks."""
        column, folds = self.config.group_by, self.config.scoring_folds
        first, last = np.full(count, 3), np.zeros(count, np.int64)
        present = self.slab.present
        np.minimum.at(first, groups[present], self.slab.metadata.half[present])
        np.maximum.at(last, groups[present], self.slab.metadata.half[present])
        self.comm.allreduce(first, "min")
        self.comm.allreduce(last, "max")
        first = np.where(last > 0, first, 0)  # of whom nobody takes part
        what, where = ("particles", str(self.file.path)) if column is None else ("groups", f"--group-by {column}")
        if mixed := int((first != last).sum()):
            remedy = "--new-halves" if column is None else f"--family {column} --new-halves"
            if self.file.has_duplicates:
                remedy += ", or without --duplicate-rate: duplicates were planted on purpose"
            self.parted = (f"{where}: {mixed} of {count} {what} have rows in both half sets, which judge each other so: their FSC is "
                           f"too good. Import again with {remedy}")
            self.console.warn(self.parted)  # at once, for the run may be long, and in the report
        for half, of_half in ((1, first), (2, last)):
            if (some := int((of_half == half).sum())) < folds:
                raise UserError(f"{where}: half set {half} has {some} {what}, fewer than --folds {folds}; each fold is "
                                f"scored against the map of the others. Use --folds {max(some, 1)} or fewer")
        return folds_of_groups(first, folds)

    def _checked_weights(self, weights: np.ndarray) -> np.ndarray:
        """This rank's of the starting weights of all particles."""
        weights = np.asarray(weights, np.float64)
        if weights.shape != (len(self.file),):
            raise UserError(f"starting weights have the shape {weights.shape}, expected ({len(self.file)},): one for each particle "
                            f"of {self.file.path}")
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise UserError("starting weights must be finite and not negative, and not all 0")
        return weights[self.slab.start : self.slab.stop]

    def _check_halves(self) -> None:
        counts = np.array([(self.slab.present & (self.slab.metadata.half == h)).sum() for h in (1, 2)], np.int64)
        self.comm.allreduce(counts)
        for half, count in zip((1, 2), counts):
            if count == 0:
                raise UserError(
                    f"{self.file.path}: half set {half} is empty ({int(counts.sum())} particles in all); both half maps "
                    "need particles. Import again with --new-halves, which draws half sets anew, or add particles"
                )
            if count < self.config.scoring_folds:
                raise UserError(
                    f"{self.file.path}: half set {half} has {count} particles, fewer than --folds {self.config.folds}; each fold is "
                    f"scored against the map of the others. Use --folds {max(int(counts.min()), 1)} or fewer, or --loss l2"
                )


def _given_weights(comm: Communicator, file: ParticleFile, config: Config, weights) -> GivenWeights | None:
    """The weights that the particles were given, the same on all ranks; None without. Rank 0 reads them. Collective."""
    found = None
    with together(comm):
        if comm.rank == 0 and (weights is not None or config.weights is not None):
            found = read_weights(file, config.weights) if weights is None else given_array(weights, file)
    if (source := comm.bcast(None if found is None else found.source)) is None:
        return None
    return GivenWeights(source, comm.bcast_array(np.empty(len(file)) if found is None else found.values))


def describe(mixture: PoseMixture) -> dict:
    """The mixture's numbers, for records and summaries."""
    return {
        "keep": mixture.keep_, "keep_interval": mixture.keep_interval_, "shares": mixture.shares_.tolist(),
        "separation": mixture.separation_, "separable": bool(mixture.separable_), "gain": mixture.gain_.tolist(), "filter": mixture.filter_,
        "contrast_cv": mixture.contrast_cv_, "n_iter": mixture.n_iter_, "slight": float(mixture.shares_[SLIGHT:].sum()),
    }  # fmt: skip


def _slight(selection: Selection) -> float:
    """Share of the particles whose poses are slightly wrong."""
    return float(selection.mixture_.shares_[SLIGHT:].sum())
