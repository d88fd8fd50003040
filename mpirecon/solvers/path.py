"""``path``: maps of nested selections beside random discards of the same sizes and the same path on noise;
into a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpirecon.errors import UserError
from mpirecon.io.checkpoint import Checkpoint, write_checkpoint
from mpirecon.io.run_kinds import CHECKPOINT as NAME
from mpirecon.io.run_kinds import PATH
from mpirecon.io.run_log import ON_NOISE
from mpirecon.operators.background import Background
from mpirecon.parallel.comm import Communicator, together
from mpirecon.parallel.stopping import StopRequested
from mpirecon.robust.nested import FEWEST, SCHEDULES
from mpirecon.solvers.attended import attended, summary_of_complete
from mpirecon.solvers.config import Config
from mpirecon.solvers.endurance import Endurance
from mpirecon.solvers.main import about_run
from mpirecon.solvers.normalise import OFF
from mpirecon.solvers.path_checkpoint import path_identity, restored_walk, walk_arrays
from mpirecon.solvers.path_results import write_path
from mpirecon.solvers.place import open_run
from mpirecon.solvers.resume import check_identity
from mpirecon.solvers.path_options import PathOptions
from mpirecon.solvers.walk import Walk, Walked
from mpirecon.validate.fsc import fsc
from mpirecon.validate.masks import independent_share
from mpirecon.validate.nested import PathVerdict, assess, measured
from mpirecon.validate.null import NoiseFile
from mpirecon.validate.null import assess as assess_null
from mpirecon.validate.path_resolution import FittedResolutions, fit_resolutions

#: relative difference of two powers of one image: of the file that was walked before, and of the one that is walked on
_SAME_POWER = 1e-4


def run_path(
    comm: Communicator, particles: Path, output: Path, config: Config, options: PathOptions, console, *,
    overwrite: bool,
    resume: bool = False, endurance: Endurance = Endurance(), began: float | None = None,
    weights: np.ndarray | None = None,
    reading: Mapping | None = None,
) -> dict:
    """Walk a path on the ranks of `comm` and write its files; with `resume` from the last step that is done.

    particles : a particle file, or a table of RELION or cryoSPARC, whose stacks the path's own particle file then
        refers to
    weights : (m,) float, in place of those that `config` names; rank 0's are taken
    reading : how a table is read, fields of ImportOptions

    Returns the summary on rank 0, an empty dict elsewhere. Raises, on all ranks alike, UserError for what a user can
    mend and StopRequested after a signal to stop.
    """
    start = time.time() if began is None else began
    path = None

    def state() -> str:
        return "" if path is None else path.state

    with open_run(comm, particles, output, PATH, config, console, reading, overwrite=overwrite,
                  resume=resume) as (file, place):
        if place.complete:
            return summary_of_complete(comm, console, place)
        with attended(comm, endurance, "none", state) as (log, stop, watchdog):
            walk = Walk(comm, file, config, options, log, console, start, stop, weights)
            console.say(_opening(walk))
            place.begin(log)
            if place.complete:
                return summary_of_complete(comm, console, place)
            watchdog.share(place.logs / ".pulse")
            path = _Path(walk, place.path, endurance.kept)
            path.go(place.resumes)
            steps, random, verdict = path.assessed()
            summary = write_path(walk, place.staging, about_run(start), steps, random, verdict, path.null, place.path)
            log.event("finished", seconds=time.time() - start)
        place.commit()
    _conclude(console, place.path, summary)
    return summary


def _opening(walk: Walk) -> str:
    file, config, options = walk.file, walk.run.config, walk.options
    shares = ", ".join(f"{100 * fraction:.3g}" for fraction in walk.fractions)
    few = "" if len(walk.fractions) == len(options.fractions) else (
        f"; smaller ones would leave fewer than {FEWEST} particles to a half map")
    first = "" if options.rescores else f", loss {config.loss}" + (f" (keep {config.keep})" if config.keep else "")
    return (f"{file.path}: {len(file)} particles, box {file.box}, {file.pixel_size:g} Å/px; path {options.schedule} "
            f"({SCHEDULES[options.schedule]}{first}) over {shares} % of them, {options.random_draws} random discard"
            f"{'s' * (options.random_draws > 1)} of each size{few}")


def _conclude(console, folder: Path, summary: dict) -> None:
    if not summary:
        return
    console.say(summary["verdict"]["sentence"])
    if summary["null"]:
        console.say(summary["null"]["sentence"])
    for text in summary["warnings"]:
        console.warn(text)
    console.say(f"wrote {folder}, maps and particles those of the best step: {PATH.left_in(folder)}")


class _Path:
    """The work of a path, item by item, and what a checkpoint keeps of it.

    steps, random : records of the selections and of the random discards
    null : what the same path made of noise, or None
    """

    def __init__(self, walk: Walk, folder: Path, kept: bool = True) -> None:
        self.walk, self.folder, self.options, self._kept = walk, folder, walk.options, kept
        self.comm, self.file, self.console = walk.comm, walk.file, walk.console
        self.steps: list[dict] = []
        self.random: list[dict] = []
        self.noise = Walked()
        self.null: dict | None = None
        self.saved = False
        self._power: np.ndarray | None = None  # of this rank's images when the path began, where it is resumed
        self._whole: np.ndarray | None = None  # transform of all particles' mean map, on rank 0
        self._identity: dict = {}

    @property
    def total(self) -> int:
        count = len(self.walk.fractions)
        return count * (1 + self.options.null) + (count - 1) * self.options.random_draws

    @property
    def done(self) -> int:
        return len(self.steps) + len(self.random) + len(self.noise.steps)

    @property
    def state(self) -> str:
        """Where the path's state is, and how to resume from there; "" before anything was saved."""
        if not self.saved:
            return ""
        return (f"the state after step {self.done}/{self.total} is in {self.folder / NAME}; continue with the same "
                f"command and --resume")

    def assessed(self) -> tuple[list[dict], list[dict], PathVerdict]:
        """Steps and random discards with their resolutions from all curves together, and where the path pays.
        Collective."""
        found = None
        with together(self.comm), self.walk.engine.timings("postprocess"):
            if self.comm.rank == 0:
                fitted = self._fitted()
                steps, random = fitted.added_to(self.steps, self.random)
                found = steps, random, assess(steps, random, 2 * self.file.pixel_size, fitted)
        return self.comm.bcast(found)

    def _fitted(self) -> FittedResolutions:
        last, share = self.walk.engine.backend.plane.shells - 1, independent_share(self.walk.mask)
        return fit_resolutions(self.steps, self.random, self.file.box, self.file.pixel_size, last, share)

    def go(self, resume: bool) -> None:
        """Do what is not done yet. Collective."""
        self._identity = path_identity(self.walk)
        walked = self._load() if resume else None
        self.walk.prepare(walked)
        if walked is not None:
            self._refuse_changed_images()
        fractions = self.walk.fractions
        for number in range(len(self.steps), len(fractions)):
            self._take(self.steps, fractions[number], self.walk.step(number), self.walk.kept(fractions[number]))
            self._say_step()
            self._save()
        lots = [(draw, fraction) for draw in range(self.options.random_draws) for fraction in fractions[1:]]
        for draw, fraction in lots[len(self.random) :]:
            self._take(self.random, fraction, *self.walk.at_random(fraction, draw), draw=draw)
            self._save()
        self._say_random()
        self.null = self._walk_noise() if self.options.null else None

    # one item

    def _take(self, records: list[dict], fraction: float, halves, kept: np.ndarray | None, **more) -> None:
        """Add the record of half maps and of the particles in them, which rank 0 has, on all ranks."""
        record = None
        with together(self.comm), self.walk.engine.timings("postprocess"):
            if self.comm.rank == 0:
                last = self.walk.engine.backend.plane.shells - 1
                if self._whole is None:
                    self.walk.look_for_mask(halves)
                record, mean = measured(halves, self.walk.mask, self.file.pixel_size, last, self._whole)
                record["particles"] = int(kept.sum())
                if self._whole is None:
                    self._whole = mean
        record = self.comm.bcast(record)
        counted = self._count(fraction) if records is self.steps else {}
        records.append({"fraction": fraction, **more, **record, **counted})
        self.walk.log.event("path", **{k: v for k, v in records[-1].items() if not isinstance(v, list)})

    def _count(self, fraction: float) -> dict:
        """What is known of those that a selection kept: simulated errors, and whether those left out show the map."""
        found = {}
        with together(self.comm):
            if self.comm.rank == 0:
                found = self.walk.about(fraction)
        return self.comm.bcast(found)

    def _say_step(self) -> None:
        r = self.steps[-1]
        at = f"{r['resolution_0143']:.2f} Å" if r["resolution_0143"] else "Nyquist"
        wrong = (
            f", {100 * r['wrong_share']:.1f} % of them simulated as wrong" if r.get("wrong_share") is not None else ""
        )
        self.console.say(f"{100 * r['fraction']:.3g} % ({r['particles']} particles{wrong}): FSC 0.143 at {at}, mean "
                         f"FSC {r['mean_fsc']:.4f}")

    def _say_random(self) -> None:
        texts = [
            f"{100 * r['fraction']:.3g} %: " + (f"{r['resolution_0143']:.2f} Å" if r["resolution_0143"] else "Nyquist")
            for r in self.random
            if r["draw"] == 0
        ]
        self.console.say(f"at random: {', '.join(texts)}")

    # the same on noise

    def _walk_noise(self) -> dict:
        """The path on pure noise of the same spectra, poses and CTFs: its half maps must agree in no selection."""
        walk = self.walk
        self.console.say("the same path on pure noise:")
        walk.engine.store.make_room()
        background = None if walk.run.config.normalise == OFF else Background(self.file.box)
        noise = NoiseFile(self.file, walk.run.config.seed, background)
        given = None if walk.run.given is None else walk.run.given.values
        again = Walk(self.comm, noise, walk.run.config, self.options, walk.log.part(ON_NOISE), self.console,
                     stop=walk.engine.pace.stop, weights=given,
                     mask=walk.mask)
        again.prepare(self.noise if self.noise.steps else None)
        self.noise = again.walked
        for number in range(len(self.noise.steps), len(again.fractions)):
            halves = again.step(number)
            record = None
            with together(self.comm):
                if self.comm.rank == 0:
                    record = self._assessed(again, halves)
            self.noise.steps.append({"fraction": again.fractions[number], **self.comm.bcast(record)})
            self._save()
        worst = max(self.noise.steps, key=lambda step: step["mean_fsc"] / step["limit"])
        passed = worst["mean_fsc"] <= worst["limit"]
        found = (f"on pure noise the mean half-map FSC beyond shell {worst['first_shell'] - 1} is at most "
                 f"{worst['mean_fsc']:+.4f} (at {100 * worst['fraction']:.3g} %)").replace("+-", "−")
        sentence = (f"{found}, within +{worst['limit']:.3g}: selecting like this makes no resolution" if passed else
                    f"{found}, beyond +{worst['limit']:.3g}: selecting like this makes resolution out of nothing")
        return {"steps": self.noise.steps, "passed": passed, "sentence": sentence[0].upper() + sentence[1:] + "."}

    def _assessed(self, walk: Walk, halves) -> dict:
        mask = walk.mask
        curve = fsc(*halves, mask)
        verdict = assess_null(curve, fsc(*halves), self.file.box, independent_share(mask),
                             walk.engine.backend.plane.shells - 1)
        return {"mean_fsc": verdict.mean, "limit": verdict.limit, "chance": verdict.chance,
                "first_shell": verdict.first, "fsc": curve.tolist()}

    # what is kept of it

    def _write_state(self) -> None:
        """Write what is done, for a run that resumes it. Collective."""
        whole = self.comm.gather_slabs(np.ascontiguousarray(self.walk.run.state.survey.power), len(self.file))
        with together(self.comm), self.walk.engine.timings("checkpoint"):
            if self.comm.rank == 0:
                facts = {**self._identity, "iteration": self.done, "rounds": self.total, "steps": self.steps,
                         "random": self.random,
                         "noise": self.noise.steps, "mask_text": self.walk.mask_text,
                         "unexplained": self.walk.walked.unexplained, "noise_unexplained": self.noise.unexplained}
                arrays = {"power": whole, "whole": self._whole, **self.walk.own_mask,
                          **walk_arrays("", self.walk.walked), **walk_arrays("noise_", self.noise)}
                write_checkpoint(self.folder / NAME, facts, arrays)

    def _save(self) -> None:
        """Write what is done; raises StopRequested, on all ranks,
        if one of them received a signal to stop. Collective."""
        signal = next((name for name in self.comm.allgather(self.walk.engine.pace.stop.received) if name), None)
        if self._kept:
            self._write_state()
        self.saved = self._kept
        if signal:
            raise StopRequested(signal)

    def _load(self) -> Walked:
        """What was walked, from the folder; raises UserError where that was another path. Collective."""
        walked = Walked()
        with together(self.comm):
            with Checkpoint(self.folder / NAME) as checkpoint:
                facts = checkpoint.facts
                check_identity(self.walk.run, self._identity, checkpoint)
                self.steps, self.random = facts["steps"], facts["random"]
                self._power = checkpoint.rows("power", self.walk.run.slab.start, self.walk.run.slab.stop)
                if self.comm.rank == 0:
                    self._whole = checkpoint.array("whole")
                    if "mask" in checkpoint:
                        self.walk.measure_in(checkpoint.array("mask"), facts["mask_text"])
                    walked, self.noise = restored_walk("", checkpoint), restored_walk("noise_", checkpoint)
                self.noise.steps = facts["noise"]
                walked.unexplained, self.noise.unexplained = facts["unexplained"], facts["noise_unexplained"]
        self.saved = True
        self.console.say(f"resuming after step {self.done} of {self.total}")
        return walked

    def _refuse_changed_images(self) -> None:
        """UserError where images have another power than when the path began. Collective."""
        run = self.walk.run
        with together(self.comm):
            valid = run.slab.valid & (self._power > 0)
            changed = run.slab.ids[valid & ~np.isclose(run.state.survey.power, self._power, rtol=_SAME_POWER, atol=0)]
            if len(changed):
                raise UserError(f"{self.folder / NAME} was made from other particles than {self.file.path}: "
                                f"{len(changed)} images differ, the first of particle {changed[0]}; resume with the "
                                "same particle file, or start a new run with --overwrite")
